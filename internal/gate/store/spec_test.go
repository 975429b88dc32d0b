package store_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
)

func (w *world) sync(o store.Options) store.Report {
	w.T.Helper()
	rep, err := w.Store.SyncWith(w.T.Context(), gatetest.Project, w.Upstream, o)
	if err != nil {
		w.T.Fatal(err)
	}
	return rep
}

type world struct{ *gatetest.World }

func newWorld(t testing.TB) *world { return &world{gatetest.New(t)} }

func (w *world) base() string { return w.Roots.GateBase(gatetest.Project) }

func (w *world) tip(ref string) string {
	out, _ := w.TryGit(w.base(), "rev-parse", "-q", "--verify", ref)
	return out
}

func kinds(list []store.Change) string {
	var out []string
	for _, c := range list {
		out = append(out, c.Branch+":"+c.Kind)
	}
	return strings.Join(out, " ")
}

// TestFirstSync: the base has what upstream has, also over https, also in SHA-256.
//
// spec/gate.md §20: 1, 2 (the fast-forward; seen by a task: TestRefresh, server.TestGzipFetch).
func TestFirstSync(t *testing.T) {
	w := newWorld(t)
	w.Git(w.Upstream, "branch", "dev")
	w.Git(w.Upstream, "branch", "feat/x")
	w.Git(w.Upstream, "tag", "v1")
	w.Git(w.Dir, "clone", "-q", "--bare", w.Upstream, "up.git")
	w.Git(filepath.Join(w.Dir, "up.git"), "symbolic-ref", "HEAD", "refs/heads/dev")
	b := w.Serve(w.Dir)
	rep, err := w.Store.Init(t.Context(), gatetest.Project, b.URL+"/up.git")
	if err != nil || !rep.Created || rep.Branches != 3 || rep.Head != "dev" || kinds(rep.Applied) != "dev:create feat/x:create main:create" {
		t.Fatalf("%+v, %v", rep, err)
	}
	if w.tip("refs/tags/v1") == "" || w.tip("HEAD") != w.tip("refs/heads/dev") {
		t.Error("tag or HEAD is missing")
	}
	packs := b.Packs.Load()
	if rep, err = w.Store.Sync(t.Context(), gatetest.Project); err != nil || len(rep.Applied) > 0 || b.Packs.Load() != packs {
		t.Errorf("a sync without changes: %+v, %v, %d fetches", rep, err, b.Packs.Load()-packs)
	}
	w.Write("new", "x")
	id := w.Commit(w.Upstream, "third")
	w.Git(w.Upstream, "push", "-q", filepath.Join(w.Dir, "up.git"), "main")
	if rep, err = w.Store.Sync(t.Context(), gatetest.Project); err != nil || kinds(rep.Applied) != "main:fast_forward" || w.tip("refs/heads/main") != id {
		t.Errorf("%+v, %v", rep, err)
	}

	w.Git(w.Dir, "init", "-q", "--object-format=sha256", "-b", "main", "s256")
	gatetest.WriteFile(t, w.Dir, "s256/a", "x")
	long := w.Commit(filepath.Join(w.Dir, "s256"), "one")
	rep, err = w.Store.Init(t.Context(), "sha", filepath.Join(w.Dir, "s256"))
	if err != nil || len(rep.Applied) != 1 || rep.Applied[0].New != long || len(long) != 64 {
		t.Errorf("sha256: %+v, %v", rep, err)
	}
	if _, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: "sha", ID: "k3v9p", Branch: "terok/k3v9p-x"}); err != nil {
		t.Errorf("task in sha256: %v", err)
	}
}

