// Command probe is the workload of the attack tests: it serves commands on a unix socket that lies
// in a directory which the test mounted, so that neither the container's network nor podman is
// needed to drive it. One connection is one command: a line of JSON (Request), a line of JSON back
// (Reply), and for "dial" the bytes of the connection that was made.
//
//	probe SOCKET
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience ends an attempt that hangs; no refusal may take as long.
const patience = 5 * time.Second

// Request is a command.
type Request struct {
	Op      string // dial, talk, exchange, resolve, socket, call, listeners, flood, names, bind, write
	Network string // "tcp", "tcp4", "tcp6", "udp" or "mptcp"
	Addr    string
	Send    []byte
	Numbers []int
	MS      int // ends the attempt; 0: patience
}

func (q *Request) patience() time.Duration {
	if q.MS == 0 {
		return patience
	}
	return time.Duration(q.MS) * time.Millisecond
}

// Reply is what came of it. MS is how long it took.
type Reply struct {
	Error string   `json:",omitempty"`
	Errno string   `json:",omitempty"`
	MS    int64    `json:",omitempty"`
	Data  []byte   `json:",omitempty"` // received by talk
	List  []string `json:",omitempty"`
	Count int      `json:",omitempty"`
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: probe SOCKET")
		os.Exit(2)
	}
	l, err := net.Listen("unix", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Fprintln(os.Stderr, "probe:", err)
			os.Exit(1)
		}
		go serve(c.(*net.UnixConn))
	}
}

func serve(c *net.UnixConn) {
	defer c.Close()
	in := bufio.NewReader(c)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return // the test looked whether we are there
	}
	var q Request
	var out Reply
	var made net.Conn
	start := time.Now()
	if err = json.Unmarshal(line, &q); err == nil {
		out, made, err = do(q)
	}
	out.MS = time.Since(start).Milliseconds()
	if err != nil {
		out.Error = err.Error()
		if errno, ok := errors.AsType[syscall.Errno](err); ok {
			out.Errno = unix.ErrnoName(errno)
		}
	}
	if json.NewEncoder(c).Encode(out) != nil || made == nil {
		return
	}
	defer made.Close()
	relay(c, in, made)
}

// plain hides what would make io.Copy use a kernel pipe: those of the workload must not be taken
// for the supervisor's.
type plain struct{ io.ReadWriter }

// relay joins the test to the connection that was made. A reset there ends both directions here.
func relay(c *net.UnixConn, in io.Reader, made net.Conn) {
	go func() {
		_, err := io.Copy(plain{made}, struct{ io.Reader }{in})
		if t, ok := made.(*net.TCPConn); ok && err == nil {
			t.CloseWrite()
			return
		}
		made.Close()
	}()
	if _, err := io.Copy(plain{c}, plain{made}); err == nil {
		c.CloseWrite()
		_, _ = io.Copy(io.Discard, made) // until the other direction is done as well
	}
}

func do(q Request) (Reply, net.Conn, error) {
	switch q.Op {
	case "dial":
		c, err := dial(q)
		return Reply{}, c, err
	case "talk":
		data, err := talk(q)
		return Reply{Data: data}, nil, err
	case "exchange":
		data, err := exchange(q)
		return Reply{Data: data}, nil, err
	case "resolve":
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		list, err := net.DefaultResolver.LookupHost(ctx, q.Addr)
		return Reply{List: list}, nil, err
	case "socket":
		return Reply{}, nil, socket(q)
	case "call":
		_, _, errno := syscall.Syscall6(uintptr(q.Numbers[0]), uintptr(q.Numbers[1]), 0, 0, 0, 0, 0)
		if errno != 0 {
			return Reply{}, nil, errno
		}
		return Reply{}, nil, nil
	case "listeners":
		list, err := listeners()
		return Reply{List: list}, nil, err
	case "flood":
		n, err := flood(q.Addr, q.Numbers[0])
		return Reply{Count: n}, nil, err
	case "scatter":
		return Reply{Count: scatter(q.Numbers[0])}, nil, nil
	case "hammer":
		n, err := hammer(q.Addr, q.Numbers[0])
		return Reply{Count: n}, nil, err
	case "names":
		return Reply{Count: names(q.Addr, q.Numbers[0])}, nil, nil
	case "bind":
		c, err := net.ListenPacket(q.Network, q.Addr)
		if err == nil {
			go answer(c) // stays for the container's life
		}
		return Reply{}, nil, err
	case "write":
		return Reply{}, nil, os.WriteFile(q.Addr, q.Send, 0o644)
	}
	return Reply{}, nil, fmt.Errorf("unknown command %q", q.Op)
}

func dial(q Request) (net.Conn, error) {
	d := net.Dialer{Timeout: q.patience()}
	network := q.Network
	d.SetMultipathTCP(network == "mptcp")
	if network == "mptcp" {
		network = "tcp"
	}
	return d.Dial(network, q.Addr)
}

// talk sends and reads until the other side ends; an end in order is no error.
func talk(q Request) ([]byte, error) {
	c, err := dial(q)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(q.patience()))
	if len(q.Send) > 0 {
		if _, err := c.Write(q.Send); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(q.Network, "udp") {
		b := make([]byte, 64<<10)
		n, err := c.Read(b)
		return b[:n], err
	}
	return io.ReadAll(io.LimitReader(c, 1<<20))
}

// exchange sends and reads what comes first.
func exchange(q Request) ([]byte, error) {
	c, err := dial(q)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(q.Send); err != nil {
		return nil, err
	}
	size := make([]byte, 2)
	if _, err := io.ReadFull(c, size); err != nil {
		return nil, err
	}
	data := make([]byte, int(size[0])<<8|int(size[1]))
	_, err = io.ReadFull(c, data)
	return append(size, data...), err
}

// socket makes a socket of Numbers (family, type, protocol) and, with an address, connects it or
// sends to it: one of them has to fail where the kind of socket is closed.
func socket(q Request) error {
	fd, err := unix.Socket(q.Numbers[0], q.Numbers[1]|unix.SOCK_CLOEXEC, q.Numbers[2])
	if err != nil {
		return fmt.Errorf("socket: %w", err)
	}
	defer unix.Close(fd)
	limit := unix.NsecToTimeval(int64(patience))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit)
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit)
	var to unix.Sockaddr
	switch {
	case q.Numbers[0] == unix.AF_VSOCK:
		to = &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: 1024}
	case q.Addr == "":
		return nil
	default:
		a, err := net.ResolveUDPAddr("udp4", q.Addr)
		if err != nil {
			return err
		}
		to = &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}
	}
	if err := unix.Connect(fd, to); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	if _, err := unix.Write(fd, q.Send); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if _, err := unix.Read(fd, make([]byte, 2048)); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	return nil
}
