package netns

import (
	"bytes"
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the one table in the namespace.
const tableName = "terok"

const (
	statusDNAT             = 1 << 5 // IPS_DST_NAT, <linux/netfilter/nf_conntrack_common.h>
	rejectReset            = 1      // NFT_REJECT_TCP_RST
	rejectICMPX            = 2      // NFT_REJECT_ICMPX_UNREACH
	icmpxAdminDenied       = 3      // NFT_REJECT_ICMPX_ADMIN_PROHIBITED
	regLeft                = 1      // NFT_REG_1
	offsetSourcePort       = 0
	offsetDestPort         = 2
	offsetSourceAddr4      = 12
	offsetDestAddr4        = 16
	offsetDestAddr6        = 24
	protocolTCP       byte = unix.IPPROTO_TCP
	protocolUDP       byte = unix.IPPROTO_UDP
	protocolICMP      byte = unix.IPPROTO_ICMP
	protocolICMP6     byte = unix.IPPROTO_ICMPV6
	icmpUnreachable   byte = 3 // RFC 792
	icmp6Unreachable  byte = 1 // RFC 4443
)

// chain is one chain with its rules, in the form in which they are loaded and compared.
type chain struct {
	name     string
	kind     nftables.ChainType
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	policy   nftables.ChainPolicy
	rules    [][]expr.Any
}

// table is the whole table for these ports (spec: shield.md §1.3).
func table(p Ports) []chain {
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	tcpPort, dnsPort := binaryutil.BigEndian.PutUint16(p.TCP), binaryutil.BigEndian.PutUint16(p.DNS)
	return []chain{
		{"untracked", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityRaw, nftables.ChainPolicyAccept, [][]expr.Any{
			// Replies of our listeners must keep their connection, or the address is not
			// translated back. Everything else on lo is the workload talking to itself, and must
			// not be able to fill the connection table.
			rule(outBy("lo"), l4(protocolTCP), port(offsetSourcePort, tcpPort), accept),
			rule(outBy("lo"), l4(protocolUDP), port(offsetSourcePort, dnsPort), accept),
			// The kernel's own answer when nobody listens there: untranslated it would not concern
			// the asker's socket, and every query without a supervisor would wait for its timeout.
			rule(outBy("lo"), l4(protocolICMP), messageType(icmpUnreachable), accept),
			rule(outBy("lo"), l4(protocolICMP6), messageType(icmp6Unreachable), accept),
			// So must those of a UDP relay, and the errors where there is none.
			rule(outBy("lo"), sourceIn4(relayNet), accept),
			rule(outBy("lo"), &expr.Notrack{}),
		}},
		{"redirect", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, nftables.ChainPolicyAccept, append([][]expr.Any{
			rule(outBy("lo"), &expr.Verdict{Kind: expr.VerdictReturn}),
			rule(l4(protocolTCP), redirect(tcpPort)),
			rule(l4(protocolUDP), port(offsetDestPort, binaryutil.BigEndian.PutUint16(53)), redirect(dnsPort)),
		}, relayRules(p.Synthetic)...)},
		{"egress", nftables.ChainTypeFilter, nftables.ChainHookOutput, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop, [][]expr.Any{
			rule(outBy("lo"), accept),
			// The hook keeps the old output device after the redirect: without these two every
			// redirected connection would be rejected below.
			rule(redirected(), destIn4("127.0.0.0/8"), accept),
			rule(redirected(), destIs6("::1"), accept),
			rule(l4(protocolTCP), &expr.Counter{}, &expr.Reject{Type: rejectReset}),
			rule(&expr.Counter{}, &expr.Reject{Type: rejectICMPX, Code: icmpxAdminDenied}),
		}},
		{"ingress", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop, [][]expr.Any{
			rule(name(expr.MetaKeyIIFNAME, "lo"), accept),
		}},
		{"transit", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter, nftables.ChainPolicyDrop, nil},
	}
}

// loadTable replaces the table in one transaction. Runs on the thread inside.
func loadTable(p Ports) error {
	c, err := nftables.New(nftables.AsLasting()) // one socket for all questions
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()
	t := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	old, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("list nftables tables: %w", err)
	}
	if len(old) > 0 {
		c.AddTable(t) // so that the deletion finds one
		c.DelTable(t) // of an earlier supervisor
	}
	c.AddTable(t)
	for _, ch := range table(p) {
		policy := ch.policy
		nc := c.AddChain(&nftables.Chain{Table: t, Name: ch.name, Type: ch.kind, Hooknum: ch.hook, Priority: ch.priority, Policy: &policy})
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{Table: t, Chain: nc, Exprs: r})
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("load the nftables table: %w", err)
	}
	return nil
}

