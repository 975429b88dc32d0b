package supervisor

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"terok/internal/audit"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/ssh"
)

// Bounds on one container's use of its SSH agent: connections at a time, and signatures asked for.
// Beyond them nothing is asked of the keyholder and one line of the ledger counts.
const (
	maxAgents = 16
	signEvery = 2 // seconds
	signBurst = 20
)

// signer is the container's ssh-agent. It has no key: it passes on what the keyholder judges.
type signer struct {
	session *keyholder.Session
	record  audit.Recorder
	open    atomic.Int32
	asked   *rate.Limiter
	dropped atomic.Uint64
}

func newSigner(session *keyholder.Session, record audit.Recorder) *signer {
	return &signer{session: session, record: record, asked: rate.NewLimiter(rate.Limit(1.0/signEvery), signBurst)}
}

var signerAddr = netip.AddrPortFrom(netip.MustParseAddr(sandbox.ServiceHost), sandbox.SignerPort)

// ServeConn implements proxy.Service.
func (s *signer) ServeConn(ctx context.Context, c net.Conn) {
	defer s.open.Add(-1)
	if s.open.Add(1) > maxAgents {
		c.Close()
		return
	}
	ssh.ServeAgent(ctx, c, s)
}

// attachWithin is how long a question waits for the keyholder's connection, which the parent makes
// in the first moments of a container, or after an unlock.
const attachWithin = 5 * time.Second

// Keys implements ssh.Backend.
func (s *signer) Keys(ctx context.Context) ([]ssh.Identity, error) {
	s.attached(ctx)
	return s.session.SSHKeys(ctx)
}

func (s *signer) attached(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, attachWithin)
	defer cancel()
	attached(ctx, s.session)
}

// attached waits for the keyholder's connection, as long as ctx lets it.
func attached(ctx context.Context, session *keyholder.Session) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for session.State() != "unlocked" {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Sign implements ssh.Backend.
func (s *signer) Sign(ctx context.Context, public, data []byte, binds []ssh.Bind) ([]byte, error) {
	if !s.asked.Allow() {
		s.dropped.Add(1)
		return nil, errors.New("too many signatures in a short time")
	}
	s.attached(ctx)
	detail := map[string]string{"key": ssh.FingerprintOf(public)}
	signature, use, err := s.session.SSHSign(ctx, public, data, binds)
	if err != nil {
		s.record.Record(audit.Event{Ev: "sign_denied", Actor: "workload", Reason: err.Error(), Detail: detail, Count: s.dropped.Swap(0)})
		return nil, err
	}
	detail["user"], detail["kind"], detail["algorithm"] = use.User, use.Kind, use.Algorithm
	e := audit.Event{Ev: "ssh_sign", Actor: "workload", Name: use.Server, Detail: detail, Count: s.dropped.Swap(0)}
	if use.Kind == "userauth" && use.Server == "" {
		e.Reason = "unbound: the client did not say which server it talks to"
	}
	if use.Namespace != "" {
		detail["namespace"] = use.Namespace
	}
	s.record.Record(e)
	return signature, nil
}
