package clearance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"terok/internal/audit"
	"terok/internal/clearance/clearancetest"
	"terok/internal/control"
	"terok/internal/notify"
	"terok/test/clearance/daemon"
)

// session is a private session bus.
type session struct {
	*rig
	address string
	bus     *exec.Cmd
	once    sync.Once
}

func newSession(t *testing.T) *session {
	t.Helper()
	program, err := exec.LookPath("dbus-daemon")
	if err != nil {
		t.Skip("no dbus-daemon here")
	}
	s := &session{rig: newRig(t)}
	sock := filepath.Join(filepath.Dir(s.roots.Runtime), "bus")
	s.address = "unix:path=" + sock
	s.bus = exec.Command(program, "--session", "--nofork", "--nopidfile", "--nosyslog", "--address="+s.address)
	s.bus.Env = append(os.Environ(), "DBUS_SESSION_BUS_ADDRESS=", "XDG_DATA_DIRS="+t.TempDir())
	if err := s.bus.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.killBus)
	s.wait("the bus", func() bool { _, err := os.Lstat(sock); return err == nil })
	return s
}

func (s *session) killBus() {
	s.once.Do(func() {
		_ = s.bus.Process.Kill()
		_ = s.bus.Wait()
	})
}

// wait is until without a terminal.
func (s *session) wait(what string, ok func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("never: %s", what)
		}
	}
}

func (s *session) daemon(caps ...string) *daemon.Daemon {
	s.t.Helper()
	d, err := daemon.Start(s.address, caps...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(d.Close)
	return d
}

// notifier starts the process; ended is closed when it has gone.
func (s *session) notifier(before ...string) (ended <-chan struct{}) {
	s.t.Helper()
	argv := append(before, terok, "notify")
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), s.env...), "DBUS_SESSION_BUS_ADDRESS="+s.address)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = cmd.Wait() }()
	s.t.Cleanup(func() { _ = cmd.Process.Signal(os.Interrupt); <-done })
	return done
}

// status asks the notifier how it is.
func (s *session) status() (st notify.Status, err error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", s.roots.NotifySocket())
	}}}
	res, err := c.Get("http://notify/v1/status")
	if err != nil {
		return st, err
	}
	defer res.Body.Close()
	return st, json.NewDecoder(res.Body).Decode(&st)
}

func find(d *daemon.Daemon, words ...string) (daemon.Popup, bool) {
	for _, p := range d.Shown() {
		all := true
		for _, w := range words {
			all = all && strings.Contains(p.Title+"\n"+p.Body, w)
		}
		if all {
			return p, true
		}
	}
	return daemon.Popup{}, false
}

func (s *session) popup(d *daemon.Daemon, words ...string) daemon.Popup {
	s.t.Helper()
	var p daemon.Popup
	s.wait(fmt.Sprintf("a notification with %q", words), func() (ok bool) { p, ok = find(d, words...); return })
	return p
}

func (s *session) noPopup(d *daemon.Daemon, words ...string) {
	s.t.Helper()
	s.wait(fmt.Sprintf("no notification with %q", words), func() bool { _, ok := find(d, words...); return !ok })
}

func button(t *testing.T, p daemon.Popup, label string) string {
	t.Helper()
	i := slices.Index(p.Actions, label)
	if i < 1 {
		t.Fatalf("no button %q in %q", label, p.Actions)
	}
	return p.Actions[i-1]
}

