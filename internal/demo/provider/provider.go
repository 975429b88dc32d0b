// Package provider is a scripted LLM provider: a server that speaks the Anthropic Messages API and
// OpenAI's Responses (also over a WebSocket) and Chat Completions APIs over TLS well enough for the
// real agents, and plays a script instead of thinking. The demo and the tests point the vault's
// routes at it with ordinary provider files (upstream, ca_file, allow_private), so that a real
// agent does real work with no account.
//
// It guarantees: every request to the API must carry exactly the key that it was made with, and
// what came instead is recorded; every request's headers are recorded, so that a test can show
// what left the container and what the vault made of it. It refuses other keys with 401 as the
// real provider does, and unknown paths with 404.
//
// The place in the script is read from the conversation in each request (the ids of the tool
// calls in it; where a request only goes on from an answer, its last results), never from a counter: a retried request gets the same answer, and any number of
// conversations play at once. Requests that do not offer the script's tools (titles, summaries,
// quota checks) get a short text and move nothing.
//
//	p, err := provider.Start(provider.Config{Key: key, Dir: dir, Script: []provider.Step{
//		{Text: "I add the missing line.", Run: "echo >>f"},
//		{Text: "Done."},
//	}})
//	defer p.Close()
//	// provider file: upstream: p.URL(), ca_file: p.CAFile(), allow_private: true
package provider

import (
	"context"
	"crypto/subtle"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"
)

// Limits of what is taken and kept.
const (
	maxBody     = 32 << 20 // the real API's limit
	maxRequests = 10_000
	maxResult   = 64 << 10
)

// Config is what a Server is made of.
type Config struct {
	Key    string   // the only key that is accepted
	Script []Step   // must end with a step without a tool
	Dir    string   // the certificate of the server's CA is written here as ca.pem
	Listen string   // host:port; "" means 127.0.0.1:0
	Names  []string // further DNS names for the certificate; localhost and the loopback addresses are in it
	Delay  time.Duration
	// WebSocket accepts the upgrade that Codex tries on …/responses; otherwise it is refused, and
	// Codex goes on with ordinary requests.
	WebSocket bool
}

// Request is what is kept of one request.
type Request struct {
	Time   time.Time
	Method string
	Path   string // without query
	Query  string
	Proto  string // HTTP/1.1 or HTTP/2.0
	Header http.Header
	KeyOK  bool   // carried the right key, in whichever header
	Status int    // of the answer
	Kind   string // "step", "side", "count", "models", "hello", "probe", "upgrade" or "other"
	Step   int    // index in the script, for Kind "step"
	Model  string // as asked for
	Tools  []string
	Body   []byte // of API requests

	recorded bool
}

// Result is what came back from the tool call of one step.
type Result struct {
	Step    int
	Text    string // at most 64 KiB
	IsError bool
}

// Server plays a script. Close it.
type Server struct {
	thinking atomic.Int32
	cfg      Config
	url      string
	caFile   string
	http     *http.Server
	done     chan struct{}
	closed   chan struct{}
	once     sync.Once

	mu       sync.Mutex
	requests []Request
	results  map[int]Result
	offered  map[string][]tool // id of an answer → the tools that its request offered
	answers  int
}

// Start listens, writes the CA file and serves until Close.
func Start(cfg Config) (*Server, error) {
	if cfg.Key == "" || len(cfg.Script) == 0 || cfg.Script[len(cfg.Script)-1].calls() {
		return nil, fmt.Errorf("scripted provider: a key and a script that ends without a tool call are needed")
	}
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	caFile, cert, err := certificates(cfg.Dir, cfg.Names)
	if err != nil {
		return nil, fmt.Errorf("scripted provider: %w", err)
	}
	ln, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("scripted provider: %w", err)
	}
	s := &Server{
		cfg: cfg, caFile: caFile, url: "https://" + ln.Addr().String(),
		done: make(chan struct{}), closed: make(chan struct{}), results: map[int]Result{}, offered: map[string][]tool{},
	}
	s.http = &http.Server{
		Handler:           http.HandlerFunc(s.serve),
		ReadHeaderTimeout: 10 * time.Second,
		TLSConfig:         &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12},
		ErrorLog:          discardLog(),
	}

	go func() {
		defer close(s.done)
		_ = s.http.ServeTLS(ln, "", "")
	}()
	return s, nil
}

