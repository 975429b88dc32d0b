package supervisor

import (
	"context"
	"log"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"time"

	"terok/internal/vault/keyholder"
)

// stopGrace is how long a worker may take to write its ledger when the container ends.
const stopGrace = 50 * time.Millisecond

// worker is the parent's view of one worker process.
type worker struct {
	cmd    *exec.Cmd
	link   *link
	handed chan struct{} // closed when the handover was sent, or could not be
	ready  chan struct{} // closed when it serves
	gone   chan struct{} // closed when it has ended and everything it said was heard
	sealed chan []byte   // a box that the guest brought
	rotate chan struct{} // it wants a new gate token
	served atomic.Bool
	guest  atomic.Bool

	datagram func() (*os.File, error)     // makes a UDP socket inside
	owner    func(question []byte) []byte // finds a connection's process
	mighty   func() []byte                // finds a process with CAP_NET_ADMIN
}

func newWorker(cmd *exec.Cmd, l *link) *worker {
	return &worker{cmd: cmd, link: l, handed: make(chan struct{}), ready: make(chan struct{}), gone: make(chan struct{}),
		sealed: make(chan []byte, 1), rotate: make(chan struct{}, 1)}
}

// run hands over and listens until the worker ends. Everything it said before its end counts: a
// start that was served is never served again.
func (w *worker) run(ctx context.Context, h *handover) {
	defer close(w.gone)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := w.link.sendHandover(h); err != nil {
		log.Printf("hand over to the worker: %v", err)
	}
	close(w.handed)
	if socket := keyholderSocket(h); socket != "" {
		go keyholder.Keep(ctx, socket, h.Path, w.attach)
	}
	w.listen()
	w.link.conn.Close()
	// It closed the link: it is ending, or it must.
	_ = w.cmd.Process.Kill()
	if err := w.cmd.Wait(); err != nil {
		log.Printf("worker %d: %v", w.cmd.Process.Pid, err)
	}
}

func (w *worker) listen() {
	ready := w.ready
	for {
		op, err := w.link.hearByte()
		if err != nil {
			return
		}
		switch op {
		case opReady:
			if ready != nil {
				close(ready)
				ready = nil
			}
		case opServed:
			w.served.Store(true)
		case opGuest:
			w.guest.Store(true)
		case opSealed:
			box, err := w.link.hearBlock()
			if err != nil {
				log.Printf("worker %d brings %v: stopped", w.cmd.Process.Pid, err)
				return
			}
			select {
			case w.sealed <- box:
			default: // one is being looked at
			}
		case opToken:
			select {
			case w.rotate <- struct{}{}:
			default: // one is being made
			}
		case opSocket:
			w.socket()
		case opOwner:
			question, err := w.link.hearRecord(ownerQuestion)
			if err != nil {
				return
			}
			if err := w.link.sayRecord(opOwner, w.owner(question)); err != nil {
				log.Printf("name a process to the worker: %v", err)
			}
		case opMighty:
			if err := w.link.sayRecord(opMighty, w.mighty()); err != nil {
				log.Printf("name a process to the worker: %v", err)
			}
		default:
			log.Printf("worker %d says %#x: stopped", w.cmd.Process.Pid, op)
			return
		}
	}
}

// socket answers opSocket. What the worker gets is worth no more than what the container can make
// itself: a socket in its own namespace.
func (w *worker) socket() {
	f, err := w.datagram()
	if err != nil {
		log.Printf("a UDP socket for the worker: %v", err)
	} else {
		defer f.Close()
	}
	if err := w.link.say(opSocket, f); err != nil {
		log.Printf("pass the UDP socket: %v", err)
	}
}

// attach gives the worker a connection to the keyholder.
func (w *worker) attach(conn *net.UnixConn) {
	defer conn.Close()
	f, err := conn.File()
	if err != nil {
		log.Printf("keyholder connection: %v", err)
		return
	}
	defer f.Close()
	if err := w.link.say(opKeyholder, f); err != nil {
		log.Printf("pass the keyholder connection: %v", err)
	}
}

// tampered tells of a change after the handover: before it, the worker would take it for a part of
// that. A worker that does not hear it is ending.
func (w *worker) tampered(who []byte) {
	if w.link != nil {
		<-w.handed // bounded by the deadline of the handover
		_ = w.link.sayRecord(opTampered, who)
	}
}

// rotated answers opToken: the token of now and its box, or why there is none, told by an empty one.
func (w *worker) rotated(token string, box []byte, err error) {
	if err != nil {
		log.Printf("a new gate token: %v", err)
		token, box = "", nil
	}
	if w.link == nil {
		return
	}
	<-w.handed
	if err := w.link.sayBlock(opToken, appendTurn(token, box)); err != nil {
		log.Printf("tell the worker of the gate token: %v", err)
	}
}

// stop ends the worker: it notices the closed link and writes what it has.
func (w *worker) stop() {
	if w.cmd == nil {
		return
	}
	_ = w.link.conn.CloseWrite()
	select {
	case <-w.gone:
	case <-time.After(stopGrace):
		_ = w.cmd.Process.Kill()
		<-w.gone
	}
}
