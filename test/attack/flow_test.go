package attack

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// echo sends text over an echo connection and wants it back.
func echo(t testing.TB, c net.Conn, text string) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	defer c.SetDeadline(time.Time{})
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(c, back); err != nil || string(back) != text {
		t.Fatalf("echo: %q %v", back, err)
	}
}

// cutWithin wants the other end to be gone, and nothing more to come, within a second of begin.
func cutWithin(t testing.TB, c net.Conn, begin time.Time) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := io.Copy(io.Discard, c); n != 0 || err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("%d bytes after the cut, %v", n, err)
	}
	if d := time.Since(begin); d > quick {
		t.Errorf("cut after %v", d)
	}
}

// Spec: shield.md §10, 44, 45.
func TestDenyCutsAnOpenStream(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--allow", "c.test:7000", "--allow", "203.0.113.10:7000", "--allow", "d.test:7000")
	named, err := b.dial("tcp", "c.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	literal, err := b.dial("tcp", "203.0.113.10:7000")
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.dial("tcp", "d.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{named, literal, other} {
		defer c.Close()
		echo(t, c, "before")
	}
	for target, c := range map[string]net.Conn{"c.test:7000": named, "203.0.113.10:7000": literal} {
		begin := time.Now()
		if _, err := command("shield", "deny", b.name, target); err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "after")
		cutWithin(t, c, begin)
		refusedAll(t, b, []attempt{{"tcp", target, []byte("after")}})
	}
	echo(t, other, "still here")
	other.Close()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) { // the server notices the end by itself
		seen, err := w.Seen(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int{}
		for _, s := range seen {
			if s.Kind == "echo" {
				got[s.Local] += s.Bytes
			}
		}
		if len(got) == 3 {
			if got["203.0.113.20:7000"] != len("before") || got["203.0.113.10:7000"] != len("before") {
				t.Errorf("bytes after the deny reached the server: %v", got)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("not every connection has ended at the server: %v", got)
		}
	}
}

// Spec: shield.md §10, 6: quarantine ends what is open and refuses everything, and up restores.
func TestQuarantineCuts(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--allow", "c.test:7000")
	works(t, b, "https://a.test/", roots)
	c, err := b.dial("tcp", "c.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo(t, c, "before")
	set := func(p control.Posture) time.Time {
		t.Helper()
		f, err := sandbox.Load(sandbox.Path(filepath.Join(rig, "d", "terok", "sandboxes", b.name)))
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := control.Dial(sandbox.ControlPath(f.RuntimeDir)).SetPosture(t.Context(), control.PostureChange{Posture: p}); err != nil {
			t.Fatal(err)
		}
		return begin
	}
	cutWithin(t, c, set(control.Quarantine))
	if err := w.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := hello(t, "a.test")
	refusedAll(t, b, []attempt{{"tcp", "a.test:443", h}, {"tcp", "c.test:7000", []byte("x")}, {"tcp", "203.0.113.10:443", h}, {"tcp", "10.0.2.2:9418", []byte("x")}})
	sawOnly(t, w)
	set(control.Up)
	works(t, b, "https://a.test/", roots)
}

// status is what the tests read of `shield status --json`.
type status struct {
	Parent, Worker struct {
		PID int `json:"pid"`
	}
	Counters map[string]uint64
}

func (b *box) status(t testing.TB) status {
	t.Helper()
	var v struct{ Data status }
	if err := json.Unmarshal([]byte(must(t, "shield", "status", b.name, "--json")), &v); err != nil {
		t.Fatal(err)
	}
	return v.Data
}

// Spec: shield.md §10, 43: a supervisor that stands still lets nothing through.
func TestStoppedSupervisor(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	works(t, b, "https://a.test/", roots)
	s := b.status(t)
	pids := []int{s.Parent.PID, s.Worker.PID}
	if pids[0] <= 1 || pids[1] <= 1 {
		t.Fatalf("pids %v", pids)
	}
	resume := func() {
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
	defer resume()
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	done := make(chan reply, 4)
	addrs := []string{"203.0.113.10:443", "203.0.113.20:7000", "[2001:db8:1::10]:443", "a.test:443"}
	for _, addr := range addrs {
		go func() {
			c, _, out, err := b.begin(request{Op: "talk", Network: "tcp", Addr: addr, Send: hello(t, "a.test"), MS: 1500})
			if err == nil {
				c.Close()
			}
			done <- out
		}()
	}
	for range addrs {
		if out := <-done; len(out.Data) != 0 || out.Error == "" {
			t.Errorf("%+v", out)
		}
	}
	sawOnly(t, w)
	resume()
	works(t, b, "https://a.test/", roots)
}

// Spec: design §2, issue 2, accepted when 5: the workload's own loopback traffic, and connections
// straight to the proxy's port, do not fill the connection table.
func TestLoopbackFlood(t *testing.T) {
	_, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	works(t, b, "https://a.test/", roots)
	out := b.do(t, request{Op: "flood", Numbers: []int{50_000}})
	if out.Error != "" || out.Count >= 100 {
		t.Errorf("%d entries in the connection table after 50 000 connections: %+v", out.Count, out)
	}
	t.Logf("%d entries, %d ms", out.Count, out.MS)
	works(t, b, "https://a.test/", roots)
}

// Spec: design §2 "Facts that bite", issue 2, accepted when 5: idle flows, also those that moved
// much, leave the user the kernel's pipe memory. The test is another process of the same user.
func TestIdleFlowsKeepNoPipes(t *testing.T) {
	_, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--allow", "c.test:7000", "--allow", "c.test:8080")
	const n, busy = 512, 64
	flows := make([]net.Conn, 0, n)
	defer func() {
		for _, c := range flows {
			c.Close()
		}
	}()
	for i := range n {
		addr := "c.test:7000"
		if i < busy {
			addr = "c.test:8080"
		}
		c, err := b.dial("tcp", addr)
		if err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		flows = append(flows, c)
		if i >= busy {
			echo(t, c, "x")
			continue
		}
		fmt.Fprintf(c, "GET /bytes/%d HTTP/1.1\r\nHost: c.test:8080\r\n\r\n", 3<<20) // beyond what is copied by hand
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("flow %d: %v %v", i, resp, err)
		}
		if m, err := io.Copy(io.Discard, resp.Body); m != 3<<20 || err != nil {
			t.Fatalf("flow %d: %d %v", i, m, err)
		}
	}
	if open := b.status(t).Counters["open"]; open != n {
		t.Errorf("%d flows are open, want %d", open, n)
	}
	var pipes []*os.File
	defer func() {
		for _, p := range pipes {
			p.Close()
		}
	}()
	for range 16 {
		r, wr, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		pipes = append(pipes, r, wr)
		if size, err := unix.FcntlInt(wr.Fd(), unix.F_GETPIPE_SZ, 0); err != nil || size != 64<<10 {
			t.Errorf("a new pipe of the host has %d bytes, %v", size, err)
		}
	}
	// One more is one too many, and says so at once; a free place is taken.
	refusedAll(t, b, []attempt{{"tcp", "c.test:7000", []byte("x")}})
	flows[n-1].Close()
	flows = slices.Delete(flows, n-1, n)
	for deadline := time.Now().Add(10 * time.Second); b.status(t).Counters["open"] >= n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the place of a closed flow is not given back")
		}
	}
	works(t, b, "https://a.test/", roots)
}
