// Package oauth is the client of providers' token endpoints, and the reader of the files in which
// vendors' programs keep a sign-in. It holds no state and stores nothing: the keyholder refreshes
// with it, `terok auth` signs in with it.
//
//	c := &oauth.Client{}
//	tok, err := c.Refresh(ctx, endpoint, refreshToken)
//	var no *oauth.Refused
//	switch {
//	case err == nil:          // store tok; tok.Refresh may be new, then the old one is dead
//	case errors.As(err, &no): // the sign-in is over: asking again cannot help
//	default:                  // *oauth.Unavailable: ask later
//	}
//
// What it guarantees: a token travels over verified TLS to exactly the host of the endpoint, to an
// address that is public unless the operator said otherwise, and no redirect is followed, so it is
// never sent elsewhere. Answers are at most 64 KiB of JSON. No error holds a token or words of the
// server's own; a code that it sent is reduced to [a-z0-9_].
//
// It tells apart what is final (Refused) from what may pass (Unavailable) with care, since a
// refresh token that rotates is worth one try: only an OAuth error in JSON is final, never an
// error page of something on the way.
package oauth

import (
	"errors"
	"fmt"
	"net/url"
	"time"
)

// Endpoint says where and how a provider gives out tokens; it is data of the roster. Only
// TokenURL is always needed.
type Endpoint struct {
	TokenURL     string `json:"token_url"`               // https://HOST[:PORT]/PATH
	ClientID     string `json:"client_id,omitempty"`     // of a public client (RFC 6749 §2.1)
	Scope        string `json:"scope,omitempty"`         // sent with requests, words separated by spaces; "" for none
	Form         bool   `json:"form,omitempty"`          // requests are forms, as the RFC has it; otherwise JSON, as some vendors do
	DeviceURL    string `json:"device_url,omitempty"`    // device authorisation (RFC 8628); "" when there is none
	AuthorizeURL string `json:"authorize_url,omitempty"` // authorisation page of a browser (RFC 6749 §4.1); "" when there is none
	RevokeURL    string `json:"revoke_url,omitempty"`    // revocation (RFC 7009); "" when there is none
	Issuer       string `json:"issuer,omitempty"`        // "iss" in answers of the authorisation page (RFC 9207); "" is not checked
	CAFile       string `json:"ca_file,omitempty"`       // further roots, PEM
	AllowPrivate bool   `json:"allow_private,omitempty"` // the host may be in a private range or on this machine
}

// Token is what a token endpoint gave. Its byte slices are the caller's to clear.
type Token struct {
	Access    []byte // visible ASCII
	Refresh   []byte // nil when the answer had none: the old one stays good
	ID        []byte // ID token (a JWT), nil when there is none
	ExpiresAt time.Time
	// Scopes of the token; nil when the answer does not say, which means: as asked.
	Scopes []string
	// Skew is how far the server's clock is ahead of ours; 0 when its answer had no Date.
	Skew time.Duration
}

// Wipe clears the secrets.
func (t *Token) Wipe() {
	clear(t.Access)
	clear(t.Refresh)
	clear(t.ID)
}

// Bounds of a token in bytes, those of the vault's store.
const (
	minToken = 12
	maxToken = 8 << 10
)

// DefaultLifetime is taken for an access token whose end neither the answer nor the token says.
const DefaultLifetime = 8 * time.Hour

// Refused says that the server will not give a token for this grant, now or later: it was used,
// revoked, or has expired.
type Refused struct {
	Code   string // of RFC 6749 §5.2 or the vendor's own, [a-z0-9_]
	Status int
}

func (e *Refused) Error() string {
	return fmt.Sprintf("the provider refuses the sign-in (%s, HTTP %d)", e.Code, e.Status)
}

// Unavailable says that there was no answer that settles the question.
type Unavailable struct {
	Reason     string        // for people, without words of the server's
	RetryAfter time.Duration // as the server asked; 0 when it did not
	// Sent is whether the server may have seen the request: then a token that rotates may have
	// been used up.
	Sent bool
	err  error
}

func (e *Unavailable) Error() string { return e.Reason }
func (e *Unavailable) Unwrap() error { return e.err }

// ErrExpired and ErrDenied end a device grant.
var (
	ErrExpired = errors.New("the code expired before it was confirmed")
	ErrDenied  = errors.New("the sign-in was refused in the browser")
)

// checkURL demands https and nothing that could be read in two ways.
func checkURL(what, s string) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" {
		return nil, fmt.Errorf("%s is not https://HOST[:PORT]/PATH", what)
	}
	return u, nil
}

// usable reports whether a token can be stored and sent in a header.
func usable(t string) bool {
	if len(t) < minToken || len(t) > maxToken {
		return false
	}
	for i := range len(t) {
		if t[i] <= 0x20 || t[i] >= 0x7f {
			return false
		}
	}
	return true
}
