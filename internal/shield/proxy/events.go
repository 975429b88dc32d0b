package proxy

import (
	"net/netip"
	"strconv"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/shield/policy"
)

// Events of this package. All are folded: the first of a kind for one destination is recorded at
// once, further ones within 30 s are counted and recorded as one line per minute, whose Count says
// how many and whose bytes are their sum.
const (
	evAllowed  = "flow_allowed"  // connected; IP is the address that was dialled
	evBypass   = "flow_bypass"   // connected because the shield is down, by no rule
	evDenied   = "flow_denied"   // a rule, the floor or the posture refused
	evBlocked  = "flow_blocked"  // nothing allows it: a request may follow
	evPrivate  = "flow_private"  // a literal address that policy does not let be dialled
	evRebind   = "dns_rebind"    // an allowed name has such an address
	evMismatch = "name_mismatch" // Detail "second" is the name in SNI or Host
	evBadStart = "flow_malformed"
	evFailed   = "flow_failed" // allowed, but resolving or dialling failed
	evUnknown  = "flow_unknown"
	evLimit    = "limit"
	evCut      = "flow_cut"  // ended by a change of policy
	evOpen     = "flow_open" // once a minute while bytes flow; totals so far
	evEnd      = "flow_end"  // Detail "seconds"
	evBudget   = "budget"    // an egress budget is used up; bytes are those in its window
	evFlood    = "flood"     // more distinct destinations than are told apart
)

const (
	foldWindow = 30 * time.Second
	foldSweep  = time.Minute
	foldKeys   = 512
)

// ledger folds events before they are recorded.
type ledger struct {
	rec audit.Recorder
	now func() time.Time

	mu   *sync.Mutex
	open map[foldKey]*fold
}

type foldKey struct {
	ev, name, ip, extra string
	port                uint16
}

type fold struct {
	at      time.Time   // of the last recorded line
	pending audit.Event // sum of what is not recorded yet; Count 0: nothing
}

func newLedger(rec audit.Recorder, now func() time.Time) ledger {
	return ledger{rec: rec, now: now, mu: &sync.Mutex{}, open: map[foldKey]*fold{}}
}

// record takes one event. extra tells events apart that differ in nothing else.
func (l *ledger) record(e audit.Event, extra string) {
	e.Count = 1
	k := foldKey{ev: e.Ev, name: e.Name, port: e.Port, extra: extra}
	if e.Name == "" {
		k.ip = e.IP
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	f := l.open[k]
	if f == nil && len(l.open) >= foldKeys {
		l.expire(now)
		if len(l.open) >= foldKeys {
			k = foldKey{ev: evFlood}
			e = audit.Event{Ev: evFlood, Actor: "workload", Name: e.Name, IP: e.IP, Port: e.Port, Count: 1,
				BytesUp: e.BytesUp, BytesDown: e.BytesDown,
				Reason: "more destinations than are recorded one by one; this is a sample"}
			f = l.open[k]
		}
	}
	if f == nil {
		l.open[k] = &fold{at: now}
		l.rec.Record(e)
		return
	}
	if f.pending.Count > 0 {
		e.Count += f.pending.Count
		e.BytesUp += f.pending.BytesUp
		e.BytesDown += f.pending.BytesDown
	}
	if now.Sub(f.at) < foldWindow {
		f.pending = e
		return
	}
	f.at, f.pending = now, audit.Event{}
	l.rec.Record(e)
}

// expire forgets destinations that have been quiet.
func (l *ledger) expire(now time.Time) {
	for k, f := range l.open {
		if f.pending.Count == 0 && now.Sub(f.at) >= foldWindow {
			delete(l.open, k)
		}
	}
}

// flush records everything that is pending.
func (l *ledger) flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, f := range l.open {
		if f.pending.Count > 0 {
			l.rec.Record(f.pending)
			f.at, f.pending = now, audit.Event{}
		}
	}
	l.expire(now)
}

// sweep records folded events and the progress of live flows once a minute, until Close.
func (p *Proxy) sweep() {
	t := time.NewTicker(foldSweep)
	defer t.Stop()
	told := map[*flow]uint64{}
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-t.C:
		}
		now := map[*flow]uint64{}
		for _, f := range p.live() {
			if n := f.up.Load() + f.down.Load(); n > 0 {
				if now[f] = n; n != told[f] && f.started.Before(time.Now().Add(-foldSweep)) {
					p.ledger.record(f.totals(evOpen), strconv.FormatInt(f.started.UnixNano(), 36))
				}
			}
		}
		told = now
		p.ledger.flush()
	}
}

func (f *flow) totals(ev string) audit.Event {
	e := f.event(ev)
	e.BytesUp, e.BytesDown = f.up.Load(), f.down.Load()
	e.Detail = map[string]string{"seconds": strconv.FormatFloat(time.Since(f.started).Seconds(), 'f', 3, 64)}
	return e
}

