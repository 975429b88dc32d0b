package guest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// hostName is the name of the host's loopback inside (policy.HostName).
const hostName = "host.terok.internal"

// Addresses that the attacks try, besides those of the plan. Nothing is sent to them: the attempt
// ends inside.
var (
	publicV4 = []string{"1.1.1.1", "203.0.113.10"}
	publicV6 = []string{"2606:4700:4700::1111", "2001:db8:1::10"}
	private  = []string{"10.0.0.1", "172.17.0.1", "192.168.1.1", "192.168.77.7", "100.64.0.7"}
	metadata = []string{"169.254.169.254", "fd00:ec2::254"}
)

// attempt is one way to get out. say is what the client says first: a ClientHello, a request, or
// plain bytes.
type attempt struct {
	network string // tcp or mptcp
	addr    string // address and port
	say     []byte
}

func (a attempt) String() string { return a.addr }

// dialer connects without the help of Go's own resolver.
func dialer(network string) *net.Dialer {
	d := &net.Dialer{Timeout: refusalWait}
	d.SetMultipathTCP(network == "mptcp")
	return d
}

// outcome makes an attempt and says how it was refused; an error is a hole.
func (p *probe) outcome(a attempt) (refusal string, hole error) {
	c, err := dialer(a.network).DialContext(p.ctx, "tcp", a.addr)
	if err != nil {
		return p.silence(err, "connect")
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(refusalWait))
	if _, err := c.Write(a.say); err != nil {
		return p.silence(err, "send")
	}
	head := make([]byte, 4096)
	n, err := io.ReadAtLeast(c, head, 7)
	head = head[:n]
	switch {
	case n == 7 && head[0] == 21 && head[5] == 2:
		return "TLS alert " + strconv.Itoa(int(head[6])), nil
	case bytes.HasPrefix(head, []byte("HTTP/1.1 403 ")):
		rest, _ := io.ReadAll(io.LimitReader(c, 16<<10))
		if bytes.Contains(append(head, rest...), []byte("refused_by_shield")) {
			return "HTTP 403", nil
		}
		return "", fmt.Errorf("%s answers with a 403 of its own", a)
	case n > 0:
		return "", fmt.Errorf("%s answers %q", a, head[:min(n, 24)])
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return "", fmt.Errorf("%s takes the connection and ends it", a)
	}
	return p.silence(err, "read")
}

// silence tells a refusal from nothing.
func (p *probe) silence(err error, step string) (string, error) {
	if os.IsTimeout(err) {
		if p.plan.MayHold {
			return "held for a verdict", nil
		}
		return "", fmt.Errorf("%s: no refusal within %s", step, refusalWait)
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error(), nil
	}
	return err.Error(), nil
}

// refuse makes attempts side by side; every one must be refused.
func (p *probe) refuse(attempts []attempt) (string, error) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var found holes
	kinds := map[string]int{}
	slots := make(chan struct{}, 8)
	for _, a := range attempts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			refusal, err := p.outcome(a)
			mu.Lock()
			defer mu.Unlock()
			if kinds[refusal]++; err != nil {
				found.add("%s: %v", a, err)
			}
		})
	}
	wg.Wait()
	var words []string
	for k, n := range kinds {
		words = append(words, fmt.Sprintf("%d %s", n, k))
	}
	slices.Sort(words)
	return counted(len(attempts), "attempt") + " refused: " + strings.Join(words, ", "), found.err()
}

// ways are the attempts on one address: TLS, HTTP and neither.
func ways(addr, name string) []attempt {
	if name == "" {
		name = "unlisted.example"
	}
	at := func(port string) string { return net.JoinHostPort(addr, port) }
	return []attempt{{"tcp", at("443"), clientHello(name)}, {"tcp", at("80"), getOf(name)}, {"tcp", at("7000"), []byte("\x00probe\n")}}
}

func getOf(host string) []byte {
	return fmt.Appendf(nil, "GET / HTTP/1.1\r\nHost: %s\r\nAccept: application/json\r\nConnection: close\r\n\r\n", host)
}

