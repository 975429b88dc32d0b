package world

import (
	"fmt"
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

const defaultTTL = 30

// zone is the scripted DNS data.
type zone struct {
	mu   sync.Mutex
	sets map[string]Script // "name. TYPE"
}

func (z *zone) reset() {
	z.mu.Lock()
	z.sets = map[string]Script{}
	z.mu.Unlock()
	for name, ip := range map[string]string{
		"a.test": "203.0.113.10", "b.test": "203.0.113.10", "denied.test": "203.0.113.10", "x.a.test": "203.0.113.10",
		"c.test": "203.0.113.20", "d.test": "203.0.113.30", "e.test": "198.51.100.7",
		"lan.test": "192.168.77.7", "cgnat.test": "100.64.0.7", "meta.test": "169.254.169.254", "loop.test": "127.0.0.1", "own.test": "198.51.100.99",
	} {
		z.put(Script{Name: name, Type: "A", Values: []string{ip}})
	}
	z.put(Script{Name: "v6.test", Type: "AAAA", Values: []string{"2001:db8:1::10"}})
	z.put(Script{Name: "a.test", Type: "TXT", Values: []string{`"hello"`}})
	z.put(Script{Name: "a.test", Type: "MX", Values: []string{"10 a.test."}})
}

func (z *zone) put(s Script) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.sets[dns.Fqdn(strings.ToLower(s.Name))+" "+s.Type] = s
}

// set checks a script by parsing it and then puts it.
func (z *zone) set(s Script) error {
	s.Type = strings.ToUpper(s.Type)
	if _, ok := dns.StringToType[s.Type]; !ok {
		return fmt.Errorf("unknown type %q", s.Type)
	}
	if _, err := s.records(s.Name); err != nil {
		return err
	}
	z.put(s)
	return nil
}

func (s Script) records(name string) ([]dns.RR, error) {
	ttl := s.TTL
	if ttl == 0 {
		ttl = defaultTTL
	}
	var out []dns.RR
	for _, v := range s.Values {
		rr, err := dns.NewRR(fmt.Sprintf("%s %d IN %s %s", dns.Fqdn(name), ttl, s.Type, v))
		if err != nil {
			return nil, fmt.Errorf("answer %q: %w", v, err)
		}
		out = append(out, rr)
	}
	return out, nil
}

// answer returns the records for a question, and whether the name exists at all.
func (z *zone) answer(q dns.Question) (s Script, found, exists bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	name := strings.ToLower(q.Name)
	s, found = z.sets[name+" "+dns.TypeToString[q.Qtype]]
	for k := range z.sets {
		exists = exists || strings.HasPrefix(k, name+" ")
	}
	return s, found, exists
}

// serveDNS answers on UDP and TCP.
func (w *World) serveDNS(addr string) error {
	pc, err := net.ListenPacket("udp", w.bind("udp", addr))
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	l, err := net.Listen("tcp", w.bind("tcp", addr))
	if err != nil {
		pc.Close()
		return fmt.Errorf("dns: %w", err)
	}
	w.mu.Lock()
	w.actual["udp "+addr], w.actual["tcp "+addr] = pc.LocalAddr().String(), l.Addr().String()
	w.mu.Unlock()
	h := dns.HandlerFunc(func(rw dns.ResponseWriter, m *dns.Msg) { rw.WriteMsg(w.reply(addr, rw, m)) })
	for _, s := range []*dns.Server{{PacketConn: pc, Handler: h}, {Listener: l, Handler: h}} {
		started := make(chan struct{})
		s.NotifyStartedFunc = func() { close(started) }
		w.wg.Go(func() { s.ActivateAndServe() })
		<-started
		w.onClose(func() { s.Shutdown() })
	}
	return nil
}

func (w *World) reply(addr string, rw dns.ResponseWriter, m *dns.Msg) *dns.Msg {
	out := new(dns.Msg).SetReply(m)
	out.RecursionAvailable = true
	for _, q := range m.Question {
		w.seen.add(Seen{Kind: "dns", Local: addr, Remote: rw.RemoteAddr().String(), Name: strings.TrimSuffix(q.Name, "."), Type: dns.TypeToString[q.Qtype]})
	}
	if len(m.Question) != 1 {
		out.Rcode = dns.RcodeFormatError
		return out
	}
	q := m.Question[0]
	s, found, exists := w.zone.answer(q)
	switch {
	case found && s.Rcode != 0:
		out.Rcode = s.Rcode
	case found:
		rrs, err := s.records(q.Name)
		if err != nil {
			out.Rcode = dns.RcodeServerFailure
		}
		out.Answer = rrs
	case !exists:
		out.Rcode = dns.RcodeNameError
	}
	if rw.LocalAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if e := m.IsEdns0(); e != nil {
			size = max(size, int(e.UDPSize()))
		}
		out.Truncate(size)
	}
	return out
}
