package attack

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/miekg/dns"
)

// Spec: shield.md §10, 12; issue 2, accepted when 2: what is no TCP and no UDP leads nowhere. A
// kind of socket that can be made must be refused when it is used.
func TestExoticSockets(t *testing.T) {
	w, roots := internet(t)
	for _, flags := range [][]string{nil, {"--no-root"}} {
		b := start(t, append(flags, "--allow", "a.test:443", "--allow", "203.0.113.10:7000")...)
		works(t, b, "https://a.test/", roots)
		const ipproto = 255 // IPPROTO_RAW
		for what, numbers := range map[string][]int{
			"vsock stream":     {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
			"vsock datagram":   {unix.AF_VSOCK, unix.SOCK_DGRAM, 0},
			"packet raw":       {unix.AF_PACKET, unix.SOCK_RAW, 0x300},
			"packet datagram":  {unix.AF_PACKET, unix.SOCK_DGRAM, 0x300},
			"raw icmp":         {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
			"raw tcp":          {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP},
			"raw":              {unix.AF_INET, unix.SOCK_RAW, ipproto},
			"raw6":             {unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
			"ping":             {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP},
			"sctp":             {unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP},
			"sctp datagrams":   {unix.AF_INET, unix.SOCK_SEQPACKET, unix.IPPROTO_SCTP},
			"dccp":             {unix.AF_INET, unix.SOCK_DCCP, unix.IPPROTO_DCCP},
			"udplite":          {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE},
			"udp":              {unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP},
			"l2tp":             {unix.AF_INET, unix.SOCK_DGRAM, 115},
			"alg":              {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
			"netlink nft":      {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER},
			"netlink sockdiag": {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_SOCK_DIAG},
			"tipc":             {unix.AF_TIPC, unix.SOCK_STREAM, 0},
			"rds":              {unix.AF_RDS, unix.SOCK_SEQPACKET, 0},
			"smc":              {unix.AF_SMC, unix.SOCK_STREAM, 0},
			"xdp":              {unix.AF_XDP, unix.SOCK_RAW, 0},
			"bluetooth":        {unix.AF_BLUETOOTH, unix.SOCK_SEQPACKET, 0},
			"can":              {unix.AF_CAN, unix.SOCK_RAW, 1},
			"qrtr":             {unix.AF_QIPCRTR, unix.SOCK_DGRAM, 0},
		} {
			q := request{Op: "socket", Numbers: numbers, Send: []byte("\x08\x00\xf7\xff\x00\x00\x00\x00hello")}
			if numbers[0] == unix.AF_INET {
				q.Addr = "203.0.113.10:7000" // open for TCP
			}
			if out := b.do(t, q); out.Error == "" || out.MS > quick.Milliseconds() {
				t.Errorf("%v %s: %+v", flags, what, out)
			}
		}
		if out := b.do(t, request{Op: "call", Numbers: []int{unix.SYS_IO_URING_SETUP, 1}}); out.Errno != "EPERM" && out.Errno != "ENOSYS" {
			t.Errorf("io_uring_setup: %+v", out)
		}
	}
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}

// Spec: design §2 "Facts that bite": an MPTCP client is redirected like any other.
func TestMPTCPClient(t *testing.T) {
	w, _ := internet(t)
	b := start(t, "--allow", "c.test:7000")
	c, err := b.dial("mptcp", "c.test:7000")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	echo(t, c, "through")
	refusedAll(t, b, []attempt{{"mptcp", "a.test:7000", []byte("x")}, {"mptcp", "203.0.113.10:7000", []byte("x")}, {"mptcp", "203.0.113.20:7000", []byte("x")},
		{"mptcp", "[2001:db8:1::10]:7000", []byte("x")}, {"mptcp", "c.test:443", hello(t, "c.test")}})
	sawOnly(t, w, "c.test", "203.0.113.20:7000")
}

// Spec: design §2 "Facts that bite": a connection straight to one of the supervisor's listeners has
// no destination before a redirect and is reset; the resolver's port is the resolver, no more.
func TestConnectionsToTheListeners(t *testing.T) {
	w, roots := internet(t)
	b := start(t, "--allow", "a.test:443", "--allow", "a.test:80")
	works(t, b, "https://a.test/", roots)
	out := b.do(t, request{Op: "listeners"})
	if out.Error != "" || len(out.List) == 0 {
		t.Fatalf("no listeners found: %+v", out)
	}
	kinds := map[string]int{}
	for _, l := range out.List {
		network, addr, _ := strings.Cut(l, " ")
		kinds[network]++
		if network == "tcp" {
			refusedAll(t, b, []attempt{{"tcp", addr, hello(t, "a.test")}, {"tcp", addr, []byte("x")}, {"tcp", addr, nil}, {"mptcp", addr, hello(t, "a.test")}})
			if o := b.do(t, request{Op: "talk", Network: "tcp", Addr: addr, Send: getOf("a.test")}); len(o.Data) != 0 || o.MS > quick.Milliseconds() {
				t.Errorf("%s answers %q", l, o.Data)
			}
			continue
		}
		if m, _ := b.ask(t, "udp", addr, new(dns.Msg).SetQuestion("secret.exfil.test.", dns.TypeTXT)); m != nil && len(m.Answer) != 0 {
			t.Errorf("%s answers %v", l, m)
		}
	}
	if kinds["tcp"] != 2 || kinds["udp"] != 2 {
		t.Errorf("listeners of one supervisor: %v", out.List)
	}
	sawOnly(t, w, "a.test", "203.0.113.10:443")
}
