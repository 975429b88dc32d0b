package guest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"terok/internal/sandbox"
)

// Types and response codes of DNS (RFC 1035 §3.2, §4.1.1).
const (
	typeA     = 1
	typeCNAME = 5
	typeNULL  = 10
	typeMX    = 15
	typeTXT   = 16
	typeAAAA  = 28
	typeSRV   = 33

	rcodeOK       = 0
	rcodeNXDomain = 3
	rcodeRefused  = 5
)

// answer is what the probe reads of a DNS message: written by hand, since the guest stays small.
type answer struct {
	rcode   int
	answers int
	addr    netip.Addr // of the first A record
}

// query is a DNS question. Labels are at most 63 bytes.
func query(id uint16, name string, kind uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, id)
	b = append(b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) // recursion desired, one question
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		b = append(b, byte(len(label)))
		b = append(b, label...)
	}
	b = append(b, 0)
	b = binary.BigEndian.AppendUint16(b, kind)
	return binary.BigEndian.AppendUint16(b, 1)
}

// parseAnswer reads an answer to a question of that length. It comes from whoever answers.
func parseAnswer(b []byte, question int) (answer, error) {
	if len(b) < 12 {
		return answer{}, errors.New("a short DNS message")
	}
	out := answer{rcode: int(b[3] & 0x0f), answers: int(binary.BigEndian.Uint16(b[6:]))}
	at := question
	for range out.answers {
		// A name: labels, or a pointer that ends it (RFC 1035 §4.1.4).
		for at < len(b) && b[at] != 0 && b[at] < 0xc0 {
			at += int(b[at]) + 1
		}
		if at < len(b) && b[at] >= 0xc0 {
			at++
		}
		if at++; at+10 > len(b) {
			return out, nil // counts are enough for the rows
		}
		kind, size := binary.BigEndian.Uint16(b[at:]), int(binary.BigEndian.Uint16(b[at+8:]))
		if at += 10; at+size > len(b) {
			return out, nil
		}
		if kind == typeA && size == 4 && !out.addr.IsValid() {
			out.addr = netip.AddrFrom4([4]byte(b[at : at+4]))
		}
		at += size
	}
	return out, nil
}

// ask sends one question and waits for its answer.
func (p *probe) ask(network, server, name string, kind uint16) (answer, error) {
	c, err := dialer("tcp").DialContext(p.ctx, network, net.JoinHostPort(server, "53"))
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(refusalWait))
	q := query(uint16(time.Now().UnixNano()), name, kind)
	if network == "tcp" {
		if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(q))), q...)); err != nil {
			return answer{}, err
		}
		var size [2]byte
		if _, err := io.ReadFull(c, size[:]); err != nil {
			return answer{}, err
		}
		b := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(c, b); err != nil {
			return answer{}, err
		}
		return parseAnswer(b, len(q))
	}
	if _, err := c.Write(q); err != nil {
		return answer{}, err
	}
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil {
		return answer{}, err
	}
	return parseAnswer(b[:n], len(q))
}

// lookup is the address of a name inside.
func (p *probe) lookup(name string) (string, error) {
	a, err := p.ask("udp", sandbox.ResolverAddr, name, typeA)
	if err != nil {
		return "", fmt.Errorf("look up %s: %w", name, err)
	}
	if !a.addr.IsValid() {
		return "", fmt.Errorf("look up %s: no address, code %d", name, a.rcode)
	}
	return a.addr.String(), nil
}

func (p *probe) resolverAnswers() (string, error) {
	a, err := p.lookup(hostName)
	if err != nil {
		return "", err
	}
	over, err := p.ask("tcp", sandbox.ResolverAddr, hostName, typeA)
	if err == nil && over.addr.String() != a {
		err = fmt.Errorf("over TCP the answer is %v", over)
	}
	return fmt.Sprintf("%s is %s over UDP and TCP", hostName, a), err
}

// foreignResolver: whoever a question is sent to, only our own resolver answers. It alone knows the
// name that is asked for.
func (p *probe) foreignResolver() (string, error) {
	own, err := p.lookup(hostName)
	if err != nil {
		return "", err
	}
	v4, _ := p.also(false)
	v6, _ := p.also(true)
	var found holes
	ours, refused := 0, 0
	for _, server := range slices.Concat([]string{"1.1.1.1", "9.9.9.9", "203.0.113.53", "2606:4700:4700::1111"}, v4, v6) {
		for _, network := range []string{"udp", "tcp"} {
			a, err := p.ask(network, server, hostName, typeA)
			switch {
			case err == nil && a.addr.IsValid() && a.addr.String() == own:
				ours++
			case err == nil:
				found.add("%s answers over %s with code %d", server, network, a.rcode)
			case errors.Is(err, io.EOF):
				found.add("%s takes a connection", server)
			default:
				if _, err := p.silence(err, "ask "+server); err != nil && !p.plan.MayHold {
					found.add("%v", err)
				}
				refused++
			}
		}
	}
	return fmt.Sprintf("%d questions answered by terok's own resolver, %d refused", ours, refused), found.err()
}

// dnsTunnel: a name that is not allowed is answered without being sent anywhere. Somebody who asked
// would say that it does not exist, or fail.
func (p *probe) dnsTunnel() (string, error) {
	_, names := p.also(false)
	var found holes
	n := 0
	for i, kind := range []uint16{typeTXT, typeNULL, typeMX, typeCNAME, typeSRV, typeA, typeAAAA} {
		for _, name := range append([]string{fmt.Sprintf("secret%d-%s.exfil.example", i, p.plan.Nonce)}, names...) {
			a, err := p.ask("udp", sandbox.ResolverAddr, name, kind)
			n++
			switch {
			case err != nil:
				found.add("type %d of %s: %v", kind, name, err)
			case kind == typeA && a.rcode == rcodeOK && p.synthetic(a.addr):
			case kind != typeA && a.answers == 0 && (a.rcode == rcodeOK || a.rcode == rcodeRefused):
			case slices.Contains(names, name) && a.rcode == rcodeNXDomain && a.answers == 0: // denied by a rule
			default:
				found.add("type %d of %s: code %d, %d answers, %s", kind, name, a.rcode, a.answers, a.addr)
			}
		}
	}
	return counted(n, "question") + " about names that are not allowed: answered here", found.err()
}

func (p *probe) synthetic(a netip.Addr) bool {
	r, err := netip.ParsePrefix(p.plan.Range)
	return err != nil && a.IsValid() || r.IsValid() && r.Contains(a)
}
