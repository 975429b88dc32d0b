package lfs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/lfs"
)

const oid = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"

func TestParse(t *testing.T) {
	good := "version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize 12345\n"
	if o, ok := lfs.Parse([]byte(good)); !ok || o.OID != oid || o.Size != 12345 {
		t.Errorf("%v %v", o, ok)
	}
	ext := "version https://git-lfs.github.com/spec/v1\next-0-foo sha256:" + oid + "\noid sha256:" + oid + "\nsize 0\n"
	if _, ok := lfs.Parse([]byte(ext)); !ok {
		t.Error("an extension is refused")
	}
	for what, text := range map[string]string{
		"empty":           "",
		"no newline":      strings.TrimSuffix(good, "\n"),
		"another version": strings.Replace(good, "spec/v1", "spec/v2", 1),
		"CRLF":            strings.ReplaceAll(good, "\n", "\r\n"),
		"unsorted":        "version https://git-lfs.github.com/spec/v1\nsize 12345\noid sha256:" + oid + "\n",
		"twice":           good + "size 12346\n",
		"path":            strings.Replace(good, oid, "../../../../../../../../../../../../../../../../../../../../../etc/x", 1),
		"upper case":      strings.Replace(good, oid, strings.ToUpper(oid), 1),
		"md5":             strings.Replace(good, "sha256", "md5", 1),
		"negative":        strings.Replace(good, "12345", "-1", 1),
		"plus":            strings.Replace(good, "12345", "+1", 1),
		"zeros":           strings.Replace(good, "12345", "012345", 1),
		"huge":            strings.Replace(good, "12345", "99999999999999999999", 1),
		"no size":         strings.Replace(good, "size 12345\n", "", 1),
		"no oid":          "version https://git-lfs.github.com/spec/v1\nsize 12345\n",
		"bad key":         good + "ü x\n",
		"long":            good + "x " + strings.Repeat("y", 1000) + "\n",
	} {
		if o, ok := lfs.Parse([]byte(text)); ok {
			t.Errorf("%s: %v", what, o)
		}
	}
}

func FuzzPointer(f *testing.F) {
	f.Add([]byte("version https://git-lfs.github.com/spec/v1\noid sha256:" + oid + "\nsize 12345\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if o, ok := lfs.Parse(data); ok && (!lfs.ValidOID(o.OID) || o.Size < 0 || len(data) >= lfs.MaxPointer) {
			t.Errorf("%q is %v", data, o)
		}
	})
}

