// Package front is the vault's transparent door: it ends the TLS of routed hosts, checks the
// phantom token, puts the real credential in its place and relays to the provider.
//
// What it guarantees, whatever runs in the container:
//
//   - The real credential goes to the route's upstream over verified TLS and nowhere else. No
//     redirect is followed. It never comes back: responses that echo it are scrubbed, in headers,
//     bodies and trailers, raw or encoded, also across chunk borders.
//   - A request without this container's phantom is refused (403), and so is one that carries any
//     other credential beside it, in headers, query, form or JSON: an injected agent cannot use
//     somebody else's key to carry data out through an allowed provider.
//   - The certificate is for exactly the connection's name, SNI must be that name, and every
//     request's Host or :authority must be that name (421).
//   - Requests that make the provider fetch a URL are refused unless the route allows it.
//   - Only the route's paths are reachable; a path that two readers could read differently is
//     refused.
//
// What it does on purpose:
//
//   - It asks the provider for identity encoding (Accept-Encoding: identity, no Range), since a
//     compressed or partial response cannot be scrubbed as it streams. A gzip response that comes
//     all the same is unpacked; any other encoding is refused (502).
//   - It reads request bodies: JSON and forms only, everything else with a body is refused (415).
//     Up to Limits.Inspect bytes are judged before the first byte goes upstream. A larger body is
//     judged while it streams; on a hit the upstream request is aborted before its end, so the
//     provider never sees a complete document.
//   - It ignores requests to upgrade the protocol, which is what HTTP lets a server do.
//
// Call New before the process is confined: it reads the system's and the routes' root
// certificates. A Front holds no credential of its own; it asks Config.Credentials per request,
// so locking the vault answers 503 at once and unlocking cures it.
package front

import (
	"context"
	"net"
	"time"

	"terok/internal/audit"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
)

// Secret is a real credential.
type Secret = keyholder.Secret

// Grant is one provider that the container may use, with the phantom of this container start.
type Grant struct {
	sandbox.Grant
	Phantom string // as made by NewPhantom
}

// Limits bound what a container can ask for. Zero fields mean the defaults.
type Limits struct {
	Concurrent int   // requests at a time, all routes together; 64
	Body       int64 // bytes of a request body; 128 MiB
	Inspect    int64 // bytes of a body judged before anything is sent; 1 MiB
	Connection int   // client connections at a time; 256
}

// Config is what New needs; every field but Limits and Now must be set.
type Config struct {
	Grants    []Grant
	Authority *Authority
	// Credentials returns the secret for a provider; keyholder.ErrLocked and
	// keyholder.ErrNoCredential are answered in words. (*keyholder.Session).Credential.
	Credentials func(ctx context.Context, provider string) (Secret, error)
	// Dial connects to an upstream. It resolves host on the host side and refuses private
	// addresses unless allowPrivate, judging the address it really connects to.
	Dial   func(ctx context.Context, host string, port uint16, allowPrivate bool) (net.Conn, error)
	Record audit.Recorder
	Limits Limits
	Now    func() time.Time // nil: time.Now
}
