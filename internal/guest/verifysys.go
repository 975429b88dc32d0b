package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
)

// links: there is no way out but the one that leads to the supervisor.
func (p *probe) links() (string, error) {
	list, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	var names []string
	for _, l := range list {
		names = append(names, l.Name)
	}
	slices.Sort(names)
	want := []string{sandbox.Link, "lo", sandbox.PeerLink}
	slices.Sort(want)
	if !slices.Equal(names, want) {
		err = fmt.Errorf("the links are %s, not %s", strings.Join(names, ", "), strings.Join(want, ", "))
	}
	return "only " + strings.Join(names, ", "), err
}

// udp: a datagram to anywhere is refused, not lost.
func (p *probe) udp() (string, error) {
	v4, _ := p.also(false)
	v6, _ := p.also(true)
	var found holes
	n := 0
	for _, a := range slices.Concat(publicV4, publicV6, v4, v6, private[:1], metadata[:1]) {
		for _, port := range []string{"443", "7000", "123"} {
			n++
			if err := p.datagram(net.JoinHostPort(a, port)); err != nil {
				found.add("%s: %v", net.JoinHostPort(a, port), err)
			}
		}
	}
	return counted(n, "datagram") + " refused", found.err()
}

// datagram returns an error unless sending is refused.
func (p *probe) datagram(addr string) error {
	c, err := net.DialTimeout("udp", addr, time.Second)
	if err != nil {
		return nil // no route
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Second))
	for range 2 { // the refusal of the first one may come with the second
		if _, err = c.Write([]byte("probe")); err != nil {
			return nil
		}
		if _, err = c.Read(make([]byte, 64)); err == nil {
			return errors.New("an answer came")
		} else if os.IsTimeout(err) {
			return errors.New("neither refused nor answered")
		}
	}
	return nil
}

// opens tries a socket; nil when the kernel refuses it.
func opens(found *holes, what string, family, kind, proto int) {
	fd, err := unix.Socket(family, kind|unix.SOCK_CLOEXEC, proto)
	if err != nil {
		return
	}
	unix.Close(fd)
	found.add("a socket opens: %s", what)
}

// rawSockets: nothing that makes packets of its own below TCP and UDP.
func (p *probe) rawSockets() (string, error) {
	var found holes
	opens(&found, "packet, raw", unix.AF_PACKET, unix.SOCK_RAW, 0x0300)
	opens(&found, "packet, datagram", unix.AF_PACKET, unix.SOCK_DGRAM, 0x0300)
	for _, proto := range []int{unix.IPPROTO_ICMP, unix.IPPROTO_TCP, unix.IPPROTO_UDP, unix.IPPROTO_RAW} {
		opens(&found, fmt.Sprintf("raw IPv4, protocol %d", proto), unix.AF_INET, unix.SOCK_RAW, proto)
		opens(&found, fmt.Sprintf("raw IPv6, protocol %d", proto), unix.AF_INET6, unix.SOCK_RAW, proto)
	}
	v4, _ := p.also(false)
	for _, a := range append(slices.Clone(publicV4), v4...) {
		if ping(a) {
			found.add("%s answers a ping", a)
		}
	}
	return "no packet or raw socket opens, no ping is answered", found.err()
}

// ping sends an echo request by an unprivileged ICMP socket (icmp(7)), where there are such.
func ping(addr string) bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var to [4]byte
	copy(to[:], net.ParseIP(addr).To4())
	timeout := unix.Timeval{Usec: 300_000}
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	if err := unix.Sendto(fd, []byte{8, 0, 0, 0, 0, 0, 0, 1}, 0, &unix.SockaddrInet4{Addr: to}); err != nil {
		return false
	}
	_, _, err = unix.Recvfrom(fd, make([]byte, 64), 0)
	return err == nil
}

