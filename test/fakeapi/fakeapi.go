// Package fakeapi is a TLS server on the loopback that answers as GitHub, GitLab, OpenAI and any
// other provider would, as far as the vault's front looks: it records every request, knows which
// repository an id belongs to, and tells by the credential what came.
//
//	api, err := fakeapi.Start(t.TempDir())
//	defer api.Close()
//	// provider file: upstream: api.URL(), ca_file: api.CAFile(), allow_private: true
package fakeapi

import (
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Request is what came.
type Request struct {
	Method string
	Path   string // with query, as it was written
	Header http.Header
	Body   string
}

// Server is a running server.
type Server struct {
	http   *httptest.Server
	caFile string

	mu       sync.Mutex
	requests []Request
}

// Start serves; dir gets the certificate that proves the server.
func Start(dir string) (*Server, error) {
	s := &Server{caFile: filepath.Join(dir, "fakeapi.pem")}
	s.http = httptest.NewUnstartedServer(s)
	s.http.EnableHTTP2 = true
	s.http.StartTLS()
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
	return s, os.WriteFile(s.caFile, cert, 0o600)
}

// URL is https://127.0.0.1:PORT.
func (s *Server) URL() string { return s.http.URL }

// CAFile is the certificate, PEM.
func (s *Server) CAFile() string { return s.caFile }

// Close ends the server.
func (s *Server) Close() { s.http.Close() }

// Requests are those that came so far, without what the front asks by itself.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// ServeHTTP answers: questions about ids as the forges do, everything else with 200.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 8<<20))
	w.Header().Set("Content-Type", "application/json")
	own := r.Header.Get("User-Agent") == "terok" // the front's own questions
	switch {
	case own && r.URL.Path == "/repositories/42":
		io.WriteString(w, `{"full_name":"acme/shop"}`)
	case own && strings.HasPrefix(r.URL.Path, "/repositories/"):
		io.WriteString(w, `{"full_name":"acme/other"}`)
	case own && r.URL.Path == "/api/v4/projects/42":
		io.WriteString(w, `{"path_with_namespace":"acme/shop"}`)
	case own && strings.HasPrefix(r.URL.Path, "/api/v4/projects/"):
		io.WriteString(w, `{"path_with_namespace":"acme/other"}`)
	case own:
		var q struct{ Variables struct{ IDs []string } }
		_ = json.Unmarshal(body, &q)
		var nodes []string
		for _, id := range q.Variables.IDs { // I_shop is an issue of acme/shop
			kind, name, _ := strings.Cut(id, "_")
			nodes = append(nodes, fmt.Sprintf(`{"__typename":%q,"id":%q,"repository":{"nameWithOwner":"acme/%s"}}`, kind, id, name))
		}
		fmt.Fprintf(w, `{"data":{"nodes":[%s]}}`, strings.Join(nodes, ","))
	default:
		s.mu.Lock()
		s.requests = append(s.requests, Request{r.Method, r.RequestURI, r.Header.Clone(), string(body)})
		s.mu.Unlock()
		io.WriteString(w, `{"id":"x","object":"response","model":"m","usage":{"input_tokens":1,"output_tokens":1},"choices":[]}`)
	}
}