// clientHello is the first flight of a TLS client.
func clientHello(name string) []byte {
	near, far := net.Pipe()
	defer near.Close()
	go func() {
		_ = tls.Client(far, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
		far.Close()
	}()
	head := make([]byte, 16<<10)
	n, _ := near.Read(head)
	return head[:n]
}

// split sorts the plan's extra targets.
func (p *probe) also(v6 bool) (addrs, names []string) {
	for _, s := range p.plan.Also {
		if a, err := netip.ParseAddr(s); err != nil {
			names = append(names, s)
		} else if a.Is6() == v6 {
			addrs = append(addrs, s)
		}
	}
	return addrs, names
}

func (p *probe) allowedAddr() (string, error) {
	a, err := p.lookup(hostName)
	return net.JoinHostPort(a, strconv.Itoa(int(p.plan.Allowed))), err
}

// echo wants the nonce back from the allowed target.
func (p *probe) echo(network string) error {
	addr, err := p.allowedAddr()
	if err != nil {
		return err
	}
	c, err := dialer(network).DialContext(p.ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * refusalWait))
	if _, err := io.WriteString(c, control.EchoWord+"?\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, 200)).ReadString('\n')
	if err == nil && line != control.EchoWord+p.plan.Nonce+"\n" {
		err = fmt.Errorf("it answers %q", line)
	}
	return err
}

func (p *probe) allowedTarget() (string, error) {
	return fmt.Sprintf("%s:%d answered with this run's nonce", hostName, p.plan.Allowed), p.echo("tcp")
}

func (p *probe) unlistedName() (string, error) {
	_, names := p.also(false)
	var all []attempt
	for _, name := range append([]string{"unlisted-" + p.plan.Nonce + ".example", "example.com"}, names...) {
		a, err := p.lookup(name)
		if err != nil { // no address, no connection
			continue
		}
		all = append(all, ways(a, name)...)
	}
	return p.refuse(all)
}

func (p *probe) addressV4() (string, error) { return p.addresses(publicV4, false) }
func (p *probe) addressV6() (string, error) { return p.addresses(publicV6, true) }

func (p *probe) addresses(list []string, v6 bool) (string, error) {
	more, _ := p.also(v6)
	var all []attempt
	for _, a := range append(slices.Clone(list), more...) {
		all = append(all, ways(a, "")...)
	}
	return p.refuse(all)
}

func (p *probe) metadata() (string, error) {
	var all []attempt
	for _, a := range metadata {
		all = append(all, attempt{"tcp", net.JoinHostPort(a, "80"), getOf(a)}, attempt{"tcp", net.JoinHostPort(a, "443"), clientHello("metadata")})
	}
	proof, err := p.refuse(all)
	if err == nil {
		if a, lerr := p.lookup("metadata.google.internal"); lerr == nil {
			err = fmt.Errorf("metadata.google.internal has the address %s", a)
		}
	}
	return proof, err
}

func (p *probe) hostLoopback() (string, error) {
	port := strconv.Itoa(int(p.plan.Closed))
	addrs := []string{"127.0.0.1", "::1", "0.0.0.0", sandbox.ServiceHost, sandbox.ResolverAddr, "10.0.2.15"}
	if a, err := p.lookup(hostName); err == nil {
		addrs = append(addrs, a)
	}
	var all []attempt
	for _, a := range addrs {
		all = append(all, attempt{"tcp", net.JoinHostPort(a, port), getOf("localhost")})
	}
	return p.refuse(all)
}

func (p *probe) privateRange() (string, error) {
	var all []attempt
	for _, a := range append(slices.Clone(private), p.plan.HostIPs...) {
		ip, err := netip.ParseAddr(a)
		if err != nil || ip.IsLoopback() {
			continue
		}
		all = append(all, ways(a, "")...)
	}
	return p.refuse(all)
}

func (p *probe) dnsOverTLS() (string, error) {
	v4, _ := p.also(false)
	var all []attempt
	for _, a := range append([]string{"1.1.1.1", "9.9.9.9", "203.0.113.53"}, v4...) {
		all = append(all, attempt{"tcp", net.JoinHostPort(a, "853"), clientHello("one.one.one.one")})
	}
	return p.refuse(all)
}

func (p *probe) mptcp() (string, error) {
	v4, _ := p.also(false)
	var all []attempt
	for _, a := range append(slices.Clone(publicV4), v4...) {
		for _, w := range ways(a, "") {
			w.network = "mptcp"
			all = append(all, w)
		}
	}
	proof, err := p.refuse(all)
	if err == nil {
		if err = p.echo("mptcp"); err != nil {
			err = fmt.Errorf("an MPTCP client does not reach the allowed target: %w", err)
		}
	}
	return proof + "; the allowed target works", err
}

// serverName: an allowed connection does not carry another name.
func (p *probe) serverName() (string, error) {
	addr, err := p.allowedAddr()
	if err != nil {
		return "", err
	}
	c, err := dialer("tcp").DialContext(p.ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * refusalWait))
	if err := tls.Client(c, &tls.Config{ServerName: hostName, InsecureSkipVerify: true}).Handshake(); err != nil {
		return "", fmt.Errorf("the allowed name itself is refused: %w", err)
	}
	proof, err := p.refuse([]attempt{{"tcp", addr, clientHello("other-" + p.plan.Nonce + ".example")}, {"tcp", addr, clientHello("example.com")}})
	return proof + "; the target's own name works", err
}

