package oauth

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// TestDevice plays RFC 8628: pending, slow down, confirmed.
func TestDevice(t *testing.T) {
	t.Parallel()
	steps := []string{`{"error":"authorization_pending"}`, `{"error":"authorization_pending"}`}
	ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/device" {
			if r.FormValue("client_id") != "client-1" || r.FormValue("scope") != "a b" {
				t.Error(r.Form)
			}
			fmt.Fprint(w, `{"device_code":"dev-1","user_code":"WDJB-MJHT","verification_uri":"https://example.org/device",
				"verification_uri_complete":"https://example.org/device?code=WDJB-MJHT","expires_in":600,"interval":0.01}`)
			return
		}
		if r.FormValue("grant_type") != deviceGrant || r.FormValue("device_code") != "dev-1" || r.FormValue("client_id") != "client-1" {
			t.Error(r.Form)
		}
		if len(steps) > 0 {
			w.WriteHeader(400)
			io.WriteString(w, steps[0])
			steps = steps[1:]
			return
		}
		fmt.Fprintf(w, `{"access_token":%q}`, access)
	})
	c := &Client{}
	code, err := c.Device(t.Context(), ep)
	if err != nil || code.User != "WDJB-MJHT" || code.URL != "https://example.org/device" || code.Complete == "" {
		t.Fatalf("%+v %v", code, err)
	}
	if left := time.Until(code.ExpiresAt); left < 9*time.Minute || left > 10*time.Minute {
		t.Error(left)
	}
	tok, err := c.Wait(t.Context(), ep, code)
	if err != nil || string(tok.Access) != access || len(steps) != 0 {
		t.Error(tok, err)
	}
	for answer, want := range map[string]error{`{"error":"access_denied"}`: ErrDenied, `{"error":"expired_token"}`: ErrExpired} {
		steps = []string{answer}
		if _, err := c.Wait(t.Context(), ep, code); !errors.Is(err, want) {
			t.Error(answer, err)
		}
	}
	steps = []string{`{"error":"invalid_client"}`}
	var no *Refused
	if _, err := c.Wait(t.Context(), ep, code); !errors.As(err, &no) {
		t.Error(err)
	}
	late := *code
	late.ExpiresAt = time.Now()
	if _, err := c.Wait(t.Context(), ep, &late); !errors.Is(err, ErrExpired) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Wait(ctx, ep, code); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestDeviceAnswers(t *testing.T) {
	now := time.Now()
	for _, bad := range []string{`{}`, `{"device_code":"d","user_code":"u","verification_uri":"http://example.org"}`,
		`{"device_code":"d","user_code":"u\u001b[2J","verification_uri":"https://example.org"}`,
		`{"device_code":"d","user_code":"u","verification_uri":"https://example.org/\u001b"}`,
		`{"device_code":"","user_code":"u","verification_uri":"https://example.org"}`, `{"error":"unauthorized_client"}`, `{"device_code":5}`} {
		if code, err := parseCode([]byte(bad), now); err == nil {
			t.Errorf("%s: %+v", bad, code)
		}
	}
	code, err := parseCode([]byte(`{"device_code":"d","user_code":"u","verification_url":"https://e.org","verification_uri_complete":"javascript:1","expires_in":1e12,"interval":1e12}`), now)
	if err != nil || code.interval != 5*time.Second || code.ExpiresAt.Sub(now) != maxCodeLife || code.Complete != "" {
		t.Errorf("%+v %v", code, err)
	}
}

// TestBrowser plays RFC 6749 §4.1 with PKCE and a loopback redirect.
func TestBrowser(t *testing.T) {
	t.Parallel()
	var challenge string
	ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.Sum256([]byte(r.FormValue("code_verifier")))
		if base64.RawURLEncoding.EncodeToString(sum[:]) != challenge || len(r.FormValue("code_verifier")) < 43 {
			w.WriteHeader(400)
			io.WriteString(w, `{"error":"invalid_grant"}`)
			return
		}
		fmt.Fprintf(w, `{"access_token":%q,"refresh_token":%q}`, access, refresh)
	})
	ep.Form, ep.Issuer = true, "https://issuer.example"
	start := func() (*Browser, url.Values) {
		t.Helper()
		b, err := (&Client{}).Browse(ep)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		u, _ := url.Parse(b.URL)
		q := u.Query()
		challenge = q.Get("code_challenge")
		if q.Get("code_challenge_method") != "S256" || q.Get("response_type") != "code" || q.Get("client_id") != "client-1" || q.Get("scope") != "a b" ||
			!strings.HasPrefix(q.Get("redirect_uri"), "http://127.0.0.1:") || len(q.Get("state")) < 43 {
			t.Fatal(b.URL)
		}
		return b, q
	}
	visit := func(q url.Values, path string, answer url.Values) int {
		t.Helper()
		resp, err := http.Get(strings.TrimSuffix(q.Get("redirect_uri"), "/callback") + path + "?" + answer.Encode())
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	b, q := start()
	good := url.Values{"code": {"c-1"}, "state": {q.Get("state")}, "iss": {ep.Issuer}}
	for path, answer := range map[string]url.Values{
		"/other":     good,
		"/callback":  {"code": {"c-1"}, "state": {"guessed"}},
		"/callback/": {"code": {"c-1"}},
	} {
		if got := visit(q, path, answer); got < 400 {
			t.Error(path, answer, got)
		}
	}
	if got := visit(q, "/callback", good); got != 200 {
		t.Error(got)
	}
	if got := visit(q, "/callback", good); got != http.StatusConflict {
		t.Error("taken twice", got)
	}
	tok, err := b.Wait(t.Context())
	if err != nil || string(tok.Access) != access || string(tok.Refresh) != refresh {
		t.Error(tok, err)
	}
	for name, change := range map[string]func(url.Values){
		"other issuer": func(v url.Values) { v.Set("iss", "https://evil.example") },
		"no issuer":    func(v url.Values) { v.Del("iss") },
		"no code":      func(v url.Values) { v.Del("code") },
		"two codes":    func(v url.Values) { v.Add("code", "c-2") },
	} {
		b, q := start()
		answer := url.Values{"code": {"c-1"}, "state": {q.Get("state")}, "iss": {ep.Issuer}}
		change(answer)
		visit(q, "/callback", answer)
		if _, err := b.Wait(t.Context()); err == nil {
			t.Error(name, "accepted")
		}
	}
	b, q = start()
	visit(q, "/callback", url.Values{"error": {"access_denied"}, "state": {q.Get("state")}})
	if _, err := b.Wait(t.Context()); !errors.Is(err, ErrDenied) {
		t.Error(err)
	}
	b, _ = start()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
