// Package e2e holds the end-to-end tests of sandboxes: real rootless podman, the real program, a
// static probe as the workload. Nothing here needs a network; what a container reaches is tested
// in package egress.
//
//	scripts/rootless base && scripts/rootless run -- go test ./test/e2e
package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"terok/test/e2e/rig"
)

var r = &rig.Rig{}

func TestMain(m *testing.M) { os.Exit(rig.Main(m, r)) }

func TestForegroundPassesOutputAndExitCode(t *testing.T) {
	name := r.Name(t)
	o := r.Do(t, "sandbox", "run", "--rm", "--name", name, "--env", "GREETING=hello there", rig.Base, "--",
		"sh", "-c", `echo "$GREETING"; echo problem >&2; exit 7`)
	if o.Code != 7 || o.Stdout != "hello there\n" || o.Stderr != "problem\n" {
		t.Errorf("exit %d, stdout %q, stderr %q", o.Code, o.Stdout, o.Stderr)
	}
	if _, err := os.Stat(r.SandboxDir(name)); err == nil {
		t.Error("--rm left the sandbox's directory")
	}
	if r.Podman(t, "container", "exists", r.Container(name)).Code == 0 {
		t.Error("--rm left the container")
	}
}

func TestCommandThatIsNotThere(t *testing.T) {
	if o := r.Do(t, "sandbox", "run", "--rm", rig.Base, "--", "no-such-program"); o.Code != 127 {
		t.Errorf("exit %d: %s", o.Code, o.Stderr)
	}
	if o := r.Do(t, "sandbox", "run", "--rm", rig.Base, "--", "/etc/passwd"); o.Code != 126 {
		t.Errorf("exit %d: %s", o.Code, o.Stderr)
	}
}

func TestTerminal(t *testing.T) {
	cmd := exec.Command(r.Terok, "sandbox", "run", "--rm", "-it", rig.Base, "--", "bash", "-c", "tty; stty size; read line; echo got $line")
	cmd.Env = r.Env()
	tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 99})
	if err != nil {
		t.Fatal(err)
	}
	defer tty.Close()
	var seen strings.Builder
	read := make(chan error, 1)
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := tty.Read(buf)
			seen.Write(buf[:n])
			if strings.Contains(seen.String(), "/dev/") && strings.Contains(seen.String(), "33 99") && !strings.Contains(seen.String(), "got") {
				io.WriteString(tty, "words\n")
			}
			if err != nil {
				read <- err
				return
			}
		}
	}()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	<-read
	if !strings.Contains(seen.String(), "got words") {
		t.Errorf("the terminal showed %q", seen.String())
	}
}

func TestUsage(t *testing.T) {
	for name, args := range map[string][]string{
		"network":     {"sandbox", "run", "--network", "host", rig.Base, "--", "true"},
		"privileged":  {"sandbox", "run", "--privileged", rig.Base, "--", "true"},
		"capability":  {"sandbox", "run", "--cap-add", "NET_ADMIN", rig.Base, "--", "true"},
		"namespace":   {"sandbox", "run", "--userns=host", rig.Base, "--", "true"},
		"behind":      {"sandbox", "run", rig.Base, "--network=host"},
		"no command":  {"sandbox", "run", rig.Base},
		"name":        {"sandbox", "run", "--name", "../x", rig.Base, "--", "true"},
		"rule":        {"sandbox", "run", "--allow", "a b", rig.Base, "--", "true"},
		"rule sign":   {"sandbox", "run", "--allow", "-a.test", rig.Base, "--", "true"},
		"env":         {"sandbox", "run", "--env", "1=2", rig.Base, "--", "true"},
		"mount shape": {"sandbox", "run", "--mount", "/tmp", rig.Base, "--", "true"},
		"mount self":  {"sandbox", "run", "--mount", r.Data() + ":/x", rig.Base, "--", "true"},
		"mount home":  {"sandbox", "run", "--mount", os.Getenv("HOME") + ":/x", rig.Base, "--", "true"},
		"mount proc":  {"sandbox", "run", "--mount", "/proc:/x", rig.Base, "--", "true"},
		"mount guest": {"sandbox", "run", "--mount", "/tmp:/run/terok/bin", rig.Base, "--", "true"},
		"mount gone":  {"sandbox", "run", "--mount", "/no/such/thing:/x", rig.Base, "--", "true"},
	} {
		if o := r.Do(t, args...); o.Code != 2 {
			t.Errorf("%s: exit %d\n%s%s", name, o.Code, o.Stdout, o.Stderr)
		}
	}
	if o := r.Do(t, "sandbox", "run", "localhost/no-such-image", "--", "true"); o.Code != 6 {
		t.Errorf("image: exit %d\n%s", o.Code, o.Stderr)
	}
	if o := r.Do(t, "sandbox", "rm", "no-such-sandbox"); o.Code != 6 {
		t.Errorf("rm: exit %d\n%s", o.Code, o.Stderr)
	}
}

