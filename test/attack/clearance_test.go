package attack

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
)

// client talks to the box's supervisor as a face does.
func (b *box) client() *control.Client {
	return control.Dial(sandbox.ControlPath(filepath.Join(rig, "r", "terok", "run", b.name)))
}

// face is a subscriber who can answer.
type face struct {
	*control.Client
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	requests map[string]control.Request
	items    []control.StreamItem
}

// watch subscribes until the test ends, or until stop.
func (b *box) watch(t testing.TB, answers bool) *face {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	f := &face{Client: b.client(), stop: cancel, done: make(chan struct{}), requests: map[string]control.Request{}}
	begun := make(chan struct{})
	go func() {
		defer close(f.done)
		_ = f.Subscribe(ctx, answers, 0, func(i control.StreamItem) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.items = append(f.items, i)
			switch {
			case i.Snapshot != nil:
				for _, r := range i.Snapshot.Requests {
					f.requests[r.ID] = r
				}
				close(begun)
			case i.Request != nil && i.Request.Seq > f.requests[i.Request.ID].Seq:
				f.requests[i.Request.ID] = *i.Request
			}
			return nil
		})
	}()
	t.Cleanup(f.end)
	select {
	case <-begun:
	case <-f.done:
		t.Fatal("no event stream")
	}
	return f
}

// end closes the stream.
func (f *face) end() {
	f.stop()
	<-f.done
}

// wait waits until the face has seen a request that is as the test wants it.
func (f *face) wait(t testing.TB, what string, ok func(control.Request) bool) control.Request {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		f.mu.Lock()
		for _, r := range f.requests {
			if ok(r) {
				f.mu.Unlock()
				return r
			}
		}
		all := f.requests
		f.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatalf("%s: never seen in %+v", what, all)
		}
		time.Sleep(time.Millisecond) // poll, bounded by the condition
	}
}

func open(host string) func(control.Request) bool {
	return func(r control.Request) bool { return r.Host == host && r.State == control.RequestOpen }
}

func heldAt(host string, n int) func(control.Request) bool {
	return func(r control.Request) bool { return open(host)(r) && r.Held == n }
}

func verdict(r control.Request, c control.Choice) control.VerdictChange {
	return control.VerdictChange{ID: r.ID, Hash: r.Hash, Host: r.Host, Port: r.Port, Proto: r.Proto, Choice: c, Actor: "tester", Via: "cli"}
}

func decide(t testing.TB, f *face, r control.Request, c control.Choice) control.Request {
	t.Helper()
	got, err := f.Verdict(t.Context(), verdict(r, c))
	if err != nil || got.State != control.RequestApplied {
		t.Fatalf("%s on %s: %+v, %v", c, r.Host, got, err)
	}
	return got
}

func codeOf(err error) string {
	if e, ok := errors.AsType[*control.Error](err); ok {
		return e.Code
	}
	return fmt.Sprint(err)
}

