// Package sessionbus connects to the operator's D-Bus session bus, over unix sockets only: other
// transports of an address leave the machine or start programs. It works on the host and inside
// podman's user namespace, where the bus knows us by the uid of the host.
package sessionbus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"terok/internal/peer"
)

// ErrNone says that there is no session bus to use.
var ErrNone = errors.New("no session bus")

// helloWithin bounds authentication.
const helloWithin = 5 * time.Second

// Dial connects to the bus at address (D-Bus specification, "Server Addresses") and says hello.
// Every error is ErrNone. ctx bounds the life of the connection.
func Dial(ctx context.Context, address string) (*dbus.Conn, error) {
	path, err := Socket(address)
	if err != nil {
		return nil, err
	}
	uid, err := peer.HostUID()
	if err != nil {
		return nil, err
	}
	sock, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	conn, err := dbus.DialUnix(sock.(*net.UnixConn), dbus.WithContext(ctx))
	if err != nil {
		sock.Close()
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	_ = sock.SetDeadline(time.Now().Add(helloWithin))
	if err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(uid))}); err == nil {
		err = conn.Hello()
	}
	_ = sock.SetDeadline(time.Time{})
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", ErrNone, err)
	}
	return conn, nil
}

// Socket finds the unix socket of a bus address, "@name" for an abstract one.
func Socket(address string) (string, error) {
	for a := range strings.SplitSeq(address, ";") {
		rest, ok := strings.CutPrefix(a, "unix:")
		if !ok {
			continue
		}
		for kv := range strings.SplitSeq(rest, ",") {
			k, v, _ := strings.Cut(kv, "=")
			v, err := url.PathUnescape(v)
			if err != nil {
				continue
			}
			switch {
			case k == "path" && filepath.IsAbs(v):
				return v, nil
			case k == "abstract" && v != "":
				return "@" + v, nil
			}
		}
	}
	return "", fmt.Errorf("%w at a unix socket (%.80q)", ErrNone, address)
}
