package netns

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"terok/internal/sandbox/links"
)

// Reading is what a look at a running container's namespace found.
type Reading struct {
	// Generated: links and table are exactly what Setup makes. Why says what is not.
	Generated bool   `json:"generated"`
	Why       string `json:"why"`
	// Counters are those of the rules that refuse; empty when the table is not there.
	Counters []Counter `json:"counters"`
}

// Counter is one rule that counts.
type Counter struct {
	Chain   string `json:"chain"`
	Says    string `json:"says"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// Read compares links and table with what Setup makes and reads the counters. It changes nothing
// and raises no notice. Like Verify it needs CAP_NET_ADMIN in the namespace, which a supervisor has
// given up: it is for a process that enters for this and ends.
func (s *Space) Read() (r Reading, err error) {
	err = s.Do(func() error {
		r, err = s.read()
		return err
	})
	return r, err
}

func (s *Space) read() (Reading, error) {
	r := Reading{Counters: []Counter{}}
	c, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return r, fmt.Errorf("open nftables: %w", err)
	}
	defer c.CloseLasting()
	chains, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return r, fmt.Errorf("read the chains: %w", err)
	}
	ports := Ports{Synthetic: s.Synthetic}
	for _, ch := range chains {
		if ch.Table.Name != tableName {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return r, fmt.Errorf("read chain %s: %w", ch.Name, err)
		}
		for _, rule := range rules {
			ports.learn(ch.Name, rule.Exprs)
			if n, ok := counted(ch.Name, rule.Exprs); ok {
				r.Counters = append(r.Counters, n)
			}
		}
	}
	// The listeners' ports are the kernel's choice and known from the table alone; everything else
	// of it has one form.
	err = links.CheckHere()
	if err == nil {
		err = verifyTable(ports)
	}
	if r.Generated = err == nil; err != nil {
		r.Why = err.Error()
	}
	return r, nil
}

// learn takes the port that a rule redirects to.
func (p *Ports) learn(chain string, exprs []expr.Any) {
	if chain != "redirect" {
		return
	}
	var proto byte
	var to uint16
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Cmp:
			if len(e.Data) == 1 && proto == 0 {
				proto = e.Data[0]
			}
		case *expr.Immediate:
			if len(e.Data) == 2 {
				to = binary.BigEndian.Uint16(e.Data)
			}
		}
	}
	switch proto {
	case unix.IPPROTO_TCP:
		p.TCP = to
	case unix.IPPROTO_UDP:
		if to != 0 {
			p.DNS = to
		}
	}
}

func counted(chain string, exprs []expr.Any) (n Counter, ok bool) {
	n = Counter{Chain: chain, Says: "counted"}
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Counter:
			n.Packets, n.Bytes, ok = e.Packets, e.Bytes, true
		case *expr.Reject:
			if n.Says = "everything that is not TCP, DNS or a relayed datagram: refused"; e.Type == rejectReset {
				n.Says = "TCP that the redirect did not take: reset"
			}
		}
	}
	return n, ok
}
