package netns

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
)

// TestOwnChangesAreNoAlarm: while many links come up at once, the kernel announces late that ours
// are up; that must not be taken for tampering, which would cut a healthy container off.
func TestOwnChangesAreNoAlarm(t *testing.T) {
	if !inside(t) {
		return
	}
	var group sync.WaitGroup
	for range 200 {
		group.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread is in another namespace and ends
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				t.Error(err)
				return
			}
			f, err := os.Open("/proc/thread-self/ns/net")
			if err != nil {
				t.Error(err)
				return
			}
			defer f.Close()
			s, err := Enter(int(f.Fd()))
			if err != nil {
				t.Error(err)
				return
			}
			defer s.Close()
			// Without the table, which takes long enough to hide the matter on an idle machine.
			if err := s.Do(func() error { return setupLinks(hasIPv6()) }); err != nil {
				t.Error(err)
				return
			}
			w, err := s.Watch()
			if err != nil {
				t.Error(err)
				return
			}
			quiet := time.AfterFunc(1500*time.Millisecond, w.Close) // the kernel's own delay is a second at most
			defer quiet.Stop()
			if what, err := w.Wait(); !errors.Is(err, os.ErrClosed) {
				t.Errorf("%s changed, says the watch: %v", what, err)
			}
		})
	}
	group.Wait()
}

// TestLateLinksAreNoAlarm: links that become operational only once the watch has begun to look.
func TestLateLinksAreNoAlarm(t *testing.T) {
	if !inside(t) {
		return
	}
	s := enter(t)
	if err := s.Do(func() error { return setupLinks(hasIPv6()) }); err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName(sandbox.PeerLink)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetDown(peer); err != nil {
		t.Fatal(err)
	}
	watching := make(chan *Watch, 1)
	go func() {
		var w *Watch
		err := errors.New("never tried")
		for i := 0; i < 5 && err != nil; i++ { // it waits some seconds only, which may pass before the peer is up
			w, err = s.Watch()
		}
		if err != nil {
			t.Error(err)
		}
		watching <- w
	}()
	for deadline := time.Now().Add(30 * time.Second); !listensToLinks(t); runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("nobody listens to changes of links")
		}
	}
	if err := netlink.LinkSetUp(peer); err != nil {
		t.Fatal(err)
	}
	w := <-watching
	if w == nil {
		return
	}
	quiet := time.AfterFunc(1500*time.Millisecond, w.Close)
	defer quiet.Stop()
	if what, err := w.Wait(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("%s changed, says the watch: %v", what, err)
	}
}

// listensToLinks tells whether a socket of this namespace gets notices about links.
func listensToLinks(t *testing.T) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/self/net/netlink")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		// sk Eth Pid Groups …; groups are bits in hexadecimal
		f := strings.Fields(line)
		if len(f) < 4 || f[1] != strconv.Itoa(unix.NETLINK_ROUTE) {
			continue
		}
		if groups, err := strconv.ParseUint(f[3], 16, 32); err == nil && groups&(1<<(unix.RTNLGRP_LINK-1)) != 0 {
			return true
		}
	}
	return false
}
