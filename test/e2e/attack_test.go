package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok/test/e2e/rig"
)

// refused is the guest's exit code when there is no supervisor of ours.
const refused = 78

// canary mounts a directory that the command writes to when it runs.
func canary(t *testing.T) (dir string, flag []string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir, []string{"--mount", dir + ":/canary"}
}

func ran(t *testing.T, dir string) bool {
	t.Helper()
	err := os.Remove(filepath.Join(dir, "ran"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return err == nil
}

// exitOf waits for a container and returns its exit code.
func exitOf(t *testing.T, container string) int {
	t.Helper()
	o := r.Podman(t, "wait", container)
	n, err := strconv.Atoi(strings.TrimSpace(o.Stdout))
	if err != nil {
		t.Fatalf("wait: %s%s", o.Stdout, o.Stderr)
	}
	return n
}

func waitRan(t *testing.T, dir string) {
	t.Helper()
	rig.Eventually(t, 10*time.Second, "the command runs", func() bool {
		_, err := os.Stat(filepath.Join(dir, "ran"))
		return err == nil
	})
	ran(t, dir)
}

// A container that starts without our hook has no network, and its command never runs.
func TestNoHookNoStart(t *testing.T) {
	dir, flag := canary(t)
	name := r.SandboxOf(t, flag, rig.ProbePath, "wait", "/canary/ran")
	c := r.Container(name)
	waitRan(t, dir)

	for what, start := range map[string]func() rig.Out{
		"podman start by hand":           func() rig.Out { return r.Podman(t, "start", c) },
		"CONTAINERS_CONF of another one": func() rig.Out { t.Setenv("CONTAINERS_CONF", "/dev/null"); return r.Podman(t, "start", c) },
	} {
		r.OK(t, "sandbox", "stop", name)
		if o := start(); o.Code != 0 && !strings.Contains(o.Stderr, c) {
			t.Logf("%s: %s", what, o.Stderr)
		}
		if code := exitOf(t, c); code != refused {
			t.Errorf("%s: exit %d", what, code)
		}
		if ran(t, dir) {
			t.Errorf("%s: the command ran", what)
		}
	}

	// With our configuration, but without descriptor or program.
	descriptor := r.Data("hooks", "terok.json")
	data, err := os.ReadFile(descriptor)
	if err != nil {
		t.Fatal(err)
	}
	for what, broken := range map[string]func() error{
		"descriptor gone": func() error { return os.Remove(descriptor) },
		"program gone": func() error {
			return os.WriteFile(descriptor, []byte(strings.ReplaceAll(string(data), r.Terok, "/no/such/terok")), 0o600)
		},
		"directory gone": func() error { return os.RemoveAll(filepath.Dir(descriptor)) },
	} {
		r.Ours(t, "stop", "-t", "2", c)
		if err := broken(); err != nil {
			t.Fatal(err)
		}
		r.Ours(t, "start", c)
		if code := exitOf(t, c); code != refused {
			t.Errorf("%s: exit %d", what, code)
		}
		if ran(t, dir) {
			t.Errorf("%s: the command ran", what)
		}
		// The next command of ours puts it right.
		r.OK(t, "sandbox", "restart", name)
		waitRan(t, dir)
		if got := r.Status(t, name); got.Posture != "up" {
			t.Errorf("%s: after restart %+v", what, got)
		}
	}
}

// podman restart by hand with our configuration is a full start.
func TestRestartByHand(t *testing.T) {
	dir, flag := canary(t)
	name := r.SandboxOf(t, flag, rig.ProbePath, "wait", "/canary/ran")
	waitRan(t, dir)
	before := r.Status(t, name)
	if o := r.Ours(t, "restart", "-t", "2", r.Container(name)); o.Code != 0 {
		t.Fatal(o.Stderr)
	}
	waitRan(t, dir)
	after := r.Status(t, name)
	if after.Posture != "up" || after.Parent.PID == before.Parent.PID || !rig.Gone(before.Parent.PID) {
		t.Errorf("before %+v, after %+v", before, after)
	}
}

// TestReboot: after a reboot, when nothing below the runtime directory is left, podman's start by hand
// brings the container back with its supervisor, its posture and its live verdicts; a CONTAINERS_CONF of
// the person's own takes nothing away at a launch. spec/shield.md §10: 13, 14, 15.
func TestReboot(t *testing.T) {
	t.Setenv("CONTAINERS_CONF", "/dev/null")
	name := r.Sandbox(t)
	r.OK(t, "shield", "allow", name, "example.test:443")
	r.OK(t, "shield", "deny", name, "other.test")
	r.OK(t, "shield", "quarantine", name)
	r.OK(t, "sandbox", "stop", name)
	runtimeDir := ""
	for _, kv := range r.Env() {
		if dir, ok := strings.CutPrefix(kv, "XDG_RUNTIME_DIR="); ok {
			runtimeDir = dir
		}
	}
	if err := os.RemoveAll(filepath.Join(runtimeDir, "terok", "run", name)); err != nil || runtimeDir == "" {
		t.Fatal(runtimeDir, err)
	}
	if o := r.Ours(t, "start", r.Container(name)); o.Code != 0 {
		t.Fatal(o.Stderr)
	}
	if st := r.Status(t, name); st.Posture != "quarantine" || !st.Verified {
		t.Errorf("%+v", st)
	}
	rules := r.OK(t, "shield", "rules", name)
	if !strings.Contains(rules, "+example.test:443") || !strings.Contains(rules, "-other.test") {
		t.Errorf("live rules are gone:\n%s", rules)
	}
}

// A copy of the container never runs the command, and stores nothing that works there.
func TestCopiesAreRefused(t *testing.T) {
	dir, flag := canary(t)
	name := r.SandboxOf(t, flag, rig.ProbePath, "wait", "/canary/ran")
	c := r.Container(name)
	waitRan(t, dir)
	copyName := c + "-copy"
	t.Cleanup(func() {
		r.Podman(t, "rm", "-f", "-t", "0", copyName)
		r.Podman(t, "rmi", "-f", "localhost/"+copyName)
	})

	check := func(what, container string) {
		t.Helper()
		if code := exitOf(t, container); code != refused {
			t.Errorf("%s: exit %d: %s", what, code, r.Podman(t, "logs", container).Stderr)
		}
		if ran(t, dir) {
			t.Errorf("%s: the command ran", what)
		}
	}
	clone := func(what string, args ...string) {
		t.Helper()
		r.Podman(t, "rm", "-f", "-t", "0", copyName)
		if o := r.Ours(t, args...); o.Code != 0 {
			t.Fatalf("%s: %s", what, o.Stderr)
		}
		if o := r.Ours(t, "start", copyName); o.Code != 0 {
			// Podman 4.3 cannot even start some copies; others it can.
			t.Logf("%s: podman: %s", what, strings.TrimSpace(o.Stderr))
			if ran(t, dir) {
				t.Errorf("%s: the command ran", what)
			}
			return
		}
		check(what, copyName)
	}
	clone("podman container clone", "container", "clone", c, copyName)
	if o := r.Ours(t, "commit", "-q", c, "localhost/"+copyName); o.Code != 0 {
		t.Fatal(o.Stderr)
	}
	guest := fmt.Sprintf("%s:/run/terok/bin/terok:ro", guestOf(t, c))
	clone("commit and run", "create", "--name", copyName, "--network=none", "-v", guest, "-v", dir+":/canary", "localhost/"+copyName)
	clone("commit and run with a network", "create", "--name", copyName, "-v", guest, "-v", dir+":/canary", "localhost/"+copyName)
	clone("commit and run in the sandbox's own network", "create", "--name", copyName, "--network=container:"+c,
		"-v", guest, "-v", dir+":/canary", "localhost/"+copyName)
	r.Podman(t, "rm", "-f", "-t", "0", copyName)

	kube := filepath.Join(t.TempDir(), "kube.yaml")
	o := r.Ours(t, "generate", "kube", c)
	if o.Code != 0 {
		t.Fatal(o.Stderr)
	}
	// As generated, podman 4.3 cannot play it: it cuts its own annotation of mount options and then
	// panics over it, has no ids for another user namespace, and takes a tmpfs for a directory.
	// Whoever wants a copy would mend that.
	tmp := t.TempDir()
	yaml := strings.NewReplacer(c, copyName, "  hostUsers: false\n", "", "path: tmpfs", "path: "+tmp).Replace(o.Stdout)
	yaml = regexp.MustCompile(`(?m)^ +bind-mount-options.*\n`).ReplaceAllString(yaml, "")
	if err := os.WriteFile(kube, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Ours(t, "play", "kube", "--down", kube) })
	if o := r.Ours(t, "play", "kube", "--network=slirp4netns", kube); o.Code != 0 {
		t.Fatalf("play kube: %s", o.Stderr)
	}
	check("generate kube and play kube", copyName+"-pod-"+copyName)
}

// guestOf is the source of the guest's mount.
func guestOf(t *testing.T, container string) string {
	t.Helper()
	var v []struct {
		Mounts []struct{ Source, Destination string }
	}
	if err := json.Unmarshal([]byte(r.Podman(t, "inspect", container).Stdout), &v); err != nil {
		t.Fatal(err)
	}
	for _, m := range v[0].Mounts {
		if m.Destination == "/run/terok/bin/terok" {
			return m.Source
		}
	}
	t.Fatal("the guest is not mounted")
	return ""
}

// Our annotation on a container that is not as its sandbox file says is refused by the hook.
func TestHookJudgesTheFinalSpecification(t *testing.T) {
	name := r.Sandbox(t)
	c := r.Container(name)
	r.OK(t, "sandbox", "stop", name)
	dir := r.SandboxDir(name)
	mine, err := os.ReadFile(filepath.Join(dir, "container.id"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Guest string `json:"guest_sha256"`
	}
	data, _ := os.ReadFile(filepath.Join(dir, "sandbox.json"))
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	profiles, _ := filepath.Glob(r.Data("seccomp", "*.json"))
	if len(profiles) != 1 {
		t.Fatal(profiles)
	}
	// What the launcher gives, to be changed in one place each.
	good := []string{"--network=none", "--userns=keep-id:uid=1000,gid=1000", "--user=1000:1000", "--cgroupns=private",
		"--ipc=private", "--pid=private", "--uts=private", "--cap-drop=SETFCAP", "--cap-drop=SETPCAP",
		"--security-opt=seccomp=" + profiles[0], "--tmpfs=/run/terok:rw,mode=1777",
		"--volume=" + r.Data("guest", file.Guest, "terok") + ":/run/terok/bin/terok:ro",
		"--annotation=io.terok.sandbox=" + filepath.Join(dir, "sandbox.json"), `--entrypoint=["/run/terok/bin/terok","guest","init"]`}
	without := func(prefix string, more ...string) []string {
		var out []string
		for _, f := range good {
			if !strings.HasPrefix(f, prefix) {
				out = append(out, f)
			}
		}
		return append(out, more...)
	}
	other := c + "-other"
	t.Cleanup(func() { r.Podman(t, "rm", "-f", "-t", "0", other) })
	for what, flags := range map[string][]string{
		"another container id":    good,
		"a real network":          without("--network"),
		"the host's network":      without("--network", "--network=host"),
		"the host's pids":         without("--pid", "--pid=host"),
		"podman's user namespace": without("--userns", "--userns=host"),
		"podman's seccomp":        without("--security-opt"),
		"no seccomp":              without("--security-opt", "--security-opt=seccomp=unconfined"),
		"one capability more":     append(append([]string{}, good...), "--cap-add=NET_ADMIN"),
		"default capabilities":    without("--cap-drop"),
		"another first process":   without("--entrypoint", "--entrypoint=/bin/sh"),
		"another guest":           without("--volume", "--volume="+r.Probe+":/run/terok/bin/terok:ro"),
		"a writable guest":        without("--volume", "--volume="+r.Data("guest", file.Guest, "terok")+":/run/terok/bin/terok"),
		"privileged":              append(append([]string{}, good...), "--privileged"),
	} {
		r.Podman(t, "rm", "-f", "-t", "0", other)
		_ = os.Remove(filepath.Join(dir, "start-error"))
		args := append([]string{"create", "--name", other}, flags...)
		o := r.Ours(t, append(args, rig.Base, "--key=AAAA", "--", "true")...)
		if o.Code != 0 {
			t.Errorf("%s: create: %s", what, o.Stderr)
			continue
		}
		id := strings.TrimSpace(o.Stdout)
		if what != "another container id" { // everything else right
			if err := os.WriteFile(filepath.Join(dir, "container.id"), []byte(id), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		o = r.Ours(t, "start", other)
		if what == "a real network" {
			// Podman makes slirp's link after the hook, so the hook cannot see it: the guest does,
			// and the supervisor, which goes to quarantine.
			if code := exitOf(t, other); o.Code == 0 && code != refused {
				t.Errorf("%s: exit %d", what, code)
			}
			continue
		}
		if o.Code == 0 {
			t.Errorf("%s: it started", what)
		}
		reason, err := os.ReadFile(filepath.Join(dir, "start-error"))
		if err != nil {
			t.Errorf("%s: no reason was left: %v", what, err)
		}
		t.Logf("%s: %s", what, strings.TrimSpace(string(reason)))
		if err := os.WriteFile(filepath.Join(dir, "container.id"), mine, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "container.id"), mine, 0o600); err != nil {
		t.Fatal(err)
	}
	r.OK(t, "sandbox", "restart", name)
}

// A sandbox file that others could have written is not read.
func TestHostileSandboxFile(t *testing.T) {
	name := r.Sandbox(t)
	r.OK(t, "sandbox", "stop", name)
	path := filepath.Join(r.SandboxDir(name), "sandbox.json")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, spoil := range map[string]func() error{
		"writable by others":      func() error { return os.Chmod(path, 0o666) },
		"directory for everybody": func() error { return os.Chmod(filepath.Dir(path), 0o777) },
		"symbolic link": func() error {
			if err := os.Rename(path, path+".real"); err != nil {
				return err
			}
			return os.Symlink(path+".real", path)
		},
		"torn": func() error { return os.WriteFile(path, good[:len(good)/2], 0o600) },
		"unknown schema": func() error {
			return os.WriteFile(path, []byte(strings.Replace(string(good), `"schema": 1`, `"schema": 99`, 1)), 0o600)
		},
		"fifo": func() error {
			if err := os.Remove(path); err != nil {
				return err
			}
			return mkfifo(path)
		},
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if o := r.Ours(t, "start", r.Container(name)); o.Code == 0 {
			t.Errorf("%s: it started", what)
		}
		_ = os.Remove(path)
		_ = os.Chmod(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.OK(t, "sandbox", "restart", name)
}

func TestPanicLockStopsStarts(t *testing.T) {
	name := r.Sandbox(t)
	r.OK(t, "sandbox", "stop", name)
	lock := r.Data("panic.lock")
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(lock)
	if o := r.Ours(t, "start", r.Container(name)); o.Code == 0 {
		t.Error("podman start works while the lock stands")
	}
	if o := r.Do(t, "sandbox", "run", "--rm", rig.Base, "--", "true"); o.Code != 7 {
		t.Errorf("sandbox run: exit %d: %s", o.Code, o.Stderr)
	}
	os.Remove(lock)
	r.OK(t, "sandbox", "restart", name)
}

func TestKilledWorkerIsReplaced(t *testing.T) {
	name := r.Sandbox(t)
	r.OK(t, "shield", "allow", name, "example.test:443")
	var before rig.Status
	rig.Eventually(t, 20*time.Second, "the guest is ready", func() bool { before = r.Status(t, name); return before.Ready })
	rig.Kill(t, before.Worker.PID)
	start := time.Now()
	var after rig.Status
	rig.Eventually(t, time.Second, "another worker serves", func() bool {
		after = r.Status(t, name)
		return after.Posture == "up" && after.Worker.PID != before.Worker.PID
	})
	t.Logf("replaced after %s", time.Since(start))
	if after.Restarts != 1 || after.Parent.PID != before.Parent.PID || !after.Ready || after.Worker.CapEff != none {
		t.Errorf("%+v", after)
	}
	if !strings.Contains(r.OK(t, "shield", "rules", name), "+example.test:443") {
		t.Error("the live rule is gone")
	}
	if !strings.Contains(r.OK(t, "shield", "logs", name), "supervisor_restarted") {
		t.Error("the ledger does not tell")
	}
	// The start with its secrets was handed out once; nobody gets it again.
	o := r.Podman(t, "exec", r.Container(name), "/run/terok/bin/terok", "guest", "init", "--key="+keyOf(t, name), "--", "/probe", "status")
	if o.Code != refused {
		t.Errorf("a second hello: exit %d %s", o.Code, o.Stdout)
	}
}

// keyOf is the public key in the container's arguments.
func keyOf(t *testing.T, name string) string {
	t.Helper()
	o := r.Podman(t, "inspect", "-f", "{{index .Config.Cmd 0}}", r.Container(name))
	return strings.TrimPrefix(strings.TrimSpace(o.Stdout), "--key=")
}

// whenReady waits for the guest's report: one whose supervisor dies before that ends by itself (78).
func whenReady(t *testing.T, name string) rig.Status {
	t.Helper()
	var st rig.Status
	rig.Eventually(t, 10*time.Second, "the guest is ready", func() bool {
		st = r.Status(t, name)
		return st.Ready
	})
	return st
}

// Without parent and worker there is no network at all, also for a workload that takes the ports.
func TestKilledSupervisorMeansNoNetwork(t *testing.T) {
	for what, victims := range map[string]func(st rig.Status) []int{
		"parent and worker": func(st rig.Status) []int { return []int{st.Parent.PID, st.Worker.PID} },
		"parent":            func(st rig.Status) []int { return []int{st.Parent.PID} },
	} {
		name := r.Sandbox(t, "--allow", "a.test")
		st := whenReady(t, name)
		for _, pid := range victims(st) {
			rig.Kill(t, pid)
		}
		rig.Eventually(t, 2*time.Second, what+": both are gone", func() bool { return rig.Gone(st.Parent.PID) && rig.Gone(st.Worker.PID) })
		for _, args := range [][]string{{"tcp", "203.0.113.10:443"}, {"tcp", "10.0.2.2:9421"}, {"udp", "203.0.113.10:443"},
			{"dns", "a.test", "A"}, {"tcp", "[2001:db8:1::10]:443"}} {
			if res := r.Run(t, name, args...); res.Error() == "" {
				t.Errorf("%s killed: %v: %v", what, args, res)
			}
		}
		if got := r.Status(t, name); got.Posture != "error" {
			t.Errorf("%s killed: posture %s", what, got.Posture)
		}
		o := r.Do(t, "shield", "allow", name, "b.test")
		if o.Code != 7 || !strings.Contains(o.Stderr, "sandbox restart "+name) {
			t.Errorf("%s killed: shield allow: exit %d %s", what, o.Code, o.Stderr)
		}
		r.OK(t, "sandbox", "restart", name)
		rig.Eventually(t, 5*time.Second, what+" killed: restart cures", func() bool {
			got := r.Status(t, name)
			return got.Posture == "up" && got.Ready
		})
	}
}

// A state file that cannot be read is quarantine, never an empty policy.
func TestTornStateMeansQuarantine(t *testing.T) {
	for _, file := range []string{"policy.json", "session.json", "posture"} {
		name := r.Sandbox(t, "--allow", "a.test")
		if err := os.WriteFile(filepath.Join(r.SandboxDir(name), "shield", file), []byte(`{"schema":`), 0o600); err != nil {
			t.Fatal(err)
		}
		r.OK(t, "sandbox", "restart", name)
		if got := r.Status(t, name); got.Posture != "quarantine" {
			t.Errorf("torn %s: posture %s", file, got.Posture)
		}
		if o := r.Do(t, "shield", "allow", name, "b.test"); o.Code != 7 {
			t.Errorf("torn %s: shield allow: exit %d", file, o.Code)
		}
		if res := r.Run(t, name, "dns", "a.test", "A"); res.String("rcode") != "REFUSED" {
			t.Errorf("torn %s: %v", file, res)
		}
	}
}

// A change of links or table from outside is noticed, although the supervisor has no privilege to
// look: nothing opens, and status says so.
//
// spec/shield.md §10: 7 (read back), 10; §9: 26.
func TestTamperingIsNoticed(t *testing.T) {
	for what, args := range map[string][]string{
		"table": {"nft", "flush", "ruleset"},
		"link":  {"ip", "link", "add", "other0", "type", "veth", "peer", "name", "other1"},
	} {
		name := r.Sandbox(t)
		pid := strings.TrimSpace(r.Podman(t, "inspect", "-f", "{{.State.Pid}}", r.Container(name)).Stdout)
		// The rejected packet is counted, and reading the table back is no change.
		if res := r.Run(t, name, "udp", "203.0.113.10:443"); !res.Failed() {
			t.Errorf("UDP: %v", res)
		}
		if out := r.OK(t, "shield", "rules", name, "--counters"); !strings.Contains(out, "are as generated") || !regexp.MustCompile(`egress +[1-9]`).MatchString(out) {
			t.Errorf("the counters: %s", out)
		}
		if st := r.Status(t, name); st.Posture != "up" || !st.Verified || len(st.Warnings) > 0 {
			t.Errorf("%+v", st)
		}
		// The operator makes a process in there that could do it.
		if o := r.Podman(t, "exec", "-d", "--privileged", r.Container(name), rig.ProbePath, "wait"); o.Code != 0 {
			t.Fatal(o.Stderr)
		}
		rig.Eventually(t, 20*time.Second, "status warns of it", func() bool {
			return strings.Contains(strings.Join(r.Status(t, name).Warnings, " "), "CAP_NET_ADMIN): probe, pid ")
		})
		enter := append([]string{"unshare", "nsenter", "--net=/proc/" + pid + "/ns/net"}, args...)
		if o := r.Podman(t, enter...); o.Code != 0 {
			t.Fatalf("%s: %s", what, o.Stderr)
		}
		rig.Eventually(t, 5*time.Second, what+": status says error", func() bool {
			st := r.Status(t, name)
			return st.Posture == "error" && !st.Verified
		})
		if res := r.Run(t, name, "tcp", "203.0.113.10:443"); res.Error() == "" {
			t.Errorf("%s changed: something can be reached", what)
		}
		log := r.OK(t, "shield", "logs", name, "--json")
		for _, want := range []string{"verify_failed", `"net_admin":"probe, pid `, `"ev":"net_admin"`} {
			if !strings.Contains(log, want) {
				t.Errorf("%s changed: the ledger does not tell %s", what, want)
			}
		}
		if o := r.Do(t, "shield", "rules", name, "--counters"); o.Code != 11 || !strings.Contains(o.Stdout, "NOT as generated") {
			t.Errorf("%s changed: the table is read as: exit %d %s%s", what, o.Code, o.Stdout, o.Stderr)
		}
	}
}

// What the workload can reach of the supervisor without going through the redirect is reset.
func TestListenersTakeNoDirectConnection(t *testing.T) {
	name := r.Sandbox(t)
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		o := r.Podman(t, "exec", r.Container(name), "cat", file)
		for line := range strings.Lines(o.Stdout) {
			f := strings.Fields(line)
			if len(f) < 4 || f[3] != "0A" {
				continue
			}
			_, hexPort, _ := strings.Cut(f[1], ":")
			port, err := strconv.ParseUint(hexPort, 16, 16)
			if err != nil {
				t.Fatal(err)
			}
			host := "127.0.0.1"
			if file == "/proc/net/tcp6" {
				host = "[::1]"
			}
			if res := r.Run(t, name, "tcp", fmt.Sprintf("%s:%d", host, port)); !res.Failed() {
				t.Errorf("%s:%d: %v", host, port, res)
			}
		}
	}
}

func mkfifo(path string) error { return syscall.Mkfifo(path, 0o600) }

// A workload that takes the listeners' ports after the supervisor's death gets its own
// connections back and nothing else; a restart brings the real supervisor.
func TestPortsTakenAfterTheSupervisorsDeath(t *testing.T) {
	name := r.Sandbox(t, "--allow", "a.test")
	var ports []string
	for line := range strings.Lines(r.Podman(t, "exec", r.Container(name), "cat", "/proc/net/tcp").Stdout) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != "0A" {
			continue
		}
		_, hexPort, _ := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hexPort, 16, 16)
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, strconv.FormatUint(port, 10))
	}
	if len(ports) == 0 {
		t.Fatal("no listener of the supervisor found")
	}
	st := whenReady(t, name)
	rig.Kill(t, st.Parent.PID)
	rig.Eventually(t, 2*time.Second, "both are gone", func() bool { return rig.Gone(st.Parent.PID) && rig.Gone(st.Worker.PID) })
	for _, p := range ports {
		if o := r.Podman(t, "exec", "-d", r.Container(name), rig.ProbePath, "serve", p); o.Code != 0 {
			t.Fatalf("serve %s: %s", p, o.Stderr)
		}
	}
	// While connections of the listener are in TIME_WAIT the kernel does not even give the port away.
	for range 5 {
		if res := r.Run(t, name, "tcp", "203.0.113.10:443"); res.Error() == "" && !strings.HasPrefix(fmt.Sprint(res["read"]), "workload") {
			t.Errorf("somebody answers who is not the workload: %v", res)
		}
	}
	for _, args := range [][]string{{"udp", "203.0.113.10:443"}, {"dns", "a.test", "A"}} {
		if res := r.Run(t, name, args...); res.Error() == "" {
			t.Errorf("%v: %v", args, res)
		}
	}
	if got := r.Status(t, name); got.Posture != "error" {
		t.Errorf("posture %s", got.Posture)
	}
	r.OK(t, "sandbox", "restart", name)
	rig.Eventually(t, 5*time.Second, "restart cures", func() bool {
		got := r.Status(t, name)
		return got.Posture == "up" && got.Ready
	})
	if res := r.Run(t, name, "tcp", "203.0.113.10:443"); strings.Contains(fmt.Sprint(res["read"]), "workload") {
		t.Errorf("the workload still answers: %v", res)
	}
}
