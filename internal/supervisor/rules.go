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

	"terok/internal/audit"
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
	recheck func()            // judges live connections again
	record  func(audit.Event) // into the ledger

	attached bool // recheck and record are set: the clock may run

	current atomic.Pointer[policy.Policy]
	asking  atomic.Pointer[policy.Policy] // the same, as if somebody could be asked

	mu       sync.Mutex
	document policy.Document
	session  []policy.Rule
	desired  control.Desired
	broken   error // why the state on disk cannot be used: quarantine
	tampered bool
	hosts    []netip.Addr
	unlogged error // the ledger must be written and cannot be
	canAsk   bool  // somebody can answer
	blind    bool  // the host's own addresses were never read: nothing can be told from the host
	timer    *time.Timer
	remarks  []audit.Event // about rules, not yet recorded
}

// newRules reads the state on disk. What cannot be read means quarantine and is reported by
// status, never an empty policy.
func newRules(dir string, tampered bool) *rules {
	r := &rules{dir: dir, now: time.Now, recheck: func() {}, record: func(audit.Event) {}, tampered: tampered}
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
	if r.desired, err = control.ReadDesired(sandbox.PosturePath(r.dir)); err != nil && r.broken == nil {
		r.broken = err
	}
	r.document, r.session = doc, r.settle(session.Rules, true)
	r.document.Rules = r.settle(doc.Rules, true)
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

// posture is what holds now. Called with the lock held.
func (r *rules) posture() control.Posture {
	switch {
	case r.broken != nil || r.tampered || r.blind || r.unlogged != nil:
		return control.Quarantine
	}
	return r.desired.At(r.now())
}

// swap makes the policy of this moment and a timer for the next expiry. Called with the lock held.
func (r *rules) swap() {
	all := append(slices.Clone(r.document.Rules), r.session...)
	opt := policy.Options{Posture: policy.Posture(r.posture()), HostAddrs: r.hosts, CanAsk: r.canAsk}
	p := policy.New(all, opt)
	opt.CanAsk = true
	r.asking.Store(p.WithOptions(opt))
	r.current.Store(p)
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	if !r.attached {
		return
	}
	next, ok := p.NextExpiry(r.now())
	// Wake at least every minute, and every second while a window is open: the timer is monotonic
	// and stops in suspend.
	most := time.Minute
	if u := r.desired.Until; !u.IsZero() {
		if most = time.Second; !ok || u.Before(next) {
			next, ok = u, true
		}
	}
	if ok {
		r.timer = time.AfterFunc(min(max(next.Sub(r.now()), 0)+time.Millisecond, most), r.expire)
	}
}

func (r *rules) expire() {
	r.mu.Lock()
	ended := r.lapse()
	r.document.Rules, r.session = r.settle(r.document.Rules, false), r.settle(r.session, false)
	r.swap()
	r.mu.Unlock()
	r.recheck()
	r.tell()
	if ended != nil {
		r.record(*ended)
	}
}

// attach says who is told when time changes something, and starts the clock.
func (r *rules) attach(recheck func(), record func(audit.Event)) {
	r.mu.Lock()
	r.recheck, r.record, r.attached = recheck, record, true
	r.swap()
	r.mu.Unlock()
	r.tell()
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
	return rule, r.store(session)
}

// store writes the live rules, then applies them. Called with the lock held.
func (r *rules) store(session []policy.Rule) error {
	data, err := policy.EncodeDocument(policy.Document{Rules: session, Settings: r.document.Settings})
	if err != nil {
		return err
	}
	if err := state.WriteFile(sandbox.SessionPath(r.dir), data); err != nil {
		return err
	}
	r.session = session
	r.swap()
	return nil
}

func actor(name string) string {
	if name == "" {
		return "operator"
	}
	return name
}

// reload reads everything from disk again.
func (r *rules) reload() error {
	r.mu.Lock()
	r.read()
	r.swap()
	err := r.broken
	r.mu.Unlock()
	r.recheck()
	r.tell()
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