// TestRewriteAndRestore: a rewritten branch is listed, moved on demand after a backup, and comes
// back; what the restore replaces is kept too.
//
// spec/gate.md §20: 3 (exit codes: internal/cli).
func TestRewriteAndRestore(t *testing.T) {
	w := newWorld(t)
	old := w.Git(w.Upstream, "rev-parse", "main")
	w.sync(store.Options{})
	w.Git(w.Upstream, "commit", "-q", "--amend", "-m", "rewritten")
	now := w.Git(w.Upstream, "rev-parse", "main")
	for range 2 { // it is offered again, and the base stays
		rep := w.sync(store.Options{Backups: store.DefaultBackups})
		if kinds(rep.Pending) != "main:rewrite" || !rep.Pending[0].Lossless || w.tip("refs/heads/main") != old {
			t.Fatalf("%+v", rep)
		}
	}
	rep := w.sync(store.Options{DryRun: true, Destructive: true})
	if kinds(rep.Pending) != "main:rewrite" || w.tip("refs/heads/main") != old {
		t.Fatalf("a dry run moved something: %+v", rep)
	}
	rep = w.sync(store.Options{Destructive: true, Backups: store.DefaultBackups})
	if kinds(rep.Applied) != "main:rewrite" || len(rep.Pending) > 0 || w.tip("refs/heads/main") != now {
		t.Fatalf("%+v", rep)
	}
	list, err := w.Store.ListBackups(t.Context(), gatetest.Project, "")
	if err != nil || len(list) != 1 || list[0].Tip != old || list[0].Branch != "main" || list[0].Subject != "second" {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, replaced, err := w.Store.Restore(t.Context(), gatetest.Project, "", list[0].Ref); err != nil || replaced != now || w.tip("refs/heads/main") != old {
		t.Fatalf("restore: %s, %v", replaced, err)
	}
	if list, _ = w.Store.ListBackups(t.Context(), gatetest.Project, ""); len(list) != 2 || !slices.ContainsFunc(list, func(b store.Backup) bool { return b.Tip == now }) {
		t.Errorf("the restore kept nothing: %+v", list)
	}
	if _, err := w.Store.DeleteBackup(t.Context(), gatetest.Project, "", "main/nothing"); !problem.Is(err, "no_such_backup") {
		t.Errorf("%v", err)
	}
	if _, err := w.Store.DeleteBackup(t.Context(), gatetest.Project, "", list[0].Ref); err != nil {
		t.Error(err)
	}
}

// TestAheadAndDiverged: what the base has of its own is never offered for discarding, and both
// sides of a divergence can be kept.
//
// spec/gate.md §20: 4, 5.
func TestAheadAndDiverged(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	work := filepath.Join(w.Dir, "work")
	w.Git(w.Dir, "clone", "-q", w.base(), work)
	gatetest.WriteFile(t, work, "mine", "x")
	mine := w.Commit(work, "mine")
	w.Git(work, "push", "-q", "origin", "HEAD:main")
	rep := w.sync(store.Options{Destructive: true})
	if kinds(rep.Ahead) != "main:ahead" || len(rep.Pending) > 0 || rep.Ahead[0].GateOnly != 1 || w.tip("refs/heads/main") != mine {
		t.Fatalf("ahead: %+v", rep)
	}
	w.Write("theirs", "x")
	w.Commit(w.Upstream, "theirs")
	rep = w.sync(store.Options{Destructive: true, Backups: store.DefaultBackups})
	if kinds(rep.Pending) != "main:diverged" || w.tip("refs/heads/main") != mine {
		t.Fatalf("diverged: %+v", rep)
	}
	if _, err := w.Store.Resolve(t.Context(), gatetest.Project, "nope", store.Keep, store.DefaultBackups); !problem.Is(err, "not_pending") {
		t.Errorf("%v", err)
	}
	if _, err := w.Store.Resolve(t.Context(), gatetest.Project, "main", store.Keep, store.DefaultBackups); err != nil {
		t.Fatal(err)
	}
	if rep = w.sync(store.Options{}); len(rep.Pending) > 0 {
		t.Errorf("kept, and pending all the same: %+v", rep.Pending)
	}
	w.Write("theirs", "y")
	theirs := w.Commit(w.Upstream, "theirs again")
	if rep = w.sync(store.Options{}); kinds(rep.Pending) != "main:diverged" {
		t.Fatalf("upstream moved again: %+v", rep)
	}
	if _, err := w.Store.Resolve(t.Context(), gatetest.Project, "main", store.Rename, store.DefaultBackups); err != nil {
		t.Fatal(err)
	}
	local := "refs/heads/main.local-" + time.Now().UTC().Format("20060102")
	if w.tip("refs/heads/main") != theirs || w.tip(local) != mine {
		t.Errorf("main %s, local %s", w.tip("refs/heads/main"), w.tip(local))
	}
	if rep = w.sync(store.Options{}); len(rep.Pending) > 0 || len(rep.GateOnly) != 1 {
		t.Errorf("%+v", rep)
	}
}

// TestUpstreamDeletion: pending once, the last common tip stays known, and a branch that comes back
// ends it.
//
// spec/gate.md §20: 6, 7.
func TestUpstreamDeletion(t *testing.T) {
	w := newWorld(t)
	w.Git(w.Upstream, "branch", "dev")
	w.Git(w.Upstream, "tag", "main", "refs/heads/main~1")
	w.Git(w.Upstream, "tag", "v1")
	rep := w.sync(store.Options{})
	dev := w.tip("refs/heads/dev")
	if !strings.Contains(strings.Join(rep.Notes, "\n"), "tag main has the name of a branch") {
		t.Errorf("notes: %v", rep.Notes)
	}
	w.Git(w.Upstream, "tag", "-f", "v1", "refs/heads/main~1")
	w.Git(w.Upstream, "branch", "-D", "dev")
	for range 2 {
		rep = w.sync(store.Options{})
		if kinds(rep.Pending) != "dev:delete" || !rep.Pending[0].Lossless || w.tip("refs/heads/dev") != dev || w.tip("refs/terok/attic/dev") != dev {
			t.Fatalf("%+v", rep)
		}
	}
	if !strings.Contains(strings.Join(rep.Notes, "\n"), "tag v1 moved upstream") {
		t.Errorf("notes: %v", rep.Notes)
	}
	if _, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "k3v9p", Branch: "terok/k3v9p-x"}); err != nil {
		t.Errorf("a task beside a tag named main: %v", err)
	}
	w.Git(w.Upstream, "branch", "dev", dev)
	if rep = w.sync(store.Options{}); len(rep.Pending) > 0 || w.tip("refs/terok/attic/dev") != "" {
		t.Errorf("it came back: %+v", rep)
	}
	w.Git(w.Upstream, "branch", "-D", "dev")
	w.sync(store.Options{})
	if rep = w.sync(store.Options{AutoLossless: true, Backups: store.DefaultBackups}); kinds(rep.Applied) != "dev:delete" || w.tip("refs/heads/dev") != "" {
		t.Errorf("auto_apply_lossless: %+v", rep)
	}
}

