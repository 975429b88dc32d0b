package server

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/git"
)

const token = "terok-g-0123456789"

// served is a task with its server and a clone as the container has it.
type served struct {
	*gatetest.World
	task store.Task
	url  string // with the token
	bare string // without
	work string // the clone
}

func serve(t *testing.T, change ...func(*Config)) *served {
	t.Helper()
	t.Parallel()
	w := gatetest.New(t)
	return serveTask(t, w, w.Gate("k3v9p"), change...)
}

func serveTask(t *testing.T, w *gatetest.World, task store.Task, change ...func(*Config)) *served {
	t.Helper()
	c := Config{Git: &git.Runner{}, Repo: task.Repo, Base: task.Base, Token: token, Record: w.Ledger}
	for _, f := range change {
		f(&c)
	}
	srv := httptest.NewServer(New(c))
	t.Cleanup(srv.Close)
	s := &served{World: w, task: task, bare: srv.URL + Path}
	s.url = strings.Replace(s.bare, "http://", "http://x:"+token+"@", 1)
	s.work = filepath.Join(w.Dir, "work-"+filepath.Base(task.Repo))
	s.Git(w.Dir, "clone", "-q", s.url, s.work)
	return s
}

// commit makes a commit in the clone.
func (s *served) commit(path, content string) string {
	s.T.Helper()
	gatetest.WriteFile(s.T, s.work, path, content)
	return s.Commit(s.work, "change "+path)
}

func (s *served) ref(name string) string {
	s.T.Helper()
	out, _ := s.TryGit(s.task.Repo, "rev-parse", "--verify", "-q", name)
	return out
}

func (s *served) refused(err error, want string) {
	s.T.Helper()
	if err == nil || !strings.Contains(err.Error(), want) {
		s.T.Fatalf("push: want a refusal with %q, got %v", want, err)
	}
}

// spec/gate.md §20: 17 (protocol versions; sizes and encodings: TestLargePushStreams, TestGzip).
func TestCloneAndPush(t *testing.T) {
	s := serve(t)
	if got := s.Git(s.work, "symbolic-ref", "--short", "HEAD"); got != s.task.Branch {
		t.Errorf("clone checked out %s", got)
	}
	for _, protocol := range []string{"0", "1", "2"} {
		id := s.commit("a.txt", "version "+protocol)
		s.Git(s.work, "-c", "protocol.version="+protocol, "push", "-q", "origin", "HEAD")
		if got := s.ref("refs/heads/" + s.task.Branch); got != id {
			t.Fatalf("v%s: branch is %s, want %s", protocol, got, id)
		}
		out := s.Git(s.work, "-c", "protocol.version="+protocol, "ls-remote", "origin")
		if strings.Contains(out, "refs/terok") || !strings.Contains(out, id) {
			t.Errorf("v%s: advertised:\n%s", protocol, out)
		}
		dir := filepath.Join(s.Dir, "fetch"+protocol)
		s.Git(s.Dir, "-c", "protocol.version="+protocol, "clone", "-q", s.url, dir)
		if got := s.Git(dir, "rev-parse", "HEAD"); got != id {
			t.Errorf("v%s: cloned %s, want %s", protocol, got, id)
		}
	}
	if n := len(s.Ledger.Events("push_received")); n != 3 {
		t.Errorf("%d push_received events, want 3", n)
	}
	if out := s.Git(s.task.Repo, "for-each-ref", "refs/terok/backup"); out != "" {
		t.Errorf("fast-forwards left backups: %s", out)
	}
}

func TestShallowAndPartialClone(t *testing.T) {
	s := serve(t)
	for _, args := range [][]string{{"--depth=1"}, {"--filter=blob:none"}} {
		dir := filepath.Join(s.Dir, "clone"+args[0])
		s.Git(s.Dir, "clone", "-q", args[0], s.url, dir)
		s.Git(dir, "log", "-1")
	}
}

