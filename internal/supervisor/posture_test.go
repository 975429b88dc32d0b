package supervisor

import (
	"os"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
)

// set changes the posture, which has to work.
func set(t *testing.T, r *rules, c control.PostureChange) {
	t.Helper()
	if _, _, err := r.setPosture(c); err != nil {
		t.Fatal(err)
	}
}

// A window ends by the wall clock: at once for who asks, with one event, written down, and a clock
// that is set back does not open it again. Spec: shield.md §10, 9.
func TestPostureEndsByTheWallClock(t *testing.T) {
	dir := bundle(t)
	r := newRules(dir, false)
	clock := time.Now()
	r.now = func() time.Time { return clock }
	set(t, r, control.PostureChange{Posture: control.Down, Seconds: 60, Reason: "test"})
	if now(r) != control.Down || !allowed(r, "b.test") {
		t.Error("not down")
	}
	clock = clock.Add(61 * time.Second) // as after a suspend: no timer ran
	if now(r) != control.Up {
		t.Error("the window did not end")
	}
	// As the timer does.
	var events []audit.Event
	r.record = func(e audit.Event) { events = append(events, e) }
	r.expire()
	r.expire()
	if len(events) != 1 || events[0].Ev != evPosture || events[0].Actor != "auto" || events[0].Verdict != "up" || events[0].Detail["from"] != "down" {
		t.Errorf("%+v", events)
	}
	if allowed(r, "b.test") {
		t.Error("the policy did not follow")
	}
	clock = clock.Add(-30 * time.Second)
	if r.swapped(); now(r) != control.Up {
		t.Error("a clock that is set back opens the window again")
	}
	if d, err := control.ReadDesired(sandbox.PosturePath(dir)); err != nil || d.Posture != control.Up || d.Actor != "auto" {
		t.Errorf("on disk: %+v, %v", d, err)
	}
}

// swapped is swap for tests.
func (r *rules) swapped() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.swap()
}

// A window that ended while there was no supervisor ends as soon as there is one, and says so.
func TestPostureEndedMeanwhile(t *testing.T) {
	dir := bundle(t)
	past := control.Desired{Posture: control.DownAll, Until: time.Now().Add(-time.Minute), Reason: "test", Actor: "operator"}
	if err := control.WriteDesired(sandbox.PosturePath(dir), past); err != nil {
		t.Fatal(err)
	}
	r := newRules(dir, false)
	if now(r) != control.Up || allowed(r, "b.test") {
		t.Error("it is still open")
	}
	told := make(chan audit.Event, 2)
	r.attach(func() {}, func(e audit.Event) { told <- e })
	if e := <-told; e.Ev != evPosture || e.Actor != "auto" || e.Detail["from"] != "down-all" {
		t.Errorf("%+v", e)
	}
}

// Posture, end and reason are there again after a restart of the supervisor.
func TestPostureIsKept(t *testing.T) {
	dir := bundle(t, "+a.test")
	for _, c := range []control.PostureChange{{Posture: control.Down, Seconds: 3600, Reason: "why", Via: "cli"},
		{Posture: control.DownAll, Reason: "why"}, {Posture: control.Quarantine}, {Posture: control.Up}} {
		set(t, newRules(dir, false), c)
		st := newRules(dir, false).state()
		if st.now != c.Posture || st.desired.Reason != c.Reason || st.desired.Until.IsZero() == (c.Seconds > 0) || st.desired.Actor != "operator" {
			t.Errorf("%+v became %+v", c, st)
		}
	}
}

func TestPostureRefuses(t *testing.T) {
	r := newRules(bundle(t), false)
	for _, c := range []control.PostureChange{{}, {Posture: "offline"}, {Posture: "open", Reason: "x"}, {Posture: control.Down},
		{Posture: control.Down, Reason: "x", Seconds: -1}, {Posture: control.Down, Reason: "x", Seconds: 1 << 40},
		{Posture: control.Up, Seconds: 10}, {Posture: control.Quarantine, Seconds: 10}} {
		if _, _, err := r.setPosture(c); err == nil {
			t.Errorf("%+v is accepted", c)
		}
	}
	if now(r) != control.Up {
		t.Error(now(r))
	}
}

// A posture file that cannot be read is quarantine, loudly, until somebody sets a posture.
// Spec: shield.md §1.2, §10, 23.
func TestCorruptPostureIsQuarantine(t *testing.T) {
	for _, content := range []string{"", "{", "down", `{"posture":"offline"}`, `{"posture":"DOWN"}`, `{"posture":7}`, `null`, "\x00"} {
		dir := bundle(t, "+a.test")
		if err := os.WriteFile(sandbox.PosturePath(dir), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRules(dir, false)
		st := r.state()
		if st.now != control.Quarantine || st.broken == nil || allowed(r, "a.test") {
			t.Errorf("%q: %+v", content, st)
		}
		var s control.Status
		st.tell(&s)
		if s.Posture != control.Quarantine || s.Reason == "" {
			t.Errorf("%q: status says %+v", content, s)
		}
		set(t, r, control.PostureChange{Posture: control.Up})
		if now(r) != control.Up || !allowed(r, "a.test") {
			t.Errorf("%q: %s after up", content, now(r))
		}
	}
}

// Spec: shield.md §6, audit.required.
func TestRequiredLedger(t *testing.T) {
	r := newRules(bundle(t, "+a.test"), false)
	rechecked := 0
	r.recheck = func() { rechecked++ }
	r.require(os.ErrPermission)
	if now(r) != control.Quarantine || allowed(r, "a.test") || rechecked != 1 {
		t.Errorf("%s, rechecked %d times", now(r), rechecked)
	}
	r.require(nil)
	if now(r) != control.Up || !allowed(r, "a.test") {
		t.Error(now(r))
	}
}
