package notify

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/godbus/dbus/v5"

	"terok/internal/sessionbus"
)

// The freedesktop Desktop Notifications specification, version 1.2.
const (
	service     = "org.freedesktop.Notifications"
	objectPath  = dbus.ObjectPath("/org/freedesktop/Notifications")
	busName     = "org.freedesktop.DBus"
	callTimeout = 5 * time.Second
	// neverExpires is expire_timeout 0: a question stays until it is answered.
	neverExpires = int32(0)
	// soon is how long an outcome is shown, in milliseconds.
	soon = int32(5000)
)

// bus is the connection to the session bus and to whoever shows notifications on it.
type bus struct {
	conn    *dbus.Conn
	signals chan *dbus.Signal
	owner   string // unique name of the notification daemon; "" when there is none
	acts    bool   // it shows buttons
}

// dialBus connects to the session bus and to whoever shows notifications on it.
func dialBus(ctx context.Context, address string) (*bus, error) {
	conn, err := sessionbus.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	b := &bus{conn: conn, signals: make(chan *dbus.Signal, 64)}
	if err := b.listen(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("%w: %w", sessionbus.ErrNone, err)
	}
	return b, nil
}

// listen asks for the signals that matter. Nothing here makes them trustworthy: a match rule does
// not keep out what somebody sends to us alone, so ours judges each one.
func (b *bus) listen() error {
	b.conn.Signal(b.signals)
	for _, m := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(busName), dbus.WithMatchInterface(busName), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, service)},
		{dbus.WithMatchSender(service), dbus.WithMatchInterface(service), dbus.WithMatchObjectPath(objectPath)},
	} {
		if err := b.conn.AddMatchSignal(m...); err != nil {
			return err
		}
	}
	return nil
}

func (b *bus) close() { b.conn.Close() }

// call calls a method; out are the places of its results.
func (b *bus) call(ctx context.Context, dest string, path dbus.ObjectPath, method string, out []any, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	c := b.conn.Object(dest, path).CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...)
	if c.Err != nil {
		return c.Err
	}
	return c.Store(out...)
}

// find looks who shows notifications, starting it where the session can.
func (b *bus) find(ctx context.Context) {
	var code uint32
	_ = b.call(ctx, busName, "/org/freedesktop/DBus", busName+".StartServiceByName", []any{&code}, service, uint32(0))
	var owner string
	if b.call(ctx, busName, "/org/freedesktop/DBus", busName+".GetNameOwner", []any{&owner}, service) != nil {
		owner = ""
	}
	b.own(ctx, owner)
}

// own notes a new owner and asks what it can.
func (b *bus) own(ctx context.Context, owner string) {
	b.owner, b.acts = owner, false
	if owner == "" {
		return
	}
	var caps []string
	if err := b.call(ctx, owner, objectPath, service+".GetCapabilities", []any{&caps}); err == nil {
		b.acts = slices.Contains(caps, "actions")
	}
}

// notify shows c in place of the notification id (0: a new one) and returns the id it has now.
func (b *bus) notify(ctx context.Context, id uint32, c content) (uint32, error) {
	urgency, expires := byte(1), neverExpires
	if c.urgent {
		urgency = 2
	}
	hints := map[string]dbus.Variant{
		"urgency":       dbus.MakeVariant(urgency),
		"category":      dbus.MakeVariant("network"),
		"desktop-entry": dbus.MakeVariant("terok"),
	}
	if c.transient {
		hints["transient"], expires = dbus.MakeVariant(true), soon
	} else {
		hints["resident"] = dbus.MakeVariant(true)
	}
	acts := c.actions
	if acts == nil {
		acts = []string{}
	}
	var got uint32
	// To the unique name: a successor must not get what was meant for this one's ids.
	err := b.call(ctx, b.owner, objectPath, service+".Notify", []any{&got}, "terok", id, "security-high", c.title, c.body, acts, hints, expires)
	return got, err
}

func (b *bus) withdraw(ctx context.Context, id uint32) {
	_ = b.call(ctx, b.owner, objectPath, service+".CloseNotification", nil, id)
}

// event is a signal that was judged.
type event struct {
	owner   *string // there is another daemon now, or none ("")
	id      uint32
	action  string // pressed; "" when the notification was closed
	closed  bool
	byHuman bool
}

// judge turns a signal into an event, or refuses it: owners change when the bus says so, and what
// happens to notifications is believed only of the daemon that owns the name now.
func (b *bus) judge(s *dbus.Signal) (event, bool) {
	switch s.Name {
	case busName + ".NameOwnerChanged":
		var name, old, now string
		if s.Sender != busName || dbus.Store(s.Body, &name, &old, &now) != nil || name != service {
			return event{}, false
		}
		return event{owner: &now}, true
	case service + ".ActionInvoked":
		var id uint32
		var key string
		if !b.fromOwner(s) || dbus.Store(s.Body, &id, &key) != nil || key == "" {
			return event{}, false
		}
		return event{id: id, action: key}, true
	case service + ".NotificationClosed":
		var id, reason uint32
		if !b.fromOwner(s) || dbus.Store(s.Body, &id, &reason) != nil {
			return event{}, false
		}
		return event{id: id, closed: true, byHuman: reason == 2}, true
	}
	return event{}, false
}

func (b *bus) fromOwner(s *dbus.Signal) bool {
	return b.owner != "" && s.Sender == b.owner && s.Path == objectPath
}
