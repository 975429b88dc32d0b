// Package world is the internet of the end-to-end tests: a few servers on addresses that lead
// nowhere else, in a network namespace without a link to any real interface. Every server writes
// down what reached it, so that a test can prove what did not.
//
// # Use
//
// As root, from the work tree (podman itself runs as the unprivileged user of scripts/rootless):
//
//	scripts/world run -- go test ./test/e2e/...
//
// The command runs in the namespace, with TEROK_WORLD naming the control socket. In a test:
//
//	w, err := world.Connect()                       // fails outside of scripts/world
//	w.Reset(ctx)                                    // forget what was seen, and scripted answers
//	w.Answer(ctx, world.Script{Name: "a.test", Type: "A", Values: []string{"127.0.0.1"}})
//	… terok sandbox run --allow a.test:443 …
//	seen, err := w.Seen(ctx)                        // fails the test if a.test's server saw more than it should
//	pem, err := w.CA(ctx)                           // trust for https://a.test/
//
// # What is there
//
//	203.0.113.53            DNS, UDP and TCP; also on every nameserver of the machine's resolv.conf
//	203.0.113.10            a.test b.test denied.test (one address, one certificate each)
//	203.0.113.20            c.test
//	203.0.113.30            d.test
//	198.51.100.7            e.test
//	192.168.77.7            lan.test
//	100.64.0.7              cgnat.test
//	2001:db8:1::10          v6.test
//	169.254.169.254:80      meta.test, the cloud's metadata
//	203.0.113.40            nobody: tests serve there themselves, from port 22 on (Free)
//	198.51.100.99           an address of the host itself, on an interface; own.test
//	127.0.0.1:9999          the host's own loopback; loop.test resolves to it
//
// Each of the public, private and IPv6 addresses serves HTTP on 80 and 8080, HTTPS on 443 and 8443,
// an SSH-like banner followed by echo on 22, echo on 7000 (TCP and UDP), echo on UDP 443, and a
// listener on 53 and 853 that only writes down. HTTP answers are JSON (Reply); /bytes/N streams N
// bytes, /slow/N streams N bytes at about 100 KiB/s. Any other name is NXDOMAIN; every query is
// written down.
//
// # Facts that bite
//
// Rootless podman joins the user and mount namespaces of its pause process, not those of its
// caller, so a resolv.conf mounted over the machine's would not be seen by the OCI hook and the
// supervisor. Therefore the world takes over the addresses of the machine's nameservers instead of
// the file. The network namespace does follow the caller: conmon, crun, the hook and the supervisor
// run in the world. scripts/world makes sure that the pause process exists before it enters, else
// podman would keep the namespace alive.
package world

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// Env names the variable that holds the path of the control socket.
const Env = "TEROK_WORLD"

// Seen is one thing that reached a server.
type Seen struct {
	At     time.Time `json:"at"`
	Kind   string    `json:"kind"`             // dns, tcp, tls, http or udp
	Local  string    `json:"local"`            // address and port of the server
	Remote string    `json:"remote"`           // of the peer
	Name   string    `json:"name,omitempty"`   // query, SNI or Host
	Type   string    `json:"type,omitempty"`   // DNS type or HTTP method
	Path   string    `json:"path,omitempty"`   // of a request
	Bytes  int       `json:"bytes,omitempty"`  // received: of a datagram, or when an echo connection ends
	Reason string    `json:"reason,omitempty"` // error of a handshake
}

// Script is what DNS answers for one name and type.
type Script struct {
	Name   string   `json:"name"`
	Type   string   `json:"type"`            // "A", "AAAA", "TXT", …
	Values []string `json:"values"`          // in zone file form, e.g. "203.0.113.10"
	TTL    uint32   `json:"ttl,omitempty"`   // seconds; 0: 30
	Rcode  int      `json:"rcode,omitempty"` // e.g. 2 for SERVFAIL; then Values are ignored
}

// Reply is the body of an HTTP answer.
type Reply struct {
	Local  string `json:"local"`
	Host   string `json:"host"`
	SNI    string `json:"sni,omitempty"`
	Method string `json:"method"`
	Path   string `json:"path"`
	Bytes  int64  `json:"bytes"` // of the request body
}

// maxSeen bounds the record. What comes later is not kept: a test that floods resets first.
const maxSeen = 200_000

// record collects what the servers saw.
type record struct {
	mu   sync.Mutex
	list []Seen
}

func (r *record) add(s Seen) {
	s.At = time.Now().UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) < maxSeen {
		r.list = append(r.list, s)
	}
}

func (r *record) all() []Seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Seen{}, r.list...)
}

func (r *record) reset() {
	r.mu.Lock()
	r.list = nil
	r.mu.Unlock()
}

