// Package corpus is the ordinary internet of the benign corpus: a forge, a package registry, a module
// proxy, a distribution's mirror and a web site, for real clients. It judges nothing; a client that
// is content says that its traffic came through whole.
package corpus

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/coder/websocket"
)

// Names are the hosts that all lead to one address.
var Names = []string{"git.test", "npm.test", "goproxy.test", "deb.test", "web.test", "files.test"}

// Site is the running servers. Close ends them.
type Site struct {
	CA       []byte // PEM
	Packages []Package
	servers  []*http.Server
}

// Package is one of npm's.
type Package struct {
	Name, Integrity string
	tarball         []byte
}

// Start serves HTTP on addr:80 and HTTPS, HTTP/2 too, on addr:443. repos holds bare repositories,
// mirror the files of the distribution.
func Start(addr, repos, mirror string) (*Site, error) {
	s := &Site{}
	cert, err := s.certificate()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"left", "right", "middle"} {
		p, err := npmPackage(name)
		if err != nil {
			return nil, err
		}
		s.Packages = append(s.Packages, p)
	}
	backend, err := exec.Command("git", "--exec-path").Output()
	if err != nil {
		return nil, err
	}
	forge := &cgi.Handler{Path: filepath.Join(strings.TrimSpace(string(backend)), "git-http-backend"),
		Env: []string{"GIT_PROJECT_ROOT=" + repos, "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=dev"}, Stderr: io.Discard}
	files := http.FileServer(http.Dir(mirror))
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		switch host {
		case "git.test":
			forge.ServeHTTP(w, r)
		case "npm.test":
			s.npm(w, r)
		case "goproxy.test":
			goModule(w, r)
		case "deb.test":
			files.ServeHTTP(w, r)
		case "web.test", "files.test":
			web(w, r)
		default:
			http.NotFound(w, r)
		}
	})
	for _, port := range []string{"80", "443"} {
		l, err := net.Listen("tcp", net.JoinHostPort(addr, port))
		if err != nil {
			s.Close()
			return nil, err
		}
		srv := &http.Server{Handler: h, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
		s.servers = append(s.servers, srv)
		if port == "80" {
			go srv.Serve(l)
			continue
		}
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
		go srv.ServeTLS(l, "", "")
	}
	return s, nil
}

// Close ends the servers and their connections.
func (s *Site) Close() {
	for _, srv := range s.servers {
		srv.Close()
	}
}

func (s *Site) certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "benign corpus"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, err
	}
	s.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: Names[0]}, DNSNames: Names, NotBefore: ca.NotBefore,
		NotAfter: ca.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, key.Public(), key)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, err
}

// npm is a registry: package documents and tarballs.
func (s *Site) npm(w http.ResponseWriter, r *http.Request) {
	name, file, tarball := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/-/")
	for _, p := range s.Packages {
		switch {
		case p.Name != name:
		case tarball && file == name+"-1.0.0.tgz":
			w.Write(p.tarball)
			return
		default:
			json.NewEncoder(w).Encode(map[string]any{"name": name, "dist-tags": map[string]string{"latest": "1.0.0"}, "versions": map[string]any{
				"1.0.0": map[string]any{"name": name, "version": "1.0.0", "dist": map[string]string{"integrity": p.Integrity, "tarball": p.URL()}}}})
			return
		}
	}
	http.NotFound(w, r)
}

// URL is where the tarball lies.
func (p Package) URL() string { return "https://npm.test/" + p.Name + "/-/" + p.Name + "-1.0.0.tgz" }

func npmPackage(name string) (Package, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	t := tar.NewWriter(z)
	for file, text := range map[string]string{"package.json": `{"name":"` + name + `","version":"1.0.0"}`, "index.js": "module.exports='" + name + "'\n"} {
		if err := t.WriteHeader(&tar.Header{Name: "package/" + file, Mode: 0o644, Size: int64(len(text))}); err != nil {
			return Package{}, err
		}
		if _, err := io.WriteString(t, text); err != nil {
			return Package{}, err
		}
	}
	if err := t.Close(); err != nil {
		return Package{}, err
	}
	if err := z.Close(); err != nil {
		return Package{}, err
	}
	sum := sha512.Sum512(b.Bytes())
	return Package{Name: name, Integrity: "sha512-" + base64.StdEncoding.EncodeToString(sum[:]), tarball: b.Bytes()}, nil
}

// goModule is a module proxy (GOPROXY protocol) with example.test/mod@v1.0.0.
func goModule(w http.ResponseWriter, r *http.Request) {
	const mod = "module example.test/mod\n\ngo 1.21\n"
	switch strings.TrimPrefix(r.URL.Path, "/example.test/mod/@v/") {
	case "list":
		io.WriteString(w, "v1.0.0\n")
	case "v1.0.0.info":
		io.WriteString(w, `{"Version":"v1.0.0","Time":"2026-01-01T00:00:00Z"}`)
	case "v1.0.0.mod":
		io.WriteString(w, mod)
	case "v1.0.0.zip":
		z := zip.NewWriter(w)
		defer z.Close()
		for name, text := range map[string]string{"go.mod": mod, "mod.go": "package mod\n\nconst Here = true\n"} {
			if f, err := z.Create("example.test/mod@v1.0.0/" + name); err == nil {
				io.WriteString(f, text)
			}
		}
	default:
		http.NotFound(w, r)
	}
}

// web is an ordinary site.
func web(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case path == "/start":
		http.Redirect(w, r, "https://web.test/next", http.StatusMovedPermanently)
	case path == "/next":
		http.Redirect(w, r, "https://files.test/end", http.StatusFound)
	case path == "/end":
		fmt.Fprintf(w, "arrived at %s by %s\n", r.Host, r.Proto)
	case path == "/events":
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 5 {
			fmt.Fprintf(w, "id: %d\ndata: event %d\n\n", i, i)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-time.After(100 * time.Millisecond):
			case <-r.Context().Done():
				return
			}
		}
	case path == "/socket":
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer c.CloseNow()
		for {
			kind, data, err := c.Read(context.WithoutCancel(r.Context()))
			if err != nil || c.Write(r.Context(), kind, append([]byte("echo "), data...)) != nil {
				return
			}
		}
	case path == "/upload":
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%d %x\n", n, sum.Sum(nil))
	case strings.HasPrefix(path, "/bytes/"):
		n, err := strconv.ParseInt(strings.TrimPrefix(path, "/bytes/"), 10, 64)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		w.Header().Set("Content-Length", strconv.FormatInt(n, 10))
		io.CopyN(w, zeros{}, n)
	default:
		http.NotFound(w, r)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}
