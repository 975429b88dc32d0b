package store_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
)

const project = gatetest.Project

func sync1(t *testing.T, w *gatetest.World) store.Report {
	t.Helper()
	r, err := w.Store.Sync(t.Context(), project)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func tip(w *gatetest.World, dir, ref string) string {
	out, _ := w.TryGit(dir, "rev-parse", "-q", "--verify", ref)
	return out
}

func TestInit(t *testing.T) {
	w := gatetest.New(t)
	w.Git(w.Upstream, "branch", "dev")
	w.Git(w.Upstream, "tag", "v1")
	w.Git(w.Upstream, "tag", "-a", "-m", "x", "v2")
	w.Git(w.Upstream, "tag", "main", "HEAD^") // ambiguous everywhere
	r, err := w.Store.Init(t.Context(), project, w.Upstream)
	if err != nil {
		t.Fatal(err)
	}
	base := w.Roots.GateBase(project)
	if !r.Created || r.Head != "main" || r.Branches != 2 || len(r.Notes) != 1 || !strings.Contains(r.Notes[0], "tag main") {
		t.Errorf("report: %+v", r)
	}
	for _, ref := range []string{"refs/heads/main", "refs/heads/dev", "refs/tags/v1", "refs/tags/v2"} {
		if a, b := tip(w, base, ref), tip(w, w.Upstream, ref); a != b || a == "" {
			t.Errorf("%s: %s, upstream %s", ref, a, b)
		}
	}
	if tip(w, base, "refs/tags/main") != "" {
		t.Error("the tag named like a branch is offered")
	}
	if err := store.Verify(base); err != nil {
		t.Error(err)
	}
	info, _ := os.Stat(base)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v", info.Mode())
	}
	if again := sync1(t, w); again.Created || len(again.Applied) > 0 || len(again.Pending) > 0 {
		t.Errorf("a second sync did something: %+v", again)
	}
	if _, err := w.Store.Init(t.Context(), project, "/somewhere/else"); !problem.Is(err, "upstream_differs") {
		t.Errorf("another upstream: %v", err)
	}
}

func TestInitFailureLeavesNothing(t *testing.T) {
	w := gatetest.New(t)
	if _, err := w.Store.Init(t.Context(), project, "/nonexistent"); !problem.Is(err, "upstream_unreachable") {
		t.Errorf("error: %v", err)
	}
	if _, err := os.Lstat(w.Roots.GateBase(project)); err == nil {
		t.Error("a base appeared")
	}
	// What a killed init left is swept by the next one.
	stale := w.Roots.GateBase(project) + ".tmp-123"
	if err := os.MkdirAll(stale, 0o700); err != nil {
		t.Fatal(err)
	}
	w.Gate("k3v9p")
	if _, err := os.Lstat(stale); err == nil {
		t.Error("the stale directory stayed")
	}
	if _, err := w.Store.Sync(t.Context(), "nothing"); !problem.Is(err, "gate_missing") {
		t.Errorf("sync of nothing: %v", err)
	}
}

// TestOldGit: what git cannot do is said before anything is made.
func TestOldGit(t *testing.T) {
	w := gatetest.New(t)
	old := filepath.Join(w.Dir, "git")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho git version 2.20.1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.Store.Git = &git.Runner{Path: old}
	if _, err := w.Store.Init(t.Context(), project, w.Upstream); !problem.Is(err, "git_too_old") {
		t.Errorf("error: %v", err)
	}
}

