package state

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("locked by another terok process")

// Lock takes the exclusive lock of path (the file path+".lock") and waits for it.
// The lock ends with unlock or with the process, so a kill -9 leaves none behind.
func Lock(path string) (unlock func(), err error) { return lock(path, unix.LOCK_EX) }

// TryLock is Lock that does not wait: it fails with ErrLocked.
func TryLock(path string) (unlock func(), err error) {
	return lock(path, unix.LOCK_EX|unix.LOCK_NB)
}

// TryLockShared is TryLock for those who only keep an exclusive holder away; any number may hold it.
func TryLockShared(path string) (unlock func(), err error) {
	return lock(path, unix.LOCK_SH|unix.LOCK_NB)
}

// LockFor is Lock that gives up with ErrLocked after wait.
func LockFor(path string, wait time.Duration) (unlock func(), err error) {
	deadline := time.Now().Add(wait)
	for {
		unlock, err = TryLock(path)
		if !errors.Is(err, ErrLocked) || time.Now().After(deadline) {
			return unlock, err
		}
		time.Sleep(2 * time.Millisecond) // flock(2) has no timeout
	}
}

// TryLockFile is TryLock that hands out the file which holds the lock, for a process that keeps it
// over exec(2). Closing it ends the lock.
func TryLockFile(path string) (*os.File, error) { return lockFile(path, unix.LOCK_EX|unix.LOCK_NB) }

func lock(path string, how int) (func(), error) {
	f, err := lockFile(path, how)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

func lockFile(path string, how int) (*os.File, error) {
	if err := MkdirAll(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}
