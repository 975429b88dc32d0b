package netns

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// UDP has no SO_ORIGINAL_DST, and asking the connection table needs a privilege that nobody keeps.
// So the table moves each datagram for a synthetic address to a loopback address and port that
// say where it was meant to go (RelayAddr), and whoever relays (name, port) binds a socket there.
// Where nobody does, the kernel answers "port unreachable" at once. So a constant table, loaded
// before the first instruction, follows every later change of policy: a relay opens and closes
// with a socket, and sockets above port 1023 need no privilege.
//
//	port    pp…      14 bits     →   port    11 and the 14 bits
//	address 198.18…  host bits   →   address 127.1pp and the host bits, at most 21
//
// relayNet is what belongs to it of 127.0.0.0/8.
var relayNet = netip.MustParsePrefix("127.128.0.0/9")

const (
	relayHostBits = 21     // a wider range of synthetic addresses has no relay
	relayPortMask = 0x3fff // bits of the port that stay in the port
	relayPortBase = 0xc000 // sets the other two
)

// CanRelay tells whether UDP to addresses of this range can be relayed.
func CanRelay(synthetic netip.Prefix) bool {
	return synthetic.IsValid() && synthetic.Addr().Is4() && synthetic.Bits() >= 32-relayHostBits
}

// RelayAddr is where a datagram to dst arrives: the address that a relay binds. False when dst is
// not in the range or the range is too wide.
func RelayAddr(synthetic netip.Prefix, dst netip.AddrPort) (netip.AddrPort, bool) {
	if !CanRelay(synthetic) || !synthetic.Contains(dst.Addr()) || dst.Port() == 0 {
		return netip.AddrPort{}, false
	}
	b := dst.Addr().As4()
	host := binary.BigEndian.Uint32(b[:]) & hostMask(synthetic)
	binary.BigEndian.PutUint32(b[:], relayBase(int(dst.Port()>>14))|host)
	return netip.AddrPortFrom(netip.AddrFrom4(b), dst.Port()&relayPortMask|relayPortBase), true
}

func hostMask(p netip.Prefix) uint32 { return 1<<(32-p.Bits()) - 1 }

// relayBase is the first address for ports whose upper two bits are top.
func relayBase(top int) uint32 {
	b := relayNet.Addr().As4()
	return binary.BigEndian.Uint32(b[:]) | uint32(top)<<relayHostBits
}

// relayRules move datagrams for synthetic addresses; none when the range cannot be relayed.
func relayRules(synthetic netip.Prefix) [][]expr.Any {
	if !CanRelay(synthetic) {
		return nil
	}
	const regPort = 2 // NFT_REG_2
	big := binaryutil.BigEndian
	base := synthetic.Masked().Addr().As4()
	var out [][]expr.Any
	for top := range 4 {
		out = append(out, rule(family(unix.NFPROTO_IPV4), l4(protocolUDP),
			&expr.Payload{DestRegister: regLeft, Base: expr.PayloadBaseNetworkHeader, Offset: offsetDestAddr4, Len: 4},
			&expr.Bitwise{SourceRegister: regLeft, DestRegister: regLeft, Len: 4, Mask: big.PutUint32(^hostMask(synthetic)), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: base[:]},
			&expr.Payload{DestRegister: regLeft, Base: expr.PayloadBaseTransportHeader, Offset: offsetDestPort, Len: 2},
			&expr.Bitwise{SourceRegister: regLeft, DestRegister: regLeft, Len: 2, Mask: big.PutUint16(^uint16(relayPortMask)), Xor: make([]byte, 2)},
			&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: big.PutUint16(uint16(top) << 14)},
			&expr.Payload{DestRegister: regLeft, Base: expr.PayloadBaseNetworkHeader, Offset: offsetDestAddr4, Len: 4},
			&expr.Bitwise{SourceRegister: regLeft, DestRegister: regLeft, Len: 4, Mask: big.PutUint32(hostMask(synthetic)), Xor: big.PutUint32(relayBase(top))},
			&expr.Payload{DestRegister: regPort, Base: expr.PayloadBaseTransportHeader, Offset: offsetDestPort, Len: 2},
			&expr.Bitwise{SourceRegister: regPort, DestRegister: regPort, Len: 2, Mask: big.PutUint16(relayPortMask), Xor: big.PutUint16(relayPortBase)},
			&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: regLeft, RegAddrMax: regLeft,
				RegProtoMin: regPort, RegProtoMax: regPort, Specified: true}))
	}
	return out
}

// sourceIn4 matches packets from an IPv4 range.
func sourceIn4(p netip.Prefix) []expr.Any {
	base := p.Masked().Addr().As4()
	return rule(family(unix.NFPROTO_IPV4),
		&expr.Payload{DestRegister: regLeft, Base: expr.PayloadBaseNetworkHeader, Offset: offsetSourceAddr4, Len: 4},
		&expr.Bitwise{SourceRegister: regLeft, DestRegister: regLeft, Len: 4, Mask: binaryutil.BigEndian.PutUint32(^hostMask(p)), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: base[:]})
}

// Datagram makes a UDP socket that belongs to the namespace and is not bound yet. Whoever gets it
// may bind it from anywhere: the port is above 1023. It is close-on-exec and non-blocking.
func (s *Space) Datagram() (*os.File, error) {
	var f *os.File
	err := s.Do(func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		f = os.NewFile(uintptr(fd), "datagrams")
		return nil
	})
	return f, err
}
