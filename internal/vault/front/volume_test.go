package front

import (
	"bufio"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"terok/internal/vault/usage"
)

// TestEventsKeepTheirOrder: ten thousand events in pieces of any size arrive whole and in order. How
// much later they come is BenchmarkFrontFlows's matter. spec/vault.md §10: 29.
func TestEventsKeepTheirOrder(t *testing.T) {
	const events = 10_000
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			flush := http.NewResponseController(w)
			for i := range events {
				event := fmt.Sprintf("id: %d\ndata: {\"n\":%d,\"text\":%q}\n\n", i, i, strings.Repeat("a", i%97))
				cut := i % len(event)
				io.WriteString(w, event[:cut])
				if i%3 == 0 {
					flush.Flush()
				}
				io.WriteString(w, event[cut:])
				if i%2 == 0 {
					flush.Flush()
				}
			}
		}, func(c *Config, _ *httptestServer) {
			c.Used = func(string, string, usage.Tokens, bool) int64 { return 0 }
		})
		resp, err := r.client(h2).Do(r.request("POST", "/v1/messages", `{"stream":true}`))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		in := bufio.NewScanner(resp.Body)
		n := 0
		for in.Scan() {
			id, ok := strings.CutPrefix(in.Text(), "id: ")
			if !ok {
				continue
			}
			if id != fmt.Sprint(n) || !in.Scan() || in.Text() != fmt.Sprintf("data: {\"n\":%d,\"text\":%q}", n, strings.Repeat("a", n%97)) {
				t.Fatalf("instead of event %d: %s, %s", n, id, in.Text())
			}
			n++
		}
		if n != events || in.Err() != nil {
			t.Errorf("%d events, %v", n, in.Err())
		}
	})
}

// lot is a document of n bytes that is nowhere as a whole: head, words, tail.
func lot(head string, n int, tail string) io.Reader {
	words := strings.Repeat("some words of a text; ", 4096)
	return io.MultiReader(strings.NewReader(head), io.LimitReader(&repeated{text: words}, int64(n-len(head)-len(tail))), strings.NewReader(tail))
}

type repeated struct {
	text string
	at   int
}

func (r *repeated) Read(p []byte) (int, error) {
	n := copy(p, r.text[r.at:])
	r.at = (r.at + n) % len(r.text)
	return n, nil
}

// squeezed is a lot in gzip, made while it is read. It is packed by so little that no bomb is
// suspected.
func squeezed(head string, n int, tail string) io.Reader {
	r, w := io.Pipe()
	go func() {
		z, _ := gzip.NewWriterLevel(w, gzip.HuffmanOnly) // the level exists
		_, err := io.Copy(z, lot(head, n, tail))
		if err == nil {
			err = z.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// TestVolume: 100 MiB up as JSON and as a form in parts, 25 packed, and 100 MiB down, grow the peak of
// this process's memory, which holds client, front and provider, by less than 40 MiB; a body of more
// than 128 MiB is refused. spec/vault.md §10: 30.
func TestVolume(t *testing.T) {
	const size, tooLarge, most = 100 << 20, 129 << 20, 40 << 20
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == "GET" {
			io.Copy(w, lot("", size, ""))
			return
		}
		n, err := io.Copy(io.Discard, req.Body)
		if err == nil {
			fmt.Fprint(w, n)
		}
	})
	c := r.client(false)
	const formHead = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\n"
	for _, tt := range []struct {
		name, kind, head, tail string
		n                      int
		gzip                   bool
	}{
		{name: "json", kind: "application/json", head: `{"a":"`, tail: `"}`, n: size},
		{name: "form", kind: "multipart/form-data; boundary=b", head: formHead, tail: "\r\n--b--\r\n", n: size},
		{name: "packed", kind: "application/json", head: `{"a":"`, tail: `"}`, n: size / 4, gzip: true},
		{name: "json, too large", kind: "application/json", head: `{"a":"`, tail: `"}`, n: tooLarge},
		{name: "down"},
	} {
		var body io.Reader
		method := "GET"
		if tt.kind != "" {
			method, body = "POST", lot(tt.head, tt.n, tt.tail)
		}
		if tt.gzip {
			body = squeezed(tt.head, tt.n, tt.tail)
		}
		debug.FreeOSMemory()
		if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil { // the peak begins anew: proc(5)
			t.Fatal(err)
		}
		before := rss()
		req, err := http.NewRequest(method, "https://"+testHost+"/v1/x", body)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("X-Api-Key", r.phantom)
		if tt.kind != "" {
			req.Header.Set("Content-Type", tt.kind)
		}
		if tt.gzip {
			req.Header.Set("Content-Encoding", "gzip")
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		grown := rss() - before
		t.Logf("%s: %d, peak memory +%.1f MiB", tt.name, resp.StatusCode, float64(grown)/(1<<20))
		switch {
		case tt.n == tooLarge:
			if resp.StatusCode != 413 {
				t.Errorf("%s: %d", tt.name, resp.StatusCode)
			}
		case resp.StatusCode != 200 || err != nil || tt.n == 0 && n != size:
			t.Errorf("%s: %d, %d bytes, %v", tt.name, resp.StatusCode, n, err)
		}
		if grown >= most {
			t.Errorf("%s: peak memory +%.1f MiB", tt.name, float64(grown)/(1<<20))
		}
	}
}
