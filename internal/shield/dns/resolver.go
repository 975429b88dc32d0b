package dns

import (
	"bytes"
	"context"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	mdns "github.com/miekg/dns"

	"terok/internal/audit"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/text"
)

// Counters are exact, also where ledger lines are folded.
type Counters struct {
	Queries   atomic.Uint64 // messages taken for a query
	Refused   atomic.Uint64 // answered without what was asked for, because of policy or a limit
	Forwarded atomic.Uint64 // queries that needed upstream
	Limited   atomic.Uint64 // over a rate, a cap or a bound
	Malformed atomic.Uint64
}

// Limits bound what one container can make the resolver do. Zero values mean the defaults.
//
// The rate counts queries that cost something: a name that is new here, or a question for
// upstream. What is answered from memory (a name asked again, a denied, local or malformed one)
// is not in it: five hundred programs that start at once with one name must all get an answer.
type Limits struct {
	Rate         float64 // queries per second, 50
	Burst        int     // 200
	Upstream     int     // queries to upstream at one time, 64
	Waiting      int     // queries that wait for the same answers as those, 512
	TunnelRate   float64 // bytes per second of names sent upstream that no rule names exactly, 64
	TunnelBurst  int     // bytes, 8192
	Streams      int     // TCP connections at one time, 32
	EventsMinute int     // ledger lines per minute, the rest is folded, 30
}

func (l Limits) orDefault() Limits {
	set(&l.Rate, 50)
	set(&l.Burst, 200)
	set(&l.Upstream, 64)
	set(&l.Waiting, 512)
	set(&l.TunnelRate, 64)
	set(&l.TunnelBurst, 8192)
	set(&l.Streams, 32)
	set(&l.EventsMinute, 30)
	return l
}

func set[T int | float64](v *T, def T) {
	if *v <= 0 {
		*v = def
	}
}

// maxTXT bounds the text that comes in by one TXT answer, in bytes.
const maxTXT = 1024

// Resolver answers the container. All fields but Routed, Hostname, Limits and Now are needed; they
// do not change once it serves.
type Resolver struct {
	Policy   func() *policy.Policy // the current policy
	Table    *Table
	Lookup   *Lookup  // addresses of allowed names; shared with the proxy, so that its dial finds them
	Upstream Upstream // other types of allowed names
	Record   audit.Recorder
	Routed   func(name string) bool // names that the vault answers for; they resolve without upstream
	// Resolved is told of each answer with an address that policy lets the container reach, before
	// it is sent. It must not block for long. nil: nobody wants to know.
	Resolved func(name string, a netip.Addr)
	IPv6     bool   // AAAA is answered like A, with addresses of V6Range
	Hostname string // the container's own name
	Limits   Limits
	Now      func() time.Time // nil: time.Now
	Counters Counters

	once     sync.Once
	limits   Limits
	rate     *bucket
	tunnel   *bucket
	events   *folder
	upstream chan struct{} // a place for each query to upstream
	waiting  chan struct{} // and for each that waits with it
	host     string
}

// prepare derives the private fields once, from whichever Serve comes first.
func (r *Resolver) prepare() {
	r.once.Do(func() {
		if r.Now == nil {
			r.Now = time.Now
		}
		if r.Record == nil {
			r.Record = audit.Discard
		}
		r.limits = r.Limits.orDefault()
		now := r.Now()
		r.rate = newBucket(r.limits.Rate, r.limits.Burst, now)
		r.tunnel = newBucket(r.limits.TunnelRate, r.limits.TunnelBurst, now)
		r.events = newFolder(r.Record, r.limits.EventsMinute)
		r.upstream = make(chan struct{}, r.limits.Upstream)
		r.waiting = make(chan struct{}, r.limits.Waiting)
		r.host = strings.ToLower(r.Hostname)
	})
}

// answer is what handle decided: an answer that is ready, or work that has to wait for upstream.
type answer struct {
	none bool   // nothing is sent
	wire []byte // ready
	// wait makes the answer to query, of at most size bytes. It blocks; its caller gives the place
	// that was taken for it back.
	wait  waiter
	place chan struct{}
	query *query // a copy
}

