// Package image holds the end-to-end tests of base images, the layer L0 and agent bundles, in
// real rootless podman. They relocate terok's own tree and share the user's image store.
//
//	scripts/rootless base && scripts/rootless run -- go test ./test/image
package image

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

var terok string // the program under test

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "image-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		terok = filepath.Join(dir, "terok")
		build := exec.Command("go", "build", "-o", terok, "terok/cmd/terok")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

const base = "localhost/debian:12"

// tree is one relocated terok tree.
type tree struct {
	t   *testing.T
	dir string
}

func newTree(t *testing.T) tree {
	t.Helper()
	tr := tree{t, t.TempDir()}
	t.Cleanup(func() {
		if left, _ := filepath.Glob(filepath.Join(tr.dir, "data/terok/images/build-*")); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return tr
}

func (tr tree) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, terok, args...)
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+tr.dir+"/config", "XDG_DATA_HOME="+tr.dir+"/data", "XDG_RUNTIME_DIR="+tr.dir+"/run")
	return cmd
}

// run expects an exit code and returns stdout and stderr.
func (tr tree) run(want int, args ...string) (stdout, stderr string) {
	tr.t.Helper()
	var out, errs bytes.Buffer
	cmd := tr.command(tr.t.Context(), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != want {
		tr.t.Fatalf("terok %s: %v, want exit %d\n%s%s", strings.Join(args, " "), err, want, tail(out.String()), tail(errs.String()))
	}
	tr.t.Logf("terok %s: %s", strings.Join(args, " "), time.Since(start).Round(time.Millisecond))
	return out.String(), errs.String()
}

// decode runs a command with --json and decodes its data.
func (tr tree) decode(data any, args ...string) {
	tr.t.Helper()
	out, _ := tr.run(0, append(args, "--json")...)
	envelope := struct{ Data any }{data}
	if err := json.Unmarshal([]byte(out), &envelope); err != nil {
		tr.t.Fatalf("%v in %s", err, out)
	}
}

func podman(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "podman", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("podman %s: %v\n%s", strings.Join(args, " "), err, tail(string(out)))
	}
	return strings.TrimSpace(string(out))
}

func tail(s string) string {
	if len(s) > 3000 {
		s = "…" + s[len(s)-3000:]
	}
	return s
}

type ref struct {
	Tag, ID, Base, Hash string
	Built               bool
}

func TestL0(t *testing.T) {
	tr := newTree(t)
	if out, _ := tr.run(0, "image", "bootstrap", "debian:12"); strings.TrimSpace(out) != base {
		t.Errorf("bootstrap: %q", out)
	}
	var first, second ref
	tr.decode(&first, "image", "build", "--base", base)
	start := time.Now()
	tr.decode(&second, "image", "build", "--base", base)
	if d := time.Since(start); second.Built || second.ID != first.ID || d > time.Second {
		t.Errorf("with nothing to do: %+v after %+v in %s", second, first, d)
	}
	script := `set -eu
		[ "$(id -un):$(id -u):$(id -g)" = dev:1000:1000 ] && [ "$HOME" = /home/dev ] && [ "$PWD" = /workspace ] && [ "$LANG" = en_US.UTF-8 ]
		touch /workspace/x && [ "$(sudo -n id -u)" = 0 ] && locale -a | grep -q en_US.utf8
		for tool in git ssh tmux rg jq less curl locale; do command -v $tool >/dev/null; done
		[ -s /etc/ssl/certs/ca-certificates.crt ] && [ -d /run/terok ] && [ -e /usr/share/zoneinfo/Europe/Berlin ]
		[ "$(TZ=Asia/Tokyo date +%Z)" = JST ] && tmux start-server \; show -gv prefix | grep -q C-a
		[ -z "$(ls /mnt)" ] && ! env | grep -qiE 'proxy|APT_CONFIG|NODE_EXTRA'
		echo fine`
	if out := podman(t, "run", "--rm", "--network=none", "--pull=never", "--userns=keep-id:uid=1000,gid=1000", first.ID, "sh", "-c", script); out != "fine" {
		t.Errorf("inside: %s", out)
	}
	var list []struct {
		Tags  []string
		Layer string
		Hash  string
	}
	tr.decode(&list, "image", "list")
	found := false
	for _, i := range list {
		found = found || i.Layer == "l0" && i.Hash == first.Hash && strings.Contains(strings.Join(i.Tags, " "), "localhost/terok-l0:debian-12")
	}
	if !found {
		t.Errorf("L0 is not in the list: %+v", list)
	}
}

func TestBadInput(t *testing.T) {
	tr := newTree(t)
	for _, c := range []struct {
		exit int
		args []string
		says string
	}{
		{2, []string{"image", "bootstrap"}, "debian:12"},
		{2, []string{"image", "bootstrap", "beos:5"}, "debian:12"},
		{2, []string{"image", "bootstrap", "debian:12", "--force", "--mirror", "nonsense"}, "mirror"},
		{2, []string{"image", "build", "--base", "--evil x"}, "reference"},
		{6, []string{"image", "build", "--base", "localhost/no-such-image:1"}, "store"},
		{2, []string{"image", "build", "--bas", "x"}, "did you mean"},
		{2, []string{"image", "buidl"}, "build"},
		{2, []string{"agents", "install", "claude", "--version", "^2"}, "exact version"},
		{2, []string{"agents", "install", "claude", "--ca", "/etc/passwd", "--base", base, "--force"}, "certificate"},
	} {
		_, errs := tr.run(c.exit, c.args...)
		if !strings.Contains(errs, c.says) || !strings.Contains(errs, "→") {
			t.Errorf("terok %v says %q, want %q and a cure", c.args, errs, c.says)
		}
	}
}