// TestSimultaneousSyncs: whoever waits gets through, the store is whole, rev counts real changes.
//
// spec/gate.md §20: 8.
func TestSimultaneousSyncs(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	w.Write("new", "x")
	w.Commit(w.Upstream, "third")
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			s := *w.Store
			if _, err := s.Sync(t.Context(), gatetest.Project); err != nil && problem.Of(err).Exit != problem.Conflict {
				t.Errorf("%v", err)
			}
		})
	}
	wg.Wait()
	w.Git(w.base(), "fsck", "--strict")
	var st struct{ Rev int }
	data, err := os.ReadFile(filepath.Join(w.Roots.GateDir(gatetest.Project), "state.json"))
	if err != nil || !strings.Contains(string(data), `"rev": 2`) {
		t.Errorf("%+v %s %v", st, data, err)
	}
}

// syncSteps are the fault points of a sync, see Store.Fault.
var syncSteps = []string{"listed", "prepared", "created", "renamed", "fetched", "classified", "applied", "destroyed", "packed", "stated"}

// TestKilledSync: a sync that was killed after any step leaves a base that is whole or absent, and
// the next one finishes with the same result.
//
// spec/gate.md §20: 9.
func TestKilledSync(t *testing.T) {
	if step := os.Getenv("TEROK_TEST_KILL_AT"); step != "" {
		dir := os.Getenv("TEROK_TEST_DIR")
		s := &store.Store{Git: &git.Runner{}, Roots: state.Roots{Config: dir + "/config", Data: dir + "/data", Runtime: dir + "/run"},
			Fault: func(at string) {
				if at == step {
					_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				}
			}}
		_, err := s.SyncWith(t.Context(), gatetest.Project, dir+"/clone", store.Options{Destructive: true, Backups: store.DefaultBackups})
		fmt.Println("not killed:", err)
		return
	}
	t.Parallel()
	hit := map[string]bool{}
	for _, step := range syncSteps {
		w := newWorld(t)
		kill := func() {
			c := exec.Command("/proc/self/exe", "-test.run=^TestKilledSync$")
			c.Env = append(os.Environ(), "TEROK_TEST_KILL_AT="+step, "TEROK_TEST_DIR="+w.Dir)
			out, err := c.CombinedOutput()
			exit, ok := errors.AsType[*exec.ExitError](err)
			if ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
				hit[step] = true
			} else if err != nil {
				t.Fatalf("%s: %v %s", step, err, out)
			}
		}
		whole := func() {
			t.Helper()
			if _, err := os.Stat(w.base()); err == nil {
				w.Git(w.base(), "fsck", "--strict")
				if err := store.Verify(w.base()); err != nil {
					t.Errorf("%s: %v", step, err)
				}
			} else if _, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "k3v9p", Branch: "terok/k3v9p-x"}); err == nil {
				t.Errorf("%s: a task was made from a base that is not there", step)
			}
		}
		kill()
		whole()
		w.sync(store.Options{Backups: store.DefaultBackups})
		old := w.tip("refs/heads/main")
		w.Git(w.Upstream, "branch", "dev")
		w.Git(w.Upstream, "commit", "-q", "--amend", "-m", "rewritten")
		now := w.Git(w.Upstream, "rev-parse", "main")
		kill()
		whole()
		// The rewrite is still known as one, whatever was recorded when it was killed.
		rep := w.sync(store.Options{})
		if got := w.tip("refs/heads/main"); got != now && (got != old || kinds(rep.Pending) != "main:rewrite") {
			t.Errorf("%s: main %s, pending %s", step, got, kinds(rep.Pending))
		}
		w.sync(store.Options{Destructive: true, Backups: store.DefaultBackups})
		list, err := w.Store.ListBackups(t.Context(), gatetest.Project, "")
		if err != nil || w.tip("refs/heads/main") != now || w.tip("refs/heads/dev") != old || len(list) != 1 || list[0].Tip != old {
			t.Errorf("%s: main %s dev %s backups %+v %v", step, w.tip("refs/heads/main"), w.tip("refs/heads/dev"), list, err)
		}
		if left, _ := w.TryGit(w.base(), "for-each-ref", "refs/terok/fetched", "refs/terok/fetched-tags", "refs/terok/attic"); left != "" {
			t.Errorf("%s: left behind %s", step, left)
		}
	}
	for _, step := range syncSteps {
		if !hit[step] {
			t.Errorf("step %s was never reached", step)
		}
	}
}

