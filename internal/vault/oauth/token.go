package oauth

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Refresh trades a refresh token for a new access token (RFC 6749 §6). It fails with *Refused or
// *Unavailable. An endpoint that rotates sends a new refresh token, and then the old one is dead:
// whoever calls this must have written down that it is about to, and must store the answer before
// anything else (see package keyholder/holder).
func (c *Client) Refresh(ctx context.Context, ep Endpoint, refresh []byte) (*Token, error) {
	params := url.Values{"grant_type": {"refresh_token"}, "refresh_token": {string(refresh)}}
	ep.identify(params)
	return c.token(ctx, &ep, params)
}

// Revoke tells the provider that a token is over (RFC 7009).
func (c *Client) Revoke(ctx context.Context, ep Endpoint, token []byte, hint string) error {
	params := url.Values{"token": {string(token)}, "token_type_hint": {hint}}
	if ep.ClientID != "" {
		params.Set("client_id", ep.ClientID)
	}
	r, err := c.post(ctx, &ep, ep.RevokeURL, true, params)
	if err != nil {
		return err
	}
	defer clear(r.body)
	if r.status == http.StatusOK || r.status == http.StatusNoContent {
		return nil // there need not be a body (RFC 7009 §2.2)
	}
	return r.failed()
}

// TakeBack sends a request with which a token ends itself, as forges have it for personal access
// tokens. The token goes in the named header.
func (c *Client) TakeBack(ctx context.Context, ep Endpoint, method, header, prefix string, token []byte) error {
	r, err := c.send(ctx, &ep, method, ep.RevokeURL, http.Header{http.CanonicalHeaderKey(header): {prefix + string(token)}}, nil)
	if err != nil {
		return err
	}
	defer clear(r.body)
	switch r.status {
	case http.StatusOK, http.StatusAccepted, http.StatusNoContent:
		return nil
	case http.StatusUnauthorized: // it was over already
		return nil
	}
	return r.failed()
}

// identify adds who asks and for what.
func (ep *Endpoint) identify(params url.Values) {
	if ep.ClientID != "" {
		params.Set("client_id", ep.ClientID)
	}
	if ep.Scope != "" {
		params.Set("scope", ep.Scope)
	}
}

// token asks the token endpoint and reads its answer.
func (c *Client) token(ctx context.Context, ep *Endpoint, params url.Values) (*Token, error) {
	r, err := c.post(ctx, ep, ep.TokenURL, ep.Form, params)
	if err != nil {
		return nil, err
	}
	defer clear(r.body)
	switch {
	case r.status != http.StatusOK && r.status != http.StatusCreated:
		return nil, r.failed()
	case r.body == nil:
		return nil, r.strange()
	}
	t, err := parseToken(r.body, c.now())
	if err != nil {
		if no, ok := err.(*Refused); ok {
			no.Status = r.status
		}
		return nil, err
	}
	t.Skew = r.skew
	return t, nil
}

// answer is a token endpoint's answer; what is not read here is ignored (RFC 6749 §5.1).
type answer struct {
	Access    string          `json:"access_token"`
	Refresh   string          `json:"refresh_token"`
	ID        string          `json:"id_token"`
	Type      string          `json:"token_type"`
	ExpiresIn json.RawMessage `json:"expires_in"`
	Scope     json.RawMessage `json:"scope"`
	Error     json.RawMessage `json:"error"`
}

// parseToken reads a successful answer. GitHub answers errors with 200 too.
func parseToken(body []byte, now time.Time) (*Token, error) {
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, &Unavailable{Reason: "the token endpoint's answer is not of the form of OAuth", Sent: true}
	}
	if code := errorCode(a.Error); code != "" {
		return nil, judgeError(code, http.StatusOK, 0)
	}
	switch {
	case !usable(a.Access), a.Refresh != "" && !usable(a.Refresh), a.ID != "" && !usable(a.ID):
		return nil, &Unavailable{Reason: "the token endpoint's answer holds no usable token", Sent: true}
	case a.Type != "" && !strings.EqualFold(a.Type, "bearer"):
		return nil, &Unavailable{Reason: "the token endpoint gives tokens that are not bearer tokens", Sent: true}
	}
	t := &Token{Access: []byte(a.Access), Scopes: scopes(a.Scope)}
	if a.Refresh != "" {
		t.Refresh = []byte(a.Refresh)
	}
	if a.ID != "" {
		t.ID = []byte(a.ID)
	}
	t.ExpiresAt = expiry(a.ExpiresIn, a.Access, now)
	return t, nil
}

