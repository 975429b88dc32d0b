// Package issuer is a fake provider for tests of sign-ins: over TLS it has a token endpoint whose
// refresh tokens rotate, a device authorisation, a revocation, and an API that lets only a token
// in that was not replaced. It counts what it is asked and can be slow, broken or silent.
//
// Every token it gives is a canary: it holds "REAL-" and a random part, so that a test can look
// for it wherever it must not be.
package issuer

import (
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"terok/internal/vault/oauth"
)

// Server is a running issuer. Its fields are set before it is asked anything; Close ends it.
type Server struct {
	URL    string
	CAFile string

	Lifetime time.Duration // of access tokens; 0 is an hour
	Grace    bool          // a refresh token that was replaced still works
	Scope    string        // in answers; "" leaves it out

	// Token is asked before a refresh is answered: false means that it wrote an answer itself. It
	// runs after the tokens were rotated, as a crash of ours would find them.
	Token func(w http.ResponseWriter, r *http.Request) bool
	// Confirmed makes the device grant's answer; false is "authorization_pending".
	Confirmed func() bool

	server *httptest.Server
	mu     sync.Mutex
	access map[string]time.Time // good until
	fresh  map[string]bool      // refresh token → not replaced
	all    []string             // every secret given
	counts map[string]int
	seen   []http.Header
}

// Start serves and writes its certificate below dir.
func Start(dir string) (*Server, error) {
	s := &Server{access: map[string]time.Time{}, fresh: map[string]bool{}, counts: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /oauth/token", s.token)
	mux.HandleFunc("POST /oauth/device", s.device)
	mux.HandleFunc("POST /oauth/revoke", s.revoke)
	mux.HandleFunc("/", s.api)
	s.server = httptest.NewUnstartedServer(mux)
	s.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.server.EnableHTTP2 = true
	s.server.StartTLS()
	s.URL, s.CAFile = s.server.URL, filepath.Join(dir, "issuer-ca.pem")
	err := os.WriteFile(s.CAFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.server.Certificate().Raw}), 0o600)
	if err != nil {
		s.Close()
	}
	return s, err
}

// Close ends the server; requests on their way are cut.
func (s *Server) Close() {
	s.server.CloseClientConnections()
	s.server.Close()
}

// Endpoint is the issuer's token endpoint.
func (s *Server) Endpoint() oauth.Endpoint {
	return oauth.Endpoint{TokenURL: s.URL + "/oauth/token", ClientID: "terok-test", DeviceURL: s.URL + "/oauth/device",
		RevokeURL: s.URL + "/oauth/revoke", CAFile: s.CAFile, AllowPrivate: true}
}

// Issue gives a pair of tokens, as a sign-in does.
func (s *Server) Issue() (access, refresh string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.issue()
}

func (s *Server) issue() (access, refresh string) {
	life := s.Lifetime
	if life == 0 {
		life = time.Hour
	}
	access, refresh = "at-REAL-"+rand.Text(), "rt-REAL-"+rand.Text()
	s.access[access], s.fresh[refresh] = time.Now().Add(life), true
	s.all = append(s.all, access, refresh)
	return access, refresh
}

// Refuse makes the API refuse every access token given so far.
func (s *Server) Refuse() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.access)
}

// Forget makes the token endpoint refuse every refresh token given so far.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.fresh)
}

// Good reports whether an access token would be let in now.
func (s *Server) Good(access string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.access[access])
}

// Count is how often something was asked: "token", "device", "revoke", "api" or "api 401".
func (s *Server) Count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counts[what]
}

// Secrets are all tokens ever given.
func (s *Server) Secrets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.all...)
}

// Seen are the headers of API requests.
func (s *Server) Seen() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]http.Header(nil), s.seen...)
}

func (s *Server) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}

// params reads a form or JSON.
func params(r *http.Request) map[string]string {
	got := map[string]string{}
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		_ = json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&got)
		return got
	}
	_ = r.ParseForm()
	for k := range r.PostForm {
		got[k] = r.PostForm.Get(k)
	}
	return got
}

func fail(w http.ResponseWriter, code string) {
	w.WriteHeader(http.StatusBadRequest)
	fmt.Fprintf(w, `{"error":%q}`, code)
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	s.count("token")
	p := params(r)
	var access, refresh string
	switch p["grant_type"] {
	case "refresh_token":
		s.mu.Lock()
		good, known := s.fresh[p["refresh_token"]]
		if good || known && s.Grace {
			s.fresh[p["refresh_token"]] = false
			access, refresh = s.issue()
		}
		s.mu.Unlock()
		if s.Token != nil && !s.Token(w, r) {
			return
		}
	case "urn:ietf:params:oauth:grant-type:device_code":
		if s.Confirmed == nil || !s.Confirmed() {
			fail(w, "authorization_pending")
			return
		}
		access, refresh = s.Issue()
	}
	if access == "" {
		fail(w, "invalid_grant")
		return
	}
	answer := map[string]any{"access_token": access, "refresh_token": refresh, "token_type": "Bearer"}
	if answer["expires_in"] = 3600; s.Lifetime != 0 {
		answer["expires_in"] = s.Lifetime.Seconds()
	}
	if s.Scope != "" {
		answer["scope"] = s.Scope
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) device(w http.ResponseWriter, _ *http.Request) {
	s.count("device")
	fmt.Fprintf(w, `{"device_code":"device-%s","user_code":"WDJB-MJHT","verification_uri":"https://issuer.example/device","expires_in":600,"interval":0.05}`, rand.Text())
}

func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	s.count("revoke")
	p := params(r)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.access, p["token"])
	delete(s.fresh, p["token"])
}

// api answers every path with the account, for a good token only.
func (s *Server) api(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20))
	token := r.Header.Get("Authorization")
	for _, prefix := range []string{"Bearer ", "token "} {
		token = strings.TrimPrefix(token, prefix)
	}
	if token == "" {
		token = r.Header.Get("X-Api-Key")
	}
	s.count("api")
	s.mu.Lock()
	s.seen = append(s.seen, r.Header.Clone())
	s.mu.Unlock()
	if !s.Good(token) {
		s.count("api 401")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, `{"type":"error","error":{"type":"authentication_error","message":"token expired"}}`)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"login":"octo","ok":true}`)
}
