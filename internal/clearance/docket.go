package clearance

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/shield/policy"
	"terok/internal/text"
)

// Bounds of one container's requests (spec: shield.md §7.2, §8.3).
const (
	maxOpen      = 40
	maxPerMinute = 10
	maxClosed    = 64               // decided and ended ones that are remembered
	maxSample    = 8                // names that a flood shows
	maxReason    = 200              // of an agent, in bytes
	life         = 10 * time.Minute // of a request without new attempts
	onceFor      = 15 * time.Minute // ChoiceOnce
	muteFor      = time.Hour        // ChoiceDeny
	publishEvery = 500 * time.Millisecond
)

// Attempt is one connection, or one question of an agent, that no rule allows.
type Attempt struct {
	Target
	Kind       control.RequestKind
	Own        string   // of a mismatch: the connection's own name
	NameSource string   // dns, sni, host or none
	Risk       []string // of the host, for the person
	Reason     string   // what the agent says; untrusted
	// Process finds out who it is inside the container, "" for unknown. It is asked when the attempt
	// would become a new request, and may take some milliseconds. nil: nobody knows.
	Process func() string
}

// Config is what a Docket depends on. All functions are required; they are called by several
// goroutines.
type Config struct {
	Key, Project, Task string
	Generation         int           // of the worker: ids of an earlier one are not valid
	Hold               time.Duration // how long a connection waits; 0: not at all
	Now                func() time.Time

	// Judge says what policy decides about a target when somebody can be asked. Only Ask makes or
	// keeps a request.
	Judge func(t Target) policy.Verdict
	// Grant makes a session rule; source says by whom. When it fails nothing has changed.
	Grant func(rule string, expires time.Time, source string) (canonical string, err error)
	// Revoke takes a rule of Grant away. It fails when that very rule, text and source, is not
	// there any more.
	Revoke func(rule, source string) error
	// Settle applies changed policy to live connections.
	Settle func()
	// CanAsk is told when the first of those who can answer comes and when the last goes.
	CanAsk func(bool)
	// Publish hands out a changed request and returns its number in the stream.
	Publish func(control.Request) uint64
	Record  func(audit.Event)
}

// Docket holds the requests of one container. Close it when the container ends.
type Docket struct {
	cfg   Config
	nonce [16]byte      // in every hash: a verdict on what an earlier worker showed is stale
	wake  chan struct{} // one token: Sweep has something to do earlier than it said

	mu        sync.Mutex
	made      int
	open      map[Target]*entry // also while a verdict is being applied
	byID      map[string]*entry
	closed    []*entry // oldest first
	flood     *entry   // nil: none
	births    []time.Time
	asked     []time.Time // by the agent
	answerers int
	ended     bool
}

type entry struct {
	r         control.Request
	target    Target
	matter    bool   // its verdict makes no rule
	source    string // of the rule that its verdict made
	waiters   map[*waiter]struct{}
	decided   chan struct{} // closed when it is not open any more
	dirty     bool          // changed since it was published
	published time.Time
}

// waiter is a held connection.
type waiter struct {
	done     chan struct{}
	deadline time.Time
}

// New makes a Docket.
func New(cfg Config) *Docket {
	d := &Docket{cfg: cfg, wake: make(chan struct{}, 1), open: map[Target]*entry{}, byID: map[string]*entry{}}
	_, _ = rand.Read(d.nonce[:]) // never fails
	return d
}

// Refused counts an attempt that was refused.
func (d *Docket) Refused(a Attempt) {
	d.note(a)
}

