package promote_test

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/inspect"
	"terok/internal/gate/promote"
	"terok/internal/gate/receipt"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
)

// killEnv makes the test binary promote and die at a step: it holds the JSON of a killed.
const killEnv = "PROMOTE_TEST_KILL"

type killed struct {
	World  gatetest.World
	Src    promote.Source
	Dst    promote.Target
	Step   string
	Undo   bool
	Signed bool
}

func TestMain(m *testing.M) {
	if text := os.Getenv(killEnv); text != "" && (len(os.Args) < 2 || os.Args[1] != inspect.Command) {
		var k killed
		if err := json.Unmarshal([]byte(text), &k); err != nil {
			panic(err)
		}
		k.run()
		os.Exit(0)
	}
	gatetest.Main(m)
}

func (k *killed) run() {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	g := &git.Runner{}
	p := &promote.Promoter{Store: &store.Store{Roots: k.World.Roots, Git: g}, Review: review.NewReader(k.World.Roots, self, false), Git: g,
		Receipt: signReceipt(k.World.Roots.ReceiptsDir()), Step: func(name string) {
			if name == k.Step {
				_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}}
	if k.Undo {
		_, err = p.Undo(context.Background(), k.Src.Task)
	} else {
		_, err = p.Promote(context.Background(), k.Src, k.Dst)
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(3)
	}
}

// signReceipt makes receipts without ledgers.
func signReceipt(dir string) func(review.Promotion, review.Change, []review.Approval) ([]byte, error) {
	return func(q review.Promotion, c review.Change, _ []review.Approval) ([]byte, error) {
		key, err := receipt.Keys{Dir: dir}.Signer()
		if err != nil {
			return nil, err
		}
		return receipt.Sign(receipt.Receipt{Project: c.Project, Task: c.Task, Commit: q.As, Tip: q.Commit, Commits: c.IDs, Target: q.Target}, key)
	}
}

// die runs one promotion in a process that kills itself at a step; it reports whether it got there.
func (r *rig) die(k killed) bool {
	r.T.Helper()
	k.World = gatetest.World{Roots: r.Roots}
	data, err := json.Marshal(k)
	if err != nil {
		r.T.Fatal(err)
	}
	cmd := exec.Command(gatetest.Self(r.T))
	cmd.Env = append(os.Environ(), killEnv+"="+string(data))
	out, err := cmd.CombinedOutput()
	if err == nil {
		return false
	}
	if exit, ok := err.(*exec.ExitError); ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	r.T.Fatalf("%s: %v: %s", k.Step, err, out)
	return false
}

// Spec/gate.md §20: 52. Killed at each step, the target is as it was or holds exactly the promoted
// commit; the same command finishes it, under the same name, once; and undo leaves nothing.
func TestKilled(t *testing.T) {
	for name, kind := range map[string]string{"clone": review.ToClone, "upstream": review.ToUpstream, "gate": review.ToGate} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, kind == review.ToUpstream)
			r.p.Receipt = signReceipt(r.Roots.ReceiptsDir())
			where, dst := r.Upstream, promote.Target{Kind: kind, Branch: "taken", Squash: &promote.Squash{Author: inspect.Identity{Name: "A", Email: "a@b"}, Committer: inspect.Identity{Name: "C", Email: "c@d"}}}
			if kind == review.ToClone {
				dst.Dir = r.Upstream
			}
			if kind == review.ToGate {
				where = r.Roots.GateBase(gatetest.Project)
			}
			refs := func() string { return r.Git(where, "for-each-ref", "refs/heads", "refs/notes", "refs/tags") }
			before := refs()
			between := map[string]string{review.ToClone: "fetched", review.ToUpstream: "pushed", review.ToGate: "intended"}[kind]
			for _, step := range []string{"approved", "copied", "intended", between, "acted", "noted", "recorded"} {
				old := r.tip(where, "refs/heads/taken")
				if !r.die(killed{Src: r.src, Dst: dst, Step: step}) {
					t.Errorf("%s is no step", step)
				}
				tip := r.tip(where, "refs/heads/taken")
				if tip != old && old != "" {
					t.Errorf("%s: the branch went from %s to %s", step, old, tip)
				}
				if tip != "" && r.Git(where, "log", "-1", "--format=%(trailers:key=Terok-Reviewed,valueonly)", tip) != r.src.Commit {
					t.Errorf("%s: %s is not the promoted commit", step, tip)
				}
				if r.Git(where, "fsck", "--connectivity-only", "--no-dangling") != "" {
					t.Errorf("%s: damaged", step)
				}
			}
			tip := r.tip(where, "refs/heads/taken")
			done, err := r.p.Promote(t.Context(), r.src, dst)
			if err != nil || done.As != tip || tip == "" {
				t.Errorf("the second run made %s of %s: %v", done.As, tip, err)
			}
			rec, err := review.LoadRecord(r.Roots, gatetest.Project, r.task.ID)
			if h := rec.History(r.task.Branch); err != nil || h.Intent != nil || len(h.Promotions) != 1 {
				t.Errorf("record %+v %v", h, err)
			}
			if out := r.Git(r.Roots.GateBase(gatetest.Project), "for-each-ref", "refs/terok/incoming"); out != "" {
				t.Errorf("left in the base: %s", out)
			}
			for range rec.History(r.task.Branch).Promotions {
				if !r.die(killed{Src: r.src, Step: "moved back", Undo: true}) {
					t.Error("undo has no step")
				}
				if _, err := r.p.Undo(t.Context(), r.task); err != nil {
					t.Fatal(err)
				}
			}
			if after := refs(); after != before {
				t.Errorf("after undo:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// Spec/gate.md §20: 43. At level commit each commit needs its own approval; the refusal lists them.
func TestRequireReview(t *testing.T) {
	r := newRig(t, false)
	first := r.src.Commit
	r.src.Commit = r.push("b", "2")
	r.src.Approve = false
	_, err := r.p.Promote(t.Context(), r.src, r.clone("x"))
	r.want(err, "not_reviewed", problem.Conflict)
	r.src.Level = review.LevelCommit
	approve := func(commits ...string) {
		t.Helper()
		if _, err := r.p.Review.Approve(t.Context(), r.task, review.Decision{Tip: r.src.Commit, Commits: commits, By: "Ada"}); err != nil {
			t.Fatal(err)
		}
	}
	approve()
	approve(first)
	_, err = r.p.Promote(t.Context(), r.src, r.clone("x"))
	r.want(err, "not_reviewed", problem.Conflict)
	if left := problem.Of(err).Details["commits"]; len(left.([]string)) != 1 || left.([]string)[0] != r.src.Commit {
		t.Errorf("left: %v", left)
	}
	r.src.Approve = true // typing the id approves the branch, which is not enough here
	_, err = r.p.Promote(t.Context(), r.src, r.clone("x"))
	r.want(err, "not_reviewed", problem.Conflict)
	if r.tip(r.Upstream, "refs/heads/x") != "" {
		t.Error("promoted all the same")
	}
	approve(r.src.Commit)
	r.src.Approve = false
	if _, err := r.p.Promote(t.Context(), r.src, r.clone("x")); err != nil {
		t.Fatal(err)
	}
	r.src.Level = "none"
	if _, err := r.p.Promote(t.Context(), r.src, r.clone("y")); err != nil {
		t.Fatal(err)
	}
}

// Spec/gate.md §20: 44, 46, 48. Upstream gets exactly that commit under that name and nothing else;
// the next sync finds it in step; protected names need their word; no hook and no signing program of
// the operator's runs.
func TestUpstreamGetsOneRef(t *testing.T) {
	r := newRig(t, true)
	canary := filepath.Join(r.Dir, "canary")
	evil := filepath.Join(r.Dir, "evil")
	gatetest.WriteFile(t, r.Dir, "evil", "#!/bin/sh\ntouch "+canary+"\nexit 1\n")
	gatetest.WriteFile(t, r.Dir, "home/.gitconfig", "[core]\n\thooksPath = "+r.Dir+"/hooks\n\tsshCommand = "+evil+"\n\tfsmonitor = "+evil+"\n[push]\n\tgpgSign = true\n\tfollowTags = true\n[gpg]\n\tprogram = "+evil+"\n[diff]\n\texternal = "+evil+"\n[url \"ext::"+evil+"\"]\n\tinsteadOf = "+r.Upstream+"\n")
	gatetest.WriteFile(t, r.Dir, "hooks/pre-push", "#!/bin/sh\ntouch "+canary+"\nexit 1\n")
	for _, f := range []string{"evil", "hooks/pre-push"} {
		if err := os.Chmod(filepath.Join(r.Dir, f), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", filepath.Join(r.Dir, "home"))
	t.Setenv("GIT_CONFIG_GLOBAL", filepath.Join(r.Dir, "home", ".gitconfig"))
	t.Setenv("GIT_EXTERNAL_DIFF", evil)
	t.Setenv("GIT_PAGER", evil)
	refs := r.Git(r.Upstream, "for-each-ref")
	r.p.Receipt = signReceipt(r.Roots.ReceiptsDir())
	dst := r.upstream("feature")
	dst.Protected = []string{"release/*"}
	if _, err := r.p.Promote(t.Context(), r.src, dst); err != nil {
		t.Fatal(err)
	}
	if got := r.Git(r.Upstream, "for-each-ref"); got != r.src.Commit+" commit\trefs/heads/feature\n"+refs {
		t.Errorf("upstream:\n%s", got)
	}
	if d, err := r.p.Review.Show(t.Context(), r.task, review.ShowOptions{}); err == nil {
		t.Errorf("upstream has it, and it still waits: %s", d.State)
	}
	rep, err := r.Store.Sync(t.Context(), gatetest.Project)
	if err != nil || len(rep.Applied)+len(rep.Pending)+len(rep.Ahead) != 0 {
		t.Errorf("the next sync: %+v %v", rep, err)
	}
	second := r.src
	second.Commit = r.push("b", "2")
	for _, name := range []string{"main", "release/1"} {
		dst.Branch, dst.AllowDefault = name, false
		_, err := r.p.Promote(t.Context(), second, dst)
		r.want(err, "protected_branch", problem.Conflict)
	}
	dst.Branch, dst.AllowDefault = "release/1", true
	if _, err := r.p.Promote(t.Context(), second, dst); err != nil || r.tip(r.Upstream, "refs/heads/release/1") != second.Commit {
		t.Errorf("asked for twice: %v", err)
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a program of the operator's configuration ran")
	}
}

// Spec/gate.md §20: 49. Promoted to the gate, running tasks see it and new ones can start there;
// undo restores what was there.
func TestToGate(t *testing.T) {
	r := newRig(t, false)
	base := r.Roots.GateBase(gatetest.Project)
	main := r.tip(base, "refs/heads/main")
	other := r.World.Task("q7w2x")
	dst := promote.Target{Kind: review.ToGate, Branch: "main"}
	_, err := r.p.Promote(t.Context(), r.src, dst)
	r.want(err, "protected_branch", problem.Conflict)
	dst.AllowDefault = true
	if _, err := r.p.Promote(t.Context(), r.src, dst); err != nil {
		t.Fatal(err)
	}
	if got := r.tip(base, "refs/heads/main"); got != r.src.Commit {
		t.Errorf("the base's main is %s", got)
	}
	for _, ref := range []string{"refs/heads/main", "refs/upstream/heads/main"} {
		if got := r.tip(other.Repo, ref); got != r.src.Commit {
			t.Errorf("the other task sees %s at %s", ref, got)
		}
	}
	fresh, err := r.Store.CreateTask(t.Context(), store.TaskSpec{Project: gatetest.Project, ID: "n3w00", Branch: "terok/n3w00-x"})
	if err != nil || fresh.Start != r.src.Commit {
		t.Errorf("a new task starts from %s: %v", fresh.Start, err)
	}
	if _, err := r.p.Undo(t.Context(), r.task); err != nil {
		t.Fatal(err)
	}
	if got := r.tip(base, "refs/heads/main"); got != main {
		t.Errorf("after undo the base's main is %s", got)
	}
	if got := r.tip(other.Repo, "refs/heads/main"); got != main {
		t.Errorf("after undo the other task sees %s", got)
	}
}

// Spec/gate.md §20: 50. Of any clone only refs/remotes/terok/… changes: not its work tree, index,
// branches or configuration, and none of its hooks runs.
func TestToRepo(t *testing.T) {
	r := newRig(t, false)
	canary := filepath.Join(r.Dir, "canary")
	clone := filepath.Join(r.Dir, "other")
	r.Git(r.Dir, "clone", "-q", r.Upstream, clone)
	gatetest.WriteFile(t, clone, "README.md", "dirty\n")
	for _, hook := range []string{"reference-transaction", "post-checkout", "post-merge"} {
		gatetest.WriteFile(t, clone, ".git/hooks/"+hook, "#!/bin/sh\ntouch "+canary+"\n")
		if err := os.Chmod(filepath.Join(clone, ".git/hooks", hook), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	state := func() string {
		s := r.Git(clone, "for-each-ref", "--format=%(refname) %(objectname)") + "\n"
		for _, f := range []string{".git/HEAD", ".git/index", ".git/config", "README.md"} {
			data, err := os.ReadFile(filepath.Join(clone, f))
			if err != nil {
				t.Fatal(err)
			}
			s += string(data)
		}
		return s
	}
	before := state()
	r.p.Receipt = signReceipt(r.Roots.ReceiptsDir())
	dst := promote.Target{Kind: review.ToRepo, Dir: clone, Branch: "brave-otter"}
	if _, err := r.p.Promote(t.Context(), r.src, dst); err != nil {
		t.Fatal(err)
	}
	ref := "refs/remotes/terok/k3v9p/brave-otter"
	if got := strings.Replace(state(), ref+" "+r.src.Commit+"\n", "", 1); got != before {
		t.Errorf("more than that ref changed:\n%s", got)
	}
	second := r.src
	second.Commit = r.push("b", "2")
	if done, err := r.p.Promote(t.Context(), second, dst); err != nil || done.Old != r.src.Commit || r.tip(clone, ref) != second.Commit {
		t.Errorf("again: %+v %v", done, err)
	}
	for range 2 {
		if _, err := r.p.Undo(t.Context(), r.task); err != nil {
			t.Fatal(err)
		}
	}
	if state() != before {
		t.Error("undo left something")
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a hook of the clone ran")
	}
}

// Spec/gate.md §20: 51. One commit whose tree is that of the merge, by whom the project says, with
// trailers that say what was reviewed.
func TestSquash(t *testing.T) {
	r := newRig(t, true)
	r.src.Commit = r.push("b", "2")
	colleague := filepath.Join(r.Dir, "colleague")
	r.Git(r.Dir, "clone", "-q", r.Upstream, colleague)
	gatetest.WriteFile(t, colleague, "theirs", "3")
	theirs := r.Commit(colleague, "theirs")
	r.Git(colleague, "push", "-q", "origin", "HEAD:main")
	if _, err := r.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	dst := r.upstream("main")
	dst.AllowDefault = true
	dst.Squash = &promote.Squash{Message: "All of it", Author: inspect.Identity{Name: "Claude", Email: "noreply@anthropic.com"}, Committer: inspect.Identity{Name: "Ada", Email: "ada@example.test"}}
	done, err := r.p.Promote(t.Context(), r.src, dst)
	if err != nil {
		t.Fatal(err)
	}
	tip := r.tip(r.Upstream, "refs/heads/main")
	if tip != done.As || tip == r.src.Commit || r.Git(r.Upstream, "rev-parse", "main^") != theirs {
		t.Errorf("main is %s behind %s", tip, r.Git(r.Upstream, "rev-parse", "main^"))
	}
	if got := r.Git(r.Upstream, "ls-tree", "--name-only", "main"); got != "README.md\na\nb\nsrc\ntheirs" {
		t.Errorf("tree %q", got)
	}
	want := "Claude <noreply@anthropic.com> Ada <ada@example.test>\nAll of it\n\nTerok-Task: webshop/k3v9p\nTerok-Reviewed: " + r.src.Commit
	if got := r.Git(r.Upstream, "log", "-1", "--format=%an <%ae> %cn <%ce>%n%B", "main"); got != want {
		t.Errorf("commit %q", got)
	}
	if _, err := r.p.Undo(t.Context(), r.task); err != nil || r.tip(r.Upstream, "refs/heads/main") != theirs {
		t.Errorf("undo: %v", err)
	}
	// The same lines: nothing is made up.
	gatetest.WriteFile(t, colleague, "a", "conflict")
	r.Commit(colleague, "conflict")
	r.Git(colleague, "push", "-q", "origin", "HEAD:main")
	if _, err := r.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	_, err = r.p.Promote(t.Context(), r.src, dst)
	r.want(err, "merge_conflict", problem.Conflict)
}

// TestToFiles: a bundle that git fetches from, and patches that git am applies, are what was reviewed;
// undo removes what we wrote as long as it is that.
func TestToFiles(t *testing.T) {
	r := newRig(t, false)
	gatetest.WriteFile(t, r.work, "bin", "\x00\x01")
	gatetest.WriteFile(t, r.work, "ümlaut", "x\n")
	r.Git(r.work, "add", "-A")
	r.Git(r.work, "commit", "-q", "-m", "Zweite Änderung \x1b[31m\n\nFrom here\n--- a/x\ndiff -u", "--author", "Jürgen \u202e <j@example.test>")
	r.Git(r.work, "push", "-q", "origin", "HEAD")
	r.src.Commit = r.Git(r.work, "rev-parse", "HEAD")
	bundle, patches := filepath.Join(r.Dir, "x.bundle"), filepath.Join(r.Dir, "patches")
	if _, err := r.p.Promote(t.Context(), r.src, promote.Target{Kind: review.ToBundle, Dir: bundle, Branch: "taken"}); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(bundle)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	r.Git(r.Upstream, "bundle", "verify", bundle)
	r.Git(r.Upstream, "fetch", "-q", bundle, "refs/heads/taken:refs/heads/from-bundle")
	if got := r.tip(r.Upstream, "refs/heads/from-bundle"); got != r.src.Commit {
		t.Errorf("the bundle holds %s", got)
	}
	_, err = r.p.Promote(t.Context(), r.src, promote.Target{Kind: review.ToBundle, Dir: bundle, Branch: "taken"})
	r.want(err, "file_exists", problem.Conflict)
	if _, err := r.p.Promote(t.Context(), r.src, promote.Target{Kind: review.ToPatches, Dir: patches, Branch: "taken"}); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(patches + "/*.patch")
	if err != nil || len(files) != 2 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		head, _, _ := strings.Cut(string(data), "\n\n")
		if strings.ContainsFunc(head, func(c rune) bool { return c < 0x20 && c != '\n' || c > 0x7e }) {
			t.Errorf("headers %q", head)
		}
	}
	r.Git(r.Upstream, "checkout", "-q", "-b", "applied", r.repo.Start)
	r.Git(r.Upstream, append([]string{"am", "-q"}, files...)...)
	if got, want := r.Git(r.Upstream, "rev-parse", "HEAD^{tree}"), r.Git(r.work, "rev-parse", "HEAD^{tree}"); got != want {
		t.Errorf("git am made tree %s, not %s", got, want)
	}
	for _, place := range []string{patches, bundle} {
		if _, err := r.p.Undo(t.Context(), r.task); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(place); err == nil {
			t.Errorf("undo left %s", place)
		}
	}
	if _, err := r.p.Promote(t.Context(), r.src, promote.Target{Kind: review.ToPatches, Dir: patches, Branch: "taken"}); err != nil {
		t.Fatal(err)
	}
	gatetest.WriteFile(t, patches, filepath.Base(files[0]), "mine now")
	_, err = r.p.Undo(t.Context(), r.task)
	r.want(err, "promotion_moved", problem.Conflict)
}

// TestFilesOfOthers: what a person put at the place of a killed promotion is theirs, also when the
// promotion is run again.
func TestFilesOfOthers(t *testing.T) {
	for kind, mine := range map[string]string{review.ToBundle: "", review.ToPatches: "diary"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, false)
			dst := promote.Target{Kind: kind, Dir: filepath.Join(r.Dir, "out"), Branch: "taken"}
			if !r.die(killed{Src: r.src, Dst: dst, Step: "intended"}) {
				t.Fatal("there is no such step")
			}
			gatetest.WriteFile(t, dst.Dir, mine, "mine")
			_, err := r.p.Promote(t.Context(), r.src, dst)
			r.want(err, "file_exists", problem.Conflict)
			if data, err := os.ReadFile(filepath.Join(dst.Dir, mine)); err != nil || string(data) != "mine" {
				t.Fatalf("%q %v", data, err)
			}
			if err := os.RemoveAll(dst.Dir); err != nil {
				t.Fatal(err)
			}
			for _, step := range []string{"intended", "acted", "noted"} {
				if !r.die(killed{Src: r.src, Dst: dst, Step: step}) {
					t.Errorf("%s is no step", step)
				}
			}
			if _, err := r.p.Promote(t.Context(), r.src, dst); err != nil {
				t.Errorf("what it wrote itself: %v", err)
			}
			if left, _ := filepath.Glob(filepath.Join(r.Dir, ".out*")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

// TestMailIsOfItsAuthor: git am takes author, date and subject from the mail's own headers, whatever
// the message begins with.
func TestMailIsOfItsAuthor(t *testing.T) {
	r := newRig(t, false)
	gatetest.WriteFile(t, r.work, "x", "1")
	r.Git(r.work, "add", "-A")
	r.Git(r.work, "commit", "-q", "-m", "the subject\n\n", "-m", "From: Linus <linus@example.test>\nSubject: another\nDate: Mon, 1 Jan 2001 00:00:00 +0000\n\n>From: x\n[PATCH] y\nwords")
	r.Git(r.work, "push", "-q", "origin", "HEAD")
	r.src.Commit = r.Git(r.work, "rev-parse", "HEAD")
	dir := filepath.Join(r.Dir, "patches")
	if _, err := r.p.Promote(t.Context(), r.src, promote.Target{Kind: review.ToPatches, Dir: dir, Branch: "taken"}); err != nil {
		t.Fatal(err)
	}
	files, _ := filepath.Glob(dir + "/*.patch")
	r.Git(r.Upstream, "checkout", "-q", "-b", "applied", r.repo.Start)
	r.Git(r.Upstream, append([]string{"am", "-q"}, files...)...)
	const format = "--format=%an <%ae> %at %s"
	if got, want := r.Git(r.Upstream, "log", "-1", format), r.Git(r.work, "log", "-1", format); got != want {
		t.Errorf("git am made %q of %q", got, want)
	}
}

// Spec/gate.md §20: 33, 34, 57. The hostile corpus through a whole promotion: replace refs, attributes
// with filters and drivers, a submodule whose address counts visitors, hooks in the tree. Nothing runs,
// nothing is contacted, and what arrives is what the ids say.
func TestHostileCorpus(t *testing.T) {
	r := newRig(t, false)
	canary := filepath.Join(r.Dir, "canary")
	var visits atomic.Int32
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
			visits.Add(1)
			c.Close()
		}
	}()
	touch := "touch " + canary
	for path, content := range map[string]string{
		".gitattributes":           "* diff=evil filter=evil merge=evil\n*.txt ident export-subst\n",
		".gitmodules":              "[submodule \"s\"]\n\tpath = s\n\turl = http://" + l.Addr().String() + "/x.git\n",
		".lfsconfig":               "[lfs]\n\turl = http://" + l.Addr().String() + "/\n",
		"a.txt":                    "the real content $Id$\n",
		".githooks/pre-commit":     "#!/bin/sh\n" + touch + "\n",
		"config":                   "[core]\n\tfsmonitor = " + touch + "\n",
		".gitconfig":               "[alias]\n\tx = !" + touch + "\n",
		"dir/\x1b]52;c;ZXZpbA\x07": "x\n",
	} {
		gatetest.WriteFile(t, r.work, path, content)
	}
	r.Git(r.work, "update-index", "--add", "--cacheinfo", "160000,"+r.repo.Start+",s")
	if err := os.MkdirAll(filepath.Join(r.work, "s"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.src.Commit = r.push("b", "2")
	innocent := r.Git(r.repo.Repo, "commit-tree", "-p", r.repo.Start, "-m", "innocent", r.repo.Start+"^{tree}")
	r.Git(r.repo.Repo, "update-ref", "refs/replace/"+r.src.Commit, innocent)
	r.p.Receipt = signReceipt(r.Roots.ReceiptsDir())
	for _, dst := range []promote.Target{r.clone("taken"), {Kind: review.ToBundle, Branch: "taken", Dir: filepath.Join(r.Dir, "b")},
		{Kind: review.ToPatches, Branch: "taken", Dir: filepath.Join(r.Dir, "p")}, {Kind: review.ToRepo, Branch: "taken", Dir: r.Upstream},
		{Kind: review.ToGate, Branch: "squashed", Squash: &promote.Squash{Author: inspect.Identity{Name: "A", Email: "a@b"}, Committer: inspect.Identity{Name: "A", Email: "a@b"}}},
		{Kind: review.ToGate, Branch: "taken"}} {
		if _, err := r.p.Promote(t.Context(), r.src, dst); err != nil {
			t.Fatalf("%s: %v", dst.Kind, err)
		}
	}
	if got := r.Git(r.Upstream, "cat-file", "blob", "taken:a.txt"); got != "the real content $Id$" {
		t.Errorf("the clone has %q", got)
	}
	if _, err := r.TryGit(r.Upstream, "rev-parse", "-q", "--verify", "refs/replace/"+r.src.Commit); err == nil {
		t.Error("the replace ref came along")
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a program ran on the host")
	}
	if n := visits.Load(); n != 0 {
		t.Errorf("the host contacted the submodule's address %d times", n)
	}
}

// TestBrokenObjects: a commit whose objects are broken never reaches the base.
func TestBrokenObjects(t *testing.T) {
	r := newRig(t, false)
	blob := r.Git(r.work, "rev-parse", "HEAD:README.md")
	raw := func(kind, body string) string {
		out, err := (&git.Runner{}).Run(t.Context(), git.Cmd{GitDir: r.repo.Repo, Alternates: []string{r.Store.ObjectsDir(gatetest.Project)},
			Stdin: strings.NewReader(body), Args: []string{"hash-object", "-w", "--literally", "-t", kind, "--stdin"}})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	tree := r.Git(r.work, "rev-parse", "HEAD^{tree}")
	for name, tip := range map[string]string{
		"no author": raw("commit", "tree "+tree+"\nparent "+r.repo.Start+"\n\nx\n"),
		"bad tree":  raw("commit", "tree "+raw("tree", "100644 ../x\x00"+string(unhex(t, blob)))+"\nparent "+r.repo.Start+"\nauthor A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n"),
	} {
		r.Git(r.repo.Repo, "update-ref", "refs/heads/"+r.task.Branch, tip)
		r.src.Commit = tip
		if _, err := r.p.Promote(t.Context(), r.src, r.clone("x")); err == nil || r.tip(r.Upstream, "refs/heads/x") != "" {
			t.Errorf("%s was promoted: %v", name, err)
		}
		if _, err := r.TryGit(r.Roots.GateBase(gatetest.Project), "cat-file", "-e", tip); err == nil {
			t.Errorf("%s is in the base", name)
		}
	}
}

func unhex(t *testing.T, id string) []byte {
	t.Helper()
	out := make([]byte, len(id)/2)
	for i := range out {
		for _, c := range id[2*i : 2*i+2] {
			d := byte(strings.IndexRune("0123456789abcdef", c))
			out[i] = out[i]<<4 | d
		}
	}
	return out
}
