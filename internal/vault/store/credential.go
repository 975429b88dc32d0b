package store

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"time"

	"terok/internal/problem"
	"terok/internal/vault/oauth"
)

// Bounds of a secret in bytes. A shorter one would be found in ordinary text when responses are
// scrubbed.
const (
	MinSecret = 12
	MaxSecret = 8 << 10
)

// Bounds of the rest of a credential.
const (
	maxPublic      = 24  // facts
	maxPublicValue = 512 // bytes of one fact
	maxError       = 300 // bytes of LastError
)

// Kinds of credentials.
const (
	KindAPIKey = "api_key"
	KindOAuth  = "oauth"
	KindPAT    = "pat" // personal access token of a forge
)

// States of a credential.
const (
	StateOK         = "ok"
	StateUnverified = "unverified"      // never probed
	StateReauth     = "reauth_required" // the provider wants the person to sign in again
	StateInvalid    = "invalid"         // the provider refuses it
)

// DefaultAccount is the account of whoever names none.
const DefaultAccount = "default"

// Key names a credential.
type Key struct {
	Scope    string `json:"scope"`    // "shared" or "project:<name>"
	Provider string `json:"provider"` // roster name
	Account  string `json:"account"`  // label; "" in a call means DefaultAccount
}

// Credential is one stored credential. Scope, provider and account name it. Times are UTC, whole
// seconds; zero means unknown or never.
type Credential struct {
	Scope     string    `json:"scope"`
	Provider  string    `json:"provider"`
	Account   string    `json:"account"`
	Kind      string    `json:"kind"`
	Secret    []byte    `json:"secret,omitempty"`   // what goes on the wire now: visible ASCII
	Refresh   []byte    `json:"refresh,omitempty"`  // OAuth refresh token; never leaves the keyholder
	IDToken   []byte    `json:"id_token,omitempty"` // OpenID token; never leaves the keyholder
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// RefreshAt is when a new token is due, before this one ends; zero when Refresh is empty or the
	// end is unknown.
	RefreshAt time.Time `json:"refresh_at,omitzero"`
	// Endpoint is where Refresh was given and where alone it goes; nil when it cannot be used.
	Endpoint  *oauth.Endpoint   `json:"endpoint,omitempty"`
	State     string            `json:"state"`
	LastError string            `json:"last_error,omitempty"` // one line, without secrets
	Public    map[string]string `json:"public,omitempty"`     // login, plan, scopes, host, account_id, …: no secrets
	Hint      string            `json:"hint"`                 // last four characters of Secret
	CreatedAt time.Time         `json:"created_at"`
	UpdatedAt time.Time         `json:"updated_at"`
	// VerifiedAt is when the provider last accepted it in a probe of ours.
	VerifiedAt time.Time `json:"verified_at,omitzero"`
	Revision   uint64    `json:"revision"` // of the document when it was written
}

// Key returns what names c.
func (c *Credential) Key() Key { return Key{c.Scope, c.Provider, c.Account}.norm() }

func (k Key) norm() Key {
	if k.Account == "" {
		k.Account = DefaultAccount
	}
	return k
}

func (c *Credential) secrets() []*[]byte { return []*[]byte{&c.Secret, &c.Refresh, &c.IDToken} }

func (c *Credential) wipe() {
	for _, s := range c.secrets() {
		clear(*s)
	}
}

// clone copies the secrets and the map, so that wiping the document leaves c usable.
func (c Credential) clone() Credential {
	for _, s := range c.secrets() {
		*s = bytes.Clone(*s)
	}
	c.Public = maps.Clone(c.Public)
	if c.Endpoint != nil {
		ep := *c.Endpoint
		c.Endpoint = &ep
	}
	return c
}

// bare is c without its secrets.
func (c Credential) bare() Credential {
	c.Secret, c.Refresh, c.IDToken = nil, nil, nil
	return c
}

func (k Key) check() error {
	switch {
	case !isScope(k.Scope):
		return problem.New("invalid_scope", problem.Usage, "not a credential scope: want shared or project:NAME")
	case !isProvider(k.Provider):
		return problem.New("invalid_provider", problem.Usage, "not a provider's name")
	case !isAccount(k.Account):
		return problem.New("invalid_account", problem.Usage, "not an account's label: letters, digits and . _ @ + -, at most 64")
	}
	return nil
}

// check judges what a caller wants to store. No error text quotes a value.
func (c *Credential) check() error {
	if err := c.Key().check(); err != nil {
		return err
	}
	usage := func(format string, args ...any) error { return problem.New("usage", problem.Usage, format, args...) }
	switch {
	case !slices.Contains([]string{KindAPIKey, KindOAuth, KindPAT}, c.Kind):
		return usage("not a kind of credential that this version stores")
	case !slices.Contains([]string{StateOK, StateUnverified, StateReauth, StateInvalid}, c.State):
		return usage("not a state of a credential")
	case len(c.Secret) < MinSecret || len(c.Secret) > MaxSecret:
		return usage("a key has %d to %d characters, this has %d", MinSecret, MaxSecret, len(c.Secret))
	case len(c.Refresh) > MaxSecret || len(c.IDToken) > MaxSecret:
		return usage("a token has at most %d characters", MaxSecret)
	case len(c.LastError) > maxError || strings.ContainsFunc(c.LastError, notPrintable):
		return usage("the error of a credential is one line of at most %d bytes", maxError)
	case len(c.Public) > maxPublic:
		return usage("a credential has at most %d public facts", maxPublic)
	}
	for _, s := range c.secrets() {
		if bytes.ContainsFunc(*s, func(r rune) bool { return r <= 0x20 || r >= 0x7f }) {
			return usage("a key is visible ASCII without spaces")
		}
	}
	for name, value := range c.Public {
		if !isFact(name) || len(value) > maxPublicValue || strings.ContainsFunc(value, notPrintable) {
			return usage("a public fact of a credential has a lower-case name and a value of at most %d printable bytes", maxPublicValue)
		}
		// A secret under another name would be listed, and handed to workers.
		for _, s := range c.secrets() {
			if len(*s) >= MinSecret && strings.Contains(value, string(*s)) {
				return usage("a public fact of a credential holds one of its secrets")
			}
		}
	}
	return nil
}