// Hold counts an attempt and keeps it waiting until a verdict, a change of policy, the hold's
// end, the going of the last who can answer, or ctx's end, whichever is first. Then it is time to
// judge it again.
func (d *Docket) Hold(ctx context.Context, a Attempt) {
	e := d.note(a)
	if e == nil {
		return
	}
	w := d.wait(e)
	if w == nil {
		return
	}
	select {
	case <-w.done:
	case <-ctx.Done():
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, waits := e.waiters[w]; waits {
		d.release(e, w)
		d.touch(e)
	}
}

// wait registers a held connection; nil when there is nothing to wait for.
func (d *Docket) wait(e *entry) *waiter {
	d.mu.Lock()
	defer d.mu.Unlock()
	pending := e.r.State == control.RequestOpen || e.r.State == control.RequestApplying
	if d.answerers == 0 || d.cfg.Hold <= 0 || !pending {
		return nil
	}
	w := &waiter{done: make(chan struct{}), deadline: d.cfg.Now().Add(d.cfg.Hold)}
	e.waiters[w] = struct{}{}
	e.r.Held = len(e.waiters)
	d.touch(e)
	d.poke()
	return w
}

// note counts an attempt. The entry is nil when policy does not ask about the target, or when the
// attempt was folded into a flood.
func (d *Docket) note(a Attempt) *entry {
	process := d.identify(a)
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.cfg.Now()
	if e := d.open[a.Target]; e != nil {
		e.r.Count++
		d.see(e, now)
		if reason := text.Line(a.Reason, maxReason); a.Reason != "" && reason != e.r.Reason {
			e.r.Reason = reason
			e.r.Hash = d.hash(e)
		}
		d.touch(e)
		return e
	}
	// A verdict may have been applied since the caller asked policy; and what a rule decides, the
	// deny tier and the floor above all, is nobody's to answer.
	if d.ended || !a.Target.exact() || d.cfg.Judge(a.Target) != policy.Ask {
		return nil
	}
	if !d.admit(now) {
		d.fold(a, now)
		return nil
	}
	e := d.birth(a.Target, a.Kind, now)
	e.r.NameSource, e.r.Reason, e.r.Process = a.NameSource, text.Line(a.Reason, maxReason), process
	if e.r.Risk = slices.Clone(a.Risk); a.Own != "" {
		e.r.Names = []string{text.Line(a.Own, 0)}
	}
	e.r.Choices = d.choices(a.Target)
	d.open[a.Target] = e
	e.r.Hash = d.hash(e)
	d.record(e, "")
	d.publish(e)
	return e
}

// identify names the process of an attempt that would be a new request, "" for unknown. It is asked
// before there is a request, so that people and ledger read of both at once, and without the lock:
// somebody searches /proc for it.
func (d *Docket) identify(a Attempt) string {
	if a.Process == nil {
		return ""
	}
	d.mu.Lock()
	fresh := !d.ended && d.open[a.Target] == nil && a.Target.exact() && d.room(d.cfg.Now()) && d.cfg.Judge(a.Target) == policy.Ask
	d.mu.Unlock()
	if !fresh {
		return ""
	}
	return text.Line(a.Process(), 64)
}

// room tells whether there may be one more request now.
func (d *Docket) room(now time.Time) bool {
	d.births = slices.DeleteFunc(d.births, func(t time.Time) bool { return now.Sub(t) >= time.Minute || t.After(now) })
	return len(d.open) < maxOpen && len(d.births) < maxPerMinute
}

// admit takes the place of one more request, if there is room.
func (d *Docket) admit(now time.Time) bool {
	if !d.room(now) {
		return false
	}
	d.births = append(d.births, now)
	return true
}

// fold counts an attempt that is not shown by itself.
func (d *Docket) fold(a Attempt, now time.Time) {
	e := d.flood
	if e == nil {
		e = d.birth(Target{}, control.Flood, now)
		e.r.Count, e.r.NameSource, e.r.Choices = 0, "none", []control.Choice{}
		e.r.Hash = d.hash(e)
		d.flood = e
		defer func() { d.record(e, ""); d.publish(e) }()
	}
	e.r.Count++
	d.see(e, now)
	if name := text.Line(a.Host, 0); len(e.r.Names) < maxSample && !slices.Contains(e.r.Names, name) {
		e.r.Names = append(slices.Clone(e.r.Names), name)
	}
	d.touch(e)
}

// birth makes an entry with the first attempt counted.
func (d *Docket) birth(t Target, kind control.RequestKind, now time.Time) *entry {
	d.made++
	id := "r" + strconv.Itoa(d.made)
	if d.cfg.Generation > 0 {
		id = fmt.Sprintf("r%d-%d", d.cfg.Generation, d.made)
	}
	e := &entry{target: t, waiters: map[*waiter]struct{}{}, decided: make(chan struct{})}
	e.r = control.Request{ID: id, Key: d.cfg.Key, Project: d.cfg.Project, Task: d.cfg.Task, Kind: kind,
		State: control.RequestOpen, Host: t.Host, Port: t.Port, Proto: t.Proto, Tier: policy.Default.String(),
		Count: 1, FirstSeen: now.UTC()}
	d.see(e, now)
	d.byID[id] = e
	d.poke()
	return e
}

func (d *Docket) see(e *entry, now time.Time) {
	e.r.LastSeen, e.r.ExpiresAt = now.UTC(), now.Add(life).UTC()
}

// hash is over everything that a person decides by. A verdict that quotes it was given on what
// is asked now.
func (d *Docket) hash(e *entry) string {
	h := sha256.New()
	h.Write(d.nonce[:])
	for _, s := range append([]string{e.r.ID, e.r.Key, string(e.r.Kind), e.r.Host, strconv.Itoa(int(e.r.Port)), e.r.Proto,
		e.r.NameSource, e.r.Tier, e.r.Reason, e.r.Process}, e.r.Names...) {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Requests lists the requests: open ones first, oldest first, then those that were decided or
// ended, latest first.
func (d *Docket) Requests() []control.Request {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]control.Request, 0, len(d.byID))
	live := slices.SortedFunc(maps.Values(d.open), func(a, b *entry) int {
		if c := a.r.FirstSeen.Compare(b.r.FirstSeen); c != 0 {
			return c
		}
		return a.number() - b.number()
	})
	if d.flood != nil {
		live = append(live, d.flood)
	}
	for _, e := range live {
		out = append(out, e.copy())
	}
	for _, e := range slices.Backward(d.closed) {
		out = append(out, e.copy())
	}
	return out
}

// number is the order in which entries were made.
func (e *entry) number() int {
	id := e.r.ID[1:]
	if i := slices.Index([]byte(id), '-'); i >= 0 {
		id = id[i+1:]
	}
	n, _ := strconv.Atoi(id)
	return n
}

// copy is the request as it is now, sharing nothing that changes.
func (e *entry) copy() control.Request {
	r := e.r
	if r.Decision != nil {
		dec := *r.Decision
		r.Decision = &dec
	}
	return r
}

// Answer says that there is somebody who can answer, until stop.
func (d *Docket) Answer() (stop func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.answerers++; d.answerers == 1 && !d.ended {
		d.cfg.CanAsk(true)
	}
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.answerers--; d.answerers == 0 && !d.ended {
			d.cfg.CanAsk(false)
			d.releaseAll()
		}
	})
}