// TestSilentUpstream: one that accepts and says nothing ends within the stall limit, exit 12.
//
// spec/gate.md §20: 10 (the silent server).
func TestSilentUpstream(t *testing.T) {
	w := newWorld(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	w.Store.Stall = 300 * time.Millisecond
	_, err = w.Store.Init(t.Context(), gatetest.Project, "https://"+l.Addr().String()+"/x.git")
	if p := problem.Of(err); p == nil || p.Code != "upstream_stalled" || p.Exit != problem.Deadline {
		t.Errorf("%v", err)
	}
	if _, err := os.Stat(w.base()); err == nil {
		t.Error("a base was made")
	}
}

// TestHostileUpstreams: helpers, options and credentials in an upstream are refused, and never
// repeated.
//
// spec/gate.md §20: 11, 12.
func TestHostileUpstreams(t *testing.T) {
	w := newWorld(t)
	canary := filepath.Join(w.Dir, "canary")
	for _, u := range []string{"ext::sh -c touch% " + canary, "--upload-pack=touch " + canary, "-u./x", "fd::7", "https://ada:hunter2@example.org/x.git",
		"https://hunter2@example.org/x.git", "ssh://ada:hunter2@example.org/x", "ssh://-oProxyCommand=touch/x", "http://example.org/x", "file://host/x"} {
		_, err := w.Store.Init(t.Context(), gatetest.Project, u)
		if !problem.Is(err, "bad_upstream") || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", u, err)
		}
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("something ran")
	}
	for in, want := range map[string]string{"https://a:b@h/p": "https://***@h/p", "https://a@h/p": "https://***@h/p", "ssh://git@h/p": "ssh://git@h/p",
		"ssh://g:p@h/p": "ssh://***@h/p", "/a@b/c": "/a@b/c", "git@h:p": "git@h:p", "https://h/p@q": "https://h/p@q"} {
		if got := store.MaskURL(in); got != want {
			t.Errorf("MaskURL(%s) = %s, want %s", in, got, want)
		}
	}
}

