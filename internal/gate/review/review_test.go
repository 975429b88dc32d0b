package review_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/review"
	"terok/internal/gate/store"
	"terok/internal/problem"
)

func TestMain(m *testing.M) { gatetest.Main(m) }

// rig is a task with a clone of its repository, as the container has one.
type rig struct {
	*gatetest.World
	task   review.Task
	repo   store.Task
	work   string
	reader *review.Reader
}

func newRig(t *testing.T, before ...func(*gatetest.World)) *rig {
	t.Helper()
	w := gatetest.New(t)
	for _, change := range before {
		change(w)
	}
	r := &rig{World: w, repo: w.Gate("k3v9p"), work: filepath.Join(w.Dir, "work")}
	r.task = review.Task{Project: gatetest.Project, ID: "k3v9p", Name: "brave-otter", Branch: r.repo.Branch, Start: r.repo.Start}
	r.reader = review.NewReader(w.Roots, gatetest.Self(t), false)
	w.Git(w.Dir, "clone", "-q", r.repo.Repo, r.work)
	return r
}

// push commits what is in the work tree and pushes it.
func (r *rig) push(message string) string {
	r.T.Helper()
	id := r.Commit(r.work, message)
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	return id
}

func (r *rig) write(path, content string) { gatetest.WriteFile(r.T, r.work, path, content) }

// submodule puts a submodule into the index; the empty directory keeps "add -A" from removing it.
func (r *rig) submodule(path string) {
	r.T.Helper()
	if err := os.MkdirAll(filepath.Join(r.work, path), 0o755); err != nil {
		r.T.Fatal(err)
	}
	r.Git(r.work, "update-index", "--add", "--cacheinfo", "160000,"+r.repo.Start+","+path)
}

// env sets what the commits that follow say of themselves.
func (r *rig) env(kv ...string) { r.World.Env = kv }

func (r *rig) show() review.Details {
	r.T.Helper()
	d, err := r.reader.Show(r.T.Context(), r.task, review.ShowOptions{})
	if err != nil {
		r.T.Fatal(err)
	}
	return d
}

func codes(flags []review.Flag) []string {
	out := []string{}
	for _, f := range flags {
		out = append(out, f.Code)
	}
	slices.Sort(out)
	return out
}

func TestQueueAndShow(t *testing.T) {
	r := newRig(t)
	if q, err := r.reader.Queue(t.Context(), r.task); err != nil || len(q) != 0 {
		t.Fatalf("nothing was pushed: %+v %v", q, err)
	}
	if _, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{}); !problem.Is(err, "nothing_pushed") {
		t.Errorf("show: %v", err)
	}
	r.write("README.md", "hello\nworld\n")
	first := r.push("one\n\nwith a body")
	r.write("src/new.go", "package main\n")
	tip := r.push("two")
	q, err := r.reader.Queue(t.Context(), r.task, review.Task{Project: gatetest.Project, ID: "none"})
	if err != nil || len(q) != 1 {
		t.Fatalf("queue: %+v %v", q, err)
	}
	c := q[0]
	if c.Commits != 2 || c.Insertions != 2 || c.Deletions != 0 || len(c.Files) != 2 || c.Tip != tip || c.Base != r.repo.Start ||
		c.State != review.Pending || c.Branch != r.task.Branch || len(c.Flags) != 0 || c.TipTime.Unix() != 1700000000 {
		t.Errorf("change: %+v", c)
	}
	d := r.show()
	if len(d.List) != 2 || d.List[0].ID != tip || d.List[1].ID != first || d.List[1].Subject != "one" || d.List[1].Body != "with a body" ||
		d.List[0].Author != "Ada" || !slices.Equal(d.List[0].Parents, []string{first}) {
		t.Errorf("commits: %+v", d.List)
	}
	if !strings.Contains(d.Patch, "+world\n") || !strings.Contains(d.Patch, "+++ b/src/new.go") || d.Cut {
		t.Errorf("patch: %s", d.Patch)
	}
}

