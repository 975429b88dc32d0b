package gatetest

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"

	"terok/internal/gate/store"
)

// Backend is git's own HTTP server over TLS, with the repositories below a directory.
type Backend struct {
	URL      string // https://127.0.0.1:PORT
	CA       string // PEM file that its certificate verifies with
	Lists    atomic.Int64
	Packs    atomic.Int64 // fetches that asked for objects
	Password string       // "" lets everybody in; the user name is ignored
}

// Serve serves dir for the rest of the test.
func (w *World) Serve(dir string) *Backend {
	w.T.Helper()
	b := &Backend{}
	path, err := w.Store.Git.Program()
	if err != nil {
		w.T.Fatal(err)
	}
	git := &cgi.Handler{Path: path, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); b.Password != "" && password != b.Password {
			rw.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			rw.WriteHeader(http.StatusUnauthorized)
			return
		}
		switch {
		case r.Method == http.MethodGet && filepath.Base(r.URL.Path) == "refs":
			b.Lists.Add(1)
		case filepath.Base(r.URL.Path) == "git-upload-pack" && r.ContentLength > 300:
			b.Packs.Add(1)
		}
		git.ServeHTTP(rw, r)
	}))
	w.T.Cleanup(srv.Close)
	b.URL = srv.URL
	b.CA = filepath.Join(w.Dir, "ca.pem")
	data := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	if err := os.WriteFile(b.CA, data, 0o600); err != nil {
		w.T.Fatal(err)
	}
	w.Store.Access = func(context.Context, string, store.Upstream) (store.Access, error) {
		return store.Access{Config: []string{"http.sslCAInfo=" + b.CA}}, nil
	}
	return b
}
