package relay

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ReadKeys gives fn what the person types at the terminal in, a fresh slice each time, until fn
// returns false or wake, the reading end of a pipe, is closed at its other end. It polls, because a
// read of a terminal cannot be taken back and would eat the person's next key. It reports false
// when the terminal is gone.
func ReadKeys(in, wake *os.File, fn func(keys []byte) bool) bool {
	fds := []unix.PollFd{{Fd: int32(in.Fd()), Events: unix.POLLIN}, {Fd: int32(wake.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return false
		}
		if fds[1].Revents != 0 {
			return true
		}
		if fds[0].Revents == 0 {
			continue
		}
		buf := make([]byte, 4096)
		n, err := unix.Read(int(in.Fd()), buf)
		if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
			continue
		}
		if n <= 0 || err != nil {
			return false
		}
		if !fn(buf[:n]) {
			return true
		}
	}
}
