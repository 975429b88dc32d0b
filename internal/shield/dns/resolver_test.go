package dns

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	mdns "github.com/miekg/dns"

	"terok/internal/audit"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
)

// TestRows holds the table of spec shield.md §3.2, over UDP and TCP.
func TestRows(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	known, _ := r.Table.Addr("known.test", true)
	reverse, _ := mdns.ReverseAddr(known.String())
	foreign, _ := mdns.ReverseAddr("203.0.113.10")
	for _, c := range []struct {
		name  string
		qtype uint16
		rcode int
		want  string // type of the only answer, "synthetic", or "" for none
		asked string // what upstream sees, "" for nothing
	}{
		{"a.test", mdns.TypeA, 0, "synthetic", "A"},
		{"a.test", mdns.TypeAAAA, 0, "", ""},
		{"a.test", mdns.TypeHTTPS, 0, "", ""},
		{"a.test", mdns.TypeSVCB, 0, "", ""},
		{"a.test", mdns.TypeTXT, 0, "TXT", "TXT"},
		{"a.test", mdns.TypeMX, 0, "MX", "MX"},
		{"a.test", mdns.TypeNS, 0, "", "NS"},
		{"a.test", mdns.TypeCAA, 0, "", "CAA"},
		{"a.test", mdns.TypeSRV, 0, "", "SRV"},
		{"a.test", mdns.TypeSOA, 0, "", "SOA"},
		{"cname.test", mdns.TypeCNAME, 0, "CNAME", "CNAME"},
		{"cname.test", mdns.TypeA, 0, "synthetic", "A"},
		{"v6.test", mdns.TypeA, 0, "synthetic", "A"},
		{"nx.test", mdns.TypeA, mdns.RcodeNameError, "", "A"},
		{"nx.test", mdns.TypeTXT, mdns.RcodeNameError, "", "TXT"},
		{"fail.test", mdns.TypeA, mdns.RcodeServerFailure, "", "A"},
		{"nodata.test", mdns.TypeA, 0, "", "A"},
		{"x.w.test", mdns.TypeTXT, 0, "", "TXT"},
		{"db.corp.internal", mdns.TypeA, 0, "synthetic", "A"},
		{"a.test", mdns.TypeANY, 0, "HINFO", ""},
		{"unlisted.test", mdns.TypeA, 0, "synthetic", ""},
		{"unlisted.test", mdns.TypeAAAA, 0, "", ""},
		{"unlisted.test", mdns.TypeTXT, 0, "", ""},
		{"unlisted.test", mdns.TypeMX, 0, "", ""},
		{"unlisted.test", mdns.TypeANY, 0, "HINFO", ""},
		{"w.test", mdns.TypeA, 0, "synthetic", ""},
		{"x.a.test", mdns.TypeA, 0, "synthetic", ""},
		{"denied.test", mdns.TypeA, mdns.RcodeNameError, "", ""},
		{"x.deep.test", mdns.TypeTXT, mdns.RcodeNameError, "", ""},
		{"a.test", mdns.TypeNULL, mdns.RcodeRefused, "", ""},
		{"a.test", mdns.TypeDNSKEY, mdns.RcodeRefused, "", ""},
		{"a.test", 65280, mdns.RcodeRefused, "", ""},
		{"a.test", mdns.TypeIXFR, mdns.RcodeRefused, "", ""},
		{"nas", mdns.TypeA, mdns.RcodeNameError, "", ""},
		{"nas.local", mdns.TypeA, mdns.RcodeNameError, "", ""},
		{"metadata.google.internal", mdns.TypeA, mdns.RcodeNameError, "", ""},
		{"metadata.goog", mdns.TypeA, mdns.RcodeNameError, "", ""},
		{"localhost", mdns.TypeA, 0, "127.0.0.1", ""},
		{"x.localhost", mdns.TypeA, 0, "127.0.0.1", ""},
		{"localhost", mdns.TypeAAAA, 0, "AAAA", ""},
		{"localhost", mdns.TypeTXT, 0, "", ""},
		{"box", mdns.TypeA, 0, sandbox.GuestAddr, ""},
		{policy.HostName, mdns.TypeA, 0, "synthetic", ""},
		{policy.HostName, mdns.TypeAAAA, 0, "", ""},
		{"routed.test", mdns.TypeA, 0, "synthetic", ""},
		{"routed.test", mdns.TypeTXT, 0, "", ""},
		{reverse, mdns.TypePTR, 0, "PTR", ""},
		{foreign, mdns.TypePTR, mdns.RcodeNameError, "", ""},
		{"1.0.ip6.arpa", mdns.TypePTR, mdns.RcodeNameError, "", ""},
		{".", mdns.TypeNS, 0, "", ""},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(fmt.Sprintf("%s %s %s", c.name, mdns.TypeToString[c.qtype], network), func(t *testing.T) {
				r.clock.advance(10 * time.Minute) // fills the buckets, empties the cache
				before := len(r.world.questions())
				m := r.ask(network, question(c.name, c.qtype))
				if m.Rcode != c.rcode {
					t.Fatalf("rcode %s", mdns.RcodeToString[m.Rcode])
				}
				checkAnswer(t, r, m, c.name, c.want)
				for _, q := range r.world.questions()[before:] {
					if c.asked == "" || !strings.HasSuffix(q, " "+c.name+". "+c.asked) && !strings.HasSuffix(q, " "+c.name+". AAAA") {
						t.Errorf("upstream saw %s", q)
					}
				}
				if c.asked != "" && len(r.world.questions()) == before {
					t.Error("upstream was not asked")
				}
			})
		}
	}
}

