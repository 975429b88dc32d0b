package review_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/review"
)

// TestSlowIsNotKept: that there was no time to look at a branch denies it now and not for ever; that it
// is larger than what is looked at is kept.
func TestSlowIsNotKept(t *testing.T) {
	r := newRig(t)
	r.write("a", "1\n")
	r.push("change")
	self := r.reader.Inspect.Self
	queue := func() []string {
		t.Helper()
		changes, err := r.reader.Queue(t.Context(), r.task)
		if err != nil || len(changes) != 1 {
			t.Fatal(changes, err)
		}
		return codes(changes[0].Flags)
	}
	ends := func(code int) {
		t.Helper()
		r.reader.Inspect.Self = filepath.Join(r.Dir, fmt.Sprintf("ends-%d", code))
		if err := os.WriteFile(r.reader.Inspect.Self, fmt.Appendf(nil, "#!/bin/sh\nexit %d\n", code), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ends(74)
	if got := queue(); !slices.Contains(got, "too_large") {
		t.Errorf("no time: %v", got)
	}
	r.reader.Inspect.Self = self
	if got := queue(); len(got) != 0 {
		t.Errorf("with time: %v", got)
	}
	r.write("b", "1\n")
	r.push("more")
	ends(75)
	if got := queue(); !slices.Contains(got, "too_large") {
		t.Errorf("too large: %v", got)
	}
	r.reader.Inspect.Self = self
	if got := queue(); !slices.Contains(got, "too_large") {
		t.Errorf("it is looked at again and again: %v", got)
	}
}

// TestManyTasks: a queue of many tasks, looked at by one inspector and held in memory where that goes, says of
// each what a look at it alone says, and what git says when a person reads it. A child for many that answers
// nothing, or with something else, hides nothing.
func TestManyTasks(t *testing.T) {
	w := gatetest.New(t)
	w.Gate("plain")
	var tasks []review.Task
	push := func(id string, change func(work string, commit func(message string))) {
		t.Helper()
		repo := w.Task(id)
		work := filepath.Join(w.Dir, id)
		w.Git(w.Dir, "clone", "-q", repo.Repo, work)
		change(work, func(message string) { w.Commit(work, message) })
		w.Git(work, "push", "-q", "--force", "origin", "HEAD")
		tasks = append(tasks, review.Task{Project: gatetest.Project, ID: id, Branch: repo.Branch, Start: repo.Start})
	}
	write := func(work, path, content string) { gatetest.WriteFile(t, work, path, content) }
	push("line", func(work string, commit func(string)) {
		write(work, "a/b/new.go", "package b\n")
		write(work, "a/b/NEW.go", "package b\n")
		write(work, "blob", "x\x00"+strings.Repeat("echo hello\n", 200))
		commit("one")
		write(work, "src/main.go", "package main // changed\n")
		commit("two")
		w.Git(work, "rm", "-q", "README.md")
		commit("three")
	})
	push("merge", func(work string, commit func(string)) {
		write(work, "x", "1\n")
		commit("x")
		w.Git(work, "checkout", "-q", "-b", "side", "HEAD~1")
		write(work, "y", "1\n")
		commit("y")
		w.Git(work, "checkout", "-q", "-")
		w.Git(work, "merge", "-q", "--no-ff", "-m", "both", "side")
	})
	push("pack", func(work string, commit func(string)) {
		for i := range 120 { // more than receive-pack unpacks
			write(work, fmt.Sprintf("many/%d", i), fmt.Sprintf("%d\n", i))
		}
		commit("many")
		write(work, "src/main.go", "package main\n\n// a delta\n")
		commit("delta")
	})
	push("root", func(work string, commit func(string)) {
		w.Git(work, "checkout", "-q", "--orphan", "other")
		commit("unrelated")
		w.Git(work, "branch", "-q", "-M", "other", "terok/root-brave-otter")
	})
	push("empty", func(_ string, commit func(string)) { commit("nothing") })

	reader := review.NewReader(w.Roots, gatetest.Self(t), false)
	fresh := func(self string, tasks ...review.Task) []review.Change {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(w.Roots.GateDir(gatetest.Project), "review", "cache")); err != nil {
			t.Fatal(err)
		}
		reader.Inspect.Self = self
		changes, err := reader.Queue(t.Context(), tasks...)
		if err != nil {
			t.Fatal(err)
		}
		return changes
	}
	together := fresh(gatetest.Self(t), tasks...)
	if len(together) != len(tasks) {
		t.Fatalf("%+v", together)
	}
	var alone []review.Change
	for _, task := range tasks {
		alone = append(alone, fresh(gatetest.Self(t), task)...)
	}
	if diff := cmp.Diff(alone, together); diff != "" {
		t.Errorf("together:\n%s", diff)
	}
	for i, task := range tasks {
		d, err := reader.Show(t.Context(), task, review.ShowOptions{View: review.View{Stat: true}})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d.Change, together[i]); diff != "" {
			t.Errorf("%s, as git says it:\n%s", task.ID, diff)
		}
	}
	for name, script := range map[string]string{
		"nothing": "exit 1", "garbage": "echo '{\"n\":99}'; exit 0", "another commit": `echo '{"n":0,"reply":{"branches":[{"tip":"` + strings.Repeat("1", 40) + `"}],"list":[]}}'`,
	} {
		self := filepath.Join(w.Dir, "self")
		if err := os.WriteFile(self, []byte("#!/bin/sh\nif [ \"$2\" = many ]; then "+script+"; exit; fi\nexec "+gatetest.Self(t)+" \"$@\"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(together, fresh(self, tasks...)); diff != "" {
			t.Errorf("a child that says %s:\n%s", name, diff)
		}
	}
}

// TestHugeFile: a file that is too large to be read is said to be, and everything beside it is shown, also
// a file whose name reads like a pattern for it. Spec/gate.md §20: 41.
func TestHugeFile(t *testing.T) {
	r := newRig(t)
	r.reader.MaxFile = 1000
	huge := strings.Repeat("0123456789\n", 200)
	r.write("dir/huge[1]*", huge)
	r.write("dir/huge1x", "small\n")
	r.write("a", "1\n")
	first := r.push("adds")
	r.write("dir/huge[1]*", huge+"more\n")
	r.write("zz", "2\n")
	second := r.push("changes")
	check := func(what string, files []review.File, want ...string) {
		t.Helper()
		var got []string
		for _, f := range files {
			got = append(got, f.Status+" "+f.Path)
			if large := strings.Contains(f.Path, "*"); large != (f.TooLarge > 2000) || large != (f.Patch == "") || large != f.Binary {
				t.Errorf("%s: %+v", what, f)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %q", what, got)
		}
	}
	d := r.show()
	check("the whole", d.Files, "A a", "A dir/huge1x", "A dir/huge[1]*", "A zz")
	if !slices.Contains(codes(d.Flags), "unread_file") || d.Cut || !strings.Contains(d.Patch, "[too large to show (1 MiB)]") || !strings.Contains(d.Patch, "+small") {
		t.Errorf("%v\n%s", d.Flags, d.Patch)
	}
	d, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{View: review.View{PerCommit: true}})
	if err != nil || len(d.List) != 2 || d.List[0].ID != second || d.List[1].ID != first {
		t.Fatal(d.List, err)
	}
	check("the first", d.List[1].Files, "A a", "A dir/huge1x", "A dir/huge[1]*")
	check("the second", d.List[0].Files, "M dir/huge[1]*", "A zz")
	changes, err := r.reader.Queue(t.Context(), r.task)
	if err != nil || len(changes) != 1 || !slices.Contains(codes(changes[0].Flags), "unread_file") {
		t.Errorf("%+v %v", changes, err)
	}
}