// Config says where a World runs.
type Config struct {
	// Bind translates the fixed addresses of the world, "host:port", for tests of this package on
	// an ordinary machine; nil binds them as they are.
	Bind func(network, address string) string
	// Nameservers are further addresses that answer DNS.
	Nameservers []string
}

// World is the running set of servers.
type World struct {
	cfg     Config
	seen    record
	zone    zone
	ca      *authority
	mu      sync.Mutex
	closers []func()
	actual  map[string]string // "tcp 203.0.113.10:80" → where it really listens
	wg      sync.WaitGroup
}

// hosts are the addresses that serve everything.
func hosts() []string {
	return []string{"203.0.113.10", "203.0.113.20", "203.0.113.30", "198.51.100.7", "192.168.77.7", "100.64.0.7", "2001:db8:1::10"}
}

// Free is an address of another machine at which nothing serves: a test may.
const Free = "203.0.113.40"

// Own are the addresses that the host has on an interface.
func Own() []string { return []string{"198.51.100.99"} }

// Addresses are those of the other machines. They lead to the namespace by local routes; no
// interface has them, or terok would take them for the host's own and refuse them.
func Addresses() []string {
	return append(hosts(), Free, "203.0.113.53", "169.254.169.254")
}

// Start starts every server, or none.
func Start(cfg Config) (*World, error) {
	ca, err := newAuthority()
	if err != nil {
		return nil, err
	}
	w := &World{cfg: cfg, ca: ca, actual: map[string]string{}}
	w.zone.reset()
	if err := w.start(); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

func (w *World) start() error {
	for _, ip := range append([]string{"203.0.113.53"}, w.cfg.Nameservers...) {
		if err := w.serveDNS(net.JoinHostPort(ip, "53")); err != nil {
			return err
		}
	}
	var errs []error
	try := func(err error) { errs = append(errs, err) }
	for _, ip := range append(hosts(), Own()...) {
		at := func(port string) string { return net.JoinHostPort(ip, port) }
		try(w.serveHTTP(at("80"), false))
		try(w.serveHTTP(at("8080"), false))
		try(w.serveHTTP(at("443"), true))
		try(w.serveHTTP(at("8443"), true))
		try(w.serveTCP(at("22"), "SSH-2.0-world\r\n"))
		try(w.serveTCP(at("7000"), ""))
		try(w.serveTCP(at("53"), ""))
		try(w.serveTCP(at("853"), ""))
		try(w.serveUDP(at("7000")))
		try(w.serveUDP(at("443")))
		try(w.serveUDP(at("53")))
	}
	try(w.serveHTTP("169.254.169.254:80", false))
	try(w.serveTCP("127.0.0.1:9999", ""))
	return errors.Join(errs...)
}

// Close stops every server.
func (w *World) Close() {
	w.mu.Lock()
	list := w.closers
	w.closers = nil
	w.mu.Unlock()
	for _, f := range list {
		f()
	}
	w.wg.Wait()
}

func (w *World) onClose(f func()) {
	w.mu.Lock()
	w.closers = append(w.closers, f)
	w.mu.Unlock()
}

// Actual returns where the server of a fixed address really listens.
func (w *World) Actual(network, address string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.actual[network+" "+address]
}

func (w *World) bind(network, address string) string {
	if w.cfg.Bind != nil {
		return w.cfg.Bind(network, address)
	}
	return address
}

// Control is the HTTP interface of the control socket.
//
//	GET  /seen   []Seen
//	POST /reset  forgets what was seen and restores the zone
//	POST /dns    Script
//	GET  /ca     PEM
func (w *World) Control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /seen", func(rw http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(rw).Encode(w.seen.all())
	})
	mux.HandleFunc("POST /reset", func(http.ResponseWriter, *http.Request) {
		w.seen.reset()
		w.zone.reset()
	})
	mux.HandleFunc("POST /dns", func(rw http.ResponseWriter, r *http.Request) {
		var s Script
		err := json.NewDecoder(r.Body).Decode(&s)
		if err == nil {
			err = w.zone.set(s)
		}
		if err != nil {
			http.Error(rw, err.Error(), http.StatusBadRequest)
		}
	})
	mux.HandleFunc("GET /ca", func(rw http.ResponseWriter, _ *http.Request) { rw.Write(w.ca.pem) })
	return mux
}

// ServeControl serves Control on a unix socket until ctx ends.
func (w *World) ServeControl(ctx context.Context, l net.Listener) error {
	s := &http.Server{Handler: w.Control(), ReadHeaderTimeout: time.Minute}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	defer stop()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("control socket: %w", err)
	}
	return nil
}
