package supervisor

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/sandbox/landlock"
	"terok/internal/shield/netns"
	"terok/internal/state"
	"terok/internal/vault/front"
	"terok/internal/vault/keyholder"
)

// Descriptors of the parent, made by the hook.
const (
	fdSay   = 3 // pipe: readyWord, or the reason of a refusal
	fdInit  = 4 // pidfd of the container's init
	fdSpace = 5 // the container's network namespace
)

// Memory limits of the Go heap, in bytes: they make the collector return memory early.
const (
	parentMemory = 8 << 20
	workerMemory = 24 << 20
)

// Pauses before a worker that died is started again: none the first time, growing while it dies
// soon after each start.
const (
	restartFirst = 100 * time.Millisecond
	restartMax   = 5 * time.Second
	restartCalm  = 10 * time.Second // a worker that lived so long starts the series anew
)

// ParentMain is `terok supervise SANDBOX-FILE CONTAINER-ID PID`; only the hook runs it. It must be
// called on the process's main thread.
func ParentMain(args []string) int {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds | log.LUTC)
	log.SetPrefix("parent: ")
	debug.SetMemoryLimit(parentMemory)
	debug.SetGCPercent(50)
	for fd := fdSay; fd <= fdSpace; fd++ {
		unix.CloseOnExec(fd)
	}
	say := os.NewFile(fdSay, "ready pipe")
	p, err := prepare(args)
	if err != nil {
		log.Print(err)
		fmt.Fprint(say, err)
		return 1
	}
	return p.supervise(say)
}

// parent is the privileged process of one container; after prepare it has no privilege left.
type parent struct {
	hand    handover
	initPID int
	init    *os.File // pidfd
	space   *netns.Space
	inside  *netns.Inside
	watch   *netns.Watch
	control net.Listener
	socket  *os.File // of control
	owners  *owners
	sealing []byte    // sandbox.File.SealingKey
	unlock  func()    // held until this process ends
	turned  time.Time // the gate token was replaced last

	registered bool
}

