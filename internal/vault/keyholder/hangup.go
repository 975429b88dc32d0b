package keyholder

import (
	"context"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

// hungUp waits until the other end of conn is gone or ctx ends. It never reads: the messages
// belong to the worker, which shares the socket. The runtime's poller wakes it for every message
// as well as for the hang-up, so each time the socket itself is asked.
func hungUp(ctx context.Context, conn *net.UnixConn) {
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(fds, 0)
		return err != nil && err != unix.EINTR || n > 0
	})
}
