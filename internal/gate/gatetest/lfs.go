package gatetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync"
	"testing"

	"terok/internal/gate/lfs"
	"terok/internal/gate/store"
)

// LFSServer is an LFS server: batch API with the basic transfer, over TLS on loopback.
type LFSServer struct {
	URL   string // https://127.0.0.1:PORT/shop.git/info/lfs
	Roots *x509.CertPool
	CA    []byte // PEM

	Password string // "" lets everybody in
	// Answer may change the answer about one object, and Serve answer a request for it; nil leaves them.
	Answer func(a *lfs.Answer, operation string)
	Serve  func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	objects  map[string][]byte
	verified map[string]bool
	asked    []string // METHOD PATH
}

// NewLFS serves until the end of the test.
func NewLFS(t testing.TB) *LFSServer {
	t.Helper()
	s := &LFSServer{objects: map[string][]byte{}, verified: map[string]bool{}}
	srv := httptest.NewTLSServer(s)
	t.Cleanup(srv.Close)
	s.URL = srv.URL + "/shop.git/info/lfs"
	s.Roots = x509.NewCertPool()
	s.Roots.AddCert(srv.Certificate())
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return s
}

// Access is what a gate needs to reach it.
func (s *LFSServer) Access(context.Context, string, store.Upstream) (store.Access, error) {
	return store.Access{Authorities: s.CA}, nil
}

// Add puts content on the server and returns its object.
func (s *LFSServer) Add(content string) lfs.Object {
	o := LFSObject(content)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[o.OID] = []byte(content)
	return o
}

// Objects are what the server has, by digest.
func (s *LFSServer) Objects() map[string][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.objects)
}

// Verified reports whether the client said that it sent an object.
func (s *LFSServer) Verified(oid string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verified[oid]
}

// Asked are the requests that came.
func (s *LFSServer) Asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// LFSObject is the object of a content.
func LFSObject(content string) lfs.Object {
	sum := sha256.Sum256([]byte(content))
	return lfs.Object{OID: hex.EncodeToString(sum[:]), Size: int64(len(content))}
}

// Pointer is the pointer file of an object.
func Pointer(o lfs.Object) string {
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", o.OID, o.Size)
}

func (s *LFSServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, r.Method+" "+r.URL.Path)
	s.mu.Unlock()
	if s.Serve != nil && s.Serve(w, r) {
		return
	}
	if _, password, _ := r.BasicAuth(); s.Password != "" && password != s.Password {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	base, oid := "https://"+r.Host+"/shop.git/info/lfs", path.Base(r.URL.Path)
	switch {
	case r.Method == http.MethodPost && strings.HasSuffix(r.URL.Path, "/objects/batch"):
		q, err := lfs.ReadRequest(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		p := lfs.Response{Transfer: "basic"}
		for _, o := range q.Objects {
			a := lfs.Answer{Object: o}
			s.mu.Lock()
			_, has := s.objects[o.OID]
			s.mu.Unlock()
			switch {
			case q.Operation == lfs.Download && !has:
				a.Error = &lfs.Fault{Code: http.StatusNotFound, Message: "no such object"}
			case q.Operation == lfs.Download:
				a.Actions = map[string]lfs.Action{lfs.Download: {Href: base + "/objects/" + o.OID}}
			case !has:
				a.Actions = map[string]lfs.Action{lfs.Upload: {Href: base + "/objects/" + o.OID}, "verify": {Href: base + "/verify/" + o.OID}}
			}
			if s.Answer != nil {
				s.Answer(&a, q.Operation)
			}
			p.Objects = append(p.Objects, a)
		}
		w.Header().Set("Content-Type", lfs.Media)
		_ = json.NewEncoder(w).Encode(p)
	case r.Method == http.MethodPut:
		data, _ := io.ReadAll(r.Body)
		if o := LFSObject(string(data)); o.OID != oid {
			w.WriteHeader(http.StatusUnprocessableEntity)
			return
		}
		s.mu.Lock()
		s.objects[oid] = data
		s.mu.Unlock()
	case r.Method == http.MethodPost && strings.Contains(r.URL.Path, "/verify/"):
		s.mu.Lock()
		s.verified[oid] = s.objects[oid] != nil
		s.mu.Unlock()
	default:
		s.mu.Lock()
		data, has := s.objects[oid]
		s.mu.Unlock()
		if !has {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.Copy(w, bytes.NewReader(data))
	}
}
