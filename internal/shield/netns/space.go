// Package netns makes the inside of a container's network namespace: a veth pair with both ends
// in it, so that programs see a normal eth0 with a default route; one nftables table that turns
// every TCP connection and every DNS query to the supervisor's listeners and rejects the rest;
// and the listeners, on loopback ports that the kernel chose.
//
// What it guarantees: no packet leaves the namespace, with the table and without it, because no
// link leads out; the table is loaded in one transaction and read back; a second Setup replaces
// it in one transaction as well.
//
// What it refuses: a namespace in which any link other than lo and the pair exists.
//
// A thread that entered a container's namespace cannot come back (setns of a network namespace
// needs capabilities in the user namespace that owns the old one), so a Space owns one locked
// thread for its whole life and everything that must happen inside runs there by raw system
// calls. Nothing here may start a goroutine while inside: it would run outside.
//
//	s, err := netns.Enter(fd)           // fd of /proc/<pid>/ns/net
//	in, err := s.Setup()                // links, table, listeners
//	err = s.Verify(in.Ports)            // needs CAP_NET_ADMIN, so before privileges are dropped
//	w, err := s.Watch()                 // tells of any later change, without privileges
package netns

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox/links"
)

// Space is a thread inside a network namespace.
type Space struct {
	// Synthetic is the range of the names' addresses, whose UDP can be relayed (RelayAddr). Set it
	// before Setup; the zero value means that there is no relay.
	Synthetic netip.Prefix

	calls chan func()
	done  chan struct{}
}

// ErrClosed says that the thread inside has ended.
var ErrClosed = errors.New("the thread inside the network namespace has ended")

// Enter starts a thread inside the namespace that fd refers to; fd may be closed afterwards.
func Enter(fd int) (*Space, error) {
	s := &Space{calls: make(chan func()), done: make(chan struct{})}
	entered := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		defer close(s.done)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			entered <- fmt.Errorf("enter the container's network namespace: %w", err)
			return
		}
		entered <- nil
		for call := range s.calls {
			call()
		}
	}()
	if err := <-entered; err != nil {
		return nil, err
	}
	return s, nil
}

// Do runs f on the thread inside and waits for it. f must not start goroutines that are meant to
// be inside, and must not use the net package.
func (s *Space) Do(f func() error) error {
	result := make(chan error, 1)
	select {
	case s.calls <- func() { result <- f() }:
		return <-result
	case <-s.done:
		return ErrClosed
	}
}

// Close ends the thread. The namespace, its table and open sockets stay.
func (s *Space) Close() {
	close(s.calls)
	<-s.done
}

// Ports are where the table sends what leaves: one TCP and one UDP port, the same for IPv4 and
// IPv6 loopback.
type Ports struct {
	TCP uint16
	DNS uint16
	V6  bool // the namespace has IPv6

	Synthetic netip.Prefix // Space.Synthetic
}

// Inside is what Setup made.
type Inside struct {
	Ports Ports
	// Listening TCP sockets and bound UDP sockets; the IPv6 ones are nil without IPv6. They are
	// close-on-exec and non-blocking.
	TCP4, TCP6, DNS4, DNS6 *os.File
}

// Files lists the sockets in the order TCP4, TCP6, DNS4, DNS6, without the missing ones.
func (in *Inside) Files() []*os.File {
	var out []*os.File
	for _, f := range []*os.File{in.TCP4, in.TCP6, in.DNS4, in.DNS6} {
		if f != nil {
			out = append(out, f)
		}
	}
	return out
}

// Setup makes links, listeners and table, in this order, so that the redirect never points to a
// port that is not ours. It may be called again after a supervisor died: links are kept, new
// listeners are made and the table is replaced in one transaction. On error the caller must not
// let the container run.
func (s *Space) Setup() (*Inside, error) {
	var in *Inside
	err := s.Do(func() (err error) {
		v6 := hasIPv6()
		if err = setupLinks(v6); err != nil {
			return err
		}
		if in, err = listen(v6); err != nil {
			return err
		}
		in.Ports.Synthetic = s.Synthetic
		if err = loadTable(in.Ports); err == nil {
			err = verifyTable(in.Ports)
		}
		if err == nil && v6 {
			err = ownAddress()
		}
		if err != nil {
			for _, f := range in.Files() {
				f.Close()
			}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return in, nil
}

// Verify reads links and table back from the kernel and compares them with what Setup makes for
// these ports. It needs CAP_NET_ADMIN in the namespace.
func (s *Space) Verify(p Ports) error {
	return s.Do(func() error {
		if err := links.CheckHere(); err != nil {
			return err
		}
		return verifyTable(p)
	})
}

// hasIPv6 reports whether this thread's namespace has IPv6 and may use it.
func hasIPv6() bool {
	_, err := os.Stat("/proc/thread-self/net/if_inet6")
	return err == nil
}
