package supervisor

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/subtle"
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/text"
	"terok/internal/vault/front"
)

// guestAPI is the container's side of the control protocol (control.Hello). Everybody in the
// container reaches it; the start with its tokens goes to the first caller of a container start,
// which is the guest, because nothing else runs before it.
type guestAPI struct {
	hand   *handover
	record audit.Recorder
	say    func(op byte) error    // to the parent
	offer  func(box []byte) error // to the parent: what a guest brought back
	held   func(context.Context) control.Credentials
	why    func(control.Target) control.Explanation
	ask    func(context.Context, control.AskQuestion) control.AskAnswer

	mu     sync.Mutex
	served bool
	ready  bool
	reason string // why the guest is not ready
	stays  int    // connections that are kept open
	asked  time.Time
	renewals
}

// Bounds of request bodies, in bytes. A box is in base64 there.
const (
	maxGuestRequest = 8 << 10
	maxStayRequest  = maxGuestRequest + control.MaxSealed*4/3
)

// maxStays bounds the connections that are kept open; the guest needs one.
const maxStays = 4

// askEvery is how often a box is passed to the parent: the workload can bring some as well.
const askEvery = 250 * time.Millisecond

func (g *guestAPI) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/hello", g.hello)
	mux.HandleFunc("POST /v1/ready", g.markReady)
	mux.HandleFunc("POST /v1/stay", g.stay)
	mux.HandleFunc("GET /v1/credentials", func(w http.ResponseWriter, r *http.Request) { answer(w, g.held(r.Context())) })
	mux.HandleFunc("GET /v1/why", g.explain)
	mux.HandleFunc("POST /v1/ask", g.question)
	return mux
}

func (g *guestAPI) hello(w http.ResponseWriter, r *http.Request) {
	var h control.Hello
	if !readStrict(w, r, &h) {
		return
	}
	welcome, ok := g.prove(w, h.Nonce)
	if !ok {
		return
	}
	g.mu.Lock()
	first := !g.served
	g.served = true
	g.mu.Unlock()
	if first {
		// Written before the answer: a worker that dies in between leaves a start that nobody
		// got, never one that two got.
		if err := g.say(opServed); err != nil {
			http.Error(w, "the supervisor is going down", http.StatusServiceUnavailable)
			return
		}
		g.mu.Lock()
		welcome.Start, welcome.Sealed, welcome.Proof = g.start(), g.hand.Sealed, g.hand.Proof
		g.mu.Unlock()
	}
	answer(w, welcome)
}

// prove signs the nonce of a guest.
func (g *guestAPI) prove(w http.ResponseWriter, nonce []byte) (control.Welcome, bool) {
	if len(nonce) != 32 {
		http.Error(w, "a nonce has 32 bytes", http.StatusBadRequest)
		return control.Welcome{}, false
	}
	key := ed25519.NewKeyFromSeed(g.hand.File.SigningKey)
	return control.Welcome{Signature: ed25519.Sign(key, append([]byte(control.HelloContext), nonce...))}, true
}

// stay keeps the connection open until one side ends: the guest notices by it that it has to come
// back. A supervisor that took the container over gets its secrets with it.
func (g *guestAPI) stay(w http.ResponseWriter, r *http.Request) {
	var s control.Stay
	if !readLimited(w, r, &s, maxStayRequest) {
		return
	}
	welcome, ok := g.prove(w, s.Nonce)
	if !ok {
		return
	}
	g.mu.Lock()
	guest := len(g.hand.Proof) == proofSize && subtle.ConstantTimeCompare(s.Proof, g.hand.Proof) == 1
	full := g.stays >= maxStays && !guest // the workload cannot keep the guest out
	if !full {
		g.stays++
	}
	ask := !full && g.hand.Waiting && len(s.Sealed) > 0 && time.Since(g.asked) >= askEvery
	if ask {
		g.asked = time.Now()
	}
	back := !full && g.hand.Adopted && !g.ready
	g.ready = g.ready || back
	g.mu.Unlock()
	if full {
		http.Error(w, "somebody stays already", http.StatusTooManyRequests)
		return
	}
	defer func() { g.mu.Lock(); g.stays--; g.mu.Unlock() }()
	answer(w, welcome)
	wire := http.NewResponseController(w)
	if wire.Flush() != nil || wire.SetReadDeadline(time.Time{}) != nil {
		return
	}
	if ask && g.offer(s.Sealed) != nil {
		return
	}
	if back {
		_ = g.say(opGuest)
		g.record.Record(audit.Event{Ev: "note", Actor: "auto", Reason: "the guest came back to the new supervisor"})
	}
	if guest {
		g.renew(r.Context(), s.Sealed, func(n *control.Renewal) bool {
			answer(w, n)
			return wire.Flush() == nil
		})
	}
	<-r.Context().Done()
}

