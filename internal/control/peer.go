package control

import (
	"fmt"
	"net"

	"terok/internal/peer"
)

// ErrForeignPeer says that the peer is not a process of the operator on the host.
var ErrForeignPeer = peer.ErrForeign

// CheckPeer refuses a connection whose other end is not a process of the operator on the host or
// in Podman's rootless user namespace; see package peer for what that defends against.
func CheckPeer(conn net.Conn) error {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return fmt.Errorf("%w: not a unix socket", ErrForeignPeer)
	}
	p, err := peer.Of(c)
	if err != nil {
		return err
	}
	return p.Close()
}