// serve answers one request and records it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	rec := Request{
		Time: time.Now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Proto: r.Proto,
		Header: r.Header.Clone(), KeyOK: s.keyOK(r.Header), Kind: "other",
	}
	defer func() {
		if !rec.recorded {
			s.record(rec)
		}
	}()
	path := r.URL.Path
	if path == "/" || path == "/api/hello" {
		rec.Kind, rec.Status = "hello", http.StatusOK
		answerJSON(w, http.StatusOK, map[string]string{"message": "hello"})
		return
	}
	fail := failAnthropic
	if r.Header.Get("Anthropic-Version") == "" && r.Header.Get("X-Api-Key") == "" {
		fail = failOpenAI
	}
	serve := s.endpoint(r, fail)
	switch {
	case serve == nil && !isAPI(path):
		fail(w, &rec, http.StatusNotFound, "not_found_error", "not served by the scripted provider")
		return
	case !rec.KeyOK:
		fail(w, &rec, http.StatusUnauthorized, "authentication_error", "invalid x-api-key")
		return
	case serve == nil:
		fail(w, &rec, http.StatusNotFound, "not_found_error", "not served by the scripted provider")
		return
	}
	body, err := readBody(w, r)
	if err != nil {
		fail(w, &rec, http.StatusRequestEntityTooLarge, "request_too_large", "request too large")
		return
	}
	rec.Body = body
	serve(w, r, &rec)
}

// readBody reads a request's body, which Codex with a ChatGPT plan packs with zstd.
func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	packed := http.MaxBytesReader(w, r.Body, maxBody)
	if r.Header.Get("Content-Encoding") != "zstd" {
		return io.ReadAll(packed)
	}
	d, err := zstd.NewReader(packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBody))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return io.ReadAll(io.LimitReader(d, maxBody))
}

// isAPI reports whether a path belongs to an API that needs the key.
func isAPI(path string) bool {
	return strings.HasPrefix(path, "/v1/") || strings.HasPrefix(path, "/api/v1/") || strings.HasPrefix(path, "/backend-api/") ||
		strings.HasPrefix(path, "/api/oauth/")
}

type handler func(w http.ResponseWriter, r *http.Request, rec *Request)

type failure func(w http.ResponseWriter, rec *Request, status int, kind, message string)

// endpoint finds who answers a request; nil is nobody. Paths are judged by their end, because
// each provider puts its own in front.
func (s *Server) endpoint(r *http.Request, fail failure) handler {
	path, post, get := r.URL.Path, r.Method == http.MethodPost, r.Method == http.MethodGet
	switch {
	case !isAPI(path):
		return nil
	case strings.HasSuffix(path, "/messages") && post:
		return s.messages
	case strings.HasSuffix(path, "/messages/count_tokens") && post:
		return func(w http.ResponseWriter, _ *http.Request, rec *Request) {
			rec.Kind, rec.Status = "count", http.StatusOK
			answerJSON(w, http.StatusOK, map[string]int{"input_tokens": tokens(len(rec.Body))})
		}
	case strings.HasSuffix(path, "/chat/completions") && post:
		return s.chat
	case strings.HasSuffix(path, "/responses") && post:
		return s.responses
	case strings.HasSuffix(path, "/responses") && get:
		return s.upgrade
	case (strings.HasSuffix(path, "/key") || strings.HasSuffix(path, "/usage") || strings.HasSuffix(path, "/profile")) && get: // what a good credential is told by
		return func(w http.ResponseWriter, _ *http.Request, rec *Request) {
			rec.Kind, rec.Status = "probe", http.StatusOK
			answerJSON(w, http.StatusOK, map[string]any{"data": map[string]any{}})
		}
	case path == "/backend-api/wham/accounts/check" && get: // what Codex learns its workspace's address from
		return func(w http.ResponseWriter, r *http.Request, rec *Request) {
			rec.Kind, rec.Status = "probe", http.StatusOK
			id := r.Header.Get("ChatGPT-Account-ID")
			answerJSON(w, http.StatusOK, map[string]any{"account_ordering": []string{id}, "accounts": []any{map[string]any{"id": id,
				"workspace_backend_origin": "https://chatgpt.com", "account_routing_override": "NO_CONSTRAINT"}}})
		}
	case strings.HasSuffix(path, "/models") && get:
		return func(w http.ResponseWriter, _ *http.Request, rec *Request) {
			rec.Kind, rec.Status = "models", http.StatusOK
			answerJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []any{model("claude-scripted")}, "has_more": false,
				"first_id": "claude-scripted", "last_id": "claude-scripted"})
		}
	case strings.Contains(path, "/models/") && get:
		return func(w http.ResponseWriter, _ *http.Request, rec *Request) {
			rec.Kind, rec.Status = "models", http.StatusOK
			_, id, _ := strings.Cut(path, "/models/")
			answerJSON(w, http.StatusOK, model(id))
		}
	}
	return nil
}

