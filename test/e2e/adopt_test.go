package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"terok/test/e2e/rig"
)

// orphan is a running sandbox whose supervisor was killed.
func orphan(t *testing.T, flags ...string) (name string, before rig.Status) {
	t.Helper()
	name = r.Sandbox(t, flags...)
	before = whenReady(t, name)
	// The record of the running container is written once it runs.
	live := filepath.Join(r.SandboxDir(name), "live.json")
	rig.Eventually(t, 10*time.Second, "the running container is recorded", func() bool {
		_, err := os.Stat(live)
		return err == nil
	})
	bereave(t, before)
	return name, before
}

// bereave kills parent and worker.
func bereave(t *testing.T, st rig.Status) {
	t.Helper()
	rig.Kill(t, st.Parent.PID)
	rig.Kill(t, st.Worker.PID)
	rig.Eventually(t, 10*time.Second, "both are gone", func() bool { return rig.Gone(st.Parent.PID) && rig.Gone(st.Worker.PID) })
}

// A container whose supervisor died gets a new one, which has what the first one had and nothing
// more; what runs in it is the same process as before.
func TestAdoption(t *testing.T) {
	name := r.SandboxOf(t, []string{"--allow", "a.test"}, rig.ProbePath, "serve", "8000")
	r.OK(t, "shield", "allow", name, "live.test:443")
	before := whenReady(t, name)
	pid := r.Podman(t, "inspect", "-f", "{{.State.Pid}}", r.Container(name)).Stdout
	for range 2 { // it can be needed again
		bereave(t, before)
		if got := r.Status(t, name); got.Posture != "error" {
			t.Fatalf("posture %s without a supervisor", got.Posture)
		}
		// Nothing answers, and that is said at once: programs inside must not hang.
		for _, args := range [][]string{{"tcp", "203.0.113.10:443"}, {"dns", "a.test", "A"}} {
			if res := r.Run(t, name, args...); res.Error() == "" || res.MS() > 2000 {
				t.Errorf("without a supervisor %v: %v", args, res)
			}
		}
		out := r.OK(t, "sandbox", "adopt", name)
		if !strings.Contains(out, "everything is as it was") {
			t.Errorf("%s", out)
		}
		after := r.Status(t, name)
		if after.Posture != "up" || !after.Verified || !after.Ready || !after.Adopted || after.Waiting || after.Parent.PID == before.Parent.PID {
			t.Errorf("%+v", after)
		}
		for what, p := range map[string]rig.Process{"parent": after.Parent, "worker": after.Worker} {
			if p.CapEff != none || p.CapBnd != none {
				t.Errorf("the new %s has capabilities: %+v", what, p)
			}
		}
		if after.Worker.Seccomp != 2 {
			t.Error("the new worker has no seccomp filter")
		}
		rules := r.OK(t, "shield", "rules", name)
		for _, rule := range []string{"+a.test", "+live.test:443"} {
			if !strings.Contains(rules, rule) {
				t.Errorf("%s is gone: %s", rule, rules)
			}
		}
		if res := r.Run(t, name, "dns", "a.test", "A"); res.Error() != "" {
			t.Errorf("the resolver does not answer: %v", res)
		}
		if res := r.Run(t, name, "tcp", "203.0.113.10:443"); !res.Failed() {
			t.Errorf("an unlisted address: %v", res)
		}
		if res := r.Run(t, name, "tcp", "127.0.0.1:8000"); !strings.Contains(res.String("read"), "workload") {
			t.Errorf("the workload's own server: %v", res)
		}
		// The start is not handed out again, and there is one supervisor only.
		if o := r.Podman(t, "exec", r.Container(name), "/run/terok/bin/terok", "guest", "init", "--key="+keyOf(t, name), "--", "/probe", "status"); o.Code != refused {
			t.Errorf("a hello after the adoption: exit %d %s", o.Code, o.Stdout)
		}
		if o := r.Do(t, "shield", "adopt", name); o.Code != 7 || !strings.Contains(o.Stderr, "has a supervisor") {
			t.Errorf("a second adoption: exit %d %s", o.Code, o.Stderr)
		}
		before = after
	}
	if now := r.Podman(t, "inspect", "-f", "{{.State.Pid}}", r.Container(name)).Stdout; now != pid {
		t.Errorf("the container was restarted: init %s, then %s", pid, now)
	}
	if !strings.Contains(r.OK(t, "shield", "logs", name, "-n", "0"), "supervisor_restarted") {
		t.Error("the ledger does not tell")
	}
	r.OK(t, "sandbox", "restart", name)
	if st := whenReady(t, name); st.Posture != "up" || st.Adopted {
		t.Errorf("after a restart: %+v", st)
	}
}

