package cli

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/task"
)

// console is a person at a terminal of 100 by 40.
type console struct {
	t      *testing.T
	master *os.File
	slave  *os.File
	mu     sync.Mutex
	seen   bytes.Buffer
}

func newConsole(t *testing.T) *console {
	t.Helper()
	m, s, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	if err := pty.Setsize(m, &pty.Winsize{Rows: 40, Cols: 100}); err != nil {
		t.Fatal(err)
	}
	c := &console{t: t, master: m, slave: s}
	t.Cleanup(func() { s.Close(); m.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := m.Read(buf)
			c.mu.Lock()
			c.seen.Write(buf[:n])
			c.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return c
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen.String()
}

// run types a command, and answers once a question is on the screen.
func (c *console) run(want int, answers [][2]string, args ...string) string {
	c.t.Helper()
	c.mu.Lock()
	c.seen.Reset()
	c.mu.Unlock()
	done := make(chan int, 1)
	go func() { done <- Main(c.t.Context(), args, c.slave, c.slave, c.slave) }()
	from := 0
	for _, a := range answers {
		c.wait(func() bool {
			i := strings.Index(c.text()[from:], a[0])
			if i >= 0 {
				from += i + len(a[0])
			}
			return i >= 0
		}, a[0])
		if _, err := io.WriteString(c.master, a[1]); err != nil {
			c.t.Fatal(err)
		}
	}
	select {
	case code := <-done:
		const end = "\x00end\x00"
		_, _ = io.WriteString(c.slave, end)
		c.wait(func() bool { return strings.Contains(c.text(), end) }, "the end")
		out := strings.ReplaceAll(c.text(), end, "")
		if code != want {
			c.t.Fatalf("terok %s: exit %d, want %d\n%s", strings.Join(args, " "), code, want, out)
		}
		return out
	case <-time.After(time.Minute):
		c.t.Fatalf("terok %s does not end:\n%s", strings.Join(args, " "), c.text())
		return ""
	}
}

func (c *console) wait(ok func() bool, what string) {
	c.t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			c.t.Fatalf("%q never came:\n%s", what, c.text())
		}
	}
}

