package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"terok/test/e2e/rig"
)

// sudoBounding is what root may do inside (spec: runtime.md §4.2).
const sudoBounding = "00000000000404fb"

const none = "0000000000000000"

func TestPrivileges(t *testing.T) {
	for flag, want := range map[string][2]string{"": {sudoBounding, "0"}, "--no-root": {none, "1"}} {
		var flags []string
		if flag != "" {
			flags = []string{flag}
		}
		name := r.Sandbox(t, flags...)
		st := r.Run(t, name, "status")
		for set, v := range map[string]string{"CapEff": none, "CapPrm": none, "CapInh": none, "CapAmb": none, "CapBnd": want[0],
			"NoNewPrivs": want[1], "Seccomp": "2", "uid": "1000"} {
			if got := st.String(set); got != v {
				t.Errorf("%s %s: %s, want %s", flag, set, got, v)
			}
		}
		if links := st.String("links"); links != "[lo terok0 eth0]" && links != "[lo eth0 terok0]" {
			t.Errorf("links %s", links)
		}
	}
}

func TestClosedSockets(t *testing.T) {
	name := r.Sandbox(t)
	for what, args := range map[string][]string{
		"vsock":            {"40", "1", "0"},
		"packet":           {"17", "3", "768"},
		"alg":              {"38", "5", "0"},
		"tipc":             {"30", "1", "0"},
		"rds":              {"21", "5", "0"},
		"smc":              {"43", "1", "0"},
		"xdp":              {"44", "3", "0"},
		"kcm":              {"41", "2", "0"},
		"bluetooth":        {"31", "1", "0"},
		"can":              {"29", "3", "1"},
		"raw":              {"2", "3", "1"},
		"raw6":             {"10", "3", "58"},
		"netlink firewall": {"16", "3", "12"},
		"netlink audit":    {"16", "3", "9"},
	} {
		if res := r.Run(t, name, append([]string{"socket"}, args...)...); res.Error() == "" {
			t.Errorf("a %s socket can be made", what)
		}
	}
	for what, args := range map[string][]string{"unix": {"1", "1", "0"}, "tcp": {"2", "1", "0"}, "tcp6": {"10", "1", "0"},
		"udp": {"2", "2", "0"}, "netlink route": {"16", "3", "0"}, "mptcp": {"2", "1", "262"}} {
		if res := r.Run(t, name, append([]string{"socket"}, args...)...); res.Error() != "" {
			t.Errorf("%s: %s", what, res.Error())
		}
	}
}

// Numbers of x86-64's system calls; the tests run on that machine.
func TestClosedSystemCalls(t *testing.T) {
	name := r.Sandbox(t)
	for what, args := range map[string][]string{
		"mount": {"165"}, "umount2": {"166"}, "pivot_root": {"155"}, "move_mount": {"429"}, "open_tree": {"428"},
		"fsopen": {"430"}, "setns": {"308"}, "bpf": {"321"}, "perf_event_open": {"298"}, "userfaultfd": {"323"},
		"keyctl": {"250", "0"}, "add_key": {"248"}, "request_key": {"249"}, "io_uring_setup": {"425", "1"},
		"init_module": {"175"}, "kexec_load": {"246"}, "reboot": {"169"}, "open_by_handle_at": {"304"},
		"acct": {"163"}, "quotactl": {"179"}, "syslog": {"103"}, "personality": {"135", "0x40000"},
		"x32 socket": {"0x40000029", "40", "1"},
	} {
		// A call of another ABI ends the thread that made it, and the probe hangs: that is a refusal.
		o := r.Podman(t, append([]string{"exec", r.Container(name), "timeout", "-s", "KILL", "2", rig.ProbePath, "call"}, args...)...)
		var res rig.Result
		if json.Unmarshal([]byte(o.Stdout), &res) != nil {
			continue // killed
		}
		if e := res.String("errno"); e != "EPERM" && e != "ENOSYS" {
			t.Errorf("%s: %q", what, res.Error())
		}
	}
}

// Whoever is root inside can neither change the network nor the guest.
func TestRootInsideIsKeptOut(t *testing.T) {
	name := r.Sandbox(t)
	for what, script := range map[string]string{
		"write the guest":      "echo x > /run/terok/bin/terok",
		"replace the guest":    "mv /run/terok/bin/terok /run/terok/bin/other",
		"unmount the guest":    "umount /run/terok/bin/terok",
		"change resolv.conf":   "echo nameserver 1.1.1.1 > /etc/resolv.conf",
		"move a link":          "echo 1500 > /sys/class/net/eth0/mtu",
		"sysctl":               "echo 1 > /proc/sys/net/ipv4/ip_forward",
		"see other processes":  "ls /proc | grep -c '^[0-9]' | awk '{exit $1<20}'",
		"trace the supervisor": "kill -0 $(cat /proc/1/status | awk '/PPid/{print $2}') && test $(awk '/PPid/{print $2}' /proc/1/status) != 0",
		"sysrq":                "echo b > /proc/sysrq-trigger",
	} {
		if o := r.Podman(t, "exec", "-u", "0", r.Container(name), "sh", "-c", script); o.Code == 0 {
			t.Errorf("root inside can: %s", what)
		}
	}
	if got := r.Status(t, name); got.Posture != "up" || !got.Verified {
		t.Errorf("%+v", got)
	}
}