func FuzzBatch(f *testing.F) {
	f.Add([]byte(`{"operation":"download","transfers":["basic"],"objects":[{"oid":"` + oid + `","size":1}]}`))
	f.Add([]byte(`{"transfer":"basic","objects":[{"oid":"` + oid + `","size":1,"actions":{"download":{"href":"https://x/"}}}]}`))
	f.Add([]byte(`{"href":"https://x/y","header":{"Authorization":"RemoteAuth z"},"expires_in":60}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if q, err := lfs.ReadRequest(bytes.NewReader(data)); err == nil {
			for _, o := range q.Objects {
				if !lfs.ValidOID(o.OID) || o.Size < 0 {
					t.Errorf("request: %v", o)
				}
			}
		}
		if a, err := lfs.ReadAction(data); err == nil && !strings.HasPrefix(strings.ToLower(a.Href), "https://") {
			t.Errorf("action: %v", a)
		}
		asked := []lfs.Object{{OID: oid, Size: 1}}
		if p, err := lfs.ReadResponse(bytes.NewReader(data), asked); err == nil {
			for id, a := range p {
				if id != oid || a.Error == nil && a.Size != 1 {
					t.Errorf("response: %v", a)
				}
			}
		}
	})
}

func server(t *testing.T, f *gatetest.LFSServer) *lfs.Server {
	t.Helper()
	s := &lfs.Server{URL: f.URL, Roots: f.Roots, Stall: 5 * time.Second}
	t.Cleanup(s.Close)
	return s
}

func nothing(lfs.Object) {}

// TestTransfer: objects come and go, what is missing is told apart from what fails, credentials go to
// the server, and nothing is left on the way.
func TestTransfer(t *testing.T) {
	t.Parallel()
	f := gatetest.NewLFS(t)
	f.Password = "secret"
	s := server(t, f)
	s.User, s.Password = "x", []byte("secret")
	a, b, gone := f.Add("first"), f.Add(strings.Repeat("second", 100_000)), gatetest.LFSObject("gone")
	dir := lfs.Dir(filepath.Join(t.TempDir(), "lfs"))
	told := 0
	r, err := s.Fetch(t.Context(), []lfs.Object{a, b, gone}, dir, counting(&told))
	if err != nil || len(r.Missing) != 1 || r.Missing[0] != gone || len(r.Failed) != 0 {
		t.Fatalf("%+v %v", r, err)
	}
	if !dir.Has(a) || !dir.Has(b) || dir.Has(gone) || dir.Has(lfs.Object{OID: a.OID, Size: a.Size + 1}) {
		t.Error("the directory has something else")
	}
	if n, bytes, err := dir.Usage(); n != 2 || bytes != a.Size+b.Size || err != nil {
		t.Errorf("usage %d %d %v", n, bytes, err)
	}
	if left, _ := os.ReadDir(filepath.Join(string(dir), "tmp")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	from := lfs.Dir(filepath.Join(t.TempDir(), "lfs"))
	c := gatetest.LFSObject("third")
	if err := from.Put(t.Context(), c, "t", strings.NewReader("third")); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Send(t.Context(), []lfs.Object{a, c, gone}, from, nothing); err != nil || len(r.Missing) != 1 || r.Missing[0] != gone || len(r.Failed) != 0 {
		t.Fatalf("send: %+v %v", r, err)
	}
	if string(f.Objects()[c.OID]) != "third" || !f.Verified(c.OID) {
		t.Error("it did not arrive, or was not verified")
	}
	s2 := server(t, f)
	if _, err := s2.Fetch(t.Context(), []lfs.Object{a}, lfs.Dir(filepath.Join(t.TempDir(), "lfs")), nothing); err == nil || !strings.Contains(err.Error(), "let us in") {
		t.Errorf("without a password: %v", err)
	}
}

func counting(n *int) func(lfs.Object) { return func(lfs.Object) { *n++ } }

// TestHostileServer: what an LFS server answers makes the host ask nothing but https servers that are no
// nearer than itself, gives no credentials away, and stores nothing that is not what it should be.
func TestHostileServer(t *testing.T) {
	t.Parallel()
	var canary []string
	other := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		canary = append(canary, r.Header.Get("Authorization")+"|"+r.Header.Get("X-Key"))
		_, _ = w.Write([]byte("content"))
	}))
	t.Cleanup(other.Close)
	o := gatetest.LFSObject("content")
	href := func(u string) func(*lfs.Answer, string) {
		return func(a *lfs.Answer, _ string) {
			a.Actions = map[string]lfs.Action{lfs.Download: {Href: u, Header: map[string]string{"X-Key": "k"}}}
		}
	}
	body := func(text string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet {
				_, _ = w.Write([]byte(text))
			}
			return r.Method == http.MethodGet
		}
	}
	for what, c := range map[string]struct {
		answer func(*lfs.Answer, string)
		serve  func(http.ResponseWriter, *http.Request) bool
		want   string
	}{
		"file":   {answer: href("file:///etc/passwd"), want: "not https"},
		"http":   {answer: href("http://127.0.0.1:1/"), want: "not https"},
		"user":   {answer: href("https://u:p@127.0.0.1:1/"), want: "not https"},
		"long":   {answer: href("https://x/" + strings.Repeat("y", 20_000)), want: "too long"},
		"floor":  {answer: href("https://169.254.169.254/latest"), want: "where the LFS server itself is not"},
		"digest": {serve: body("CONTENT"), want: "digest"},
		"short":  {serve: body("cont"), want: "another size"},
		"endless": {serve: func(w http.ResponseWriter, r *http.Request) bool {
			for r.Method == http.MethodGet && r.Context().Err() == nil {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					break
				}
			}
			return r.Method == http.MethodGet
		}, want: "another size"},
		"silent": {serve: func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == http.MethodGet {
				w.Header().Set("Content-Length", "7")
				_, _ = w.Write([]byte("con"))
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			}
			return r.Method == http.MethodGet
		}, want: "nothing came"},
		"size":    {answer: func(a *lfs.Answer, _ string) { a.Size = 1 << 60 }, want: "says nothing"},
		"loop":    {serve: redirect("/loop"), want: "too many redirects"},
		"to http": {serve: redirect("http://127.0.0.1:1/"), want: "not https"},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			f := gatetest.NewLFS(t)
			f.Add("content")
			f.Answer, f.Serve = c.answer, c.serve
			s := server(t, f)
			if s.Stall = 10 * time.Second; what == "silent" {
				s.Stall = 3 * time.Second // the batch before it must be answered on a loaded machine
			}
			dir := lfs.Dir(filepath.Join(t.TempDir(), "lfs"))
			r, err := s.Fetch(t.Context(), []lfs.Object{o}, dir, nothing)
			if err != nil || len(r.Failed) != 1 || !strings.Contains(r.Failed[0].Why, c.want) {
				t.Errorf("%+v %v", r, err)
			}
			if n, _, _ := dir.Usage(); n != 0 {
				t.Error("something was stored")
			}
			if left, _ := os.ReadDir(filepath.Join(string(dir), "tmp")); len(left) != 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
	t.Run("another host", func(t *testing.T) {
		f := gatetest.NewLFS(t)
		f.Add("content")
		f.Answer = href(other.URL + "/x")
		s := server(t, f)
		s.Roots.AddCert(other.Certificate())
		s.User, s.Password = "x", []byte("secret")
		dir := lfs.Dir(filepath.Join(t.TempDir(), "lfs"))
		if r, err := s.Fetch(t.Context(), []lfs.Object{o}, dir, nothing); err != nil || len(r.Failed) != 0 {
			t.Fatalf("%+v %v", r, err)
		}
		f.Answer, f.Serve = nil, redirect(other.URL+"/y")
		if r, err := s.Fetch(t.Context(), []lfs.Object{o}, lfs.Dir(filepath.Join(t.TempDir(), "lfs")), nothing); err != nil || len(r.Failed) != 0 {
			t.Fatalf("%+v %v", r, err)
		}
		f.Answer = func(a *lfs.Answer, _ string) {
			a.Actions[lfs.Download] = lfs.Action{Href: a.Actions[lfs.Download].Href, Header: map[string]string{"X-Key": "k", "Authorization": "Bearer t"}}
		}
		if r, err := s.Fetch(t.Context(), []lfs.Object{o}, lfs.Dir(filepath.Join(t.TempDir(), "lfs")), nothing); err != nil || len(r.Failed) != 0 {
			t.Fatalf("%+v %v", r, err)
		}
		if got := strings.Join(canary, " "); got != "|k | |" {
			t.Errorf("another host got %q", got)
		}
	})
}

func redirect(to string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			http.Redirect(w, r, to, http.StatusFound)
		}
		return r.Method == http.MethodGet
	}
}

// TestNearer: a server that somebody else named is in no network that the one who named it is not in.
func TestNearer(t *testing.T) {
	t.Parallel()
	f := gatetest.NewLFS(t)
	f.Add("content")
	s := server(t, f)
	s.Beside = "192.0.2.1"
	_, err := s.Fetch(t.Context(), []lfs.Object{gatetest.LFSObject("content")}, lfs.Dir(filepath.Join(t.TempDir(), "lfs")), nothing)
	if err == nil || !strings.Contains(err.Error(), "where the LFS server itself is not") || len(f.Asked()) != 0 {
		t.Errorf("%v, asked %v", err, f.Asked())
	}
	for _, bad := range []string{"http://127.0.0.1/x", "file:///x", "https://u:p@h/x", "https:///x", "ssh://h/x"} {
		s := &lfs.Server{URL: bad}
		if _, err := s.Fetch(t.Context(), []lfs.Object{{OID: oid, Size: 1}}, lfs.Dir(t.TempDir()), nothing); err == nil {
			t.Errorf("%s is asked", bad)
		}
	}
}

// TestLoopbackFromOutside: an LFS server that is not on this machine makes nothing on it be asked.
func TestLoopbackFromOutside(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &lfs.Server{URL: "https://lfs.example.test/x", Stall: 5 * time.Second}
	if err := s.DialFor(t.Context(), l.Addr().String()); err == nil || !strings.Contains(err.Error(), "where the LFS server itself is not") {
		t.Errorf("%v", err)
	}
}

// TestDir: names, links and killed uploads.
func TestDir(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	dir := lfs.Dir(filepath.Join(base, "lfs"))
	o := gatetest.LFSObject("content")
	for _, bad := range []string{"../../x", strings.Repeat("/", 64), strings.Repeat("A", 64), ""} {
		if err := dir.Put(t.Context(), lfs.Object{OID: bad, Size: 1}, "t", strings.NewReader("x")); err == nil || dir.Has(lfs.Object{OID: bad, Size: 1}) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := dir.Put(t.Context(), o, "t", strings.NewReader("other")); !errors.Is(err, lfs.ErrSize) {
		t.Errorf("size: %v", err)
	}
	if err := dir.Put(t.Context(), o, "t", strings.NewReader("CONTENT")); !errors.Is(err, lfs.ErrDigest) {
		t.Errorf("digest: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := dir.Put(ctx, o, "t", strings.NewReader("content")); err == nil {
		t.Error("a cancelled one succeeds")
	}
	// A link that leads out is not followed, wherever it stands.
	secret := filepath.Join(base, "secret")
	if err := os.WriteFile(secret, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(string(dir), "objects", o.OID[:2], o.OID[2:4], o.OID)
	if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.Symlink(secret, to)); err != nil {
		t.Fatal(err)
	}
	if dir.Has(o) {
		t.Error("a link is an object")
	}
	if err := os.Remove(to); err != nil {
		t.Fatal(err)
	}
	if err := dir.Put(t.Context(), o, "t", strings.NewReader("content")); err != nil || !dir.Has(o) {
		t.Errorf("put: %v", err)
	}
	for _, name := range []string{"up-a-1", "up-b-2"} {
		if err := os.WriteFile(filepath.Join(string(dir), "tmp", name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	dir.Sweep("up-b")
	if left, _ := os.ReadDir(filepath.Join(string(dir), "tmp")); fmt.Sprint(left) != "[- up-b-2]" {
		t.Errorf("left: %v", left)
	}
	if n, _, err := dir.Prune(map[string]bool{}, time.Now().Add(-time.Hour), false); n != 0 || err != nil {
		t.Errorf("a young one is dropped: %d %v", n, err)
	}
	if n, _, err := dir.Prune(map[string]bool{o.OID: true}, time.Now().Add(time.Hour), false); n != 0 || err != nil {
		t.Errorf("one in use is dropped: %d %v", n, err)
	}
	if n, bytes, err := dir.Prune(map[string]bool{}, time.Now().Add(time.Hour), false); n != 1 || bytes != o.Size || err != nil || dir.Has(o) {
		t.Errorf("prune: %d %d %v", n, bytes, err)
	}
}
