package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/lfs"
	"terok/internal/vault/front"
)

func withLFS(c *Config) { c.LFS = true }

// ask makes a request with the task's token.
func (s *served) ask(method, path string, header map[string]string, body []byte) (int, string) {
	s.T.Helper()
	r, err := http.NewRequestWithContext(s.T.Context(), method, s.bare+lfsPath+path, bytes.NewReader(body))
	if err != nil {
		s.T.Fatal(err)
	}
	r.SetBasicAuth("terok", token)
	for k, v := range header {
		r.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		s.T.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		s.T.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func (s *served) batch(operation string, objects ...lfs.Object) []lfs.Answer {
	s.T.Helper()
	body, _ := json.Marshal(lfs.Request{Operation: operation, Transfers: []string{"basic"}, Objects: objects})
	status, out := s.ask("POST", "objects/batch", nil, body)
	var p lfs.Response
	if err := json.Unmarshal([]byte(out), &p); status != http.StatusOK || err != nil || len(p.Objects) != len(objects) {
		s.T.Fatalf("batch: %d %s", status, out)
	}
	return p.Objects
}

// TestLFSDownload: spec/gate.md §13. A task gets what the host fetched and what it sent itself, by range
// too, and nothing that another task sent; names lead nowhere; there are no locks.
func TestLFSDownload(t *testing.T) {
	s := serve(t, withLFS)
	other := serveTask(t, s.World, s.Task("q8w2x"), withLFS)
	put := func(dir lfs.Dir, content string) lfs.Object {
		t.Helper()
		o := gatetest.LFSObject(content)
		if err := dir.Put(t.Context(), o, "test", strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		return o
	}
	base, mine, theirs := put(lfs.Of(s.task.Base), "from upstream"), put(lfs.Of(s.task.Repo), "mine"), put(lfs.Of(other.task.Repo), "theirs")
	answers := s.batch(lfs.Download, base, mine, theirs)
	if answers[0].Actions[lfs.Download].Href != s.bare+lfsPath+"objects/"+base.OID || answers[1].Error != nil {
		t.Errorf("%+v", answers)
	}
	if e := answers[2].Error; e == nil || e.Code != http.StatusNotFound || len(answers[2].Actions) != 0 {
		t.Errorf("another task's object: %+v", answers[2])
	}
	if status, body := s.ask("GET", "objects/"+base.OID, nil, nil); status != 200 || body != "from upstream" {
		t.Errorf("%d %s", status, body)
	}
	if status, body := s.ask("GET", "objects/"+mine.OID, map[string]string{"Range": "bytes=2-"}, nil); status != 206 || body != "ne" {
		t.Errorf("range: %d %s", status, body)
	}
	if status, body := s.ask("GET", "objects/"+theirs.OID, nil, nil); status != 404 {
		t.Errorf("another task's object: %d %s", status, body)
	}
	if up := s.batch(lfs.Upload, base, theirs); len(up[0].Actions) != 0 || len(up[1].Actions) == 0 {
		t.Errorf("upload: %+v", up)
	}
	for _, path := range []string{"objects/../../config", "objects/" + strings.Repeat("a", 63), "objects/" + strings.Repeat("A", 64), "objects/..%2f..%2fHEAD", "objects/", "locks", "locks/verify", "x"} {
		if status, body := s.ask("GET", path, nil, nil); status == 200 {
			t.Errorf("%s: %s", path, body)
		}
	}
	if status, body := s.ask("POST", "locks/verify", nil, []byte("{}")); status != 404 || !strings.Contains(body, `"message"`) {
		t.Errorf("locks: %d %s", status, body)
	}
	for _, body := range []string{"", "{", `{"operation":"x","objects":[]}`, `{"operation":"download","objects":[{"oid":"../../x","size":1}]}`,
		`{"operation":"download","objects":[{"oid":"` + base.OID + `","size":-1}]}`, `{"operation":"download","objects":[` + strings.Repeat(`{"oid":"`+base.OID+`","size":1},`, lfs.MaxBatch) + `{"oid":"` + base.OID + `","size":1}]}`,
		`{"operation":"download","hash_algo":"md5","objects":[]}`, `{"operation":"download","objects":[]}{}`} {
		if status, out := s.ask("POST", "objects/batch", nil, []byte(body)); status != http.StatusUnprocessableEntity {
			t.Errorf("%.60s: %d %s", body, status, out)
		}
	}
	if resp, err := http.Post(s.bare+lfsPath+"objects/batch", lfs.Media, strings.NewReader("{}")); err != nil || resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("without a token: %v %v", resp, err)
	}
	off := serveTask(t, s.World, s.Task("z5z5z"))
	if status, _ := off.ask("GET", "objects/"+base.OID, nil, nil); status != 404 {
		t.Errorf("off: %d", status)
	}
}

// TestLFSUpload: what a task sends is its own, whole, of the digest it says, within quota and limit;
// frozen tasks send nothing, and a killed upload leaves nothing.
func TestLFSUpload(t *testing.T) {
	s := serve(t, withLFS, func(c *Config) {
		c.Limits.MaxFile, c.Limits.Quota, c.Limits.Headroom = 1<<20, 3<<19, 1
	})
	own := lfs.Of(s.task.Repo)
	o := gatetest.LFSObject("content")
	if a := s.batch(lfs.Upload, o); a[0].Actions[lfs.Upload].Header["Authorization"] == "" || !a[0].Authenticated {
		t.Errorf("%+v", a)
	}
	if status, out := s.ask("PUT", "objects/"+o.OID, nil, []byte("CONTENT")); status != http.StatusUnprocessableEntity {
		t.Errorf("another digest: %d %s", status, out)
	}
	if status, out := s.ask("PUT", "objects/"+o.OID, map[string]string{"Content-Encoding": "gzip"}, []byte("content")); status != http.StatusLengthRequired {
		t.Errorf("encoded: %d %s", status, out)
	}
	if own.Has(o) {
		t.Fatal("it is there")
	}
	if status, out := s.ask("PUT", "objects/"+o.OID, nil, []byte("content")); status != http.StatusOK || !own.Has(o) {
		t.Fatalf("%d %s", status, out)
	}
	if status, out := s.ask("PUT", "objects/"+o.OID, nil, []byte("content")); status != http.StatusOK {
		t.Errorf("again: %d %s", status, out)
	}
	if a := s.batch(lfs.Upload, o); len(a[0].Actions) != 0 || a[0].Error != nil {
		t.Errorf("it is there: %+v", a)
	}
	if e := s.Ledger.Events("lfs_received"); len(e) != 2 || e[0].Detail["oid"] != o.OID || len(s.Ledger.Events("lfs_refused")) != 1 {
		t.Errorf("ledger: %+v", e)
	}
	big := strings.Repeat("x", 1<<20+1)
	if a := s.batch(lfs.Upload, gatetest.LFSObject(big)); a[0].Error == nil || !strings.Contains(a[0].Error.Message, "max_file_mb") {
		t.Errorf("too large: %+v", a)
	}
	if status, out := s.ask("PUT", "objects/"+gatetest.LFSObject(big).OID, nil, []byte(big)); status != http.StatusRequestEntityTooLarge {
		t.Errorf("too large: %d %s", status, out)
	}
	first, second := strings.Repeat("y", 1<<20), strings.Repeat("z", 1<<20)
	if a := s.batch(lfs.Upload, gatetest.LFSObject(first), gatetest.LFSObject(second)); a[0].Error != nil || a[1].Error == nil || a[1].Error.Code != http.StatusInsufficientStorage {
		t.Errorf("quota: %+v", a)
	}
	if status, out := s.ask("PUT", "objects/"+gatetest.LFSObject(first).OID, nil, []byte(first)); status != http.StatusOK {
		t.Errorf("%d %s", status, out)
	}
	if status, out := s.ask("PUT", "objects/"+gatetest.LFSObject(second).OID, nil, []byte(second)); status != http.StatusInsufficientStorage || !strings.Contains(out, "quota") {
		t.Errorf("quota: %d %s", status, out)
	}
	s.commit("big.txt", second[:1<<19])
	if err := s.Store.Freeze(gatetest.Project, "k3v9p", "odd"); err != nil {
		t.Fatal(err)
	}
	small := gatetest.LFSObject("small")
	if status, out := s.ask("PUT", "objects/"+small.OID, nil, []byte("small")); status != http.StatusForbidden || !strings.Contains(out, "frozen") {
		t.Errorf("frozen: %d %s", status, out)
	}
	body, _ := json.Marshal(lfs.Request{Operation: lfs.Upload, Objects: []lfs.Object{small}})
	if status, out := s.ask("POST", "objects/batch", nil, body); status != http.StatusForbidden || !strings.Contains(out, "frozen") {
		t.Errorf("frozen: %d %s", status, out)
	}
	if err := s.Store.Thaw(gatetest.Project, "k3v9p"); err != nil {
		t.Fatal(err)
	}
	// The quota is one: objects in LFS leave less for packs.
	h := New(Config{Git: s.Store.Git, Repo: s.task.Repo, Base: s.task.Base, Limits: Limits{Quota: 1 << 20, Headroom: 1}})
	if room, why, err := h.room(); room != 0 || !strings.Contains(why, "quota") || err != nil {
		t.Errorf("room %d %s %v", room, why, err)
	}
}

// TestLFSSecrets: what a push must not hold must not come as a file in Git LFS either: terok's tokens never,
// vendors' keys where the project does not allow them, wherever in the file they stand. Nothing of it stays.
func TestLFSSecrets(t *testing.T) {
	ghost, key := front.NewPhantom(), "ghp_a8Bq2kX91mZpL0vR7tYw3uNc5dJeFsGh4iQo"
	var betrayed []string
	s := serve(t, withLFS, func(c *Config) { c.Leaked = func(token string) { betrayed = append(betrayed, token) } })
	send := func(s *served, content string) (int, string) {
		t.Helper()
		o := gatetest.LFSObject(content)
		status, out := s.ask("PUT", "objects/"+o.OID, nil, []byte(content))
		if has := lfs.Of(s.task.Repo).Has(o); has != (status == http.StatusOK) {
			t.Errorf("%d, and it is there: %v", status, has)
		}
		return status, out
	}
	far := strings.Repeat("\x00binary\n", 300_000)
	for content, kind := range map[string]string{
		far + "T=" + ghost + "\n" + far:                "phantom token of terok",
		"key " + key + " and " + ghost:                 "phantom token of terok",
		"terok-g-" + strings.Repeat("0123456789ab", 4): "gate token of terok",
		far + key: "GitHub token",
	} {
		if status, out := send(s, content); status != http.StatusForbidden || !strings.Contains(out, `{"message":"terok: `) || !strings.Contains(out, kind) ||
			strings.Contains(out, ghost) || strings.Contains(out, key) {
			t.Errorf("%s: %d %s", kind, status, out)
		}
		// git-lfs tries again until the batch says no.
		if a := s.batch(lfs.Upload, gatetest.LFSObject(content)); a[0].Error == nil || !strings.Contains(a[0].Error.Message, "holds a secret: "+kind) || len(a[0].Actions) != 0 {
			t.Errorf("%s: batch: %+v", kind, a[0])
		}
	}
	if left, _ := os.ReadDir(filepath.Join(string(lfs.Of(s.task.Repo)), "tmp")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if !slices.Equal(betrayed, []string{ghost, ghost}) { // once for each of the two files
		t.Errorf("phantoms told: %d", len(betrayed))
	}
	events := s.Ledger.Events("leak_suspected")
	if len(events) != 4 || len(s.Ledger.Events("lfs_refused")) != 4 || events[0].Reason != "sent in Git LFS" {
		t.Errorf("ledger: %+v", events)
	}
	if status, out := send(s, far+"nothing in it"); status != http.StatusOK {
		t.Errorf("%d %s", status, out)
	}
	lenient := serveTask(t, s.World, s.Task("z5z5z"), withLFS, func(c *Config) { c.AllowSecrets = true })
	if status, out := send(lenient, key); status != http.StatusOK {
		t.Errorf("allowed: %d %s", status, out)
	}
	if status, out := send(lenient, key+" "+ghost); status != http.StatusForbidden {
		t.Errorf("never allowed: %d %s", status, out)
	}
}

// TestLFSCutOff: an upload whose client goes away is not there and leaves nothing; what a killed worker
// left goes at the next start, and not what is under way.
func TestLFSCutOff(t *testing.T) {
	s := serve(t, withLFS, func(c *Config) { c.Limits.Headroom = 1 })
	o := gatetest.LFSObject(strings.Repeat("x", 1<<20))
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(s.bare, "http://"), Path))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "PUT %s%sobjects/%s HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eDp0ZXJvay1nLTAxMjM0NTY3ODk=\r\nContent-Length: %d\r\n\r\n%s", Path, lfsPath, o.OID, o.Size, strings.Repeat("x", 1000))
	tmp := filepath.Join(string(lfs.Of(s.task.Repo)), "tmp")
	entries := func() int { list, _ := os.ReadDir(tmp); return len(list) }
	await(t, "the upload begins", func() bool { return entries() == 1 })
	conn.Close()
	await(t, "the upload's file is gone", func() bool { return entries() == 0 })
	if lfs.Of(s.task.Repo).Has(o) {
		t.Error("half of it is there")
	}
	if err := os.WriteFile(filepath.Join(tmp, "up-EARLIER-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := New(Config{Git: s.Store.Git, Repo: s.task.Repo, Base: s.task.Base, LFS: true})
	if err := os.WriteFile(filepath.Join(tmp, h.uploads+"-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := h.Recover(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if list, _ := os.ReadDir(tmp); len(list) != 1 || list[0].Name() != h.uploads+"-1" {
		t.Errorf("left: %v", list)
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}
