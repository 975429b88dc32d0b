package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
	"terok/internal/shield/netns"
)

// syntheticRange is the range of the names' addresses as the launcher wrote it, invalid where it
// cannot be read: then UDP has no relay, and the worker is in quarantine anyway.
func syntheticRange(dir string) netip.Prefix {
	var doc struct {
		Settings struct {
			Synthetic netip.Prefix `json:"synthetic"`
		} `json:"settings"`
	}
	data, err := os.ReadFile(sandbox.PolicyPath(dir))
	if err != nil || json.Unmarshal(data, &doc) != nil {
		return netip.Prefix{}
	}
	return doc.Settings.Synthetic
}

// datagrams opens sockets in the container's namespace for the UDP relay: the parent makes them,
// this process binds them.
type datagrams struct {
	link      *link
	synthetic netip.Prefix
	answers   chan *os.File // from obey; nil: the parent could not
	done      chan struct{} // closed when the parent says no more

	mu sync.Mutex // one question at a time
}

func newDatagrams(l *link, synthetic netip.Prefix) *datagrams {
	return &datagrams{link: l, synthetic: synthetic, answers: make(chan *os.File, 1), done: make(chan struct{})}
}

// open binds a socket that receives what the container sends to dst.
func (d *datagrams) open(dst netip.AddrPort) (*net.UDPConn, error) {
	at, ok := netns.RelayAddr(d.synthetic, dst)
	if !ok {
		return nil, fmt.Errorf("UDP to %s cannot be relayed: shield.range is wider than /11", dst)
	}
	f, err := d.ask()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.Bind(int(fd), &unix.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()})
	})
	if err = errors.Join(cerr, err); err != nil {
		return nil, fmt.Errorf("bind %s inside: %w", at, err)
	}
	c, err := net.FilePacketConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UDPConn)
	if !ok {
		c.Close()
		return nil, errors.New("the parent sent something else than a UDP socket")
	}
	return u, nil
}

// ask waits for the parent's answer, which comes unless the container ends.
func (d *datagrams) ask() (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.link.say(opSocket, nil); err != nil {
		return nil, err
	}
	select {
	case f := <-d.answers:
		if f == nil {
			return nil, errors.New("the parent could not make a UDP socket")
		}
		return f, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}
