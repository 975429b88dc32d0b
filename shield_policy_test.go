package terok

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/state"
	"terok/internal/task"
)

// shieldWorld is an App with one project and tasks that were started, without containers.
type shieldWorld struct {
	*App
	t     *testing.T
	said  bytes.Buffer
	clock time.Time
}

func newShieldWorld(t *testing.T, shield string) *shieldWorld {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &shieldWorld{t: t, clock: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)}
	w.App = &App{Roots: state.Roots{Config: dir + "/c", Data: dir + "/d", Runtime: dir + "/r"}, Environ: os.Getenv, Progress: &w.said,
		Now: func() time.Time { return w.clock }}
	w.write(shield)
	return w
}

func (w *shieldWorld) write(shield string) {
	w.t.Helper()
	if err := state.WriteFile(w.Roots.ProjectFile("p"), []byte("project:\n  name: p\ndefault_agent: script\n"+shield)); err != nil {
		w.t.Fatal(err)
	}
}

// start makes a task as a launch leaves it.
func (w *shieldWorld) start(allow ...string) *task.Task {
	w.t.Helper()
	t, err := w.tasks().Create("p", "", func(t *task.Task) { t.Mode, t.Agent, t.Allow = task.Headless, "script", allow })
	if err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.refreshPolicy(t); err != nil {
		w.t.Fatal(err)
	}
	dir, zero := t.Dir(w.Roots), strings.Repeat("00", 32)
	f := sandbox.File{Schema: sandbox.Schema, Key: taskKey(t), Name: "c", Project: t.Project, Task: t.ID, Mode: "headless", Launch: "l", Dir: dir,
		RuntimeDir: w.Roots.RunDir(taskKey(t)), CIDFile: dir + "/cid", StartError: dir + "/start-error", PanicLock: w.Roots.PanicLock(),
		SeccompSHA256: zero, GuestSHA256: zero, SigningKey: make([]byte, 32)}
	if err := state.WriteJSON(sandbox.Path(dir), &f); err != nil {
		w.t.Fatal(err)
	}
	return t
}

// reloader is a supervisor that counts reloads.
type reloader struct {
	control.Backend
	n atomic.Int32
}

func (r *reloader) Reload(context.Context) (control.Status, error) {
	r.n.Add(1)
	return control.Status{Warnings: []string{}}, nil
}

func (w *shieldWorld) supervise(t *task.Task) *reloader {
	w.t.Helper()
	l, err := control.Listen(sandbox.ControlPath(w.Roots.RunDir(taskKey(t))))
	if err != nil {
		w.t.Fatal(err)
	}
	r := &reloader{}
	srv := &http.Server{Handler: control.Handler(r)}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	w.t.Cleanup(func() { srv.Close(); <-done })
	return r
}

func (w *shieldWorld) rulesOf(t *task.Task) string {
	w.t.Helper()
	doc, err := loadDocument(sandbox.PolicyPath(t.Dir(w.Roots)))
	if err != nil {
		w.t.Fatal(err)
	}
	var out []string
	for _, r := range doc.Rules {
		out = append(out, r.Tier.String()+r.Text)
	}
	return strings.Join(out, " ")
}

// TestTiersAreOfToday: a reload and a restart use today's configuration, what the task was started
// with stays, and a broken configuration changes nothing.
func TestTiersAreOfToday(t *testing.T) {
	w := newShieldWorld(t, "shield:\n  allow: [a.test]\n  profiles: [python]\n")
	tk := w.start("b.test:8443")
	for _, want := range []string{"deny-api.anthropic.com", "project+a.test", "project+b.test:8443", "project+pypi.org:443"} {
		if !strings.Contains(w.rulesOf(tk), want) {
			t.Errorf("%s is missing: %s", want, w.rulesOf(tk))
		}
	}
	w.write("shield:\n  deny: [a.test]\n  override:\n    - {host: 192.168.77.0/24:631, reason: printers}\n    - {host: old.test, reason: x, expires: 2026-01-01}\n")
	sup := w.supervise(tk)
	v, err := w.ShieldReload(t.Context(), tk.Ref())
	if err != nil || !v.Applied || sup.n.Load() != 1 {
		t.Fatalf("%+v %v, %d reloads", v, err, sup.n.Load())
	}
	if !slices.Contains(v.Added, "-a.test") || !slices.Contains(v.Removed, "+a.test") || !slices.Contains(v.Removed, `+pypi.org:443 %reason="package index"`) ||
		!slices.Equal(v.Expired, []string{"+old.test"}) || slices.ContainsFunc(v.Added, func(s string) bool { return strings.Contains(s, "old.test") }) {
		t.Errorf("%+v", v)
	}
	if got := w.rulesOf(tk); strings.Contains(got, "project+a.test") || !strings.Contains(got, "project+b.test:8443") || !strings.Contains(got, "override+192.168.77.0/24:631") {
		t.Error(got)
	}
	for _, want := range []string{"opens a range, 192.168.77.0/24", "+old.test ended at 2026-01-02"} {
		if !strings.Contains(w.said.String(), want) {
			t.Errorf("not said: %s\n%s", want, w.said.String())
		}
	}
	before := w.rulesOf(tk)
	w.write("shield:\n  allow: ['*.com']\n")
	if _, err := w.ShieldReload(t.Context(), tk.Ref()); problem.Of(err).Exit != problem.Usage {
		t.Errorf("a broken configuration: %v", err)
	}
	if w.rulesOf(tk) != before || sup.n.Load() != 1 {
		t.Error("a broken configuration changed the rules")
	}
}

