package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"strconv"

	"terok/internal/sandbox"
)

// maxAgentClients bounds the connections to our SSH agent at a time.
const maxAgentClients = 16

// serveAgent makes the socket that SSH_AUTH_SOCK names and joins each client with the signer of
// the supervisor. It knows nothing of what passes: no key and no decision is in the container.
func serveAgent(ctx context.Context, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("ssh agent: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return fmt.Errorf("ssh agent: %w", err)
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		slots := make(chan struct{}, maxAgentClients)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				join(ctx, c)
			}()
		}
	}()
	return nil
}

// join copies between an agent's client and the supervisor until one of them ends.
func join(ctx context.Context, client net.Conn) {
	defer client.Close()
	d := net.Dialer{Timeout: helloDeadline}
	d.SetMultipathTCP(false)
	server, err := d.DialContext(ctx, "tcp", net.JoinHostPort(sandbox.ServiceHost, strconv.Itoa(sandbox.SignerPort)))
	if err != nil {
		return
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	pump := func(to, from net.Conn) {
		_, _ = io.Copy(to, from)
		ended <- struct{}{}
	}
	go pump(server, client)
	go pump(client, server)
	<-ended
	client.Close()
	server.Close()
	<-ended
}
