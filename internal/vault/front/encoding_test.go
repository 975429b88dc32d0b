package front

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// TestPackedRequests: bodies in gzip and zstd are judged unpacked and go on unpacked, so the provider
// reads what was judged; bombs, broken ones and what follows the end are refused.
func TestPackedRequests(t *testing.T) {
	var packedUpstream bool
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		packedUpstream = packedUpstream || req.Header.Get("Content-Encoding") != "" || req.Header.Get("Content-Digest") != ""
		n, err := io.Copy(io.Discard, req.Body)
		if err == nil {
			fmt.Fprint(w, n)
		}
	}, func(c *Config, _ *httptest.Server) { c.Limits.Body = 8 << 20; c.Limits.Inspect = 64 << 10 })
	words := make([]byte, 3<<20)
	for i := range words {
		words[i] = "abcdefgh "[rand.IntN(9)]
	}
	small, large := `{"messages":"hi"}`, `{"messages":"`+string(words)+`"}`
	wide := func() []byte {
		var buf bytes.Buffer
		w, _ := zstd.NewWriter(&buf, zstd.WithWindowSize(64<<20))
		w.Write([]byte(large))
		w.Close()
		return buf.Bytes()
	}()
	clients := []*http.Client{r.client(false), r.client(true)}
	for _, enc := range []string{"gzip", "zstd"} {
		for name, tt := range map[string]struct {
			data   []byte
			status int
			answer string
		}{
			"small":                {pack(enc, []byte(small)), 200, fmt.Sprint(len(small))},
			"large":                {pack(enc, []byte(large)), 200, fmt.Sprint(len(large))},
			"two in a row":         {append(pack(enc, []byte(small[:5])), pack(enc, []byte(small[5:]))...), 200, fmt.Sprint(len(small))},
			"empty inside":         {pack(enc, nil), 200, "0"},
			"a key":                {pack(enc, []byte(`{"api_key":"x"}`)), 403, "foreign_credential"},
			"a key at last":        {pack(enc, []byte(large[:len(large)-1]+`,"api_key":"x"}`)), 403, "foreign_credential"},
			"a key in the second":  {append(pack(enc, []byte(`{"a":1,`)), pack(enc, []byte(`"api_key":"x"}`))...), 403, "foreign_credential"},
			"an address":           {pack(enc, []byte(`{"mcp_servers":[{}]}`)), 403, "server_fetch"},
			"a bomb":               {pack(enc, bytes.Repeat([]byte(" "), 7<<20)), 413, "too_large"},
			"larger than a body":   {pack(enc, append([]byte(`{"a":"`), bytes.Repeat(words, 3)...)), 413, "too_large"},
			"cut":                  {pack(enc, []byte(small))[:12], 400, "bad_body"},
			"cut, large":           {pack(enc, []byte(large))[:1<<20], 400, "bad_body"},
			"text after it":        {append(pack(enc, []byte(small)), "xxxx"...), 400, "bad_body"},
			"text after it, large": {append(pack(enc, []byte(large)), "xxxx"...), 400, "bad_body"},
			"not packed":           {[]byte(small), 400, "bad_body"},
			"packed twice":         {pack(enc, pack(enc, []byte(small))), 400, "bad_body"},
			"a large window":       {wide, 400, "bad_body"},
		} {
			for _, c := range clients {
				req := r.request("POST", "/v1/messages", string(tt.data))
				req.Header.Set("Content-Encoding", enc)
				req.Header.Set("Content-Digest", "sha-256=:AA==:")
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				answer, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if tt.status == 200 && string(answer) != tt.answer || tt.status != 200 && resp.Header.Get("X-Terok-Broker") != tt.answer || resp.StatusCode != tt.status {
					t.Errorf("%s, %s: %s %d %s %s", enc, name, resp.Proto, resp.StatusCode, resp.Header.Get("X-Terok-Broker"), answer)
				}
			}
		}
	}
	if packedUpstream {
		t.Error("the provider was told of an encoding")
	}
	if n := len(r.front.unpacking); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}

// TestPackedForm: an upload may be packed too.
func TestPackedForm(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) })
	for disposition, status := range map[string]int{`name="model"`: 200, `name="api_key"`: 403} {
		req := r.request("POST", "/v1/files", "x")
		multi(req, disposition, "", "x")
		plain, _ := io.ReadAll(req.Body)
		packedBody(req, "gzip", string(plain))
		req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
		if resp, answer := r.do(req); resp.StatusCode != status || status == 200 && answer != string(plain) {
			t.Errorf("%s: %d %s", disposition, resp.StatusCode, answer)
		}
	}
}

// FuzzUnpack: whatever is packed, no more comes out than the bound allows, and what comes out of a
// gzip is what another reading of it says.
func FuzzUnpack(f *testing.F) {
	for _, enc := range []string{"gzip", "zstd"} {
		f.Add(pack(enc, []byte(`{"a":"b"}`)), enc == "zstd")
		f.Add(pack(enc, bytes.Repeat([]byte("a"), 4<<20)), enc == "zstd")
		f.Add(append(pack(enc, []byte("a")), pack(enc, []byte("b"))...), enc == "zstd")
	}
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 4, 0, 0, 0, 1, 2, 3, 4}, true)
	front := &Front{unpacking: make(chan struct{}, maxUnpacking), cfg: Config{Limits: Limits{Body: 128 << 20}}}
	f.Fuzz(func(t *testing.T, data []byte, z bool) {
		r := httptest.NewRequest("POST", "/", bytes.NewReader(data))
		r.Header.Set("Content-Encoding", map[bool]string{true: "zstd", false: "gzip"}[z])
		u, err := front.unpackRequest(r)
		if err != nil {
			t.Fatal(err)
		}
		defer u.Close()
		plain, err := io.ReadAll(r.Body)
		if len(plain) > packedFree && len(plain) > packedRatio*(len(data)+1) {
			t.Fatalf("%d bytes out of %d", len(plain), len(data))
		}
		if err != nil && refusalOf(err) == nil {
			t.Fatal("no answer for", err)
		}
		if err == nil && !z {
			in, err := gzip.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			if want, err := io.ReadAll(in); err != nil || !bytes.Equal(want, plain) {
				t.Fatalf("%q, %q, %v", plain, want, err)
			}
		}
		if strings.Contains(r.Header.Get("Content-Encoding"), "z") {
			t.Fatal("the body is still said to be packed")
		}
	})
}
