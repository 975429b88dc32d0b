package netns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
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
