package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/problem"
)

// fake is a backend that remembers and answers what the test says.
type fake struct {
	err     error
	change  RuleChange
	events  chan StreamItem
	since   uint64
	answers bool
	verdict VerdictChange
	ended   chan struct{}
}

func (f *fake) Status(context.Context) (Status, error) {
	return Status{Key: "webshop-k3v9p", Posture: Up}, f.err
}
func (f *fake) Rules(context.Context) ([]RuleView, error) { return nil, f.err }
func (f *fake) ChangeRule(_ context.Context, c RuleChange) (RuleView, error) {
	f.change = c
	return RuleView{Rule: c.Rule, Tier: "session"}, f.err
}
func (f *fake) Explain(_ context.Context, t Target) (Explanation, error) {
	return Explanation{Target: t, Verdict: "deny"}, f.err
}
func (f *fake) SetPosture(_ context.Context, c PostureChange) (Status, error) {
	return Status{Posture: c.Posture}, f.err
}
func (f *fake) RevokeCredentials(_ context.Context, r Revocation) (Revoked, error) {
	return Revoked{Providers: []string{r.Provider}}, f.err
}
func (f *fake) RotateGateToken(_ context.Context, r Rotation) (Rotated, error) {
	return Rotated{Delivered: r.Via == "cli"}, f.err
}
func (f *fake) Reload(context.Context) (Status, error) { return Status{Rules: 7}, f.err }
func (f *fake) Requests(context.Context) ([]Request, error) {
	return []Request{{ID: "r1", State: RequestOpen}}, f.err
}
func (f *fake) Verdict(_ context.Context, v VerdictChange) (Request, error) {
	f.verdict = v
	return Request{ID: v.ID, State: RequestApplied}, f.err
}
func (f *fake) Undo(_ context.Context, v UndoChange) (Request, error) {
	return Request{ID: v.ID, State: RequestOpen}, f.err
}
func (f *fake) Events(_ context.Context, answers bool, since uint64) (Snapshot, <-chan StreamItem, func(), error) {
	f.since, f.answers = since, answers
	return Snapshot{Status: Status{Key: "k"}, Seq: 41}, f.events, func() { close(f.ended) }, f.err
}

// serve runs a backend on a real socket.
func serve(t *testing.T, b Backend) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "control.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: Handler(b), ReadHeaderTimeout: time.Second}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return Dial(socket)
}

func TestRoundTrips(t *testing.T) {
	f := &fake{}
	c, ctx := serve(t, f), t.Context()
	if s, err := c.Status(ctx); err != nil || s.Key != "webshop-k3v9p" || s.Posture != Up {
		t.Error(s, err)
	}
	if r, err := c.Rules(ctx); err != nil || r == nil || len(r) != 0 {
		t.Error(r, err)
	}
	change := RuleChange{Rule: "+a.test:443", Reason: "because", Actor: "operator"}
	if r, err := c.ChangeRule(ctx, change); err != nil || r.Tier != "session" || f.change != change {
		t.Error(r, err, f.change)
	}
	if e, err := c.Explain(ctx, Target{Host: "a.test", Port: 443}); err != nil || e.Target.Port != 443 {
		t.Error(e, err)
	}
	if s, err := c.SetPosture(ctx, PostureChange{Posture: Quarantine}); err != nil || s.Posture != Quarantine {
		t.Error(s, err)
	}
	if r, err := c.Requests(ctx); err != nil || len(r) != 1 || r[0].ID != "r1" {
		t.Error(r, err)
	}
	v := VerdictChange{ID: "r1", Hash: "h", Host: "a.test", Port: 443, Proto: "tcp", Choice: ChoiceOnce, Via: "cli"}
	if r, err := c.Verdict(ctx, v); err != nil || r.State != RequestApplied || f.verdict != v {
		t.Error(r, err, f.verdict)
	}
	if r, err := c.Undo(ctx, UndoChange{ID: "r1"}); err != nil || r.ID != "r1" || r.State != RequestOpen {
		t.Error(r, err)
	}
	if r, err := c.RevokeCredentials(ctx, Revocation{Provider: "github", Now: true}); err != nil || len(r.Providers) != 1 || r.Providers[0] != "github" {
		t.Error(r, err)
	}
	if s, err := c.Reload(ctx); err != nil || s.Rules != 7 {
		t.Error(s, err)
	}
}

