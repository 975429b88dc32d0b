package server

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/state"
	"terok/internal/vault/front"
)

// object writes one object as git hash-object takes it, without checks.
func (s *served) object(kind, content string) string {
	s.T.Helper()
	out, err := (&git.Runner{}).Run(s.T.Context(), git.Cmd{Dir: s.work, Args: []string{"hash-object", "-t", kind, "-w", "--literally", "--stdin"},
		Stdin: strings.NewReader(content)})
	if err != nil {
		s.T.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func raw(id string) string {
	var b strings.Builder
	for i := 0; i < len(id); i += 2 {
		n, _ := strconv.ParseUint(id[i:i+2], 16, 8)
		b.WriteByte(byte(n))
	}
	return b.String()
}

// TestTreesAreInspected: what must not be in a tree is refused and the object is named, by git's
// fsck or by us.
//
// spec/gate.md §20: 22.
func TestTreesAreInspected(t *testing.T) {
	s := serve(t)
	blob := s.object("blob", "x\n")
	module := func(text string) string {
		return "100644 .gitmodules\x00" + raw(s.object("blob", text))
	}
	for name, c := range map[string]struct{ tree, want string }{
		"git":       {"40000 .git\x00" + raw(s.object("tree", "100644 config\x00"+raw(blob))), ".git"},
		"case":      {"100644 .gIt\x00" + raw(blob), ".git"},
		"ntfs":      {"100644 git~1\x00" + raw(blob), ".git"},
		"stream":    {"100644 .git::$INDEX_ALLOCATION\x00" + raw(blob), ".git"},
		"hfs":       {"100644 .g\u200cit\x00" + raw(blob), ".git"},
		"dotdot":    {"100644 ..\x00" + raw(blob), "'..'"},
		"slash":     {"100644 a/b\x00" + raw(blob), "full pathnames"},
		"duplicate": {"100644 a\x00" + raw(blob) + "100644 a\x00" + raw(blob), "duplicate"},
		"link":      {"120000 .gitmodules\x00" + raw(s.object("blob", "target")), "symbolic link"},
		"url":       {module("[submodule \"x\"]\n\tpath = x\n\turl = -u./x\n"), "gitmodulesUrl"},
		"helper":    {module("[submodule \"x\"]\n\tpath = x\n\turl = ext::sh -c x\n"), "names a helper"},
		"path":      {module("[submodule \"x\"]\n\tpath = ../x\n\turl = https://example.org/x\n"), "leaves the tree"},
		"update":    {module("[submodule \"x\"]\n\tpath = x\n\turl = https://example.org/x\n\tupdate = !touch x\n"), "submodule"},
	} {
		t.Run(name, func(t *testing.T) {
			commit := s.Git(s.work, "commit-tree", "-p", s.task.Start, "-m", name, s.object("tree", c.tree))
			_, err := s.TryGit(s.work, "push", "origin", commit+":refs/heads/"+name)
			s.refused(err, "terok: ")
			s.refused(err, c.want)
			if s.ref("refs/heads/"+name) != "" {
				t.Error("it landed")
			}
		})
	}
	if left, _ := filepath.Glob(s.task.Repo + "/objects/*incoming*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if packs, _ := filepath.Glob(s.task.Repo + "/objects/pack/*"); len(packs) > 0 {
		t.Errorf("refused objects became part of the repository: %v", packs)
	}
	good := s.Git(s.work, "commit-tree", "-p", s.task.Start, "-m", "good", s.object("tree", module("[submodule \"x\"]\n\tpath = sub/x\n\turl = https://example.org/x.git\n")))
	s.Git(s.work, "push", "-q", "origin", good+":refs/heads/good")
}

// TestOwnTreeCheck: the names are refused without git's help too, whatever its version knows.
func TestOwnTreeCheck(t *testing.T) {
	for _, name := range []string{"", ".", "..", ".git", ".GIT", "git~1", "GIT~1", ".git ", ".git.", ".git\\x", ".git:x", ".g\u200dit", "a/b", ".git . ."} {
		if badName(name) == "" {
			t.Errorf("%q passes", name)
		}
	}
	for _, name := range []string{"a", ".gitignore", ".gitattributes", "git", "...", "git~2", ".github", "x.git", "ä.txt"} {
		if why := badName(name); why != "" {
			t.Errorf("%q: %s", name, why)
		}
	}
}

// TestLimitsOfAPush: too many objects, too large files, bombs, quota and a full disk are refused
// with a reason, leave nothing behind, and the next push works.
//
// spec/gate.md §20: 23, 24 (the disk as statfs tells it; a really full one: TestFullDisk).
func TestLimitsOfAPush(t *testing.T) {
	for name, c := range map[string]struct {
		limit   func(*Limits)
		content string
		want    string
	}{
		"file":     {func(l *Limits) { l.MaxFile = 1 << 20 }, noise(2 << 20), "the limit is 1 MiB"},
		"objects":  {func(l *Limits) { l.MaxObjects = 2 }, "x", "objects in one push"},
		"quota":    {func(l *Limits) { l.Quota = 1 << 20 }, noise(2 << 20), "of 1 MiB"},
		"headroom": {func(l *Limits) { l.Headroom = 1 << 60 }, "x", "nearly full"},
		"bomb":     {func(*Limits) {}, strings.Repeat("\x00", 90<<20), "more than 1000 times"},
	} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(cfg *Config) { cfg.Limits.MaxFile = 400 << 20; c.limit(&cfg.Limits) })
			s.commit("file", c.content)
			_, err := s.TryGit(s.work, "push", "origin", "HEAD")
			s.refused(err, c.want)
			if got := s.ref("refs/heads/" + s.task.Branch); got != s.task.Start {
				t.Error("the branch moved")
			}
			left, _ := filepath.Glob(s.task.Repo + "/objects/*incoming*")
			packs, _ := filepath.Glob(s.task.Repo + "/objects/pack/*")
			if len(left)+len(packs) > 0 {
				t.Errorf("left behind: %v %v", left, packs)
			}
			if name == "file" || name == "quota" || name == "bomb" {
				s.Git(s.work, "reset", "-q", "--hard", s.task.Start)
				s.commit("small", "x")
				s.Git(s.work, "push", "-q", "origin", "HEAD")
			}
		})
	}
}

// TestSecretsAreRefused: tokens of terok and vendors' keys do not enter the gate, neither in files
// nor in messages nor in history; what the repository had before is not held against the agent.
//
// spec/vault.md §10: 5; spec/vault.md §4.12.
func TestSecretsAreRefused(t *testing.T) {
	ghost := front.NewPhantom()
	key := "ghp_a8Bq2kX91mZpL0vR7tYw3uNc5dJeFsGh4iQo"
	w := gatetest.New(t)
	w.Write("fixture.txt", "old "+key+"\n")
	w.Commit(w.Upstream, "a fixture")
	var betrayed []string
	s := serveTask(t, w, w.Gate("k3v9p"), func(c *Config) { c.Leaked = func(token string) { betrayed = append(betrayed, token) } })
	push := func() error {
		_, err := s.TryGit(s.work, "push", "origin", "HEAD")
		return err
	}
	reset := func() { s.Git(s.work, "reset", "-q", "--hard", s.task.Start) }

	s.commit("env.txt", "TOKEN="+ghost+"\n")
	s.commit("env.txt", "gone again\n") // history counts
	err := push()
	s.refused(err, "env.txt holds a secret: phantom token of terok")
	if strings.Contains(err.Error(), ghost) {
		t.Error("the refusal repeats the token")
	}
	reset()
	gatetest.WriteFile(t, s.work, "a", "x")
	s.Commit(s.work, "with "+token+strings.Repeat("0123456789abcdef", 4))
	s.refused(push(), "the message of commit")
	reset()
	s.commit("key.txt", key)
	s.refused(push(), "key.txt holds a secret: GitHub token")
	reset()
	s.commit("fixture.txt", "changed\nold "+key+"\n")
	if err := push(); err != nil {
		t.Errorf("a file that had the key before: %v", err)
	}
	if !slices.Equal(betrayed, []string{ghost}) {
		t.Errorf("phantoms told: %d", len(betrayed))
	}
	if n := len(s.Ledger.Events("leak_suspected")); n != 3 {
		t.Errorf("%d leak_suspected events, want 3", n)
	}
	for _, e := range s.Ledger.Events("") {
		if strings.Contains(e.Reason, key) {
			t.Error("the ledger repeats a key")
		}
	}
	out, _ := (&git.Runner{}).Run(t.Context(), git.Cmd{GitDir: s.task.Repo, Alternates: []string{git.AnyAlternates}, MaxOutput: 64 << 20,
		Args: []string{"cat-file", "--batch-all-objects", "--batch"}})
	if strings.Contains(string(out), ghost) {
		t.Error("the phantom is in an object of the gate")
	}
}

// TestAllowedSecrets: the project can let vendors' keys through; terok's own never pass.
func TestAllowedSecrets(t *testing.T) {
	s := serve(t, func(c *Config) { c.AllowSecrets = true })
	s.commit("key.txt", "ghp_a8Bq2kX91mZpL0vR7tYw3uNc5dJeFsGh4iQo")
	s.Git(s.work, "push", "-q", "origin", "HEAD")
	s.commit("env.txt", front.NewPhantom())
	_, err := s.TryGit(s.work, "push", "origin", "HEAD")
	s.refused(err, "phantom token")
}

// TestFrozen: a frozen task takes no push and says why; reading goes on.
func TestFrozen(t *testing.T) {
	s := serve(t)
	s.commit("a", "x")
	for _, task := range []string{"", "k3v9p"} {
		file := view.FrozenFile(s.task.Base, task)
		if err := state.WriteFile(file, []byte("incident 7\n")); err != nil {
			t.Fatal(err)
		}
		_, err := s.TryGit(s.work, "push", "origin", "HEAD")
		if err == nil || !strings.Contains(err.Error(), "403") || !strings.Contains(err.Error(), "incident 7") {
			t.Errorf("push while frozen: %v", err)
		}
		s.Git(s.work, "fetch", "-q", "origin")
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	if err := state.WriteFile(view.FrozenFile(s.task.Base, "other"), nil); err != nil {
		t.Fatal(err)
	}
	s.Git(s.work, "push", "-q", "origin", "HEAD")
}

// TestRecovered: a worker that died between moving refs and recording them is found out, once.
//
// spec/gate.md §20: 28 (the ledger's own chain: internal/audit).
func TestRecovered(t *testing.T) {
	s := serve(t)
	id := s.commit("a", "x")
	s.Git(s.work, "push", "-q", "origin", "HEAD", "HEAD:refs/heads/gone")
	again := func() int {
		t.Helper()
		before := len(s.Ledger.Events("push_recovered"))
		h := New(Config{Git: &git.Runner{}, Repo: s.task.Repo, Base: s.task.Base, Token: token, Record: s.Ledger})
		if err := h.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		return len(s.Ledger.Events("push_recovered")) - before
	}
	if n := again(); n != 0 {
		t.Fatalf("%d events although everything is recorded: %+v", n, s.Ledger.Events("push_recovered"))
	}
	// As git leaves it when the worker is killed before it settles.
	s.Git(s.task.Repo, "update-ref", "refs/heads/new", id)
	s.Git(s.task.Repo, "update-ref", "-d", "refs/heads/gone")
	half := s.task.Repo + "/objects/incoming-123"
	if err := os.MkdirAll(half+"/pack", 0o700); err != nil {
		t.Fatal(err)
	}
	lock := s.task.Repo + "/refs/heads/new.lock"
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(lock, old, old); err != nil {
		t.Fatal(err)
	}
	if n := again(); n != 2 {
		t.Errorf("%d recovered events, want 2: %+v", n, s.Ledger.Events("push_recovered"))
	}
	if n := again(); n != 0 {
		t.Errorf("%d recovered events the second time", n)
	}
	for _, gone := range []string{half, lock} {
		if _, err := os.Stat(gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if err := store.Verify(s.task.Repo, filepath.Join(s.task.Base, "objects")); err != nil {
		t.Error(err)
	}
	// A sync that moves the view needs no recovery.
	s.Write("up.txt", "x")
	s.Commit(s.Upstream, "up")
	if _, err := s.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	if n := again(); n != 0 {
		t.Errorf("%d recovered events after a sync", n)
	}
}

// TestMissedRefresh: a sync that could not reach the task, because a push held its lock, shows at
// the task's next fetch.
func TestMissedRefresh(t *testing.T) {
	s := serve(t)
	s.Write("up.txt", "x")
	tip := s.Commit(s.Upstream, "up")
	s.Git(s.work, "fetch", "-q", "origin") // the server has seen the base as it was
	moved := s.task
	moved.Repo += ".away"
	if err := os.Rename(s.task.Repo, moved.Repo); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(moved.Repo, s.task.Repo); err != nil {
		t.Fatal(err)
	}
	s.Git(s.work, "fetch", "-q", "origin")
	if got := s.Git(s.work, "rev-parse", "origin/main"); got != tip {
		t.Errorf("main is %s, want %s", got, tip)
	}
}

// TestParallelFetches: many clients at once, at most eight git processes.
//
// spec/gate.md §20: 30.
func TestParallelFetches(t *testing.T) {
	s := serve(t)
	stop, most := make(chan struct{}), 0
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				pids, _ := s.gitChildren()
				most = max(most, len(pids))
			}
		}
	})
	gate := make(chan struct{}, 25) // clients at a time; more are this machine's limit, not the server's
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			gate <- struct{}{}
			defer func() { <-gate }()
			if out, err := s.TryGit(s.Dir, "ls-remote", s.url); err != nil || !strings.Contains(out, s.task.Start) {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	close(stop)
	watch.Wait()
	if most > 8 {
		t.Errorf("%d git processes at once", most)
	}
}

// TestMessages: the agent reads what became of each branch.
func TestMessages(t *testing.T) {
	s := serve(t)
	s.commit("a", "1")
	s.commit("a", "2")
	var stderr strings.Builder
	_, err := (&git.Runner{}).Run(t.Context(), git.Cmd{Dir: s.work, Protocols: []string{"http"}, Stderr: &stderr, Args: []string{"push", "origin", "HEAD", "HEAD~1:refs/heads/one"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"terok: " + s.task.Branch + " received, 2 commits, waiting for review", "terok: one received, 1 commit, waiting for review"} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("the client does not say %q:\n%s", want, stderr.String())
		}
	}
}

// TestHealth: the probe needs no token and says nothing.
func TestHealth(t *testing.T) {
	h := New(Config{Git: &git.Runner{}, Repo: "/nonexistent", Base: "/nonexistent"})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/terok/health", nil))
	if w.Code != 200 || w.Body.String() != "ok\n" {
		t.Errorf("%d %q", w.Code, w.Body)
	}
}
