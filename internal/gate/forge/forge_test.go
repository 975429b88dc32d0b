package forge

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"terok/internal/problem"
)

func TestParse(t *testing.T) {
	for upstream, want := range map[string]Repo{
		"https://github.com/ada/shop.git":          {GitHub, "github.com", "ada/shop"},
		"git@github.com:ada/shop.git":              {GitHub, "github.com", "ada/shop"},
		"ssh://git@gitlab.com:22/a/b/c.git":        {GitLab, "gitlab.com", "a/b/c"},
		"https://codeberg.org/ada/shop":            {Gitea, "codeberg.org", "ada/shop"},
		"https://gitlab.example.test:8443/a/b.git": {GitLab, "gitlab.example.test:8443", "a/b"},
		"git@bitbucket.org:ada/shop.git":           {Bitbucket, "bitbucket.org", "ada/shop"},
	} {
		if got, err := Parse(upstream, ""); err != nil || got != want {
			t.Errorf("%s: %+v %v", upstream, got, err)
		}
	}
	for _, upstream := range []string{"/srv/git/shop", "https://example.test/a/b", "https://github.com/a", "https://github.com/a/b/c", "https://github.com/a/../b", "", "github.com"} {
		if r, err := Parse(upstream, ""); !problem.Is(err, "no_forge") {
			t.Errorf("%q: %+v %v", upstream, r, err)
		}
	}
	if r, err := Parse("https://git.example.test/a/b", Bitbucket); !problem.Is(err, "no_forge") {
		t.Error(r, err) // its own servers speak another API
	}
	if r, err := Parse("https://git.example.test/a/b", Gitea); err != nil || r.Kind != Gitea {
		t.Error(r, err)
	}
}

// TestOpen speaks to a stub of each forge: the call, the token's place, and what the answers mean.
func TestOpen(t *testing.T) {
	review := Review{Branch: "fix/checkout", Into: "main", Title: "Fix", Body: "words"}
	for kind, want := range map[string]struct{ path, header, value, branch string }{
		GitHub:    {"/repos/ada/shop/pulls", "Authorization", "Bearer s3cret", "head"},
		GitLab:    {"/projects/ada%2Fshop/merge_requests", "Private-Token", "s3cret", "source_branch"},
		Gitea:     {"/repos/ada/shop/pulls", "Authorization", "token s3cret", "head"},
		Bitbucket: {"/2.0/repositories/ada/shop/pullrequests", "Authorization", "Bearer s3cret", "source"},
	} {
		status, answer := http.StatusCreated, `{"html_url":"https://forge.test/1"}`
		if kind == GitLab {
			answer = `{"web_url":"https://forge.test/1"}`
		}
		if kind == Bitbucket {
			answer = `{"links":{"html":{"href":"https://forge.test/1"}}}`
		}
		leaked := false
		other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { leaked = true }))
		defer other.Close()
		stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			var sent map[string]any
			named := json.Unmarshal(body, &sent) == nil && sent[want.branch] == "fix/checkout"
			if kind == Bitbucket {
				named = strings.Contains(string(body), `"source":{"branch":{"name":"fix/checkout"}}`) && strings.Contains(string(body), `"destination":{"branch":{"name":"main"}}`)
			}
			if r.URL.EscapedPath() != want.path || r.Header.Get(want.header) != want.value || !named {
				t.Errorf("%s: %s %v %s", kind, r.URL.EscapedPath(), r.Header, body)
			}
			w.Header().Set("Location", other.URL)
			w.WriteHeader(status)
			_, _ = io.WriteString(w, answer)
		}))
		defer stub.Close()
		repo := Repo{kind, "forge.test", "ada/shop"}
		c := &Client{API: stub.URL}
		if page, err := c.Open(t.Context(), repo, review, "s3cret"); err != nil || page != "https://forge.test/1" {
			t.Errorf("%s: %q %v", kind, page, err)
		}
		status, answer = http.StatusConflict, `{"message":"exists"}`
		if page, err := c.Open(t.Context(), repo, review, "s3cret"); err != nil || page != repo.CompareURL(review) {
			t.Errorf("%s, open already: %q %v", kind, page, err)
		}
		status, answer = http.StatusUnauthorized, `{"message":"bad \u001b[31m credentials"}`
		if _, err := c.Open(t.Context(), repo, review, "s3cret"); !problem.Is(err, "forge_refused") || strings.ContainsAny(err.Error(), "\x1b") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s, refused: %v", kind, err)
		}
		status = http.StatusTemporaryRedirect
		if _, err := c.Open(t.Context(), repo, review, "s3cret"); !problem.Is(err, "forge_failed") || leaked {
			t.Errorf("%s, redirected: %v, leaked %v", kind, err, leaked)
		}
		status, answer = http.StatusCreated, `{"html_url":"javascript:alert(1)","web_url":""}`
		if page, err := c.Open(t.Context(), repo, review, "s3cret"); err != nil || page != repo.CompareURL(review) {
			t.Errorf("%s, no page: %q %v", kind, page, err)
		}
	}
}

// FuzzOutcome: whatever a forge answers, a printable page or a printable error comes out.
func FuzzOutcome(f *testing.F) {
	f.Add(201, []byte(`{"html_url":"https://x/1"}`))
	f.Add(422, []byte(`{"message":"Validation Failed","errors":[{"message":"A pull request already exists"}]}`))
	f.Add(500, []byte("\x1b]52;c;x\x07"))
	f.Fuzz(func(t *testing.T, status int, answer []byte) {
		page, err := outcome(Repo{GitHub, "github.com", "a/b"}, Review{Branch: "x", Into: "main"}, status, answer)
		s := page
		if err != nil {
			s = err.Error()
		}
		if s == "" || strings.ContainsFunc(s, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
			t.Errorf("%q", s)
		}
	})
}

// TestCommandIsQuoted: a command that a person copies runs nothing of an agent's.
func TestCommandIsQuoted(t *testing.T) {
	for _, kind := range []string{GitHub, GitLab, Gitea} { // at Bitbucket everything is in one address
		r := Repo{Kind: kind, Host: "example.test", Path: "ada/webshop"}
		got := r.Command(Review{Branch: "x;reboot$(id)", Into: "ma'in"})
		if !strings.Contains(got, ` 'x;reboot$(id)' `) || !strings.HasSuffix(got, ` 'ma'\''in'`) {
			t.Errorf("%s: %s", kind, got)
		}
	}
}
