// Package holder is the keyholder process: the only one that ever has the unlocked vault.
//
// There is one per user, started on demand and kept single by a lock. It has no configuration, no
// terminal and no log; what goes wrong is told to whoever asked. It ends on `vault lock`, on
// SIGTERM, when it is locked and no operator
// has asked for anything for a while, when its socket is gone
// (logout removes the runtime directory) and when the panic lock appears. A kill -9 leaves a dead
// socket, which the next one replaces.
//
// It defends against containers: a process in one has the operator's uid in the kernel's eyes, so
// peers are judged by their user namespace (package peer), operators' requests are taken from the
// host's only, and a supervisor gets what the sandbox file grants to the container that the
// supervisor belongs to, while that container lives. A compromised worker holds one such
// connection and cannot make another, since it is not the registered parent.
//
// It hardens itself before it listens: not dumpable (no ptrace, no core, no /proc/self/mem by
// others of the same uid), no core file, no new privileges.
package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/peer"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/oauth"
	"terok/internal/vault/store"
	"terok/internal/version"
)

// ErrRunning says that another keyholder serves this user.
var ErrRunning = errors.New("a keyholder runs already")

// Config says where the keyholder works and when it gives up.
type Config struct {
	Roots state.Roots
	Idle  time.Duration    // locked and not asked by an operator for so long: end; 0 is 30 s
	Watch time.Duration    // how often socket and panic lock are looked at; 0 is 500 ms
	Now   func() time.Time // nil: time.Now

	Program string   // absolute path of the running program; "": it is never replaced
	Key     []byte   // of the vault, from the keyholder before this one; cleared
	Lock    *os.File // that keeps the keyholder single, from the one before; nil: it is taken

	reserve func(dir string) (release func(), err error) // nil: reserve
}

// maxConns bounds connections; a user has fewer tasks than that.
const maxConns = 512

// Holder is a running keyholder.
type Holder struct {
	cfg  Config
	stop context.CancelFunc

	mu       sync.Mutex // guards what follows; held while the vault is read or written
	vault    *store.Vault
	conns    map[*conn]struct{}
	lastBusy time.Time
	ending   bool
	attempts attempts
	since    time.Time
	next     *successor // the program that takes over, when this one was replaced on disk
	paces    map[store.Key]*pace

	client  oauth.Client
	flights sync.WaitGroup  // refreshes on their way
	waiting sync.WaitGroup  // answers that wait for one
	flying  context.Context // ends with them
	land    context.CancelFunc
}

