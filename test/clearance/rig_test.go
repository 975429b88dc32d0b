// Package clearance tests what people see of requests: the screen of terok clearance and the menu
// of an attached task in a real terminal (tmux), desktop notifications on a real session bus. The
// supervisors are those of package clearancetest; no container is needed, but for the one test
// that notifies from inside podman's user namespace.
package clearance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/clearance/board"
	"terok/internal/clearance/clearancetest"
	"terok/internal/clearance/watch"
	"terok/internal/control"
	"terok/internal/relay"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// patience is how long a test waits for what must happen; the machine may be slow.
const patience = 60 * time.Second

var terok string // the built program

func TestMain(m *testing.M) {
	if os.Getenv("TEROK_TEST_MENU") != "" {
		os.Exit(menuMain())
	}
	os.Exit(build(m))
}

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "terok-clearance-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	terok = filepath.Join(dir, "terok")
	cmd := exec.Command("go", "build", "-o", terok, "terok/cmd/terok")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// menuMain is a program with an attached terminal: what App.AttachTask does, around a shell
// instead of podman exec.
func menuMain() int {
	roots, err := state.FromEnv(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx := context.Background()
	own := filepath.Base(roots.RunDir("webshop-k3v9p"))
	w, err := watch.Start(ctx, watch.Options{Roots: roots, Answers: func(name string) bool { return name == own }})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer w.Close()
	answer := func(ctx context.Context, a board.Act) (control.Request, error) {
		c := control.Dial(sandbox.ControlPath(roots.RunDir(a.Request.Key)))
		if a.Undo {
			return c.Undo(ctx, control.UndoChange{ID: a.Request.ID, Actor: "ada", Via: "menu"})
		}
		r := a.Request
		return c.Verdict(ctx, control.VerdictChange{ID: r.ID, Hash: r.Hash, Host: r.Host, Port: r.Port, Proto: r.Proto, Choice: a.Choice, Actor: "ada", Via: "menu"})
	}
	desk := board.NewDesk(ctx, board.New("webshop-k3v9p", "webshop/k3v9p brave-otter", time.Now), w, answer)
	defer desk.Close()
	menu := relay.NewRequestMenu(desk)
	end, err := relay.Run(ctx, relay.Options{Cmd: exec.Command("/bin/sh", "-c", os.Getenv("TEROK_TEST_MENU")),
		In: os.Stdin, Out: os.Stdout, Menu: menu, Hint: menu.Hint, Changed: desk.Changed()})
	fmt.Printf("relay ended: %+v %v\n", end, err)
	return 0
}

// rig is a home, and a person's terminal in it.
type rig struct {
	t      *testing.T
	roots  state.Roots
	env    []string
	socket string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	home, err := os.MkdirTemp("", "tc") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	r := &rig{t: t, socket: filepath.Join(home, "tmux")}
	env := map[string]string{"HOME": home, "XDG_CONFIG_HOME": home + "/c", "XDG_DATA_HOME": home + "/d", "XDG_RUNTIME_DIR": home + "/r"}
	for k, v := range env {
		r.env = append(r.env, k+"="+v)
		if err := os.MkdirAll(v, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if r.roots, err = state.FromEnv(func(k string) string { return env[k] }); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *rig) supervisor(project, task string) *clearancetest.Supervisor {
	r.t.Helper()
	return clearancetest.New(r.t, r.roots, project, task)
}

// terminal starts a command in a tmux of that size.
func (r *rig) terminal(cols, rows int, env []string, command ...string) {
	r.t.Helper()
	if _, err := exec.LookPath("tmux"); err != nil {
		r.t.Skip("no tmux here")
	}
	args := []string{"-f", "/dev/null", "new-session", "-d", "-s", "person", "-x", fmt.Sprint(cols), "-y", fmt.Sprint(rows)}
	for _, kv := range append(r.env, env...) {
		args = append(args, "-e", kv)
	}
	args = append(args, "env", "PS1=HOST> ", "bash", "--norc", "--noprofile")
	r.tmux(args...)
	r.tmux("set-option", "-g", "status", "off")
	r.tmux("set-option", "-g", "allow-rename", "off")
	r.t.Cleanup(func() { _ = exec.Command("tmux", "-S", r.socket, "kill-server").Run() })
	r.shows("HOST>")
	var quoted []string
	for _, w := range command {
		quoted = append(quoted, "'"+strings.ReplaceAll(w, "'", `'\''`)+"'")
	}
	r.types(strings.Join(quoted, " ") + "\r")
}

func (r *rig) tmux(args ...string) string {
	r.t.Helper()
	cmd := exec.CommandContext(r.t.Context(), "tmux", append([]string{"-S", r.socket}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "TERM=xterm-256color")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("tmux %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (r *rig) screen() string { return r.tmux("capture-pane", "-p", "-t", "person") }
func (r *rig) title() string {
	return strings.TrimSpace(r.tmux("display-message", "-p", "-t", "person", "#{pane_title}"))
}

// types sends text as it is; "\r" is Enter.
func (r *rig) types(text string) {
	r.t.Helper()
	for i, part := range strings.Split(text, "\r") {
		if i > 0 {
			r.tmux("send-keys", "-t", "person", "Enter")
		}
		if part != "" {
			r.tmux("send-keys", "-t", "person", "-l", part)
		}
	}
}

func (r *rig) key(name string) { r.tmux("send-keys", "-t", "person", name) }

// until waits for a condition and shows the screen when it never comes.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s\n%s", what, r.screen())
		}
	}
}

func (r *rig) shows(text string) {
	r.t.Helper()
	r.until("the screen shows "+text, func() bool { return strings.Contains(r.screen(), text) })
}

// presses types a key until it has done what was wanted: a verdict key pressed too soon after the
// request came up does nothing.
func (r *rig) presses(key, what string, ok func() bool) {
	r.t.Helper()
	next := time.Now()
	r.until(what, func() bool {
		if ok() {
			return true
		}
		if time.Now().After(next) {
			r.types(key)
			next = time.Now().Add(time.Second)
		}
		return false
	})
}

// capture logs the screen, for people.
func (r *rig) capture(name string) {
	r.t.Helper()
	r.t.Logf("%s:\n%s", name, r.screen())
}
