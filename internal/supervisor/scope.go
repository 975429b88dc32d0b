package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

// A supervisor starts in the control group of whatever started the container: a login session
// that ends takes it along, and its memory counts as the container's. Where the operator's own
// systemd can be reached, both processes move into a scope of their own. This is placement and no
// guard: without a bus everything works, and status shows no scope.
const (
	scopePrefix = "terok-"
	scopeWithin = 5 * time.Second

	// scopeHigh and scopeMax bound the memory of parent, worker and the gate's git together, in
	// bytes: the kernel reclaims above the first and kills at the second.
	scopeHigh = 512 << 20
	scopeMax  = 1 << 30
	// scopeWeight is half of the default: under load the container's own work and the person's
	// go first.
	scopeWeight = 50
)

// scopeUnit names the scope of a supervisor; one that is still ending has another.
func scopeUnit(key string, parent int) string {
	return fmt.Sprintf("%s%s-%d.scope", scopePrefix, key, parent)
}

// ScopeMain is `terok supervise-scope UNIT PID...`: it asks systemd to move the processes. It is a
// process of its own, which ends at once, so that the parent talks to nobody.
func ScopeMain(args []string) int {
	if len(args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: terok supervise-scope UNIT PID...")
		return 2
	}
	var pids []uint32
	for _, a := range args[1:] {
		n, err := strconv.ParseUint(a, 10, 32)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 2
		}
		pids = append(pids, uint32(n))
	}
	uid, err := userID()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), scopeWithin)
	defer cancel()
	if err := enterScope(ctx, "unix:path="+userBus(uid), uid, args[0], pids); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// userBus is the socket of the operator's session bus, where logind puts it.
func userBus(uid uint64) string { return fmt.Sprintf("/run/user/%d/bus", uid) }

func userID() (uint64, error) {
	data, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return 0, err
	}
	return hostUID(data, os.Getuid())
}

// hostUID is our uid as processes of the operator's session have it: D-Bus compares the uid that
// we name with the one that the kernel tells the bus (user_namespaces(7)).
func hostUID(uidMap []byte, uid int) (uint64, error) {
	for line := range strings.Lines(string(uidMap)) {
		var inside, outside, count uint64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err != nil {
			return 0, fmt.Errorf("uid_map has the line %q", line)
		}
		if n := uint64(uid); n >= inside && n-inside < count {
			return outside + n - inside, nil
		}
	}
	return 0, errors.New("our uid is not in uid_map")
}

// enterScope asks the systemd at address for a transient scope with the processes and returns
// when it has made it (org.freedesktop.systemd1(5), StartTransientUnit).
func enterScope(ctx context.Context, address string, uid uint64, unit string, pids []uint32) error {
	conn, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("no user bus: %w", err)
	}
	defer conn.Close()
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.FormatUint(uid, 10))}); err != nil {
		return fmt.Errorf("the user bus: %w", err)
	}
	if err := conn.Hello(); err != nil {
		return fmt.Errorf("the user bus: %w", err)
	}
	const place, manager = "org.freedesktop.systemd1", "org.freedesktop.systemd1.Manager"
	done := make(chan *dbus.Signal, 16)
	conn.Signal(done)
	if err := conn.AddMatchSignalContext(ctx, dbus.WithMatchSender(place), dbus.WithMatchInterface(manager), dbus.WithMatchMember("JobRemoved")); err != nil {
		return fmt.Errorf("the user bus: %w", err)
	}
	type property struct {
		Name  string
		Value dbus.Variant
	}
	type auxiliary struct {
		Name       string
		Properties []property
	}
	systemd := conn.Object(place, "/org/freedesktop/systemd1")
	// JobRemoved comes to subscribers only.
	if err := systemd.CallWithContext(ctx, manager+".Subscribe", 0).Err; err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	var job dbus.ObjectPath
	err = systemd.CallWithContext(ctx, manager+".StartTransientUnit", 0, unit, "fail", []property{
		{"Description", dbus.MakeVariant("terok supervisor " + strings.TrimSuffix(strings.TrimPrefix(unit, scopePrefix), ".scope"))},
		{"PIDs", dbus.MakeVariant(pids)},
		{"MemoryHigh", dbus.MakeVariant(uint64(scopeHigh))},
		{"MemoryMax", dbus.MakeVariant(uint64(scopeMax))},
		{"CPUWeight", dbus.MakeVariant(uint64(scopeWeight))},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}, []auxiliary{}).Store(&job)
	if err != nil {
		return fmt.Errorf("systemd: %w", err)
	}
	for {
		select {
		case s := <-done:
			if s == nil {
				return errors.New("the user bus went away")
			}
			if len(s.Body) == 4 && s.Name == manager+".JobRemoved" && s.Body[1] == job {
				if s.Body[3] != "done" {
					return fmt.Errorf("systemd ends the job with %v", s.Body[3])
				}
				return nil
			}
		case <-ctx.Done():
			return fmt.Errorf("systemd did not answer: %w", ctx.Err())
		}
	}
}

// ownScopeFor moves the parent and a worker into a scope of their own, in the background: the
// container runs already. Later workers are born there.
func (p *parent) ownScopeFor(ctx context.Context, workerPID int) {
	uid, err := userID()
	if err != nil {
		return
	}
	if _, err := os.Lstat(userBus(uid)); err != nil {
		return // no session: nothing to ask
	}
	unit := scopeUnit(p.hand.File.Key, os.Getpid())
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "supervise-scope", unit, strconv.Itoa(os.Getpid()), strconv.Itoa(workerPID))
	cmd.Args[0] = "terok"
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	var said strings.Builder
	cmd.Stderr = &said
	cmd.WaitDelay = time.Second
	// Not tied to the thread that starts it, as workers are: that is not the main one here.
	cmd.SysProcAttr = &syscall.SysProcAttr{}
	if err := cmd.Run(); err != nil && ctx.Err() == nil {
		log.Printf("no scope of its own: %s (%v)", strings.TrimSpace(said.String()), err)
	}
}
