package keyholder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Client is the operator's side. One call at a time is on its way; calls may come from several
// goroutines.
type Client struct {
	mu   sync.Mutex
	conn *net.UnixConn
	id   uint64
	buf  []byte
}

// Dial connects an operator to the keyholder's socket. When no keyholder runs, the error is
// ErrLocked.
func Dial(ctx context.Context, socket string) (*Client, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	return &Client{conn: conn, buf: make([]byte, MaxMessage+1)}, nil
}

func dial(ctx context.Context, socket string) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", socket)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%w: no keyholder runs (%v)", ErrLocked, errors.Unwrap(err))
	}
	return conn.(*net.UnixConn), nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

func (c *Client) call(ctx context.Context, req Request) (Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	c.id++
	req.V, req.ID = 1, c.id
	if err := send(c.conn, req); err != nil {
		return Response{}, gone(ctx, err)
	}
	resp, err := receive(c.conn, c.buf)
	if err != nil {
		return Response{}, gone(ctx, err)
	}
	if resp.ID != req.ID {
		c.conn.Close()
		return Response{}, errors.New("the keyholder answered another request")
	}
	return resp, resp.err()
}

func gone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("%w: the keyholder went away (%v)", ErrLocked, err)
}

func send(conn *net.UnixConn, v any) error {
	msg, err := json.Marshal(v)
	if err != nil {
		return err
	}
	defer clear(msg)
	if len(msg) > MaxMessage {
		return errors.New("message too long")
	}
	_, err = conn.Write(msg)
	return err
}

// receive reads one response; buf must hold MaxMessage+1 bytes and is cleared afterwards.
func receive(conn *net.UnixConn, buf []byte) (Response, error) {
	n, err := conn.Read(buf)
	if err != nil {
		return Response{}, err
	}
	defer clear(buf[:n])
	if n == 0 {
		return Response{}, errors.New("connection closed") // end of file of a SEQPACKET socket
	}
	var resp Response
	if err := decode(buf[:n], &resp); err != nil {
		return Response{}, err
	}
	return resp, nil
}

// Unlock opens the vault with a passphrase, a recovery code or the minted secret of a slot, which
// the caller should clear. ErrWrong when no slot
// opens; a *Refusal with another code when the vault is missing or damaged. Unlocking an
// unlocked vault still checks the passphrase.
func (c *Client) Unlock(ctx context.Context, passphrase []byte) error {
	_, err := c.call(ctx, Request{Op: OpUnlock, Passphrase: passphrase})
	return err
}

// Wake is Unlock by what opens the vault without a person: ErrLocked once somebody has locked it
// (state.Roots.VaultLocked), also while the secret was being fetched.
func (c *Client) Wake(ctx context.Context, secret []byte) error {
	_, err := c.call(ctx, Request{Op: OpUnlock, Passphrase: secret, Unattended: true})
	return err
}

// Lock makes the keyholder forget everything and end, and returns when its socket is gone.
func (c *Client) Lock(ctx context.Context) error {
	if _, err := c.call(ctx, Request{Op: OpLock}); err != nil {
		return err
	}
	return c.hangUp(ctx)
}

// hangUp waits for the end of the connection.
func (c *Client) hangUp(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, _ = c.conn.Read(c.buf) // ends with the connection
	return ctx.Err()
}

// Status asks how things are; it works while locked.
func (c *Client) Status(ctx context.Context) (Status, error) {
	resp, err := c.call(ctx, Request{Op: OpStatus})
	if err != nil {
		return Status{}, err
	}
	if resp.Status == nil {
		return Status{}, errors.New("the keyholder sent no status")
	}
	return *resp.Status, nil
}

// Put stores a credential and reports whether it replaced one. It takes effect for the next
// request of every task that is granted it.
func (c *Client) Put(ctx context.Context, cred Credential, s Secrets) (replaced bool, err error) {
	resp, err := c.call(ctx, Request{Op: OpPut, Credential: &cred, Secret: s.Secret, Refresh: s.Refresh, IDToken: s.IDToken})
	return resp.Replaced, err
}

// Offer stores a credential unless there is one of its name, and says what was there: "", HadSame or
// HadOther. With dry nothing is stored.
func (c *Client) Offer(ctx context.Context, cred Credential, s Secrets, dry bool) (had string, err error) {
	resp, err := c.call(ctx, Request{Op: OpOffer, Credential: &cred, Secret: s.Secret, Refresh: s.Refresh, IDToken: s.IDToken, Dry: dry})
	return resp.Had, err
}

// List describes the stored credentials, by scope, provider and account.
func (c *Client) List(ctx context.Context) ([]Credential, error) {
	var list []Credential
	for {
		resp, err := c.call(ctx, Request{Op: OpList, After: len(list)})
		if err != nil {
			return nil, err
		}
		list = append(list, resp.Credentials...)
		if !resp.More || len(resp.Credentials) == 0 {
			return list, nil
		}
	}
}

// Delete removes a credential; ErrNoCredential when there is none. An empty account is "default".
func (c *Client) Delete(ctx context.Context, scope, provider, account string) error {
	_, err := c.call(ctx, Request{Op: OpDelete, Scope: scope, Provider: provider, Account: account})
	return err
}

// Refresh gets a new access token for an OAuth credential now and describes the credential then.
// It fails with ErrNoCredential, ErrReauth when the provider says that the sign-in has ended,
// ErrRefresh when it does not answer, or a *Refusal.
func (c *Client) Refresh(ctx context.Context, scope, provider, account string) (Credential, error) {
	resp, err := c.call(ctx, Request{Op: OpRefresh, Scope: scope, Provider: provider, Account: account})
	if err != nil {
		return Credential{}, err
	}
	if len(resp.Credentials) != 1 {
		return Credential{}, errors.New("the keyholder described no credential")
	}
	return resp.Credentials[0], nil
}

// Bind makes a project use a stored credential, whatever its own scope says; an empty scope takes
// the binding back. It fails with ErrNoCredential.
func (c *Client) Bind(ctx context.Context, project, provider, scope, account string) error {
	_, err := c.call(ctx, Request{Op: OpBind, Name: project, Provider: provider, Scope: scope, Account: account})
	return err
}

// Revoke tells the provider that a credential is over, and deletes it once the provider has taken
// it back. how is used for a credential without a revocation endpoint of its own; with neither,
// the Refusal's code is CodeNoRevocation and nothing happens.
func (c *Client) Revoke(ctx context.Context, scope, provider, account string, how *Revocation) error {
	_, err := c.call(ctx, Request{Op: OpRevoke, Scope: scope, Provider: provider, Account: account, Upstream: how})
	return err
}
