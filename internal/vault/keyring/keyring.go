// Package keyring is a small client of the freedesktop Secret Service (gnome-keyring, KWallet,
// KeePassXC): it keeps one secret under attributes, reads it and deletes it.
//
// It never opens a prompt unless it is told that a person is there: whether the collection is
// locked is asked first, and a locked one is ErrLocked. Everything without a prompt ends within
// three seconds.
//
// The secret crosses the session bus as it is (algorithm "plain"): the alternative, an exchange of
// 1024 bits, protects from nobody, since whoever can watch the session bus can ask for the secret.
package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"

	"terok/internal/sessionbus"
)

// Errors that callers decide on.
var (
	ErrAbsent = errors.New("no Secret Service answers")
	ErrLocked = errors.New("the keyring is locked")
	ErrNoItem = errors.New("the keyring has no such item")
)

// Secret Service API 0.2.
const (
	service    = "org.freedesktop.secrets"
	root       = dbus.ObjectPath("/org/freedesktop/secrets")
	ifService  = "org.freedesktop.Secret.Service"
	ifItem     = "org.freedesktop.Secret.Item"
	ifColl     = "org.freedesktop.Secret.Collection"
	ifPrompt   = "org.freedesktop.Secret.Prompt"
	noObject   = dbus.ObjectPath("/")
	maxSecret  = 4 << 10
	within     = 3 * time.Second
	promptWait = 2 * time.Minute
)

// Client talks to the service on one bus.
type Client struct {
	Address string // of the session bus; "": there is none
	// Prompt allows the service to ask the person at the screen, for instance for the keyring's
	// password.
	Prompt bool
}

// secret is the service's own struct: session, parameters, value, content type.
type secret struct {
	Session    dbus.ObjectPath
	Parameters []byte
	Value      []byte
	Type       string
}

// conn is one conversation.
type conn struct {
	bus     *dbus.Conn
	session dbus.ObjectPath
	prompt  bool
}