// TestNotification is acceptance test 65 with a notification daemon: what is shown, a button, the
// outcome in its place, forged buttons, and popups that go with container and posture.
func TestNotification(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	d := s.daemon("actions", "body", "body-markup")
	a, b := s.supervisor("webshop", "k3v9p"), s.supervisor("docs", "m4j64")
	s.notifier()
	s.wait("somebody can answer", func() bool { _, n := a.Readers(); _, m := b.Readers(); return n == 1 && m == 1 })

	q := a.Open("registry.npmjs.org", 443)
	p := s.popup(d, "Blocked: registry.npmjs.org:443")
	if p.Body != "Task: webshop/k3v9p\nProtocol: TCP, name from DNS\nBelongs to: npmjs.org" || p.Replaces != 0 || p.Expires != 0 || p.App != "terok" {
		t.Errorf("%+v", p)
	}
	if u, _ := p.Hints["urgency"].Value().(byte); u != 2 {
		t.Errorf("urgency %v", p.Hints["urgency"])
	}
	if r, _ := p.Hints["resident"].Value().(bool); !r {
		t.Errorf("it does not stay: %v", p.Hints)
	}
	if labels := fmt.Sprint(p.Actions); !strings.Contains(labels, "Allow once") || !strings.Contains(labels, "Allow for task") || !strings.Contains(labels, "Deny") || len(p.Actions) != 6 {
		t.Errorf("buttons %q", p.Actions)
	}
	a.Open("registry.npmjs.org", 443)
	again := s.popup(d, "Blocked 2 times since")
	if again.ID != p.ID || again.Replaces != p.ID {
		t.Errorf("not replaced in place: %+v", again)
	}

	s.forge(p, button(t, p, "Allow for task"))
	if n := len(a.Verdicts()); n != 0 {
		t.Fatalf("a forged button gave %d verdicts", n)
	}
	// Buttons of another request, of one that changed, and unknown ones.
	for _, key := range []string{"task@0000000000000000", "task", "project@" + q.Hash, "default"} {
		if err := d.Press(p.ID, key); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Press(p.ID+77, button(t, p, "Deny")); err != nil {
		t.Fatal(err)
	}
	if err := d.Press(p.ID, button(t, p, "Allow for task")); err != nil {
		t.Fatal(err)
	}
	s.wait("the verdict", func() bool { return a.Get(q.ID).State == control.RequestApplied })
	if v := a.Verdicts(); len(v) != 1 || v[0].Choice != control.ChoiceTask || v[0].Via != "notification" || v[0].Hash != q.Hash {
		t.Errorf("%+v", v)
	}
	o := s.popup(d, "Allowed: registry.npmjs.org:443", "for the task by")
	if tr, _ := o.Hints["transient"].Value().(bool); o.ID != p.ID || !tr || len(o.Actions) != 0 {
		t.Errorf("%+v", o)
	}

	// Closed by the person: stays away, stays open.
	c := a.Open("second.test", 443)
	if err := d.Dismiss(s.popup(d, "second.test").ID); err != nil {
		t.Fatal(err)
	}
	s.noPopup(d, "Blocked: second.test")
	a.Open("second.test", 443)
	a.Open("third.test", 443)
	s.popup(d, "third.test")
	if _, ok := find(d, "Blocked: second.test"); ok || a.Get(c.ID).State != control.RequestOpen {
		t.Error("a question that the person closed came back, or was answered by that")
	}

	// A verdict that fails is shown as what it is, and can be tried again.
	a.RefuseNext(&control.Error{Code: control.CodeApplyFailed, Message: "disk full"})
	x := s.popup(d, "Blocked: third.test")
	if err := d.Press(x.ID, button(t, x, "Deny")); err != nil {
		t.Fatal(err)
	}
	x = s.popup(d, "Not answered: third.test", "disk full")
	if err := d.Press(x.ID, button(t, x, "Deny")); err != nil {
		t.Fatal(err)
	}
	s.popup(d, "Denied: third.test")

	a.Open("fourth.test", 443)
	s.popup(d, "fourth.test")
	a.SetPostureNow(control.Down)
	s.noPopup(d, "fourth.test")
	b.Open("fifth.test", 443)
	s.popup(d, "fifth.test", "docs/m4j64")
	b.Stop()
	s.noPopup(d, "Blocked: fifth.test")
}

// forge presses a button as another program of the session: by broadcast, and sent to the notifier
// alone, which no match rule keeps out.
func (s *session) forge(p daemon.Popup, key string) {
	s.t.Helper()
	conn, err := dbus.Connect(s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	var names []string
	if err := conn.BusObject().Call("org.freedesktop.DBus.ListNames", 0).Store(&names); err != nil {
		s.t.Fatal(err)
	}
	for _, to := range append(names, "") {
		if to != "" && !strings.HasPrefix(to, ":") {
			continue
		}
		msg := &dbus.Message{Type: dbus.TypeSignal, Headers: map[dbus.HeaderField]dbus.Variant{
			dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.Notifications"), dbus.FieldMember: dbus.MakeVariant("ActionInvoked"),
			dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/Notifications")),
			dbus.FieldSignature: dbus.MakeVariant(dbus.SignatureOf(p.ID, key))}, Body: []any{p.ID, key}}
		if to != "" {
			msg.Headers[dbus.FieldDestination] = dbus.MakeVariant(to)
		}
		conn.Send(msg, nil)
	}
	// A call that is answered comes after everything that was sent before.
	if err := conn.BusObject().Call("org.freedesktop.DBus.GetId", 0).Err; err != nil {
		s.t.Fatal(err)
	}
}

// TestThirtyContainers is acceptance test 67: one notifier, every popup says whose it is, at most
// six and a count, and a verdict reaches the container that it is about.
// Events that nobody is asked about reach the desktop too, once.
func TestAlerts(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	d := s.daemon("actions", "body", "body-markup")
	a := s.supervisor("webshop", "k3v9p")
	s.notifier()
	s.wait("somebody can answer", func() bool { _, n := a.Readers(); return n == 1 })
	for range 3 {
		a.Say(audit.Event{Ev: "vault_request", Status: 200})
		a.Say(audit.Event{Ev: "vault_leak", Reason: "foreign_phantom", Detail: map[string]string{"owner": "docs/<b>m4j64"}})
	}
	p := s.popup(d, "Token misused")
	if !strings.Contains(p.Body, "Task: webshop/k3v9p") || !strings.Contains(p.Body, "another container") || !strings.Contains(p.Body, "&lt;b&gt;") || len(p.Actions) != 0 {
		t.Errorf("%+v", p)
	}
	a.Say(audit.Event{Ev: "vault_budget", Rule: "5 USD/task", Reason: "80 % used"})
	if p := s.popup(d, "Budget nearly used up"); !strings.Contains(p.Body, "5 USD/task: 80 % used") {
		t.Errorf("%+v", p)
	}
	n := 0
	for _, shown := range d.Shown() {
		if strings.Contains(shown.Title, "Token misused") {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d alerts of one kind", n)
	}
}

func TestThirtyContainers(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	d := s.daemon("actions")
	var all []*clearancetest.Supervisor
	for i := range 30 {
		all = append(all, s.supervisor("p", fmt.Sprintf("k%04d", i)))
	}
	first := s.notifier()
	s.wait("the notifier", func() bool { st, err := s.status(); return err == nil && st.Tasks == 30 && st.Acts })
	st, _ := s.status()
	select {
	case <-s.notifier(): // a second launch starts none
	case <-first:
		t.Fatal("the first notifier went")
	case <-time.After(patience):
		t.Fatal("two notifiers")
	}
	if again, err := s.status(); err != nil || again.PID != st.PID {
		t.Errorf("%+v %v", again, err)
	}
	for _, sup := range all {
		sup.Open("same.test", 443) // the same name everywhere
	}
	s.popup(d, "24 more requests wait")
	shown := d.Shown()
	if len(shown) != 7 {
		t.Errorf("%d notifications", len(shown))
	}
	// Which six came first is chance.
	at := slices.IndexFunc(shown, func(n daemon.Popup) bool { return strings.Contains(n.Body, "Task: p/k") })
	if at < 0 {
		t.Fatalf("no request among %+v", shown)
	}
	var chosen int
	_, after, _ := strings.Cut(shown[at].Body, "Task: p/k")
	if _, err := fmt.Sscanf(after, "%04d", &chosen); err != nil {
		t.Fatal(err)
	}
	p := shown[at]
	if err := d.Press(p.ID, button(t, p, "Allow once")); err != nil {
		t.Fatal(err)
	}
	s.popup(d, "Allowed: same.test:443", fmt.Sprintf("p/k%04d", chosen))
	for i, sup := range all {
		want := control.RequestOpen
		if i == chosen {
			want = control.RequestApplied
		}
		if got := sup.Get("r1").State; got != want || i != chosen && len(sup.Verdicts()) > 0 {
			t.Errorf("container %d: %s, %d verdicts", i, got, len(sup.Verdicts()))
		}
	}
	s.popup(d, "23 more requests wait")
	for _, call := range d.Calls() {
		if strings.HasPrefix(call.Title, "Blocked") && !strings.Contains(call.Body, "Task: p/k00") {
			t.Errorf("no label: %+v", call)
		}
	}
}

// TestDaemonAndBusDie: whatever happens on the bus, no verdict changes, nobody is said to be able
// to answer who cannot, and a new daemon gets the open questions.
func TestDaemonAndBusDie(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	a := s.supervisor("webshop", "k3v9p")
	ended := s.notifier()
	s.wait("it runs without a daemon", func() bool { st, err := s.status(); return err == nil && st.Tasks == 1 && !st.Acts })
	if _, n := a.Readers(); n != 0 {
		t.Error("somebody can answer where nothing is shown")
	}
	d := s.daemon("actions")
	s.wait("somebody can answer", func() bool { _, n := a.Readers(); return n == 1 })
	q := a.Open("a.test", 443)
	p := s.popup(d, "a.test")
	d.Close()
	s.wait("nobody can answer", func() bool { _, n := a.Readers(); return n == 0 })
	d = s.daemon("actions")
	s.popup(d, "Blocked: a.test")
	_ = p
	d.Fail(errors.New("out of order"))
	a.Open("b.test", 443)
	s.wait("nobody can answer what is not shown", func() bool { _, n := a.Readers(); return n == 0 })
	s.killBus()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatal("the notifier stays without a bus")
	}
	if got := a.Get(q.ID); got.State != control.RequestOpen || len(a.Verdicts()) != 0 {
		t.Errorf("%+v", got)
	}
}

// TestDaemonWithoutButtons: it shows what waits and says where to answer; nothing is held for it.
func TestDaemonWithoutButtons(t *testing.T) {
	t.Parallel()
	s := newSession(t)
	d := s.daemon("body")
	a := s.supervisor("webshop", "k3v9p")
	s.notifier()
	s.wait("the notifier", func() bool { st, err := s.status(); return err == nil && st.Daemon })
	a.Open("a.test", 443)
	if p := s.popup(d, "a.test", "Answer with: terok clearance"); len(p.Actions) != 0 {
		t.Errorf("%q", p.Actions)
	}
	if _, n := a.Readers(); n != 0 {
		t.Error("somebody can answer without a button")
	}
}

// TestNoBus is the other half of acceptance test 65: no bus, no notifier, no error.
func TestNoBus(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, address := range []string{"", "unix:path=/nowhere/bus", "tcp:host=127.0.0.1,port=1", "unixexec:path=/bin/sh,argv1=-c,argv2=touch " + r.roots.Runtime + "/owned"} {
		cmd := exec.CommandContext(t.Context(), terok, "notify")
		cmd.Env = append(append(os.Environ(), r.env...), "DBUS_SESSION_BUS_ADDRESS="+address)
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "no session bus") {
			t.Errorf("%s: %v %s", address, err, out)
		}
	}
	if _, err := os.Lstat(r.roots.Runtime + "/owned"); err == nil {
		t.Error("a bus address started a program")
	}
}

// TestInsideUserNamespace is the round trip from inside podman's user namespace, where we are uid
// 0 and the bus knows us as the operator.
func TestInsideUserNamespace(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("podman"); err != nil || os.Getuid() == 0 {
		t.Skip("needs rootless podman: scripts/rootless run -- go test ./test/clearance")
	}
	s := newSession(t)
	d := s.daemon("actions")
	a := s.supervisor("webshop", "k3v9p")
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	// podman keeps its own directories; only terok's are the test's.
	args := []string{"env", "-u", "XDG_CONFIG_HOME", "-u", "XDG_DATA_HOME", "HOME=" + home,
		"XDG_RUNTIME_DIR=" + os.Getenv("XDG_RUNTIME_DIR"), "podman", "unshare", "env"}
	s.notifier(append(args, s.env...)...)
	s.wait("somebody can answer", func() bool { _, n := a.Readers(); return n == 1 })
	q := a.Open("a.test", 443)
	p := s.popup(d, "Blocked: a.test:443")
	if err := d.Press(p.ID, button(t, p, "Allow once")); err != nil {
		t.Fatal(err)
	}
	s.popup(d, "Allowed: a.test:443")
	if got := a.Get(q.ID); got.Decision == nil || got.Decision.Choice != control.ChoiceOnce {
		t.Errorf("%+v", got)
	}
}