// exoticSockets: families that no packet filter of ours sees.
func (p *probe) exoticSockets() (string, error) {
	families := map[string]int{"vsock": unix.AF_VSOCK, "alg": unix.AF_ALG, "tipc": unix.AF_TIPC, "rds": unix.AF_RDS,
		"smc": unix.AF_SMC, "xdp": unix.AF_XDP, "kcm": unix.AF_KCM, "can": unix.AF_CAN, "bluetooth": unix.AF_BLUETOOTH,
		"qipcrtr": unix.AF_QIPCRTR, "phonet": unix.AF_PHONET, "key": unix.AF_KEY, "llc": unix.AF_LLC, "x25": unix.AF_X25, "nfc": unix.AF_NFC}
	var found holes
	for name, family := range families {
		for _, kind := range []int{unix.SOCK_STREAM, unix.SOCK_DGRAM, unix.SOCK_RAW, unix.SOCK_SEQPACKET} {
			opens(&found, name, family, kind, 0)
		}
	}
	for name, proto := range map[string]int{"netfilter": unix.NETLINK_NETFILTER, "audit": unix.NETLINK_AUDIT, "generic": unix.NETLINK_GENERIC, "xfrm": unix.NETLINK_XFRM, "diagnosis": unix.NETLINK_INET_DIAG} {
		opens(&found, "netlink "+name, unix.AF_NETLINK, unix.SOCK_RAW, proto)
	}
	slices.Sort(found)
	return fmt.Sprintf("AF_VSOCK and %d other families are closed", len(families)-1), slices.Compact(found).err()
}

const (
	ioUringSetup = 425        // the same on every architecture
	x32          = 0x40000000 // marks calls of amd64's 32-bit ABI (syscall.h, __X32_SYSCALL_BIT)
)

// foreignCalls: neither io_uring, which goes around the filter of system calls, nor another ABI,
// whose arguments that filter cannot see.
func (p *probe) foreignCalls() (string, error) {
	var found holes
	var params [120]byte
	if fd, _, errno := unix.RawSyscall(ioUringSetup, 4, uintptr(unsafe.Pointer(&params)), 0); errno == 0 {
		unix.Close(int(fd))
		found.add("io_uring works")
	}
	if runtime.GOARCH != "amd64" {
		return "io_uring is closed", found.err()
	}
	worked, err := p.foreignABI()
	if worked {
		found.add("the x32 ABI works")
	}
	if err == nil {
		err = found.err()
	}
	return "io_uring and the x32 ABI are closed", err
}

// abiWait is how long a child may be silent after it said that it is about to call: the filter ends
// the thread that called, and the rest of the process knows nothing of it.
const abiWait = time.Second

// foreignABI reports whether a child's system call by the other ABI returned a result.
func (p *probe) foreignABI() (bool, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer r.Close()
	cmd := exec.CommandContext(p.ctx, "/proc/self/exe", "guest", "verify", "foreign-abi")
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return false, err
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	word := make([]byte, 1)
	if n, err := r.Read(word); n != 1 || word[0] != abiCalls {
		return false, fmt.Errorf("the child did not get as far as its call: %w", err)
	}
	if err := r.SetReadDeadline(time.Now().Add(abiWait)); err != nil {
		return false, err
	}
	n, _ := r.Read(word)
	return n == 1 && word[0] == abiWorked, nil
}

// What the child says.
const (
	abiCalls  = 'c'
	abiWorked = 'w'
)

// foreignABI is the child.
func foreignABI() int {
	_, _ = os.Stdout.Write([]byte{abiCalls})
	if _, _, errno := unix.RawSyscall(x32|unix.SYS_GETPID, 0, 0, 0); errno != 0 {
		return 1
	}
	_, _ = os.Stdout.Write([]byte{abiWorked})
	return 0
}

// tampering: nobody inside can change links, addresses, routes or the table.
func (p *probe) tampering() (string, error) {
	var found holes
	opens(&found, "nftables", unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER)
	eth0, err := net.InterfaceByName(sandbox.Link)
	if err != nil {
		return "", err
	}
	index := uint32(eth0.Index)
	for what, m := range map[string]struct {
		kind uint16
		body []byte
	}{
		// Each would change nothing that matters, and needs CAP_NET_ADMIN all the same.
		"set a link":     {unix.RTM_NEWLINK, ifinfo(index)},
		"add an address": {unix.RTM_NEWADDR, ifaddr(1, [4]byte{127, 77, 77, 77})},
		"add a route":    {unix.RTM_NEWROUTE, route(index, [4]byte{192, 0, 2, 77})},
	} {
		if errno, err := netlinkCall(m.kind, m.body); err != nil {
			return "", err
		} else if errno != unix.EPERM && errno != unix.EACCES {
			found.add("%s: %v instead of EPERM", what, errno)
		}
	}
	for _, path := range []string{"/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv4/conf/all/route_localnet"} {
		if f, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
			f.Close()
			found.add("%s can be written", path)
		}
	}
	return "links, addresses, routes, nftables and sysctls: permission denied", found.err()
}