// handle judges one message. out is the buffer for an answer that is ready. The message may be
// overwritten after the call.
func (r *Resolver) handle(msg, out []byte) answer {
	var q query
	switch parseQuery(msg, &q) {
	case dropped:
		r.badMessage(&q, "no query: too short, or an answer")
		return answer{none: true}
	case malformed:
		r.Counters.Queries.Add(1)
		r.badMessage(&q, "the message is not a plain query")
		q.question, q.edns = nil, false
		return ready(out, &q, &reply{rcode: mdns.RcodeFormatError})
	}
	r.Counters.Queries.Add(1)
	now := r.Now()
	p := r.Policy()
	rep := reply{rr: make([]byte, 0, 64)}
	switch {
	case p == nil || p.Posture() == policy.Quarantine:
		rep.rcode = mdns.RcodeRefused
	case q.opcode != mdns.OpcodeQuery:
		rep.rcode = mdns.RcodeNotImplemented
	case q.version != 0:
		rep.rcode = mdns.RcodeBadVers
	case q.qclass != mdns.ClassINET:
		rep.rcode = mdns.RcodeRefused
	case q.badName:
		r.badMessage(&q, "the name has bytes outside of [a-z0-9_-]")
		rep.rcode = mdns.RcodeFormatError
	default:
		if wait, place := r.judge(&q, &rep, p, now); wait != nil {
			own := q
			own.question = bytes.Clone(q.question)
			return answer{wait: wait, place: place, query: &own}
		}
	}
	if rep.rcode != mdns.RcodeSuccess && !rep.foreign {
		r.Counters.Refused.Add(1)
	}
	return ready(out, &q, &rep)
}

func ready(out []byte, q *query, rep *reply) answer {
	return answer{wire: appendReply(out[:0], q, rep)}
}

// waiter answers a query with the help of upstream, in at most size bytes.
type waiter func(ctx context.Context, q *query, size int) []byte

// judge answers a sound question of class IN, or returns the work that needs upstream and the
// kind of place that was taken for it.
func (r *Resolver) judge(q *query, rep *reply, p *policy.Policy, now time.Time) (waiter, chan struct{}) {
	switch q.qtype {
	case mdns.TypePTR:
		r.pointer(q, rep)
		return nil, nil
	case mdns.TypeA, mdns.TypeAAAA, mdns.TypeHTTPS, mdns.TypeSVCB, mdns.TypeANY, mdns.TypeMX, mdns.TypeSRV,
		mdns.TypeTXT, mdns.TypeNS, mdns.TypeCAA, mdns.TypeSOA, mdns.TypeCNAME:
	default: // AXFR, IXFR, NULL and everything unknown
		r.blocked(q, "type is not served", now)
		rep.rcode = mdns.RcodeRefused
		return nil, nil
	}
	if r.local(q, rep) {
		return nil, nil
	}
	if r.Routed != nil && r.Routed(q.name) {
		// The vault dials its upstream itself; policy may well deny the name to everybody else.
		r.synthetic(q, rep, true, now)
		return nil, nil
	}
	class := p.Name(q.name, now)
	switch class {
	case policy.Refused:
		rep.rcode, rep.ede = mdns.RcodeNameError, edeDenied
		r.events.add(audit.Event{Ev: "name_denied", Actor: "workload", Name: q.name, Proto: "dns", Verdict: "deny", Detail: typeDetail(q)}, q.name, now, foldTime)
		return nil, nil
	case policy.Local:
		r.blocked(q, "a local or metadata name", now)
		rep.rcode = mdns.RcodeNameError
		return nil, nil
	case policy.Listed:
		return r.listed(q, rep, p, now)
	}
	r.blocked(q, "no rule names it: nothing was sent upstream", now)
	r.synthetic(q, rep, false, now)
	if q.qtype != mdns.TypeA {
		r.Counters.Refused.Add(1)
	}
	return nil, nil
}

// synthetic answers without upstream: the name's own address for A (and AAAA with IPv6), HINFO for
// ANY (RFC 8482 §4.2), no data for everything else. No data for HTTPS and SVCB keeps address hints,
// foreign addresses and ECH keys out of the container.
func (r *Resolver) synthetic(q *query, rep *reply, pinned bool, now time.Time) {
	switch {
	case r.addressed(q):
		if !r.Table.Has(q.name) && !r.spend(rep, now) {
			return
		}
		r.addAddress(q, rep, pinned)
	case q.qtype == mdns.TypeANY:
		rep.add(mdns.TypeHINFO, hinfoTTL, []byte("\x07RFC8482\x00"))
	}
}