// Whoever can start the program with arguments of their choice cannot have it supervise what is
// not the container of the sandbox file, nor a second time what has a supervisor.
func TestAdoptionRefuses(t *testing.T) {
	name, _ := orphan(t)
	other := r.Sandbox(t)
	otherPID := initOf(t, other)
	dir, id := r.SandboxDir(name), idOf(t, name)
	file := filepath.Join(dir, "sandbox.json")
	var sb struct {
		Guest string `json:"guest_sha256"`
	}
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(good, &sb); err != nil {
		t.Fatal(err)
	}
	guest := r.Data("guest", sb.Guest, "terok")
	adopt := func(args ...string) rig.Out {
		t.Helper()
		return r.Podman(t, append([]string{"unshare", r.Terok, "supervise-adopt"}, args...)...)
	}
	refuse := func(what, why string, o rig.Out) {
		t.Helper()
		if o.Code != 3 || !strings.Contains(o.Stderr, why) {
			t.Errorf("%s: exit %d: %s", what, o.Code, o.Stderr)
		}
		if st := r.Status(t, name); st.Posture != "error" {
			t.Errorf("%s: posture %s", what, st.Posture)
		}
	}
	refuse("another container's id", "not the one that was launched", adopt(file, idOf(t, other), initOf(t, name), guest))
	refuse("another container's init", "about another one", adopt(file, id, otherPID, guest))
	refuse("a process of the host", "about another one", adopt(file, id, strconv.Itoa(os.Getpid()), guest))
	refuse("another program", "not the guest", adopt(file, id, initOf(t, name), r.Terok))
	live := filepath.Join(dir, "live.json")
	record, err := os.ReadFile(live)
	if err != nil {
		t.Fatal(err)
	}
	spoil := func(path string, data []byte) func() {
		old, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return func() {
			if err := os.WriteFile(path, old, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	edit := func(data []byte, change func(map[string]any)) []byte {
		var m map[string]any
		if err := json.Unmarshal(data, &m); err != nil {
			t.Fatal(err)
		}
		change(m)
		out, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	// A pid that was given to another process since has another start time.
	restore := spoil(live, edit(record, func(m map[string]any) { m["init_start"] = 1 }))
	refuse("another start time", "another one by now", adopt(file, id, initOf(t, name), guest))
	restore()
	restore = spoil(live, edit(record, func(m map[string]any) { m["init_pid"] = json.Number(otherPID); m["init_start"] = startOf(t, otherPID) }))
	refuse("a record that names another container", "not started for this sandbox file", adopt(file, id, otherPID, guest))
	restore()
	restore = spoil(file, edit(good, func(m map[string]any) { m["bounding"] = []string{"CAP_CHOWN"} }))
	refuse("more capabilities than the sandbox file gives", "capabilities beyond", adopt(file, id, initOf(t, name), guest))
	restore()
	restore = spoil(file, edit(good, func(m map[string]any) { m["no_new_privs"] = true }))
	refuse("new privileges", "gain new privileges", adopt(file, id, initOf(t, name), guest))
	restore()
	pl := r.Data("panic.lock")
	if err := os.WriteFile(pl, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refuse("panic", "panic", adopt(file, id, initOf(t, name), guest))
	if o := r.Do(t, "shield", "adopt", name); o.Code != 7 || !strings.Contains(o.Stderr, "panic") {
		t.Errorf("terok shield adopt in a panic: exit %d %s", o.Code, o.Stderr)
	}
	if err := os.Remove(pl); err != nil {
		t.Fatal(err)
	}
	r.OK(t, "shield", "adopt", name)
	if o := adopt(file, id, initOf(t, name), guest); o.Code != 3 || !strings.Contains(o.Stderr, "lives") {
		t.Errorf("while a supervisor lives: exit %d %s", o.Code, o.Stderr)
	}
	if st := r.Status(t, name); st.Posture != "up" {
		t.Errorf("posture %s", st.Posture)
	}
}

// A namespace that somebody changed meanwhile cannot be made right again: the container is stopped.
func TestFailedAdoptionStops(t *testing.T) {
	name, _ := orphan(t)
	pid := initOf(t, name)
	enter := []string{"unshare", "nsenter", "--net=/proc/" + pid + "/ns/net", "nft", "add", "table", "inet", "other"}
	if o := r.Podman(t, enter...); o.Code != 0 {
		t.Fatal(o.Stderr)
	}
	o := r.Do(t, "sandbox", "adopt", name)
	if o.Code != 1 || !strings.Contains(o.Stderr, "it was stopped") {
		t.Errorf("exit %d: %s", o.Code, o.Stderr)
	}
	if state := strings.TrimSpace(r.Podman(t, "inspect", "-f", "{{.State.Status}}", r.Container(name)).Stdout); state != "exited" {
		t.Errorf("the container is %s", state)
	}
	r.OK(t, "sandbox", "restart", name)
	if st := whenReady(t, name); st.Posture != "up" {
		t.Errorf("%+v", st)
	}
}

func initOf(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(r.Podman(t, "inspect", "-f", "{{.State.Pid}}", r.Container(name)).Stdout)
}

func idOf(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(r.Podman(t, "inspect", "-f", "{{.Id}}", r.Container(name)).Stdout)
}

// startOf is field 22 of /proc/<pid>/stat.
func startOf(t *testing.T, pid string) uint64 {
	t.Helper()
	data, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	n, err := strconv.ParseUint(strings.Fields(rest)[19], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
