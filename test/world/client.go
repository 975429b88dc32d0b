package world

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
)

// Client talks to the control socket of a running world.
type Client struct{ http *http.Client }

// Connect returns a client for the world that this process runs in.
func Connect() (*Client, error) {
	path := os.Getenv(Env)
	if path == "" {
		return nil, errors.New("not in the world: run this through `scripts/world run -- …`")
	}
	return Dial(path), nil
}

// Dial returns a client for the control socket at path.
func Dial(path string) *Client {
	return &Client{&http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		},
	}}}
}

func (c *Client) do(ctx context.Context, method, path string, body any) ([]byte, error) {
	b, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(ctx, method, "http://world"+path, bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	resp, err := c.http.Do(q)
	if err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("world: %s: %s", path, strings.TrimSpace(string(out)))
	}
	return out, nil
}

// Seen returns everything that reached a server since the last Reset, in order.
func (c *Client) Seen(ctx context.Context) ([]Seen, error) {
	b, err := c.do(ctx, http.MethodGet, "/seen", nil)
	if err != nil {
		return nil, err
	}
	var list []Seen
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("world: %w", err)
	}
	return list, nil
}

// Reset forgets what was seen and restores the zone.
func (c *Client) Reset(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, "/reset", nil)
	return err
}

// Answer changes what DNS answers for one name and type, until the next Reset.
func (c *Client) Answer(ctx context.Context, s Script) error {
	_, err := c.do(ctx, http.MethodPost, "/dns", s)
	return err
}

// CA returns the certificate that the world's HTTPS servers chain to, as PEM.
func (c *Client) CA(ctx context.Context) ([]byte, error) {
	return c.do(ctx, http.MethodGet, "/ca", nil)
}
