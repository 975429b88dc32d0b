// Command probe is the workload of the end-to-end tests: a static program that tries, inside a
// container, what an attacker would. It prints one JSON object and ends with 0 whatever came out.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// patience is far more than a refusal may take.
const patience = 5 * time.Second

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "probe: a command is needed")
		os.Exit(2)
	}
	command, ok := commands[os.Args[1]]
	if !ok {
		fmt.Fprintln(os.Stderr, "probe: unknown command", os.Args[1])
		os.Exit(2)
	}
	start := time.Now()
	out, err := command(os.Args[2:])
	if out == nil {
		out = map[string]any{}
	}
	out["ms"] = time.Since(start).Milliseconds()
	out["error"] = ""
	if err != nil {
		out["error"] = err.Error()
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			out["errno"] = unix.ErrnoName(errno)
		}
	}
	_ = json.NewEncoder(os.Stdout).Encode(out)
}

type result = map[string]any

var commands = map[string]func([]string) (result, error){
	"tcp":    func(a []string) (result, error) { return stream(a, false) },
	"mptcp":  func(a []string) (result, error) { return stream(a, true) },
	"http":   fetch,
	"https":  fetch,
	"hosts":  hosts,
	"udp":    datagram,
	"dns":    query,
	"socket": socket,
	"call":   call,
	"status": status,
	"flood":  flood,
	"wait":   wait,
	"serve":  serve,
	"idle":   idle,
	"names":  names,
}

func dialer(mptcp bool) *net.Dialer {
	d := &net.Dialer{Timeout: patience}
	d.SetMultipathTCP(mptcp)
	return d
}

// stream connects, says something and reads what comes: a refusal may come with the first bytes.
func stream(a []string, mptcp bool) (result, error) {
	c, err := dialer(mptcp).Dial("tcp", a[0])
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("probe\n")); err != nil {
		return nil, err
	}
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	if err == io.EOF {
		err = errors.New("closed")
	}
	return result{"read": string(buf[:n])}, err
}

// fetch URL [SNI [HOST]]: one request over a connection of its own, without trust in anybody.
func fetch(a []string) (result, error) {
	tr := &http.Transport{DialContext: dialer(false).DialContext, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	if len(a) > 1 {
		tr.TLSClientConfig.ServerName = a[1]
	}
	req, err := http.NewRequest(http.MethodGet, a[0], nil)
	if err != nil {
		return nil, err
	}
	if len(a) > 2 {
		req.Host = a[2]
	}
	res, err := (&http.Client{Transport: tr, Timeout: 60 * time.Second}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	h := 0
	buf := make([]byte, 64<<10)
	var head []byte
	for {
		n, err := res.Body.Read(buf)
		if h += n; len(head) < 2048 {
			head = append(head, buf[:n]...)
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return result{"status": res.StatusCode, "bytes": h}, err
		}
	}
	return result{"status": res.StatusCode, "bytes": h, "body": string(head)}, nil
}

// hosts ADDR HOST…: several requests on one kept-alive connection, one Host each.
func hosts(a []string) (result, error) {
	c, err := dialer(false).Dial("tcp", a[0])
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	var codes []int
	for _, h := range a[1:] {
		fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", h)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return result{"codes": codes}, err
		}
		_, _ = io.Copy(io.Discard, res.Body)
		codes = append(codes, res.StatusCode)
	}
	return result{"codes": codes}, nil
}

func datagram(a []string) (result, error) {
	c, err := net.Dial("udp", a[0])
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("probe")); err != nil {
		return nil, err
	}
	buf := make([]byte, 512)
	n, err := c.Read(buf)
	return result{"read": string(buf[:n])}, err
}

