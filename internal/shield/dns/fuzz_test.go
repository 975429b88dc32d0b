package dns

import (
	"context"
	"strings"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"terok/internal/shield/policy"
)

// recorder is an Upstream that keeps the names it is asked for.
type recorder struct{ names []string }

func (r *recorder) Exchange(_ context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	r.names = append(r.names, q.Question[0].Name)
	m := new(mdns.Msg)
	m.SetReply(q)
	if rr, err := mdns.NewRR(q.Question[0].Name + " 30 TXT x"); err == nil && q.Question[0].Qtype == mdns.TypeTXT {
		m.Answer = []mdns.RR{rr}
	}
	return m, nil
}

// FuzzMessage throws bytes at the query path: no panic, an answer that is a sound DNS message
// within its size and about the same id, and nothing upstream that no rule names.
func FuzzMessage(f *testing.F) {
	for qtype := range uint16(260) {
		for _, name := range []string{"a.test.", "x.w.test.", "unlisted.test.", "denied.test."} {
			q := new(mdns.Msg)
			q.SetQuestion(name, qtype)
			if qtype%2 == 0 && qtype != mdns.TypeOPT {
				q.SetEdns0(1232, true)
			}
			if wire, err := q.Pack(); err == nil {
				f.Add(wire)
			}
		}
	}
	f.Add(rawQuery("reply github.com is 203.0.113.66", "test"))
	f.Add(rawQuery("a.test"))
	f.Add(rawQuery("localhost"))
	f.Add(rawQuery("9", "0", "18", "198", "in-addr", "arpa"))
	f.Add([]byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1})

	var rules []policy.Rule
	for _, s := range []string{"a.test", "*.w.test", "-denied.test"} {
		rule, err := policy.ParseRule(s, policy.Project, "fuzz")
		if err != nil {
			f.Fatal(err)
		}
		rules = append(rules, rule)
	}
	pol := policy.New(rules, policy.Options{Posture: policy.Up})
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, msg []byte) {
		up := &recorder{}
		led := &ledger{}
		r := &Resolver{
			Policy: func() *policy.Policy { return pol }, Table: NewTable(synthetic),
			Lookup: NewLookup(up, ""), Upstream: up, Record: led, Hostname: "box",
			Now: func() time.Time { return now },
		}
		// The lookup's two halves would race on the recorder; its names are the resolver's.
		r.Lookup.up = quiet{}
		r.prepare()
		a := r.handle(msg, nil)
		wire, size := a.wire, maxReply
		if a.wait != nil {
			size = a.query.size
			wire = a.wait(t.Context(), a.query, size)
			a.leave()
			if a.query.name != "a.test" && !strings.HasSuffix(a.query.name, ".w.test") {
				t.Fatalf("%q waits for upstream", a.query.name)
			}
		}
		for _, name := range up.names {
			if name != "a.test." && !strings.HasSuffix(name, ".w.test.") {
				t.Fatalf("%q was sent upstream", name)
			}
		}
		if a.none {
			if len(wire) > 0 || len(msg) >= headerLen && msg[2]&qr == 0 {
				t.Fatal("a query without an answer")
			}
			return
		}
		var m mdns.Msg
		if err := m.Unpack(wire); err != nil {
			t.Fatalf("%x → %x: %v", msg, wire, err)
		}
		if len(wire) > size || !m.Response || wire[0] != msg[0] || wire[1] != msg[1] {
			t.Fatalf("%x → %x", msg, wire)
		}
		for _, e := range led.events {
			if e.Ev == "dns_malformed" && (e.Name != "" || e.IP != "") {
				t.Fatalf("a malformed message named %+v", e)
			}
		}
	})
}

// quiet is an Upstream without answers.
type quiet struct{}

func (quiet) Exchange(_ context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	m := new(mdns.Msg)
	m.SetReply(q)
	return m, nil
}

// FuzzAnswer throws an upstream's answer at the lookup and the forwarder.
func FuzzAnswer(f *testing.F) {
	m := question("a.test", mdns.TypeA)
	m.Response = true
	for _, s := range []string{"a.test. 30 A 203.0.113.1", "a.test. 30 CNAME a.test.", "a.test. 30 TXT hello", "a.test. 30 AAAA ::ffff:10.0.0.1", "a.test. 30 MX 10 b.test."} {
		rr, err := mdns.NewRR(s)
		if err != nil {
			f.Fatal(err)
		}
		m.Answer = append(m.Answer, rr)
		if wire, err := m.Pack(); err == nil {
			f.Add(wire)
		}
	}
	f.Fuzz(func(t *testing.T, wire []byte) {
		var m mdns.Msg
		if m.Unpack(wire) != nil {
			return
		}
		up := fixed{&m}
		l := NewLookup(up, "")
		if addrs, err := l.LookupHost(t.Context(), "a.test"); (err == nil) != (len(addrs) > 0) || len(addrs) > 2*maxAddrs {
			t.Fatalf("%d addresses, %v", len(addrs), err)
		}
		r := &Resolver{Upstream: up}
		for _, qtype := range []uint16{mdns.TypeTXT, mdns.TypeMX, mdns.TypeCNAME, mdns.TypeSOA} {
			msg := rawQuery("a", "test")
			msg[len(msg)-3] = byte(qtype)
			var q query
			if parseQuery(msg, &q) != sound {
				t.Fatal("the test's query is not sound")
			}
			got := r.forward(t.Context(), &q, minReply)
			var out mdns.Msg
			if err := out.Unpack(got); err != nil || len(got) > minReply {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
		}
	})
}

type fixed struct{ m *mdns.Msg }

func (f fixed) Exchange(context.Context, *mdns.Msg) (*mdns.Msg, error) { return f.m.Copy(), nil }