func TestOtherBranches(t *testing.T) {
	r := newRig(t)
	r.write("a", "x")
	r.Commit(r.work, "on main")
	r.Git(r.work, "push", "-q", "origin", "HEAD:refs/heads/main", "HEAD:refs/heads/aaa", "HEAD")
	q, err := r.reader.Queue(t.Context(), r.task)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range q {
		names = append(names, c.Branch)
	}
	if !slices.Equal(names, []string{r.task.Branch, "aaa", "main"}) {
		t.Errorf("branches: %v", names)
	}
}

// TestUpstreamMerged: commits that came from the base are not the task's.
func TestUpstreamMerged(t *testing.T) {
	r := newRig(t)
	r.write("a", "x")
	r.push("mine")
	r.World.Write("b", "theirs")
	r.Commit(r.Upstream, "theirs")
	if _, err := r.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	r.Git(r.work, "fetch", "-q", "origin")
	r.Git(r.work, "merge", "-q", "-m", "merge", "origin/main")
	r.Git(r.work, "push", "-q", "origin", "HEAD")
	d := r.show()
	if d.Commits != 2 || !slices.Contains(codes(d.Flags), "merge") {
		t.Errorf("%d commits, flags %v", d.Commits, codes(d.Flags))
	}
}

// TestHostileText: no control, escape or non-ASCII byte of a repository comes out.
func TestHostileText(t *testing.T) {
	r := newRig(t)
	evil := "\x1b]52;c;ZXZpbA==\x07\x1b[2J\u202e\u200b\r\u009b31m"
	r.write("f\x1b[31m\u202e.txt", "line "+evil+"\nplain\r\n")
	r.Git(r.work, "add", "-A")
	r.Git(r.work, "-c", "user.name="+evil, "commit", "-q", "--author", "X"+evil+" <x@y>", "-m", "subject "+evil+"\n\nbody "+evil)
	r.Git(r.work, "push", "-q", "origin", "HEAD")
	d := r.show()
	var check func(path string, v any)
	check = func(path string, v any) {
		switch v := v.(type) {
		case string:
			for _, c := range []byte(v) {
				if (c < 0x20 && c != '\n' && c != '\t') || c > 0x7e {
					t.Errorf("%s holds byte %#x: %q", path, c, v)
					return
				}
			}
		case map[string]any:
			for k, x := range v {
				check(path+"."+k, x)
			}
		case []any:
			for _, x := range v {
				check(path+"[]", x)
			}
		}
	}
	data, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	var v any
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	check("", v)
	if !strings.Contains(d.Patch, `\x1b]52`) || !strings.Contains(d.List[0].Subject, `\x1b`) {
		t.Error("the escape is not visible")
	}
	if got := codes(d.Flags); !slices.Contains(got, "hidden_characters") || !slices.Contains(got, "control_characters") {
		t.Errorf("flags: %v", got)
	}
}

func TestUnrelatedHistory(t *testing.T) {
	r := newRig(t)
	r.Git(r.work, "checkout", "-q", "--orphan", "fresh")
	r.write("a", "x")
	r.Commit(r.work, "root")
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD:"+r.task.Branch)
	d := r.show()
	if d.Base != "" || d.Commits != 1 || !slices.Contains(codes(d.Flags), "unrelated_history") {
		t.Errorf("change: %+v", d.Change)
	}
}

