package tasks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"net/url"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// hostName is what containers call this machine; terok's git on the host knows it too.
const hostName = "host.terok.internal"

// forge is git's own HTTP server over TLS, as host.terok.internal, with repositories below a
// directory.
type forge struct {
	url, ca string // https://host.terok.internal:PORT; PEM file
	port    string
	dir     string
	fail    atomic.Int64 // so many requests are answered 503 from now on
	secret  string       // password that everybody needs, "" for none

	mu   sync.Mutex
	seen []string // METHOD PATH of each request that was let in
}

// serveForge starts one with the bare repository NAME.git, a clone of repo, for each name.
func (tr *tree) serveForge(repo string, names ...string) *forge {
	t := tr.t
	t.Helper()
	f := &forge{dir: filepath.Join(tr.dir, "forge")}
	for _, name := range names {
		if out, err := exec.Command("git", "clone", "-q", "--bare", repo, filepath.Join(f.dir, name+".git")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	path, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	git := &cgi.Handler{Path: path, Args: []string{"http-backend"}, Env: []string{"GIT_PROJECT_ROOT=" + f.dir, "GIT_HTTP_EXPORT_ALL=1",
		"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*", "GIT_CONFIG_KEY_1=http.receivepack", "GIT_CONFIG_VALUE_1=true"}}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.fail.Add(-1) >= 0 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		f.fail.Store(0)
		if _, password, _ := r.BasicAuth(); f.secret != "" && password != f.secret {
			w.Header().Set("WWW-Authenticate", `Basic realm="forge"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		f.mu.Lock()
		f.seen = append(f.seen, r.Method+" "+r.URL.Path)
		f.mu.Unlock()
		if r.ContentLength < 0 { // net/http/cgi takes no chunked body
			w.WriteHeader(http.StatusLengthRequired)
			return
		}
		git.ServeHTTP(w, r)
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{f.certificate(tr)}}
	srv.StartTLS()
	t.Cleanup(srv.Close)
	u, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	f.port = u.Port()
	f.url = "https://" + hostName + ":" + f.port
	return f
}

// certificate makes an authority and a certificate of it for hostName.
func (f *forge) certificate(tr *tree) tls.Certificate {
	tr.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tr.t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "forge's authority"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(24 * time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), DNSNames: []string{hostName}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	if err != nil {
		tr.t.Fatal(err)
	}
	root, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		tr.t.Fatal(err)
	}
	f.ca = tr.file("forge-ca.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root})))
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// asked counts requests whose METHOD PATH contains what.
func (f *forge) asked(what string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.seen {
		if strings.Contains(r, what) {
			n++
		}
	}
	return n
}

// project writes project.yml.
func (tr *tree) project(name, yml string) {
	tr.t.Helper()
	tr.file("config/terok/projects/"+name+"/project.yml", "default_agent: shell\n"+yml)
}

// sections cuts the output of a script that begins each part with "== NAME".
func sections(t *testing.T, out string) func(name string) string {
	return func(name string) string {
		t.Helper()
		_, rest, ok := strings.Cut(out, "== "+name+"\n")
		if !ok {
			t.Fatalf("no section %s in\n%s", name, out)
		}
		s, _, _ := strings.Cut(rest, "\n== ")
		return strings.TrimSpace(s)
	}
}

// say is a shell function for such scripts: it runs a command and prints its exit code.
const say = `say() { echo "== $1"; shift; "$@" 2>&1; echo "exit $?"; }
cd /workspace
`