// TestReinit: the old store stays until the new one is whole, what only it had becomes backups, and
// nothing of it goes without being asked for.
//
// spec/gate.md §20: 15.
func TestReinit(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	w.Git(w.base(), "update-ref", "refs/heads/mine", "refs/heads/main")
	own := w.Git(w.base(), "commit-tree", "-p", "refs/heads/main", "-m", "own", "refs/heads/main^{tree}")
	w.Git(w.base(), "update-ref", "refs/heads/mine", own)
	w.Git(w.base(), "update-ref", "refs/terok/backup/gone/20260101T000000Z-"+own[:12], own)
	_, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, store.Options{Reinit: true})
	if p := problem.Of(err); p == nil || p.Code != "needs_destructive" || !strings.Contains(p.Message, "branch mine") {
		t.Fatalf("%v", err)
	}
	// Upstream gone in the middle: everything is as it was.
	away := w.Upstream + ".away"
	if err := os.Rename(w.Upstream, away); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, store.Options{Reinit: true, Destructive: true}); err == nil || w.tip("refs/heads/mine") != own {
		t.Fatalf("the old store is gone: %v", err)
	}
	if err := os.Rename(away, w.Upstream); err != nil {
		t.Fatal(err)
	}
	rep := w.sync(store.Options{Reinit: true, Destructive: true})
	list, err := w.Store.ListBackups(t.Context(), gatetest.Project, "")
	if err != nil || !rep.Created || w.tip("refs/heads/mine") != "" || len(list) < 2 {
		t.Errorf("%+v %+v %v", rep, list, err)
	}
	w.Git(w.base(), "fsck", "--strict", "--connectivity-only")
	if left, _ := filepath.Glob(w.base() + ".old-*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	w.Task("k3v9p")
	if _, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, store.Options{Reinit: true, Destructive: true}); !problem.Is(err, "gate_in_use") {
		t.Errorf("with a borrower: %v", err)
	}
}

// TestSeeds: the first sync takes what a bundle or a neighbour has, and only the rest from upstream.
func TestSeeds(t *testing.T) {
	for _, flag := range []string{"bundle", "reference"} {
		w := newWorld(t)
		w.Git(w.Upstream, "bundle", "create", "-q", filepath.Join(w.Dir, "seed.bundle"), "main")
		w.Git(w.Dir, "clone", "-q", "--bare", w.Upstream, "near.git")
		w.Write("new", "x")
		id := w.Commit(w.Upstream, "third")
		o := store.Options{Bundle: filepath.Join(w.Dir, "seed.bundle")}
		if flag == "reference" {
			o = store.Options{Reference: filepath.Join(w.Dir, "near.git")}
		}
		rep := w.sync(o)
		if !rep.Created || w.tip("refs/heads/main") != id {
			t.Errorf("%s: %+v", flag, rep)
		}
		if out := w.Git(w.base(), "for-each-ref", "refs/terok/seed"); out != "" {
			t.Errorf("%s left refs: %s", flag, out)
		}
		if packs, _ := filepath.Glob(w.base() + "/objects/pack/*.pack"); len(packs) != 2 {
			t.Errorf("%s: %d packs: nothing was taken from the seed", flag, len(packs))
		}
		w.Git(w.base(), "fsck", "--strict")
	}
	w := newWorld(t)
	if _, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, store.Options{Bundle: "/nonexistent"}); !problem.Is(err, "bad_seed") {
		t.Errorf("%v", err)
	}
}

