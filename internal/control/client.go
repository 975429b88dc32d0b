package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// ErrNoSupervisor says that nobody listens on the control socket: the container is not running,
// or its supervisor has died and the container has no network.
var ErrNoSupervisor = errors.New("no supervisor")

const (
	maxResponse    = 4 << 20 // bytes of one answer
	requestTimeout = 10 * time.Second
)

// Client talks to one supervisor. It is safe for concurrent use and holds no connection open
// between calls. Errors: ErrNoSupervisor, *Error for a refusal, anything else for a failure.
type Client struct {
	socket string
	http   *http.Client
}

// Dial makes a client for a control socket; nothing is opened before the first call.
func Dial(socket string) *Client {
	t := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 16 << 10,
	}
	return &Client{socket: socket, http: &http.Client{Transport: t}}
}

// Status asks the supervisor for its state.
func (c *Client) Status(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodGet, "/v1/status", nil, &s)
}

// Rules lists the rules in force, in the order in which they are tried.
func (c *Client) Rules(ctx context.Context) (r []RuleView, err error) {
	return r, c.call(ctx, http.MethodGet, "/v1/rules", nil, &r)
}

// ChangeRule adds or removes a live rule.
func (c *Client) ChangeRule(ctx context.Context, change RuleChange) (r RuleView, err error) {
	return r, c.call(ctx, http.MethodPost, "/v1/rules", change, &r)
}

// Explain asks what would happen to a connection, and why.
func (c *Client) Explain(ctx context.Context, t Target) (e Explanation, err error) {
	return e, c.call(ctx, http.MethodPost, "/v1/explain", t, &e)
}

// SetPosture changes the posture.
func (c *Client) SetPosture(ctx context.Context, change PostureChange) (s Status, err error) {
	return s, c.call(ctx, http.MethodPost, "/v1/posture", change, &s)
}

// Reload makes the supervisor read its policy again.
func (c *Client) Reload(ctx context.Context) (s Status, err error) {
	return s, c.call(ctx, http.MethodPost, "/v1/reload", struct{}{}, &s)
}

// RevokeCredentials takes the container's tokens away.
func (c *Client) RevokeCredentials(ctx context.Context, r Revocation) (out Revoked, err error) {
	err = c.call(ctx, http.MethodPost, "/v1/revoke", r, &out)
	return out, err
}

// RotateGateToken replaces the token of the task's gate.
func (c *Client) RotateGateToken(ctx context.Context, r Rotation) (out Rotated, err error) {
	return out, c.call(ctx, http.MethodPost, "/v1/rotate", r, &out)
}

// Requests lists the requests for a verdict: open ones first, then some that were decided.
func (c *Client) Requests(ctx context.Context) (r []Request, err error) {
	return r, c.call(ctx, http.MethodGet, "/v1/requests", nil, &r)
}

// Verdict answers a request. A refusal is an *Error with one of the codes of VerdictChange; then
// no policy has changed.
func (c *Client) Verdict(ctx context.Context, v VerdictChange) (r Request, err error) {
	return r, c.call(ctx, http.MethodPost, "/v1/verdict", v, &r)
}

// Undo takes the verdict on a request back: its rule goes, and connections that only this rule
// allowed are cut. The request is open again.
func (c *Client) Undo(ctx context.Context, v UndoChange) (r Request, err error) {
	return r, c.call(ctx, http.MethodPost, "/v1/undo", v, &r)
}

// call sends one request and decodes the answer into out.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, requestTimeout)
		defer cancel()
	}
	res, err := c.send(ctx, method, path, in)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxResponse+1))
	if err != nil {
		return fmt.Errorf("control %s: %w", path, err)
	}
	if len(body) > maxResponse {
		return fmt.Errorf("control %s: the answer is larger than %d bytes", path, maxResponse)
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("control %s: %w", path, err)
	}
	return nil
}

// send returns the response of a successful request; the caller closes its body.
func (c *Client) send(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://supervisor"+path, body)
	if err != nil {
		return nil, err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := c.http.Do(req)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w on %s", ErrNoSupervisor, c.socket)
	case err != nil:
		return nil, fmt.Errorf("control %s: %w", path, err)
	case res.StatusCode/100 == 2:
		return res, nil
	}
	defer res.Body.Close()
	refusal := &Error{}
	data, _ := io.ReadAll(io.LimitReader(res.Body, maxRequest))
	if json.Unmarshal(data, refusal) != nil || refusal.Message == "" {
		return nil, fmt.Errorf("control %s: HTTP status %s", path, strings.TrimSpace(res.Status))
	}
	return nil, refusal
}