// query NAME TYPE [SERVER [tcp]]
func query(a []string) (result, error) {
	m := new(dns.Msg)
	m.SetQuestion(dns.Fqdn(a[0]), dns.StringToType[a[1]])
	server, network := "10.0.2.3:53", "udp"
	if len(a) > 2 {
		server = a[2]
	}
	if len(a) > 3 {
		network = a[3]
	}
	c := dns.Client{Net: network, Timeout: patience}
	in, _, err := c.Exchange(m, server)
	if err != nil {
		return nil, err
	}
	var answers []string
	for _, rr := range in.Answer {
		answers = append(answers, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	return result{"rcode": dns.RcodeToString[in.Rcode], "answers": answers}, nil
}

// socket FAMILY TYPE PROTOCOL, numbers
func socket(a []string) (result, error) {
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(a[i])
	}
	fd, err := unix.Socket(n[0], n[1], n[2])
	if err != nil {
		return nil, err
	}
	return nil, unix.Close(fd)
}

// call NUMBER [ARGUMENT…]: a raw system call.
func call(a []string) (result, error) {
	var n [7]uintptr
	for i, s := range a {
		v, _ := strconv.ParseUint(s, 0, 64)
		n[i] = uintptr(v)
	}
	r, _, e := syscall.Syscall6(n[0], n[1], n[2], n[3], n[4], n[5], n[6])
	if e != 0 {
		return nil, e
	}
	return result{"returned": uint64(r)}, nil
}

// status shows what the kernel says about this process.
func status([]string) (result, error) {
	data, err := os.ReadFile("/proc/self/status")
	out := result{"uid": os.Getuid()}
	for line := range strings.Lines(string(data)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			out[k] = strings.TrimSpace(v)
		}
	}
	links, _ := net.Interfaces()
	var names []string
	for _, l := range links {
		names = append(names, l.Name)
	}
	out["links"], out["env"] = names, os.Environ()
	return out, err
}

// flood ADDR N: connections that are closed at once; then what connection tracking holds.
func flood(a []string) (result, error) {
	n, _ := strconv.Atoi(a[1])
	failed := 0
	for range n {
		c, err := dialer(false).Dial("tcp", a[0])
		if err != nil {
			failed++
			continue
		}
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	data, err := os.ReadFile("/proc/net/stat/nf_conntrack")
	entries := uint64(0)
	if lines := strings.Split(string(data), "\n"); len(lines) > 1 {
		entries, _ = strconv.ParseUint(strings.Fields(lines[1])[0], 16, 64)
	}
	return result{"failed": failed, "entries": entries}, err
}

// wait [CANARY]: writes the canary and stays until SIGTERM.
func wait(a []string) (result, error) {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if len(a) > 0 {
		if err := os.WriteFile(a[0], []byte("ran\n"), 0o600); err != nil {
			return nil, err
		}
	}
	<-ctx.Done()
	return nil, nil
}

// serve PORT: listens on the loopback and tells every client where it is, until SIGTERM.
func serve(a []string) (result, error) {
	l, err := net.Listen("tcp", "127.0.0.1:"+a[0])
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, "workload")
			c.Close()
		}
	}()
	return wait(nil)
}

// idle ADDR N: opens N connections and keeps them until SIGTERM; prints when they are open.
func idle(a []string) (result, error) {
	n, _ := strconv.Atoi(a[1])
	var conns []net.Conn
	for range n {
		c, err := dialer(false).Dial("tcp", a[0])
		if err != nil {
			return result{"open": len(conns)}, err
		}
		fmt.Fprintf(c, "x\n")
		conns = append(conns, c)
	}
	fmt.Println(`{"open":` + strconv.Itoa(len(conns)) + `}`)
	return wait(nil)
}

// names N [SUFFIX]: asks for N names nobody knows, then for one that exists.
func names(a []string) (result, error) {
	n, _ := strconv.Atoi(a[0])
	c, err := dns.Dial("udp", "10.0.2.3:53")
	if err != nil {
		return nil, err
	}
	defer c.Close()
	answered := 0
	for i := range n {
		m := new(dns.Msg)
		m.SetQuestion(fmt.Sprintf("n%d.%s.", i, a[1]), dns.TypeA)
		c.SetDeadline(time.Now().Add(time.Second))
		if c.WriteMsg(m) == nil {
			if _, err := c.ReadMsg(); err == nil {
				answered++
			}
		}
	}
	return result{"answered": answered}, nil
}
