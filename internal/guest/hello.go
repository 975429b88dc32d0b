package guest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// helloDeadline is how long pid 1 waits for a supervisor that proves itself.
const helloDeadline = 10 * time.Second

// maxWelcome bounds a supervisor's answer, in bytes.
const maxWelcome = sandbox.MaxFile + 1<<20

// supervisor is the client of the guest protocol.
type supervisor struct {
	base string
	http *http.Client
}

func newSupervisor() *supervisor {
	d := net.Dialer{Timeout: 2 * time.Second}
	d.SetMultipathTCP(false)
	return &supervisor{
		base: "http://" + net.JoinHostPort(sandbox.ServiceHost, strconv.Itoa(sandbox.GuestPort)),
		// No proxy: its address would come from the environment of the image.
		http: &http.Client{Transport: &http.Transport{DialContext: d.DialContext, DisableKeepAlives: true},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}
}

func (s *supervisor) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, body)
	if err != nil {
		return err
	}
	res, err := s.http.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, maxWelcome))
	if err != nil {
		return err
	}
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the supervisor answers %s", res.Status)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(data, out)
}

// hello asks for the start until a supervisor proves itself with key. A wrong proof is final: it
// is somebody else who answers.
func (s *supervisor) hello(ctx context.Context, key ed25519.PublicKey) (*control.Welcome, error) {
	ctx, cancel := context.WithTimeout(ctx, helloDeadline)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		nonce := make([]byte, 32)
		_, _ = rand.Read(nonce) // never fails
		var w control.Welcome
		err := s.call(ctx, http.MethodPost, "/v1/hello", control.Hello{Nonce: nonce}, &w)
		if err == nil {
			return proven(key, nonce, &w)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, fmt.Errorf("no supervisor answered within %s: %w", helloDeadline, err)
		}
	}
}

// proven checks the supervisor's proof and that this is a start, not a second hello: a container
// that shares another's network namespace gets a proof, but no start.
func proven(key ed25519.PublicKey, nonce []byte, w *control.Welcome) (*control.Welcome, error) {
	if !signed(key, nonce, w) {
		return nil, errUnproven
	}
	if w.Start == nil {
		return nil, errors.New("this start was handed out before")
	}
	return w, nil
}

var errUnproven = errors.New("what answers as the supervisor cannot prove it")

func signed(key ed25519.PublicKey, nonce []byte, w *control.Welcome) bool {
	return ed25519.Verify(key, append([]byte(control.HelloContext), nonce...), w.Signature)
}

// ready tells how the preparation ended. It is said again until somebody hears it: a worker that
// dies in between is replaced within a second.
func (s *supervisor) ready(ctx context.Context, failure error) error {
	var r control.Ready
	if failure != nil {
		r.Error = failure.Error()
	}
	ctx, cancel := context.WithTimeout(ctx, helloDeadline)
	defer cancel()
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		err := s.call(ctx, http.MethodPost, "/v1/ready", r, nil)
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return err
		}
	}
}

// parseKey reads the public key from pid 1's arguments.
func parseKey(s string) (ed25519.PublicKey, error) {
	key, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(key) != ed25519.PublicKeySize {
		return nil, errors.New("the supervisor's public key is missing")
	}
	return key, nil
}
