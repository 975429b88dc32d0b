package audit

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"terok/internal/state"
)

// Identity is written into every event of a ledger that does not carry its own.
type Identity struct {
	Project string
	Task    string
	Sandbox string // sandbox key
}

// Options of a ledger; the zero value is right outside tests.
type Options struct {
	Queue   int              // events that may wait to be written; 0: 4096
	MaxSize int64            // bytes at which the file is rotated; 0: 10 MiB
	Keep    int              // rotated files kept; 0: 5
	Now     func() time.Time // nil: time.Now

	// OnFailure is called from the ledger's goroutine with the error when writing begins to fail,
	// and with nil when it works again. It must not block and not call the ledger.
	OnFailure func(error)
}

// Ledger writes one ledger file. It is a Recorder; its goroutine ends with Close.
type Ledger struct {
	identity Identity
	opts     Options
	chain    *chain
	unlock   func()
	queue    chan item
	stop     chan struct{} // closed by Close
	done     chan struct{} // closed when the goroutine has ended
	once     sync.Once
	closeErr error
	lost     atomic.Uint64 // since the ledger was opened
	told     uint64        // of lost, already recorded; goroutine only
	seq      atomic.Uint64
	failing  bool // goroutine only
	feed     feed
}

// item is an event, or a flush that wants to be told.
type item struct {
	event Event
	flush chan error
}

// maxBatch bounds one write.
const maxBatch = 256

// retryEvery is how often writing is tried again after it failed, also when nothing happens.
const retryEvery = time.Second

// Open opens or makes the ledger at path and becomes its writer. It fails with state.ErrLocked
// while another process writes it.
func Open(path string, identity Identity, opts Options) (*Ledger, error) {
	if opts.Queue <= 0 {
		opts.Queue = 4096
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	unlock, err := state.TryLock(path)
	if err != nil {
		return nil, fmt.Errorf("ledger: %w", err)
	}
	c, notes, err := openChain(path, opts)
	if err != nil {
		unlock()
		return nil, fmt.Errorf("ledger %s: %w", path, err)
	}
	l := &Ledger{identity: identity, opts: opts, chain: c, unlock: unlock,
		queue: make(chan item, opts.Queue), stop: make(chan struct{}), done: make(chan struct{})}
	l.seq.Store(c.seq)
	for i := range notes {
		l.fill(&notes[i])
	}
	go l.run(notes)
	return l, nil
}

// Record queues an event. When the queue is full or the ledger closed, the event is counted as lost.
func (l *Ledger) Record(e Event) {
	l.fill(&e)
	e.Detail = maps.Clone(e.Detail) // the caller may go on using its map
	select {
	case <-l.stop:
		l.lost.Add(1)
		return
	default:
	}
	select {
	case l.queue <- item{event: e}:
	default:
		l.lost.Add(1)
	}
}

func (l *Ledger) fill(e *Event) {
	if e.TS.IsZero() {
		e.TS = l.opts.Now()
	}
	stamp(e, e.TS)
	if e.Project == "" && e.Task == "" && e.Sandbox == "" {
		e.Project, e.Task, e.Sandbox = l.identity.Project, l.identity.Task, l.identity.Sandbox
	}
}

// Lost is how many events could not be written since Open.
func (l *Ledger) Lost() uint64 { return l.lost.Load() }

// Seq is the sequence number of the last line written.
func (l *Ledger) Seq() uint64 { return l.seq.Load() }

// Flush waits until everything recorded before it is written and synced to disk.
func (l *Ledger) Flush(ctx context.Context) error {
	ack := make(chan error, 1)
	select {
	case l.queue <- item{flush: ack}:
	case <-l.stop:
		return errors.New("ledger: closed")
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-ack:
		return err
	case <-l.done:
		select {
		case err := <-ack:
			return err
		default:
			return errors.New("ledger: closed")
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close writes what is queued, syncs and lets the lock go. Subscribers' channels are closed.
func (l *Ledger) Close() error {
	l.once.Do(func() {
		close(l.stop)
		<-l.done
		l.feed.close()
		l.closeErr = l.chain.close()
		l.unlock()
	})
	return l.closeErr
}

// Subscribe returns a channel of the events from now on, as written (those that could not be
// written come with Seq 0). Up to buffer events wait for a slow reader; then the oldest go, and
// an event with Ev "gap" and their Count stands in their place. cancel ends the subscription;
// the channel is closed then and by Close.
func (l *Ledger) Subscribe(buffer int) (events <-chan Event, cancel func()) {
	return l.feed.subscribe(buffer)
}

// run is the writer: it takes what is queued, up to maxBatch at a time, and writes it at once.
func (l *Ledger) run(batch []Event) {
	defer close(l.done)
	var flushes []chan error
	write := func() {
		err := l.write(batch)
		for _, ack := range flushes {
			if err == nil {
				err = l.chain.f.Sync()
			}
			ack <- err
		}
		batch, flushes = batch[:0], nil
	}
	take := func(it item) {
		if it.flush != nil {
			flushes = append(flushes, it.flush)
			return
		}
		batch = append(batch, it.event)
	}
	if len(batch) > 0 {
		write()
	}
	retry := time.NewTicker(retryEvery)
	defer retry.Stop()
	for {
		var again <-chan time.Time
		if l.failing {
			again = retry.C
		}
		select {
		case it := <-l.queue:
			take(it)
		case <-again:
		case <-l.stop:
			for { // what was recorded before Close
				select {
				case it := <-l.queue:
					take(it)
				default:
					write()
					return
				}
			}
		}
	fill:
		for len(batch) < maxBatch {
			select {
			case it := <-l.queue:
				take(it)
			default:
				break fill
			}
		}
		write()
	}
}

// write appends a batch, tells of losses before it, and feeds the subscribers.
func (l *Ledger) write(batch []Event) error {
	if lost := l.lost.Load(); lost > l.told {
		note := Event{Ev: EvLost, Actor: "auto", Count: lost - l.told}
		l.fill(&note)
		batch = append([]Event{note}, batch...)
	}
	if len(batch) == 0 {
		return nil
	}
	err := l.chain.append(batch)
	if err != nil {
		for i := range batch {
			batch[i].Seq, batch[i].Prev = 0, ""
			if batch[i].Ev != EvLost {
				l.lost.Add(1)
			}
		}
	} else {
		for i := range batch {
			if batch[i].Ev == EvLost {
				l.told += batch[i].Count
			}
		}
		l.seq.Store(l.chain.seq)
	}
	if failing := err != nil; failing != l.failing {
		if l.failing = failing; failing {
			loud := Event{V: Schema, Ev: EvFailed, Actor: "auto", Reason: err.Error()}
			l.fill(&loud)
			l.feed.publish([]Event{loud})
		}
		if l.opts.OnFailure != nil {
			l.opts.OnFailure(err)
		}
	}
	l.feed.publish(batch)
	return err
}
