// Package daemon is a notification daemon for tests: it owns org.freedesktop.Notifications on a
// private session bus, writes down what it is asked to show, and presses buttons.
package daemon

import (
	"errors"
	"slices"
	"sync"

	"github.com/godbus/dbus/v5"
)

const (
	service = "org.freedesktop.Notifications"
	path    = dbus.ObjectPath("/org/freedesktop/Notifications")
)

// Popup is one notification as it was asked for.
type Popup struct {
	ID, Replaces uint32
	App, Icon    string
	Title, Body  string
	Actions      []string
	Hints        map[string]dbus.Variant
	Expires      int32
}

// Daemon owns the name until Close.
type Daemon struct {
	conn *dbus.Conn
	caps []string

	mu     sync.Mutex
	next   uint32
	shown  map[uint32]Popup
	calls  []Popup
	failed error
}

// Start takes the name on the bus at address.
func Start(address string, caps ...string) (*Daemon, error) {
	conn, err := dbus.Connect(address)
	if err != nil {
		return nil, err
	}
	d := &Daemon{conn: conn, caps: caps, shown: map[uint32]Popup{}}
	if err := conn.Export(d, path, service); err != nil {
		conn.Close()
		return nil, err
	}
	reply, err := conn.RequestName(service, dbus.NameFlagDoNotQueue)
	if err == nil && reply != dbus.RequestNameReplyPrimaryOwner {
		err = errors.New("somebody owns the name")
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return d, nil
}

// Close leaves the bus; the name goes with it.
func (d *Daemon) Close() { d.conn.Close() }

// Fail makes every call of Notify fail from now on; nil ends that.
func (d *Daemon) Fail(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failed = err
}

// GetCapabilities is the method of the specification, as the following are.
func (d *Daemon) GetCapabilities() ([]string, *dbus.Error) { return d.caps, nil }

// Notify shows or replaces a notification.
func (d *Daemon) Notify(app string, replaces uint32, icon, title, body string, actions []string, hints map[string]dbus.Variant, expires int32) (uint32, *dbus.Error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return 0, dbus.MakeFailedError(d.failed)
	}
	id := replaces
	if id == 0 {
		d.next++
		id = d.next
	}
	p := Popup{id, replaces, app, icon, title, body, actions, hints, expires}
	d.shown[id] = p
	d.calls = append(d.calls, p)
	return id, nil
}

// CloseNotification takes one away.
func (d *Daemon) CloseNotification(id uint32) *dbus.Error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.shown, id)
	return nil
}

// Shown are the notifications on the screen, by id.
func (d *Daemon) Shown() []Popup {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []Popup
	for _, p := range d.shown {
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b Popup) int { return int(a.ID) - int(b.ID) })
	return out
}

// Calls are all calls of Notify.
func (d *Daemon) Calls() []Popup {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// Press presses a button.
func (d *Daemon) Press(id uint32, action string) error {
	return d.conn.Emit(path, service+".ActionInvoked", id, action)
}

// Dismiss closes a notification as the person would.
func (d *Daemon) Dismiss(id uint32) error {
	_ = d.CloseNotification(id)
	return d.conn.Emit(path, service+".NotificationClosed", id, uint32(2))
}
