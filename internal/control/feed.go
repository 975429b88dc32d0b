package control

import (
	"sync"
	"time"
)

// replayLength is how many elements a Feed keeps for a reader that comes back.
const replayLength = 256

// maxWaiting is how many elements wait for a slow reader before it loses its oldest.
const maxWaiting = 256

// Feed is the supervisor's side of the event stream: it numbers elements, keeps the last ones and
// hands them to any number of readers. A slow reader loses its oldest elements and is told how
// many; nobody waits for it.
//
// Numbers begin at the time of NewFeed in microseconds, so that those of a worker that has died
// are never mistaken for its successor's.
type Feed struct {
	mu     sync.Mutex
	seq    uint64
	ring   []feedItem
	subs   map[*feedReader]struct{}
	closed bool
	wg     sync.WaitGroup
}

type feedItem struct {
	seq  uint64
	item StreamItem
}

// NewFeed makes a feed. Close ends its readers.
func NewFeed(now time.Time) *Feed {
	return &Feed{seq: uint64(max(now.UnixMicro(), 1)), subs: map[*feedReader]struct{}{}}
}

// Publish gives the next number to an element and hands it on. A request gets the number as its
// Seq; the number is returned.
func (f *Feed) Publish(item StreamItem) uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seq++
	if item.Request != nil {
		r := *item.Request
		r.Seq = f.seq
		item.Request = &r
	}
	item.Seq = f.seq
	x := feedItem{f.seq, item}
	if len(f.ring) >= replayLength {
		f.ring = append(f.ring[:0], f.ring[1:]...)
	}
	f.ring = append(f.ring, x)
	for s := range f.subs {
		s.add(x)
	}
	return f.seq
}

// Subscribe returns what follows: what was published after since, where that is at hand, and
// everything from now on. seq is the number reached now; replayed tells whether nothing after
// since is missing. stop ends it; the channel is closed then and by Close.
func (f *Feed) Subscribe(since uint64) (items <-chan StreamItem, seq uint64, replayed bool, stop func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := &feedReader{out: make(chan StreamItem), wake: make(chan struct{}, 1), stop: make(chan struct{})}
	if f.closed {
		close(s.out)
		return s.out, f.seq, false, func() {}
	}
	oldest := f.seq + 1
	if len(f.ring) > 0 {
		oldest = f.ring[0].seq
	}
	if replayed = since > 0 && since <= f.seq && since+1 >= oldest; replayed {
		latest := map[string]uint64{}
		for _, x := range f.ring {
			if r := x.item.Request; r != nil {
				latest[r.ID] = x.seq
			}
		}
		for _, x := range f.ring {
			// Of a request only the last state: it was in between in states that hold no more.
			if r := x.item.Request; x.seq > since && (r == nil || latest[r.ID] == x.seq) {
				s.add(x)
			}
		}
	}
	f.subs[s] = struct{}{}
	f.wg.Go(s.run)
	return s.out, f.seq, replayed, func() {
		f.mu.Lock()
		delete(f.subs, s)
		f.mu.Unlock()
		s.end()
	}
}

// Close ends all readers and waits for their goroutines.
func (f *Feed) Close() {
	f.mu.Lock()
	f.closed = true
	for s := range f.subs {
		s.end()
	}
	f.subs = nil
	f.mu.Unlock()
	f.wg.Wait()
}

// feedReader has a goroutine of its own that moves elements from its buffer to the channel.
type feedReader struct {
	out  chan StreamItem
	wake chan struct{} // one token: there is something in the buffer
	stop chan struct{}
	once sync.Once

	mu   sync.Mutex
	buf  []feedItem
	lost uint64
}

func (s *feedReader) end() { s.once.Do(func() { close(s.stop) }) }

func (s *feedReader) add(x feedItem) {
	s.mu.Lock()
	s.buf = append(s.buf, x)
	if over := len(s.buf) - maxWaiting; over > 0 {
		s.lost += uint64(over)
		s.buf = append(s.buf[:0], s.buf[over:]...)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *feedReader) next() (StreamItem, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost > 0 {
		gap := StreamItem{Gap: s.lost}
		s.lost = 0
		return gap, true
	}
	if len(s.buf) == 0 {
		return StreamItem{}, false
	}
	x := s.buf[0]
	s.buf = s.buf[1:]
	return x.item, true
}

func (s *feedReader) run() {
	defer close(s.out)
	for {
		item, ok := s.next()
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-s.stop:
				return
			}
		}
		select {
		case s.out <- item:
		case <-s.stop:
			return
		}
	}
}