// foreign are the escape sequences on a screen that are not colours of ours.
func foreign(screen string) string {
	var b strings.Builder
	for i := 0; i < len(screen); i++ {
		c := screen[i]
		if c == 0x1b && i+1 < len(screen) && screen[i+1] == '[' {
			end := strings.IndexFunc(screen[i+2:], func(r rune) bool { return r != ';' && (r < '0' || r > '9') })
			if end >= 0 && screen[i+2+end] == 'm' {
				i += 2 + end
				continue
			}
		}
		if c < 0x20 && c != '\n' && c != '\r' && c != '\t' || c == 0x7f {
			b.WriteByte(c)
		}
	}
	for _, r := range screen {
		if r >= 0x80 && r < 0xa0 || strings.ContainsRune("\u202e\u2066\u200b", r) {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// reviewer is a person at a terminal, with a project, a task and a clone of its repository.
func reviewer(t *testing.T) (w *gatetest.World, c *console, tk *task.Task, work string) {
	t.Helper()
	w = gatetest.New(t)
	for key, value := range map[string]string{"HOME": w.Dir, "XDG_CONFIG_HOME": w.Dir + "/xc", "XDG_DATA_HOME": w.Dir + "/xd", "XDG_RUNTIME_DIR": w.Dir + "/xr",
		"TERM": "xterm", "PAGER": "cat", "TEROK_PAGER": "", "NO_COLOR": "", "PATH": noDelta(t)} {
		t.Setenv(key, value)
	}
	w.Roots = state.Roots{Config: w.Dir + "/xc/terok", Data: w.Dir + "/xd/terok", Runtime: w.Dir + "/xr/terok"}
	w.Store.Roots = w.Roots
	c = newConsole(t)
	c.run(problem.OK, nil, "project", "create", "webshop", "--upstream", w.Upstream)
	c.run(problem.OK, nil, "project", "gate-sync", "webshop")
	tk, err := (task.Store{Roots: w.Roots, Now: time.Now}).Create("webshop", "brave-otter", func(tk *task.Task) { tk.Agent = "shell" })
	if err != nil {
		t.Fatal(err)
	}
	repo, err := w.Store.CreateTask(t.Context(), store.TaskSpec{Project: "webshop", ID: tk.ID, Branch: tk.Branch})
	if err != nil {
		t.Fatal(err)
	}
	work = filepath.Join(w.Dir, "work")
	w.Git(w.Dir, "clone", "-q", repo.Repo, work)
	return w, c, tk, work
}

// Spec/gate.md §20: 31, 32, 40 (the host's half), 47. A person reviews at a terminal: nothing that an
// agent wrote drives it, each key does what it says and is remembered, and what is typed is the approval.
func TestReviewAtTheTerminal(t *testing.T) {
	w, c, tk, work := reviewer(t)
	evil := "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x1b[1;31m\u202e\u200b\u009b31m"
	gatetest.WriteFile(t, work, "f"+evil+".txt", "line "+evil+"\noverwritten\rgone\n")
	w.Commit(work, "first "+evil)
	gatetest.WriteFile(t, work, "README.md", "hello there\n")
	w.Commit(work, "second")
	gatetest.WriteFile(t, work, "package-lock.json", "{}\n")
	tip := w.Commit(work, "third")
	w.Git(work, "push", "-q", "origin", "HEAD")

	screens := map[string]string{
		"queue": c.run(problem.OK, nil, "review"),
		"show":  c.run(problem.OK, nil, "review", "show", tk.ID),
		"each":  c.run(problem.OK, nil, "review", "show", tk.ID, "--per-commit", "--word"),
		"diff":  c.run(problem.OK, nil, "diff", tk.ID),
	}
	for name, screen := range screens {
		if got := foreign(screen); got != "" {
			t.Errorf("%s: %q reached the terminal", name, got)
		}
		if !strings.Contains(screen, "\x1b[") {
			t.Errorf("%s has no colours", name)
		}
	}
	for _, want := range []string{"third", "second", `first \x1b]52;c;`, `+line \x1b]52`, "package-lock.json", `overwritten\rgone`} {
		if !strings.Contains(foreignless(screens["show"]), want) {
			t.Errorf("show lacks %q:\n%s", want, screens["show"])
		}
	}
	if s := foreignless(screens["each"]); !strings.Contains(s, "hello there") {
		t.Errorf("word by word:\n%s", s)
	}
	t.Setenv("NO_COLOR", "1")
	if out := c.run(problem.OK, nil, "review", "show", tk.ID); strings.Contains(out, "\x1b") {
		t.Errorf("NO_COLOR: %q", out)
	}
	t.Setenv("NO_COLOR", "")
	c.run(problem.Usage, nil, "review", "show", tk.ID, "--raw")
	c.run(problem.Usage, nil, "diff", tk.ID, "--raw")

	// Two keys, then away; the next walk begins behind them.
	out := c.run(problem.OK, [][2]string{{"quit", "a"}, {"quit", "c"}, {"comment:", "why not 'hi'?\n"}, {"quit", "q"}}, "review", "walk", tk.ID)
	if !strings.Contains(out, "[1/3]") || !strings.Contains(out, "[2/3]") || strings.Contains(out, "[3/3]") || foreign(out) != "" {
		t.Errorf("walk:\n%q", out)
	}
	out = c.run(problem.OK, [][2]string{{"quit", "r"}, {"why:", "says nothing \x1b[31m\n"}, {"quit", "s"}}, "review", "walk", tk.ID)
	if strings.Contains(out, "[1/3]") || !strings.Contains(out, "[2/3]") || !strings.Contains(out, "1 rejected, 1 skipped, 1 decided before") {
		t.Errorf("the second walk:\n%q", out)
	}
	if out := c.run(problem.OK, nil, "review"); !strings.Contains(out, "rejected") {
		t.Errorf("queue: %q", out)
	}
	c.run(problem.Conflict, [][2]string{{"type " + tip[:4], tip[:4] + "\n"}}, "promote", tk.ID, "--as", "main")
	c.run(problem.Declined, [][2]string{{"type " + tip[:4], "yes\n"}}, "promote", tk.ID)
	out = c.run(problem.OK, [][2]string{{"s shows", "s\n"}, {"type " + tip[:4], tip[:4] + "\n"}}, "promote", tk.ID)
	if foreign(out) != "" || !strings.Contains(out, "done: brave-otter in ~/clone is "+tip[:12]) {
		t.Errorf("promote: %q", out)
	}
	if got := w.Git(w.Upstream, "rev-parse", "brave-otter"); got != tip {
		t.Errorf("promoted %s", got)
	}
	if out := c.run(problem.OK, nil, "receipt", "verify", w.Upstream, "brave-otter"); !strings.Contains(foreignless(out), "verified: ") {
		t.Errorf("receipt: %q", out)
	}
}

// TestLongWalk: with `gate.require_review: commit` a person reaches every commit of a long branch, the oldest
// first, and goes on where they stopped. Spec/gate.md §11.3.
func TestLongWalk(t *testing.T) {
	w, c, tk, work := reviewer(t)
	var in strings.Builder
	const commits = 230
	for n := range commits {
		fmt.Fprintf(&in, "commit refs/heads/%s\ncommitter A <a@b.test> %d +0000\ndata <<X\nchange number %d\nX\n", tk.Branch, 1_700_000_000+n, n+1)
		if n == 0 {
			fmt.Fprintf(&in, "from refs/heads/%s^0\n", tk.Branch)
		}
		fmt.Fprintf(&in, "M 100644 inline f\ndata <<X\nline %d\nX\n", n+1)
	}
	cmd := git.Cmd{GitDir: filepath.Join(work, ".git"), Args: []string{"fast-import", "--quiet", "--force"}, Stdin: strings.NewReader(in.String()), Alternates: []string{git.AnyAlternates}}
	if _, err := (&git.Runner{}).Run(t.Context(), cmd); err != nil {
		t.Fatal(err)
	}
	w.Git(work, "push", "-q", "origin", tk.Branch)
	ids := strings.Fields(w.Git(work, "rev-list", "--reverse", tk.Branch, "^origin/main"))
	tip := ids[commits-1]
	out := c.run(problem.OK, [][2]string{{"quit", "a"}, {"quit", "q"}}, "review", "walk", tk.ID)
	if !strings.Contains(out, "[1/230]") || !strings.Contains(foreignless(out), "change number 1\r") || !strings.Contains(foreignless(out), "line 2") {
		t.Errorf("the oldest:\n%q", out)
	}
	args := []string{"review", "approve", tk.ID, "--sha", tip}
	for _, id := range ids[1:218] {
		args = append(args, "--commit", id)
	}
	c.run(problem.OK, nil, args...)
	answers := [][2]string{}
	for range commits - 218 {
		answers = append(answers, [2]string{"quit", "a"})
	}
	out = c.run(problem.OK, answers, "review", "walk", tk.ID)
	if strings.Contains(out, "[218/230]") || !strings.Contains(out, "[219/230]") || !strings.Contains(foreignless(out), "change number 230") || !strings.Contains(out, "all of it is approved") {
		t.Errorf("where it stopped:\n%q", out)
	}
	if err := os.WriteFile(filepath.Join(w.Roots.ProjectDir("webshop"), "project.yml"), fmt.Appendf(nil, "git:\n  upstream_url: %s\ngate:\n  require_review: commit\n", w.Upstream), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run(problem.OK, nil, "promote", tk.ID, "--sha", tip, "--yes")
	if got := w.Git(w.Upstream, "rev-parse", "brave-otter"); got != tip {
		t.Errorf("promoted %s", got)
	}
}

// foreignless is a screen without our colours.
func foreignless(screen string) string {
	var b strings.Builder
	for len(screen) > 0 {
		i := strings.Index(screen, "\x1b[")
		if i < 0 {
			return b.String() + screen
		}
		b.WriteString(screen[:i])
		end := strings.IndexByte(screen[i:], 'm')
		if end < 0 {
			return b.String()
		}
		screen = screen[i+end+1:]
	}
	return b.String()
}

// noDelta is a PATH without a delta of the machine's.
func noDelta(t *testing.T) string {
	t.Helper()
	return t.TempDir()
}
