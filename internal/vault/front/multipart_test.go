package front

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"sync/atomic"
	"testing"
)

// parts sends a raw multipart body with the boundary b.
func (r *rig) parts(c *http.Client, raw string) (*http.Response, string) {
	r.t.Helper()
	req := r.request("POST", "/v1/files", raw)
	req.Header.Set("Content-Type", "multipart/form-data; boundary=b")
	resp, err := c.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	return resp, string(answer)
}

// one is a body of one part; n and r stand for line ends in head.
func one(head, value string) string { return "--b\r\n" + head + "\r\n\r\n" + value + "\r\n--b--\r\n" }

const aFile = `Content-Disposition: form-data; name="file"; filename="a.json"`

// TestUploads: what clients of files and audio endpoints send goes through byte for byte, small
// ones and those that stream.
func TestUploads(t *testing.T) {
	eachProtocol(t, func(t *testing.T, h2 bool) {
		r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
			_, params, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
			in := multipart.NewReader(req.Body, params["boundary"])
			for {
				p, err := in.NextPart()
				if err == io.EOF {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
				n, err := io.Copy(io.Discard, p)
				fmt.Fprintf(w, "%s %s %d %v\n", p.FormName(), p.FileName(), n, err)
			}
		}, func(c *Config, _ *httptest.Server) { c.Limits.Inspect = 64 << 10 })
		c := r.client(h2)
		for _, size := range []int{0, 5, 300 << 10} {
			content := strings.Repeat("{\"api_key\":\"x\"}\r\n--\r\n--c", size)[:size]
			var buf bytes.Buffer
			form := multipart.NewWriter(&buf)
			form.WriteField("purpose", "user_data")
			form.WriteField("timestamp_granularities[]", "word")
			form.WriteField("chunking_strategy", `{"type":"server_vad"}`)
			form.WriteField("prompt", "[music] {not JSON}")
			file, _ := form.CreateFormFile("file", "speech.mp3")
			io.WriteString(file, content)
			data, _ := form.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="file"; filename="data.json"`}, "Content-Type": {"application/json"}})
			io.WriteString(data, content)
			form.Close()
			req := r.request("POST", "/v1/audio/transcriptions", "")
			req.Body, req.ContentLength = io.NopCloser(&buf), int64(buf.Len())
			req.Header.Set("Content-Type", form.FormDataContentType())
			resp, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			got, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			want := fmt.Sprintf("purpose  9 <nil>\ntimestamp_granularities[]  4 <nil>\nchunking_strategy  21 <nil>\nprompt  18 <nil>\nfile speech.mp3 %d <nil>\nfile data.json %[1]d <nil>\n", size)
			if resp.StatusCode != 200 || string(got) != want {
				t.Errorf("%d: %d %s", size, resp.StatusCode, got)
			}
		}
		for name, raw := range map[string]string{
			".NET":               one("Content-Type: application/octet-stream\r\nContent-Disposition: form-data; name=file; filename=a.bin; filename*=utf-8''a.bin", "x"),
			"aiohttp":            one("Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name=\"model\"", "whisper-1"),
			"OkHttp":             one("Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: binary\r\nContent-Type: text/plain; charset=UTF-8\r\nContent-Length: 9", "whisper-1"),
			"no last line break": strings.TrimSuffix(one(`Content-Disposition: form-data; name="a"`, "x"), "\r\n"),
			"a name in Japanese": one(`Content-Disposition: form-data; name="file"; filename="日本"`, "x"),
			"a description":      one(`Content-Disposition: form-data; name="description"`, "[link](https://x) {"),
			"an empty address":   one(`Content-Disposition: form-data; name="file_url"`, ""),
		} {
			if resp, answer := r.parts(c, raw); resp.StatusCode != 200 || !strings.Contains(answer, "<nil>") {
				t.Errorf("%s: %d %s", name, resp.StatusCode, answer)
			}
		}
	})
}

// TestBadForms: a form in parts that makes the provider call out, or that two readers could read
// differently, is refused before anything is sent. Credentials in it: TestNoSecondCredential.
func TestBadForms(t *testing.T) {
	r := newRig(t, mustNotReach(t))
	const field = "Content-Disposition: form-data; name=\"a\""
	clients := []*http.Client{r.client(false), r.client(true)}
	for name, tt := range map[string]struct {
		raw  string
		code string
	}{
		"an address to fetch":           {one(`Content-Disposition: form-data; name="file_url"`, "https://e/?d=1"), "server_fetch"},
		"nested":                        {one(`Content-Disposition: form-data; name="source[url]"`, "https://e"), "server_fetch"},
		"MCP in JSON":                   {one(`Content-Disposition: form-data; name="tools"`, `[{"type":"mcp","server_label":"x"}]`), "server_fetch"},
		"MCP in a part of JSON":         {one("Content-Disposition: form-data; name=\"session\"\r\nContent-Type: application/json", `{"mcp_servers":[{}]}`), "server_fetch"},
		"MCP in a blob":                 {one("Content-Disposition: form-data; name=\"session\"; filename=\"blob\"\r\nContent-Type: application/json", `{"mcp_servers":[{}]}`), "server_fetch"},
		"a type of tool":                {one(`Content-Disposition: form-data; name="tools[0][type]"`, "mcp"), "server_fetch"},
		"a file of requests":            {one(`Content-Disposition: form-data; name="purpose"`, "batch"), "server_fetch"},
		"a file of requests, in a file": {one(`Content-Disposition: form-data; name="purpose"; filename=""`, "batch"), "server_fetch"},
		"whom to call":                  {one(`Content-Disposition: form-data; name="sdp"`, "v=0"), "server_fetch"},
		"whom to call, by type":         {one("Content-Disposition: form-data; name=\"offer\"\r\nContent-Type: application/sdp", "v=0"), "server_fetch"},
		"whom to call, as a file":       {one(`Content-Disposition: form-data; name="sdp"; filename="a"`, "v=0"), "bad_body"},
		"an address as a file":          {one(`Content-Disposition: form-data; name="file_url"; filename="a"`, "https://e"), "bad_body"},
		"nearly JSON":                   {one(`Content-Disposition: form-data; name="tools"`, `[{"a":NaN,"type":"mcp"}]`), "bad_body"},
		"JSON after a byte order mark":  {one(`Content-Disposition: form-data; name="tools"`, "\ufeff"+`[{"type":"mcp"}]`), "bad_body"},
		"JSON after a form feed":        {one(`Content-Disposition: form-data; name="tools"`, "\f"+`[{"type":"mcp"}]`), "server_fetch"},
		"JSON that ends early":          {one("Content-Disposition: form-data; name=\"s\"\r\nContent-Type: application/json", `{"a":`), "bad_body"},
		"JSON in another charset":       {one("Content-Disposition: form-data; name=\"s\"\r\nContent-Type: application/json; charset=utf-16", `{}`), "bad_body"},
		"text in another charset":       {one(field+"\r\nContent-Type: text/plain; charset=utf-7", `x`), "bad_body"},
		"a charset for all":             {one(`Content-Disposition: form-data; name="_charset_"`, "utf-7"), "bad_body"},
		"parts in a part":               {one(aFile+"\r\nContent-Type: multipart/mixed; boundary=c", "x"), "bad_body"},
		"encoded":                       {one(aFile+"\r\nContent-Transfer-Encoding: base64", "eA=="), "bad_body"},
		"no name":                       {one(`Content-Disposition: form-data; filename="a"`, "x"), "bad_body"},
		"no disposition":                {one(`Content-Type: text/plain`, "x"), "bad_body"},
		"no header":                     {"--b\r\n\r\nx\r\n--b--\r\n", "bad_body"},
		"two names":                     {one(`Content-Disposition: form-data; name="a"; name="api_key"`, "x"), "bad_body"},
		"a second name, wide":           {one(`Content-Disposition: form-data; name="a"; name*=utf-8''api_key`, "x"), "bad_body"},
		"two dispositions":              {one(field+"\r\ncontent-disposition: form-data; name=\"api_key\"", "x"), "bad_body"},
		"another disposition":           {one(`Content-Disposition: attachment; name="a"`, "x"), "bad_body"},
		"a continued line":              {one("Content-Disposition: form-data;\r\n name=\"a\"", "x"), "bad_body"},
		"a space before the colon":      {one(`Content-Disposition : form-data; name="a"`, "x"), "bad_body"},
		"another header":                {one(field+"\r\nX-Name: api_key", "x"), "bad_body"},
		"a name with an escape":         {one(`Content-Disposition: form-data; name="a\"; filename=\"b"`, "x"), "bad_body"},
		"a file name with an escape":    {one(`Content-Disposition: form-data; name="a"; filename="b\\"`, "x"), "bad_body"},
		"a name in a file name":         {one(`Content-Disposition: form-data; name="a"; filename="b; name=api_key"`, "x"), "bad_body"},
		"an encoded name":               {one(`Content-Disposition: form-data; name="%61pi_key"`, "x"), "bad_body"},
		"a wide file name alone":        {one(`Content-Disposition: form-data; name="tools"; filename*=utf-8''a`, "x"), "bad_body"},
		"a file name of dots":           {one(`Content-Disposition: form-data; name="tools"; filename="/.."`, `[{"type":"mcp"}]`), "server_fetch"},
		"a line break in a name":        {one("Content-Disposition: form-data; name=\"a\nb\"", "x"), "bad_body"},
		"a long header":                 {one(field+"; filename=\""+strings.Repeat("a", maxPartHeader)+`"`, "x"), "bad_body"},
		"text before":                   {"\r\n" + one(field, "x"), "bad_body"},
		"a preamble with a part":        {"--b\nContent-Disposition: form-data; name=\"api_key\"\n\nx\n--b\r\n" + one(field, "x"), "bad_body"},
		"text after":                    {one(field, "x") + "x", "bad_body"},
		"parts after the end":           {one(field, "x") + one(`Content-Disposition: form-data; name="api_key"`, "x"), "bad_body"},
		"the boundary in a line":        {one(field, "xxxx--b\r\nContent-Disposition: form-data; name=\"api_key\"\r\n\r\ny"), "bad_body"},
		"a boundary of one line feed":   {one(field, "xxxx\n--b\nContent-Disposition: form-data; name=\"api_key\"\n\ny"), "bad_body"},
		"a boundary with spaces":        {one(field, "x\r\n--b \r\nContent-Disposition: form-data; name=\"api_key\"\r\n\r\ny"), "bad_body"},
		"a longer boundary":             {one(field, "x\r\n--bc\r\nContent-Disposition: form-data; name=\"api_key\"\r\n\r\ny"), "bad_body"},
		"the end in a line":             {one(field, "x\r\n--b-- \r\ny"), "bad_body"},
		"a boundary that closes a head": {"--b\r\n" + field + "\r\n\r\n--b--\r\n", "bad_body"},
		"no end":                        {strings.TrimSuffix(one(field, "x"), "--\r\n"), "bad_body"},
		"half an end":                   {strings.TrimSuffix(one(field, "x"), "-\r\n"), "bad_body"},
		"half a line break at last":     {strings.TrimSuffix(one(field, "x"), "\n"), "bad_body"},
		"an empty word":                 {one(`Content-Disposition: form-data; name=a; filename=`, "x"), "bad_body"},
		"only an end":                   {"--b--\r\n", "bad_body"},
		"too many parts":                {strings.Repeat("--b\r\n"+field+"\r\n\r\nx\r\n", maxParts) + one(field, "x"), "bad_body"},
	} {
		for _, c := range clients {
			resp, answer := r.parts(c, tt.raw)
			if code := resp.Header.Get("X-Terok-Broker"); code != tt.code || resp.StatusCode != 400 && resp.StatusCode != 403 {
				t.Errorf("%s: %d %s %s", name, resp.StatusCode, code, answer)
			}
		}
	}
	for name, ct := range map[string]string{"no boundary": "", "a blank in it": `; boundary="b c"`, "too long": "; boundary=" + strings.Repeat("b", 71), "two": "; boundary=b; boundary=c",
		"another charset": "; boundary=b; charset=utf-7"} {
		req := r.request("POST", "/v1/files", one(field, "x"))
		req.Header.Set("Content-Type", "multipart/form-data"+ct)
		if resp, _ := r.do(req); resp.StatusCode != 400 && resp.StatusCode != 415 {
			t.Errorf("%s: %d", name, resp.StatusCode)
		}
	}
	if n := r.dials.Load(); n != 0 {
		t.Errorf("%d upstream connections", n)
	}
}

// TestLargeUploads: a large form is judged while it streams, and the provider never has a complete
// one that was refused.
func TestLargeUploads(t *testing.T) {
	var complete atomic.Int64
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		n, err := io.Copy(io.Discard, req.Body)
		if err == nil {
			complete.Add(1)
		}
		fmt.Fprint(w, n)
	}, func(c *Config, _ *httptest.Server) { c.Limits.Body = 4 << 20; c.Limits.Inspect = 64 << 10 })
	file := func(n int) string { return "--b\r\n" + aFile + "\r\n\r\n" + strings.Repeat("a", n) + "\r\n" }
	clients := []*http.Client{r.client(false), r.client(true)}
	for name, tt := range map[string]struct {
		raw    string
		status int
	}{
		"good":              {file(3<<20) + one(`Content-Disposition: form-data; name="purpose"`, "user_data"), 200},
		"a purpose at last": {file(3<<20) + one(`Content-Disposition: form-data; name="purpose"`, "batch"), 403},
		"a key at last":     {file(3<<20) + one(`Content-Disposition: form-data; name="api_key"`, "x"), 403},
		"cut":               {file(3 << 20), 400},
		"text after":        {file(3<<20) + one(`Content-Disposition: form-data; name="a"`, "x") + "--b\r\n", 400},
		"too large":         {file(5<<20) + one(`Content-Disposition: form-data; name="a"`, "x"), 413},
	} {
		for _, c := range clients {
			if resp, answer := r.parts(c, tt.raw); resp.StatusCode != tt.status || tt.status == 200 && answer != fmt.Sprint(len(tt.raw)) {
				t.Errorf("%s: %d %s", name, resp.StatusCode, answer)
			}
		}
	}
	r.front.Close()
	r.upstream.Close()
	if n := complete.Load(); n != 2 {
		t.Errorf("upstream saw %d complete bodies, 2 were good", n)
	}
}

