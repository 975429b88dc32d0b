// Package credsd seals secrets with systemd-creds: io.systemd.Credentials over Varlink, the
// service behind systemd-creds(1), since systemd 257 also for unprivileged users. What it seals,
// only the same user on the same machine gets back: it is bound to the TPM where there is one, and
// to the host's key.
//
// It never lets systemd ask anybody: interactive authorisation is refused beforehand.
package credsd

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// DefaultSocket is where systemd listens.
const DefaultSocket = "/run/systemd/io.systemd.Credentials"

const (
	ownName   = "terok-vault"
	within    = 10 * time.Second // a TPM takes its time
	maxReply  = 256 << 10        // bytes
	maxSecret = 4 << 10
)

// ErrAbsent says that no such service listens.
var ErrAbsent = errors.New("systemd-creds is not available")

// Error is a refusal of the service.
type Error struct {
	Name string // "io.systemd.Credentials.BadFormat", …
}

func (e *Error) Error() string {
	short := strings.TrimPrefix(e.Name, "io.systemd.Credentials.")
	if why, ok := reasons[short]; ok {
		return "systemd-creds: " + why
	}
	return fmt.Sprintf("systemd-creds refuses (%.60q)", short)
}

// reasons are the errors that the interface declares, in words.
var reasons = map[string]string{
	"BadFormat":              "the sealed copy is damaged",
	"NameMismatch":           "the sealed copy is of something else",
	"TimeMismatch":           "the sealed copy is not valid at this time",
	"NoSuchUser":             "it does not know this user",
	"BadScope":               "the sealed copy is of another user",
	"KeyBelongsToOtherTPM":   "the sealed copy is of another machine, or its TPM was cleared",
	"TPMInDictionaryLockout": "the TPM is locked for a while after too many failures",
	"UnexpectedPCRState":     "the TPM finds this machine in another state",
	"NullKeyNotAllowed":      "the sealed copy has no key",
}

// Keys are what a seal can be bound to; "" and "auto" leave it to systemd.
var Keys = map[string]string{"auto": "", "tpm": "tpm2", "host": "host", "tpm+host": "host_tpm2"}

// Client talks to the service at Socket.
type Client struct {
	Socket string // "": DefaultSocket
	UID    int    // of the user on the host
	Name   string // of what is sealed, which must be right to unseal it; "": terok's own
}

func (c Client) name() string {
	if c.Name == "" {
		return ownName
	}
	return c.Name
}

func (c Client) socket() string {
	if c.Socket == "" {
		return DefaultSocket
	}
	return c.Socket
}

// Present reports whether a service listens, without asking it anything.
func (c Client) Present() bool {
	st, err := os.Stat(c.socket())
	return err == nil && st.Mode()&os.ModeSocket != 0
}

// Seal returns an opaque blob that only Unseal of the same user on the same machine opens. key is
// one of Keys.
func (c Client) Seal(ctx context.Context, secret []byte, key string) ([]byte, error) {
	if len(secret) == 0 || len(secret) > maxSecret {
		return nil, errors.New("nothing to seal, or too much")
	}
	params := map[string]any{"name": c.name(), "data": secret, "scope": "user", "uid": c.UID}
	if with := Keys[key]; with != "" {
		params["withKey"] = with
	}
	var out struct {
		Blob string `json:"blob"`
	}
	err := c.call(ctx, "Encrypt", params, &out)
	if e, ok := errors.AsType[*Error](err); ok && strings.HasSuffix(e.Name, ".InvalidParameter") && params["withKey"] != nil {
		return nil, errors.New("this systemd cannot be told which key to use")
	}
	if err != nil {
		return nil, err
	}
	if out.Blob == "" {
		return nil, errors.New("systemd-creds sealed nothing")
	}
	return []byte(out.Blob), nil
}

// Unseal returns what was sealed; the caller clears it.
func (c Client) Unseal(ctx context.Context, blob []byte) ([]byte, error) {
	var out struct {
		Data []byte `json:"data"`
	}
	if err := c.call(ctx, "Decrypt", map[string]any{"name": c.name(), "blob": string(blob), "scope": "user", "uid": c.UID}, &out); err != nil {
		return nil, err
	}
	if len(out.Data) == 0 || len(out.Data) > maxSecret {
		return nil, errors.New("systemd-creds unsealed nothing, or too much")
	}
	return out.Data, nil
}

// call is one Varlink exchange (varlink.org): a JSON object and a NUL in either direction.
func (c Client) call(ctx context.Context, method string, params map[string]any, out any) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", c.socket())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	_ = conn.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	msg, err := json.Marshal(map[string]any{"method": "io.systemd.Credentials." + method, "parameters": params})
	if err != nil {
		return err
	}
	defer clear(msg)
	if _, err := conn.Write(append(msg, 0)); err != nil {
		return fmt.Errorf("ask systemd-creds: %w", err)
	}
	reply, err := readMessage(conn)
	defer clear(reply)
	if err != nil {
		return fmt.Errorf("systemd-creds does not answer: %w", err)
	}
	return decodeReply(reply, out)
}

func readMessage(r io.Reader) ([]byte, error) {
	buf := make([]byte, 0, 8<<10)
	for {
		if end := bytes.IndexByte(buf, 0); end >= 0 {
			return buf[:end], nil
		}
		if len(buf) == maxReply {
			return buf, errors.New("the answer is too long")
		}
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(2*cap(buf), maxReply))
			copy(grown, buf)
			clear(buf)
			buf = grown
		}
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if err != nil && n == 0 {
			return buf, err
		}
	}
}

// decodeReply reads an answer; no error quotes it.
func decodeReply(msg []byte, out any) error {
	var reply struct {
		Parameters json.RawMessage `json:"parameters"`
		Error      string          `json:"error"`
		Continues  bool            `json:"continues"`
	}
	if err := json.Unmarshal(msg, &reply); err != nil {
		return errors.New("systemd-creds answers something else than Varlink")
	}
	defer clear(reply.Parameters)
	switch {
	case reply.Error != "":
		return &Error{reply.Error}
	case reply.Continues, len(reply.Parameters) == 0:
		return errors.New("systemd-creds answers something else than was asked")
	}
	if err := json.Unmarshal(reply.Parameters, out); err != nil {
		var bad base64.CorruptInputError
		if errors.As(err, &bad) {
			return errors.New("systemd-creds answers no base64")
		}
		return errors.New("systemd-creds answers something else than was asked")
	}
	return nil
}
