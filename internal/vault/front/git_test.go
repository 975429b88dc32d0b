package front

import (
	"bytes"
	"encoding/base64"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"terok/internal/sandbox"
)

// newGitHost is a rig whose upstream is the git server of a forge, beside its API.
func newGitHost(t *testing.T) (*rig, *atomic.Int64) {
	var asked atomic.Int64
	r := newRig(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		want := "Basic " + base64.StdEncoding.EncodeToString([]byte("oauth2:"+realKey))
		if strings.HasPrefix(r.URL.Path, "/api/") {
			want = ""
		}
		if got := r.Header.Get("Authorization"); got != want || (r.Header.Get("Private-Token") == "") != (want != "") {
			t.Errorf("%s %s came with %q and %q", r.Method, r.URL, got, r.Header.Get("Private-Token"))
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
		w.Write(body)
	}, func(c *Config, _ *httptest.Server) {
		grant := &c.Grants[0].Grant
		grant.Provider, grant.Forge, grant.Repos = sandbox.GitLab, sandbox.GitLab, []string{"acme/shop"}
		grant.Auth = map[string]sandbox.Auth{sandbox.APIKey: {Header: "PRIVATE-TOKEN"}}
		grant.Routes[0].Git = &sandbox.GitHost{User: "oauth2"}
		grant.Routes[0].Default = "deny"
		grant.Routes[0].Policy = []string{"allow GET /**/info/refs", "allow POST /**/git-upload-pack", "allow POST /acme/shop.git/git-receive-pack", "allow /api/**"}
		c.Limits.Body = 1 << 20
	})
	return r, &asked
}

// TestGitHost: git's three requests pass with the phantom as password of HTTP Basic, packs unread and
// byte for byte; the credential goes out in its place; a push goes to the project's repository only, and
// nothing that merely looks like git's gets around what is judged otherwise.
func TestGitHost(t *testing.T) {
	r, asked := newGitHost(t)
	pack := strings.Repeat("PACK\x00\x01\"token\":\"x\"\xff", 1000)
	const fetch, push = "application/x-git-upload-pack-request", "application/x-git-receive-pack-request"
	for _, c := range []struct {
		method, path, kind, body string
		status                   int
	}{
		{"GET", "/acme/shop.git/info/refs?service=git-receive-pack", "", "", 200},
		{"GET", "/acme/other.git/info/refs?service=git-upload-pack", "", "", 200},
		{"POST", "/acme/other.git/git-upload-pack", fetch, pack, 200},
		{"POST", "/acme/shop.git/git-receive-pack", push, pack, 200},
		{"GET", "/api/v4/user", "", "", 200},
		{"POST", "/acme/other.git/git-receive-pack", push, pack, 403},
		{"POST", "/acme/shop.git/../other.git/git-receive-pack", push, pack, 400},
		{"POST", "/acme%2Fshop.git/git-receive-pack", push, pack, 403},
		{"POST", "/acme/shop.git/git-receive-pack", "application/json", "{}", 415},
		{"POST", "/acme/shop.git/git-receive-pack", fetch, pack, 415},
		{"POST", "/acme/shop.git/git-receive-pack?x=1", push, pack, 415},
		{"POST", "/acme/shop.git/git-receive-pack", push, strings.Repeat("x", 1<<20+1), 413},
		// An address of the API stays one: confined, and its body read.
		{"POST", "/api/v4/projects/acme%2Fother/git-receive-pack", push, pack, 403},
		{"POST", "/api/v4/projects/acme%2Fshop/repository/files/git-upload-pack", fetch, pack, 415},
		{"POST", "/api/v4/groups/acme/git-receive-pack", push, pack, 403},
		{"POST", "/Api/v4/groups/acme/git-upload-pack", fetch, pack, 403},
		{"GET", "/acme/shop/-/raw/main/x", "", "", 403},
		{"POST", "/acme/shop.git/info/lfs/objects/batch", "application/json", "{}", 403},
	} {
		before := asked.Load()
		req := r.request(c.method, c.path, "")
		if c.body != "" {
			req.Body, req.ContentLength = io.NopCloser(strings.NewReader(c.body)), int64(len(c.body))
			req.Header.Set("Content-Type", c.kind)
		}
		req.Header.Del("X-Api-Key")
		req.Header.Del("Authorization")
		req.SetBasicAuth("oauth2", r.phantom)
		resp, body := r.do(req)
		if resp.StatusCode != c.status || (asked.Load() != before) != (c.status == 200) {
			t.Errorf("%s %s %s: %d, want %d: %.200s", c.method, c.path, c.kind, resp.StatusCode, c.status, body)
		}
		if c.status == 200 && !bytes.Equal([]byte(body), []byte(c.body)) {
			t.Errorf("%s %s: %d bytes came back, %d were sent", c.method, c.path, len(body), len(c.body))
		}
	}
}

// TestGitHostAsksForTheLogin: git sends no password unasked, so the first request is answered as a git
// server would; everything else keeps its own answer.
func TestGitHostAsksForTheLogin(t *testing.T) {
	r, asked := newGitHost(t)
	for path, want := range map[string]string{"/acme/shop.git/info/refs?service=git-upload-pack": `Basic realm="terok"`, "/api/v4/user": ""} {
		req := r.request("GET", path, "")
		req.Header.Del("X-Api-Key")
		req.Header.Del("Authorization")
		resp, _ := r.do(req)
		if got := resp.Header.Get("WWW-Authenticate"); resp.StatusCode != 401 || got != want {
			t.Errorf("%s: %d, %q", path, resp.StatusCode, got)
		}
		req.SetBasicAuth("me", "glpat-somebody-elses-0123456789")
		if resp, _ := r.do(req); resp.StatusCode != 403 {
			t.Errorf("somebody else's token at %s: %d", path, resp.StatusCode)
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("%d requests went out", n)
	}
}