// TestHostileRepository: what the content and the repository say never runs a program, and a
// replace ref does not change what is shown.
func TestHostileRepository(t *testing.T) {
	r := newRig(t)
	canary := filepath.Join(r.Dir, "canary")
	r.write(".gitattributes", "* diff=evil filter=evil merge=evil textconv=evil\n*.txt -diff\n")
	r.write("a.txt", "the real content\n")
	r.write(".gitmodules", "[submodule \"s\"]\n\tpath = s\n\turl = ext::sh -c touch% "+canary+"\n\tupdate = !touch "+canary+"\n")
	r.submodule("s")
	r.write(".lfsconfig", "[lfs]\nurl = http://127.0.0.1:1/\n")
	tip := r.push("hostile")
	innocent := r.Git(r.repo.Repo, "commit-tree", "-p", r.repo.Start, "-m", "innocent", r.repo.Start+"^{tree}")
	r.Git(r.repo.Repo, "update-ref", "refs/replace/"+tip, innocent)
	d := r.show()
	if d.List[0].Subject != "hostile" || !strings.Contains(d.Patch, "the real content") {
		t.Errorf("a replace ref or attribute hid the content:\n%s", d.Patch)
	}
	if !slices.Contains(codes(d.Flags), "submodule") {
		t.Errorf("flags: %v", codes(d.Flags))
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a program ran on the host")
	}
	// A repository whose configuration names programs is not opened at all.
	config := filepath.Join(r.repo.Repo, "config")
	f, err := os.OpenFile(config, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteString("[diff]\n\texternal = touch " + canary + "\n")
	f.Close()
	if _, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{}); !problem.Is(err, "store_corrupt") {
		t.Errorf("show: %v", err)
	}
	if _, err := r.reader.Queue(t.Context(), r.task); !problem.Is(err, "store_corrupt") {
		t.Errorf("queue: %v", err)
	}
	if _, err := os.Stat(canary); err == nil {
		t.Error("a program ran on the host")
	}
}

func TestState(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	first := r.push("one")
	approve := func(f func(*review.History)) {
		t.Helper()
		if err := review.UpdateRecord(r.Roots, gatetest.Project, "k3v9p", func(rec *review.Record) error {
			f(rec.History(r.task.Branch))
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	approve(func(h *review.History) {
		h.Approve(review.Approval{Commit: first, Level: review.LevelBranch, At: time.Unix(1, 0)})
	})
	if d := r.show(); d.State != review.Approved {
		t.Errorf("state %s", d.State)
	}
	r.write("a", "2")
	second := r.push("two")
	if d := r.show(); d.State != review.Updated {
		t.Errorf("state %s", d.State)
	}
	approve(func(h *review.History) { h.Promotions = append(h.Promotions, review.Promotion{Commit: second}) })
	if d := r.show(); d.State != review.Promoted {
		t.Errorf("state %s", d.State)
	}
	approve(func(h *review.History) { h.Promotions[0].Undone = true })
	if d := r.show(); d.State != review.Updated {
		t.Errorf("state %s", d.State)
	}
}

// TestLarge: a patch beyond the cap is cut, said so, and still looked at whole.
func TestLarge(t *testing.T) {
	r := newRig(t)
	r.write("big.txt", strings.Repeat("0123456789abcdef\n", 400_000)+"\x1b[31m\n")
	for i := range 30 {
		r.write("d/"+string(rune('a'+i%26))+strings.Repeat("x", i)+".txt", strings.Repeat("line\n", 60_000))
	}
	r.push("big")
	start := time.Now()
	d := r.show()
	if !d.Cut || len(d.Patch) > 5<<20 {
		t.Errorf("cut %v, %d bytes", d.Cut, len(d.Patch))
	}
	t.Logf("show of %d lines: %s", d.Insertions, time.Since(start).Round(time.Millisecond))
}

// TestQueueTime measures the queue; gate.md §15 asks for 100 branches in 500 ms.
func TestQueueTime(t *testing.T) {
	r := newRig(t)
	r.write("a", "1")
	r.Commit(r.work, "one")
	for i := range 20 {
		r.Git(r.work, "push", "-q", "origin", "HEAD:refs/heads/b"+string(rune('a'+i)))
	}
	start := time.Now()
	q, err := r.reader.Queue(t.Context(), r.task)
	if err != nil || len(q) != 20 {
		t.Fatal(len(q), err)
	}
	t.Logf("queue: %s per branch", (time.Since(start) / 20).Round(time.Microsecond))
}