func checkAnswer(t *testing.T, r *rig, m *mdns.Msg, name, want string) {
	t.Helper()
	if want == "" {
		if len(m.Answer) > 0 {
			t.Fatalf("answers %v", m.Answer)
		}
		return
	}
	if len(m.Answer) != 1 || len(m.Ns) > 0 {
		t.Fatalf("answers %v, authority %v", m.Answer, m.Ns)
	}
	a, isA := m.Answer[0].(*mdns.A)
	switch {
	case want == "synthetic":
		addr, _ := netip.AddrFromSlice(a.A.To4())
		if got, ok := r.Table.Name(addr); !ok || got != strings.TrimSuffix(name, ".") || a.Hdr.Ttl != 60 {
			t.Fatalf("%v belongs to %q", a, got)
		}
	case isA:
		if a.A.String() != want {
			t.Fatalf("%v, want %s", a, want)
		}
	case mdns.TypeToString[m.Answer[0].Header().Rrtype] != want:
		t.Fatalf("%v, want %s", m.Answer[0], want)
	}
}

// TestNothingUnlistedLeaves is the attack (spec test 26): every type there is, about names that
// carry data; the world must see none of them.
func TestNothingUnlistedLeaves(t *testing.T) {
	r := newRig(t, policy.Up, Limits{Rate: 1e6, Burst: 1e6})
	for qtype := range uint16(300) {
		for _, name := range []string{"c2VjcmV0.evil.test", "c2VjcmV0.a.test", "c2VjcmV0.deep.test", "w.test", "4.3.2.1.in-addr.arpa"} {
			q := question(name, qtype)
			if qtype == mdns.TypeOPT {
				continue // miekg/dns cannot ask for it
			}
			q.IsEdns0().Option = append(q.IsEdns0().Option, &mdns.EDNS0_LOCAL{Code: 65001, Data: []byte("secret")})
			r.ask("udp", q)
		}
	}
	if seen := r.world.questions(); len(seen) > 0 {
		t.Fatalf("upstream saw %v", seen)
	}
	if len(r.ledger.named("name_blocked")) == 0 || len(r.ledger.named("name_denied")) == 0 {
		t.Error("the ledger shows nothing of it")
	}
}

// TestFreshQuery: what goes upstream for a listed name carries no bit of the container's choosing.
func TestFreshQuery(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	q := question("A.tEsT", mdns.TypeTXT)
	q.CheckingDisabled, q.AuthenticatedData, q.RecursionDesired = true, true, false
	q.IsEdns0().SetDo()
	q.IsEdns0().Option = append(q.IsEdns0().Option, &mdns.EDNS0_COOKIE{Code: mdns.EDNS0COOKIE, Cookie: "0102030405060708"})
	m := r.ask("udp", q)
	if m.Question[0].Name != "A.tEsT." {
		t.Errorf("case is lost: %s", m.Question[0].Name)
	}
	r.world.mu.Lock()
	defer r.world.mu.Unlock()
	up := r.world.raw[0]
	if up.Question[0].Name != "a.test." || up.CheckingDisabled || up.AuthenticatedData || !up.RecursionDesired ||
		up.IsEdns0() == nil || up.IsEdns0().Do() || len(up.IsEdns0().Option) > 0 || len(up.Extra) != 1 {
		t.Errorf("upstream got %v", up)
	}
}

