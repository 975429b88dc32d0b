package netns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Sizes and places in struct inet_diag_req_v2 and inet_diag_msg (<linux/inet_diag.h>), behind the
// 16 bytes of struct nlmsghdr.
const (
	sockDiagByFamily = 20 // SOCK_DIAG_BY_FAMILY, <linux/sock_diag.h>
	diagHeader       = 16
	diagRequest      = 56
	diagAnswer       = 72
	diagID           = 8 // of a request; 4 in an answer
	diagInode        = 68
)

// errNoSocket says that the namespace has no such connection, or one that nobody holds.
var errNoSocket = errors.New("no such socket")

// Inode returns the number by which /proc/<pid>/fd knows the socket of a TCP connection that was
// made inside, from its own end and the destination as its program gave it. The kernel looks up
// exactly this connection (sock_diag(7)); no privilege is needed, and however many sockets the
// container has, the answer has one.
func (s *Space) Inode(local, remote netip.AddrPort) (inode uint32, err error) {
	err = s.Do(func() error {
		inode, err = socketInode(local, remote)
		return err
	})
	return inode, err
}

func socketInode(local, remote netip.AddrPort) (uint32, error) {
	family := byte(unix.AF_INET)
	if local.Addr().Is6() {
		family = unix.AF_INET6
	}
	if !local.IsValid() || local.Addr().Is4() != remote.Addr().Is4() {
		return 0, errNoSocket
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_INET_DIAG)
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	defer unix.Close(fd)
	ask := make([]byte, diagHeader+diagRequest)
	binary.NativeEndian.PutUint32(ask, uint32(len(ask)))
	binary.NativeEndian.PutUint16(ask[4:], sockDiagByFamily)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST)
	q := ask[diagHeader:]
	q[0], q[1] = family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(q[4:], ^uint32(0)) // in any state
	putDiagID(q[diagID:], local, remote)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	answer := make([]byte, 512)
	n, err := unix.Read(fd, answer) // the kernel has answered when sendto returns
	if err != nil {
		return 0, fmt.Errorf("sock_diag: %w", err)
	}
	if n < diagHeader+diagAnswer || binary.NativeEndian.Uint16(answer[4:]) != sockDiagByFamily {
		return 0, errNoSocket
	}
	// A listening socket is found where there is no connection.
	want := make([]byte, 36)
	putDiagID(want, local, remote)
	a := answer[diagHeader:n]
	inode := binary.NativeEndian.Uint32(a[diagInode:])
	if string(a[4:4+36]) != string(want) || inode == 0 {
		return 0, errNoSocket
	}
	return inode, nil
}

// putDiagID writes the start of struct inet_diag_sockid: ports and addresses in network order, and
// "any cookie".
func putDiagID(b []byte, local, remote netip.AddrPort) {
	binary.BigEndian.PutUint16(b, local.Port())
	binary.BigEndian.PutUint16(b[2:], remote.Port())
	copy(b[4:20], local.Addr().AsSlice())
	copy(b[20:36], remote.Addr().AsSlice())
	if len(b) >= 48 {
		binary.NativeEndian.PutUint64(b[40:], ^uint64(0))
	}
}