// Recheck ends the requests that policy, which has changed, decides by itself now.
func (d *Docket) Recheck() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, e := range d.open {
		if e.r.State == control.RequestOpen && !d.stands(e) {
			d.finish(e, control.RequestSuperseded)
		}
	}
}

// Close cancels everything that is open; nothing becomes a request any more.
func (d *Docket) Close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ended = true
	for _, e := range d.open {
		if e.r.State == control.RequestOpen {
			d.finish(e, control.RequestCancelled)
		}
	}
	if d.flood != nil {
		d.finish(d.flood, control.RequestCancelled)
	}
	d.releaseAll()
}

// finish ends an entry: nobody waits for it any more.
func (d *Docket) finish(e *entry, s control.RequestState) {
	e.r.State = s
	if d.flood == e {
		d.flood = nil
	} else {
		delete(d.open, e.target)
	}
	for w := range e.waiters {
		d.release(e, w)
	}
	select {
	case <-e.decided:
	default:
		close(e.decided)
	}
	d.closed = append(d.closed, e)
	if over := len(d.closed) - maxClosed; over > 0 {
		for _, old := range d.closed[:over] {
			delete(d.byID, old.r.ID)
		}
		d.closed = slices.Clone(d.closed[over:])
	}
	if s != control.RequestApplied { // its line is the verdict
		d.record(e, string(s))
	}
	d.publish(e)
}

func (d *Docket) release(e *entry, w *waiter) {
	delete(e.waiters, w)
	close(w.done)
	e.r.Held = len(e.waiters)
}

// releaseAll lets every held connection be judged again.
func (d *Docket) releaseAll() {
	for _, e := range d.open {
		for w := range e.waiters {
			d.release(e, w)
			d.touch(e)
		}
	}
}

// touch notes a change of numbers; they are published twice a second at most.
func (d *Docket) touch(e *entry) {
	if d.cfg.Now().Sub(e.published) >= publishEvery {
		d.publish(e)
		return
	}
	if !e.dirty {
		e.dirty = true
		d.poke()
	}
}

func (d *Docket) publish(e *entry) {
	e.dirty, e.published = false, d.cfg.Now()
	e.r.Seq = d.cfg.Publish(e.copy())
}

// record writes a request's beginning, or its end without a verdict, into the ledger.
func (d *Docket) record(e *entry, end string) {
	ev := e.event("request")
	ev.Actor, ev.Verdict, ev.Scope, ev.Count = "workload", "ask", end, e.r.Count
	if end != "" {
		ev.Actor = "auto"
	}
	ev.Reason = e.r.Reason
	d.cfg.Record(ev)
}

// event starts a line of the ledger about the entry.
func (e *entry) event(name string) audit.Event {
	ev := audit.Event{Ev: name, RequestID: e.r.ID, Port: e.r.Port, Proto: e.r.Proto, NameSource: e.r.NameSource,
		Tier: e.r.Tier, Detail: map[string]string{"kind": string(e.r.Kind)}}
	if _, err := netip.ParseAddr(e.r.Host); err == nil {
		ev.IP = e.r.Host
	} else {
		ev.Name = e.r.Host
	}
	if len(e.r.Names) > 0 && e.r.Kind == control.NameMismatch {
		ev.Detail["own"] = e.r.Names[0]
	}
	if e.r.Process != "" {
		ev.Detail["process"] = e.r.Process
	}
	return ev
}

func (d *Docket) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}
