package dns

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
)

// sender is where a packet came from. UDP sockets have calls that do not allocate addresses.
type sender struct {
	udp  *net.UDPConn
	port netip.AddrPort
	addr net.Addr
}

func readFrom(c net.PacketConn, buf []byte) (int, sender, error) {
	if u, ok := c.(*net.UDPConn); ok {
		n, ap, err := u.ReadFromUDPAddrPort(buf)
		return n, sender{udp: u, port: ap}, err
	}
	n, a, err := c.ReadFrom(buf)
	return n, sender{addr: a}, err
}

// send answers; an asker who has gone is no error of ours.
func (s sender) send(c net.PacketConn, wire []byte) {
	if s.udp != nil {
		s.udp.WriteToUDPAddrPort(wire, s.port)
		return
	}
	c.WriteTo(wire, s.addr)
}

func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
