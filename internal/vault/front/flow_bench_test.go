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

	"golang.org/x/sys/unix"

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
// stream comes, how long 100 MiB take either way, what that does to memory, and 200 event streams at
// a time; against a bare httputil.ReverseProxy with TLS on both sides, and against the upstream
// itself. Both ends and the proxy share the machine: with as many cores as it has busy directly, no
// proxy that ends TLS can do better than the bare one. Sides alternate in one run, every sample is
// printed:
//
//	flow NAME FRONT BARE DIRECT ms
//
// Last, 10 000 events at one in a millisecond: at the median they may come 5 ms later than directly,
// and 50 ms at the 99th percentile (spec/vault.md §10: 29); it fails otherwise.
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
			n := 50
			if req.URL.Path == "/v1/messages/many" {
				n = 10_000
			}
			for range n {
				fmt.Fprintf(w, "data: {\"sent\":%d}\n\n", time.Now().UnixNano())
				http.NewResponseController(w).Flush()
				switch req.URL.Path {
				case "/v1/messages":
					time.Sleep(10 * time.Millisecond)
				case "/v1/messages/many":
					time.Sleep(time.Millisecond)
				}
			}
		}
	}, func(c *Config, s *httptest.Server) {
		c.Record = discardEvents{}
		c.Limits.Concurrent = 2 * streams
		c.Used = func(string, string, usage.Tokens, bool) int64 { return 0 }
		s.TLS.NextProtos = []string{"http/1.1"}
	})
	front, bare, direct := r.client(false), r.clientAt(r.bareProxy()), r.direct()
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
	// events are the sorted times from an event's writing to its reading.
	events := func(c *http.Client, path string, want int) []time.Duration {
		resp := send(c, r.request("POST", path, `{"stream":true}`))
		defer resp.Body.Close()
		in := bufio.NewReader(resp.Body)
		var all []time.Duration
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				break
			}
			if at, ok := strings.CutPrefix(strings.TrimSpace(line), `data: {"sent":`); ok {
				sent, _ := strconv.ParseInt(strings.TrimSuffix(at, "}"), 10, 64)
				all = append(all, time.Duration(time.Now().UnixNano()-sent))
			}
		}
		if len(all) != want && c != bare { // it loses a stream now and then, when it reads its request while it answers
			b.Errorf("%d events of %d", len(all), want)
		}
		slices.Sort(all)
		return all
	}
	// late is the median of the events of 200 streams at a time.
	late := func(c *http.Client) time.Duration {
		var mu sync.Mutex
		var all []time.Duration
		var wg sync.WaitGroup
		for range streams {
			wg.Go(func() {
				some := events(c, "/v1/messages", 50)
				mu.Lock()
				all = append(all, some...)
				mu.Unlock()
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
			sides := []*http.Client{front, bare, direct}
			samples, work := make([][]float64, len(sides)), make([][]float64, len(sides))
			var grown int64 // by the front's
			for i := range flow.n + 1 {
				for k, c := range sides {
					before, busy := rss(), cpu()
					took := flow.do(c).Seconds() * 1000
					if k == 0 {
						grown += rss() - before
					}
					if i > 0 { // the first is to get warm
						samples[k] = append(samples[k], took)
						work[k] = append(work[k], (cpu()-busy).Seconds()*1000)
					}
				}
				if i > 0 {
					fmt.Printf("flow %q %.3f %.3f %.3f ms\n", flow.name, samples[0][i-1], samples[1][i-1], samples[2][i-1])
				}
			}
			median := func(s []float64) float64 { slices.Sort(s); return s[len(s)/2] }
			f, p, d := median(samples[0]), median(samples[1]), median(samples[2])
			fmt.Printf("median %q front %.3f ms, bare %.3f ms, direct %.3f ms; front/bare %.2f, front/direct %.2f, bare/direct %.2f, peak memory of all +%.1f MiB; processor time of all %.1f, %.1f, %.1f ms\n",
				flow.name, f, p, d, f/p, f/d, p/d, float64(grown)/(1<<20), median(work[0]), median(work[1]), median(work[2]))
		}
		const many = 10_000
		through, without := events(front, "/v1/messages/many", many), events(direct, "/v1/messages/many", many)
		median, late := through[many/2]-without[many/2], through[many*99/100]-without[many*99/100]
		fmt.Printf("10 000 events: median %s, p99 %s through the front; %s, %s directly\n", through[many/2], through[many*99/100], without[many/2], without[many*99/100])
		if median >= 5*time.Millisecond || late >= 50*time.Millisecond {
			b.Errorf("events come %s later, %s at the 99th percentile", median, late)
		}
	}
}

// cpu is the processor time that this process has used.
func cpu() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
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