// addressed tells whether a question is for an address of a family that names have here.
func (r *Resolver) addressed(q *query) bool {
	return q.qtype == mdns.TypeA || q.qtype == mdns.TypeAAAA && r.IPv6
}

// addAddress answers with the name's own address.
func (r *Resolver) addAddress(q *query, rep *reply, pinned bool) {
	a, _ := r.Table.Addr(q.name, pinned)
	if pinned && r.Resolved != nil {
		r.Resolved(q.name, a)
	}
	if q.qtype == mdns.TypeAAAA {
		a = V6(a)
	}
	rep.add(q.qtype, answerTTL, a.AsSlice())
}

// spend takes one query from the rate, or refuses.
func (r *Resolver) spend(rep *reply, now time.Time) bool {
	if r.rate.take(1, now) {
		return true
	}
	r.limited("more queries than the rate allows", now)
	rep.rcode, rep.ede = mdns.RcodeRefused, edeBlocked
	return false
}

// listed handles a name that may be sent upstream.
func (r *Resolver) listed(q *query, rep *reply, p *policy.Policy, now time.Time) (waiter, chan struct{}) {
	work := r.forward
	switch {
	case r.addressed(q):
		work = r.resolve
		switch state, err := r.Lookup.peek(q.name); state {
		case known:
			r.like(q, rep, err)
			return nil, nil
		case asked:
			return r.take(r.waiting, work, rep, now)
		}
	case q.qtype == mdns.TypeAAAA, q.qtype == mdns.TypeHTTPS, q.qtype == mdns.TypeSVCB, q.qtype == mdns.TypeANY:
		r.synthetic(q, rep, true, now)
		return nil, nil
	}
	if !r.spend(rep, now) {
		return nil, nil
	}
	// Below a wildcard the container chooses the labels, and whoever serves the zone reads them: a
	// slow channel is left, as everywhere where names resolve, a fast one is not.
	if !p.Exact(q.name, now) && !r.tunnel.take(len(q.name), now) {
		r.limited("more different names below a wildcard than the tunnel cap allows", now)
		rep.rcode, rep.ede = mdns.RcodeRefused, edeBlocked
		return nil, nil
	}
	w, place := r.take(r.upstream, work, rep, now)
	if w != nil && r.addressed(q) {
		r.Lookup.begin(q.name) // here, so that the next query for it sees that it is asked
	}
	return w, place
}

// take takes a place for work, or answers SERVFAIL when too much waits already.
func (r *Resolver) take(place chan struct{}, w waiter, rep *reply, now time.Time) (waiter, chan struct{}) {
	select {
	case place <- struct{}{}:
		return w, place
	default:
		r.limited("too many queries wait for upstream", now)
		rep.rcode = mdns.RcodeServerFailure
		return nil, nil
	}
}

// like answers a question for an address as the host's resolvers did, but for the address.
func (r *Resolver) like(q *query, rep *reply, err error) {
	switch e := err.(type) {
	case nil:
		r.addAddress(q, rep, true)
	case *LookupError:
		rep.rcode, rep.foreign = e.Rcode, true
	default:
		rep.rcode, rep.foreign = mdns.RcodeServerFailure, true
	}
}

// resolve answers a question for an address of a listed name.
func (r *Resolver) resolve(ctx context.Context, q *query, _ int) []byte {
	r.Counters.Forwarded.Add(1)
	var rep reply
	_, err := r.Lookup.LookupHost(ctx, q.name)
	r.like(q, &rep, err)
	return appendReply(nil, q, &rep)
}

