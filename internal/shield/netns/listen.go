package netns

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// attempts to find one port number that is free on both loopback addresses. A fresh namespace
// needs one; more only when the workload already listens (adoption).
const attempts = 64

// listen makes the sockets on this thread, so inside. Plain TCP: on an MPTCP socket, which is
// what the net package makes, SO_ORIGINAL_DST does not work.
func listen(v6 bool) (*Inside, error) {
	in := &Inside{Ports: Ports{V6: v6}}
	var err error
	if in.TCP4, in.TCP6, in.Ports.TCP, err = pair(unix.SOCK_STREAM, v6); err != nil {
		return nil, fmt.Errorf("listen for TCP: %w", err)
	}
	if in.DNS4, in.DNS6, in.Ports.DNS, err = pair(unix.SOCK_DGRAM, v6); err != nil {
		for _, f := range in.Files() {
			f.Close()
		}
		return nil, fmt.Errorf("listen for DNS: %w", err)
	}
	return in, nil
}

// pair binds the same kernel-chosen port on 127.0.0.1 and, with v6, on ::1.
func pair(kind int, v6 bool) (f4, f6 *os.File, port uint16, err error) {
	for range attempts {
		var fd4, fd6 int
		if fd4, port, err = bind(unix.AF_INET, kind, 0); err != nil {
			return nil, nil, 0, err
		}
		if !v6 {
			return os.NewFile(uintptr(fd4), "v4"), nil, port, nil
		}
		fd6, _, err = bind(unix.AF_INET6, kind, port)
		if err == nil {
			return os.NewFile(uintptr(fd4), "v4"), os.NewFile(uintptr(fd6), "v6"), port, nil
		}
		unix.Close(fd4)
		if !errors.Is(err, unix.EADDRINUSE) {
			return nil, nil, 0, err
		}
	}
	return nil, nil, 0, err
}

func bind(family, kind int, port uint16) (fd int, bound uint16, err error) {
	proto := unix.IPPROTO_TCP
	if kind == unix.SOCK_DGRAM {
		proto = unix.IPPROTO_UDP
	}
	fd, err = unix.Socket(family, kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, proto)
	if err != nil {
		return -1, 0, fmt.Errorf("socket: %w", err)
	}
	defer func() {
		if err != nil {
			unix.Close(fd)
		}
	}()
	var addr unix.Sockaddr = &unix.SockaddrInet4{Port: int(port), Addr: [4]byte{127, 0, 0, 1}}
	if family == unix.AF_INET6 {
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return -1, 0, fmt.Errorf("IPV6_V6ONLY: %w", err)
		}
		addr = &unix.SockaddrInet6{Port: int(port), Addr: [16]byte{15: 1}}
	}
	if err = unix.Bind(fd, addr); err != nil {
		return -1, 0, fmt.Errorf("bind: %w", err)
	}
	if kind == unix.SOCK_STREAM {
		if err = unix.Listen(fd, 4096); err != nil { // the kernel cuts it to somaxconn
			return -1, 0, fmt.Errorf("listen: %w", err)
		}
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return -1, 0, fmt.Errorf("getsockname: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		bound = uint16(sa.Port)
	case *unix.SockaddrInet6:
		bound = uint16(sa.Port)
	}
	return fd, bound, nil
}