func TestSyncClasses(t *testing.T) {
	w := gatetest.New(t)
	for _, b := range []string{"ff", "rewritten", "deleted", "diverged", "ahead", "gone-back"} {
		w.Git(w.Upstream, "branch", b)
	}
	w.Gate("k3v9p")
	base := w.Roots.GateBase(project)
	start := tip(w, base, "refs/heads/main")
	own := w.Git(base, "commit-tree", "-p", start, "-m", "own", start+"^{tree}")
	w.Git(base, "update-ref", "refs/heads/diverged", own)
	w.Git(base, "update-ref", "refs/heads/ahead", own)
	w.Git(base, "update-ref", "refs/heads/local", own)
	other := w.Git(w.Upstream, "commit-tree", "-p", start, "-m", "other", start+"^{tree}")
	sibling := w.Git(w.Upstream, "commit-tree", "-p", start+"^", "-m", "sibling", start+"^{tree}")
	w.Git(w.Upstream, "update-ref", "refs/heads/ff", other)
	w.Git(w.Upstream, "update-ref", "refs/heads/rewritten", sibling)
	w.Git(w.Upstream, "update-ref", "refs/heads/gone-back", start+"^")
	w.Git(w.Upstream, "update-ref", "-d", "refs/heads/deleted")
	w.Git(w.Upstream, "update-ref", "refs/heads/diverged", other)
	w.Git(w.Upstream, "update-ref", "refs/heads/fresh", other)
	want := map[string]string{"ff": store.FastForward, "rewritten": store.Rewrite, "deleted": store.Delete, "diverged": store.Diverged,
		"ahead": store.Ahead, "fresh": store.Create, "gone-back": store.Rewrite}
	for round := range 2 {
		r := sync1(t, w)
		got := map[string]string{}
		for _, c := range slices.Concat(r.Applied, r.Pending, r.Ahead) {
			got[c.Branch] = c.Kind
		}
		if round == 1 { // applied ones are done, the others keep their class
			delete(want, "ff")
			delete(want, "fresh")
		}
		for b, kind := range want {
			if got[b] != kind {
				t.Errorf("round %d: %s is %q, want %s", round, b, got[b], kind)
			}
		}
		if len(got) != len(want) || !slices.Equal(r.GateOnly, []string{"local"}) {
			t.Errorf("round %d: %v, gate only %v", round, got, r.GateOnly)
		}
		if tip(w, base, "refs/heads/rewritten") != start || tip(w, base, "refs/heads/deleted") != start || tip(w, base, "refs/heads/diverged") != own {
			t.Errorf("round %d: a pending change was applied", round)
		}
	}
	if tip(w, base, "refs/heads/ff") != other || tip(w, base, "refs/heads/fresh") != other {
		t.Error("safe changes were not applied")
	}
	w.Git(w.Upstream, "update-ref", "refs/heads/deleted", start) // comes back
	for _, c := range sync1(t, w).Pending {
		if c.Branch == "deleted" {
			t.Error("the deletion is still pending")
		}
	}
}

func TestUpstreamHead(t *testing.T) {
	w := gatetest.New(t)
	w.Gate("k3v9p")
	w.Git(w.Upstream, "checkout", "-q", "-b", "trunk")
	if r := sync1(t, w); r.Head != "trunk" {
		t.Errorf("head %s", r.Head)
	}
}

func TestEmptyUpstream(t *testing.T) {
	w := gatetest.New(t)
	empty := filepath.Join(w.Dir, "empty")
	w.Git(w.Dir, "init", "-q", "-b", "main", empty)
	if _, err := w.Store.Init(t.Context(), project, empty); err != nil {
		t.Fatal(err)
	}
	if task := w.Task("k3v9p"); task.Start != "" {
		t.Errorf("start %s", task.Start)
	}
}

// TestSyncBusy: a second sync waits, then says who holds the gate.
func TestSyncBusy(t *testing.T) {
	w := gatetest.New(t)
	w.Gate("k3v9p")
	unlock, err := w.Store.Lock(t.Context(), project)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := w.Store.Sync(ctx, project)
		done <- err
	}()
	cancel()
	if err := <-done; err == nil {
		t.Error("a sync got past the lock")
	}
	unlock()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if _, err := w.Store.Sync(t.Context(), project); err != nil && !problem.Is(err, "gate_busy") {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	w.Git(w.Roots.GateBase(project), "fsck", "--strict")
}

func TestUpstreamText(t *testing.T) {
	for text, protocol := range map[string]string{"/srv/x": "file", "file:///srv/x": "file", "https://h.test/x": "https",
		"ssh://git@h.test/x": "ssh", "git@github.com:o/r.git": "ssh", "": ""} {
		if u, err := store.ParseUpstream(text); err != nil || u.Protocol != protocol {
			t.Errorf("%q: %+v %v", text, u, err)
		}
	}
	for _, text := range []string{"ext::sh -c touch% canary", "fd::7", "--upload-pack=touch canary", "-x", "http://h.test/x", "git://h.test/x",
		"https://u:secret@h.test/x", "ssh://-oProxyCommand=x/y", "-oProxyCommand=x:y", "git@-host:x", "x", "./x", "C:\\x", "https://h.test/\nx",
		"ssh://h.test", "file://host/x", "x::y", "git@h.test:-x", "a/b:c"} {
		if u, err := store.ParseUpstream(text); err == nil {
			t.Errorf("%q accepted: %+v", text, u)
		} else if strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: the password is in the message", text)
		}
	}
}

