// Package verify proves the walls of one running container: a probe inside (`terok guest verify`)
// attacks them, this side holds the targets that must and must not be reached, and every row of
// Table becomes a line of proof.
//
// What it guarantees: a row is ok only when every attempt was refused and, where a target of ours
// stands behind the wall, nothing arrived there. Controls stand beside the attacks: a target that is
// allowed works through the same path, so that a network that is simply dead proves nothing.
//
// It opens two listeners on the host's loopback and nothing else; who may reach the first one is the
// caller's to arrange, for the time of the run only.
package verify

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"terok/internal/control"
	"terok/internal/text"
)

// Guarantee is one row of the table.
type Guarantee struct {
	Row     string
	Says    string // what holds when the row is ok
	Control bool   // proves that something works
}

// table is Table.
var table = []Guarantee{
	{"allowed-target", "what is allowed is reached", true},
	{"resolver", "names are answered by terok's resolver", true},
	{"links", "no link leads out of the container", false},
	{"unlisted-name", "a name that no rule lists is refused", false},
	{"address-v4", "an IPv4 address instead of a name is refused", false},
	{"address-v6", "an IPv6 address instead of a name is refused", false},
	{"metadata", "cloud metadata is refused", false},
	{"host-loopback", "the host's own loopback is out of reach", false},
	{"private-range", "private ranges and the host's addresses are refused", false},
	{"udp", "UDP is refused", false},
	{"dns-over-tls", "DNS over TLS is refused", false},
	{"foreign-resolver", "no other resolver answers", false},
	{"dns-tunnel", "names that are not allowed are not sent to anybody", false},
	{"raw-socket", "no raw packets, no ping", false},
	{"exotic-socket", "AF_VSOCK and other families are closed", false},
	{"foreign-calls", "io_uring and foreign system call ABIs are closed", false},
	{"sni", "an allowed connection carries no other TLS name", false},
	{"http-host", "an allowed connection carries no request for another host", false},
	{"mptcp", "MPTCP is no way around", false},
	{"tampering", "links, routes and packet filter cannot be changed", false},
	{"own-ports", "the supervisor's ports cannot be taken", false},
	{"forged-destination", "destinations that nobody handed out are refused", false},
	{"service-token", "gate and vault refuse strangers", false},
	{"vault-second-key", "no other key goes to a provider", false},
	{"vault-names", "the vault serves a connection's own name only", false},
	{"vault-endpoints", "endpoints that make keys are refused, however they are written", false},
	{"vault-fetch", "a provider is not made to call addresses", false},
	{"vault-forge", "a forge's other repositories are not written to", false},
	{"control-socket", "the operator's sockets are out of reach", false},
	{"real-key", "no real key lies inside", false},
	{"processes", "the supervisor cannot be seen", false},
}

// Table is every row, in the order in which it is shown.
func Table() []Guarantee { return append([]Guarantee{}, table...) }

// Row is the outcome of one row.
type Row struct {
	Row       string `json:"row"`
	Guarantee string `json:"guarantee"`
	Control   bool   `json:"control"`
	OK        bool   `json:"ok"`
	Proof     string `json:"proof"`
	MS        int64  `json:"ms"`
}

// Report is one run.
type Report struct {
	Target  string  `json:"target"`
	OK      bool    `json:"ok"`
	Failed  int     `json:"failed"`
	Seconds float64 `json:"seconds"`
	Rows    []Row   `json:"rows"`
}

// Exec runs the probe in the container with this stdin and returns what it printed.
type Exec func(ctx context.Context, stdin []byte) ([]byte, error)

// Targets are the listeners on the host's loopback.
type Targets struct {
	nonce   string
	allowed *target
	closed  *target
	web     *target // nil: port 80 could not be had
}

// Open makes the targets. Close ends them.
func Open() (*Targets, error) {
	var b [6]byte
	_, _ = rand.Read(b[:]) // never fails
	t := &Targets{nonce: hex.EncodeToString(b[:])}
	cert, err := certificate()
	if err != nil {
		return nil, err
	}
	if t.allowed, err = listen("127.0.0.1:0", t.nonce, cert); err != nil {
		return nil, err
	}
	if t.closed, err = listen("127.0.0.1:0", t.nonce, cert); err != nil {
		t.Close()
		return nil, err
	}
	// Ordinary users may not (ip(7), ip_unprivileged_port_start), or somebody else serves there.
	t.web, _ = listen("127.0.0.1:80", t.nonce, cert)
	return t, nil
}

