package bench

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/state"
	"terok/internal/task"
)

// reviewed is a project with a clone, and tasks that pushed.
type reviewed struct {
	*tree
	b     *testing.B
	clone string
	roots state.Roots
	store *store.Store
}

func newReviewed(b *testing.B) *reviewed {
	b.Helper()
	r := &reviewed{tree: newTree(b), b: b, clone: filepath.Join(b.TempDir(), "shop")}
	r.place()
	r.git(b.TempDir(), "init", "-q", "-b", "main", r.clone)
	for i := range 200 {
		r.write(r.clone, fmt.Sprintf("src/d%d/f%d.go", i%10, i), "package d\n")
	}
	r.git(r.clone, "add", "-A")
	r.git(r.clone, "commit", "-q", "-m", "first")
	r.run("project", "create", "shop", "--upstream", r.clone)
	r.run("project", "gate-sync", "shop")
	return r
}

// place finds where the tree's state is.
func (r *reviewed) place() {
	r.b.Helper()
	env := map[string]string{}
	for _, kv := range r.environ() {
		k, v, _ := strings.Cut(kv, "=")
		env[k] = v
	}
	var err error
	if r.roots, err = state.FromEnv(func(k string) string { return env[k] }); err != nil {
		r.b.Fatal(err)
	}
	r.store = &store.Store{Roots: r.roots, Git: &git.Runner{}}
}

func (r *reviewed) write(dir, name, content string) {
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		r.b.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		r.b.Fatal(err)
	}
}

