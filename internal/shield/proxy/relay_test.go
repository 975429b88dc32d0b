package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestHalfClose(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000"})
	r.serve(addrA+":7000", func(c *net.TCPConn) {
		b, err := io.ReadAll(c) // the client's end must arrive while our side is open
		if err != nil {
			t.Error(err)
		}
		fmt.Fprintf(c, "got %d", len(b))
		c.CloseWrite()
	})
	c := r.dial("a.test:7000")
	c.Write(make([]byte, 100000))
	c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "got 100000" {
		t.Errorf("%q %v", b, err)
	}
	eventually(t, "end is recorded", func() bool {
		ev := r.events.of(evEnd)
		return len(ev) == 1 && ev[0].BytesUp == 100000 && ev[0].BytesDown == 10 && ev[0].Detail["seconds"] != "" && ev[0].IP == addrA
	})
}

func TestServerEndsFirst(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000"})
	got := make(chan string, 1)
	r.serve(addrA+":7000", func(c *net.TCPConn) {
		io.WriteString(c, "bye")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		got <- string(b)
	})
	c := r.dial("a.test:7000")
	if b, err := io.ReadAll(c); string(b) != "bye" || err != nil {
		t.Fatalf("%q %v", b, err)
	}
	io.WriteString(c, "still here")
	c.CloseWrite()
	if s := <-got; s != "still here" {
		t.Errorf("%q", s)
	}
}

func TestResetPasses(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000"})
	ready := make(chan *net.TCPConn, 1)
	end := make(chan error, 1)
	r.serve(addrA+":7000", func(c *net.TCPConn) {
		ready <- c
		_, err := c.Read(make([]byte, 1))
		end <- err
	})
	c := r.dial("a.test:7000")
	<-ready
	c.SetLinger(0)
	c.Close()
	if err := <-end; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("%v, want a reset", err)
	}
}

// pipesHeld counts pipe descriptors of this process.
func pipesHeld(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

func TestIdleFlowsHoldNoPipes(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000"})
	before := pipesHeld(t)
	const flows, size = 64, 3 << 20
	r.serve(addrA+":7000", echo)
	var wg sync.WaitGroup
	conns := make([]*net.TCPConn, flows)
	var most int
	var mu sync.Mutex
	for i := range conns {
		c := r.dial("a.test:7000")
		conns[i] = c
		wg.Go(func() {
			go c.Write(make([]byte, size))
			if _, err := io.CopyN(io.Discard, c, size); err != nil {
				t.Error(err)
			}
			mu.Lock()
			most = max(most, int(r.p.Counters().Spliced))
			mu.Unlock()
		})
	}
	wg.Wait()
	eventually(t, "pipes are given back", func() bool { return r.p.Counters().Spliced == 0 })
	if n := pipesHeld(t); n > before {
		t.Errorf("%d pipe descriptors with %d idle flows, %d before", n, flows, before)
	}
	if most > 16 || r.p.Counters().Open != flows {
		t.Errorf("at most %d directions spliced, %d open", most, r.p.Counters().Open)
	}
	for _, c := range conns { // they still work
		io.WriteString(c, "x")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "every byte is counted, once", func() bool { // a client may have it a moment before
		n := r.p.Counters()
		return n.BytesUp == flows*(size+1) && n.BytesDown == flows*(size+1)
	})
}

func TestSplicedBytesAreTheSame(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000"})
	r.serve(addrA+":7000", echo)
	c := r.dial("a.test:7000")
	const size = 8 << 20
	go func() {
		b := make([]byte, 1<<16)
		for at := 0; at < size; at += len(b) {
			for i := range b {
				b[i] = byte((at + i) * 31 >> 3)
			}
			c.Write(b)
		}
		c.CloseWrite()
	}()
	b, err := io.ReadAll(c)
	if err != nil || len(b) != size {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
	for i := range b {
		if b[i] != byte(i*31>>3) {
			t.Fatalf("byte %d differs", i)
		}
	}
}

func TestCloseCutsEverything(t *testing.T) {
	r := newRig(t, []string{"+a.test:7000", "+a.test"})
	r.serve(addrA+":7000", echo)
	c := r.dial("a.test:7000")
	io.WriteString(c, "x")
	io.ReadFull(c, make([]byte, 1))
	peeking, web := r.dial("a.test:443"), r.dial("a.test:80")
	eventually(t, "three open", func() bool { return r.p.Counters().Open == 3 })
	start := time.Now()
	r.p.Close()
	if d := time.Since(start); d > quick {
		t.Errorf("Close took %v", d)
	}
	for _, c := range []*net.TCPConn{c, peeking, web} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
	}
}

// sink and source servers for the benchmarks.
func sinkServer(c *net.TCPConn) { io.Copy(io.Discard, onlyReader{c}); c.Write([]byte{1}) }

type onlyReader struct{ io.Reader }

// plainProxy is what io.Copy gives: one goroutine per direction, the runtime's splice.
func plainProxy(b testing.TB, to string) string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
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
			go func() {
				defer c.Close()
				u, err := new(net.Dialer).DialContext(context.Background(), "tcp", to)
				if err != nil {
					return
				}
				defer u.Close()
				down := make(chan bool)
				go func() { io.Copy(c, u); c.(*net.TCPConn).CloseWrite(); close(down) }()
				io.Copy(u, c)
				u.(*net.TCPConn).CloseWrite()
				<-down
			}()
		}
	}()
	return l.Addr().String()
}

// BenchmarkThroughput sends 256 MiB one way; paths alternate by sub-benchmark, compare the medians
// of -count runs.
func BenchmarkThroughput(b *testing.B) {
	r := newRig(b, []string{"+a.test:7000", "+a.test:7001 raw"})
	r.serve(addrA+":7000", sinkServer)
	r.serve(addrA+":7001", sinkServer)
	var direct string
	for a, s := range r.world {
		if a.Port() == 7000 {
			direct = s
		}
	}
	const size = 256 << 20
	chunk := make([]byte, 256<<10)
	for _, path := range []struct{ name, addr string }{
		{"direct", direct}, {"proxy", r.door("a.test:7000")}, {"iocopy", plainProxy(b, direct)},
	} {
		b.Run(path.name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				c, err := net.Dial("tcp", path.addr)
				if err != nil {
					b.Fatal(err)
				}
				for n := 0; n < size; n += len(chunk) {
					if _, err := c.Write(chunk); err != nil {
						b.Fatal(err)
					}
				}
				c.(*net.TCPConn).CloseWrite()
				if _, err := io.ReadFull(c, chunk[:1]); err != nil {
					b.Fatal(err)
				}
				c.Close()
			}
		})
	}
}

// BenchmarkFirstByte connects, sends and receives one byte; it reports the median.
func BenchmarkFirstByte(b *testing.B) {
	r := newRig(b, []string{"+a.test:7000"})
	r.serve(addrA+":7000", echo)
	var direct string
	for _, s := range r.world {
		direct = s
	}
	for _, path := range []struct{ name, addr string }{{"direct", direct}, {"proxy", r.door("a.test:7000")}, {"iocopy", plainProxy(b, direct)}} {
		b.Run(path.name, func(b *testing.B) {
			var all []time.Duration
			buf := make([]byte, 1)
			for b.Loop() {
				start := time.Now()
				c, err := net.Dial("tcp", path.addr)
				if err != nil {
					b.Fatal(err)
				}
				c.Write(buf)
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
				all = append(all, time.Since(start))
				c.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-µs")
		})
	}
}