func TestMountedSocketIsRefused(t *testing.T) {
	dir := t.TempDir()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	sock := filepath.Join(dir, "engine.sock")
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: sock}); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(sock, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{sock, link} {
		if o := r.Do(t, "sandbox", "run", "--mount", path+":/x", rig.Base, "--", "true"); o.Code != 2 {
			t.Errorf("%s: exit %d", path, o.Code)
		}
	}
}

func TestNameIsTaken(t *testing.T) {
	name := r.Sandbox(t)
	o := r.Do(t, "sandbox", "run", "-d", "--name", name, rig.Base, "--", "true")
	if o.Code != 7 || !strings.Contains(o.Stderr, "sandbox rm "+name) {
		t.Errorf("exit %d: %s", o.Code, o.Stderr)
	}
}

func TestListing(t *testing.T) {
	name := r.Sandbox(t)
	var v struct {
		Data []struct {
			Name, State string
			Supervised  bool
		}
	}
	if err := json.Unmarshal([]byte(r.OK(t, "sandbox", "ps", "--json")), &v); err != nil {
		t.Fatal(err)
	}
	for _, s := range v.Data {
		if s.Name == name {
			if s.State != "running" || !s.Supervised {
				t.Errorf("%+v", s)
			}
			return
		}
	}
	t.Errorf("%s is not listed", name)
}

func TestStopEndsEverything(t *testing.T) {
	name := r.Sandbox(t)
	st := r.Status(t, name)
	start := time.Now()
	r.OK(t, "sandbox", "stop", name)
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("stop took %s: SIGTERM is not passed on", d)
	}
	rig.Eventually(t, 5*time.Second, "parent and worker end with the container", func() bool {
		return rig.Gone(st.Parent.PID) && rig.Gone(st.Worker.PID)
	})
	if left, _ := filepath.Glob(filepath.Join(r.Dir, "run", "terok", "run", name, "*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if got := r.Status(t, name).Posture; got != "offline" {
		t.Errorf("posture of a stopped sandbox: %s", got)
	}
	r.OK(t, "sandbox", "restart", name)
	if got := r.Status(t, name); got.Posture != "up" || got.Parent.PID == st.Parent.PID {
		t.Errorf("after restart: %+v", got)
	}
}

// The guest reaps: a hundred orphans leave no zombie.
func TestOrphansAreReaped(t *testing.T) {
	name := r.Sandbox(t)
	r.Podman(t, "exec", r.Container(name), "sh", "-c", "for i in $(seq 100); do (true &) ; done")
	rig.Eventually(t, 5*time.Second, "no zombie is left", func() bool {
		o := r.Podman(t, "exec", r.Container(name), "sh", "-c", `cat /proc/[0-9]*/stat | grep -c ") Z " || true`)
		return strings.TrimSpace(o.Stdout) == "0"
	})
}

