package front

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"sync"
	"testing"
	"time"

	"terok/internal/audit"
)

// BenchmarkFrontVersusReverseProxy drives the front and a bare httputil.ReverseProxy, both with
// TLS on both sides and the same upstream, in alternating rounds of the same run: 16 kept-alive
// connections, 1 KiB each way. It reports both rates, the median ratio and the median latencies.
//
//	go test -run '^$' -bench VersusReverseProxy -benchtime 1x ./internal/vault/front
func BenchmarkFrontVersusReverseProxy(b *testing.B) {
	const (
		conns  = 16
		rounds = 25
		each   = 400 * time.Millisecond
	)
	answer := bytes.Repeat([]byte("a"), 1024)
	r := newRig(b, func(w http.ResponseWriter, req *http.Request) {
		io.Copy(io.Discard, req.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Write(answer)
	}, func(c *Config, s *httptest.Server) {
		c.Record = discardEvents{}
		s.Config.TLSConfig = nil
	})
	bareAddr := r.bareProxy()

	body := append([]byte(`{"messages":"`), bytes.Repeat([]byte("a"), 1008)...)
	body = append(body, `"}`...)
	// round returns requests per second and the median latency.
	round := func(addr string, clients []*http.Client) (float64, time.Duration) {
		deadline := time.Now().Add(each)
		var wg sync.WaitGroup
		lat := make([][]time.Duration, len(clients))
		for i, c := range clients {
			wg.Go(func() {
				for time.Now().Before(deadline) {
					start := time.Now()
					req := r.request("POST", "/v1/messages", "")
					req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
					req.Header.Set("Content-Type", "application/json")
					resp, err := c.Do(req)
					if err != nil {
						b.Error(err)
						return
					}
					n, _ := io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if n != 1024 || resp.StatusCode != 200 {
						b.Error(resp.Status, n)
						return
					}
					lat[i] = append(lat[i], time.Since(start))
				}
			})
		}
		wg.Wait()
		all := slices.Concat(lat...)
		slices.Sort(all)
		return float64(len(all)) / each.Seconds(), all[len(all)/2]
	}
	clientsFor := func(addr string) []*http.Client {
		var out []*http.Client
		for range conns {
			out = append(out, r.clientAt(addr))
		}
		return out
	}
	ours, theirs := clientsFor(r.addr), clientsFor(bareAddr)
	round(r.addr, ours)
	round(bareAddr, theirs)
	for b.Loop() {
		var ratios, added []float64
		for i := range rounds {
			f, fl := round(r.addr, ours)
			p, pl := round(bareAddr, theirs)
			ratios = append(ratios, f/p)
			added = append(added, float64(fl-pl)/1e6)
			fmt.Printf("round %d: front %.0f req/s p50 %s, ReverseProxy %.0f req/s p50 %s, ratio %.3f\n", i, f, fl, p, pl, f/p)
		}
		slices.Sort(ratios)
		slices.Sort(added)
		b.ReportMetric(ratios[rounds/2], "ratio")
		b.ReportMetric(added[rounds/2], "ms-added-p50")
	}
}

// bareProxy is an httputil.ReverseProxy with the front's upstream, transport settings and server,
// that judges nothing: what any proxy in this place costs. It returns its address.
func (r *rig) bareProxy() string {
	up, err := url.Parse(r.upstream.URL)
	if err != nil {
		r.t.Fatal(err)
	}
	site := r.front.sites[target{testHost, 443}]
	transport := site.routes[0].transport.Clone()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	srv := &http.Server{Handler: &httputil.ReverseProxy{
		Rewrite:       func(p *httputil.ProxyRequest) { p.SetURL(up); p.Out.Header.Set("X-Api-Key", realKey) },
		Transport:     transport,
		FlushInterval: -1,
		BufferPool:    &buffers{},
	}}
	go srv.Serve(tls.NewListener(l, site.tls.Clone()))
	r.t.Cleanup(func() {
		srv.Close()
		transport.CloseIdleConnections()
	})
	return l.Addr().String()
}

// clientAt is a client that finds the routed host at addr.
func (r *rig) clientAt(addr string) *http.Client {
	c := r.client(false)
	c.Transport.(*http.Transport).DialContext = func(context.Context, string, string) (net.Conn, error) { return net.Dial("tcp", addr) }
	return c
}

type buffers struct{ pool sync.Pool }

func (b *buffers) Get() []byte {
	if v, ok := b.pool.Get().(*[]byte); ok {
		return *v
	}
	return make([]byte, 32<<10)
}

func (b *buffers) Put(p []byte) { b.pool.Put(&p) }

type discardEvents struct{}

func (discardEvents) Record(audit.Event) {}
