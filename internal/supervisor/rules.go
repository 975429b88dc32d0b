package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"terok/internal/control"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/state"
)

// rules owns the policy of one container: the launch's document, the live verdicts, the posture,
// and the host's addresses. Readers get an immutable policy; every change is written to disk
// first, then swapped, then applied to live connections.
type rules struct {
	dir     string
	now     func() time.Time
	recheck func() // judges live connections again

	current atomic.Pointer[policy.Policy]

	mu       sync.Mutex
	document policy.Document
	session  []policy.Rule
	desired  desired
	broken   error // why the state on disk cannot be used: quarantine
	tampered bool
	hosts    []netip.Addr
	blind    bool // the host's own addresses were never read: nothing can be told from the host
	timer    *time.Timer
}

// desired is the posture file.
type desired struct {
	Posture control.Posture `json:"posture"`
	Until   time.Time       `json:"until,omitzero"` // zero: until changed
	Reason  string          `json:"reason,omitempty"`
	Actor   string          `json:"actor,omitempty"`
}

// newRules reads the state on disk. What cannot be read means quarantine and is reported by
// status, never an empty policy.
func newRules(dir string, tampered bool) *rules {
	r := &rules{dir: dir, now: time.Now, recheck: func() {}, tampered: tampered}
	var err error
	r.hosts, err = hostAddrs()
	r.blind = err != nil // quarantine until follow reads them
	r.mu.Lock()
	defer r.mu.Unlock()
	r.read()
	r.swap()
	return r
}

// read loads document, session and posture. Called with the lock held.
func (r *rules) read() {
	r.broken = nil
	doc, err := readDocument(sandbox.PolicyPath(r.dir))
	if err != nil {
		r.broken = err
	}
	session, err := readDocument(sandbox.SessionPath(r.dir))
	if errors.Is(err, fs.ErrNotExist) {
		session, err = policy.Document{Settings: doc.Settings}, nil // no verdict yet
	}
	if err != nil && r.broken == nil {
		r.broken = err
	}
	r.desired = desired{Posture: control.Up}
	if d, err := readPosture(sandbox.PosturePath(r.dir)); err == nil {
		r.desired = d
	} else if !errors.Is(err, fs.ErrNotExist) && r.broken == nil {
		r.broken = err
	}
	r.document, r.session = doc, session.Rules
}

func readDocument(path string) (policy.Document, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return policy.Document{}, err
	}
	d, err := policy.DecodeDocument(data)
	if err != nil {
		return policy.Document{}, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

func readPosture(path string) (desired, error) {
	var d desired
	if err := state.ReadJSON(path, &d); err != nil {
		return d, err
	}
	if !slices.Contains([]control.Posture{control.Up, control.Down, control.DownAll, control.Quarantine}, d.Posture) {
		return d, fmt.Errorf("%s has the unknown posture %q", path, d.Posture)
	}
	return d, nil
}

// posture is what holds now. Called with the lock held.
func (r *rules) posture() control.Posture {
	switch {
	case r.broken != nil || r.tampered || r.blind:
		return control.Quarantine
	case !r.desired.Until.IsZero() && !r.now().Before(r.desired.Until):
		return control.Up // wall clock: a suspended machine must not lengthen a window
	}
	return r.desired.Posture
}

// swap makes the policy of this moment and a timer for the next expiry. Called with the lock held.
func (r *rules) swap() {
	all := append(slices.Clone(r.document.Rules), r.session...)
	p := policy.New(all, policy.Options{Posture: policy.Posture(r.posture()), HostAddrs: r.hosts})
	r.current.Store(p)
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	next, ok := p.NextExpiry(r.now())
	if u := r.desired.Until; !u.IsZero() && u.After(r.now()) && (!ok || u.Before(next)) {
		next, ok = u, true
	}
	if ok {
		// Wake at least every minute: the timer is monotonic and stops in suspend.
		r.timer = time.AfterFunc(min(max(next.Sub(r.now()), 0)+time.Millisecond, time.Minute), r.expire)
	}
}

func (r *rules) expire() {
	r.mu.Lock()
	r.swap()
	r.mu.Unlock()
	r.recheck()
}

// policy is the policy of this moment.
func (r *rules) policy() *policy.Policy { return r.current.Load() }

// settings of the launch's document.
func (r *rules) settings() policy.Settings {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return policy.DefaultSettings()
	}
	return r.document.Settings
}