func TestQuarantine(t *testing.T) {
	r := newRig(t, policy.Quarantine, Limits{})
	for _, name := range []string{"a.test", "unlisted.test", "localhost", "routed.test", policy.HostName} {
		if m := r.ask("udp", question(name, mdns.TypeA)); m.Rcode != mdns.RcodeRefused || len(m.Answer) > 0 {
			t.Errorf("%s: %v", name, m)
		}
	}
	if len(r.world.questions()) > 0 {
		t.Error("upstream was asked in quarantine")
	}
}

func TestDown(t *testing.T) {
	r := newRig(t, policy.Down, Limits{})
	r.world.add("other.test. 30 A 203.0.113.30")
	checkAnswer(t, r, r.ask("udp", question("other.test", mdns.TypeA)), "other.test", "synthetic")
	if m := r.ask("udp", question("missing.test", mdns.TypeTXT)); m.Rcode != 0 || len(m.Answer) > 0 {
		t.Errorf("%v", m)
	}
	if m := r.ask("udp", question("denied.test", mdns.TypeA)); m.Rcode != mdns.RcodeNameError {
		t.Errorf("%v", m)
	}
	if seen := strings.Join(r.world.questions(), "\n"); !strings.Contains(seen, "other.test. A") || strings.Contains(seen, "denied") {
		t.Errorf("upstream saw %s", seen)
	}
}

func TestExtendedErrors(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	ede := func(m *mdns.Msg) int {
		if m.IsEdns0() == nil {
			return -1
		}
		for _, o := range m.IsEdns0().Option {
			if e, ok := o.(*mdns.EDNS0_EDE); ok {
				return int(e.InfoCode)
			}
		}
		return 0
	}
	if got := ede(r.ask("udp", question("denied.test", mdns.TypeA))); got != 18 {
		t.Errorf("denied: EDE %d", got)
	}
	if got := ede(r.ask("udp", question("big.test", mdns.TypeTXT))); got != 17 {
		t.Errorf("large TXT: EDE %d", got)
	}
	plain := new(mdns.Msg)
	plain.SetQuestion("denied.test.", mdns.TypeA)
	if got := ede(r.ask("udp", plain)); got != -1 {
		t.Error("an answer with EDNS to a query without")
	}
	q := question("a.test", mdns.TypeA)
	q.IsEdns0().SetVersion(1)
	if m := r.ask("udp", q); m.Rcode != mdns.RcodeBadVers {
		t.Errorf("EDNS version 1: %v", m)
	}
}

// TestTruncation: a large answer has TC over UDP and is whole over TCP.
func TestTruncation(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	q := new(mdns.Msg)
	q.SetQuestion("big.test.", mdns.TypeMX) // no EDNS: 512 bytes
	wire, err := q.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var m mdns.Msg
	got := r.rawAsk(wire)
	if err := m.Unpack(got); err != nil || !m.Truncated || len(got) > 512 {
		t.Errorf("UDP: %d bytes, truncated %v, %v", len(got), m.Truncated, err)
	}
	if m := r.ask("tcp", q); m.Truncated || len(m.Answer) != 12 {
		t.Errorf("TCP: %d answers, truncated %v", len(m.Answer), m.Truncated)
	}
}

