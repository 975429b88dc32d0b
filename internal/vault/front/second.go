package front

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"terok/internal/text"
	"terok/internal/vault/keyholder"
)

// A request says by its phantom which provider is meant, and may carry no other credential
// anywhere: an injected agent must not use somebody else's key to carry data out through a
// provider that is open. Everything in a place where clients put credentials is looked at; there it
// is a phantom of this container or the request is refused.

// found is what stands in a place for credentials.
type found struct {
	place string // for people
	param string // name of a query parameter, "" elsewhere
	value string
}

// subprotocolKey is how browsers' clients of OpenAI hand over a key when they open a WebSocket.
const subprotocolKey = "openai-insecure-api-key."

// basicNames are what clients put beside a token in HTTP Basic. Anything else there could be a
// credential of its own.
var basicNames = map[string]bool{"": true, "x-access-token": true, "x-oauth-basic": true, "oauth2": true, "oauth": true, "git": true,
	"token": true, "api": true, "api-key": true, "apikey": true, "private-token": true, "gitlab-ci-token": true, "x": true, "anystring": true}

// identify finds the route of a request by its phantom, and the child that it was, if it was one.
// The route is nil with every refusal.
func (f *Front) identify(ctx context.Context, s *site, h http.Header, rawQuery string) (*route, *childKey, *refusal) {
	list, ref := s.credentials(h, rawQuery)
	if ref != nil {
		return nil, nil, ref
	}
	var own *grant
	var child *childKey
	for _, c := range list {
		g, k := f.owner(c.value, s.host)
		switch {
		case g == nil && FindPhantom(c.value) != "", g == nil && strings.HasPrefix(c.value, tokenFamily):
			if ref := f.stranger(ctx, s, c.value); ref != nil {
				return nil, nil, ref
			}
			return nil, nil, refuse(http.StatusUnauthorized, "invalid_token", "the "+c.place+" carries a token that is not of this task's start")
		case g == nil:
			return nil, nil, refuse(http.StatusForbidden, "foreign_credential", "the "+c.place+" carries a credential of its own; real keys do not belong in a task")
		case own != nil && own != g:
			return nil, nil, refuse(http.StatusBadRequest, "ambiguous_token", "the request carries tokens of two providers, "+own.Provider+" and "+g.Provider)
		case own != nil && child != k:
			return nil, nil, refuse(http.StatusBadRequest, "ambiguous_token", "the request carries two different tokens of "+own.Provider)
		case c.param != "" && !slices.Contains(g.Query, c.param) && !g.inQuery(c.param):
			return nil, nil, refuse(http.StatusForbidden, "foreign_credential", "the token belongs in a header, not in the "+c.place)
		}
		own, child = g, k
	}
	if own == nil {
		if ref := f.waiting(ctx, s); ref != nil {
			return nil, nil, ref
		}
		return nil, nil, refuse(http.StatusUnauthorized, "missing_token", "the request carries no token of this task; agents and tools find theirs in the environment")
	}
	for _, rt := range s.routes {
		if rt.grant == own {
			return rt, child, nil
		}
	}
	return nil, nil, refuse(http.StatusForbidden, "no_route", "the token is for "+own.Provider+", which is not at "+s.host)
}

// tokenFamily begins every token that terok, of whatever version, ever put in a credential's place:
// one that is not of this start is no credential of its own.
const tokenFamily = "terok-"

// waiting is the refusal of a request without a token to a host for which the vault has no
// credential: then programs here were told of no token. It is nil where there is one, or where
// nobody can say.
func (f *Front) waiting(ctx context.Context, s *site) *refusal {
	for _, rt := range s.routes {
		if _, err := f.cfg.Credentials(ctx, rt.Provider); !errors.Is(err, keyholder.ErrNoCredential) {
			return nil
		}
	}
	return credentialRefusal(s.routes[0], keyholder.ErrNoCredential)
}

// owner is the grant whose phantom this is, or whose child's that is good at host. Every
// comparison takes the same time wherever it differs.
func (f *Front) owner(value, host string) (own *grant, child *childKey) {
	for _, g := range f.grants {
		if sameSecret(value, g.Phantom) {
			own, child = g, nil
		} else if k := g.account.children.find(value, host, f.cfg.Now()); k != nil {
			own, child = g, k
		}
	}
	return own, child
}