// TestFileBody: a file as the whole body goes where the policy says upload, and only a file does.
func TestFileBody(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) { io.Copy(w, req.Body) }, func(c *Config, _ *httptest.Server) {
		rt := testRoute(c)
		rt.Policy = []string{"upload POST /v1/listen", "allow POST /v1/other"}
		rt.Default = "deny"
		c.Limits.Inspect = 16
	})
	for _, tt := range []struct {
		path, kind string
		status     int
	}{
		{"/v1/listen", "audio/wav", 200},
		{"/v1/listen", "application/octet-stream", 200},
		{"/v1/listen", "text/plain; charset=utf-8", 200},
		{"/v1/listen", "application/json", 403},
		{"/v1/listen", "", 403},
		{"/v1/listen", "text/html", 415},
		{"/v1/listen", "application/sdp", 415},
		{"/v1/listen", "application/x-ndjson", 415},
		{"/v1/other", "audio/wav", 415},
		{"/v1/none", "audio/wav", 403},
	} {
		const doc = `{"api_key":"x","text":"longer than what is judged at once"}`
		req := r.request("POST", tt.path, doc)
		req.Header.Set("Content-Type", tt.kind)
		if tt.kind == "" {
			req.Header.Del("Content-Type")
		}
		resp, answer := r.do(req)
		if resp.StatusCode != tt.status || tt.status == 200 && answer != doc {
			t.Errorf("%s %q: %d %s", tt.path, tt.kind, resp.StatusCode, answer)
		}
	}
}