// TestOutrankedForProject: an allow that the deny tier, or the vault, keeps closed is refused and
// not written; what shield.deny says about the very target gives way.
func TestOutrankedForProject(t *testing.T) {
	w := newShieldWorld(t, "# mine\nshield:\n  deny: [.evil.test, b.test]\n")
	running, stopped := w.start(), w.start()
	w.supervise(running)
	text := func() string {
		data, err := os.ReadFile(w.Roots.ProjectFile("p"))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	before := text()
	for rule, want := range map[string]string{"+x.evil.test": "-.evil.test", "+api.anthropic.com:443": policy.RelaySource} {
		_, err := w.ShieldProject(t.Context(), "p", rule, false)
		if p := problem.Of(err); p == nil || p.Code != "rule_outranked" || p.Exit != problem.Conflict || !strings.Contains(p.Message, want) {
			t.Errorf("%s: %v", rule, err)
		}
	}
	for _, bad := range []string{"+192.168.1.1", "+*.com", "+a b", "x"} {
		if _, err := w.ShieldProject(t.Context(), "p", bad, false); problem.Of(err) == nil || problem.Of(err).Exit != problem.Usage {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if text() != before {
		t.Errorf("something was written:\n%s", text())
	}
	v, err := w.ShieldProject(t.Context(), "p", `+b.test %reason="needed" %expires=2026-12-24`, false)
	if err != nil || !v.Changed || len(v.Tasks) != 2 {
		t.Fatalf("%+v %v", v, err)
	}
	for _, r := range v.Tasks {
		if r.Applied != (r.Target == running.Ref()) || len(r.Added) != 1 {
			t.Errorf("%+v; %s runs", r, running.Ref())
		}
	}
	if !strings.Contains(text(), "# mine\n") || !strings.Contains(w.rulesOf(stopped), "project+b.test") || strings.Contains(w.rulesOf(stopped), "-b.test") {
		t.Errorf("%s\n%s", text(), w.rulesOf(stopped))
	}
	if v, err = w.ShieldProject(t.Context(), "p", "+b.test", true); err != nil || !v.Changed || strings.Contains(w.rulesOf(running), "b.test") {
		t.Errorf("%+v %v", v, err)
	}
	if _, err = w.ShieldProject(t.Context(), "p", "+b.test", true); problem.Of(err).Exit != problem.NotFound {
		t.Errorf("removed twice: %v", err)
	}
}

// TestPreview: effects, changes and questions are as the supervisor would have them, and nothing is
// written (spec shield.md, test 71).
func TestPreview(t *testing.T) {
	w := newShieldWorld(t, "shield:\n  allow: [a.test]\n")
	tk := w.start()
	before := w.rulesOf(tk)
	w.write("shield:\n  allow: [c.test, 'x.evil.test', 'd.test %expires=2026-01-01']\n  deny: [.evil.test]\n  override: [{host: o.test, reason: x}]\n")
	v, err := w.ShieldPreview(tk.Ref(), "", "", []string{"c.test", "x.evil.test:443", "unlisted.test", "192.168.1.1:80", "169.254.169.254:80"})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, r := range v.Rules {
		got[r.Rule] = r.Effect + " " + r.Change
	}
	set, err := roster.Load(w.Roots)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range set.RelayedHosts() {
		if host != "api.anthropic.com" && got["-"+host] == "deny same" {
			delete(got, "-"+host)
		}
	}
	if diff := cmp.Diff(map[string]string{"+a.test": "none removed", "+c.test": "allow added", "+x.evil.test": "outranked added", "+d.test": "expired added",
		"-.evil.test": "deny added", "+o.test": "allow added", "-api.anthropic.com": "deny same"}, got); diff != "" {
		t.Error(diff)
	}
	var verdicts []string
	for _, x := range v.Targets {
		verdicts = append(verdicts, x.Verdict)
	}
	if want := []string{"allow", "deny", "ask", "deny", "deny"}; !slices.Equal(verdicts, want) || !strings.HasPrefix(v.Rest, "asked about") {
		t.Errorf("%v, %s", verdicts, v.Rest)
	}
	if w.rulesOf(tk) != before {
		t.Error("a preview changed the policy")
	}
	if _, err := os.Stat(w.Roots.ProjectData("p") + "/overrides.json"); err == nil {
		t.Error("a preview began an override")
	}
	for p, want := range map[control.Posture]string{control.Down: "allow", control.DownAll: "allow", control.Quarantine: "deny", control.Up: "ask"} {
		v, err := w.ShieldPreview("", "p", p, []string{"unlisted.test"})
		if err != nil || v.Targets[0].Verdict != want {
			t.Errorf("%s: %+v %v", p, v.Targets, err)
		}
	}
	if _, err := w.ShieldPreview("", "p", "open", nil); problem.Of(err).Exit != problem.Usage {
		t.Errorf("%v", err)
	}
}

// TestResolve: every address is judged as the supervisor would.
func TestResolve(t *testing.T) {
	var rules []policy.Rule
	for text, tier := range map[string]policy.Tier{"a.test": policy.Project, "*.b.test": policy.Project, "c.test:8443": policy.Project, "gone.test": policy.Project,
		"p.test:631 %reason=x": policy.Override, "-203.0.113.66": policy.Denied} {
		r, err := policy.ParseRule(text, tier, "f:1")
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	own := netip.MustParseAddr("198.51.100.99")
	pol := policy.New(rules, policy.Options{Posture: policy.Up, HostAddrs: []netip.Addr{own}})
	got := resolveNames(t.Context(), pol, time.Now(), func(_ context.Context, name string) ([]netip.Addr, error) {
		answers := map[string][]string{"a.test.": {"203.0.113.10", "10.0.0.1", "169.254.169.254", "::ffff:203.0.113.11", "127.0.0.1"},
			"c.test.": {"203.0.113.66", own.String()}, "p.test.": {"192.168.77.7"}}
		var out []netip.Addr
		for _, a := range answers[name] {
			out = append(out, netip.MustParseAddr(a))
		}
		if out == nil {
			return nil, errors.New("no such host")
		}
		return out, nil
	})
	said := map[string]string{}
	for _, r := range got {
		if r.Error != nil {
			said[r.Name] = *r.Error
		}
		for _, a := range r.Addresses {
			said[r.Name+" "+a.Address] = a.Verdict + " " + a.Range
		}
	}
	if diff := cmp.Diff(map[string]string{"a.test 203.0.113.10": "allow public", "a.test 203.0.113.11": "allow public", "a.test 10.0.0.1": "deny private",
		"a.test 169.254.169.254": "deny floor", "a.test 127.0.0.1": "deny loopback", "c.test 203.0.113.66": "deny denied", "c.test 198.51.100.99": "deny host",
		"p.test 192.168.77.7": "allow private", "gone.test": "no such host"}, said); diff != "" {
		t.Error(diff)
	}
}

// TestHarvest folds a ledger that a container filled and promotes what a person chose.
func TestHarvest(t *testing.T) {
	w := newShieldWorld(t, "shield:\n  allow: # ours\n    - open.test\n  deny: [no.test]\n")
	tk := w.start()
	led, err := audit.Open(sandbox.LedgerPath(tk.Dir(w.Roots)), audit.Identity{Project: "p", Task: tk.ID}, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range []audit.Event{
		{Ev: "name_blocked", Name: "r.test", Proto: "dns"},
		{Ev: "flow_blocked", Name: "r.test", Port: 443, Proto: "tcp", Verdict: "deny", Tier: "default", Count: 1},
		{Ev: "flow_blocked", Name: "r.test", Port: 8443, Proto: "tcp", Verdict: "deny", Tier: "default", Count: 6},
		{Ev: "flow_allowed", Name: "fine.test", Port: 443, Proto: "tcp", Verdict: "allow"},
		{Ev: "name_blocked", Name: "only-asked.test", Proto: "dns"},
		{Ev: "flow_denied", Name: "no.test", Port: 443, Proto: "tcp", Verdict: "deny", Tier: "deny", Count: 50},
		{Ev: "flow_denied", IP: "169.254.169.254", Port: 80, Proto: "tcp", Verdict: "deny", Tier: "floor"},
		{Ev: "flow_private", IP: "192.168.1.1", Port: 80, Proto: "tcp", Verdict: "deny"},
		{Ev: "flow_blocked", IP: "2001:db8::7", Port: 22, Proto: "tcp", Verdict: "deny"},
		{Ev: "name_mismatch", Name: "open.test", Port: 443, Verdict: "deny", Detail: map[string]string{"second": "front.test"}},
		{Ev: "name_mismatch", Name: "open.test", Port: 443, Verdict: "allow", Detail: map[string]string{"second": "logged.test"}},
		{Ev: "flow_blocked", Name: "open.test", Port: 443, Verdict: "deny"},
		{Ev: "flow_blocked", Name: "evil.test raw %reason=x", Port: 443, Verdict: "deny"},
		{Ev: "flow_blocked", Name: "*.wild.test", Port: 443, Verdict: "deny"},
		{Ev: "flow_blocked", Name: "host", Port: 5432, Verdict: "deny"},
		{Ev: "flow_blocked", Name: "203.0.0.0/16", Port: 443, Verdict: "deny"},
		{Ev: "flow_blocked", Name: "x.test\n+*.test", Port: 443, Verdict: "deny"},
		{Ev: "flow_blocked", Name: "me.github.io", Port: 443, Verdict: "deny"},
		{Ev: "flow_blocked", Name: "u.test", Port: 123, Proto: "udp", Verdict: "deny"},
	} {
		led.Record(e)
	}
	if err := led.Close(); err != nil {
		t.Fatal(err)
	}
	list, err := w.Harvest(tk.Ref())
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, h := range list {
		rule := "-"
		if h.Rule != nil {
			rule = *h.Rule
		}
		got[h.Host] = rule
	}
	if diff := cmp.Diff(map[string]string{"r.test": "r.test:443,8443", "only-asked.test": "only-asked.test:443", "no.test": "-", "169.254.169.254": "-", "192.168.1.1": "-",
		"2001:db8::7": "[2001:db8::7]:22", "front.test": "front.test:443", "open.test": "-", "evil.test raw %reason=x": "-", "x.test\n+*.test": "-", "*.wild.test": "-", "203.0.0.0/16": "-", "host": "-",
		"me.github.io": "me.github.io:443", "u.test": "u.test:123/udp"}, got); diff != "" {
		t.Error(diff)
	}
	if list[0].Host != "r.test" || list[0].Count != 7 || list[len(list)-1].Rule != nil {
		t.Errorf("the order: %+v", list)
	}

	asked := ""
	answer := false
	w.Confirm = nil
	if _, err := w.PromoteHarvest(t.Context(), tk.Ref(), []string{"r.test"}); problem.Of(err).Exit != problem.Declined {
		t.Errorf("nobody could be asked: %v", err)
	}
	w.Confirm = func(q string) (bool, error) { asked = q; return answer, nil }
	for choice, exit := range map[string]int{"r.test": problem.Declined, "no.test": problem.Conflict, "169.254.169.254": problem.Conflict, "other.test": problem.NotFound, "open.test": problem.Conflict} {
		if _, err := w.PromoteHarvest(t.Context(), tk.Ref(), []string{choice}); problem.Of(err) == nil || problem.Of(err).Exit != exit {
			t.Errorf("%s: %v, want exit %d", choice, err, exit)
		}
	}
	if p, err := w.projects().Get("p"); err != nil || len(p.Shield.Allow) != 1 {
		t.Fatalf("something was written: %+v %v", p.Shield.Allow, err)
	}
	answer = true
	v, err := w.PromoteHarvest(t.Context(), tk.Ref(), []string{"me.github.io", "r.test:443,8443", "all"})
	if err != nil || !strings.Contains(asked, "me.github.io:443 (anyone-hosts)") {
		t.Fatalf("%v, asked %q", err, asked)
	}
	p, err := w.projects().Get("p")
	if err != nil {
		t.Fatal(err)
	}
	texts := project.Texts(p.Shield.Allow)
	slices.Sort(texts)
	if want := []string{"[2001:db8::7]:22", "front.test:443", "me.github.io:443", "only-asked.test:443", "open.test", "r.test:443,8443", "u.test:123/udp"}; !slices.Equal(texts, want) {
		t.Errorf("%q", texts)
	}
	if len(v.Rules) != 6 || !strings.Contains(w.rulesOf(tk), "project+r.test:443,8443") {
		t.Errorf("%+v\n%s", v, w.rulesOf(tk))
	}
}

// TestRelayedHosts: hosts that the vault relays for anybody are closed for everybody else.
func TestRelayedHosts(t *testing.T) {
	w := newShieldWorld(t, "shield:\n  allow: [api.other.test]\n")
	if err := state.WriteFile(filepath.Join(w.Roots.ProvidersDir(), "other.yml"), []byte("host: api.other.test\nauth: {api_key: {env: {KEY: '{phantom}'}}}\n")); err != nil {
		t.Fatal(err)
	}
	tk := w.start()
	v, err := w.ShieldPreview(tk.Ref(), "", "", []string{"api.other.test"})
	if err != nil || v.Targets[0].Verdict != "deny" || v.Targets[0].Tier != "deny" {
		t.Errorf("%+v %v", v.Targets, err)
	}
}
