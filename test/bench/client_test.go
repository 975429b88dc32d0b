package bench

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	mdns "github.com/miekg/dns"
)

// answer is what a client prints.
type answer struct {
	Seconds float64 `json:"seconds"`
	Count   int64   `json:"count"` // bytes, connections or answers
	P50     float64 `json:"p50"`   // seconds, where single operations are timed
}

// clientMain is the client's side: client down|up|connect|tlsdown|tlsup|tlsconnect HOST:PORT N, or client
// dns|dnsone SERVER NAME. The tls modes begin with a ClientHello for HOST and go on in the clear: what
// a proxy that reads it costs, without the cipher's time.
func clientMain(args []string) int {
	a, err := client(args)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_ = json.NewEncoder(os.Stdout).Encode(a)
	return 0
}

func client(args []string) (answer, error) {
	if len(args) != 3 {
		return answer{}, fmt.Errorf("three arguments are needed, not %q", args)
	}
	mode, secure := strings.CutPrefix(args[0], "tls")
	switch mode {
	case "down", "up", "connect":
		host, port, err := net.SplitHostPort(args[1])
		if err != nil {
			return answer{}, err
		}
		var hello []byte
		if secure {
			if hello, err = clientHello(host); err != nil {
				return answer{}, err
			}
		}
		if _, err := netip.ParseAddr(host); err != nil { // resolve once: names are measured elsewhere
			found, err := net.LookupHost(host)
			if err != nil {
				return answer{}, err
			}
			host = found[0]
		}
		n, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil {
			return answer{}, err
		}
		if mode == "connect" {
			return connects(net.JoinHostPort(host, port), n, hello)
		}
		return transfer(mode, net.JoinHostPort(host, port), n, hello)
	case "dns":
		return queries(args[1], args[2], 16, 4, time.Second)
	case "dnsone":
		return queries(args[1], args[2], 1, 1, 500*time.Millisecond)
	}
	return answer{}, fmt.Errorf("no mode %q", args[0])
}

// The bench's server reads one byte that says what to do, and for a transfer the number of bytes:
// 'd' sends that many, 'u' takes them and answers one byte, 'c' answers one byte. A TLS record before
// it is skipped.
func serve(c net.Conn) {
	defer c.Close()
	var head [9]byte
	if _, err := io.ReadFull(c, head[:1]); err != nil {
		return
	}
	if head[0] == 22 { // a handshake record (RFC 8446 §5.1)
		if _, err := io.ReadFull(c, head[1:5]); err != nil {
			return
		}
		if _, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[3:5]))); err != nil {
			return
		}
		if _, err := io.ReadFull(c, head[:1]); err != nil {
			return
		}
	}
	if head[0] == 'c' {
		_, _ = c.Write(head[:1])
		return
	}
	if _, err := io.ReadFull(c, head[1:]); err != nil {
		return
	}
	n := int64(binary.BigEndian.Uint64(head[1:]))
	switch head[0] {
	case 'd':
		_ = pour(c, n)
	case 'u':
		_, _ = sink(c, n)
		_, _ = c.Write(head[:1])
	}
}

func pour(w io.Writer, n int64) error {
	block := make([]byte, 256<<10)
	for n > 0 {
		k, err := w.Write(block[:min(n, int64(len(block)))])
		if err != nil {
			return err
		}
		n -= int64(k)
	}
	return nil
}

// sink reads n bytes into memory: io.Copy to Discard would let the kernel drop them.
func sink(r io.Reader, n int64) (int64, error) {
	block := make([]byte, 256<<10)
	var have int64
	for have < n {
		k, err := r.Read(block)
		have += int64(k)
		if err != nil {
			return have, err
		}
	}
	return have, nil
}

// clientHello is what crypto/tls says first to a server of that name.
func clientHello(name string) ([]byte, error) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	go tls.Client(ours, &tls.Config{ServerName: name}).Handshake() //nolint:errcheck // ends with the pipe
	hello := make([]byte, 16<<10)
	n, err := theirs.Read(hello)
	return hello[:n], err
}

func transfer(mode, addr string, n int64, hello []byte) (answer, error) {
	begin := time.Now()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	if _, err := c.Write(append(hello, binary.BigEndian.AppendUint64([]byte{mode[0]}, uint64(n))...)); err != nil {
		return answer{}, err
	}
	if mode == "down" {
		_, err = sink(c, n)
	} else if err = pour(c, n); err == nil {
		_, err = io.ReadFull(c, make([]byte, 1)) // all of it has arrived
	}
	return answer{Seconds: time.Since(begin).Seconds(), Count: n}, err
}

func connects(addr string, n int64, hello []byte) (answer, error) {
	begin := time.Now()
	var took []float64
	for range n {
		start := time.Now()
		c, err := net.Dial("tcp", addr)
		if err != nil {
			return answer{}, err
		}
		buf := []byte{'c'}
		if _, err = c.Write(append(slices.Clip(hello), 'c')); err == nil {
			_, err = io.ReadFull(c, buf)
		}
		took = append(took, time.Since(start).Seconds())
		c.Close()
		if err != nil {
			return answer{}, err
		}
	}
	return answer{Seconds: time.Since(begin).Seconds(), Count: n, P50: median(took)}, nil
}

// queries asks for the A record of name over sockets × window questions in flight, for a while.
func queries(server, name string, sockets, window int, lasts time.Duration) (answer, error) {
	m := new(mdns.Msg)
	m.SetQuestion(mdns.Fqdn(name), mdns.TypeA)
	query, err := m.Pack()
	if err != nil {
		return answer{}, err
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		all   []float64
		total int64
		first error
	)
	begin := time.Now()
	for range sockets {
		wg.Go(func() {
			n, took, err := askOn(server, slices.Clone(query), window, begin.Add(lasts))
			mu.Lock()
			defer mu.Unlock()
			total += n
			all = append(all, took...)
			if first == nil {
				first = err
			}
		})
	}
	wg.Wait()
	return answer{Seconds: time.Since(begin).Seconds(), Count: total, P50: median(all)}, first
}

func askOn(server string, query []byte, window int, until time.Time) (n int64, took []float64, err error) {
	c, err := net.Dial("udp", server)
	if err != nil {
		return 0, nil, err
	}
	defer c.Close()
	buf := make([]byte, 1500)
	for id := uint16(0); time.Now().Before(until); {
		start := time.Now()
		for range window {
			id++
			binary.BigEndian.PutUint16(query, id)
			if _, err := c.Write(query); err != nil {
				return n, took, err
			}
		}
		_ = c.SetReadDeadline(start.Add(2 * time.Second))
		for range window {
			k, err := c.Read(buf)
			if err != nil {
				return n, took, fmt.Errorf("after %d answers: %w", n, err)
			}
			// An answer without a record is a refusal: that would be another measurement.
			if k < 12 || buf[3]&15 != 0 || binary.BigEndian.Uint16(buf[6:]) != 1 {
				return n, took, fmt.Errorf("refused: % x", buf[:min(k, 12)])
			}
			n++
		}
		if window == 1 {
			took = append(took, time.Since(start).Seconds())
		}
	}
	return n, took, nil
}