// TestJSONUnderAnotherType: what was judged as JSON is said to be JSON: read as the form that curl -d
// calls it, it could hold a credential. What is judged as a form stays one.
func TestJSONUnderAnotherType(t *testing.T) {
	var got string
	var formed bool
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		got = req.Header.Get("Content-Type")
		formed = req.ParseForm() == nil && req.PostForm.Has("api_key")
	})
	for kind, want := range map[string]string{"": "application/json", "application/x-www-form-urlencoded": "application/json",
		"application/json; charset=utf-8": "application/json; charset=utf-8", "application/vnd.x+json": "application/vnd.x+json"} {
		req := r.request("POST", "/v1/messages", `{"a":"&api_key=sk-attacker&"}`)
		req.Header["Content-Type"] = []string{kind}
		if kind == "" {
			req.Header.Del("Content-Type")
		}
		if resp, answer := r.do(req); resp.StatusCode != 200 || got != want || formed {
			t.Errorf("%q: %d %s, the provider got %q", kind, resp.StatusCode, answer, got)
		}
	}
	req := r.request("POST", "/v1/messages", "a=b")
	urlEncoded(req)
	if resp, answer := r.do(req); resp.StatusCode != 200 || got != "application/x-www-form-urlencoded" {
		t.Errorf("%d %s %q", resp.StatusCode, answer, got)
	}
}

