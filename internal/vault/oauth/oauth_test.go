package oauth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	access  = "at-REAL-canary-0123456789abcdef"
	refresh = "rt-REAL-canary-0123456789abcdef"
	next    = "rt-REAL-canary-next-0123456789ab"
)

// serve starts an endpoint under a test CA.
func serve(t *testing.T, h http.HandlerFunc) Endpoint {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return Endpoint{TokenURL: s.URL + "/token", DeviceURL: s.URL + "/device", RevokeURL: s.URL + "/revoke", AuthorizeURL: s.URL + "/authorize",
		ClientID: "client-1", Scope: "a b", CAFile: ca, AllowPrivate: true}
}

func answers(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		io.WriteString(w, body)
	}
}

func TestRefresh(t *testing.T) {
	t.Parallel()
	for _, form := range []bool{false, true} {
		ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			var got map[string]string
			if form {
				q, _ := url.ParseQuery(string(body))
				got = map[string]string{}
				for k := range q {
					got[k] = q.Get(k)
				}
			} else {
				_ = json.Unmarshal(body, &got)
			}
			want := map[string]string{"grant_type": "refresh_token", "refresh_token": refresh, "client_id": "client-1", "scope": "a b"}
			if fmt.Sprint(got) != fmt.Sprint(want) || r.Method != "POST" {
				t.Errorf("%s %q", r.Method, body)
			}
			fmt.Fprintf(w, `{"access_token":%q,"refresh_token":%q,"expires_in":3600,"token_type":"Bearer","scope":"a b","more":[1]}`, access, next)
		})
		ep.Form = form
		at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
		tok, err := (&Client{Now: func() time.Time { return at }}).Refresh(t.Context(), ep, []byte(refresh))
		if err != nil {
			t.Fatal(err)
		}
		if string(tok.Access) != access || string(tok.Refresh) != next || !tok.ExpiresAt.Equal(at.Add(time.Hour)) || fmt.Sprint(tok.Scopes) != "[a b]" {
			t.Errorf("%+v", tok)
		}
		if tok.Skew > -time.Hour { // the server's clock is today's
			t.Error("skew", tok.Skew)
		}
		tok.Wipe()
		if strings.Contains(string(tok.Access)+string(tok.Refresh), "REAL") {
			t.Error("not wiped")
		}
	}
}