// prepare makes everything that needs privileges and gives them up.
func prepare(args []string) (*parent, error) {
	if len(args) < 3 || len(args) > 4 || len(args) == 4 && args[3] != adoptWord {
		return nil, errors.New("usage: terok supervise SANDBOX-FILE CONTAINER-ID PID [" + adoptWord + "]")
	}
	pid, err := strconv.Atoi(args[2])
	if err != nil {
		return nil, fmt.Errorf("pid %q: %w", args[2], err)
	}
	file, err := sandbox.Load(args[0])
	if err != nil {
		return nil, err
	}
	abi := landlock.ABI()
	if err := landlock.Missing(abi); err != nil && !file.WithoutLandlock {
		return nil, fmt.Errorf("%w; %s", err, landlock.Cure)
	}
	p := newParent(file, len(args) == 4)
	p.initPID, p.init = pid, os.NewFile(fdInit, "pidfd")
	p.hand.Path, p.hand.ContainerID, p.hand.Landlock = args[0], args[1], abi
	if err := p.alone(); err != nil {
		return nil, err
	}
	if init, err := describe(pid); err == nil && p.hand.Adopted {
		p.hand.StartedAt = init.StartedAt
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	if p.control, err = control.Listen(sandbox.ControlPath(file.RuntimeDir)); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	sock, ok := p.control.(interface{ File() (*os.File, error) })
	if !ok {
		return nil, errors.New("the control listener has no descriptor")
	}
	if p.socket, err = sock.File(); err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	if err := p.secrets(); err != nil {
		return nil, err
	}
	if err := dropPrivileges(); err != nil {
		return nil, err
	}
	p.hand.Parent, err = describe(os.Getpid())
	if err != nil {
		return nil, err
	}
	if p.hand.Parent.CapEff != noCapabilities || p.hand.Parent.CapBnd != noCapabilities {
		return nil, errors.New("privileges are still there after they were dropped")
	}
	// A panic since the hook looked finds this process, or is found here.
	return p, notPanicked(file)
}

// newParent begins the handover of a container.
func newParent(file *sandbox.File, adopted bool) *parent {
	p := &parent{hand: handover{File: *file, StartedAt: time.Now().UTC(), Adopted: adopted}}
	p.sealing, p.hand.File.SealingKey = p.hand.File.SealingKey, nil // never a worker's
	return p
}

// alone takes the lock that says who supervises the container, for the life of this process. The
// supervisor of an earlier start may still be ending; one that lives is never replaced.
func (p *parent) alone() (err error) {
	wait := lockWait
	if p.hand.Adopted {
		wait = 0
	}
	p.unlock, err = state.LockFor(lockPath(p.hand.File.Dir), wait)
	if errors.Is(err, state.ErrLocked) {
		return errors.New(heldReason)
	}
	return err
}

// enter makes the inside of the container's network namespace.
func (p *parent) enter() error {
	var err error
	if p.space, err = netns.Enter(fdSpace); err != nil {
		return err
	}
	p.owners, err = newOwners(p.space.Inode, fdSpace)
	unix.Close(fdSpace)
	if err != nil {
		return err
	}
	p.space.Synthetic = syntheticRange(p.hand.File.Dir)
	if p.inside, err = p.space.Setup(); err != nil {
		return err
	}
	if p.watch, err = p.space.Watch(); err != nil {
		return err
	}
	p.hand.V6 = p.inside.Ports.V6
	return nil
}

// secrets makes what is secret to this container start. A parent that takes a container over
// makes nothing: what runs there would not know it. The guest brings the secrets back.
func (p *parent) secrets() error {
	f := &p.hand.File
	if len(grants(f)) > 0 {
		if err := p.register(); err != nil {
			return fmt.Errorf("register with the keyholder: %w", err)
		}
	}
	if p.hand.Adopted {
		p.hand.Served = true
		p.hand.Waiting = f.Gate != nil || len(grants(f)) > 0
		return nil
	}
	if f.Gate != nil {
		p.hand.GateToken = newGateToken()
		p.hand.Proof = make([]byte, proofSize)
		_, _ = rand.Read(p.hand.Proof) // never fails
	}
	if err := p.authority(); err != nil {
		return err
	}
	if len(p.sealing) == 0 {
		return nil
	}
	about, err := boxContext(f, p.hand.ContainerID, p.initPID)
	if err != nil {
		return err
	}
	p.hand.Sealed, err = seal(p.sealing, about, &p.hand.secrets)
	return err
}

// grants are what the task may use of the vault.
func grants(f *sandbox.File) []sandbox.Grant {
	if f.Vault == nil {
		return nil
	}
	return f.Vault.Grants
}

// register records which processes serve the container: the keyholder asks for it, and so does
// a supervisor that takes the container over later.
func (p *parent) register() error {
	p.registered = true
	return keyholder.Register(p.hand.Path, p.initPID)
}

// settled does what can wait until the container runs.
func (p *parent) settled() {
	if p.registered {
		return
	}
	if err := p.register(); err != nil {
		log.Printf("record the running container: %v", err)
	}
}

// resume takes the secrets back that the guest kept, once.
func (p *parent) resume(box []byte) bool {
	if !p.hand.Waiting {
		return false
	}
	about, err := boxContext(&p.hand.File, p.hand.ContainerID, p.initPID)
	if err != nil {
		return false // the container ends
	}
	s, err := unseal(p.sealing, about, box)
	if err != nil {
		log.Print(err)
		return false
	}
	if s.GateToken != "" && p.outdated(about, s) {
		// The token was replaced, and both processes died before the guest had the new one.
		if box, err = p.turn(s, about); err != nil {
			log.Printf("a new gate token: %v; the gate stays closed", err)
			s.GateToken = ""
		}
	}
	p.hand.secrets, p.hand.Sealed, p.hand.Waiting = *s, box, false
	log.Print("the guest came back with the secrets of this start")
	return true
}

// authority makes phantoms and the certificate authority of the routed hosts, if there are any.
func (p *parent) authority() error {
	grants := grants(&p.hand.File)
	if len(grants) == 0 {
		return nil
	}
	var hosts []string
	p.hand.Phantoms = map[string]string{}
	for _, g := range grants {
		for _, r := range g.Routes {
			hosts = append(hosts, r.Host)
		}
		p.hand.Phantoms[g.Provider] = front.NewPhantom()
	}
	ca, err := front.NewAuthority(hosts, time.Now())
	if err != nil {
		return err
	}
	p.hand.Authority, err = ca.MarshalBinary()
	return err
}

// supervise keeps a worker running until the container's init ends. It stays on the main thread:
// a worker asks for SIGKILL when the thread that started it ends.
func (p *parent) supervise(say *os.File) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer p.control.Close() // removes the socket
	ended := make(chan struct{})
	go func() {
		waitEnd(p.init)
		close(ended)
	}()
	type tampering struct {
		what string
		who  []byte // as in owner.go; whoever did it may have ended
	}
	tampered := make(chan tampering, 1)
	go func() {
		if what, err := p.watch.Wait(); err == nil {
			tampered <- tampering{what, p.owners.mighty(0)}
		}
	}()
	defer p.watch.Close()

	for pause := time.Duration(0); ; {
		w, err := p.startWorker(ctx)
		if err != nil {
			log.Printf("start the worker: %v", err)
			if say != nil {
				fmt.Fprint(say, err)
				return 1
			}
			w = &worker{gone: closed}
		}
		started := time.Now()
		ready, resumed := w.ready, false
	serving:
		for {
			select {
			case <-ready:
				ready = nil
				if say != nil {
					fmt.Fprint(say, readyWord)
					say.Close()
					say = nil
					p.settled()
					settle() // last: what the record needed goes as well
					go p.ownScopeFor(ctx, w.cmd.Process.Pid)
				}
			case t := <-tampered:
				log.Printf("%s in the container's network namespace were changed from outside (%s)", t.what, ownerWords(t.who))
				p.hand.Tampered = true
				w.tampered(t.who)
			case box := <-w.sealed:
				// Only a worker that starts with the secrets has front and gate.
				if resumed = p.resume(box); resumed {
					w.stop()
					break serving
				}
			case <-w.rotate:
				w.rotated(p.rotate())
			case <-ended:
				w.stop()
				return 0
			case <-w.gone:
				break serving
			}
		}
		p.hand.Served, p.hand.GuestReady = w.served.Load() || p.hand.Served, w.guest.Load() || p.hand.GuestReady
		if say != nil {
			fmt.Fprint(say, "the supervisor's worker ended before it was ready; see ", sandbox.LogPath(p.hand.File.Dir))
			return 1
		}
		if resumed {
			continue
		}
		p.hand.Restarts++
		log.Printf("the worker ended; restart %d", p.hand.Restarts)
		if time.Since(started) > restartCalm {
			pause = 0
		}
		if pause > 0 {
			select {
			case <-time.After(pause):
			case <-ended:
				return 0
			}
		}
		pause = min(max(2*pause, restartFirst), restartMax)
	}
}

