package verify

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"terok/internal/control"
)

// hostName is the name of the host's loopback inside a container (policy.HostName).
const hostName = "host.terok.internal"

// Bounds of a connection to a target.
const (
	serveTime = 10 * time.Second
	maxHeld   = 64
	maxSaid   = 4 << 10
)

// target is a listener on the host's loopback that writes down who came. It answers a line of the
// echo protocol, a web request, or a TLS handshake.
type target struct {
	l     net.Listener
	nonce string
	tls   *tls.Config
	wg    sync.WaitGroup
	slots chan struct{}

	mu    sync.Mutex
	count int
	echo  bool
	sni   []string
	host  []string
	live  map[net.Conn]struct{}
}

func listen(addr, nonce string, cert tls.Certificate) (*target, error) {
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		return nil, fmt.Errorf("listen on the host's loopback: %w", err)
	}
	t := &target{l: l, nonce: nonce, slots: make(chan struct{}, maxHeld), live: map[net.Conn]struct{}{}}
	t.tls = &tls.Config{Certificates: []tls.Certificate{cert}, GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		t.mu.Lock()
		t.sni = append(t.sni, h.ServerName)
		t.mu.Unlock()
		return nil, nil
	}}
	t.wg.Go(t.accept)
	return t, nil
}

func (t *target) port() uint16 { return uint16(t.l.Addr().(*net.TCPAddr).Port) }

func (t *target) accept() {
	for {
		c, err := t.l.Accept()
		if err != nil {
			return
		}
		t.mu.Lock()
		t.count++
		t.live[c] = struct{}{}
		t.mu.Unlock()
		t.slots <- struct{}{}
		t.wg.Go(func() {
			defer func() { <-t.slots }()
			t.serve(c)
			c.Close()
			t.mu.Lock()
			delete(t.live, c)
			t.mu.Unlock()
		})
	}
}

func (t *target) serve(c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(serveTime))
	in := bufio.NewReaderSize(c, maxSaid)
	first, err := in.Peek(1)
	if err != nil {
		return
	}
	if first[0] == 22 { // a TLS handshake
		_ = tls.Server(&peeked{c, in}, t.tls).Handshake()
		return
	}
	word, _ := in.Peek(len(control.EchoWord))
	if string(word) == control.EchoWord {
		if _, err := in.ReadString('\n'); err != nil {
			return
		}
		t.mu.Lock()
		t.echo = true
		t.mu.Unlock()
		_, _ = io.WriteString(c, control.EchoWord+t.nonce+"\n")
		return
	}
	for {
		req, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		t.mu.Lock()
		t.host = append(t.host, strings.TrimSuffix(req.Host, ":80"))
		t.mu.Unlock()
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// peeked is a connection whose first bytes were read.
type peeked struct {
	net.Conn
	in io.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.in.Read(b) }

func (t *target) close() {
	t.l.Close()
	t.mu.Lock()
	for c := range t.live {
		c.Close()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

func (t *target) connections() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

func (t *target) echoed() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.echo
}

func (t *target) names() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.sni)
}

func (t *target) hosts() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.host)
}

// certificate is one that nobody trusts, for the time of a run.
func certificate() (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{hostName},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
