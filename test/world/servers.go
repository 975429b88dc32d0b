package world

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// listen opens a TCP listener that writes down every connection.
func (w *World) listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", w.bind("tcp", addr))
	if err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	w.mu.Lock()
	w.actual["tcp "+addr] = l.Addr().String()
	w.mu.Unlock()
	return &noting{Listener: l, w: w, addr: addr}, nil
}

type noting struct {
	net.Listener
	w    *World
	addr string
}

func (n *noting) Accept() (net.Conn, error) {
	c, err := n.Listener.Accept()
	if err == nil {
		n.w.seen.add(Seen{Kind: "tcp", Local: n.addr, Remote: c.RemoteAddr().String()})
	}
	return c, err
}

// serveTCP sends a banner and echoes.
func (w *World) serveTCP(addr, banner string) error {
	l, err := w.listen(addr)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	w.onClose(func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range open {
			c.Close()
		}
	})
	w.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			w.wg.Go(func() {
				io.WriteString(c, banner)
				n, err := io.Copy(c, c)
				s := Seen{Kind: "echo", Local: addr, Remote: c.RemoteAddr().String(), Bytes: int(n)}
				if err != nil {
					s.Reason = err.Error()
				}
				w.seen.add(s)
				c.Close()
				mu.Lock()
				delete(open, c)
				mu.Unlock()
			})
		}
	})
	return nil
}

// serveUDP echoes datagrams.
func (w *World) serveUDP(addr string) error {
	pc, err := net.ListenPacket("udp", w.bind("udp", addr))
	if err != nil {
		return fmt.Errorf("world: %w", err)
	}
	w.mu.Lock()
	w.actual["udp "+addr] = pc.LocalAddr().String()
	w.mu.Unlock()
	w.onClose(func() { pc.Close() })
	w.wg.Go(func() {
		b := make([]byte, 64<<10)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			w.seen.add(Seen{Kind: "udp", Local: addr, Remote: from.String(), Bytes: n})
			pc.WriteTo(b[:n], from)
		}
	})
	return nil
}

// serveHTTP answers with a Reply, with TLS under a certificate for whatever name is asked for.
func (w *World) serveHTTP(addr string, secure bool) error {
	l, err := w.listen(addr)
	if err != nil {
		return err
	}
	s := &http.Server{ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.web(addr, rw, r)
	})}
	w.onClose(func() { s.Close() })
	w.wg.Go(func() {
		if secure {
			s.TLSConfig = &tls.Config{GetCertificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
				w.seen.add(Seen{Kind: "tls", Local: addr, Remote: h.Conn.RemoteAddr().String(), Name: h.ServerName})
				name := h.ServerName
				if name == "" {
					name, _, _ = net.SplitHostPort(addr)
				}
				return w.ca.leaf(name)
			}}
			s.ServeTLS(l, "", "")
			return
		}
		s.Serve(l)
	})
	return nil
}

func (w *World) web(addr string, rw http.ResponseWriter, r *http.Request) {
	w.seen.add(Seen{Kind: "http", Local: addr, Remote: r.RemoteAddr, Name: r.Host, Type: r.Method, Path: r.URL.Path})
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		return
	}
	if kind, count, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); ok && (kind == "bytes" || kind == "slow") {
		stream(rw, r, count, kind == "slow")
		return
	}
	reply := Reply{Local: addr, Host: r.Host, Method: r.Method, Path: r.URL.Path, Bytes: n}
	if r.TLS != nil {
		reply.SNI = r.TLS.ServerName
	}
	rw.Header().Set("Content-Type", "application/json")
	json.NewEncoder(rw).Encode(reply)
}

func stream(rw http.ResponseWriter, r *http.Request, count string, slow bool) {
	left, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		http.Error(rw, err.Error(), http.StatusBadRequest)
		return
	}
	rw.Header().Set("Content-Length", strconv.FormatInt(left, 10))
	chunk := bytes.Repeat([]byte("0123456789abcde\n"), 640) // 10 KiB
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for left > 0 {
		n := min(left, int64(len(chunk)))
		if _, err := rw.Write(chunk[:n]); err != nil {
			return
		}
		left -= n
		if !slow {
			continue
		}
		http.NewResponseController(rw).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

// authority signs the world's certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte

	mu     sync.Mutex
	leaves map[string]*tls.Certificate
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "terok test world"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, leaves: map[string]*tls.Certificate{},
		pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// leaf returns the certificate of one name or address.
func (a *authority) leaf(name string) (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.leaves[name]; c != nil {
		return c, nil
	}
	if len(a.leaves) > 1000 {
		return nil, errors.New("too many names")
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 100))
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		tmpl.IPAddresses = []net.IP{ip}
	} else {
		tmpl.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, a.key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	c := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: a.key}
	a.leaves[name] = c
	return c, nil
}
