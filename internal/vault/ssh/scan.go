package ssh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/crypto/ssh"
)

// scanWithin bounds the question for one host key.
const scanWithin = 15 * time.Second

// Scan asks the SSH server at address ("host:port", "" for s itself) for its host keys, without
// logging in. What it returns is what somebody on the way may have made up: show the fingerprint to
// a person before it is pinned.
func Scan(ctx context.Context, s Server, address string) ([]HostPin, error) {
	if address == "" {
		address = net.JoinHostPort(s.Host, strconv.Itoa(s.Port))
	}
	var pins []HostPin
	var last error
	for _, algorithm := range []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoRSASHA512} {
		key, err := scanOne(ctx, s.Host, address, algorithm)
		if err != nil {
			last = err
			continue
		}
		pins = append(pins, HostPin{Server: s, Type: TypeOf(key), Key: key})
	}
	if pins == nil {
		return nil, fmt.Errorf("%s shows no host key: %w", s, last)
	}
	return pins, nil
}

func scanOne(ctx context.Context, host, address, algorithm string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, scanWithin)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	var found []byte
	enough := errors.New("seen")
	_, _, _, err = ssh.NewClientConn(conn, host, &ssh.ClientConfig{User: "git", HostKeyAlgorithms: []string{algorithm},
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			found = key.Marshal()
			return enough
		}})
	if found == nil {
		return nil, err
	}
	return found, nil
}