// grounds adds what decided to e.
func grounds(e audit.Event, d policy.Decision) audit.Event {
	e.Verdict, e.Tier, e.Reason = d.Verdict.String(), d.Tier.String(), d.Reason
	if d.Rule != nil {
		e.Rule = d.Rule.Text
	}
	return e
}

func (p *Proxy) allowed(f *flow, d policy.Decision) {
	p.tally.allowed.Add(1)
	p.tally.name(f.key(), p.limits.Names, func(t *Traffic) { t.Flows++ })
	e := grounds(f.event(evAllowed), d)
	if d.Rule == nil && d.Tier == policy.Default { // the vault's way has a tier of its own
		e.Ev = evBypass
	}
	if f.proto == "udp" {
		e.Detail = map[string]string{"warning": "datagrams are relayed as they are: no name inside them is verified"}
	}
	p.ledger.record(e, "")
}

// ended accounts for a flow that was let through; what never connected leaves no end.
func (p *Proxy) ended(f *flow) {
	f.mu.Lock()
	connected, why := f.front || f.dialled.IsValid(), f.why
	up := f.upstream
	f.mu.Unlock()
	if up != nil {
		up.Close()
	}
	p.remove(f)
	if !connected {
		return
	}
	p.tally.name(f.key(), p.limits.Names, func(t *Traffic) {
		t.BytesUp += f.up.Load()
		t.BytesDown += f.down.Load()
	})
	e := f.totals(evEnd)
	if e.Reason = why; why != "" && why != "shutdown" {
		p.tally.cut.Add(1)
		c := f.event(evCut)
		c.Actor, c.Verdict, c.Reason = "auto", "deny", why
		p.ledger.record(c, "")
	}
	p.ledger.record(e, "")
}

func (p *Proxy) refusedName(f *flow) {
	p.tally.name(f.key(), p.limits.Names, func(t *Traffic) { t.Refused++ })
}

// denied accounts for a refusal by policy.
func (p *Proxy) denied(f *flow, d policy.Decision) {
	p.tally.denied.Add(1)
	p.refusedName(f)
	ev := evBlocked
	if d.Rule != nil || d.Tier == policy.Floor || f.broke {
		ev = evDenied
	}
	e := grounds(f.event(ev), d)
	e.Verdict = "deny" // also when nobody could be asked
	p.ledger.record(e, "")
	if ev == evBlocked && !f.held {
		p.refused(p.question(f))
	}
}

// mismatch accounts for a second name that policy does not allow. source is "sni" or "host".
func (p *Proxy) mismatch(f *flow, second, source string, r policy.Request, d policy.Decision) {
	e := grounds(f.event(evMismatch), d)
	e.NameSource, e.Detail = source, map[string]string{"second": second}
	if e.Verdict = "deny"; p.cfg.Verify == LogOnly {
		e.Verdict = "allow"
	} else {
		p.tally.mismatched.Add(1)
		p.refusedName(f)
	}
	p.ledger.record(e, second)
	if d.Rule == nil && d.Tier == policy.Default && p.cfg.Verify == Enforce {
		q := p.question(f)
		q.Request, q.Own, q.Source = r, f.key(), source
		p.refused(q)
	}
}

func (p *Proxy) malformed(f *flow, source string, err error) {
	p.tally.malformed.Add(1)
	p.refusedName(f)
	e := f.event(evBadStart)
	e.NameSource, e.Verdict, e.Reason = source, "deny", err.Error()
	p.ledger.record(e, "")
}

func (p *Proxy) private(f *flow, a netip.Addr, err error) {
	p.tally.private.Add(1)
	p.refusedName(f)
	e := f.event(evRebind)
	if f.name == "" {
		e.Ev = evPrivate
	}
	e.IP, e.Verdict, e.Reason = a.String(), "deny", err.Error()
	p.ledger.record(e, e.IP)
}

func (p *Proxy) failed(f *flow, err error) {
	p.tally.unreached.Add(1)
	e := f.event(evFailed)
	e.Reason = err.Error()
	p.ledger.record(e, "")
}

func (p *Proxy) unknown(f *flow, why string) {
	p.tally.unknown.Add(1)
	e := audit.Event{Ev: evUnknown, Actor: "workload", Proto: f.proto, Port: f.port, Verdict: "deny", Reason: why}
	if f.dst.IsValid() {
		e.IP = f.dst.Addr().String()
	}
	p.ledger.record(e, "")
	f.client.reset()
}

func (p *Proxy) overLimit(f *flow, what string) {
	p.tally.limited.Add(1)
	e := audit.Event{Ev: evLimit, Actor: "workload", Proto: f.proto, Verdict: "deny", Reason: "too many " + what}
	p.ledger.record(e, what)
	if f.client != nil {
		f.client.reset()
	}
}