func FuzzParseUpstream(f *testing.F) {
	for _, s := range []string{"/a", "ext::x", "git@h:x", "-x", "https://u:p@h/x", "ssh://h/x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := store.ParseUpstream(s)
		// "helper::address" starts a program (gitremote-helpers(7)), when the first part has the
		// characters of a URL's scheme; "host:a::b" and "my_host::b" are ssh.
		helper, _, found := strings.Cut(u.URL, "::")
		const scheme = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-."
		if err == nil && (strings.HasPrefix(u.URL, "-") || found && strings.Trim(helper, scheme) == "") {
			t.Fatalf("%q → %+v", s, u)
		}
	})
}

func TestCreateTask(t *testing.T) {
	w := gatetest.New(t)
	w.Git(w.Upstream, "tag", "-a", "-m", "x", "v2")
	task := w.Gate("k3v9p")
	main := tip(w, w.Upstream, "main")
	if task.Start != main || task.From != "main" {
		t.Errorf("task: %+v", task)
	}
	for _, ref := range []string{"refs/heads/" + task.Branch, "refs/heads/main", store.StartRef, "refs/upstream/heads/main", store.OfferedRefs + "main"} {
		if got := tip(w, task.Repo, ref); got != main {
			t.Errorf("%s is %q", ref, got)
		}
	}
	w.Git(task.Repo, "fsck", "--strict")
	if got := w.Git(task.Repo, "show-ref", "-d", "v2"); !strings.Contains(got, main+" refs/tags/v2^{}") {
		t.Errorf("tag not peeled: %s", got)
	}
	if err := store.Verify(task.Repo, w.Store.ObjectsDir(project)); err != nil {
		t.Error(err)
	}
	again := store.TaskSpec{Project: project, ID: "k3v9p", Branch: "terok/x"}
	if _, err := w.Store.CreateTask(t.Context(), again); !problem.Is(err, "task_exists") {
		t.Errorf("same id: %v", err)
	}
	for name, spec := range map[string]store.TaskSpec{
		"branch_exists":  {Project: project, ID: "a", Branch: "main"},
		"no_such_branch": {Project: project, ID: "b", Branch: "terok/b", Start: "nope"},
		"gate_missing":   {Project: "other", ID: "c", Branch: "terok/c"},
		"bad_name":       {Project: project, ID: "../c", Branch: "terok/c"},
	} {
		if _, err := w.Store.CreateTask(t.Context(), spec); !problem.Is(err, name) {
			t.Errorf("want %s, got %v", name, err)
		}
	}
	if _, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: project, ID: "d", Branch: "terok/d", Start: strings.Repeat("d", 40)}); !problem.Is(err, "no_such_branch") {
		t.Errorf("unknown id: %v", err)
	}
	if err := w.Store.DeleteTask(t.Context(), project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	left, _ := os.ReadDir(filepath.Dir(task.Repo))
	if len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestRefresh: a sync shows the new base to a task, and the task's own work stays.
func TestRefresh(t *testing.T) {
	w := gatetest.New(t)
	w.Git(w.Upstream, "branch", "dev")
	task := w.Gate("k3v9p")
	old := tip(w, task.Repo, "refs/heads/dev")
	own := w.Git(task.Repo, "commit-tree", "-p", old, "-m", "task's", old+"^{tree}")
	w.Git(task.Repo, "update-ref", "refs/heads/dev", own)
	w.Write("x", "new")
	id := w.Commit(w.Upstream, "third")
	w.Git(w.Upstream, "branch", "-f", "dev", id)
	w.Git(w.Upstream, "branch", "fresh", id)
	sync1(t, w)
	for ref, want := range map[string]string{"refs/heads/main": id, "refs/heads/fresh": id, "refs/heads/dev": own,
		"refs/upstream/heads/dev": id, "refs/heads/" + task.Branch: old} {
		if got := tip(w, task.Repo, ref); got != want {
			t.Errorf("%s is %s, want %s", ref, got, want)
		}
	}
}

// snapshotOf describes everything in a clone that a task must not change.
func snapshotOf(t *testing.T, w *gatetest.World) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(w.Upstream, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		b.WriteString(path + " " + info.Mode().String() + " " + info.ModTime().String())
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			b.Write(data)
		}
		b.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestUncommitted: everything a person sees in the clone is in the start commit, and the clone is
// untouched to the byte and nanosecond; its hooks, filters and fsmonitor did not run.
func TestUncommitted(t *testing.T) {
	w := gatetest.New(t)
	canary := filepath.Join(w.Dir, "canary")
	w.Write("old.txt", "to be deleted")
	w.Write("staged.txt", "v1")
	w.Write("data.big", "filtered")
	w.Write(".gitattributes", "*.big filter=evil diff=evil\n")
	w.Commit(w.Upstream, "third")
	tool := filepath.Join(w.Dir, "tool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\ntouch "+canary+"\ncat\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	w.Git(w.Upstream, "config", "filter.evil.clean", tool)
	w.Git(w.Upstream, "config", "filter.evil.process", tool)
	w.Git(w.Upstream, "config", "filter.evil.required", "true")
	w.Git(w.Upstream, "config", "core.fsmonitor", tool)
	w.Git(w.Upstream, "config", "core.hooksPath", filepath.Dir(tool))
	for _, hook := range []string{"post-index-change", "pre-commit", "reference-transaction", "post-commit"} {
		if err := os.Link(tool, filepath.Join(w.Dir, hook)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Store.Init(t.Context(), project, w.Upstream); err != nil {
		t.Fatal(err)
	}
	head := tip(w, w.Upstream, "HEAD")
	_ = os.Remove(filepath.Join(w.Upstream, "old.txt"))
	w.Write("README.md", "changed")
	w.Write("data.big", "changed too")
	w.Write("new dir/-o pt\n.txt", "new")
	w.Write("staged.txt", "v2")
	w.Git(w.Upstream, "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "add", "staged.txt")
	w.Write("secret.local", "private")
	w.Write(".git/info/exclude", "*.local\n")
	w.Write("global.tmp", "private too")
	global := filepath.Join(w.Dir, "global-ignore")
	if err := os.WriteFile(global, []byte("*.tmp\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(canary)
	before := snapshotOf(t, w)
	clone := store.Clone{Dir: w.Upstream, Uncommitted: true, Name: "Ada", Email: "ada@example.test", Excludes: []string{global, "/nonexistent"}}
	work, err := w.Store.Uncommitted(t.Context(), project, clone)
	if err != nil {
		t.Fatal(err)
	}
	if work.Branch != "main" || work.Head != head || !slices.Equal(work.New, []string{"new dir/-o pt\n.txt"}) ||
		!slices.Equal(work.Changed, []string{"README.md", "data.big", "old.txt", "staged.txt"}) {
		t.Errorf("work: %+v", work)
	}
	task, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: project, ID: "k3v9p", Branch: "terok/k", Clone: &clone})
	if err != nil {
		t.Fatal(err)
	}
	if after := snapshotOf(t, w); after != before {
		t.Error("the clone was changed")
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a program of the clone ran")
	}
	if got := w.Git(task.Repo, "rev-parse", task.Start+"^"); got != head {
		t.Errorf("parent %s, want %s", got, head)
	}
	want := ".gitattributes README.md data.big new dir/-o pt\n.txt src/main.go staged.txt"
	if got := strings.ReplaceAll(strings.TrimSuffix(w.Git(task.Repo, "ls-tree", "-r", "-z", "--name-only", task.Start), "\x00"), "\x00", " "); got != want {
		t.Errorf("files %q, want %q", got, want)
	}
	for path, content := range map[string]string{"README.md": "changed", "data.big": "changed too", "staged.txt": "v2"} {
		if got := w.Git(task.Repo, "cat-file", "-p", task.Start+":"+path); got != content {
			t.Errorf("%s is %q", path, got)
		}
	}
	w.Git(task.Repo, "fsck", "--strict")
	if _, err := w.TryGit(task.Base, "cat-file", "-e", task.Start); err == nil {
		t.Error("the base has the start commit")
	}
}

// TestUnpushedHead: commits that the base has not come along; a clean clone makes no commit.
func TestUnpushedHead(t *testing.T) {
	w := gatetest.New(t)
	w.Gate("k3v9p")
	w.Git(w.Upstream, "checkout", "-q", "--detach")
	w.Write("x", "local only")
	id := w.Commit(w.Upstream, "never pushed")
	task, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: project, ID: "q1w2e", Branch: "terok/q",
		Clone: &store.Clone{Dir: w.Upstream, Uncommitted: true, Name: "A", Email: "a@b"}})
	if err != nil {
		t.Fatal(err)
	}
	if task.Start != id || task.From != "" {
		t.Errorf("task: %+v, want start %s", task, id)
	}
	w.Git(task.Repo, "fsck", "--strict")
}

func TestMergeInProgress(t *testing.T) {
	w := gatetest.New(t)
	w.Gate("k3v9p")
	w.Git(w.Upstream, "checkout", "-q", "-b", "other", "HEAD^")
	w.Write("src/main.go", "other")
	w.Commit(w.Upstream, "conflict")
	_, _ = w.TryGit(w.Upstream, "merge", "main")
	if _, err := w.Store.Uncommitted(t.Context(), project, store.Clone{Dir: w.Upstream}); !problem.Is(err, "merge_in_progress") {
		t.Errorf("error: %v", err)
	}
	if _, err := w.Store.Uncommitted(t.Context(), project, store.Clone{Dir: w.Dir}); !problem.Is(err, "no_clone") {
		t.Errorf("no clone: %v", err)
	}
}

// TestVerify: whatever git would obey besides what we wrote is refused.
func TestVerify(t *testing.T) {
	w := gatetest.New(t)
	task := w.Gate("k3v9p")
	objects := w.Store.ObjectsDir(project)
	for name, plant := range map[string]func() error{
		"config":          func() error { return os.WriteFile(task.Repo+"/config", []byte("[core]\n\tfsmonitor = evil\n"), 0o600) },
		"config.worktree": func() error { return os.WriteFile(task.Repo+"/config.worktree", nil, 0o600) },
		"commondir":       func() error { return os.WriteFile(task.Repo+"/commondir", []byte("/tmp"), 0o600) },
		"hooks":           func() error { return os.Mkdir(task.Repo+"/hooks", 0o700) },
		"info":            func() error { return os.Mkdir(task.Repo+"/info", 0o700) },
		"refs":            func() error { return swapForLink(task.Repo+"/refs", "/tmp") },
		"HEAD":            func() error { return swapForLink(task.Repo+"/HEAD", "/etc/passwd") },
		"alternates":      func() error { return os.WriteFile(task.Repo+"/objects/info/alternates", []byte("/etc\n"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := w.Store.DeleteTask(t.Context(), project, "k3v9p"); err != nil {
				t.Fatal(err)
			}
			w.Task("k3v9p")
			if err := store.Verify(task.Repo, objects); err != nil {
				t.Fatal(err)
			}
			if err := plant(); err != nil {
				t.Fatal(err)
			}
			if err := store.Verify(task.Repo, objects); !problem.Is(err, "store_corrupt") {
				t.Errorf("not noticed: %v", err)
			}
		})
	}
}

func swapForLink(path, target string) error {
	if err := os.RemoveAll(path); err != nil {
		return err
	}
	return os.Symlink(target, path)
}

// TestCreateTaskTime measures task creation; the budget of gate.md §15 is 50 ms.
func TestCreateTaskTime(t *testing.T) {
	w := gatetest.New(t)
	w.Gate("k3v9p")
	var times []time.Duration
	for i := range 15 {
		start := time.Now()
		w.Task("t" + string(rune('a'+i)))
		times = append(times, time.Since(start))
	}
	slices.Sort(times)
	t.Logf("task repository: median %s, min %s, max %s (n=%d)", times[7], times[0], times[14], len(times))
}