// TestInterrupted: a build that is stopped or killed leaves nothing, and the next one works.
func TestInterrupted(t *testing.T) {
	tr := newTree(t)
	other := "localhost/terok-test-interrupted:1"
	l0 := "localhost/terok-l0:terok-test-interrupted-1"
	podman(t, "tag", base, other)
	t.Cleanup(func() {
		for _, image := range []string{l0, other} {
			_ = exec.Command("podman", "rmi", image).Run()
		}
	})
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGKILL} {
		cmd := tr.command(t.Context(), "image", "build", "--base", other)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		scan := bufio.NewScanner(stderr)
		for scan.Scan() && !strings.Contains(scan.Text(), "Unpacking") {
		}
		if err := cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, stderr)
		_ = cmd.Wait()
		if sig == syscall.SIGINT && cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("interrupted: exit %d", cmd.ProcessState.ExitCode())
		}
		if sig == syscall.SIGINT {
			working(t, tr)
		}
	}
	var built ref
	tr.decode(&built, "image", "build", "--base", other)
	if !built.Built || built.Tag != l0 {
		t.Errorf("after the interruptions: %+v", built)
	}
	working(t, tr)
}

// working checks that no working container or stage tag of the interrupted test is left.
func working(t *testing.T, tr tree) {
	t.Helper()
	hash := ""
	if logs, _ := filepath.Glob(filepath.Join(tr.dir, "data/terok/images/logs/l0-*.log")); len(logs) > 0 {
		data, _ := os.ReadFile(logs[len(logs)-1])
		if _, rest, ok := strings.Cut(string(data), "terok-build-l0-"); ok && len(rest) > 12 {
			hash = rest[:12]
		}
	}
	if hash == "" {
		t.Fatal("the log names no stage")
	}
	if out := podman(t, "ps", "--all", "--external", "--format", "{{.Names}}"); strings.Contains(out, "terok-build-l0-"+hash) {
		t.Errorf("left behind: %s", out)
	}
	if out := podman(t, "images", "--format", "{{.Repository}}"); strings.Contains(out, "terok-build-l0-"+hash) {
		t.Errorf("left behind: %s", out)
	}
}

func TestAgentBundle(t *testing.T) {
	tr := newTree(t)
	type agent struct {
		Name, Version, Digest, Directory, Problem string
		Installed                                 bool
	}
	claude := func(args ...string) (a agent) {
		t.Helper()
		var list []agent
		tr.decode(&list, append([]string{"agents", "list"}, args...)...)
		for _, a = range list {
			if a.Name == "claude" {
				return a
			}
		}
		t.Fatal("the roster has no claude")
		return
	}
	if a := claude(); a.Installed {
		t.Fatalf("installed in an empty tree: %+v", a)
	}
	out, _ := tr.run(0, "agents", "install", "claude", "--base", base)
	if !strings.Contains(out, "(Claude Code)") {
		t.Errorf("the program's own version is not shown: %q", out)
	}
	start := time.Now()
	if out, _ = tr.run(0, "agents", "install", "claude", "--base", base); !strings.Contains(out, "already") || time.Since(start) > time.Second {
		t.Errorf("the second time: %q in %s", out, time.Since(start))
	}
	a := claude("--verify")
	if !a.Installed || a.Version == "" || !strings.HasPrefix(a.Directory, tr.dir) {
		t.Fatalf("%+v", a)
	}
	// Tasks mount it read-only, also for root of the container.
	if out := podman(t, "run", "--rm", "--network=none", "--volume", a.Directory+":/opt/terok/agents/claude:ro", base,
		"sh", "-c", "touch /opt/terok/agents/claude/x 2>&1 || true"); !strings.Contains(out, "Read-only file system") {
		t.Errorf("writing to the bundle: %q", out)
	}
	if out := podman(t, "ps", "--all", "--filter", "label=io.terok.build=agent-claude", "--format", "{{.ID}}"); out != "" {
		t.Errorf("left behind: %s", out)
	}
	manifest := filepath.Join(a.Directory, "package.json")
	if err := os.Chmod(manifest, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(manifest, []byte("{}"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errs := tr.run(1, "agents", "list", "--verify"); !strings.Contains(errs, "terok agents install claude --force") {
		t.Errorf("a changed bundle: %q", errs)
	}
	if out, _ := tr.run(0, "agents", "update", "--base", base); !strings.Contains(out, "claude "+a.Version+" is there already") {
		t.Errorf("update: %q", out)
	}
	if _, errs := tr.run(6, "agents", "update", "codex", "--base", base); !strings.Contains(errs, "terok agents install codex") {
		t.Errorf("update of what is not installed: %q", errs)
	}
	if _, errs := tr.run(1, "agents", "install", "vibe", "--base", base); !strings.Contains(errs, "pypi.org") {
		t.Errorf("vibe: %q", errs)
	}
	if out, _ := tr.run(0, "agents", "remove", "claude"); !strings.Contains(out, "freed") {
		t.Errorf("remove: %q", out)
	}
	if left, err := os.ReadDir(filepath.Dir(a.Directory)); err != nil || len(left) > 0 || claude().Installed {
		t.Errorf("left after the removal: %v %v", left, err)
	}
}
