package dns

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// Upstream answers questions from outside of the container. The answer's id and question are
// those of the query; an error means that no server answered.
type Upstream interface {
	Exchange(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error)
}

// Bounds of one exchange with the host's resolvers.
const (
	upstreamTotal = 3500 * time.Millisecond // SERVFAIL within 4 s, before clients give up at 5
	upstreamSize  = 1232                    // EDNS0 size, bytes: no fragments (DNS flag day 2020)
	maxServers    = 3                       // as resolv.conf(5)
	maxConf       = 64 << 10
)

// System asks the resolvers of the host's resolv.conf. It is safe for concurrent use.
type System struct {
	path string

	mu      sync.Mutex
	stamp   fileStamp
	servers []netip.AddrPort
}

// fileStamp changes when a file is replaced or written.
type fileStamp struct {
	mod  time.Time
	size int64
}

func stampOf(path string) fileStamp {
	fi, err := os.Stat(path)
	if err != nil {
		return fileStamp{size: -1}
	}
	return fileStamp{fi.ModTime(), fi.Size()}
}

// SystemUpstream returns an Upstream over the nameservers of a resolv.conf (usually
// /etc/resolv.conf), which is read again whenever it changes: the host may move between networks
// while a container runs.
func SystemUpstream(resolvConf string) *System { return &System{path: resolvConf} }

// Exchange sends a query made from q's question and returns the answer: UDP from a new port with
// a random id, TCP where the answer was truncated; every server twice; at most 3.5 s in all.
func (s *System) Exchange(ctx context.Context, q *mdns.Msg) (*mdns.Msg, error) {
	if len(q.Question) != 1 {
		return nil, errors.New("dns: a query has one question")
	}
	ctx, cancel := context.WithTimeout(ctx, upstreamTotal)
	defer cancel()
	servers := s.current()
	share := upstreamTotal / time.Duration(2*len(servers))
	var last *mdns.Msg
	var lastErr error
	for try := range 2 * len(servers) {
		m, err := exchangeOne(ctx, servers[try%len(servers)], q, share)
		if err == nil && m.Rcode != mdns.RcodeServerFailure && m.Rcode != mdns.RcodeRefused {
			m.Id = q.Id
			return m, nil
		}
		if err == nil {
			last = m
			if try+1 >= len(servers) {
				break // every server was asked, and this one answers
			}
		}
		lastErr = err
		if ctx.Err() != nil {
			break
		}
	}
	if last != nil {
		last.Id = q.Id
		return last, nil
	}
	return nil, fmt.Errorf("dns: no answer from %v: %w", servers, lastErr)
}

// current returns the servers, at least one.
func (s *System) current() []netip.AddrPort {
	stamp := stampOf(s.path)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.servers == nil || stamp != s.stamp {
		s.stamp, s.servers = stamp, readServers(s.path)
	}
	return s.servers
}

// readServers reads the nameserver lines; without any, the local machine is asked, as
// resolv.conf(5) says.
func readServers(path string) []netip.AddrPort {
	var out []netip.AddrPort
	b, err := readBounded(path)
	if err == nil {
		lines := bufio.NewScanner(bytes.NewReader(b))
		for lines.Scan() && len(out) < maxServers {
			f := strings.Fields(lines.Text())
			if len(f) < 2 || f[0] != "nameserver" {
				continue
			}
			if ap, err := netip.ParseAddrPort(f[1]); err == nil {
				out = append(out, ap) // not in resolv.conf(5); lets a test use a port of its own
			} else if a, err := netip.ParseAddr(f[1]); err == nil {
				out = append(out, netip.AddrPortFrom(a, 53))
			}
		}
	}
	if len(out) == 0 {
		out = append(out, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53))
	}
	return out
}

// exchangeOne asks one server over UDP, and over TCP if the answer was cut.
func exchangeOne(ctx context.Context, server netip.AddrPort, q *mdns.Msg, limit time.Duration) (*mdns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out := freshQuery(q.Question[0])
	wire, err := out.Pack()
	if err != nil {
		return nil, err
	}
	m, err := ask(ctx, "udp", server, wire, out)
	if err == nil && m.Truncated {
		m, err = ask(ctx, "tcp", server, wire, out)
	}
	return m, err
}

// freshQuery makes a query that carries nothing but a question: whatever else a container put
// into its own message stays there.
func freshQuery(question mdns.Question) *mdns.Msg {
	m := new(mdns.Msg)
	var id [2]byte
	rand.Read(id[:]) // never fails: crypto/rand
	m.Id = binary.BigEndian.Uint16(id[:])
	m.RecursionDesired = true
	m.Question = []mdns.Question{question}
	m.SetEdns0(upstreamSize, false)
	return m
}

// ask sends wire and waits for the message that answers it. The UDP socket is connected, so the
// kernel drops what other addresses send; what does not match id and question is ignored, so that
// a forged datagram cannot end the wait.
func ask(ctx context.Context, network string, server netip.AddrPort, wire []byte, q *mdns.Msg) (*mdns.Msg, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if network == "tcp" {
		framed := binary.BigEndian.AppendUint16(make([]byte, 0, len(wire)+2), uint16(len(wire)))
		wire = append(framed, wire...)
	}
	if _, err := c.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := readMessage(c, network, buf)
		if err != nil {
			return nil, err
		}
		m := new(mdns.Msg)
		if err := m.Unpack(buf[:n]); (err == nil || m.Truncated) && answers(m, q) {
			return m, nil
		}
		if network == "tcp" {
			return nil, errors.New("dns: the server's answer does not match the query")
		}
	}
}

// answers tells whether m is the response to q.
func answers(m, q *mdns.Msg) bool {
	return m.Response && m.Id == q.Id && m.Opcode == mdns.OpcodeQuery && len(m.Question) == 1 &&
		strings.EqualFold(m.Question[0].Name, q.Question[0].Name) &&
		m.Question[0].Qtype == q.Question[0].Qtype && m.Question[0].Qclass == q.Question[0].Qclass
}