func jwt(claims string) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"RS256"}`)) + "." + enc([]byte(claims)) + ".c2lnbmF0dXJl"
}

// spec/vault.md §5.6: absent expires_in → exp of the token, else 28 800 s; absent refresh token
// keeps the old.
func TestExpiry(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		body string
		want time.Duration
	}{
		{`{"access_token":"` + access + `"}`, 8 * time.Hour},
		{`{"access_token":"` + access + `","expires_in":"600"}`, 10 * time.Minute},
		{`{"access_token":"` + access + `","expires_in":0}`, 8 * time.Hour},
		{`{"access_token":"` + access + `","expires_in":-5}`, 8 * time.Hour},
		{`{"access_token":"` + access + `","expires_in":1e300}`, maxLifetime},
		{`{"access_token":"` + access + `","expires_in":"NaN"}`, 8 * time.Hour},
		{`{"access_token":"` + access + `","expires_in":null}`, 8 * time.Hour},
		{`{"access_token":"` + jwt(fmt.Sprintf(`{"exp":%d}`, now.Add(time.Minute).Unix())) + `"}`, time.Minute},
		{`{"access_token":"` + jwt(fmt.Sprintf(`{"exp":%d}`, now.Add(-time.Minute).Unix())) + `"}`, 8 * time.Hour},
	} {
		tok, err := parseToken([]byte(tt.body), now)
		if err != nil || tok.ExpiresAt.Sub(now) != tt.want || tok.Refresh != nil {
			t.Errorf("%s: %+v %v", tt.body, tok, err)
		}
	}
}

// spec/vault.md §5.6, outcomes: what ends a sign-in and what may pass.
func TestOutcomes(t *testing.T) {
	t.Parallel()
	html := "<html>" + access + "</html>"
	for _, tt := range []struct {
		name    string
		handler http.HandlerFunc
		final   string // code of a Refused; "" is Unavailable
		after   time.Duration
	}{
		{"invalid_grant", answers(400, `{"error":"invalid_grant","error_description":"`+refresh+`"}`), "invalid_grant", 0},
		{"vendor's object", answers(401, `{"error":{"code":"refresh_token_reused","message":"x"}}`), "refresh_token_reused", 0},
		{"vendor's type", answers(400, `{"type":"error","error":{"type":"invalid_request_error","message":"x"}}`), "invalid_request_error", 0},
		{"error with 200", answers(200, `{"error":"bad_refresh_token"}`), "bad_refresh_token", 0},
		{"code is cut and cleaned", answers(400, `{"error":"`+strings.Repeat("A-\\u001b[31m", 40)+`"}`), strings.Repeat("a_31m", 10)[:48], 0},
		{"temporary with 400", answers(400, `{"error":"temporarily_unavailable"}`), "", 0},
		{"HTML with 400", answers(400, html), "", 0},
		{"HTML with 403", answers(403, html), "", 0},
		{"JSON without code", answers(401, `{"message":"`+access+`"}`), "", 0},
		{"429", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "17")
			answers(429, `{"error":"invalid_grant"}`)(w, r)
		}, "", 17 * time.Second},
		{"500", answers(500, `{"error":"invalid_grant"}`), "", 0},
		{"not JSON", answers(200, html), "", 0},
		{"a list", answers(200, `[]`), "", 0},
		{"empty", answers(200, ``), "", 0},
		{"no token", answers(200, `{"token_type":"bearer"}`), "", 0},
		{"short token", answers(200, `{"access_token":"short"}`), "", 0},
		{"token with line feed", answers(200, `{"access_token":"`+access+`\r\nX-Injected: 1"}`), "", 0},
		{"token with a space", answers(200, `{"access_token":"`+access+` x"}`), "", 0},
		{"odd refresh token", answers(200, `{"access_token":"`+access+`","refresh_token":"ü"}`), "", 0},
		{"other token type", answers(200, `{"access_token":"`+access+`","token_type":"mac"}`), "", 0},
		{"too long", answers(200, `{"access_token":"`+access+`","x":"`+strings.Repeat("x", maxAnswer)+`"}`), "", 0},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			io.WriteString(w, "{")
		}, "", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tok, err := (&Client{}).Refresh(t.Context(), serve(t, tt.handler), []byte(refresh))
			if err == nil || tok != nil {
				t.Fatal("accepted", tok)
			}
			if s := err.Error(); strings.Contains(s, "REAL") || strings.ContainsAny(s, "\x1b\n") {
				t.Errorf("the error shows what the server sent: %q", s)
			}
			var no *Refused
			var later *Unavailable
			switch {
			case errors.As(err, &no):
				if no.Code != tt.final || tt.final == "" {
					t.Errorf("final, code %q", no.Code)
				}
			case errors.As(err, &later):
				if tt.final != "" || later.RetryAfter != tt.after {
					t.Errorf("passing: %+v", later)
				}
			default:
				t.Error(err)
			}
		})
	}
}

// A token goes to the endpoint and nowhere else.
func TestNowhereElse(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	thief := serve(t, func(http.ResponseWriter, *http.Request) { hits.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, thief.TokenURL, status)
		})
		_, err := (&Client{}).Refresh(t.Context(), ep, []byte(refresh))
		var later *Unavailable
		if !errors.As(err, &later) || !strings.Contains(err.Error(), "redirect") {
			t.Error(status, err)
		}
	}
	private := thief
	private.AllowPrivate = false
	if _, err := (&Client{}).Refresh(t.Context(), private, []byte(refresh)); err == nil || !strings.Contains(err.Error(), "not public") {
		t.Error("private address:", err)
	}
	untrusted := thief
	untrusted.CAFile = ""
	if _, err := (&Client{}).Refresh(t.Context(), untrusted, []byte(refresh)); err == nil || !strings.Contains(err.Error(), "not trusted") {
		t.Error("unknown authority:", err)
	}
	other := thief
	other.TokenURL = strings.Replace(thief.TokenURL, "127.0.0.1", "localhost", 1) // not in the certificate
	if _, err := (&Client{}).Refresh(t.Context(), other, []byte(refresh)); err == nil {
		t.Error("another name's certificate was taken")
	}
	for _, bad := range []string{"", "http://127.0.0.1/token", "https://u:p@127.0.0.1/", "https:///token", "https:opaque", "://"} {
		ep := thief
		ep.TokenURL = bad
		if _, err := (&Client{}).Refresh(t.Context(), ep, []byte(refresh)); err == nil {
			t.Errorf("%q is an endpoint", bad)
		}
	}
	for _, addr := range []string{"169.254.169.254:80", "[::ffff:169.254.169.254]:80", "100.100.100.200:80", "0.0.0.0:80"} {
		if _, err := Dial(t.Context(), addr, true); err == nil || !strings.Contains(err.Error(), "not a public address") {
			t.Error(addr, err)
		}
	}
	if hits.Load() != 0 {
		t.Error("somebody else got a request")
	}
}

// TestSent: whether the server may have seen a token decides what a later refusal means.
func TestSent(t *testing.T) {
	t.Parallel()
	ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	})
	var later *Unavailable
	if _, err := (&Client{}).Refresh(t.Context(), ep, []byte(refresh)); !errors.As(err, &later) || !later.Sent {
		t.Errorf("after the request: %+v", later)
	}
	ep.TokenURL = "https://127.0.0.1:1/token"
	if _, err := (&Client{}).Refresh(t.Context(), ep, []byte(refresh)); !errors.As(err, &later) || later.Sent {
		t.Errorf("refused connection: %+v", later)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ep = serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
	})
	if _, err := (&Client{}).Refresh(ctx, ep, []byte(refresh)); !errors.As(err, &later) || !later.Sent || !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %+v", later)
	}
	ep = serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	})
	if _, err := (&Client{Timeout: 50 * time.Millisecond}).Refresh(t.Context(), ep, []byte(refresh)); !strings.Contains(err.Error(), "in time") {
		t.Errorf("slow: %+v", later)
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	ep := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/revoke" || r.FormValue("token") != refresh || r.FormValue("token_type_hint") != "refresh_token" || r.FormValue("client_id") != "client-1" {
			t.Errorf("%s %v", r.URL, r.Form)
		}
	})
	if err := (&Client{}).Revoke(t.Context(), ep, []byte(refresh), "refresh_token"); err != nil {
		t.Error(err)
	}
	if err := (&Client{}).Revoke(t.Context(), serve(t, answers(503, "")), []byte(refresh), "refresh_token"); err == nil {
		t.Error("a failure is a success")
	}
}
