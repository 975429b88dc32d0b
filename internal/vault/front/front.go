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
//   - It lets the provider compress with gzip where the client takes that, and unpacks the answer:
//     a short one goes on as it came when nothing in it had to be masked, any other goes on
//     unpacked. Ranges are not asked for, since half a secret cannot be found, and an encoding that
//     cannot be unpacked is refused (502).
//   - It reads request bodies: JSON, forms and forms in parts, whose files are content and not
//     judged. Files as the whole body go where the policy says upload; everything else with a body
//     is refused (415). Bodies in gzip and zstd are judged and go on unpacked. Up to Limits.Inspect bytes are judged before the first byte goes upstream. A larger body is
//     judged while it streams; on a hit the upstream request is aborted before its end, so the
//     provider never sees a complete document.
//   - It relays WebSockets over HTTP/1.1 message by message: what the container sends must be JSON
//     text and is judged like a body, what the provider sends is scrubbed; extensions, and so
//     compression, are not negotiated. Any other request to upgrade is ignored, which is what HTTP
//     lets a server do.
//   - It counts what requests use by the providers' own words, and asks before each whether there
//     may be one more (Config.Used, Config.Admit).
//   - It notices phantoms that are seen where they must not be (canary.go).
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
	"terok/internal/vault/usage"
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
	PerMinute  int   // requests in a minute to one provider; 0: any number
	Burst      int   // of them at once; 60
	Body       int64 // bytes of a request body; 128 MiB
	Inspect    int64 // bytes of a body judged before anything is sent; 1 MiB
	Connection int   // client connections at a time; 256

	WrongDelay time.Duration // how long an answer to a wrong token waits once there are many; 1 s
}

// Config is what New needs. What follows Record may be left out.
type Config struct {
	Grants    []Grant
	Authority *Authority
	// Credentials returns the secret for a provider; keyholder.ErrLocked and
	// keyholder.ErrNoCredential are answered in words. (*keyholder.Session).Credential.
	Credentials func(ctx context.Context, provider string) (Secret, error)
	// Renew returns what takes the place of a secret that the provider has just refused, or the
	// same one. nil: refusals are passed on. (*keyholder.Session).Renew.
	Renew func(ctx context.Context, provider string, refused Secret) (Secret, error)
	// Dial connects to an upstream. It resolves host on the host side and refuses private
	// addresses unless allowPrivate, judging the address it really connects to.
	Dial   func(ctx context.Context, host string, port uint16, allowPrivate bool) (net.Conn, error)
	Record audit.Recorder
	// Admit is asked before each request, and each message of a WebSocket, whether the provider may
	// be used once more; it may wait for a person. What its error says is shown to the agent. nil:
	// always.
	Admit func(ctx context.Context, provider string) error
	// Used is told what a request used, and returns what that cost in millionths of a dollar, 0 if
	// that is not known. nil: nothing is counted.
	Used func(provider, model string, t usage.Tokens, estimated bool) (microUSD int64)
	// NoBatches refuses requests whose cost is not in their answer.
	NoBatches bool
	// Leaked is told of whole phantoms that this container used and does not own, a few in a minute,
	// raises the alert, and says which task owns one, "" when nobody is known to. nil: the front
	// raises it.
	Leaked func(ctx context.Context, token string) (owner string)
	Limits Limits
	Now    func() time.Time // nil: time.Now
}
