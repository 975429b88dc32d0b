package keyholder

import (
	"context"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"terok/internal/peer"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// reconnectEvery is how often Keep looks for a keyholder. A look is one connect(2) that fails at
// once, about 5 µs; inotify instances are scarce (charged to the user), so none is used.
const reconnectEvery = 250 * time.Millisecond

// answerWithin bounds every exchange of a supervisor with the keyholder, but for a secret, which
// the keyholder may have to get from the provider first.
const (
	answerWithin = 10 * time.Second
	secretWithin = 30 * time.Second
)

// Register writes the record that lets the calling process, a supervisor's parent, connect for
// the container of sandboxFile. initPID is the container's init as the OCI state names it.
// A restarted or adopting parent registers again.
func Register(sandboxFile string, initPID int) error {
	var f sandbox.File
	if err := state.ReadJSON(sandboxFile, &f); err != nil {
		return err
	}
	id, err := os.ReadFile(f.CIDFile)
	if err != nil {
		return fmt.Errorf("container id: %w", err)
	}
	live := sandbox.Live{Schema: sandbox.Schema, Launch: f.Launch, ContainerID: strings.TrimSpace(string(id)),
		InitPID: initPID, ParentPID: os.Getpid()}
	if live.InitStart, err = peer.StartTime(initPID); err != nil {
		return fmt.Errorf("the container's init: %w", err)
	}
	if live.ParentStart, err = peer.StartTime(live.ParentPID); err != nil {
		return err
	}
	return state.WriteJSON(sandbox.LivePath(f.Dir), live)
}

// Connect makes an authenticated connection for the container of sandboxFile. Only the process
// that called Register gets one. It fails with ErrLocked when no keyholder runs and with
// ErrRefused when the keyholder does not believe the caller.
func Connect(ctx context.Context, socket, sandboxFile string) (*net.UnixConn, error) {
	conn, err := dial(ctx, socket)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	c := &Client{conn: conn, buf: make([]byte, MaxMessage+1)}
	if _, err := c.call(ctx, Request{Op: OpAttach, Sandbox: sandboxFile}); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// Keep connects whenever there is a keyholder and no connection, calls attach with each new
// connection, which attach owns, and returns when ctx ends. It watches a connection without
// reading from it, so the worker may be another process.
func Keep(ctx context.Context, socket, sandboxFile string, attach func(*net.UnixConn)) {
	tick := time.NewTicker(reconnectEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		if conn, err := Connect(ctx, socket, sandboxFile); err == nil {
			if watch, err := duplicate(conn); err != nil {
				conn.Close()
			} else {
				attach(conn)
				hungUp(ctx, watch)
				watch.Close()
				continue
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

func duplicate(conn *net.UnixConn) (*net.UnixConn, error) {
	f, err := conn.File()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	return c.(*net.UnixConn), nil
}

// Session is the worker's side: it fetches and caches the granted secrets. A nil connection is a
// session that is locked until Attach.
type Session struct {
	mu      sync.Mutex
	conn    *net.UnixConn
	gen     uint64 // changes with every Attach, invalidation and hang-up
	id      uint64
	cache   map[string]cached
	waiting map[uint64]chan Response
	readers sync.WaitGroup
	closed  bool

	own    map[string]string        // digest → phantom of this container
	leaked func(phantom, by string) // nil: nobody is told
}

// cached is a secret and until when it may be used without asking again: the keyholder may have a
// newer token by then. Both clocks count, since the monotonic one stands still in suspend and the
// other may be set.
type cached struct {
	Secret
	until time.Time // zero: until told
}

func (c *cached) fresh(now time.Time) bool {
	return c.until.IsZero() || now.Before(c.until) && now.Round(0).Before(c.until.Round(0))
}

// NewSession starts a session on a connection made by Connect, possibly in another process and
// used by an earlier worker. The session owns conn.
func NewSession(conn *net.UnixConn) *Session {
	s := &Session{cache: map[string]cached{}, waiting: map[uint64]chan Response{},
		// Answers to a dead worker's questions may still arrive on an inherited connection.
		id: uint64(time.Now().UnixNano())}
	s.Attach(conn)
	return s
}

// Attach replaces the connection, after lock and unlock or a crash of the keyholder. Calls that
// wait for the old one fail with ErrLocked.
func (s *Session) Attach(conn *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drop()
	if s.closed {
		if conn != nil {
			conn.Close()
		}
		return
	}
	if conn == nil {
		return
	}
	s.conn = conn
	s.readers.Add(1)
	go s.read(conn)
	s.tell()
}

// drop forgets connection and cache and lets every waiting call fail. The caller holds mu.
func (s *Session) drop() {
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	s.forget()
	for id, ch := range s.waiting {
		close(ch)
		delete(s.waiting, id)
	}
}

func (s *Session) forget() {
	s.gen++
	clear(s.cache)
}

func (s *Session) read(conn *net.UnixConn) {
	defer s.readers.Done()
	buf := make([]byte, MaxMessage+1)
	for {
		resp, err := receive(conn, buf)
		s.mu.Lock()
		if s.conn != conn { // replaced meanwhile
			s.mu.Unlock()
			return
		}
		if err != nil {
			s.drop()
			s.mu.Unlock()
			return
		}
		if phantom, own := s.own[resp.Leaked]; resp.ID == 0 && resp.Leaked != "" {
			if own && s.leaked != nil {
				go s.leaked(phantom, resp.Task)
			}
		} else if resp.ID == 0 {
			s.forget()
		} else if ch, ok := s.waiting[resp.ID]; ok {
			delete(s.waiting, resp.ID)
			ch <- resp // buffered
		}
		s.mu.Unlock()
	}
}

// Credential returns the secret that this task may use for provider. It fails with ErrLocked,
// ErrNoCredential, ErrNotGranted, ErrReauth, ErrRefresh, or the context's error. A cached answer
// costs no exchange.
func (s *Session) Credential(ctx context.Context, provider string) (Secret, error) {
	s.mu.Lock()
	if c, ok := s.cache[provider]; ok && c.fresh(time.Now()) {
		s.mu.Unlock()
		return c.Secret, nil
	}
	s.mu.Unlock()
	return s.secret(ctx, Request{Op: OpCredential, Provider: provider})
}

// Renew is asked when the provider has refused a secret that Credential returned. It returns what
// takes its place, after a refresh where there can be one, or the same secret again: then the
// refusal has another reason than the token's age. It fails as Credential does.
func (s *Session) Renew(ctx context.Context, provider string, refused Secret) (Secret, error) {
	return s.secret(ctx, Request{Op: OpCredential, Provider: provider, Refused: refused.Digest()})
}

// Held says for which of its grants this task has a credential now. It fails with ErrLocked, with
// ErrRefused when the container has ended, or with the context's error.
func (s *Session) Held(ctx context.Context) ([]sandbox.Held, error) {
	resp, _, err := s.ask(ctx, Request{Op: OpHeld})
	return resp.Held, err
}

// secret asks for a secret and caches it as long as the keyholder lets it.
func (s *Session) secret(ctx context.Context, req Request) (Secret, error) {
	resp, gen, err := s.ask(ctx, req)
	if err != nil {
		return Secret{}, err
	}
	secret := Secret{Kind: resp.Kind, Value: resp.Secret, Public: resp.Public, ExpiresAt: resp.ExpiresAt}
	until := time.Time{}
	if resp.FreshMS > 0 {
		until = time.Now().Add(time.Duration(resp.FreshMS) * time.Millisecond)
	}
	s.mu.Lock()
	if s.gen == gen { // not invalidated while it was on its way
		s.cache[req.Provider] = cached{secret, until}
	}
	s.mu.Unlock()
	return secret, nil
}

// ask sends one request and waits for its answer. gen is the generation in which it was asked.
func (s *Session) ask(ctx context.Context, req Request) (resp Response, gen uint64, err error) {
	s.mu.Lock()
	if s.conn == nil {
		s.mu.Unlock()
		return Response{}, 0, ErrLocked
	}
	s.id++
	id, conn, answer := s.id, s.conn, make(chan Response, 1)
	gen = s.gen
	s.waiting[id] = answer
	conn.SetWriteDeadline(time.Now().Add(answerWithin))
	req.V, req.ID = 1, id
	err = send(conn, req)
	if err != nil {
		s.drop()
	}
	s.mu.Unlock()
	if err != nil {
		return Response{}, 0, fmt.Errorf("%w: %v", ErrLocked, err)
	}
	within := answerWithin
	if req.Op == OpCredential {
		within = secretWithin
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	select {
	case resp, ok := <-answer:
		if !ok {
			return Response{}, 0, ErrLocked
		}
		return resp, gen, resp.err()
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.waiting, id)
		s.mu.Unlock()
		return Response{}, 0, ctx.Err()
	}
}

// State is "unlocked" while a keyholder answers on the connection, else "locked": for
// control.Status.Vault.
func (s *Session) State() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil {
		return "locked"
	}
	return "unlocked"
}

// Close ends the session and its goroutine.
func (s *Session) Close() error {
	s.mu.Lock()
	s.closed = true
	s.drop()
	s.mu.Unlock()
	s.readers.Wait()
	return nil
}