func (r *reviewed) git(dir string, args ...string) {
	r.b.Helper()
	cmd := git.Cmd{Dir: dir, Args: args, Protocols: []string{"file"}, Env: []string{"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b.test", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b.test"},
		Config: []string{"protocol.allow=always"}, Timeout: 5 * time.Minute}
	if _, err := (&git.Runner{}).Run(r.b.Context(), cmd); err != nil {
		r.b.Fatal(err)
	}
}

// task makes a task with a clone of its repository.
func (r *reviewed) task() (*task.Task, string) {
	r.b.Helper()
	t, err := (task.Store{Roots: r.roots, Now: time.Now}).Create("shop", "", func(t *task.Task) { t.Agent = "shell" })
	if err != nil {
		r.b.Fatal(err)
	}
	repo, err := r.store.CreateTask(r.b.Context(), store.TaskSpec{Project: "shop", ID: t.ID, Branch: t.Branch})
	if err != nil {
		r.b.Fatal(err)
	}
	work := filepath.Join(r.b.TempDir(), t.ID)
	r.git(r.b.TempDir(), "clone", "-q", repo.Repo, work)
	return t, work
}

// BenchmarkReviewQueue: a queue of 100 branches, of one task and of 100 tasks, never seen and seen
// before, against a program that does nothing.
func BenchmarkReviewQueue(b *testing.B) {
	for _, tasks := range []int{1, 100} {
		r := newReviewed(b)
		for n := range tasks {
			_, work := r.task()
			refs := []string{"push", "-q", "origin", "HEAD"}
			for i := range 100 / tasks {
				r.write(work, fmt.Sprintf("new/%d-%d.go", n, i), strings.Repeat("line of a change\n", 50))
				r.git(work, "add", "-A")
				r.git(work, "commit", "-q", "-m", fmt.Sprintf("change %d", i))
				if i > 0 {
					refs = append(refs, fmt.Sprintf("HEAD:refs/heads/b%d", i))
					r.git(work, "branch", fmt.Sprintf("b%d", i))
				}
			}
			if tasks == 1 {
				refs = []string{"push", "-q", "origin", "HEAD", "refs/heads/b*:refs/heads/b*"}
			}
			r.git(work, refs...)
		}
		if n := strings.Count(r.run("review"), "\n"); n < 99 {
			b.Fatalf("%d branches", n)
		}
		name := fmt.Sprintf("terok review, 100 branches of %d tasks", tasks)
		compare(b, name, "ms", "at most 500 ms", 9,
			side{"seen before", func(int) float64 { return timed(b, r.environ(), r.terok, "review") }},
			side{"never seen", func(int) float64 {
				if err := os.RemoveAll(filepath.Join(r.roots.GateDir("shop"), "review", "cache")); err != nil {
					b.Fatal(err)
				}
				return timed(b, r.environ(), r.terok, "review")
			}},
			side{"true", func(int) float64 { return timed(b, r.environ(), "/bin/true") }})
	}
}

// BenchmarkPromote: one command from a pushed commit to a branch of the clone with its receipt, and
// the undo of it, against git fetch of the same commit.
func BenchmarkPromote(b *testing.B) {
	r := newReviewed(b)
	t, work := r.task()
	n := 0
	push := func() string {
		n++
		r.write(work, "file.go", fmt.Sprintf("package x // %d\n", n))
		r.git(work, "add", "-A")
		r.git(work, "commit", "-q", "-m", "change")
		r.git(work, "push", "-q", "origin", "HEAD")
		out, err := (&git.Runner{}).Run(b.Context(), git.Cmd{Dir: work, Args: []string{"rev-parse", "HEAD"}})
		if err != nil {
			b.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	tip := ""
	compare(b, "terok promote", "ms", "push to promoted in one command at most 1 s", 15,
		side{"promote", func(int) float64 {
			tip = push()
			return timed(b, r.environ(), r.terok, "promote", t.ID, "--sha", tip, "--approve", "--yes", "--as", fmt.Sprintf("taken%d", n))
		}},
		side{"promote --undo", func(int) float64 { return timed(b, r.environ(), r.terok, "promote", "--undo", t.ID) }},
		side{"git fetch", func(int) float64 {
			return timed(b, append(r.environ(), "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"), "git", "-C", r.clone, "fetch", "-q", work, "HEAD")
		}})
}

// BenchmarkReviewHuge: a commit of 200,000 files and one with a file of 1 GiB are shown, or said to be
// too large, within a minute. Spec/gate.md §20: 41.
func BenchmarkReviewHuge(b *testing.B) {
	for _, huge := range []string{"200,000 files", "a file of 1 GiB"} {
		r := newReviewed(b)
		t, work := r.task()
		var in strings.Builder
		fmt.Fprintf(&in, "commit refs/heads/%s\ncommitter A <a@b.test> 1700000000 +0000\ndata 1\nx\nfrom refs/heads/%s^0\n", t.Branch, t.Branch)
		if huge == "200,000 files" {
			for i := range 200_000 {
				body := fmt.Sprintf("content %d\n", i)
				fmt.Fprintf(&in, "M 100644 inline many/%d/%d\ndata %d\n%s\n", i%500, i, len(body), body)
			}
		} else {
			fmt.Fprintf(&in, "M 100644 inline huge\ndata %d\n", 1<<30)
			in.WriteString(strings.Repeat("0123456789abcde\n", 1<<26))
			in.WriteString("\n")
		}
		cmd := git.Cmd{GitDir: filepath.Join(work, ".git"), Alternates: []string{git.AnyAlternates}, Args: []string{"fast-import", "--quiet", "--force"}, Stdin: strings.NewReader(in.String()), Timeout: 10 * time.Minute,
			Config: []string{"core.compression=1"}}
		if _, err := (&git.Runner{}).Run(b.Context(), cmd); err != nil {
			b.Fatal(err)
		}
		r.git(work, "push", "-q", "origin", "refs/heads/"+t.Branch)
		compare(b, "terok review show, "+huge, "ms", "at most 60 s, and too large said", 3,
			side{"show", func(int) float64 {
				start := time.Now()
				cmd := exec.Command(r.terok, "review", "show", t.ID) // too large is said with exit code 1
				cmd.Env = r.environ()
				data, _ := cmd.CombinedOutput()
				out := string(data)
				if !strings.Contains(out, "too large") && !strings.Contains(out, "binary") {
					b.Errorf("%.200s", out)
				}
				return float64(time.Since(start).Microseconds()) / 1000
			}})
	}
}
