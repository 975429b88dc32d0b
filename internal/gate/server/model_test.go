package server

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/refname"
	"terok/internal/gate/view"
)

// model is what the rules say about one task: its branches, and every tip that a push took away.
type model struct {
	s        *served
	heads    map[string]string
	replaced map[string]bool
}

// change is one command of a random push.
type change struct {
	branch, id string // id "": delete
}

// TestModel drives random pushes from eight tasks, creating, moving forward, forcing and deleting
// branches, among them protected, colliding and unprintable ones, single and atomic, and compares
// each repository with the model: no task ever sees another's push, replaced tips are kept, the base
// never changes.
//
// spec/gate.md §20: 18, 19.
func TestModel(t *testing.T) {
	w := gatetest.New(t)
	first := w.Gate("task0")
	protected := []string{"main", "release/*"}
	var tasks []*model
	for i := range 8 {
		task := first
		if i > 0 {
			task = w.Task(fmt.Sprintf("task%d", i))
		}
		s := serveTask(t, w, task, func(c *Config) { c.Protected = protected })
		tasks = append(tasks, &model{s: s, heads: map[string]string{"main": task.Start, task.Branch: task.Start}, replaced: map[string]bool{}})
	}
	// Commits to push: a line, and one beside it; the same in every clone's own words.
	for i, m := range tasks {
		m.s.commit("a", fmt.Sprint("a", i))
		m.s.commit("a", fmt.Sprint("b", i))
		m.s.Git(m.s.work, "tag", "two")
		m.s.Git(m.s.work, "reset", "-q", "--hard", m.s.task.Start)
		m.s.commit("c", fmt.Sprint("c", i))
	}
	base := w.Git(first.Base, "for-each-ref")
	// Each round is a few processes. make soak sets the variable, and -rapid.checks for more of them.
	rounds, most := 0, 16
	if os.Getenv("TEROK_SOAK") != "" {
		most = 1 << 30
	}
	rapid.Check(t, func(rt *rapid.T) {
		if rounds++; rounds > most {
			return
		}
		m := tasks[rapid.IntRange(0, len(tasks)-1).Draw(rt, "task")]
		ids := []string{m.s.task.Start}
		for _, rev := range []string{"two", "two~1", "HEAD"} {
			ids = append(ids, m.s.Git(m.s.work, "rev-parse", rev))
		}
		names := []string{"feat", "feat/x", "Feat", "side", "main", "release/1", m.s.task.Branch, "x\u202ey", "-dash"}
		var changes []change
		for range rapid.IntRange(1, 3).Draw(rt, "n") {
			c := change{branch: rapid.SampledFrom(names).Draw(rt, "branch")}
			if rapid.IntRange(0, 3).Draw(rt, "delete") > 0 {
				c.id = rapid.SampledFrom(ids).Draw(rt, "id")
			}
			if !slices.ContainsFunc(changes, func(d change) bool { return d.branch == c.branch }) {
				changes = append(changes, c)
			}
		}
		atomic := rapid.Bool().Draw(rt, "atomic")
		m.push(rt, changes, atomic, protected)
	})
	if rounds < 16 {
		t.Fatalf("only %d rounds", rounds)
	}
	for i, m := range tasks {
		m.compare(t)
		for _, other := range tasks[:i] {
			for id := range m.replaced {
				if _, err := other.s.TryGit(other.s.task.Repo, "cat-file", "-e", id); err == nil && id != other.s.task.Start {
					t.Errorf("%s has %s of a sibling", other.s.task.Repo, id)
				}
			}
		}
	}
	if now := w.Git(first.Base, "for-each-ref"); now != base {
		t.Errorf("the base changed:\n%s\n%s", base, now)
	}
}

// push carries changes out by git and by the rules.
func (m *model) push(rt *rapid.T, changes []change, atomic bool, protected []string) {
	args := []string{"push", "--force", "origin"}
	if atomic {
		args = append(args, "--atomic")
	}
	want := maps.Clone(m.heads)
	var taken []string
	refused := false
	// A branch that is deleted stands in the way of a new one or does not, by git's own order: the rules of
	// this gate say nothing of it.
	open := slices.ContainsFunc(changes, func(c change) bool {
		return c.id != "" && slices.ContainsFunc(changes, func(d change) bool { return d.id == "" && inTheWay(c.branch, d.branch) })
	})
	for _, c := range changes {
		args = append(args, c.id+":refs/heads/"+c.branch)
		if id, have := m.heads[c.branch]; have && id == c.id {
			continue // git sends nothing for what is there already
		}
		folded := slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(b string) bool { return b != c.branch && strings.EqualFold(b, c.branch) })
		_, exists := want[c.branch]
		blocked := slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(b string) bool { return inTheWay(b, c.branch) })
		switch {
		case refname.Check(c.branch) != nil, refname.Protected(c.branch, protected), c.id == "" && c.branch == m.s.task.Branch,
			c.id != "" && !exists && (folded || blocked):
			refused = true
		case c.id == "":
			if exists {
				taken = append(taken, want[c.branch])
				delete(want, c.branch)
			}
		default:
			if exists && want[c.branch] != c.id {
				taken = append(taken, want[c.branch])
			}
			want[c.branch] = c.id
		}
	}
	_, err := m.s.TryGit(m.s.work, args...)
	got := m.branches()
	if open {
		for b, id := range m.heads {
			touched := slices.ContainsFunc(changes, func(c change) bool { return c.branch == b })
			if !touched && got[b] != id {
				rt.Fatalf("%v moved %s", changes, b)
			}
			if touched && got[b] != id {
				m.replaced[id] = true
			}
		}
		m.heads = got
		m.compare(rt)
		return
	}
	switch {
	case atomic && refused:
		if err == nil || !maps.Equal(got, m.heads) {
			rt.Fatalf("an atomic push with a refused ref: %v\nhas  %v\nhad  %v", err, got, m.heads)
		}
		return
	case refused && err == nil:
		rt.Fatalf("nothing was refused of %v", changes)
	}
	// Names that stand in each other's way within one push land in git's order: what git did is then
	// the truth, as long as it is one of the two.
	for b := range got {
		if _, known := want[b]; !known && m.heads[b] != got[b] {
			rt.Fatalf("%v: unexpected branch %q", changes, b)
		}
	}
	for b, id := range want {
		if got[b] != id && got[b] != m.heads[b] {
			rt.Fatalf("%v: %s is %s, want %s", changes, b, got[b], id)
		}
		if got[b] != id && err == nil {
			rt.Fatalf("%v: %s did not land, and git said nothing", changes, b)
		}
	}
	for _, id := range taken {
		m.replaced[id] = true
	}
	m.heads = got
	m.compare(rt)
}

// inTheWay: a branch and a directory of branches cannot have one name.
func inTheWay(a, b string) bool {
	return strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

func (m *model) branches() map[string]string {
	refs, err := view.Refs(m.s.task.Repo)
	if err != nil {
		m.s.T.Fatal(err)
	}
	return view.Below(refs, refname.Heads)
}

// compare checks that nothing a push took away is lost.
func (m *model) compare(t interface{ Errorf(string, ...any) }) {
	reachable := m.s.Git(m.s.task.Repo, "rev-list", "--all")
	for id := range m.replaced {
		if !strings.Contains(reachable, id) {
			t.Errorf("%s is lost", id)
		}
	}
	for b, id := range m.branches() {
		if m.heads[b] != id {
			t.Errorf("%s moved by itself to %s", b, id)
		}
	}
}