const maxLifetime = 10 * 365 * 24 * time.Hour

// expiry is the end of an access token: by the answer, else by the token, else DefaultLifetime.
func expiry(expiresIn json.RawMessage, access string, now time.Time) time.Time {
	if s, err := strconv.ParseFloat(strings.Trim(string(expiresIn), `"`), 64); err == nil && s > 0 {
		d := maxLifetime
		if s < maxLifetime.Seconds() {
			d = time.Duration(s * float64(time.Second))
		}
		return now.Add(d).UTC().Truncate(time.Second)
	}
	if exp := Expiry([]byte(access)); exp.After(now) {
		return exp
	}
	return now.Add(DefaultLifetime).UTC().Truncate(time.Second)
}

// scopes reads "a b", "a,b" (GitHub) or ["a", "b"]; nil when there is nothing to read.
func scopes(raw json.RawMessage) []string {
	var list []string
	var s string
	switch {
	case json.Unmarshal(raw, &s) == nil && s != "":
		list = strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ',' })
	case json.Unmarshal(raw, &list) == nil:
	}
	list = slices.DeleteFunc(list, func(s string) bool { return !plainScope(s) })
	if len(list) == 0 || len(list) > 64 {
		return nil
	}
	return list
}

// plainScope accepts the characters of a scope (RFC 6749 §3.3).
func plainScope(s string) bool {
	for i := range len(s) {
		if s[i] <= 0x20 || s[i] >= 0x7f || s[i] == '"' || s[i] == '\\' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// failed judges an answer that is no success.
func (r *reply) failed() error {
	if r.body == nil {
		return r.strange()
	}
	var a struct {
		Error json.RawMessage `json:"error"`
		Code  json.RawMessage `json:"code"`
	}
	code := ""
	if json.Unmarshal(r.body, &a) == nil {
		if code = errorCode(a.Error); code == "" {
			code = errorCode(a.Code)
		}
	}
	return judgeError(code, r.status, r.retryAfter)
}

// errorCode finds the code in "error": a word, or an object with code or type in it as some
// vendors have it. Only [a-z0-9_] of it is kept, at most 48 characters.
func errorCode(raw json.RawMessage) string {
	var word string
	if json.Unmarshal(raw, &word) != nil {
		var o struct {
			Code string `json:"code"`
			Type string `json:"type"`
		}
		if json.Unmarshal(raw, &o) != nil {
			return ""
		}
		if word = o.Code; word == "" {
			word = o.Type
		}
	}
	out := make([]byte, 0, 48)
	for i := 0; i < len(word) && len(out) < 48; i++ {
		switch c := word[i]; {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			out = append(out, c)
		case c == '-' || c == ' ' || c == '.':
			out = append(out, '_')
		case c >= 'A' && c <= 'Z':
			out = append(out, c|0x20)
		}
	}
	return string(out)
}

// passing are codes of errors that pass by themselves.
var passing = []string{"temporarily_unavailable", "server_error", "slow_down", "rate_limit_error",
	"rate_limited", "rate_limit_exceeded", "overloaded_error", "api_error", "timeout"}

// judgeError decides whether an error is final. Client errors that carry an OAuth code are;
// everything that is the server's own trouble, or has no code, is not.
func judgeError(code string, status int, after time.Duration) error {
	final := code != "" && !slices.Contains(passing, code) &&
		(status == http.StatusOK || status == http.StatusBadRequest || status == http.StatusUnauthorized || status == http.StatusForbidden)
	if final {
		return &Refused{Code: code, Status: status}
	}
	return &Unavailable{Reason: "the token endpoint answers HTTP " + strconv.Itoa(status), RetryAfter: after,
		Sent: status < 500 && status != http.StatusTooManyRequests}
}