// spec/gate.md §20: 20, 21, 29.
func TestNamespaces(t *testing.T) {
	s := serve(t, func(c *Config) { c.Protected = []string{"main", "release/*"} })
	s.commit("a.txt", "x")
	s.Git(s.work, "tag", "v1")
	for ref, want := range map[string]string{
		"refs/tags/v1":                           "tags are not accepted",
		"refs/replace/" + s.task.Start:           "only refs/heads/* is accepted",
		"refs/notes/commits":                     "only refs/heads/* is accepted",
		"refs/meta/config":                       "only refs/heads/* is accepted",
		"refs/for/main":                          "only refs/heads/* is accepted",
		"refs/terok/backup/z":                    "only refs/heads/* is accepted",
		"refs/terok/start":                       "only refs/heads/* is accepted",
		"refs/upstream/heads/main":               "only refs/heads/* is accepted",
		"refs/heads/main":                        "protected branch",
		"refs/heads/MAIN":                        "protected branch",
		"refs/heads/release/1":                   "protected branch",
		"refs/heads/x\u202ey":                    "invalid branch name",
		"refs/heads/" + s.task.Start:             "looks like an object id",
		"refs/heads/Terok/k3v9p-brave-otter":     "differs only in letter case",
		"refs/heads/" + strings.Repeat("x", 201): "longer than 200",
	} {
		before := s.Git(s.task.Repo, "for-each-ref")
		_, err := s.TryGit(s.work, "push", "origin", "HEAD:"+ref)
		s.refused(err, "[remote rejected]")
		s.refused(err, "terok: ")
		s.refused(err, want)
		if after := s.Git(s.task.Repo, "for-each-ref"); after != before {
			t.Errorf("%s changed refs", ref)
		}
	}
	if n := len(s.Ledger.Events("push_refused")); n != 15 {
		t.Errorf("%d push_refused events, want 15", n)
	}
}

// spec/gate.md §20: 20 (a valid head beside refused refs, with and without --atomic).
func TestMixedPush(t *testing.T) {
	s := serve(t)
	id := s.commit("a.txt", "x")
	s.Git(s.work, "tag", "v1")
	_, err := s.TryGit(s.work, "push", "origin", "HEAD:refs/heads/good", "v1", "HEAD:refs/notes/n")
	s.refused(err, "tags are not accepted")
	if s.ref("refs/heads/good") != id {
		t.Error("the good branch of a mixed push did not land")
	}
	_, err = s.TryGit(s.work, "push", "--atomic", "origin", "HEAD:refs/heads/better", "v1")
	s.refused(err, "another ref of this atomic push was refused")
	if s.ref("refs/heads/better") != "" || s.ref("refs/tags/v1") != "" {
		t.Error("an atomic push landed in part")
	}
}

func TestDelete(t *testing.T) {
	s := serve(t)
	id := s.commit("a.txt", "x")
	s.Git(s.work, "push", "-q", "origin", "HEAD", "HEAD:refs/heads/extra")
	_, err := s.TryGit(s.work, "push", "origin", ":"+s.task.Branch)
	s.refused(err, "own branch cannot be deleted")
	s.Git(s.work, "push", "-q", "origin", ":extra")
	if s.ref("refs/heads/extra") != "" {
		t.Error("extra still there")
	}
	if out := s.Git(s.task.Repo, "for-each-ref", "--format=%(objectname)", "refs/terok/backup/extra"); out != id {
		t.Errorf("backup of the deleted branch: %q, want %s", out, id)
	}
}

func TestForcePushKeepsBackup(t *testing.T) {
	s := serve(t)
	old := s.commit("a.txt", "x")
	s.Git(s.work, "push", "-q", "origin", "HEAD")
	s.Git(s.work, "reset", "-q", "--hard", s.task.Start)
	id := s.commit("b.txt", "y")
	_, err := s.TryGit(s.work, "push", "origin", "HEAD")
	s.refused(err, "rejected") // the client's own refusal
	s.Git(s.work, "push", "-q", "--force", "origin", "HEAD")
	if s.ref("refs/heads/"+s.task.Branch) != id {
		t.Fatal("forced push did not land")
	}
	if out := s.Git(s.task.Repo, "for-each-ref", "--format=%(objectname)", "refs/terok/backup/"); out != old {
		t.Errorf("backups: %q, want %s", out, old)
	}
	events := s.Ledger.Events("push_received")
	if last := events[len(events)-1]; last.Detail["forced"] != "true" || last.Old != old || last.New != id {
		t.Errorf("event: %+v", last)
	}
}