func sameSecret(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// inQuery reports whether a kind of credential goes upstream in this parameter.
func (g *grant) inQuery(param string) bool {
	for _, a := range g.auths {
		if a.Query == param {
			return true
		}
	}
	return false
}

// credentials lists what stands in the places for credentials in headers and query.
func (s *site) credentials(h http.Header, rawQuery string) ([]found, *refusal) {
	var list []found
	lines := 0
	for name, values := range h {
		lines += len(values)
		switch {
		case s.takesPhantom(name):
			for _, v := range values {
				list = append(list, headerCredentials(name, v)...)
			}
		case name == "Sec-Websocket-Protocol":
			for _, v := range values {
				for _, item := range strings.Split(v, ",") {
					if key, ok := strings.CutPrefix(strings.TrimSpace(item), subprotocolKey); ok {
						list = append(list, found{place: "WebSocket subprotocol", value: key})
					}
				}
			}
		case credentialHeader(name):
			return nil, refuse(http.StatusForbidden, "foreign_credential", "the "+text.Line(name, 64)+" header carries a credential of its own")
		}
	}
	if lines > maxHeaders {
		return nil, refuse(http.StatusRequestHeaderFieldsTooLarge, "bad_request", "too many headers")
	}
	if rawQuery == "" {
		return list, nil
	}
	query, err := url.ParseQuery(rawQuery)
	if err != nil { // a semicolon, say, which some servers take for a separator
		return nil, refuse(http.StatusForbidden, "foreign_credential", "the query cannot be read")
	}
	for name, values := range query {
		if n := foldName(name); credentialNames[n] || weakNames[n] || s.isParam(name) {
			for _, v := range values {
				list = append(list, found{place: "query parameter " + text.Line(name, 64), param: name, value: v})
			}
		}
	}
	return list, nil
}

// isParam reports whether a provider at this site takes its credential in this parameter.
func (s *site) isParam(name string) bool {
	for _, r := range s.routes {
		if slices.Contains(r.Query, name) || r.inQuery(name) {
			return true
		}
	}
	return false
}

// takesPhantom reports whether a header, in canonical form, is a place for the phantom.
func (s *site) takesPhantom(name string) bool {
	for _, r := range s.routes {
		if _, ok := slices.BinarySearch(r.headers, name); ok {
			return true
		}
	}
	return false
}

// headerCredentials are the credentials in the value of a header: after a scheme word, or both
// halves of HTTP Basic.
func headerCredentials(name, value string) []found {
	place := name + " header"
	value = strings.TrimSpace(value)
	scheme, rest, ok := strings.Cut(value, " ")
	if !ok || name != "Authorization" {
		return []found{{place: place, value: value}}
	}
	rest = strings.TrimSpace(rest)
	if !strings.EqualFold(scheme, "basic") {
		return []found{{place: place, value: rest}}
	}
	plain, err := base64.StdEncoding.DecodeString(rest)
	user, password, ok := strings.Cut(string(plain), ":")
	if err != nil || !ok {
		return []found{{place: place, value: value}}
	}
	var list []found
	for _, half := range []string{user, password} {
		if !basicNames[half] {
			list = append(list, found{place: place, value: half})
		}
	}
	if list == nil { // names alone: a login without a credential
		return []found{{place: place, value: value}}
	}
	return list
}

// withoutPhantom is the query to send upstream: the parameters that carried the phantom are gone,
// the rest is as it was.
func (g *grant) withoutPhantom(rawQuery string) string {
	if !strings.Contains(rawQuery, PhantomPrefix) {
		return rawQuery
	}
	var kept []string
	for _, pair := range strings.Split(rawQuery, "&") {
		_, value, _ := strings.Cut(pair, "=")
		if v, err := url.QueryUnescape(value); err == nil && strings.HasPrefix(v, PhantomPrefix) {
			continue
		}
		kept = append(kept, pair)
	}
	return strings.Join(kept, "&")
}