// verifyTable reads every table back and compares it with what loadTable writes. Counters may
// have counted. Runs on the thread inside.
func verifyTable(p Ports) error {
	c, err := nftables.New(nftables.AsLasting()) // one socket for all questions
	if err != nil {
		return fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("read the tables back: %w", err)
	}
	if len(tables) != 1 || tables[0].Name != tableName || tables[0].Family != nftables.TableFamilyINet {
		return fmt.Errorf("the namespace has %d tables, wanted only inet %s", len(tables), tableName)
	}
	if tables[0].Flags != 0 { // a dormant table filters nothing
		return fmt.Errorf("table %s has flags %#x", tableName, tables[0].Flags)
	}
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("read the chains back: %w", err)
	}
	got := map[string]*nftables.Chain{}
	for _, ch := range chains {
		got[ch.Name] = ch
	}
	want := table(p)
	if len(chains) != len(want) {
		return fmt.Errorf("table %s has %d chains, wanted %d", tableName, len(chains), len(want))
	}
	for _, w := range want {
		g := got[w.name]
		if g == nil || g.Type != w.kind || g.Hooknum == nil || *g.Hooknum != *w.hook ||
			g.Priority == nil || *g.Priority != *w.priority || g.Policy == nil || *g.Policy != w.policy {
			return fmt.Errorf("chain %s is not as generated", w.name)
		}
		rules, err := c.GetRules(tables[0], g)
		if err != nil {
			return fmt.Errorf("read chain %s back: %w", w.name, err)
		}
		if len(rules) != len(w.rules) {
			return fmt.Errorf("chain %s has %d rules, wanted %d", w.name, len(rules), len(w.rules))
		}
		for i, r := range rules {
			same, err := equal(r.Exprs, w.rules[i])
			if err != nil {
				return fmt.Errorf("chain %s, rule %d: %w", w.name, i+1, err)
			}
			if !same {
				return fmt.Errorf("chain %s, rule %d is not as generated", w.name, i+1)
			}
		}
	}
	return nil
}

// equal compares two rules in their wire form.
func equal(a, b []expr.Any) (bool, error) {
	if len(a) != len(b) {
		return false, nil
	}
	for i := range a {
		if _, ok := a[i].(*expr.Counter); ok {
			if _, ok := b[i].(*expr.Counter); ok {
				continue
			}
		}
		x, err := expr.Marshal(byte(nftables.TableFamilyINet), a[i])
		if err != nil {
			return false, err
		}
		y, err := expr.Marshal(byte(nftables.TableFamilyINet), b[i])
		if err != nil {
			return false, err
		}
		if !bytes.Equal(x, y) {
			return false, nil
		}
	}
	return true, nil
}

// rule joins matches and statements.
func rule(parts ...any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		switch p := p.(type) {
		case []expr.Any:
			out = append(out, p...)
		case expr.Any:
			out = append(out, p)
		}
	}
	return out
}

func outBy(link string) []expr.Any { return name(expr.MetaKeyOIFNAME, link) }

func name(key expr.MetaKey, link string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, link)
	return []expr.Any{
		&expr.Meta{Key: key, Register: regLeft},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: padded},
	}
}

func l4(protocol byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: regLeft},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: []byte{protocol}},
	}
}

func port(offset uint32, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: regLeft, Base: expr.PayloadBaseTransportHeader, Offset: offset, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: value},
	}
}

// messageType matches the type of an ICMP message.
func messageType(value byte) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: regLeft, Base: expr.PayloadBaseTransportHeader, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: []byte{value}},
	}
}

func redirect(to []byte) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: regLeft, Data: to},
		&expr.Redir{RegisterProtoMin: regLeft, RegisterProtoMax: regLeft, Flags: unix.NF_NAT_RANGE_PROTO_SPECIFIED},
	}
}

func redirected() []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: regLeft, Key: expr.CtKeySTATUS},
		&expr.Bitwise{SourceRegister: regLeft, DestRegister: regLeft, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(statusDNAT), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: regLeft, Data: make([]byte, 4)},
	}
}

func family(nfproto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: regLeft},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: []byte{nfproto}},
	}
}

func destIn4(cidr string) []expr.Any {
	prefix := netip.MustParsePrefix(cidr)
	mask := make([]byte, 4)
	for i := range prefix.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return rule(family(unix.NFPROTO_IPV4),
		&expr.Payload{DestRegister: regLeft, Base: expr.PayloadBaseNetworkHeader, Offset: offsetDestAddr4, Len: 4},
		&expr.Bitwise{SourceRegister: regLeft, DestRegister: regLeft, Len: 4, Mask: mask, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: prefix.Masked().Addr().AsSlice()})
}

func destIs6(addr string) []expr.Any {
	return rule(family(unix.NFPROTO_IPV6),
		&expr.Payload{DestRegister: regLeft, Base: expr.PayloadBaseNetworkHeader, Offset: offsetDestAddr6, Len: 16},
		&expr.Cmp{Op: expr.CmpOpEq, Register: regLeft, Data: netip.MustParseAddr(addr).AsSlice()})
}