// ledger returns the lines of the box's ledger of one kind.
func (b *box) ledger(t testing.TB, ev string) []audit.Event {
	t.Helper()
	var out []audit.Event
	path := sandbox.LedgerPath(filepath.Join(rig, "d", "terok", "sandboxes", b.name))
	if err := audit.Read(path, audit.Filter{}, func(e audit.Event) error {
		if e.Ev == ev {
			out = append(out, e)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *box) requests(t testing.TB) []control.Request {
	t.Helper()
	all, err := b.client().Requests(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// TestOneBlockedConnect is spec test 51: one line and one event, with everything right; a thousand
// retries add no line and raise the count.
func TestOneBlockedConnect(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	f := b.watch(t, false) // watches, but does not answer: nothing is held
	works(t, b, "https://a.test/", roots)
	refusedAll(t, b, []attempt{{"tcp", "c.test:7000", []byte("x")}})
	r := f.wait(t, "the request", open("c.test"))
	if r.Port != 7000 || r.Proto != "tcp" || r.Kind != control.NameBlocked || r.NameSource != "dns" || r.Count != 1 || r.Key != b.name || r.Held != 0 {
		t.Errorf("%+v", r)
	}
	// Who asks is found through the supervisor's other half, which alone may look.
	pid, found := strings.CutPrefix(r.Process, "probe, pid ")
	if comm, err := os.ReadFile("/proc/" + pid + "/comm"); !found || err != nil || string(comm) != "probe\n" {
		t.Errorf("asked by %q; that process is %q, %v", r.Process, comm, err)
	}
	const n = 1000
	if out := b.do(t, request{Op: "hammer", Addr: "c.test:7000", Numbers: []int{n}}); out.Count != n {
		t.Fatalf("%+v", out)
	}
	r = f.wait(t, "the count", func(r control.Request) bool { return r.Host == "c.test" && r.Count == n+1 })
	for _, ev := range []string{"request", "flow_blocked"} {
		lines := b.ledger(t, ev)
		if len(lines) != 1 || lines[0].Name != "c.test" || lines[0].Port != 7000 || lines[0].Proto != "tcp" || lines[0].Sandbox != b.name {
			t.Errorf("%s: %+v", ev, lines)
		}
		if ev == "request" && lines[0].Detail["process"] != r.Process {
			t.Errorf("the ledger names %q", lines[0].Detail["process"])
		}
	}
	f.mu.Lock()
	for _, i := range f.items {
		if i.Event != nil && i.Event.Ev == "flow_blocked" && (i.Event.Name != "c.test" || i.Event.Port != 7000) {
			t.Errorf("%+v", i.Event)
		}
	}
	f.mu.Unlock()
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}

// TestFlood is spec test 52: ten thousand destinations.
func TestFlood(t *testing.T) {
	internet(t)
	b := start(t)
	f := b.watch(t, false)
	const n = 10000
	begin := time.Now()
	out := b.do(t, request{Op: "scatter", Numbers: []int{n}})
	if out.Count != n {
		t.Fatalf("%d of %d connections: %+v", out.Count, n, out)
	}
	took := time.Since(begin)
	f.wait(t, "exact counters", func(control.Request) bool {
		var total uint64
		for _, r := range f.requests {
			total += r.Count
		}
		return total == n
	})
	all := b.requests(t)
	var total uint64
	prompts, floods := 0, 0
	for _, r := range all {
		total += r.Count
		if r.Kind == control.Flood {
			floods++
		} else {
			prompts++
		}
	}
	if limit := 10 * (int(took/time.Minute) + 1); total != n || floods != 1 || prompts > limit || prompts == 0 {
		t.Errorf("%d attempts, %d floods, %d prompts in %v", total, floods, prompts, took)
	}
	st, err := f.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Counters.Denied < n {
		t.Errorf("the proxy counted %d", st.Counters.Denied)
	}
	var rss uint64
	for _, p := range []control.Process{st.Parent, st.Worker} {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		_, after, _ := strings.Cut(string(data), "VmRSS:")
		kib, err := strconv.ParseUint(strings.Fields(after)[0], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		rss += kib
	}
	t.Logf("%d destinations in %v; %d prompts, RSS of both processes %d KiB", n, took, prompts, rss)
	if rss > 64<<10 {
		t.Errorf("RSS %d KiB", rss)
	}
}

// TestAllowAndDeny is spec tests 58 and 45, and the budgets of issue 3: the first attempt
// succeeds, exactly that target opens, and what is taken back ends.
func TestAllowAndDeny(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--allow", "d.test:7000")
	f := b.watch(t, true)
	other, err := b.dial("tcp", "d.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	echo(t, other, "before")
	held := func(host string) net.Conn {
		t.Helper()
		c, err := b.dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	// Allow: from the verdict to the first bytes, through the very connection that waited.
	var allowed, denied []time.Duration
	var live net.Conn
	var last control.Request
	for i := range 5 {
		c := held("c.test:7000")
		r := f.wait(t, "held", heldAt("c.test", 1))
		begin := time.Now()
		last = decide(t, f, r, control.ChoiceOnce)
		back := make([]byte, 5)
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.ReadFull(c, back); err != nil || string(back) != "hello" {
			t.Fatalf("after Allow: %q, %v", back, err)
		}
		allowed = append(allowed, time.Since(begin))
		if d := time.Until(last.Decision.Expires); d < 14*time.Minute || d > 15*time.Minute || last.Decision.Rule != "+c.test:7000" {
			t.Errorf("%+v", last.Decision)
		}
		if i == 0 {
			refusedNow := []attempt{{"tcp", "203.0.113.20:9999", []byte("x")}}
			f.stop() // nobody answers: refused at once, not held
			<-f.done
			refusedAll(t, b, append(refusedNow, attempt{"tcp", "c.test:9999", []byte("x")}, attempt{"tcp", "x.c.test:7000", []byte("x")}, attempt{"tcp", "203.0.113.20:7000", []byte("x")}))
			f = b.watch(t, true)
		}
		if live = c; i < 4 {
			begin = time.Now()
			if _, err := f.Undo(t.Context(), control.UndoChange{ID: last.ID}); err != nil {
				t.Fatal(err)
			}
			cutWithin(t, c, begin)
			echo(t, other, "unaffected")
		}
	}
	for range 5 {
		c := held("e.test:7000")
		r := f.wait(t, "held", heldAt("e.test", 1))
		begin := time.Now()
		got := decide(t, f, r, control.ChoiceDeny)
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil {
			t.Fatalf("after Deny: %d bytes, %v", n, err)
		}
		denied = append(denied, time.Since(begin))
		refusedAll(t, b, []attempt{{"tcp", "e.test:7000", []byte("x")}}) // muted: not asked again
		if _, err := f.Undo(t.Context(), control.UndoChange{ID: got.ID}); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("Allow → bytes %v; Deny → closed %v", allowed, denied)
	if best := slices.Min(allowed); best > 50*time.Millisecond {
		t.Errorf("Allow → bytes %v", best)
	}
	if best := slices.Min(denied); best > 20*time.Millisecond {
		t.Errorf("Deny → closed %v", best)
	}
	echo(t, live, "still here")
	// A deny-always ends what is open; a name's other ports were never in it.
	if _, err := f.Undo(t.Context(), control.UndoChange{ID: last.ID}); err != nil {
		t.Fatal(err)
	}
	sawOnly(t, w, "d.test", "c.test", "203.0.113.30:7000", "203.0.113.20:7000")
}

// TestHoldsEndWithTheFace: when the last who can answer goes, what waits is denied at once.
func TestHoldsEndWithTheFace(t *testing.T) {
	w, _ := internet(t)
	b := start(t)
	f := b.watch(t, true)
	done := make(chan reply, 20)
	for range cap(done) {
		go func() {
			c, _, out, err := b.begin(request{Op: "talk", Network: "tcp", Addr: "c.test:443", Send: hello(t, "c.test")})
			if err == nil {
				c.Close()
			}
			done <- out
		}()
	}
	f.wait(t, "all wait", heldAt("c.test", cap(done)))
	e, err := f.Explain(t.Context(), control.Target{Host: "c.test", Port: 443})
	if err != nil || e.Verdict != "ask" || !e.Askable {
		t.Errorf("%+v, %v", e, err)
	}
	begin := time.Now()
	f.end()
	for range cap(done) {
		if out := <-done; len(out.Data) != 7 || out.Data[6] != 49 {
			t.Errorf("not refused in TLS: %+v", out)
		}
	}
	t.Logf("all %d closed %v after the face went", cap(done), time.Since(begin))
	if all := b.requests(t); len(all) != 1 || all[0].Count != uint64(cap(done)) || all[0].Held != 0 {
		t.Errorf("%+v", all)
	}
	sawOnly(t, w)
}

// TestNoOtherVerdict is spec tests 59 and 60 over the socket.
func TestNoOtherVerdict(t *testing.T) {
	w, _ := internet(t)
	b, other := start(t), start(t)
	f, g := b.watch(t, true), b.watch(t, true)
	for _, x := range []*box{b, other} {
		c, err := x.dial("tcp", "c.test:7000")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	r := f.wait(t, "held", heldAt("c.test", 1))
	rules := func() string {
		t.Helper()
		list, err := f.Rules(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprint(list)
	}
	before := rules()
	foreign := other.requests(t)
	if len(foreign) != 1 {
		t.Fatalf("%+v", foreign)
	}
	for want, change := range map[string]func(*control.VerdictChange){
		control.CodeUnknownRequest: func(v *control.VerdictChange) { v.ID = "r77" },
		control.CodeMismatch:       func(v *control.VerdictChange) { v.Port = 443 },
		control.CodeInvalidChoice:  func(v *control.VerdictChange) { v.Choice = "allow" },
		control.CodeStale:          func(v *control.VerdictChange) { v.Hash = foreign[0].Hash },
	} {
		v := verdict(r, control.ChoiceTask)
		change(&v)
		if _, err := f.Verdict(t.Context(), v); codeOf(err) != want {
			t.Errorf("%s: %v", want, err)
		}
	}
	if now := rules(); now != before {
		t.Errorf("policy changed: %s", now)
	}
	// Two faces at once: one wins, the other learns what and by whom, both show it.
	type outcome struct {
		got control.Request
		err error
	}
	results := make(chan outcome, 2)
	for face, choice := range map[*face]control.Choice{f: control.ChoiceTask, g: control.ChoiceDenyAlways} {
		go func() {
			got, err := face.Verdict(t.Context(), verdict(r, choice))
			results <- outcome{got, err}
		}()
	}
	one, two := <-results, <-results
	if one.err != nil {
		one, two = two, one
	}
	if one.err != nil || codeOf(two.err) != control.CodeAlreadyDecided || !strings.Contains(two.err.Error(), string(one.got.Decision.Choice)) {
		t.Fatalf("%+v / %v and %v", one.got, one.err, two.err)
	}
	for _, face := range []*face{f, g} {
		seen := face.wait(t, "the outcome", func(x control.Request) bool { return x.ID == r.ID && x.State == control.RequestApplied })
		if seen.Decision.Choice != one.got.Decision.Choice {
			t.Errorf("%+v", seen.Decision)
		}
	}
	if n := len(b.ledger(t, "verdict")); n != 1 {
		t.Errorf("%d verdicts in the ledger", n)
	}
	if all := other.requests(t); all[0].State != control.RequestOpen {
		t.Errorf("the other container's request: %+v", all[0])
	}
	sawOnly(t, w, "c.test", "203.0.113.20:7000")
}

// TestContainerIsNoFace is the second half of spec test 61: no launch mounts the socket, and a
// process of the container that got at it all the same is not heard.
func TestContainerIsNoFace(t *testing.T) {
	internet(t)
	b := start(t)
	dir := filepath.Join(rig, "r", "terok", "run", b.name)
	if out, err := command("sandbox", "run", "-d", "--name", b.name+"-thief", "--mount", dir+":/stolen", image, "--", "/probe", "/ctl/s"); err == nil {
		t.Errorf("the socket's directory was mounted: %s", out)
		must(t, "sandbox", "rm", b.name+"-thief")
	}
	if err := os.Link(filepath.Join(dir, "control.sock"), filepath.Join(filepath.Dir(b.socket), "stolen")); err != nil {
		t.Fatal(err)
	}
	for _, ask := range []string{"GET /v1/requests HTTP/1.1\r\nHost: supervisor\r\nConnection: close\r\n\r\n", string(post("/v1/undo", `{"id":"r1"}`))} {
		out := b.do(t, request{Op: "talk", Network: "unix", Addr: "/ctl/stolen", Send: []byte(ask)})
		if len(out.Data) != 0 || strings.Contains(out.Error, "connect:") { // not even connected
			t.Errorf("the container got %q, %s", out.Data, out.Error)
		}
	}
	if _, err := b.client().Requests(t.Context()); err != nil {
		t.Errorf("control: %v", err)
	}
}

// TestRestartedWorker is spec test 62, and 48 and 18 for verdicts: requests are built anew under new
// ids, verdicts stay.
func TestRestartedWorker(t *testing.T) {
	w, _ := internet(t)
	b := start(t)
	f := b.watch(t, false)
	targets := []attempt{{"tcp", "c.test:7000", []byte("x")}, {"tcp", "d.test:7000", []byte("x")}, {"tcp", "e.test:7000", []byte("x")}}
	refusedAll(t, b, targets)
	old := map[string]control.Request{}
	for _, host := range []string{"c.test", "d.test", "e.test"} {
		old[host] = f.wait(t, host, open(host))
	}
	decided := decide(t, f, old["c.test"], control.ChoiceTask)
	for _, c := range []string{"allow", "deny", "allow"} { // the last holds
		must(t, "shield", c, b.name, "203.0.113.30:7000")
	}
	before, err := f.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(before.Worker.PID, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	f.end()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		st, err := b.client().Status(t.Context())
		if err == nil && st.Worker.PID != before.Worker.PID {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("no new worker: %v", err)
		}
	}
	// The relay of open connections is gone with the worker; what is allowed is allowed.
	for _, target := range []string{"c.test:7000", "203.0.113.30:7000"} {
		c, err := b.dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		echo(t, c, "after the restart")
		c.Close()
	}
	f = b.watch(t, false)
	refusedAll(t, b, targets[1:])
	for _, host := range []string{"d.test", "e.test"} {
		now := f.wait(t, host, open(host))
		if now.ID == old[host].ID {
			t.Errorf("%s has its old id %s", host, now.ID)
		}
		if _, err := f.Verdict(t.Context(), verdict(old[host], control.ChoiceTask)); codeOf(err) != control.CodeUnknownRequest {
			t.Errorf("a verdict on what the old worker showed: %v", err)
		}
	}
	if _, err := f.Undo(t.Context(), control.UndoChange{ID: decided.ID}); codeOf(err) != control.CodeUnknownRequest {
		t.Errorf("undo by an old id: %v", err)
	}
	sawOnly(t, w, "c.test", "203.0.113.20:7000", "203.0.113.30:7000")
}

// guest runs `terok guest …` in the box.
func (b *box) guest(args ...string) (string, int) {
	cmd := exec.Command("podman", append([]string{"exec", "terok-sandbox-" + b.name, sandbox.GuestProgram, "guest"}, args...)...)
	out, err := cmd.CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(out), exit.ExitCode()
	}
	if err != nil {
		return err.Error(), -1
	}
	return string(out), 0
}

// TestAgentAsks is spec test 68, and the answers that a model reads.
func TestAgentAsks(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--allow", "d.test:7000", "--deny", "denied.test")
	f := b.watch(t, true)
	if out, code := b.guest("why", "c.test:7000"); code != 1 || !strings.Contains(out, "guest ask c.test:7000 --reason") {
		t.Errorf("why: %d %s", code, out)
	}
	for target, want := range map[string]string{"d.test:7000": "allowed", "denied.test": "denied", "169.254.169.254:80": "denied", "meta.local": "denied"} {
		out, code := b.guest("ask", target, "--reason", "x")
		if !strings.HasPrefix(out, want+": ") || (code == 0) != (want == "allowed") {
			t.Errorf("ask %s: %d %s", target, code, out)
		}
	}
	type answer struct {
		out  string
		code int
	}
	done := make(chan answer)
	go func() {
		out, code := b.guest("ask", "c.test:7000", "--reason", "the \x1b[31mtests\u202e need it")
		done <- answer{out, code}
	}()
	r := f.wait(t, "the question", open("c.test"))
	if r.Kind != control.AgentAsked || r.Reason != "the  [31mtests  need it" && strings.ContainsAny(r.Reason, "\x1b\u202e") {
		t.Errorf("%+v", r)
	}
	decide(t, f, r, control.ChoiceTask)
	if a := <-done; a.code != 0 || !strings.HasPrefix(a.out, "allowed: c.test:7000") {
		t.Errorf("%+v", a)
	}
	c, err := b.dial("tcp", "c.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	echo(t, c, "open")
	c.Close()
	limited := 0
	for i := range 100 {
		out := b.do(t, request{Op: "talk", Network: "tcp", Addr: "10.0.2.2:9421", Send: post("/v1/ask", fmt.Sprintf(`{"host":"x%d.test","reason":"more","seconds":0}`, i))})
		if strings.Contains(string(out.Data), `"limited"`) {
			limited++
		}
	}
	if limited < 90 {
		t.Errorf("%d of 100 questions were limited", limited)
	}
	if n := len(b.requests(t)); n > 12 {
		t.Errorf("%d requests", n)
	}
	for _, body := range []string{``, `{}`, `[]`, `{"host":"a.test","seconds":-1}`, `{"host":"a.test","rule":"+a.test"}`, `{"host":"a.test","port":70000}`, `{"host":"` + strings.Repeat("x", 9000) + `"}`} {
		out := b.do(t, request{Op: "talk", Network: "tcp", Addr: "10.0.2.2:9421", Send: post("/v1/ask", body)})
		if !strings.HasPrefix(string(out.Data), "HTTP/1.1 4") {
			t.Errorf("%.40s: %.80q", body, out.Data)
		}
	}
	sawOnly(t, w, "c.test", "203.0.113.20:7000")
}

func post(path, body string) []byte {
	return fmt.Appendf(nil, "POST %s HTTP/1.1\r\nHost: 10.0.2.2\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", path, len(body), body)
}

// TestClearanceOff is spec test 69: no prompt, the same enforcement.
func TestClearanceOff(t *testing.T) {
	w, roots := internet(t)
	dir := filepath.Join(rig, "c", "terok")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, []byte("clearance: off\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := start(t, "--allow", "a.test:443")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	f := b.watch(t, true)
	works(t, b, "https://a.test/", roots)
	refusedAll(t, b, []attempt{{"tcp", "c.test:7000", []byte("x")}, {"tcp", "203.0.113.20:443", hello(t, "a.test")}, {"tcp", "a.test:80", getOf("a.test")}})
	if all := b.requests(t); len(all) != 0 {
		t.Errorf("%+v", all)
	}
	if _, err := f.Verdict(t.Context(), control.VerdictChange{ID: "r1", Choice: control.ChoiceTask}); codeOf(err) != control.CodeUnknownRequest {
		t.Errorf("a verdict: %v", err)
	}
	out := b.do(t, request{Op: "talk", Network: "tcp", Addr: "10.0.2.2:9421", Send: post("/v1/ask", `{"host":"c.test","reason":"x","seconds":60}`)})
	_, body, _ := strings.Cut(string(out.Data), "\r\n\r\n")
	var a control.AskAnswer
	if err := json.Unmarshal([]byte(body), &a); err != nil || a.State != control.AskDenied {
		t.Errorf("%q: %v", out.Data, err)
	}
	if n := len(b.ledger(t, "flow_blocked")); n != 3 {
		t.Errorf("%d refusals in the ledger", n)
	}
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}

// TestMismatchAsks: a second name in TLS becomes a request about that name, and is allowed by its
// verdict for the next attempt.
func TestMismatchAsks(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443")
	f := b.watch(t, true)
	works(t, b, "https://a.test/", roots)
	refusedAll(t, b, []attempt{{"tcp", "a.test:443", hello(t, "b.test")}})
	r := f.wait(t, "the request", open("b.test"))
	if r.Kind != control.NameMismatch || len(r.Names) != 1 || r.Names[0] != "a.test" || r.NameSource != "sni" || r.Port != 443 {
		t.Errorf("%+v", r)
	}
	decide(t, f, r, control.ChoiceOnce)
	out := b.do(t, request{Op: "exchange", Network: "tcp", Addr: "a.test:443", Send: hello(t, "b.test")})
	if len(out.Data) < 6 || out.Data[0] != 22 {
		t.Errorf("after the verdict: %+v", out)
	}
	sawOnly(t, w, "a.test", "b.test", "203.0.113.10:443")
}
