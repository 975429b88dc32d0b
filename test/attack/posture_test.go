package attack

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok/internal/control"
	"terok/internal/sandbox"
)

func (b *box) dir() string { return filepath.Join(rig, "d", "terok", "sandboxes", b.name) }

// restart starts the box again; its probe makes its socket anew.
func (b *box) restart(t testing.TB) {
	t.Helper()
	if err := os.Remove(b.socket); err != nil {
		t.Fatal(err)
	}
	must(t, "sandbox", "restart", b.name)
}

// posture is what `shield status` says.
func (b *box) posture(t testing.TB) control.Status {
	t.Helper()
	var v struct{ Data control.Status }
	if err := json.Unmarshal([]byte(must(t, "shield", "status", b.name, "--json")), &v); err != nil {
		t.Fatal(err)
	}
	return v.Data
}

// await polls a condition; the machine may be busy.
func await(t testing.TB, within time.Duration, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

func down(t testing.TB, b *box, flags ...string) {
	t.Helper()
	must(t, append([]string{"shield", "down", b.name, "--reason", "test"}, flags...)...)
}

// Spec: shield.md §10, 4, 5, 7: what a lowered shield opens, what it never opens, and that up
// restores exactly the rules.
func TestLoweredShield(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--deny", "203.0.113.30", "--deny", "denied.test")
	rules := must(t, "shield", "rules", b.name)
	never := []attempt{
		{"tcp", "203.0.113.30:80", getOf("203.0.113.30")}, {"tcp", "denied.test:80", getOf("denied.test")},
		{"tcp", "169.254.169.254:80", getOf("169.254.169.254")}, {"tcp", "meta.test:80", getOf("meta.test")},
		{"tcp", "203.0.113.53:53", []byte("x")}, {"tcp", "203.0.113.20:853", []byte("x")}, {"udp", "203.0.113.20:7000", []byte("x")},
	}
	lan := []attempt{{"tcp", "192.168.77.7:80", getOf("192.168.77.7")}, {"tcp", "100.64.0.7:80", getOf("100.64.0.7")},
		{"tcp", "lan.test:80", getOf("lan.test")}, {"tcp", "127.0.0.1:9999", []byte("x")}, {"tcp", "host.terok.internal:9999", []byte("x")}}
	down(t, b)
	if s := b.posture(t); s.Posture != control.Down || s.Until == nil || s.Reason != "test" {
		t.Errorf("%+v", s)
	}
	works(t, b, "http://203.0.113.20/", roots)
	works(t, b, "https://c.test/", roots)
	refusedAll(t, b, append(never, lan...))
	if log := must(t, "shield", "logs", b.name); !strings.Contains(log, "flow_bypass") || !strings.Contains(log, "posture_changed") {
		t.Errorf("the ledger does not tell what the lowered shield let through:\n%s", log)
	}
	down(t, b, "--all")
	works(t, b, "http://192.168.77.7/", roots)
	works(t, b, "http://100.64.0.7/", roots)
	refusedAll(t, b, never)
	must(t, "shield", "up", b.name)
	if after := must(t, "shield", "rules", b.name); after != rules {
		t.Errorf("the rules were\n%s\nand are\n%s", rules, after)
	}
	if s := b.posture(t); !s.Verified || s.Posture != control.Up {
		t.Errorf("%+v", s)
	}
	if err := w.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	refusedAll(t, b, append(append(never, lan...), attempt{"tcp", "203.0.113.20:80", getOf("203.0.113.20")}))
	works(t, b, "https://a.test/", roots)
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}

// Spec: shield.md §1.2, §10, 6: raising cuts what the new posture refuses before the command returns.
func TestRaisingCuts(t *testing.T) {
	internet(t)
	b := start(t, "--allow", "d.test:7000")
	for _, verb := range []string{"up", "quarantine"} {
		down(t, b)
		open, err := b.dial("tcp", "c.test:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		kept, err := b.dial("tcp", "d.test:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer kept.Close()
		echo(t, open, "before")
		echo(t, kept, "before")
		must(t, "shield", verb, b.name)
		cutWithin(t, open, time.Now())
		if verb == "up" {
			echo(t, kept, "after")
		} else {
			cutWithin(t, kept, time.Now())
		}
	}
	if _, err := b.dial("tcp", "d.test:7000"); err == nil {
		t.Error("a name has an address in quarantine")
	}
}

// Spec: shield.md §10, 8: no gap, however often the posture changes.
func TestTogglingLeavesNoGap(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--deny", "203.0.113.10")
	stop, done := make(chan struct{}), make(chan string, 1)
	go func() {
		tried := 0
		for {
			select {
			case <-stop:
				done <- fmt.Sprint(tried, " attempts")
				return
			default:
			}
			c, _, out, err := b.begin(request{Op: "talk", Network: "tcp", Addr: "203.0.113.10:80", Send: getOf("203.0.113.10")})
			if err == nil {
				c.Close()
				tried++
				if out.Error == "" && !strings.Contains(string(out.Data), "403") {
					done <- fmt.Sprintf("it got through: %q", out.Data)
					return
				}
			}
		}
	}()
	f, err := sandbox.Load(sandbox.Path(b.dir()))
	if err != nil {
		t.Fatal(err)
	}
	client := control.Dial(sandbox.ControlPath(f.RuntimeDir))
	for i := range 200 {
		c := control.PostureChange{Posture: []control.Posture{control.Down, control.Up, control.DownAll, control.Up}[i%4], Reason: "test"}
		if _, err := client.SetPosture(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	t.Log(<-done)
	sawOnly(t, w)
}

// Spec: shield.md §10, 9: a window ends without anybody acting, cuts what it opened, and says so.
func TestWindowEnds(t *testing.T) {
	_, roots := internet(t)
	b := start(t, "--deny", "203.0.113.30")
	down(t, b, "--for", "6s")
	works(t, b, "http://203.0.113.20/", roots)
	open, err := b.dial("tcp", "c.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	echo(t, open, "inside the window")
	if out := must(t, "shield", "status", b.name); !strings.Contains(out, "left") {
		t.Errorf("no countdown in\n%s", out)
	}
	// A worker that dies reads the end from disk.
	if err := syscall.Kill(b.status(t).Worker.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, 30*time.Second, "the window ends", func() bool { return b.posture(t).Posture == control.Up })
	refusedAll(t, b, []attempt{{"tcp", "203.0.113.20:80", getOf("203.0.113.20")}, {"tcp", "c.test:7000", []byte("x")}})
	cutWithin(t, open, time.Now())
	await(t, 10*time.Second, "the ledger tells", func() bool {
		for _, line := range strings.Split(must(t, "shield", "logs", b.name, "--json", "-n", "0"), "\n") {
			if strings.Contains(line, `"posture_changed"`) && strings.Contains(line, `"actor":"auto"`) && strings.Contains(line, `"verdict":"up"`) {
				return true
			}
		}
		return false
	})
}

// Spec: shield.md §1.2, §10, 23: postures are kept over a restart, one that is set while nothing
// runs holds from the start, and one that cannot be read is quarantine.
func TestPostureOverRestarts(t *testing.T) {
	_, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	must(t, "shield", "quarantine", b.name, "--reason", "test")
	b.restart(t)
	if s := b.posture(t); s.Posture != control.Quarantine || s.Reason != "test" {
		t.Errorf("after a restart: %+v", s)
	}
	must(t, "sandbox", "stop", b.name)
	out, err := command("shield", "up", b.name, "--json")
	if err != nil || !strings.Contains(out, `"applied":false`) || !strings.Contains(out, "not_applied") {
		t.Errorf("%s %v", out, err)
	}
	b.restart(t)
	await(t, 20*time.Second, "up", func() bool { return b.posture(t).Posture == control.Up })
	await(t, 20*time.Second, "the probe is there again", func() bool {
		c, err := b.dial("tcp", "a.test:443")
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	works(t, b, "https://a.test/", roots)
	must(t, "sandbox", "stop", b.name)
	if err := os.WriteFile(sandbox.PosturePath(b.dir()), []byte("{torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.restart(t)
	if s := b.posture(t); s.Posture != control.Quarantine || s.Reason == "" {
		t.Errorf("a torn posture: %+v", s)
	}
	must(t, "shield", "up", b.name)
	if s := b.posture(t); s.Posture != control.Up {
		t.Errorf("%+v", s)
	}
}

func TestLoweringNeedsAReason(t *testing.T) {
	internet(t)
	b := start(t)
	for _, args := range [][]string{{}, {"--reason", " "}, {"--reason", "x", "--for", "1.5h"}, {"--reason", "x", "--for", "0s"}} {
		if out, err := command(append([]string{"shield", "down", b.name}, args...)...); err == nil {
			t.Errorf("%v: %s", args, out)
		}
	}
	if s := b.posture(t); s.Posture != control.Up {
		t.Errorf("%+v", s)
	}
	must(t, "shield", "quarantine", "--all")
	if s := b.posture(t); s.Posture != control.Quarantine {
		t.Errorf("%+v", s)
	}
}

// Spec: shield.md §10, 51: one line for what is tried a thousand times, with the count.
func TestRetriesAreOneLine(t *testing.T) {
	internet(t)
	b := start(t)
	const tries = 1000
	for range tries / 50 {
		refusedAll(t, b, func() (all []attempt) {
			for range 50 {
				all = append(all, attempt{"tcp", "203.0.113.20:7000", []byte("\x00x")})
			}
			return all
		}())
	}
	must(t, "sandbox", "stop", b.name) // writes what was folded
	var lines []json.RawMessage
	total := uint64(0)
	for _, line := range strings.Split(must(t, "shield", "logs", b.name, "--json", "-n", "0"), "\n") {
		var e struct {
			Ev, IP, Proto, Sandbox, Verdict string
			Port                            int
			Count                           uint64
		}
		if json.Unmarshal([]byte(line), &e) != nil || !strings.HasPrefix(e.Ev, "flow_") {
			continue
		}
		lines, total = append(lines, json.RawMessage(line)), total+e.Count
		if e.Ev != "flow_blocked" || e.IP != "203.0.113.20" || e.Port != 7000 || e.Proto != "tcp" || e.Sandbox != b.name || e.Verdict != "deny" {
			t.Errorf("%s", line)
		}
	}
	if total != tries || len(lines) > 1+int(time.Minute/(30*time.Second))*5 {
		t.Errorf("%d lines count %d attempts: %s", len(lines), total, lines)
	}
	t.Logf("%d lines, %d attempts", len(lines), total)
}