func TestRefusalsKeepTheirWords(t *testing.T) {
	f := &fake{}
	c := serve(t, f)
	for _, err := range []error{
		&Error{Code: "rule_invalid", Message: "no such host", Hint: "terok shield allow HOST"},
		problem.New("rule_invalid", problem.Usage, "no such host").WithHint("terok shield allow HOST"),
		fmt.Errorf("change: %w", &Error{Code: "rule_invalid", Message: "no such host", Hint: "terok shield allow HOST"}),
	} {
		f.err = err
		_, got := c.ChangeRule(t.Context(), RuleChange{})
		e, ok := errors.AsType[*Error](got)
		if !ok || e.Code != "rule_invalid" || !strings.Contains(e.Message, "no such host") || e.Hint != "terok shield allow HOST" {
			t.Errorf("%v became %#v", err, got)
		}
	}
	f.err = io.ErrUnexpectedEOF
	if _, err := c.Status(t.Context()); err == nil || err.(*Error).Code != "internal" {
		t.Error(err)
	}
}

func TestNoSupervisor(t *testing.T) {
	dir := t.TempDir()
	if _, err := Dial(filepath.Join(dir, "control.sock")).Status(t.Context()); !errors.Is(err, ErrNoSupervisor) {
		t.Errorf("no socket: %v", err)
	}
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	if _, err := Dial(stale).Status(t.Context()); !errors.Is(err, ErrNoSupervisor) {
		t.Errorf("nobody listens: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Dial(stale).Status(ctx); errors.Is(err, ErrNoSupervisor) || !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled call: %v", err)
	}
}

// TestHostileServer: a supervisor that has been taken over cannot hang or fill the operator's program.
func TestHostileServer(t *testing.T) {
	for name, h := range map[string]http.HandlerFunc{
		"endless": func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
					return
				}
			}
		},
		"garbage":     func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "<html>") },
		"empty error": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) },
		"redirect":    func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(302) },
		"long error": func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(400)
			io.WriteString(w, strings.Repeat("x", 1<<20))
		},
		"null stream": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "event: event\ndata: null\n\n")
		},
		"endless line": func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, "data: "+strings.Repeat("x", 2<<20))
		},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			srv := httptest.NewUnstartedServer(h)
			srv.Listener.Close()
			srv.Listener = l
			srv.Start()
			defer srv.Close()
			c := Dial(socket)
			if _, err := c.Status(t.Context()); err == nil || errors.Is(err, ErrNoSupervisor) {
				t.Errorf("status: %v", err)
			}
			if name == "endless" {
				return
			}
			if err := c.Events(t.Context(), 0, func(StreamItem) error { return nil }); err == nil {
				t.Error("events: nil")
			}
		})
	}
}