// forward asks upstream for another type and passes on the records that are about the name.
func (r *Resolver) forward(ctx context.Context, q *query, size int) []byte {
	r.Counters.Forwarded.Add(1)
	m, err := r.Upstream.Exchange(ctx, freshQuery(mdns.Question{Name: q.name + ".", Qtype: q.qtype, Qclass: mdns.ClassINET}))
	if err != nil {
		return appendReply(nil, q, &reply{rcode: mdns.RcodeServerFailure})
	}
	records := chain(m, q.name, q.qtype)
	if textBytes(records) > maxTXT {
		// Not cut: half a set of records would be another answer than the zone's.
		r.Counters.Refused.Add(1)
		return appendReply(nil, q, &reply{ede: edeBlocked})
	}
	out := new(mdns.Msg)
	out.Id, out.Response, out.RecursionDesired, out.RecursionAvailable = q.id, true, q.rd, true
	out.Rcode = m.Rcode
	out.Compress = true
	out.Question = []mdns.Question{{Name: q.spelled(), Qtype: q.qtype, Qclass: q.qclass}}
	out.Answer = records
	if q.edns {
		out.SetEdns0(maxReply, false)
	}
	out.Truncate(size)
	wire, err := out.Pack()
	if err != nil {
		return appendReply(nil, q, &reply{rcode: mdns.RcodeServerFailure})
	}
	return wire
}

// spelled is the question's name in the case in which it was asked. Its bytes are name bytes.
func (q *query) spelled() string {
	var b strings.Builder
	for at := 0; at < len(q.question) && q.question[at] != 0; {
		n := int(q.question[at])
		b.Write(q.question[at+1 : at+1+n])
		b.WriteByte('.')
		at += 1 + n
	}
	if b.Len() == 0 {
		return "."
	}
	return b.String()
}

func textBytes(records []mdns.RR) int {
	n := 0
	for _, rr := range records {
		if t, ok := rr.(*mdns.TXT); ok {
			for _, s := range t.Txt {
				n += len(s)
			}
		}
	}
	return n
}

// local answers the names that mean this container and its host, and the root.
func (r *Resolver) local(q *query, rep *reply) bool {
	var v4 netip.Addr
	switch {
	case q.name == "":
		return true // no data: the root has nothing that a container needs
	case q.name == "localhost" || strings.HasSuffix(q.name, ".localhost"):
		if q.qtype == mdns.TypeAAAA {
			v6 := netip.IPv6Loopback().As16()
			rep.add(mdns.TypeAAAA, answerTTL, v6[:])
			return true
		}
		v4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case r.host != "" && q.name == r.host:
		if q.qtype == mdns.TypeAAAA && r.IPv6 {
			rep.add(mdns.TypeAAAA, answerTTL, netip.MustParseAddr(sandbox.GuestAddr6).AsSlice())
			return true
		}
		v4 = netip.MustParseAddr(sandbox.GuestAddr)
	case q.name == policy.HostName:
		if r.addressed(q) {
			r.addAddress(q, rep, true)
		}
		return true
	default:
		return false
	}
	if q.qtype == mdns.TypeA {
		b := v4.As4()
		rep.add(mdns.TypeA, answerTTL, b[:])
	}
	return true
}

func (r *Resolver) blocked(q *query, reason string, now time.Time) {
	r.events.add(audit.Event{
		Ev: "name_blocked", Actor: "workload", Name: q.name, Proto: "dns", Reason: reason, Detail: typeDetail(q),
	}, q.name, now, foldTime)
}

func (r *Resolver) limited(reason string, now time.Time) {
	r.Counters.Limited.Add(1)
	r.events.add(audit.Event{Ev: "dns_rate", Actor: "workload", Proto: "dns", Reason: reason}, "", now, limitFold)
}

// badMessage records a malformed message. Its bytes are shown, never taken for a name: labels that
// spell a sentence must not put a name beside an address (spec: shield.md, test 29).
func (r *Resolver) badMessage(q *query, reason string) {
	r.Counters.Malformed.Add(1)
	e := audit.Event{Ev: "dns_malformed", Actor: "workload", Proto: "dns", Reason: reason}
	if q.name != "" {
		e.Detail = map[string]string{"bytes": text.Line(q.name, 0)}
	}
	r.events.add(e, "", r.Now(), limitFold)
}

func typeDetail(q *query) map[string]string {
	name, ok := mdns.TypeToString[q.qtype]
	if !ok {
		name = "TYPE" + strconv.Itoa(int(q.qtype))
	}
	return map[string]string{"type": name}
}