// TestReplaceAttack: a replace ref that stands in the repository, however it came there, changes
// neither what is classified as forced nor the backup.
func TestReplaceAttack(t *testing.T) {
	s := serve(t)
	old := s.commit("a.txt", "x")
	s.Git(s.work, "push", "-q", "origin", "HEAD")
	s.Git(s.work, "reset", "-q", "--hard", s.task.Start)
	evil := s.commit("b.txt", "y")
	s.Git(s.work, "push", "-q", "origin", "HEAD:refs/heads/other")
	fake := s.Git(s.task.Repo, "commit-tree", "-p", old, "-m", "innocent", old+"^{tree}")
	s.Git(s.task.Repo, "update-ref", "refs/replace/"+evil, fake)
	s.Git(s.work, "push", "-q", "--force", "origin", evil+":refs/heads/"+s.task.Branch)
	if out := s.Git(s.task.Repo, "for-each-ref", "--format=%(objectname)", "refs/terok/backup/"); out != old {
		t.Errorf("backups: %q, want %s", out, old)
	}
}

func TestRepositoryPaths(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/other.git", "/task.git/../other.git", "/task.gitx", "/tasks/q1w2e.git", "/", "/task"} {
		if _, err := s.TryGit(s.work, "ls-remote", strings.Replace(s.url, Path, path, 1)); err == nil {
			t.Errorf("%s is served", path)
		}
		if _, err := s.TryGit(s.work, "push", strings.Replace(s.url, Path, path, 1), "HEAD:refs/heads/x"); err == nil {
			t.Errorf("%s takes pushes", path)
		}
	}
	for _, path := range []string{"/HEAD", "/objects/info/packs", "/config", "/info/refs", "/info/refs?service=git-upload-archive"} {
		req, _ := http.NewRequest("GET", s.bare+path, nil)
		req.SetBasicAuth("x", token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
}

// TestSiblingObjects: what another task pushed cannot be fetched by its id.
func TestSiblingObjects(t *testing.T) {
	a := serve(t)
	secret := a.commit("secret.txt", "sibling's")
	a.Git(a.work, "push", "-q", "origin", "HEAD")
	b := serveTask(t, a.World, a.Task("q1w2e"))
	for _, protocol := range []string{"0", "2"} {
		for _, what := range []string{secret, "refs/heads/" + a.task.Branch, "refs/terok/start"} {
			if _, err := b.TryGit(b.work, "-c", "protocol.version="+protocol, "fetch", "origin", what); err == nil {
				t.Errorf("v%s: %s could be fetched", protocol, what)
			}
		}
	}
	if _, err := b.TryGit(b.task.Base, "cat-file", "-e", secret); err == nil {
		t.Error("the base has the task's commit")
	}
}

func TestToken(t *testing.T) {
	now := time.Unix(1e9, 0)
	s := serve(t, func(c *Config) { c.Now = func() time.Time { return now } })
	get := func(user, password string) int {
		req, _ := http.NewRequest("GET", s.bare+"/info/refs?service=git-upload-pack", nil)
		if user+password != "" {
			req.SetBasicAuth(user, password)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode == 401 && resp.Header.Get("WWW-Authenticate") == "" {
			t.Error("401 does not ask")
		}
		return resp.StatusCode
	}
	for _, c := range []struct {
		user, password string
		want           int
	}{{"", "", 401}, {"x", token, 200}, {token, "", 200}, {"x", "wrong", 403}, {"x", token[:len(token)-1], 403}, {"x", "", 403}, {token + "x", "", 403}} {
		if got := get(c.user, c.password); got != c.want {
			t.Errorf("%q:%q: %d, want %d", c.user, c.password, got, c.want)
		}
	}
	if get("x", "again") != 403 || get("x", token) != 429 {
		t.Error("five wrong tokens did not close the gate")
	}
	now = now.Add(11 * time.Second)
	if get("x", token) != 200 {
		t.Error("the gate stayed closed")
	}
	if n := len(s.Ledger.Events("gate_auth_failed")); n != 5 {
		t.Errorf("%d gate_auth_failed events, want 5", n)
	}
}

func TestEmptyTokenRefusesAll(t *testing.T) {
	h := New(Config{Git: &git.Runner{}, Repo: "/nonexistent", Base: "/nonexistent"})
	for _, user := range []string{"", "x"} {
		req := httptest.NewRequest("GET", Path+"/info/refs?service=git-upload-pack", nil)
		req.SetBasicAuth(user, "")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code != 403 {
			t.Errorf("empty token let in: %d", w.Code)
		}
	}
}

// noise is content that no compression helps with.
func noise(n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(b)
	return string(b)
}

// TestLargePush: 20 MiB come chunked and pass in bounded memory.
func TestLargePush(t *testing.T) {
	w := gatetest.New(t)
	s := serveTask(t, w, w.Gate("k3v9p")) // alone: it counts what is allocated
	id := s.commit("big.bin", noise(20<<20))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	start := time.Now()
	s.Git(s.work, "push", "-q", "origin", "HEAD")
	took := time.Since(start)
	runtime.ReadMemStats(&after)
	if s.ref("refs/heads/"+s.task.Branch) != id {
		t.Fatal("the push did not land")
	}
	allocated := (after.TotalAlloc - before.TotalAlloc) >> 10
	t.Logf("20 MiB in %s: %.0f MB/s, %d KiB allocated in all", took.Round(time.Millisecond), 21.0/took.Seconds(), allocated)
	if allocated > 16<<10 {
		t.Errorf("%d KiB were allocated for a 20 MiB push", allocated)
	}
}

func TestPackLimit(t *testing.T) {
	s := serve(t, func(c *Config) { c.Limits.MaxPack = 2 << 20 })
	s.commit("big.bin", noise(3<<20))
	_, err := s.TryGit(s.work, "push", "origin", "HEAD")
	s.refused(err, "terok: pack exceeds limit of 2 MiB")
	if s.ref("refs/heads/"+s.task.Branch) != s.task.Start {
		t.Error("the branch moved")
	}
	if left, _ := filepath.Glob(s.task.Repo + "/objects/*/tmp_*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	s.Git(s.work, "reset", "-q", "--hard", s.task.Start)
	s.commit("small", "x")
	s.Git(s.work, "push", "-q", "origin", "HEAD")
}

func TestRefLimit(t *testing.T) {
	s := serve(t, func(c *Config) { c.Limits.MaxRefs = 3 })
	args := []string{"push", "origin"}
	for i := range 4 {
		args = append(args, "HEAD:refs/heads/b"+strconv.Itoa(i))
	}
	if _, err := s.TryGit(s.work, args...); err == nil || s.ref("refs/heads/b0") != "" {
		t.Errorf("four refs were taken: %v", err)
	}
}

// TestGzipFetch: git compresses its negotiation when it is long.
func TestGzipFetch(t *testing.T) {
	s := serve(t)
	for i := range 60 {
		s.commit("f", strconv.Itoa(i))
	}
	s.Write("new.txt", "upstream moved")
	tip := s.Commit(s.Upstream, "third")
	if _, err := s.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	for _, protocol := range []string{"0", "2"} {
		s.Git(s.work, "-c", "protocol.version="+protocol, "fetch", "-q", "origin")
		if got := s.Git(s.work, "rev-parse", "origin/main"); got != tip {
			t.Errorf("v%s: fetched %s, want %s", protocol, got, tip)
		}
		s.Git(s.work, "update-ref", "-d", "refs/remotes/origin/main")
	}
	// The same by hand, so that compression is certain.
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	body := string(appendPkt(nil, "want "+tip+" no-progress\n")) + flushPkt + string(appendPkt(nil, "done\n"))
	_, _ = io.WriteString(zw, body)
	zw.Close()
	resp := s.post("/git-upload-pack", "upload", &z, "gzip")
	data, _ := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 || !bytes.Contains(data, []byte("PACK")) {
		t.Errorf("gzip'd fetch: %s %.40q", resp.Status, data)
	}
}

func (s *served) post(path, service string, body io.Reader, encoding string) *http.Response {
	s.T.Helper()
	req, _ := http.NewRequest("POST", s.bare+path, body)
	req.SetBasicAuth("x", token)
	req.Header.Set("Content-Type", "application/x-git-"+service+"-pack-request")
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.T.Fatal(err)
	}
	s.T.Cleanup(func() { resp.Body.Close() })
	return resp
}

// TestPushTime measures a push of one commit as the client sees it; gate.md §15 asks for 150 ms.
func TestPushTime(t *testing.T) {
	s := serve(t)
	var times []time.Duration
	for i := range 9 {
		s.commit("a.txt", strconv.Itoa(i))
		start := time.Now()
		s.Git(s.work, "push", "-q", "origin", "HEAD")
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	t.Logf("push of one commit: median %s, min %s, max %s (n=9)", times[4], times[0], times[8])
}
