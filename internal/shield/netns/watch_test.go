package netns

import (
	"errors"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