// Run serves until the keyholder has a reason to end. ready is called once it listens.
func Run(ctx context.Context, cfg Config, ready func()) error {
	if cfg.Idle <= 0 {
		cfg.Idle = 30 * time.Second
	}
	if cfg.Watch <= 0 {
		cfg.Watch = 500 * time.Millisecond
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if panicked(cfg.Roots) {
		return problem.New("panic", problem.Conflict, "the panic lock stands").WithHint("terok panic --clear")
	}
	socket := cfg.Roots.KeyholderSocket()
	lock := cfg.Lock
	if lock == nil {
		var err error
		if lock, err = state.TryLockFile(socket); errors.Is(err, state.ErrLocked) {
			return ErrRunning
		} else if err != nil {
			return err
		}
	}
	keep := false
	defer func() {
		if !keep {
			lock.Close()
		}
	}()
	l, err := listen(socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if cfg.reserve == nil {
		cfg.reserve = reserve
	}
	h := &Holder{cfg: cfg, stop: cancel, conns: map[*conn]struct{}{}, lastBusy: cfg.Now(), since: cfg.Now(),
		paces: map[store.Key]*pace{}, client: oauth.Client{Now: cfg.Now}}
	h.flying, h.land = context.WithCancel(context.Background())
	defer h.land()
	if err := h.inherit(); err != nil {
		l.Close()
		return err
	}
	var serving sync.WaitGroup
	serving.Go(func() { h.accept(ctx, l, &serving) })
	if ready != nil {
		ready()
	}
	h.watch(ctx, socket)
	h.end()
	l.Close() // removes the socket
	serving.Wait()
	h.waiting.Wait()
	if h.next != nil {
		h.next.lock, keep = lock, true
		return h.next
	}
	return nil
}

// listen binds the socket; the lock is held, so a socket that is there belongs to the dead.
func listen(socket string) (*net.UnixListener, error) {
	if err := state.MkdirAll(filepath.Dir(socket)); err != nil {
		return nil, err
	}
	if st, err := os.Lstat(socket); err == nil {
		if st.Mode()&os.ModeSocket == 0 {
			return nil, fmt.Errorf("%s is not a socket", socket)
		}
		if err := os.Remove(socket); err != nil {
			return nil, err
		}
	}
	// Bound under a name nobody knows and renamed when it is private, so that there is no moment
	// in which others could connect.
	tmp := filepath.Join(filepath.Dir(socket), ".keyholder."+strconv.Itoa(os.Getpid()))
	_ = os.Remove(tmp)
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: tmp, Net: "unixpacket"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(tmp, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	if err := os.Rename(tmp, socket); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func panicked(r state.Roots) bool { return stands(r.PanicLock()) }

func stands(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// watch returns when the keyholder has a reason to end.
func (h *Holder) watch(ctx context.Context, socket string) {
	var mine unix.Stat_t
	if err := unix.Lstat(socket, &mine); err != nil {
		return
	}
	tick := time.NewTicker(h.cfg.Watch)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = os.Remove(socket)
			return
		case <-tick.C:
		}
		var now unix.Stat_t
		if err := unix.Lstat(socket, &now); err != nil || now.Ino != mine.Ino || now.Dev != mine.Dev {
			return
		}
		if panicked(h.cfg.Roots) || h.idle() {
			_ = os.Remove(socket)
			return
		}
	}
}

// idle reports whether the keyholder is locked and no operator has asked for anything for a
// while. Supervisors that knock do not count: they would keep it alive for nothing.
func (h *Holder) idle() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.cfg.Now()
	if h.vault != nil {
		h.lastBusy = now
	}
	return now.Sub(h.lastBusy) >= h.cfg.Idle
}

// finishWithin is how long the end waits for tokens that are on their way: one that rotates is
// lost when its answer finds nobody.
const finishWithin = 5 * time.Second

// end forgets everything and closes every connection, those of supervisors at once.
func (h *Holder) end() {
	h.mu.Lock()
	h.ending = true
	for c := range h.conns {
		if c.bound != nil {
			c.Close()
		}
	}
	h.mu.Unlock()
	if !panicked(h.cfg.Roots) {
		landed := make(chan struct{})
		go func() { h.flights.Wait(); close(landed) }()
		select {
		case <-landed:
		case <-time.After(finishWithin):
		}
	}
	h.land()
	h.flights.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.vault != nil {
		h.vault.Close()
		h.vault = nil
	}
	for c := range h.conns {
		c.Close()
	}
}

func (h *Holder) accept(ctx context.Context, l *net.UnixListener, serving *sync.WaitGroup) {
	for {
		uc, err := l.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors: somebody else may give one back
			continue
		}
		c := &conn{UnixConn: uc, holder: h}
		h.mu.Lock()
		full := len(h.conns) >= maxConns || h.ending
		if !full {
			h.conns[c] = struct{}{}
		}
		h.mu.Unlock()
		if full {
			uc.Close()
			continue
		}
		serving.Go(func() {
			defer h.forget(c)
			c.serve()
		})
	}
}

func (h *Holder) forget(c *conn) {
	c.Close()
	h.mu.Lock()
	delete(h.conns, c)
	h.mu.Unlock()
	c.release()
}

// changed tells every supervisor to forget what it cached. The caller holds mu.
func (h *Holder) changed() {
	for c := range h.conns {
		if c.bound != nil {
			c.notify()
		}
	}
}

func (h *Holder) status() *keyholder.Status {
	st := &keyholder.Status{PID: os.Getpid(), Version: version.Version, Unlocked: h.vault != nil, Since: h.since.UTC().Truncate(time.Second)}
	st.Program, st.Outdated = h.cfg.Program, outdated(h.cfg.Program)
	if h.vault != nil {
		st.Opened, st.RolledBack = h.vault.Opened().Kind, h.vault.RolledBack()
		if list, err := h.vault.List(); err == nil {
			st.Credentials = len(list)
		}
	}
	for c := range h.conns {
		if c.bound != nil {
			st.Sessions++
		}
	}
	return st
}

// Kill ends this user's keyholder with SIGKILL, for panic: nothing is asked and no socket is
// needed. It reports whether there was one.
func Kill(roots state.Roots) (bool, error) {
	data, err := os.ReadFile(pidFile(roots))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	var pid int
	var start uint64
	if n, err := fmt.Sscanf(string(data), "%d %d", &pid, &start); n != 2 {
		return false, fmt.Errorf("%s is damaged: %w", pidFile(roots), err)
	}
	pin, err := peer.NewPin(pid, start)
	if err != nil {
		return false, nil // that one is gone
	}
	defer pin.Close()
	return true, pin.Kill()
}

// pidFile holds "PID STARTTIME" of the keyholder. It lies below the data root, since the runtime
// directory is gone after logout.
func pidFile(roots state.Roots) string { return filepath.Join(roots.VaultDir(), "keyholder.pid") }

func writePID(roots state.Roots) error {
	start, err := peer.StartTime(os.Getpid())
	if err != nil {
		return err
	}
	return state.WriteFile(pidFile(roots), fmt.Appendf(nil, "%d %d\n", os.Getpid(), start))
}