// netlinkCall sends one request and returns the kernel's answer (netlink(7), NLMSG_ERROR).
func netlinkCall(kind uint16, body []byte) (unix.Errno, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	timeout := unix.Timeval{Sec: 2}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
		return 0, err
	}
	msg := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	msg = binary.NativeEndian.AppendUint16(msg, kind)
	msg = binary.NativeEndian.AppendUint16(msg, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	msg = append(binary.NativeEndian.AppendUint32(msg, 1), 0, 0, 0, 0)
	if err := unix.Sendto(fd, append(msg, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	buf := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil || n < unix.NLMSG_HDRLEN+4 {
		return 0, fmt.Errorf("netlink: %d bytes, %w", n, err)
	}
	return unix.Errno(-int32(binary.NativeEndian.Uint32(buf[unix.NLMSG_HDRLEN:]))), nil
}

func ifinfo(index uint32) []byte { // struct ifinfomsg, rtnetlink(7); change mask 0
	b := make([]byte, 16)
	binary.NativeEndian.PutUint32(b[4:], index)
	return b
}

func ifaddr(index uint32, a [4]byte) []byte { // struct ifaddrmsg and IFA_LOCAL
	b := []byte{unix.AF_INET, 32, 0, 0, 0, 0, 0, 0}
	binary.NativeEndian.PutUint32(b[4:], index)
	return attribute(b, unix.IFA_LOCAL, a[:])
}

func route(index uint32, a [4]byte) []byte { // struct rtmsg, RTA_DST and RTA_OIF
	b := []byte{unix.AF_INET, 32, 0, 0, unix.RT_TABLE_MAIN, unix.RTPROT_STATIC, unix.RT_SCOPE_LINK, unix.RTN_UNICAST, 0, 0, 0, 0}
	b = attribute(b, unix.RTA_DST, a[:])
	return attribute(b, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, index))
}

func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	return append(binary.NativeEndian.AppendUint16(b, kind), value...)
}

// loopbackPorts are the ports on which somebody listens on 127.0.0.1, by /proc/net (proc(5)).
func loopbackPorts(network string) ([]string, error) {
	data, err := os.ReadFile("/proc/net/" + network)
	if err != nil {
		return nil, err
	}
	listening := map[string]string{"tcp": "0A", "udp": "07"}[network]
	var ports []string
	for line := range strings.Lines(string(data)) {
		f := strings.Fields(line)
		if len(f) < 4 || f[3] != listening {
			continue
		}
		addr, hex, ok := strings.Cut(f[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if ok && err == nil && (addr == "0100007F" || addr == "7F000001") {
			ports = append(ports, strconv.FormatUint(port, 10))
		}
	}
	return ports, nil
}

// ownPorts: nobody can take the supervisor's listeners away.
func (p *probe) ownPorts() (string, error) {
	var found holes
	n := 0
	for _, network := range []string{"tcp", "udp"} {
		ports, err := loopbackPorts(network)
		if err != nil {
			return "", err
		}
		if len(ports) == 0 {
			found.add("no %s listener was found", network)
		}
		for _, port := range ports {
			n++
			if rebind(network, port) {
				found.add("%s port %s can be taken", network, port)
			}
		}
	}
	return counted(n, "listener") + " on the loopback cannot be taken", found.err()
}

func rebind(network, port string) bool {
	kind := map[string]int{"tcp": unix.SOCK_STREAM, "udp": unix.SOCK_DGRAM}[network]
	fd, err := unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	number, _ := strconv.Atoi(port)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: number, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return false
	}
	return network == "udp" || unix.Listen(fd, 1) == nil
}