// TestSelectiveSync touches the named branches only and prunes nothing.
func TestSelectiveSync(t *testing.T) {
	w := newWorld(t)
	w.Git(w.Upstream, "branch", "dev")
	w.Git(w.Upstream, "branch", "old")
	w.sync(store.Options{})
	dev := w.tip("refs/heads/dev")
	w.Git(w.Upstream, "branch", "-D", "old")
	w.Write("new", "x")
	id := w.Commit(w.Upstream, "third")
	w.Git(w.Upstream, "branch", "-f", "dev")
	rep := w.sync(store.Options{Branches: []string{"main"}})
	if kinds(rep.Applied) != "main:fast_forward" || len(rep.Pending) > 0 || w.tip("refs/heads/dev") != dev || w.tip("refs/heads/main") != id {
		t.Errorf("%+v", rep)
	}
	if rep = w.sync(store.Options{}); kinds(rep.Applied) != "dev:fast_forward" || kinds(rep.Pending) != "old:delete" {
		t.Errorf("%+v", rep)
	}
	if _, err := w.Store.SyncWith(t.Context(), gatetest.Project, w.Upstream, store.Options{Branches: []string{"--x"}}); !problem.Is(err, "bad_branch") {
		t.Errorf("%v", err)
	}
}

// TestRetention keeps exactly what is young enough and the last ones of each branch.
//
// spec/gate.md §20: 59.
func TestRetention(t *testing.T) {
	w := newWorld(t)
	w.sync(store.Options{})
	now := time.Now().UTC()
	w.Store.Now = func() time.Time { return now }
	tip := w.tip("refs/heads/main")
	var script strings.Builder
	want := 0
	for i := range 200 {
		branch, age := "a/b", time.Duration(i)*24*time.Hour // one a day; 31 are young enough: day 0 to 30
		switch {
		case i >= 190:
			branch, age = "old", time.Duration(100+i)*24*time.Hour // 3 stay by keep_min
		case i >= 180:
			branch, age = "future", -time.Duration(i)*24*time.Hour // clamped to now: all young
		}
		fmt.Fprintf(&script, "create refs/terok/backup/%s/%s-%012x %s\n", branch, now.Add(-age).Format("20060102T150405Z"), i, tip)
	}
	want = 31 + 3 + 10
	if _, err := w.Store.Git.Run(t.Context(), git.Cmd{GitDir: w.base(), Args: []string{"update-ref", "--stdin"}, Stdin: strings.NewReader(script.String())}); err != nil {
		t.Fatal(err)
	}
	keep := store.Backups{Retention: 30*24*time.Hour + time.Minute, KeepMin: 3}
	gone, err := w.Store.PruneBackups(t.Context(), gatetest.Project, "", keep)
	if err != nil || len(gone) != 200-want {
		t.Fatalf("%d pruned, want %d: %v", len(gone), 200-want, err)
	}
	list, _ := w.Store.ListBackups(t.Context(), gatetest.Project, "")
	for _, b := range list {
		if now.Sub(b.Time) > keep.Retention && b.Branch != "old" {
			t.Errorf("kept: %+v", b)
		}
	}
	if gone, err = w.Store.PruneBackups(t.Context(), gatetest.Project, "", store.Backups{KeepMin: 3}); err != nil || len(gone) != 0 {
		t.Errorf("retention 0 is for ever: %d, %v", len(gone), err)
	}
}

// TestOperatorConfig: nothing of the person's own git configuration runs.
//
// spec/gate.md §20: 14 (sync, seed and tasks; review and promotion have their own).
func TestOperatorConfig(t *testing.T) {
	w := newWorld(t)
	canary := filepath.Join(w.Dir, "canary")
	home := filepath.Join(w.Dir, "home")
	run := "touch " + canary + " #"
	gatetest.WriteFile(t, home, ".gitconfig", fmt.Sprintf("[core]\n\thooksPath = %s/hooks\n\tfsmonitor = %s\n\tsshCommand = %s\n[url \"ext::sh -c '%s'\"]\n\tinsteadOf = /\n[filter \"x\"]\n\tsmudge = %s\n\tclean = %s\n", home, run, run, run, run, run))
	gatetest.WriteFile(t, home, "hooks/reference-transaction", "#!/bin/sh\n"+run)
	if err := os.Chmod(home+"/hooks/reference-transaction", 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	w.Write(".gitattributes", "* filter=x\n")
	w.Commit(w.Upstream, "attributes")
	w.sync(store.Options{})
	w.Task("k3v9p")
	w.Write("more", "x")
	w.Commit(w.Upstream, "more")
	w.sync(store.Options{})
	if _, err := os.Stat(canary); err == nil {
		t.Error("a program of the person's configuration ran")
	}
}