// What podman stores of a container is worth nothing elsewhere.
func TestNothingSecretIsStored(t *testing.T) {
	name := r.Sandbox(t, "--env", "CANARY=not-in-podman")
	var file struct {
		SigningKey string `json:"signing_key"`
	}
	data, err := os.ReadFile(r.SandboxDir(name) + "/sandbox.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &file); err != nil || file.SigningKey == "" {
		t.Fatal("no signing key", err)
	}
	inspect := r.Podman(t, "inspect", r.Container(name)).Stdout
	environ := r.Podman(t, "exec", r.Container(name), "sh", "-c", "tr '\\0' '\\n' < /proc/1/environ").Stdout
	for what, where := range map[string]string{"podman inspect": inspect, "environment of pid 1": environ} {
		for _, s := range []string{file.SigningKey, "not-in-podman"} {
			if strings.Contains(where, s) {
				t.Errorf("%s holds %q", what, s)
			}
		}
	}
	var v []struct{ Mounts []struct{ Source string } }
	if err := json.Unmarshal([]byte(inspect), &v); err != nil {
		t.Fatal(err)
	}
	for _, m := range v[0].Mounts {
		if strings.Contains(m.Source, "sandbox.json") || m.Source == r.SandboxDir(name) || strings.HasSuffix(m.Source, ".sock") {
			t.Errorf("%s is mounted", m.Source)
		}
	}
	// A login gets the environment from the start's file.
	o := r.Podman(t, "exec", r.Container(name), "/run/terok/bin/terok", "guest", "exec", "--", "sh", "-c", "echo $CANARY")
	if strings.TrimSpace(o.Stdout) != "not-in-podman" {
		t.Errorf("a login has %q: %s", o.Stdout, o.Stderr)
	}
}

func TestHostEnvironmentStaysOut(t *testing.T) {
	t.Setenv("http_proxy", "http://user:secret@proxy")
	t.Setenv("CANARY_OF_THE_HOST", "1")
	name := r.Sandbox(t)
	for _, kv := range strings.Fields(r.Run(t, name, "status").String("env")) {
		k, _, _ := strings.Cut(strings.Trim(kv, "[]"), "=")
		if slices.Contains([]string{"http_proxy", "CANARY_OF_THE_HOST", "TEROK_WORLD"}, k) {
			t.Errorf("the container has %s", kv)
		}
	}
}

func TestSupervisorHasNoPrivilege(t *testing.T) {
	name := r.Sandbox(t)
	st := r.Status(t, name)
	for what, p := range map[string]rig.Process{"parent": st.Parent, "worker": st.Worker} {
		if p.CapEff != none || p.CapBnd != none {
			t.Errorf("%s has capabilities %s, bounding %s", what, p.CapEff, p.CapBnd)
		}
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		for key, want := range map[string]string{"CapEff": none, "CapPrm": none, "CapInh": none, "CapBnd": none, "CapAmb": none,
			"NoNewPrivs": "1", "SigBlk": none} {
			if !strings.Contains(string(data), key+":\t"+want) {
				t.Errorf("%s: %s is not %s", what, key, want)
			}
		}
		// Every thread, not only the first.
		tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", p.PID))
		for _, task := range tasks {
			data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/status", p.PID, task.Name()))
			if len(data) > 0 && (!strings.Contains(string(data), "CapEff:\t"+none) || !strings.Contains(string(data), "NoNewPrivs:\t1")) {
				t.Errorf("%s: thread %s keeps privileges", what, task.Name())
			}
		}
	}
	if st.Worker.Seccomp != 2 {
		t.Error("the worker has no seccomp filter")
	}
}

func TestLoopbackFloodIsNotTracked(t *testing.T) {
	name := r.SandboxOf(t, nil, rig.ProbePath, "serve", "8000")
	rig.Eventually(t, 5*time.Second, "the workload's server listens", func() bool {
		return strings.Contains(r.Run(t, name, "tcp", "127.0.0.1:8000").String("read"), "workload")
	})
	res := r.Run(t, name, "flood", "127.0.0.1:8000", "50000")
	if n, _ := res["entries"].(float64); n > 100 {
		t.Errorf("%v entries in the connection table", n)
	}
}