// state tells posture, desired posture and why they differ.
func (r *rules) state() (now, want control.Posture, tampered bool, count int, broken error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.posture(), r.desired.Posture, r.tampered, len(r.document.Rules) + len(r.session), r.broken
}

// tamper quarantines for the rest of the container's life.
func (r *rules) tamper() {
	r.mu.Lock()
	r.tampered = true
	r.swap()
	r.mu.Unlock()
	r.recheck()
}

// change adds or removes a live rule. It returns the rule in canonical form.
func (r *rules) change(c control.RuleChange) (policy.Rule, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return policy.Rule{}, problem.New("quarantined", problem.Conflict, "the container is in quarantine: %w", r.broken)
	}
	text := policy.Rule{Text: c.Rule, Reason: c.Reason}
	if c.Expires != "" {
		t, err := time.Parse(time.RFC3339, c.Expires)
		if err != nil {
			return policy.Rule{}, problem.New("rule_invalid", problem.Usage, "expiry: %w", err)
		}
		if text.Expires = t; !t.After(r.now()) {
			return policy.Rule{}, problem.New("rule_invalid", problem.Usage, "the rule expires in the past (%s)", c.Expires)
		}
	}
	source := fmt.Sprintf("%s, %s", actor(c.Actor), r.now().UTC().Format(time.RFC3339))
	rule, err := policy.ParseRule(text.String(), policy.Session, source)
	if err != nil {
		return policy.Rule{}, problem.New("rule_invalid", problem.Usage, "%w", err)
	}
	var session []policy.Rule
	if c.Remove {
		session = slices.DeleteFunc(slices.Clone(r.session), func(s policy.Rule) bool { return s.Text == rule.Text })
		if len(session) == len(r.session) {
			return policy.Rule{}, problem.New("rule_not_found", problem.NotFound, "no live rule %q", rule.Text)
		}
	} else {
		session = policy.Upsert(slices.Clone(r.session), rule)
	}
	doc := policy.Document{Rules: session, Settings: r.document.Settings}
	data, err := policy.EncodeDocument(doc)
	if err != nil {
		return policy.Rule{}, err
	}
	if err := state.WriteFile(sandbox.SessionPath(r.dir), data); err != nil {
		return policy.Rule{}, err
	}
	r.session = session
	r.swap()
	return rule, nil
}

func actor(name string) string {
	if name == "" {
		return "operator"
	}
	return name
}

// setPosture writes the desired posture, then applies it.
func (r *rules) setPosture(c control.PostureChange) error {
	if !slices.Contains([]control.Posture{control.Up, control.Down, control.DownAll, control.Quarantine}, c.Posture) {
		return problem.New("posture_invalid", problem.Usage, "posture %q is not up, down, down-all or quarantine", c.Posture)
	}
	d := desired{Posture: c.Posture, Reason: c.Reason, Actor: actor(c.Actor)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.Seconds > 0 {
		d.Until = r.now().Add(time.Duration(c.Seconds) * time.Second).UTC()
	}
	if err := state.WriteJSON(sandbox.PosturePath(r.dir), d); err != nil {
		return err
	}
	r.desired = d
	if _, err := readPosture(sandbox.PosturePath(r.dir)); err == nil && r.broken != nil {
		r.read() // a torn posture file was the reason
	}
	r.swap()
	return nil
}

// reload reads everything from disk again.
func (r *rules) reload() error {
	r.mu.Lock()
	r.read()
	r.swap()
	err := r.broken
	r.mu.Unlock()
	r.recheck()
	return err
}

// follow keeps the host's own addresses current until ctx ends: a laptop moves between networks
// while its containers run. Polling costs one netlink dump; address notices would need a thread.
func (r *rules) follow(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		hosts, err := hostAddrs()
		if err != nil {
			continue // the last known stay
		}
		r.mu.Lock()
		same := slices.Equal(hosts, r.hosts) && !r.blind
		if !same {
			r.hosts, r.blind = hosts, false
			r.swap()
		}
		r.mu.Unlock()
		if !same {
			r.recheck()
		}
	}
}

func hostAddrs() ([]netip.Addr, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				out = append(out, ip.Unmap())
			}
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, nil
}
