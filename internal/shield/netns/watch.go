package netns

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
)

// Watch tells when links or tables of the namespace change after Setup. Reading the table back
// needs CAP_NET_ADMIN, which the supervisor gives up; its change notices need it only when the
// socket is bound. So a supervisor without privileges still learns that somebody with more
// privileges touched what it made.
type Watch struct {
	tables, links *os.File
}

// Watch starts to listen for changes; call it after Setup and before privileges are dropped.
func (s *Space) Watch() (*Watch, error) {
	w := &Watch{}
	err := s.Do(func() (err error) {
		if w.tables, err = notices(unix.NETLINK_NETFILTER, unix.NFNLGRP_NFTABLES); err != nil {
			return fmt.Errorf("watch tables: %w", err)
		}
		if err = settled(); err != nil {
			w.tables.Close()
			return err
		}
		if w.links, err = notices(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK); err != nil {
			w.tables.Close()
			return fmt.Errorf("watch links: %w", err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return w, nil
}

// settleTime is how long the kernel may take to call the links of the pair up. Its work queue
// takes a moment, and up to a second more when many links change (net/core/link_watch.c).
const settleTime = 4 * time.Second

// settled waits until the kernel has said the last about what Setup did: it announces that a link
// is operational after the call that brought it up has returned, and later than that it would
// look like somebody else's change.
func settled() error {
	f, err := notices(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	if err != nil {
		return fmt.Errorf("watch links: %w", err)
	}
	defer f.Close()
	if err := f.SetReadDeadline(time.Now().Add(settleTime)); err != nil {
		return err
	}
	for {
		up := 0
		for _, name := range []string{sandbox.Link, sandbox.PeerLink} {
			l, err := netlink.LinkByName(name)
			if err != nil {
				return fmt.Errorf("find %s: %w", name, err)
			}
			if l.Attrs().OperState == netlink.OperUp {
				up++
			}
		}
		if up == 2 {
			return nil
		}
		if _, err := f.Read(make([]byte, 64)); errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("the links did not come up within %s", settleTime)
		} else if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return err
		}
	}
}

func notices(protocol, group int) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, group); err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "notices"), nil
}

// Wait blocks until the first change and says what changed. It returns os.ErrClosed after Close.
// One change is enough: whoever can make one can make another that is not seen.
func (w *Watch) Wait() (string, error) {
	type notice struct {
		what string
		err  error
	}
	seen := make(chan notice, 2)
	for what, f := range map[string]*os.File{"nftables": w.tables, "links": w.links} {
		go func() {
			// Content and overruns (ENOBUFS) mean the same: something changed.
			_, err := f.Read(make([]byte, 64))
			if err != nil && !errors.Is(err, os.ErrClosed) {
				err = nil
			}
			seen <- notice{what, err}
		}()
	}
	n := <-seen
	return n.what, n.err
}

// Close ends Wait.
func (w *Watch) Close() {
	w.tables.Close()
	w.links.Close()
}
