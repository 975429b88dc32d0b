package dns

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"
	"time"

	"terok/internal/shield/policy"
)

// BenchmarkUDP measures answers per second and the median answer time through a real UDP socket,
// one asker at a time for the time, and a window of queries for the rate. The asker runs on the
// same processors.
func BenchmarkUDP(b *testing.B) {
	for _, c := range []struct{ what, a, b string }{
		{"denied", "denied", "test"}, {"unlisted", "unlisted", "test"}, {"cached", "a", "test"},
	} {
		query := rawQuery(c.a, c.b)
		b.Run(c.what+"/latency", func(b *testing.B) {
			conn := benchConn(b, query)
			buf := make([]byte, 512)
			var took []time.Duration
			for b.Loop() {
				start := time.Now()
				conn.Write(query)
				if _, err := conn.Read(buf); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(start))
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "µs-p50")
		})
		b.Run(c.what+"/rate", func(b *testing.B) {
			conn := benchConn(b, query)
			const window = 64
			buf := make([]byte, 512)
			sent, got := 0, 0
			start := time.Now()
			for got < b.N {
				for sent < b.N && sent-got < window {
					binary.BigEndian.PutUint16(query, uint16(sent))
					if _, err := conn.Write(query); err != nil {
						b.Fatal(err)
					}
					sent++
				}
				if _, err := conn.Read(buf); err != nil {
					b.Fatal(err)
				}
				got++
			}
			b.ReportMetric(float64(got)/time.Since(start).Seconds(), "answers/s")
		})
	}
}

// benchConn returns a connection to a resolver that has answered the query once.
func benchConn(b *testing.B, query []byte) net.Conn {
	r := newRig(b, policy.Up, Limits{})
	conn, err := net.Dial("udp", r.addr)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	conn.Write(query)
	if _, err := conn.Read(make([]byte, 512)); err != nil {
		b.Fatal(err)
	}
	return conn
}

// BenchmarkHandle is the same without a socket.
func BenchmarkHandle(b *testing.B) {
	r := newRig(b, policy.Up, Limits{})
	r.prepare()
	out := make([]byte, 0, maxReply)
	for what, query := range map[string][]byte{"denied": rawQuery("denied", "test"), "unlisted": rawQuery("unlisted", "test")} {
		b.Run(what, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.handle(query, out)
			}
		})
	}
}