func TestEvents(t *testing.T) {
	f := &fake{events: make(chan StreamItem, 4), ended: make(chan struct{})}
	c := serve(t, f)
	f.events <- StreamItem{Event: &audit.Event{V: 1, Seq: 42, Ev: "flow_denied", Name: "a\nb\r\n\ndata: x"}, Seq: 43}
	f.events <- StreamItem{Gap: 3}
	f.events <- StreamItem{Request: &Request{ID: "r1", Host: "a.test", Seq: 44}, Seq: 44}
	var got []StreamItem
	stop := errors.New("enough")
	err := c.Events(t.Context(), 7, func(i StreamItem) error {
		if got = append(got, i); len(got) == 4 {
			return stop
		}
		return nil
	})
	if err != stop || f.since != 7 || len(got) != 4 || got[0].Snapshot.Seq != 41 || got[0].Snapshot.Requests == nil ||
		got[1].Event.Name != "a\nb\r\n\ndata: x" || got[1].Seq != 43 || got[2].Gap != 3 || got[3].Request.Host != "a.test" || f.answers {
		t.Fatalf("%v %d %+v", err, f.since, got)
	}
	<-f.ended // the server noticed that the client is gone

	f.ended = make(chan struct{})
	close(f.events)
	if err := c.Events(t.Context(), 0, func(StreamItem) error { return nil }); !errors.Is(err, ErrNoSupervisor) {
		t.Errorf("a stream that ends: %v", err)
	}
	f.err = &Error{Code: "conflict", Message: "no"}
	if err := c.Events(t.Context(), 0, nil); err == nil || err.Error() != "no" {
		t.Errorf("a refused stream: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	f.err, f.ended, f.events = nil, make(chan struct{}), make(chan StreamItem)
	if err := c.Events(ctx, 0, func(StreamItem) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled stream: %v", err)
	}
}

func TestStrictRequests(t *testing.T) {
	h := Handler(&fake{})
	for name, c := range map[string]struct {
		method, path, ct, body string
		status                 int
	}{
		"good":           {"POST", "/v1/rules", "application/json", `{"rule":"+a.test"}`, 200},
		"charset":        {"POST", "/v1/rules", "application/json; charset=utf-8", `{"rule":"+a.test"}`, 200},
		"unknown field":  {"POST", "/v1/rules", "application/json", `{"rule":"+a.test","tier":"floor"}`, 400},
		"wrong type":     {"POST", "/v1/explain", "application/json", `{"port":70000}`, 400},
		"trailing":       {"POST", "/v1/rules", "application/json", `{"rule":"a"}{}`, 400},
		"empty":          {"POST", "/v1/rules", "application/json", ``, 400},
		"array":          {"POST", "/v1/rules", "application/json", `[]`, 400},
		"large":          {"POST", "/v1/rules", "application/json", `{"rule":"` + strings.Repeat("x", maxRequest) + `"}`, 413},
		"form":           {"POST", "/v1/rules", "application/x-www-form-urlencoded", `{"rule":"a"}`, 400},
		"no type":        {"POST", "/v1/rules", "", `{"rule":"a"}`, 400},
		"unknown route":  {"GET", "/v1/secrets", "", ``, 404},
		"root":           {"GET", "/", "", ``, 404},
		"method":         {"DELETE", "/v1/rules", "application/json", ``, 404},
		"get of a post":  {"GET", "/v1/reload", "", ``, 404},
		"bad answers":    {"GET", "/v1/events?answers=yes", "", ``, 400},
		"bad since":      {"GET", "/v1/events?since=-1", "", ``, 400},
		"reload is bare": {"POST", "/v1/reload", "application/json", `{"x":1}`, 400},
	} {
		r := httptest.NewRequest(c.method, "http://supervisor"+c.path, strings.NewReader(c.body))
		r.Header.Set("Content-Type", c.ct)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		var e Error
		if w.Code != c.status || w.Code != 200 && (json.Unmarshal(w.Body.Bytes(), &e) != nil || e.Code == "" || e.Message == "") {
			t.Errorf("%s: status %d, %s", name, w.Code, w.Body)
		}
	}
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "run", "control.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
		if fi, err := os.Stat(p); err != nil || fi.Mode().Perm() != want {
			t.Errorf("%s: %v %v", p, fi.Mode(), err)
		}
	}
	if l.Addr().String() != socket {
		t.Error(l.Addr())
	}
	if _, err := Listen(socket); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a second listener: %v", err)
	}
	// Killed: the socket stays and the next one takes its place.
	l.(*listener).UnixListener.Close()
	next, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	l.Close() // must not take the successor's socket away
	if _, err := os.Stat(socket); err != nil {
		t.Error(err)
	}
	next.Close()
	if entries, _ := os.ReadDir(filepath.Dir(socket)); len(entries) != 0 {
		t.Errorf("left: %v", entries)
	}

	file := filepath.Join(dir, "run", "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(file); err == nil {
		t.Error("a file was replaced")
	}
	for _, mode := range []os.FileMode{0o755, 0o710, 0o777} {
		if err := os.Chmod(filepath.Dir(socket), mode); err != nil {
			t.Fatal(err)
		}
		if l, err := Listen(socket); err == nil {
			l.Close()
			t.Errorf("a directory of mode %o is fine", mode)
		}
	}
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"relative", "/" + strings.Repeat("x", 120), filepath.Join(dir, "link", "s"), "/etc/terok.sock"} {
		if l, err := Listen(bad); err == nil {
			l.Close()
			t.Errorf("%s was made", bad)
		}
	}
}

func FuzzControlRequest(f *testing.F) {
	f.Add("POST", "/v1/rules", []byte(`{"rule":"+a.test:443","expires":"2026-01-01T00:00:00Z"}`))
	f.Add("POST", "/v1/explain", []byte(`{"host":"a","port":1}`))
	f.Add("POST", "/v1/posture", []byte(`{"posture":"down","seconds":-1}`))
	f.Add("GET", "/v1/status", []byte{})
	f.Add("POST", "/v1/reload", []byte(`null`))
	h := Handler(&fake{})
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "/v1/events") {
			return
		}
		r, err := http.NewRequest(method, "http://supervisor", bytes.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path = path
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code/100 == 3 { // the mux cleans paths
			return
		}
		if !json.Valid(w.Body.Bytes()) || w.Code >= 500 {
			t.Fatalf("%s %s: status %d, %q", method, path, w.Code, w.Body)
		}
	})
}