// heldWithin bounds the question to the keyholder; settling is how long after its start a worker may
// still get its first connection to one.
const (
	heldWithin = 2 * time.Second
	settling   = 2 * time.Second
)

// held says for which providers the vault has a credential now, as an agent that starts wants to
// know. While the vault is locked nobody knows.
func (s *service) held(ctx context.Context) control.Credentials {
	none := control.Credentials{Held: []sandbox.Held{}}
	if s.session == nil || s.hand.File.Vault == nil {
		return none
	}
	first, cancel := context.WithDeadline(ctx, s.started.Add(settling))
	attached(first, s.session)
	cancel()
	ctx, cancel = context.WithTimeout(ctx, heldWithin)
	defer cancel()
	list, err := s.session.Held(ctx)
	if err != nil {
		return none
	}
	return control.Credentials{Known: true, Held: append(none.Held, list...)}
}

// start is the sandbox file's with what belongs to this container start only.
func (g *guestAPI) start() *sandbox.Start {
	s := g.hand.File.Start
	if v := g.hand.File.Vault; v != nil {
		for _, grant := range v.Grants {
			s.Tokens = append(s.Tokens, grant.Token(g.hand.Phantoms[grant.Provider]))
			if held, ok := grant.Held(); ok {
				s.Held = append(s.Held, held)
			}
		}
	}
	s.GateToken = g.hand.GateToken
	if len(g.hand.Authority) > 0 {
		if ca, err := front.UnmarshalAuthority(g.hand.Authority); err == nil {
			s.CA = string(ca.CertPEM())
		}
	}
	return &s
}

func (g *guestAPI) markReady(w http.ResponseWriter, r *http.Request) {
	var ready control.Ready
	if !readStrict(w, r, &ready) {
		return
	}
	g.mu.Lock()
	first := !g.ready && g.reason == ""
	if first { // the workload can call as well: the first word holds
		if ready.Error == "" {
			// Before anybody can read it: what was seen once stays, also when this worker dies now.
			_ = g.say(opGuest)
		}
		g.ready, g.reason = ready.Error == "", text.Line(ready.Error, 0)
	}
	ok := g.ready
	g.mu.Unlock()
	if first {
		e := audit.Event{Ev: "note", Actor: "auto", Reason: "the guest is ready: the command runs"}
		if !ok {
			e.Ev, e.Reason = "error", "guest: "+text.Line(ready.Error, 0)
		}
		g.record.Record(e)
	}
	w.WriteHeader(http.StatusNoContent)
}

func (g *guestAPI) isReady() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ready
}

func (g *guestAPI) explain(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	t := control.Target{Host: q.Get("host"), Proto: "tcp"}
	if p := q.Get("port"); p != "" {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil {
			http.Error(w, "port is not a number", http.StatusBadRequest)
			return
		}
		t.Port = uint16(n)
	}
	e := g.why(t)
	// What an operator wrote and where stays outside: the workload learns the verdict.
	if e.Rule != nil {
		e.Rule, e.Reason = nil, "a rule of the tier "+e.Tier+" decides"
	}
	answer(w, e)
}

func readStrict(w http.ResponseWriter, r *http.Request, v any) bool {
	return readLimited(w, r, v, maxGuestRequest)
}

func readLimited(w http.ResponseWriter, r *http.Request, v any, limit int64) bool {
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if err != nil {
		http.Error(w, "the request is too large", http.StatusRequestEntityTooLarge)
		return false
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		http.Error(w, "the request is not what was expected", http.StatusBadRequest)
		return false
	}
	return true
}

func answer(w http.ResponseWriter, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(data, '\n'))
}

// literal parses a target's host as an address.
func literal(host string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return a.Unmap(), err == nil
}
