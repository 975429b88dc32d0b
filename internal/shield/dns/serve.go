package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	readers    = 2                // goroutines on a UDP socket
	streamIdle = 10 * time.Second // for one message over TCP, and between two
	flushEvery = 10 * time.Second
	// readBuffer takes a burst of some thousand queries while the readers wait for a processor;
	// the kernel gives less where net.core.rmem_max is lower. Bytes.
	readBuffer = 2 << 20
)

// ServePacket answers queries on a UDP socket until the context ends (then nil) or the socket
// fails. It closes the socket and returns after every goroutine of its own has ended.
func (r *Resolver) ServePacket(ctx context.Context, c net.PacketConn) error {
	r.prepare()
	if b, ok := c.(interface{ SetReadBuffer(int) error }); ok {
		b.SetReadBuffer(readBuffer) // best effort: a lost query is asked again
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	defer c.Close()
	wg.Go(func() { r.flushUntil(ctx) })
	errs := make(chan error, readers)
	for range readers {
		wg.Go(func() { errs <- r.readPackets(ctx, c, &wg) })
	}
	err := <-errs
	done := ctx.Err() != nil
	cancel()
	if done {
		return nil
	}
	return err
}

// readPackets answers what can be answered at once in place, and leaves the rest to goroutines,
// of which there are no more than places.
func (r *Resolver) readPackets(ctx context.Context, c net.PacketConn, wg *sync.WaitGroup) error {
	buf := make([]byte, maxQuery)
	out := make([]byte, 0, maxReply)
	for {
		n, from, err := readFrom(c, buf)
		if err != nil {
			if isRefused(err) {
				continue // an earlier answer met a closed port
			}
			return err
		}
		a := r.handle(buf[:n], out)
		switch {
		case a.none:
		case a.wait == nil:
			from.send(c, a.wire)
		default:
			wg.Go(func() {
				defer a.leave()
				from.send(c, a.wait(ctx, a.query, a.query.size))
			})
		}
	}
}

// leave gives the place of an answer that had to wait back.
func (a answer) leave() { <-a.place }

// flushUntil writes folded ledger lines while the resolver serves, and the last of them at its end.
func (r *Resolver) flushUntil(ctx context.Context) {
	t := time.NewTicker(flushEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			r.events.flush(r.Now(), true)
			return
		case <-t.C:
			r.events.flush(r.Now(), false)
		}
	}
}

// ServeStream answers queries on TCP connections, as ServePacket does. Connections over the bound
// are closed at once.
func (r *Resolver) ServeStream(ctx context.Context, l net.Listener) error {
	r.prepare()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close()
	places := make(chan struct{}, r.limits.Streams)
	for {
		c, err := l.Accept()
		if err != nil {
			done := ctx.Err() != nil
			cancel()
			if done {
				return nil
			}
			return err
		}
		select {
		case places <- struct{}{}:
			wg.Go(func() {
				defer func() { <-places }()
				r.ServeConn(ctx, c)
			})
		default:
			r.limited("too many TCP connections", r.Now())
			c.Close()
		}
	}
}

// ServeConn answers the queries of one TCP connection, one after the other, and closes it. The
// proxy hands it connections to the resolver's address.
func (r *Resolver) ServeConn(ctx context.Context, c net.Conn) {
	r.prepare()
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	buf := make([]byte, maxQuery)
	out := make([]byte, 0, maxReply)
	for {
		n, err := r.readFrame(ctx, c, buf)
		if err != nil {
			return
		}
		a := r.handle(buf[:n], out)
		wire := a.wire
		switch {
		case a.none:
			return
		case a.wait != nil:
			wire = a.wait(ctx, a.query, maxFrame)
			a.leave()
		}
		frame := binary.BigEndian.AppendUint16(make([]byte, 0, len(wire)+2), uint16(len(wire)))
		if !r.deadline(ctx, c) {
			return
		}
		if _, err := c.Write(append(frame, wire...)); err != nil {
			return
		}
	}
}

const maxFrame = 65535

// deadline gives the next message its time; false when the context has ended, whose own deadline
// must not be undone.
func (r *Resolver) deadline(ctx context.Context, c net.Conn) bool {
	if c.SetDeadline(time.Now().Add(streamIdle)) != nil {
		return false
	}
	return ctx.Err() == nil
}

func (r *Resolver) readFrame(ctx context.Context, c net.Conn, buf []byte) (int, error) {
	if !r.deadline(ctx, c) {
		return 0, context.Canceled
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if n > len(buf) {
		return 0, errors.New("dns: query is too long")
	}
	return io.ReadFull(c, buf[:n])
}