var closed = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// waitEnd returns when the process of a pidfd has ended.
func waitEnd(pidfd *os.File) {
	fds := []unix.PollFd{{Fd: int32(pidfd.Fd()), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, -1)
		if n > 0 || (err != nil && !errors.Is(err, unix.EINTR)) {
			return
		}
	}
}

// startWorker starts a worker with the handover of this moment.
func (p *parent) startWorker(ctx context.Context) (*worker, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "link"), os.NewFile(uintptr(pair[1]), "link")
	defer theirs.Close()
	l, err := newLink(ours)
	if err != nil {
		ours.Close()
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", "supervise-worker")
	cmd.Args[0] = "terok"
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // the log
	cmd.ExtraFiles = append([]*os.File{theirs, p.socket}, p.inside.Files()...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.conn.Close()
		return nil, err
	}
	w := newWorker(cmd, l)
	w.datagram, w.owner, w.mighty = p.space.Datagram, p.owners.find, func() []byte { return p.owners.mighty(mightyEvery) }
	hand := p.hand
	go w.run(ctx, &hand)
	return w, nil
}

// keyholderSocket is where the keyholder of this container answers, "" when it needs none.
func keyholderSocket(h *handover) string {
	if len(grants(&h.File)) == 0 && h.File.SSH == nil || !filepath.IsAbs(h.File.Keyholder) {
		return ""
	}
	return h.File.Keyholder
}