// httpHost: an allowed web server gets no request for another one, not even a later request of a
// connection that it was allowed.
func (p *probe) httpHost() (string, error) {
	a, err := p.lookup(hostName)
	if err != nil {
		return "", err
	}
	addr := net.JoinHostPort(a, "80")
	other := "other-" + p.plan.Nonce + ".example"
	absolute := fmt.Appendf(nil, "GET http://%s/ HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", other, hostName)
	proof, err := p.refuse([]attempt{{"tcp", addr, getOf(other)}})
	if err != nil || p.plan.Web == 0 {
		return proof, err
	}
	c, err := dialer("tcp").DialContext(p.ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(2 * refusalWait))
	in := bufio.NewReader(c)
	for i, host := range []string{hostName, other} {
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", host)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			if i == 1 {
				break // ended without an answer
			}
			return "", fmt.Errorf("the allowed request: %w", err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if want := []int{200, 403}[i]; res.StatusCode != want {
			return "", fmt.Errorf("the request for %s is answered with %d, not %d", host, res.StatusCode, want)
		}
	}
	// Request line and Host that do not agree: whatever answers, it is not a server.
	if line, err := p.firstLine(addr, absolute); err == nil && strings.Contains(line, " 200 ") {
		return "", fmt.Errorf("a request line for another host is answered %q", line)
	}
	return proof + "; the second request of a kept connection too", nil
}

func (p *probe) firstLine(addr string, say []byte) (string, error) {
	c, err := dialer("tcp").DialContext(p.ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(refusalWait))
	if _, err := c.Write(say); err != nil {
		return "", err
	}
	return bufio.NewReader(io.LimitReader(c, 4096)).ReadString('\n')
}

// forgedDestination: what was not redirected, or leads to an address nobody handed out, ends.
func (p *probe) forgedDestination() (string, error) {
	ports, err := loopbackPorts("tcp")
	if err != nil || len(ports) == 0 {
		return "", fmt.Errorf("the supervisor's listener was not found: %w", err)
	}
	var direct []attempt
	for _, port := range ports {
		direct = append(direct, attempt{"tcp", net.JoinHostPort("127.0.0.1", port), getOf(hostName)})
	}
	if !p.plan.Alone { // the workload's own servers may answer
		direct = slices.DeleteFunc(direct, func(a attempt) bool { _, hole := p.outcome(a); return hole != nil })
		if len(direct) == 0 {
			return "", errors.New("no listener on the loopback resets a direct connection")
		}
	}
	all := append(direct, attempt{"tcp", sandbox.ServiceHost + ":1", getOf("x")}, attempt{"tcp", "10.0.2.77:80", getOf("x")})
	if r, err := netip.ParsePrefix(p.plan.Range); err == nil {
		first := r.Addr().As4()
		first[2], first[3] = 77, 77
		all = append(all, attempt{"tcp", netip.AddrPortFrom(netip.AddrFrom4(first), 443).String(), clientHello("x.example")})
	}
	return p.refuse(all)
}

// serviceToken: gate and vault do nothing for somebody without this start's token.
func (p *probe) serviceToken() (string, error) {
	var found holes
	tried := 1
	gate := net.JoinHostPort(sandbox.ServiceHost, strconv.Itoa(sandbox.GatePort))
	line, err := p.firstLine(gate, []byte("GET /task.git/info/refs?service=git-upload-pack HTTP/1.1\r\nHost: gate\r\nConnection: close\r\n\r\n"))
	if err == nil && !strings.Contains(line, " 401 ") && !strings.Contains(line, " 403 ") && !strings.Contains(line, " 404 ") {
		found.add("the gate answers %q", strings.TrimSpace(line))
	}
	if p.plan.Gate && err != nil {
		found.add("the gate does not answer: %v", err)
	}
	for _, host := range p.plan.Routed {
		tried++
		a, err := p.lookup(host)
		if err != nil {
			found.add("%s has no address", host)
			continue
		}
		c, err := dialer("tcp").DialContext(p.ctx, "tcp", net.JoinHostPort(a, "443"))
		if err != nil {
			continue
		}
		_ = c.SetDeadline(time.Now().Add(2 * refusalWait))
		t := tls.Client(c, &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		fmt.Fprintf(t, "POST /v1/messages HTTP/1.1\r\nHost: %s\r\nAuthorization: Bearer not-ours\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", host)
		if res, err := http.ReadResponse(bufio.NewReader(t), nil); err == nil {
			if res.StatusCode < 400 {
				found.add("%s answers %d to a stranger's token", host, res.StatusCode)
			}
			res.Body.Close()
		}
		c.Close()
	}
	return counted(tried, "service") + " tried without this start's token: nothing", found.err()
}
