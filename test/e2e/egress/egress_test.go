// Package egress holds the end-to-end tests of what a container reaches: in the internet of
// package world, whose servers write down everything that came.
//
//	scripts/rootless base && scripts/world run -- go test -count=1 ./test/e2e/egress
//
// Outside the world every test fails and says so.
package egress

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok/test/e2e/rig"
	"terok/test/world"
)

var r = &rig.Rig{}

func TestMain(m *testing.M) { os.Exit(rig.Main(m, r)) }

// internet is the world, forgetful of earlier tests.
func internet(t *testing.T) *world.Client {
	t.Helper()
	w, err := world.Connect()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

// onlySeen fails for everything that reached a server and is not allowed.
func onlySeen(t *testing.T, w *world.Client, allowed func(world.Seen) bool) {
	t.Helper()
	seen, err := w.Seen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seen {
		if !allowed(s) {
			t.Errorf("reached a server: %s %s %s %s %s", s.Kind, s.Local, s.Name, s.Type, s.Path)
		}
	}
}

func works(t *testing.T, name string, args ...string) rig.Result {
	t.Helper()
	res := r.Run(t, name, args...)
	if res.Error() != "" || strings.HasPrefix(res.String("status"), "4") {
		t.Errorf("%v: %v", args, res)
	}
	return res
}

func fails(t *testing.T, name string, args ...string) {
	t.Helper()
	res := r.Run(t, name, args...)
	if res.Error() == "" && res.String("status") != "403" {
		t.Errorf("%v works: %v", args, res)
	} else if res.MS() >= 1000 {
		t.Errorf("%v is refused only after %v ms", args, res.MS())
	}
}

func TestOnlyWhatIsAllowed(t *testing.T) {
	w := internet(t)
	name := r.Sandbox(t, "--allow", "a.test:443")
	works(t, name, "https", "https://a.test/")
	for _, args := range [][]string{
		{"http", "http://a.test/"},                                  // another port
		{"https", "https://a.test:8443/"},                           //
		{"https", "https://b.test/"},                                // another name on the same address
		{"https", "https://c.test/"},                                // another name
		{"https", "https://x.a.test/"},                              // below it
		{"https", "https://203.0.113.10/"},                          // the address itself
		{"https", "https://203.0.113.10/", "a.test"},                // under the allowed name
		{"https", "https://[2001:db8:1::10]/"},                      //
		{"tcp", "203.0.113.10:7000"},                                //
		{"tcp", "[2001:db8:1::10]:7000"},                            //
		{"udp", "203.0.113.10:7000"},                                //
		{"udp", "203.0.113.10:443"},                                 // QUIC
		{"udp", "[2001:db8:1::10]:7000"},                            //
		{"tcp", "203.0.113.53:53"},                                  // another resolver
		{"tcp", "203.0.113.10:853"},                                 // DoT
		{"tcp", "169.254.169.254:80"},                               // metadata
		{"tcp", "192.168.77.7:80"},                                  // the LAN
		{"tcp", "127.0.0.1:9999"},                                   // the host's loopback is not ours
		{"tcp", "10.0.2.2:9999"},                                    //
		{"mptcp", "203.0.113.10:7000"},                              //
		{"https", "https://a.test/", "b.test"},                      // another SNI
		{"https", "https://a.test/", "denied.test"},                 //
		{"http", "http://meta.test/"}, {"http", "http://lan.test/"}, //
	} {
		fails(t, name, args...)
	}
	onlySeen(t, w, func(s world.Seen) bool {
		switch s.Kind {
		case "dns":
			return s.Name == "a.test"
		case "tcp":
			return s.Local == "203.0.113.10:443"
		case "tls", "http":
			return s.Local == "203.0.113.10:443" && s.Name == "a.test"
		}
		return false
	})
}

// TestFirstInstruction: the workload tries from its first instruction on, and again and again; nothing
// ever gets through, and the status is up in every sample. spec/shield.md §10: 2.
func TestFirstInstruction(t *testing.T) {
	w := internet(t)
	dir, err := os.MkdirTemp("", "first") // for the container's user as well
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	const loop = `: >/out/first; for try in $(seq 10); do for to in 203.0.113.10/443 203.0.113.20/7000 c.test/80; do
		(exec 3<>/dev/tcp/$to && timeout 2 head -c1 <&3 | grep -q .) 2>/dev/null && echo $to >>/out/through; done; done; : >/out/done; sleep infinity`
	name := r.SandboxOf(t, []string{"--mount", dir + ":/out"}, "bash", "-c", loop)
	samples := 0
	rig.Eventually(t, 2*time.Minute, "the workload is done", func() bool {
		if st := r.Status(t, name); st.Posture != "up" || !st.Verified {
			t.Errorf("%+v", st)
		}
		samples++
		_, err := os.Stat(dir + "/done")
		return err == nil
	})
	if through, err := os.ReadFile(dir + "/through"); err == nil {
		t.Errorf("reached: %s", through)
	}
	if _, err := os.Stat(dir + "/first"); err != nil || samples < 3 {
		t.Errorf("%d samples, %v", samples, err)
	}
	onlySeen(t, w, func(world.Seen) bool { return false })
}

func TestMPTCPClientIsServed(t *testing.T) {
	internet(t)
	name := r.Sandbox(t, "--allow", "a.test:7000")
	if res := works(t, name, "mptcp", "a.test:7000"); !strings.Contains(res.String("read"), "probe") {
		t.Error(res)
	}
}

func TestNoNameLeaks(t *testing.T) {
	w := internet(t)
	name := r.Sandbox(t, "--allow", "*.a.test")
	for _, kind := range []string{"A", "AAAA", "TXT", "MX", "NULL", "ANY", "SRV", "NS", "SOA", "CAA", "HTTPS", "SVCB", "PTR", "CNAME", "AXFR"} {
		for _, server := range []string{"10.0.2.3:53", "203.0.113.53:53", "8.8.8.8:53", "[2001:db8::53]:53"} {
			r.Run(t, name, "dns", "secret-data.unlisted.test", kind, server)
		}
		r.Run(t, name, "dns", "secret-data.unlisted.test", kind, "10.0.2.3:53", "tcp")
	}
	if res := r.Run(t, name, "dns", "unlisted.test", "A"); res.String("rcode") != "NOERROR" || !strings.Contains(res.String("answers"), "198.1") {
		t.Errorf("an unlisted name has no synthetic address: %v", res)
	}
	onlySeen(t, w, func(world.Seen) bool { return false })
}

func TestSecondHostOnAKeptConnection(t *testing.T) {
	w := internet(t)
	name := r.Sandbox(t, "--allow", "a.test:80", "--allow", "c.test:80")
	res := r.Run(t, name, "hosts", "a.test:80", "a.test", "a.test", "b.test")
	if got := res.String("codes"); got != "[200 200 403]" {
		t.Errorf("codes %s, %s", got, res.Error())
	}
	onlySeen(t, w, func(s world.Seen) bool { return s.Name != "b.test" })
}

func TestRebindingIsRefused(t *testing.T) {
	w := internet(t)
	for _, to := range []string{"192.168.77.7", "127.0.0.1", "100.64.0.7", "169.254.169.254"} {
		if err := w.Answer(t.Context(), world.Script{Name: "a.test", Type: "A", Values: []string{to}, TTL: 1}); err != nil {
			t.Fatal(err)
		}
		name := r.Sandbox(t, "--allow", "a.test")
		if res := r.Run(t, name, "tcp", "a.test:80"); res.Error() == "" && !strings.Contains(res.String("read"), "403") {
			t.Errorf("a.test as %s: %v", to, res)
		}
	}
	onlySeen(t, w, func(s world.Seen) bool { return s.Kind == "dns" && s.Name == "a.test" })
}

func TestVerdictsApplyAtOnce(t *testing.T) {
	internet(t)
	name := r.Sandbox(t)
	fails(t, name, "https", "https://c.test/")
	r.OK(t, "shield", "allow", name, "c.test:443")
	works(t, name, "https", "https://c.test/")
	r.OK(t, "shield", "deny", name, "c.test")
	fails(t, name, "https", "https://c.test/")
	r.OK(t, "shield", "allow", name, "c.test:443")
	works(t, name, "https", "https://c.test/")
	r.OK(t, "sandbox", "restart", name)
	works(t, name, "https", "https://c.test/")
	if x := r.OK(t, "shield", "explain", name, "c.test"); !strings.Contains(x, "allow") || !strings.Contains(x, "session") {
		t.Error(x)
	}
}

func TestDenyCutsWhatIsOpen(t *testing.T) {
	internet(t)
	name := r.Sandbox(t, "--allow", "a.test:80")
	done := download(t, name, "http://a.test/slow/2000000")
	rig.Eventually(t, 5*time.Second, "the download runs", func() bool { return r.Status(t, name).Counters["bytes_down"] > 50_000 })
	start := time.Now()
	r.OK(t, "shield", "deny", name, "a.test")
	out := <-done
	if d := time.Since(start); d > 2*time.Second || !strings.Contains(out, `"error":"`) || strings.Contains(out, `"error":""`) {
		t.Errorf("after %s: %s", d, out)
	}
}

// A worker that is killed during a download: nothing new opens meanwhile, and within a second
// new connections work.
func TestKilledWorkerDuringADownload(t *testing.T) {
	w := internet(t)
	name := r.Sandbox(t, "--allow", "a.test:80")
	done := download(t, name, "http://a.test/slow/2000000")
	rig.Eventually(t, 5*time.Second, "the download runs", func() bool { return r.Status(t, name).Counters["bytes_down"] > 50_000 })
	rig.Kill(t, r.Status(t, name).Worker.PID)
	start := time.Now()
	fails(t, name, "tcp", "203.0.113.20:7000")
	works(t, name, "http", "http://a.test/")
	if d := time.Since(start); d > time.Second {
		t.Logf("two probes took %s on this machine", d)
	}
	if out := <-done; strings.Contains(out, `"error":""`) {
		t.Errorf("the download outlived its relay: %s", out)
	}
	if st := r.Status(t, name); st.Worker.CapEff != "0000000000000000" || st.Restarts != 1 {
		t.Errorf("%+v", st)
	}
	onlySeen(t, w, func(s world.Seen) bool { return s.Name == "a.test" || s.Local == "203.0.113.10:80" })
}

// download starts the probe in the background and returns what it prints at its end.
func download(t *testing.T, name, url string) <-chan string {
	t.Helper()
	cmd := exec.Command("podman", "exec", r.Container(name), rig.ProbePath, "http", url)
	var out strings.Builder
	cmd.Stdout = &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan string, 1)
	go func() { _ = cmd.Wait(); done <- out.String() }()
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return done
}