// do runs a conversation within the time there is for it.
func (c Client) do(ctx context.Context, talk func(context.Context, *conn) error) error {
	limit := within
	if c.Prompt {
		limit = promptWait
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if c.Address == "" {
		return fmt.Errorf("%w: there is no session bus", ErrAbsent)
	}
	bus, err := sessionbus.Dial(ctx, c.Address)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	defer bus.Close()
	k := &conn{bus: bus, prompt: c.Prompt}
	var v dbus.Variant
	if err := k.call(ctx, root, ifService+".OpenSession", []any{&v, &k.session}, "plain", dbus.MakeVariant("")); err != nil {
		return fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	err = talk(ctx, k)
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("%w: no answer within %s", ErrAbsent, limit)
	}
	return err
}

func (k *conn) call(ctx context.Context, path dbus.ObjectPath, method string, out []any, args ...any) error {
	call := k.bus.Object(service, path).CallWithContext(ctx, method, 0, args...)
	if call.Err != nil {
		return call.Err
	}
	if out == nil {
		return nil
	}
	return call.Store(out...)
}

// State is the state of the collection that new secrets go to: nil when it is open, ErrLocked or
// ErrAbsent. It never prompts.
func (c Client) State(ctx context.Context) error {
	c.Prompt = false
	return c.do(ctx, func(ctx context.Context, k *conn) error {
		_, err := k.collection(ctx)
		return err
	})
}

// collection is the default collection, unlocked.
func (k *conn) collection(ctx context.Context) (dbus.ObjectPath, error) {
	var coll dbus.ObjectPath
	if err := k.call(ctx, root, ifService+".ReadAlias", []any{&coll}, "default"); err != nil {
		return "", fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	if coll == noObject || !coll.IsValid() {
		return "", fmt.Errorf("%w: it has no default keyring", ErrAbsent)
	}
	v, err := k.bus.Object(service, coll).GetProperty(ifColl + ".Locked")
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	if locked, ok := v.Value().(bool); !ok || locked {
		return coll, k.unlock(ctx, coll)
	}
	return coll, nil
}

// unlock asks the person at the screen, if there is one.
func (k *conn) unlock(ctx context.Context, path dbus.ObjectPath) error {
	if !k.prompt {
		return ErrLocked
	}
	var open []dbus.ObjectPath
	var prompt dbus.ObjectPath
	if err := k.call(ctx, root, ifService+".Unlock", []any{&open, &prompt}, []dbus.ObjectPath{path}); err != nil {
		return fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return k.answer(ctx, prompt)
}

// answer waits until a prompt is over; "/" is none.
func (k *conn) answer(ctx context.Context, prompt dbus.ObjectPath) error {
	if prompt == noObject {
		return nil
	}
	if !k.prompt {
		_ = k.call(ctx, prompt, ifPrompt+".Dismiss", nil)
		return ErrLocked
	}
	signals := make(chan *dbus.Signal, 16)
	k.bus.Signal(signals)
	defer k.bus.RemoveSignal(signals)
	match := []dbus.MatchOption{dbus.WithMatchSender(service), dbus.WithMatchObjectPath(prompt), dbus.WithMatchInterface(ifPrompt), dbus.WithMatchMember("Completed")}
	if err := k.bus.AddMatchSignalContext(ctx, match...); err != nil {
		return err
	}
	if err := k.call(ctx, prompt, ifPrompt+".Prompt", nil, ""); err != nil {
		return err
	}
	for {
		select {
		case s, ok := <-signals:
			if !ok {
				return fmt.Errorf("%w: the bus went away", ErrAbsent)
			}
			if s.Path != prompt || s.Name != ifPrompt+".Completed" || len(s.Body) == 0 {
				continue
			}
			if dismissed, ok := s.Body[0].(bool); !ok || dismissed {
				return fmt.Errorf("%w: the prompt was dismissed", ErrLocked)
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Load returns the secret of the item with attributes; the caller clears it.
func (c Client) Load(ctx context.Context, attributes map[string]string) (value []byte, err error) {
	err = c.do(ctx, func(ctx context.Context, k *conn) error {
		item, err := k.find(ctx, attributes)
		if err != nil {
			return err
		}
		var s secret
		if err := k.call(ctx, item, ifItem+".GetSecret", []any{&s}, k.session); err != nil {
			return fmt.Errorf("%w: %w", ErrNoItem, err)
		}
		if len(s.Value) == 0 || len(s.Value) > maxSecret {
			return fmt.Errorf("%w: what it holds is empty or too long", ErrNoItem)
		}
		value = s.Value
		return nil
	})
	return value, err
}

func (k *conn) find(ctx context.Context, attributes map[string]string) (dbus.ObjectPath, error) {
	var open, locked []dbus.ObjectPath
	if err := k.call(ctx, root, ifService+".SearchItems", []any{&open, &locked}, attributes); err != nil {
		return "", fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	switch {
	case len(open) > 0:
		return open[0], nil
	case len(locked) > 0:
		return locked[0], k.unlock(ctx, locked[0])
	}
	return "", ErrNoItem
}

// Store puts a secret into the default collection; one with the same attributes is replaced.
func (c Client) Store(ctx context.Context, label string, attributes map[string]string, value []byte) error {
	return c.do(ctx, func(ctx context.Context, k *conn) error {
		coll, err := k.collection(ctx)
		if err != nil {
			return err
		}
		properties := map[string]dbus.Variant{ifItem + ".Label": dbus.MakeVariant(label), ifItem + ".Attributes": dbus.MakeVariant(attributes)}
		var item, prompt dbus.ObjectPath
		err = k.call(ctx, coll, ifColl+".CreateItem", []any{&item, &prompt}, properties, secret{k.session, []byte{}, value, "text/plain"}, true)
		if err != nil {
			return fmt.Errorf("store in the keyring: %w", err)
		}
		return k.answer(ctx, prompt)
	})
}

// Delete removes the item with attributes; ErrNoItem when there is none.
func (c Client) Delete(ctx context.Context, attributes map[string]string) error {
	return c.do(ctx, func(ctx context.Context, k *conn) error {
		item, err := k.find(ctx, attributes)
		if err != nil {
			return err
		}
		var prompt dbus.ObjectPath
		if err := k.call(ctx, item, ifItem+".Delete", []any{&prompt}); err != nil {
			return fmt.Errorf("delete from the keyring: %w", err)
		}
		return k.answer(ctx, prompt)
	})
}