// play finds the answer to a conversation and waits as long as a model would think.
func (s *Server) play(ctx context.Context, c *conversation, rec *Request) action {
	s.mu.Lock()
	s.answers++
	id := fmt.Sprintf("%06d", s.answers)
	s.mu.Unlock()
	s.recall(c, id)
	rec.Model = c.model
	for _, t := range c.tools {
		rec.Tools = append(rec.Tools, t.name)
	}
	a := s.choose(c)
	a.id = id
	rec.Kind, rec.Step, rec.Status = "side", a.at, http.StatusOK
	if a.at >= 0 {
		rec.Kind = "step"
	}
	s.wait(ctx)
	return a
}

// URL is the server's address, https://127.0.0.1:PORT.
func (s *Server) URL() string { return s.url }

// CAFile is the path of the CA certificate that the server's own hangs on, PEM.
func (s *Server) CAFile() string { return s.caFile }

// Thinking is how many requests wait for Config.Delay right now: they have arrived and have no
// answer yet.
func (s *Server) Thinking() int { return int(s.thinking.Load()) }

// Requests returns what came in so far, oldest first.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// WrongKeys returns the requests that carried no key or another one.
func (s *Server) WrongKeys() []Request {
	var out []Request
	for _, r := range s.Requests() {
		if !r.KeyOK && isAPI(r.Path) {
			out = append(out, r)
		}
	}
	return out
}

// Result returns what the tool call of a step gave, as the agent reported it.
func (s *Server) Result(step int) (Result, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.results[step]
	return r, ok
}

// Finished reports whether the last step was asked for and answered.
func (s *Server) Finished() bool {
	for _, r := range s.Requests() {
		if r.Kind == "step" && r.Step == len(s.cfg.Script)-1 && r.Status == http.StatusOK {
			return true
		}
	}
	return false
}

// Close ends the server and every connection.
func (s *Server) Close() error {
	s.once.Do(func() { close(s.closed) })
	err := s.http.Close()
	<-s.done
	return err
}

// keyOK reports whether the request carries the key, and no other beside it.
func (s *Server) keyOK(h http.Header) bool {
	var given []string
	given = append(given, h.Values("X-Api-Key")...)
	for _, v := range h.Values("Authorization") {
		given = append(given, strings.TrimPrefix(v, "Bearer "))
	}
	if len(given) == 0 {
		return false
	}
	for _, g := range given {
		if subtle.ConstantTimeCompare([]byte(g), []byte(s.cfg.Key)) != 1 {
			return false
		}
	}
	return true
}

func (s *Server) record(r Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) < maxRequests {
		s.requests = append(s.requests, r)
	}
}

func (s *Server) keep(r Result) {
	if len(r.Text) > maxResult {
		r.Text = r.Text[:maxResult]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results[r.Step] = r
}

// wait pauses before an answer, as a model does. It ends early with the request or the server.
func (s *Server) wait(ctx context.Context) {
	if s.cfg.Delay <= 0 {
		return
	}
	s.thinking.Add(1)
	defer s.thinking.Add(-1)
	t := time.NewTimer(s.cfg.Delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.closed:
	}
}