func TestParallelStarts(t *testing.T) {
	const n = 8
	names := make([]string, n)
	var wg sync.WaitGroup
	errs := make(chan string, n)
	for i := range names {
		names[i] = r.Name(t)
		t.Cleanup(func() { r.Remove(t, names[i]) })
		wg.Go(func() {
			if o := r.Do(t, "sandbox", "run", "-d", "--name", names[i], rig.Base, "--", "sleep", "600"); o.Code != 0 {
				errs <- o.Stderr
			}
		})
	}
	wg.Wait()
	close(errs)
	for e := range errs {
		t.Error(e)
	}
	pids := map[int]bool{}
	for _, name := range names {
		st := r.Status(t, name)
		if st.Posture != "up" || pids[st.Parent.PID] {
			t.Errorf("%s: %+v", name, st)
		}
		pids[st.Parent.PID] = true
	}
}

// A launch that is killed at any point leaves nothing that runs unseen, and the next one cleans up.
func TestKilledLaunchIsSwept(t *testing.T) {
	for _, after := range []time.Duration{30 * time.Millisecond, 80 * time.Millisecond, 140 * time.Millisecond, 220 * time.Millisecond} {
		name := r.Name(t)
		t.Cleanup(func() { r.Remove(t, name) })
		cmd := exec.Command(r.Terok, "sandbox", "run", "-d", "--name", name, rig.Base, "--", "sleep", "600")
		cmd.Env = r.Env()
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(after) // the point of the kill, not a wait for something
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		r.OK(t, "sandbox", "run", "--rm", rig.Base, "--", "true")
		var list []struct{ State string }
		o := r.Podman(t, "ps", "-a", "--filter", "name=^"+r.Container(name)+"$", "--format", "json")
		if err := json.Unmarshal([]byte(o.Stdout), &list); err != nil {
			t.Fatal(err)
		}
		for _, c := range list {
			if c.State != "running" {
				t.Errorf("killed after %s: a container in state %q is left", after, c.State)
			}
		}
		if left, _ := filepath.Glob(r.Data("launching", "*")); len(left) > 0 {
			t.Errorf("killed after %s: records left: %v", after, left)
		}
		r.Remove(t, name)
		r.OK(t, "sandbox", "run", "--rm", "--name", name, rig.Base, "--", "true")
	}
}

func TestMemoryOfASupervisor(t *testing.T) {
	name := r.Sandbox(t)
	r.Run(t, name, "status")
	st := r.Status(t, name)
	total := 0
	for _, pid := range []int{st.Parent.PID, st.Worker.PID} {
		total += pss(t, r, pid)
	}
	t.Logf("PSS of parent and worker: %d KiB", total)
	if total > 20<<10 {
		t.Errorf("PSS of parent and worker is %d KiB, more than 20 MiB", total)
	}
}

// pss reads a process's proportional set size in KiB. The supervisor is not dumpable, so only root
// of its user namespace can.
func pss(t *testing.T, r *rig.Rig, pid int) int {
	t.Helper()
	o := r.Podman(t, "unshare", "cat", fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(o.Stdout) {
		var kib int
		if _, err := fmt.Sscanf(line, "Pss: %d kB", &kib); err == nil {
			return kib
		}
	}
	t.Fatalf("no PSS of %d: %s%s", pid, o.Stdout, o.Stderr)
	return 0
}

// A new sandbox inherits nothing of an old one of the same name, also when podman removed that.
func TestNameIsUsedAgainWithoutItsVerdicts(t *testing.T) {
	name := r.Sandbox(t)
	r.OK(t, "shield", "allow", name, "a.test:443")
	if o := r.Podman(t, "rm", "-f", "-t", "0", r.Container(name)); o.Code != 0 {
		t.Fatal(o.Stderr)
	}
	r.OK(t, "sandbox", "run", "-d", "--name", name, rig.Base, "--", "sleep", "600")
	if rules := r.OK(t, "shield", "rules", name); strings.Contains(rules, "a.test") {
		t.Errorf("the new sandbox has\n%s", rules)
	}
}
