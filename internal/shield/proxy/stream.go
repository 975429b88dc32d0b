package proxy

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stream is a TCP connection with its raw descriptor at hand. One goroutine reads it, and one
// writes it.
type stream struct {
	*net.TCPConn
	raw syscall.RawConn
}

// keepAlive finds peers that vanished; established flows have no idle timeout otherwise.
func keepAlive() net.KeepAliveConfig {
	return net.KeepAliveConfig{Enable: true, Idle: 60 * time.Second, Interval: 20 * time.Second, Count: 6}
}

func newStream(c *net.TCPConn) (*stream, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("raw connection: %w", err)
	}
	c.SetKeepAliveConfig(keepAlive())
	return &stream{TCPConn: c, raw: raw}, nil
}

// reset closes the connection with RST; queued bytes are thrown away.
func (s *stream) reset() {
	s.SetLinger(0)
	s.Close()
}

// awaitHangUp waits until the client has given up, and returns false when the read deadline ends
// the wait. A client that only closed its sending side may still wait for an answer; one that
// began with TLS, or said nothing at all, does not.
func (s *stream) awaitHangUp() bool {
	gone := false
	err := s.raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
			return false
		}
		if fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			gone = true
			return true
		}
		first := make([]byte, 1)
		n, err := recvPeek(int(fd), first)
		gone = err != nil || n == 0 || first[0] == recordHandshake
		return gone
	})
	return err == nil && gone
}

// plainDial connects with TCP proper: an MPTCP socket cannot be spliced.
func plainDial(ctx context.Context, a netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: keepAlive()}
	d.SetMultipathTCP(false)
	return d.DialContext(ctx, "tcp", a.String())
}

// originalDst reads the destination that a connection had before the redirect (SO_ORIGINAL_DST and
// IP6T_SO_ORIGINAL_DST are both 80: linux/netfilter_ipv4.h, linux/netfilter_ipv6/ip6_tables.h). It
// fails for connections that were not redirected, and for MPTCP.
func originalDst(c *net.TCPConn) (netip.AddrPort, error) {
	local, ok := c.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, errors.New("original destination: not a TCP address")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	var out netip.AddrPort
	v4 := local.AddrPort().Addr().Unmap().Is4()
	cerr := raw.Control(func(fd uintptr) {
		if v4 {
			// struct sockaddr_in fits into the 20 bytes of ipv6_mreq: family, port, address.
			var m *unix.IPv6Mreq
			if m, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
				b := m.Multiaddr
				out = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
			}
			return
		}
		// struct sockaddr_in6 is the first member of ip6_mtuinfo.
		var m *unix.IPv6MTUInfo
		if m, err = unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, unix.SO_ORIGINAL_DST); err == nil {
			var port [2]byte // in network order
			binary.NativeEndian.PutUint16(port[:], m.Addr.Port)
			out = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), binary.BigEndian.Uint16(port[:]))
		}
	})
	if err = errors.Join(cerr, err); err != nil {
		return netip.AddrPort{}, fmt.Errorf("original destination: %w", err)
	}
	return out, nil
}

// Errors of reading a start of a connection.
var (
	errOversized = errors.New("too long")
	errTruncated = errors.New("ended early")
)

// peek waits until look is content with what the client has sent, without taking it: look sees the
// bytes from the start each time there are more, and returns true to end the wait. No memory is
// held while waiting; there are Limits.PeekBytes for all connections together. It returns io.EOF
// when the client ends before the first byte, errTruncated after it, errOversized when look wants
// more than maxHead bytes, and a timeout error at the deadline (zero: none).
func (p *Proxy) peek(s *stream, deadline time.Time, look func(window []byte) bool) error {
	if err := s.SetReadDeadline(deadline); err != nil {
		return err
	}
	defer s.SetReadDeadline(time.Time{})
	var result error
	seen := 0
	err := s.raw.Read(func(fd uintptr) bool {
		buf := <-p.hellos
		if buf == nil {
			buf = make([]byte, maxHead)
		}
		defer func() { p.hellos <- buf }()
		n, err := recvPeek(int(fd), buf)
		switch {
		case err == unix.EAGAIN:
			return false
		case err != nil:
			result = err
			return true
		case n == 0:
			result = io.EOF
			return true
		}
		if n > seen && look(buf[:n]) {
			return true
		}
		if n == len(buf) {
			result = errOversized
			return true
		}
		if n == seen && peerClosed(int(fd)) {
			result = errTruncated
			return true
		}
		if seen = n; peerClosed(int(fd)) { // the end came together with these bytes
			// Bytes may have come between recv and poll: look once more before giving up.
			if m, _ := recvPeek(int(fd), buf); m == n {
				result = errTruncated
				return true
			} else if m > n && look(buf[:m]) {
				return true
			}
			result = errTruncated
			return true
		}
		return false
	})
	if err != nil {
		return err
	}
	return result
}

func recvPeek(fd int, buf []byte) (int, error) {
	for {
		n, _, err := unix.Recvfrom(fd, buf, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err != unix.EINTR {
			return n, err
		}
	}
}

// peerClosed reports whether the peer has shut down its sending side. Peeked bytes hide the end of
// the stream from recv.
func peerClosed(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n > 0 && fds[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
}