// Rules are the rules that the container must have during the run, without sign.
func (t *Targets) Rules() []string {
	return []string{fmt.Sprintf("host:%d", t.allowed.port()), "host:80"}
}

// Close ends the listeners.
func (t *Targets) Close() {
	for _, l := range []*target{t.allowed, t.closed, t.web} {
		if l != nil {
			l.close()
		}
	}
}

// Plan is what the probe is told; the caller adds what it knows of the container.
func (t *Targets) Plan() control.VerifyPlan {
	p := control.VerifyPlan{Nonce: t.nonce, Allowed: t.allowed.port(), Closed: t.closed.port()}
	if t.web != nil {
		p.Web = 80
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok && !ip.Unmap().IsLoopback() && !ip.IsLinkLocalUnicast() {
					p.HostIPs = append(p.HostIPs, ip.Unmap().String())
				}
			}
		}
	}
	return p
}

// Run lets the probe attack and judges what came of it. sent, if not nil, counts the questions that
// went to the host's resolver: there must be none.
func (t *Targets) Run(ctx context.Context, plan control.VerifyPlan, exec Exec, sent func(context.Context) (uint64, error)) (*Report, error) {
	begin := time.Now()
	before, err := count(ctx, sent)
	if err != nil {
		return nil, err
	}
	stdin, err := json.Marshal(plan)
	if err != nil {
		return nil, err
	}
	out, err := exec(ctx, stdin)
	if err != nil {
		return nil, fmt.Errorf("the probe did not run to its end: %w", err)
	}
	after, err := count(ctx, sent)
	if err != nil {
		return nil, err
	}
	rows, err := parse(out)
	if err != nil {
		return nil, err
	}
	t.testify(rows)
	if n := after - before; n > 0 {
		fail(rows, "dns-tunnel", fmt.Sprintf("%d questions went to the host's resolver", n))
	}
	return report(rows, time.Since(begin)), nil
}

func count(ctx context.Context, sent func(context.Context) (uint64, error)) (uint64, error) {
	if sent == nil {
		return 0, nil
	}
	return sent(ctx)
}

// parse reads the rows that the probe printed; it ran beside a workload, so they are hostile. Rows
// that nobody knows are dropped, and the last word about a row that comes twice is a failure.
func parse(out []byte) (map[string]control.VerifyRow, error) {
	rows := map[string]control.VerifyRow{}
	for line := range bytes.Lines(out) {
		var r control.VerifyRow
		if err := json.Unmarshal(line, &r); err != nil {
			return nil, errors.New("the probe printed something that is no row")
		}
		if _, twice := rows[r.Row]; twice {
			r.OK, r.Proof = false, "two outcomes came of this row"
		}
		r.Proof = text.Line(r.Proof, 300)
		rows[r.Row] = r
	}
	return rows, nil
}

// testify adds what the targets saw.
func (t *Targets) testify(rows map[string]control.VerifyRow) {
	if n := t.closed.connections(); n > 0 {
		fail(rows, "host-loopback", fmt.Sprintf("%d connections reached a port of the host's loopback that no rule opens", n))
	}
	for _, name := range t.allowed.names() {
		if name != hostName {
			fail(rows, "sni", "the allowed target was asked for "+text.Line(name, 100))
		}
	}
	if !t.allowed.echoed() {
		fail(rows, "allowed-target", "nothing arrived at the allowed target")
	}
	if t.web == nil {
		return
	}
	for _, host := range t.web.hosts() {
		if host != hostName {
			fail(rows, "http-host", "the allowed web server was asked for "+text.Line(host, 100))
		}
	}
}

func fail(rows map[string]control.VerifyRow, name, why string) {
	r := rows[name]
	r.Row, r.OK, r.Proof = name, false, why
	rows[name] = r
}

func report(rows map[string]control.VerifyRow, took time.Duration) *Report {
	rep := &Report{Seconds: took.Seconds()}
	for _, g := range table {
		r, there := rows[g.Row]
		if !there {
			r = control.VerifyRow{Proof: "the probe has no outcome: its terok is older than this one"}
		}
		rep.Rows = append(rep.Rows, Row{Row: g.Row, Guarantee: g.Says, Control: g.Control, OK: r.OK, Proof: r.Proof, MS: r.MS})
		if !r.OK {
			rep.Failed++
		}
	}
	rep.OK = rep.Failed == 0
	return rep
}