// 512 idle connections leave an unrelated pipe of the same user its 64 KiB.
func TestIdleFlowsLeavePipesAlone(t *testing.T) {
	internet(t)
	name := r.SandboxOf(t, []string{"--allow", "a.test:7000"}, rig.ProbePath, "idle", "a.test:7000", "500")
	rig.Eventually(t, 30*time.Second, "500 connections are open", func() bool { return r.Status(t, name).Counters["open"] >= 500 })
	var p [2]int
	if err := syscall.Pipe(p[:]); err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(p[0])
	defer syscall.Close(p[1])
	const getPipeSize = 1032 // F_GETPIPE_SZ
	size, _, _ := syscall.Syscall(syscall.SYS_FCNTL, uintptr(p[1]), getPipeSize, 0)
	if size < 64<<10 {
		t.Errorf("a new pipe of the user has %d bytes", size)
	}
}

func TestManyNamesDoNotEndDNS(t *testing.T) {
	w := internet(t)
	name := r.Sandbox(t, "--allow", "a.test:443")
	works(t, name, "https", "https://a.test/")
	r.Run(t, name, "names", "3000", "flood.test")
	rig.Eventually(t, 10*time.Second, "the rate limit passes", func() bool {
		return r.Run(t, name, "https", "https://a.test/").Error() == ""
	})
	onlySeen(t, w, func(s world.Seen) bool { return !strings.Contains(s.Name, "flood") })
}

func TestEventsTell(t *testing.T) {
	internet(t)
	name := r.Sandbox(t, "--allow", "a.test:443")
	works(t, name, "https", "https://a.test/")
	fails(t, name, "https", "https://b.test/")
	log := r.OK(t, "shield", "logs", name)
	for _, want := range []string{"flow_allowed", "a.test:443", "flow_blocked", "b.test:443"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
	if o := r.Podman(t, "exec", r.Container(name), "/run/terok/bin/terok", "guest", "why", "b.test"); o.Code != 1 || !strings.Contains(o.Stdout, "b.test:443 is closed: no rule allows it") {
		t.Errorf("guest why: %d %s", o.Code, o.Stdout)
	}
}
