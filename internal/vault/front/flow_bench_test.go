package front

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/vault/usage"
)

// direct is a client of the upstream itself.
func (r *rig) direct() *http.Client {
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableCompression: true, //nolint:gosec // a measurement
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("tcp", r.upstream.Listener.Addr().String())
		}}
	r.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// BenchmarkFrontFlows measures what is not requests per second: how much later the first event of a
// stream comes, how long 100 MiB take either way against the upstream itself, what that does to
// memory, and 200 event streams at a time. Sides alternate in one run, every sample is printed:
//
//	flow NAME FRONT DIRECT UNIT
func BenchmarkFrontFlows(b *testing.B) {
	const rounds, size, streams = 15, 100 << 20, 200
	page := bytes.Repeat([]byte("some words of an answer that holds no key; "), 1<<12)
	r := newRig(b, func(w http.ResponseWriter, req *http.Request) {
		switch req.URL.Path {
		case "/v1/files": // up
			n, _ := io.Copy(io.Discard, req.Body)
			fmt.Fprint(w, n)
		case "/v1/models": // down
			w.Header().Set("Content-Length", strconv.Itoa(size))
			for left := size; left > 0; left -= len(page) {
				w.Write(page[:min(left, len(page))])
			}
		default:
			w.Header().Set("Content-Type", "text/event-stream")
			for range 50 {
				fmt.Fprintf(w, "data: {\"sent\":%d}\n\n", time.Now().UnixNano())
				http.NewResponseController(w).Flush()
				if req.URL.Path == "/v1/messages" {
					time.Sleep(10 * time.Millisecond)
				}
			}
		}
	}, func(c *Config, s *httptest.Server) {
		c.Record = discardEvents{}
		c.Limits.Concurrent = 2 * streams
		c.Used = func(string, string, usage.Tokens, bool) int64 { return 0 }
		s.TLS.NextProtos = []string{"http/1.1"}
	})
	front, direct := r.client(false), r.direct()
	send := func(c *http.Client, req *http.Request) *http.Response {
		if c == direct {
			req.URL.Host = r.upstream.Listener.Addr().String()
		}
		resp, err := c.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		return resp
	}
	first := func(c *http.Client) time.Duration {
		start := time.Now()
		resp := send(c, r.request("POST", "/v1/messages/first", `{"stream":true}`))
		bufio.NewReader(resp.Body).ReadString('\n')
		d := time.Since(start)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return d
	}
	down := func(c *http.Client) time.Duration {
		start := time.Now()
		resp := send(c, r.request("GET", "/v1/models", ""))
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if n != size || err != nil {
			b.Fatal(n, err)
		}
		return time.Since(start)
	}
	document := append(append([]byte(`{"text":"`), bytes.Repeat([]byte("words "), size/6)...), '"', '}')
	up := func(c *http.Client) time.Duration {
		start := time.Now()
		req := r.request("POST", "/v1/files", "{}")
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(document)), int64(len(document))
		resp := send(c, req)
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		return time.Since(start)
	}
	// late is the median time from an event's writing to its reading, of 200 streams at a time.
	late := func(c *http.Client) time.Duration {
		var mu sync.Mutex
		var all []time.Duration
		var wg sync.WaitGroup
		for range streams {
			wg.Go(func() {
				resp := send(c, r.request("POST", "/v1/messages", `{"stream":true}`))
				defer resp.Body.Close()
				in := bufio.NewReader(resp.Body)
				n := 0
				for {
					line, err := in.ReadString('\n')
					if err != nil {
						break
					}
					if at, ok := strings.CutPrefix(strings.TrimSpace(line), `data: {"sent":`); ok {
						sent, _ := strconv.ParseInt(strings.TrimSuffix(at, "}"), 10, 64)
						mu.Lock()
						all = append(all, time.Duration(time.Now().UnixNano()-sent))
						mu.Unlock()
						n++
					}
				}
				if n != 50 {
					b.Errorf("%d events of 50", n)
				}
			})
		}
		wg.Wait()
		slices.Sort(all)
		return all[len(all)/2]
	}
	for b.Loop() {
		for _, flow := range []struct {
			name string
			do   func(*http.Client) time.Duration
			n    int
		}{{"first event", first, 3 * rounds}, {"100 MiB down", down, rounds}, {"100 MiB up", up, rounds}, {"200 streams, event", late, 5}} {
			flow.do(front)
			flow.do(direct)
			before := rss()
			var f, d []float64
			for range flow.n {
				f = append(f, flow.do(front).Seconds()*1000)
				d = append(d, flow.do(direct).Seconds()*1000)
				fmt.Printf("flow %q %.3f %.3f ms\n", flow.name, f[len(f)-1], d[len(d)-1])
			}
			slices.Sort(f)
			slices.Sort(d)
			fmt.Printf("median %q front %.3f ms, direct %.3f ms, ratio %.2f, peak memory of both and the client +%.1f MiB\n",
				flow.name, f[len(f)/2], d[len(d)/2], f[len(f)/2]/d[len(d)/2], float64(rss()-before)/(1<<20))
		}
	}
}

// rss is the peak of this process's resident memory in bytes.
func rss() int64 {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(data), "VmHWM:")
	kb, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kb << 10
}
