package notify

import (
	"strings"
	"testing"

	"github.com/godbus/dbus/v5"

	"terok/internal/control"
	"terok/internal/sessionbus"
)

func hostileRequest(s string) control.Request {
	return control.Request{ID: "r1", Hash: "abcd", Key: s, Project: s, Task: s, Kind: control.NameMismatch, Host: s, Port: 443, Proto: s, Names: []string{s},
		Risk: []string{s}, Reason: s, Process: s, Count: 5, Choices: []control.Choice{control.ChoiceOnce, control.ChoiceTask, control.ChoiceDeny},
		Decision: &control.Decision{Choice: control.ChoiceTask, Actor: s, Via: s}}
}

// clean is what a notification may hold: printable ASCII, no markup, bounded.
func clean(t *testing.T, c content) {
	t.Helper()
	if len(c.title) > maxTitle || len(c.body) > maxBody {
		t.Errorf("%d and %d bytes", len(c.title), len(c.body))
	}
	for _, r := range c.title + strings.ReplaceAll(c.body, "\n", "") {
		if r < 0x20 || r > 0x7e {
			t.Errorf("%q in %+v", r, c)
		}
	}
	if strings.ContainsAny(c.title, "<>&") || strings.ContainsAny(c.body, "<>") {
		t.Errorf("markup: %+v", c)
	}
	rest := c.body
	for _, entity := range []string{"&amp;", "&lt;", "&gt;"} {
		rest = strings.ReplaceAll(rest, entity, "")
	}
	if strings.Contains(rest, "&") {
		t.Errorf("a cut entity: %q", c.body)
	}
}

// TestHostileBodies is acceptance test 64 for D-Bus.
func TestHostileBodies(t *testing.T) {
	for _, s := range []string{"\x1b[31mred\x1b]0;x\a", "\u202egpj.exe", "<b>bold</b><a href='x'>y</a>", "&&&&&&&&&&", strings.Repeat("<", 10<<10), "a\nb\x00", "\xff", strings.Repeat("ж", 300)} {
		r := hostileRequest(s)
		for _, c := range []content{blocked(r, "", true), blocked(r, s, false), outcome(r)} {
			clean(t, c)
		}
	}
}

// FuzzBody: whatever stands in a request, what is sent is clean, and its buttons are read back as
// what they are.
func FuzzBody(f *testing.F) {
	for _, s := range []string{"a.test", "<b>&lt;", "\x1b[m", "&", strings.Repeat("&", 300), "аррӏе.com"} {
		f.Add(s, "task@abcd")
	}
	f.Fuzz(func(t *testing.T, s, key string) {
		r := hostileRequest(s)
		c := blocked(r, s, true)
		clean(t, c)
		clean(t, outcome(r))
		if choice, hash, ok := clicked(key); ok && (choice == "" || len(hash) > len(key)) {
			t.Errorf("%q: %q %q", key, choice, hash)
		}
	})
}

// TestJudge: owners change when the bus says so; buttons are believed only of the owner.
func TestJudge(t *testing.T) {
	owner := ":1.7"
	signal := func(sender, name string, path dbus.ObjectPath, body ...any) *dbus.Signal {
		return &dbus.Signal{Sender: sender, Name: name, Path: path, Body: body}
	}
	for name, c := range map[string]struct {
		s  *dbus.Signal
		ok bool
	}{
		"a button":           {signal(owner, service+".ActionInvoked", objectPath, uint32(1), "task@x"), true},
		"of another program": {signal(":1.8", service+".ActionInvoked", objectPath, uint32(1), "task@x"), false},
		"by the name":        {signal(service, service+".ActionInvoked", objectPath, uint32(1), "task@x"), false},
		"of another object":  {signal(owner, service+".ActionInvoked", "/x", uint32(1), "task@x"), false},
		"of a wrong type":    {signal(owner, service+".ActionInvoked", objectPath, "1", "task@x"), false},
		"too short":          {signal(owner, service+".ActionInvoked", objectPath, uint32(1)), false},
		"closed":             {signal(owner, service+".NotificationClosed", objectPath, uint32(1), uint32(2)), true},
		"closed by another":  {signal(":1.8", service+".NotificationClosed", objectPath, uint32(1), uint32(2)), false},
		"a new owner":        {signal(busName, busName+".NameOwnerChanged", "/org/freedesktop/DBus", service, owner, ":1.9"), true},
		"a forged owner":     {signal(":1.8", busName+".NameOwnerChanged", "/org/freedesktop/DBus", service, owner, ":1.8"), false},
		"of another name":    {signal(busName, busName+".NameOwnerChanged", "/org/freedesktop/DBus", "org.x", "", ":1.9"), false},
		"another signal":     {signal(owner, service+".ActivationToken", objectPath, uint32(1), "x"), false},
	} {
		b := &bus{owner: owner, acts: true}
		if _, ok := b.judge(c.s); ok != c.ok {
			t.Errorf("%s: %v", name, ok)
		}
	}
	nobody := &bus{}
	if _, ok := nobody.judge(signal("", service+".ActionInvoked", objectPath, uint32(1), "task@x")); ok {
		t.Error("a button without a daemon")
	}
}

func TestSocketOf(t *testing.T) {
	for in, want := range map[string]string{
		"unix:path=/run/user/1000/bus":         "/run/user/1000/bus",
		"unix:guid=1,path=/tmp/a%20b":          "/tmp/a b",
		"tcp:host=x;unix:abstract=/tmp/dbus-1": "@/tmp/dbus-1",
		"unixexec:path=/bin/sh,argv1=x":        "",
		"tcp:host=127.0.0.1,port=1":            "",
		"unix:path=relative":                   "",
		"":                                     "",
		"unix:tmpdir=/tmp":                     "",
	} {
		if got, err := sessionbus.Socket(in); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
}
