// Package credsdtest is an io.systemd.Credentials for tests: the same Varlink messages on a socket
// of the test's own, and a "TPM" that can break.
package credsdtest

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// Service is a running fake.
type Service struct {
	Socket string

	mu     sync.Mutex
	sealed map[string]sealed
	fail   string
	raw    string
	calls  []string
}

type sealed struct {
	name string
	uid  int
	data []byte
}

// Start runs the fake until the test ends.
func Start(t testing.TB) *Service {
	t.Helper()
	dir, err := os.MkdirTemp("", "creds") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	s := &Service{Socket: filepath.Join(dir, "io.systemd.Credentials"), sealed: map[string]sealed{}}
	l, err := net.Listen("unix", s.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(c)
		}
	}()
	return s
}

// Fail makes every call end with an error of the interface, "KeyBelongsToOtherTPM" for one; ""
// repairs it.
func (s *Service) Fail(name string) { s.mu.Lock(); s.fail = name; s.mu.Unlock() }

// Answer makes every call end with these bytes.
func (s *Service) Answer(raw string) { s.mu.Lock(); s.raw = raw; s.mu.Unlock() }

// Calls are the methods that were called.
func (s *Service) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.calls...)
}

func (s *Service) serve(c net.Conn) {
	defer c.Close()
	msg, err := bufio.NewReader(c).ReadBytes(0)
	if err != nil {
		return
	}
	var req struct {
		Method     string `json:"method"`
		Parameters struct {
			Name, Data, Blob, Scope, WithKey string
			UID                              int
			Interactive                      bool `json:"allowInteractiveAuthentication"`
		} `json:"parameters"`
	}
	var reply any
	switch err := json.Unmarshal(msg[:len(msg)-1], &req); {
	case err != nil:
		return
	default:
		reply = s.answer(req.Method, req.Parameters.Name, req.Parameters.Data, req.Parameters.Blob, req.Parameters.Scope, req.Parameters.UID)
	}
	if raw, ok := reply.(string); ok {
		c.Write([]byte(raw))
		return
	}
	out, _ := json.Marshal(reply)
	c.Write(append(out, 0))
}

func (s *Service) answer(method, name, data, blob, scope string, uid int) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls = append(s.calls, method)
	refuse := func(why string) any {
		return map[string]any{"error": "io.systemd.Credentials." + why, "parameters": map[string]any{}}
	}
	switch {
	case s.raw != "":
		return s.raw
	case s.fail != "":
		return refuse(s.fail)
	case scope != "user":
		return refuse("BadScope")
	}
	switch method {
	case "io.systemd.Credentials.Encrypt":
		plain, err := base64.StdEncoding.DecodeString(data)
		if err != nil {
			return refuse("BadFormat")
		}
		var id [60]byte
		rand.Read(id[:])
		out := hex.EncodeToString(id[:])
		s.sealed[out] = sealed{name, uid, plain}
		return map[string]any{"parameters": map[string]any{"blob": out}}
	case "io.systemd.Credentials.Decrypt":
		got, ok := s.sealed[blob]
		switch {
		case !ok:
			return refuse("BadFormat")
		case got.name != name:
			return refuse("NameMismatch")
		case got.uid != uid:
			return refuse("BadScope")
		}
		return map[string]any{"parameters": map[string]any{"data": base64.StdEncoding.EncodeToString(got.data)}}
	}
	return map[string]any{"error": "org.varlink.service.MethodNotFound"}
}
