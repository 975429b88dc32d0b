package bench

import (
	"fmt"
	"net"
	"strconv"
	"testing"
)

// listen starts the bench's server on the host's loopback and returns its port.
func listen(b *testing.B) int {
	b.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(b.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().(*net.TCPAddr).Port
}

// networks starts the server and one container per kind of network, and returns how each reaches it.
func networks(b *testing.B, prefix string) (terok, slirp, host func(mode string, n int) answer) {
	b.Helper()
	port := listen(b)
	t := newTree(b)
	t.start(prefix, "--allow", fmt.Sprintf("host:%d", port))
	container(b, "tbench-"+prefix, "--network", "slirp4netns:allow_host_loopback=true,mtu=65520")
	ask := func(container, address string) func(string, int) answer {
		return func(mode string, n int) answer {
			return askClient(b, container, mode, net.JoinHostPort(address, strconv.Itoa(port)), strconv.Itoa(n))
		}
	}
	return ask("terok-sandbox-"+prefix, "host.terok.internal"), ask("tbench-"+prefix, "10.0.2.2"), ask("", "127.0.0.1")
}

func gbit(a answer) float64 { return float64(a.Count) * 8 / a.Seconds / 1e9 }

// BenchmarkThroughput: one connection between a container and the host, 512 MiB each way.
func BenchmarkThroughput(b *testing.B) {
	terok, slirp, host := networks(b, "flow")
	for _, mode := range []string{"up", "down"} {
		sample := func(ask func(string, int) answer) func(int) float64 {
			return func(int) float64 { return gbit(ask(mode, 512<<20)) }
		}
		compare(b, "egress throughput, "+mode, "Gbit/s", "at least 3.5 × slirp4netns, 0.5 × host loopback", 7,
			side{"terok", sample(terok)}, side{"slirp4netns", sample(slirp)}, side{"host loopback", sample(host)})
	}
}

// BenchmarkVerification: the same with and without verification: a raw rule takes the way that
// shield.verify off takes for every rule. Each connection begins with a ClientHello, which is read and
// judged in the one container and passed on unread in the other.
func BenchmarkVerification(b *testing.B) {
	port := strconv.Itoa(listen(b))
	t := newTree(b)
	kinds := []string{"verified", "raw"}
	t.start("verified", "--allow", "host:"+port)
	t.start("raw", "--allow", "host:"+port+" raw")
	both := func(name, unit, target string, rounds int, take func(ask func(mode string, n int) answer) float64) {
		var sides []side
		for _, kind := range kinds {
			ask := func(mode string, n int) answer {
				return askClient(b, "terok-sandbox-"+kind, mode, net.JoinHostPort("host.terok.internal", port), strconv.Itoa(n))
			}
			sides = append(sides, side{kind, func(int) float64 { return take(ask) }})
		}
		compare(b, name, unit, target, rounds, sides...)
	}
	for _, mode := range []string{"tlsup", "tlsdown"} {
		both("verified throughput, "+mode[3:], "Gbit/s", "at least 0.95 × without", 11, func(ask func(string, int) answer) float64 { return gbit(ask(mode, 512<<20)) })
	}
	both("verified connect and first byte, p50", "ms", "", 11, func(ask func(string, int) answer) float64 { return ask("tlsconnect", 300).P50 * 1e3 })
}

// BenchmarkConnect: a new connection, one byte there and one back, 300 in a row per sample.
func BenchmarkConnect(b *testing.B) {
	terok, slirp, host := networks(b, "connect")
	sample := func(ask func(string, int) answer) func(int) float64 {
		return func(int) float64 { return ask("connect", 300).P50 * 1e3 }
	}
	compare(b, "connect and first byte, p50", "ms", "at most 0.3 ms more than direct", 11,
		side{"terok", sample(terok)}, side{"host loopback", sample(host)}, side{"slirp4netns", sample(slirp)})
}

// bareDNS answers every question with the same address: the least that a DNS server in Go can do.
func bareDNS(b *testing.B) string {
	b.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			buf[2], buf[3], buf[7] = 0x81, 0x80, 1
			// A pointer to the question's name, type A, class IN, 60 s, four octets.
			reply := append(buf[:n:n], 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1)
			_, _ = c.WriteTo(reply, from)
		}
	}()
	return c.LocalAddr().String()
}

// BenchmarkDNS: an allowed name asked for from inside the container, against a bare responder on
// the host's loopback with the same client.
func BenchmarkDNS(b *testing.B) {
	t := newTree(b)
	t.start("dns", "--allow", "host:9") // a name that needs no upstream: its answers would be measured too
	bare := bareDNS(b)
	inside := func(mode string) answer {
		return askClient(b, "terok-sandbox-dns", mode, "10.0.2.3:53", "host.terok.internal")
	}
	outside := func(mode string) answer { return askClient(b, "", mode, bare, "host.terok.internal") }
	rate := func(a answer) float64 { return float64(a.Count) / a.Seconds }
	compare(b, "DNS answers", "1/s", "at least 30 000 per second", 9,
		side{"terok", func(int) float64 { return rate(inside("dns")) }},
		side{"bare responder", func(int) float64 { return rate(outside("dns")) }})
	compare(b, "DNS answer, p50", "ms", "at most 0.2 ms", 9,
		side{"terok", func(int) float64 { return inside("dnsone").P50 * 1e3 }},
		side{"bare responder", func(int) float64 { return outside("dnsone").P50 * 1e3 }})
}