// rawAsk sends bytes and returns the answer's bytes.
func (r *rig) rawAsk(msg []byte) []byte {
	r.t.Helper()
	c, err := net.Dial("udp", r.addr)
	if err != nil {
		r.t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write(msg)
	buf := make([]byte, 4096)
	n, err := c.Read(buf)
	if err != nil {
		r.t.Fatal(err)
	}
	return buf[:n]
}

// rawQuery is a query of type A with the given labels, of any bytes.
func rawQuery(labels ...string) []byte {
	msg := []byte{0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, l := range labels {
		msg = append(append(msg, byte(len(l))), l...)
	}
	return append(msg, 0, 0, 1, 0, 1)
}

func TestMalformed(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	two := rawQuery("a", "test")
	two[5] = 2
	extra := append(rawQuery("a", "test"), 0)
	answer := rawQuery("a", "test")
	answer[7] = 1
	long := strings.Repeat("x", 63)
	for what, msg := range map[string][]byte{
		"space":         rawQuery("reply github.com is 203.0.113.66", "test"),
		"dot in label":  rawQuery("a.test"),
		"utf-8":         rawQuery("bücher", "test"),
		"escape":        rawQuery("\x1b[31m", "test"),
		"zero byte":     rawQuery("a\x00", "test"),
		"label of 64":   rawQuery(long+"x", "test"),
		"name of 254":   rawQuery(long, long, long, long[:62]),
		"pointer":       {0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1},
		"two questions": two,
		"no question":   {0, 7, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"an answer":     answer,
		"trailing byte": extra,
		"cut":           rawQuery("a", "test")[:16],
	} {
		got := r.rawAsk(msg)
		if len(got) < 12 || got[1] != 7 || got[3]&15 != mdns.RcodeFormatError || got[2]&0x80 == 0 {
			t.Errorf("%s: %x", what, got)
		}
	}
	if n := r.Counters.Malformed.Load(); n != 13 {
		t.Errorf("counted %d", n)
	}
	if len(r.world.questions()) > 0 {
		t.Errorf("upstream saw %v", r.world.questions())
	}
	// One line now, the rest folded into its count; and no line has a name (spec test 29).
	r.end()
	var total uint64
	for _, e := range r.ledger.named("dns_malformed") {
		total += max(e.Count, 1)
		if e.Name != "" || e.IP != "" {
			t.Errorf("a malformed query put a name into the ledger: %+v", e)
		}
	}
	if lines := len(r.ledger.named("dns_malformed")); lines != 2 || total != 13 {
		t.Errorf("%d lines, %d queries", lines, total)
	}
	r253 := newRig(t, policy.Up, Limits{})
	if got := r253.rawAsk(rawQuery(long, long, long, long[:61])); got[3]&15 != 0 {
		t.Errorf("a name of 253 bytes: rcode %d", got[3]&15)
	}
}

func TestOtherMessages(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	update := rawQuery("a", "test")
	update[2] = mdns.OpcodeUpdate << 3
	if got := r.rawAsk(update); got[3]&15 != mdns.RcodeNotImplemented || got[2]>>3&15 != mdns.OpcodeUpdate {
		t.Errorf("UPDATE: %x", got)
	}
	chaos := rawQuery("version", "bind")
	chaos[len(chaos)-1] = mdns.ClassCHAOS
	if got := r.rawAsk(chaos); got[3]&15 != mdns.RcodeRefused {
		t.Errorf("CHAOS: %x", got)
	}
	// A response and a fragment get no answer; the question after them does, and first.
	c, err := net.Dial("udp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	response := rawQuery("a", "test")
	response[2] |= 0x80
	c.Write(response)
	c.Write([]byte{1, 2, 3})
	last := rawQuery("localhost")
	last[1] = 99
	c.Write(last)
	c.SetDeadline(time.Now().Add(10 * time.Second))
	buf := make([]byte, 512)
	if n, err := c.Read(buf); err != nil || n < 12 || buf[1] != 99 {
		t.Errorf("%x, %v", buf[:n], err)
	}
}

// TestRate: over the rate queries are refused, with one line at once and one with the count.
func TestRate(t *testing.T) {
	r := newRig(t, policy.Up, Limits{Rate: 50, Burst: 20})
	refused := 0
	for i := range 100 {
		if m := r.ask("udp", question(fmt.Sprintf("unlisted%d.test", i), mdns.TypeA)); m.Rcode == mdns.RcodeRefused {
			refused++
		}
		// A name that is known already is answered all the same.
		checkAnswer(t, r, r.ask("udp", question("unlisted0.test", mdns.TypeA)), "unlisted0.test", "synthetic")
	}
	if refused != 80 || r.Counters.Limited.Load() != 80 {
		t.Errorf("%d refused, %d counted", refused, r.Counters.Limited.Load())
	}
	if got := r.ledger.named("dns_rate"); len(got) != 1 {
		t.Errorf("%d lines", len(got))
	}
	r.clock.advance(time.Second)
	if m := r.ask("udp", question("later.test", mdns.TypeA)); m.Rcode != 0 {
		t.Error("still refused after a second")
	}
	r.end()
	if got := r.ledger.named("dns_rate"); len(got) != 2 || got[1].Count != 79 {
		t.Errorf("%+v", got)
	}
}

// TestTunnelCap is spec test 28: 1 MiB as labels below an allowed wildcard.
func TestTunnelCap(t *testing.T) {
	r := newRig(t, policy.Up, Limits{Rate: 1e6, Burst: 1e6, TunnelRate: 64, TunnelBurst: 2048})
	payload := strings.Repeat("d", 60)
	const minutes = 3
	for i := range 1200 { // 150 ms of the clock each
		r.clock.advance(minutes * time.Minute / 1200)
		qtype := []uint16{mdns.TypeA, mdns.TypeTXT, mdns.TypeMX}[i%3]
		r.ask("udp", question(fmt.Sprintf("%s.n%d.w.test", payload, i), qtype))
	}
	leaked := map[string]bool{}
	for _, q := range r.world.questions() {
		leaked[strings.Fields(q)[1]] = true
	}
	bytes := 0
	for name := range leaked {
		bytes += len(name) - 1
	}
	if limit := 2048 + 64*minutes*60; bytes > limit {
		t.Errorf("%d bytes left, the cap is %d", bytes, limit)
	}
	if bytes < 2048 {
		t.Errorf("only %d bytes left: the wildcard does not work", bytes)
	}
	if n := len(r.ledger.named("dns_rate")); n == 0 || n > 1 {
		t.Errorf("%d lines", n)
	}
	// Names that a rule spells out are not in the cap.
	checkAnswer(t, r, r.ask("udp", question("a.test", mdns.TypeA)), "a.test", "synthetic")
}

// TestParallel is spec test 24: 500 queries by 100 at once, no failure, and one question upstream for all.
func TestParallel(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	var wg sync.WaitGroup
	fails := make(chan string, 500)
	for range 100 {
		wg.Go(func() {
			for range 5 {
				c := mdns.Client{Timeout: 10 * time.Second}
				m, _, err := c.Exchange(question("a.test", mdns.TypeA), r.addr)
				if err != nil || len(m.Answer) != 1 {
					fails <- fmt.Sprint(m, err)
				}
			}
		})
	}
	wg.Wait()
	close(fails)
	for f := range fails {
		t.Error(f)
	}
	if n := len(r.world.questions()); n != 2 {
		t.Errorf("upstream was asked %d times", n)
	}
}

// TestUpstreamDown is spec test 35: SERVFAIL within 4 s, and too many waiters are told at once.
func TestUpstreamDown(t *testing.T) {
	r := newRig(t, policy.Up, Limits{Upstream: 1, Waiting: 3})
	r.world.script(func() { r.world.silent = true })
	start := time.Now()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			c := mdns.Client{Timeout: 10 * time.Second}
			if m, _, err := c.Exchange(question("a.test", mdns.TypeA), r.addr); err != nil || m.Rcode != mdns.RcodeServerFailure {
				t.Errorf("%v %v", m, err)
			}
		})
	}
	wg.Wait()
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("took %v", d)
	}
	if n := r.Counters.Limited.Load(); n != 4 {
		t.Errorf("%d were told at once", n)
	}
}

