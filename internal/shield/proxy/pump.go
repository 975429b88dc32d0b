package proxy

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	bufferSize   = 32 << 10
	spliceAfter  = 1 << 20                // bytes in one direction before a pipe is worth it
	pipeSize     = 512 << 10              // of one spliced direction; 256 KiB cost a tenth of the throughput
	spliceWindow = 50 * time.Millisecond  // how exactly idleness is measured
	spliceIdle   = 100 * time.Millisecond // a direction that is quiet so long gives its pipe back
)

// pipes limits how many directions splice at once. Pipe pages are charged to the user over all
// processes (pipe(7), /proc/sys/fs/pipe-user-pages-soft), so an idle flow must not keep any.
type pipes struct{ free chan struct{} }

func newPipes(n int) pipes {
	p := pipes{make(chan struct{}, n)}
	for range n {
		p.free <- struct{}{}
	}
	return p
}

func (p *pipes) inUse() int { return cap(p.free) - len(p.free) }

// take makes a pipe; false when all are in use or the kernel refuses.
func (p *pipes) take() (r, w int, ok bool) {
	select {
	case <-p.free:
	default:
		return 0, 0, false
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		p.free <- struct{}{}
		return 0, 0, false
	}
	// Best effort: over the user's soft limit the kernel leaves a small pipe, which still works.
	unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	return fds[0], fds[1], true
}

func (p *pipes) give(r, w int) {
	unix.Close(r)
	unix.Close(w)
	p.free <- struct{}{}
}

// bufferPool lends buffers, which are held only between a read and the write of the same bytes.
type bufferPool struct{ sync.Pool }

func (b *bufferPool) get() *[bufferSize]byte {
	if v, ok := b.Get().(*[bufferSize]byte); ok {
		return v
	}
	return new([bufferSize]byte)
}

// pump copies one direction.
type pump struct {
	p        *Proxy
	dst, src *stream
	tell     func(n int) // bytes that reached dst
	payer    *flow       // whose budgets must have room before bytes are taken from src; nil: nobody's
}

// errIdle says that a spliced direction became quiet.
var errIdle = errors.New("idle")

// run copies until src ends (nil), an error, or limit bytes (negative: no limit); a limited copy
// that ends early is io.ErrUnexpectedEOF. While it waits for src it holds no memory and, but for
// spliceIdle, no pipe.
func (m *pump) run(limit int64) error {
	var done, streak int64
	for limit < 0 || done < limit {
		left := int64(1) << 30
		if limit >= 0 {
			left = limit - done
		}
		if err := m.pay(); err != nil {
			return err
		}
		var n int64
		var err error
		if streak >= spliceAfter && left >= bufferSize {
			n, err = m.spliced(limit, left)
			streak = 0
		} else {
			n, err = m.buffered(left)
			streak += n
		}
		done += n
		switch {
		case err == nil, errors.Is(err, errIdle):
		case errors.Is(err, io.EOF):
			if limit >= 0 && done < limit {
				return io.ErrUnexpectedEOF
			}
			return nil
		default:
			return err
		}
	}
	return nil
}

// buffered moves what src has, at most one buffer.
func (m *pump) buffered(left int64) (int64, error) {
	var buf *[bufferSize]byte
	var n int
	var rerr error
	size := int(min(left, bufferSize))
	err := m.src.raw.Read(func(fd uintptr) bool {
		b := m.p.buffers.get()
		n, rerr = readFD(int(fd), b[:size])
		if rerr == unix.EAGAIN {
			m.p.buffers.Put(b)
			return false
		}
		buf = b
		return true
	})
	if buf != nil {
		defer m.p.buffers.Put(buf)
	}
	switch {
	case err != nil:
		return 0, err
	case rerr != nil:
		return 0, rerr
	case n == 0:
		return 0, io.EOF
	}
	w, err := m.dst.Write(buf[:n])
	m.tell(w)
	return int64(w), err
}

// spliced moves bytes through a pipe until the direction is quiet, ended, or left bytes are moved.
// Without a free pipe it moves one buffer.
func (m *pump) spliced(limit, left int64) (int64, error) {
	r, w, ok := m.p.pipes.take()
	if !ok {
		return m.buffered(left)
	}
	defer m.p.pipes.give(r, w)
	defer m.src.SetReadDeadline(time.Time{})
	var done int64
	var set time.Time
	for done < left || limit < 0 {
		if !m.roomy() { // wait for more without a pipe
			return done, errIdle
		}
		// A deadline instead of a timer per wait: refreshed rarely, so the wait is between
		// spliceIdle and spliceIdle+spliceWindow.
		if now := time.Now(); now.Sub(set) > spliceWindow {
			set = now
			if err := m.src.SetReadDeadline(now.Add(spliceIdle + spliceWindow)); err != nil {
				return done, err
			}
		}
		size := pipeSize
		if limit >= 0 {
			size = int(min(int64(size), left-done))
		}
		var n int
		var serr error
		err := m.src.raw.Read(func(fd uintptr) bool {
			n, serr = spliceFD(int(fd), w, size)
			return serr != unix.EAGAIN
		})
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return done, errIdle
		case err != nil:
			return done, err
		case serr != nil:
			return done, serr
		case n == 0:
			return done, io.EOF
		}
		for n > 0 {
			var k int
			err := m.dst.raw.Write(func(fd uintptr) bool {
				k, serr = spliceFD(r, int(fd), n)
				return serr != unix.EAGAIN
			})
			if err == nil {
				err = serr
			}
			if err != nil {
				return done, err
			}
			n -= k
			done += int64(k)
			m.tell(k)
		}
	}
	return done, nil
}

func readFD(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}

func spliceFD(in, out, n int) (int, error) {
	for {
		k, err := unix.Splice(in, nil, out, nil, n, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
		if err != unix.EINTR {
			return int(k), err
		}
	}
}

// relay copies both directions until both ended, keeping half-close. before, when not nil, runs
// ahead of the client's direction; when it returns a function, the connection is refused: the
// upstream is reset, and the function answers the client.
func (p *Proxy) relay(f *flow, up *stream, before func() (refuse func())) {
	var wg sync.WaitGroup
	var refused atomic.Bool
	wg.Go(func() {
		m := pump{p, f.client, up, func(n int) { p.countDown(f, n) }, nil}
		if err := m.run(-1); !refused.Load() {
			finish(f, f.client, err)
		}
	})
	defer wg.Wait()
	if before != nil {
		if refuse := before(); refuse != nil {
			refused.Store(true)
			up.reset()
			refuse()
			return
		}
	}
	m := pump{p, up, f.client, func(n int) { p.countUp(f, n) }, f}
	finish(f, up, m.run(-1))
}

// finish passes the end of one direction on: an end of stream as such, an error as a reset of both
// halves.
func finish(f *flow, dst *stream, err error) {
	if err == nil {
		err = dst.CloseWrite()
	}
	if err != nil {
		f.cut("")
	}
}
