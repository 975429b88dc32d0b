package oauth

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// Browser is a sign-in in the operator's own browser: authorisation code with PKCE S256 (RFC 7636)
// and a redirect to this machine's loopback on a port that the kernel chose (RFC 8252 §7.3). The
// answer is taken once, must carry the state that was sent, and must name the issuer where the
// endpoint has one.
type Browser struct {
	URL string // to open

	client   *Client
	ep       Endpoint
	redirect string
	state    string
	verifier string
	server   *http.Server
	answer   chan url.Values
	serving  sync.WaitGroup
}

// browserLife bounds the wait for a person.
const browserLife = 10 * time.Minute

// Browse starts to listen for the answer. Close ends it.
func (c *Client) Browse(ep Endpoint) (*Browser, error) {
	u, err := checkURL("authorize_url", ep.AuthorizeURL)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the browser's answer: %w", err)
	}
	b := &Browser{client: c, ep: ep, state: random(), verifier: random(), answer: make(chan url.Values, 1),
		redirect: "http://" + l.Addr().String() + "/callback"}
	sum := sha256.Sum256([]byte(b.verifier))
	q := u.Query()
	for k, v := range map[string]string{"response_type": "code", "client_id": ep.ClientID, "redirect_uri": b.redirect,
		"state": b.state, "code_challenge": base64.RawURLEncoding.EncodeToString(sum[:]), "code_challenge_method": "S256"} {
		q.Set(k, v)
	}
	if ep.Scope != "" {
		q.Set("scope", ep.Scope)
	}
	u.RawQuery = q.Encode()
	b.URL = u.String()
	b.server = &http.Server{Handler: b, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0)}
	b.serving.Go(func() { _ = b.server.Serve(l) }) // ends with Close
	return b, nil
}

// random is 256 bits for state or verifier.
func random() string {
	var p [32]byte
	_, _ = rand.Read(p[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(p[:])
}

// ServeHTTP takes the browser's answer. Other programs of this machine can reach the port as well:
// without the state they change nothing.
func (b *Browser) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	q := r.URL.Query()
	switch {
	case r.Method != http.MethodGet || r.URL.Path != "/callback" || r.Host != strings.TrimPrefix(strings.TrimSuffix(b.redirect, "/callback"), "http://"):
		http.NotFound(w, r)
		return
	case len(q["state"]) != 1 || subtle.ConstantTimeCompare([]byte(q.Get("state")), []byte(b.state)) != 1:
		http.Error(w, "This answer belongs to no sign-in that terok waits for.", http.StatusForbidden)
		return
	}
	select {
	case b.answer <- q:
		fmt.Fprintln(w, "terok has it. You can close this page and go back to the terminal.")
	default:
		http.Error(w, "The answer has come already.", http.StatusConflict)
	}
}

// Wait returns the token once the person has confirmed. It fails with ErrDenied, ErrExpired,
// *Refused, *Unavailable or the context's error.
func (b *Browser) Wait(ctx context.Context) (*Token, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, browserLife, ErrExpired)
	defer cancel()
	var q url.Values
	select {
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case q = <-b.answer:
	}
	switch code := q.Get("error"); {
	case code == "access_denied":
		return nil, ErrDenied
	case code != "":
		return nil, &Refused{Code: errorCode([]byte(fmt.Sprintf("%q", code))), Status: http.StatusOK}
	case b.ep.Issuer != "" && (len(q["iss"]) != 1 || q.Get("iss") != b.ep.Issuer):
		return nil, errors.New("the browser's answer comes from another issuer")
	case len(q["code"]) != 1 || !printable(q.Get("code"), maxToken):
		return nil, errors.New("the browser's answer holds no code")
	}
	params := url.Values{"grant_type": {"authorization_code"}, "code": {q.Get("code")}, "redirect_uri": {b.redirect},
		"client_id": {b.ep.ClientID}, "code_verifier": {b.verifier}}
	return b.client.token(ctx, &b.ep, params)
}

// Close stops listening.
func (b *Browser) Close() error {
	err := b.server.Close()
	b.serving.Wait()
	return err
}