// TestStreamBounds: a slow or endless TCP client holds one place of a few, and the end of the
// resolver ends it.
func TestStreamBounds(t *testing.T) {
	r := newRig(t, policy.Up, Limits{Streams: 2})
	var conns []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	// Both have their place once they are answered.
	for _, c := range conns {
		q := rawQuery("localhost")
		c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...))
		c.SetDeadline(time.Now().Add(10 * time.Second))
		if n, err := readMessage(c, "tcp", make([]byte, 512)); err != nil || n < 12 {
			t.Fatalf("%d %v", n, err)
		}
	}
	third, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	third.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := third.Read(make([]byte, 1)); err == nil {
		t.Error("a third connection was served")
	}
	r.end() // returns only when both connections are closed
	if _, err := conns[0].Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlived the resolver")
	}
}

func TestFolder(t *testing.T) {
	led := &ledger{}
	f := newFolder(led, 5)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	for i := range 1000 {
		f.add(audit.Event{Ev: "name_blocked", Name: fmt.Sprintf("n%d.test", i)}, fmt.Sprint(i), now, foldTime)
	}
	f.add(audit.Event{Ev: "name_blocked", Name: "n0.test"}, "0", now, foldTime)
	if n := len(led.events); n != 5 {
		t.Fatalf("%d lines in the first minute", n)
	}
	f.flush(now.Add(2*time.Minute), false)
	var total uint64
	for _, e := range led.events {
		total += max(e.Count, 1)
	}
	if total != 1001 {
		t.Errorf("%d events counted", total)
	}
	if len(f.folds) > 0 || len(f.over) > 0 {
		t.Error("the folder remembers")
	}
	if !slices.ContainsFunc(led.events, func(e audit.Event) bool { return e.Count == 995 }) {
		t.Error("no line for what was over the rate")
	}
}
