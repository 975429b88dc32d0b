// Package provider is a scripted LLM provider: a server that speaks the Anthropic Messages API
// over TLS well enough for the real Claude Code, and plays a script instead of thinking. The
// demo and the tests point the vault's route for anthropic at it with an ordinary provider file
// (upstream, ca_file, allow_private), so that a real agent does real work with no account.
//
// It guarantees: every request to the API must carry exactly the key that it was made with, and
// what came instead is recorded; every request's headers are recorded, so that a test can show
// what left the container and what the vault made of it. It refuses other keys with 401 as the
// real provider does, and unknown paths with 404.
//
// The place in the script is read from the conversation in each request (the ids of the tool
// calls in it), never from a counter: a retried request gets the same answer, and any number of
// conversations play at once. Requests that do not offer the script's tools (titles, summaries,
// quota checks) get a short text and move nothing.
//
//	p, err := provider.Start(provider.Config{Key: key, Dir: dir, Script: []provider.Step{
//		{Text: "I add the missing line.", Tool: "Bash", Input: map[string]any{"command": "echo >>f"}},
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
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// Limits of what is taken and kept.
const (
	maxBody     = 32 << 20 // the real API's limit
	maxRequests = 10_000
	maxResult   = 64 << 10
)

// Step is one answer of the model: a text, and then at most one tool call. A step without a tool
// ends the turn.
type Step struct {
	Text  string
	Tool  string         // name of a tool that the client offers, e.g. "Bash", "Edit", "Write", "Read"
	Input map[string]any // of the tool
}

// Config is what a Server is made of.
type Config struct {
	Key    string   // the only key that is accepted
	Script []Step   // must end with a step without a tool
	Dir    string   // the certificate of the server's CA is written here as ca.pem
	Listen string   // host:port; "" means 127.0.0.1:0
	Names  []string // further DNS names for the certificate; localhost and the loopback addresses are in it
	Delay  time.Duration
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
	Kind   string // "step", "side", "count", "models", "hello" or "other"
	Step   int    // index in the script, for Kind "step"
	Model  string // as asked for
	Tools  []string
	Body   []byte // of API requests
}

// Result is what came back from the tool call of one step.
type Result struct {
	Step    int
	Text    string // at most 64 KiB
	IsError bool
}

// Server plays a script. Close it.
type Server struct {
	cfg    Config
	url    string
	caFile string
	http   *http.Server
	done   chan struct{}
	closed chan struct{}
	once   sync.Once

	mu       sync.Mutex
	requests []Request
	results  map[int]Result
}

// Start listens, writes the CA file and serves until Close.
func Start(cfg Config) (*Server, error) {
	if cfg.Key == "" || len(cfg.Script) == 0 || cfg.Script[len(cfg.Script)-1].Tool != "" {
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
		done: make(chan struct{}), closed: make(chan struct{}), results: map[int]Result{},
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

// URL is the server's address, https://127.0.0.1:PORT.
func (s *Server) URL() string { return s.url }

// CAFile is the path of the CA certificate that the server's own hangs on, PEM.
func (s *Server) CAFile() string { return s.caFile }

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
		if !r.KeyOK && strings.HasPrefix(r.Path, "/v1/") {
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
	t := time.NewTimer(s.cfg.Delay)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	case <-s.closed:
	}
}