// FuzzMultipart: the verdict does not depend on how the body is cut, and what is accepted is read
// by another parser (Go's) as the same parts: none of them a field that we would have refused.
func FuzzMultipart(f *testing.F) {
	for _, s := range []string{
		one(aFile, "x"), one(`Content-Disposition: form-data; name=tools`, `[{"type":"mcp"}]`), one(`Content-Disposition: form-data; name="api_key"`, "x"),
		one("Content-Disposition: form-data; name=\"s\"\r\nContent-Type: application/json", `{"a":1}`),
		one("Content-Type: a/b\r\nContent-Disposition: form-data; name=file; filename=a; filename*=utf-8''a", "\r\n--\r\n-"),
		"--b\r\n" + aFile + "\r\n\r\nx\r\n" + one(`Content-Disposition: form-data; name="purpose"`, "batch"), "--b--", "--b\nContent-Disposition: x",
	} {
		f.Add([]byte(s), 1)
		f.Add([]byte(s), 9)
	}
	f.Fuzz(func(t *testing.T, doc []byte, n int) {
		if len(doc) > 1<<15 {
			return
		}
		judge := func(n int) error {
			in := newMultipart(bodyRules{}, "b")
			for rest := doc; len(rest) > 0; {
				k := min(n, len(rest))
				if err := in.write(rest[:k]); err != nil {
					return err
				}
				rest = rest[k:]
			}
			return in.close()
		}
		n = max(1, n%23)
		got, whole := judge(n), judge(len(doc)+1)
		if (got == nil) != (whole == nil) || got != nil && refusalOf(got) == nil {
			t.Fatalf("in pieces %v, at once %v", got, whole)
		}
		if got != nil {
			return
		}
		in := multipart.NewReader(bytes.NewReader(doc), "b")
		for {
			p, err := in.NextRawPart()
			if err == io.EOF {
				return
			}
			if err != nil {
				t.Fatalf("accepted, but %v: %q", err, doc)
			}
			value, err := io.ReadAll(p)
			if err != nil {
				t.Fatalf("accepted, but %v: %q", err, doc)
			}
			name := fieldOf(p.FormName())
			if p.FormName() == "" || name.credential {
				t.Fatalf("a part named %q: %q", p.FormName(), doc)
			}
			if p.FileName() == "" && callsOut(name.parent, name.key, value[:min(len(value), captured)], len(value)) {
				t.Fatalf("the field %q with %q: %q", p.FormName(), value, doc)
			}
		}
	})
}
