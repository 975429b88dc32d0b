package audit

import "sync"

// feed hands events to subscribers; a slow one loses its oldest events, never the writer's time.
type feed struct {
	mu     sync.Mutex
	subs   map[*subscriber]struct{}
	closed bool
	wg     sync.WaitGroup
}

// subscriber has a goroutine of its own that moves events from the buffer to the channel.
type subscriber struct {
	out  chan Event
	wake chan struct{} // one token: there is something in the buffer
	stop chan struct{}
	once sync.Once

	mu      sync.Mutex
	buf     []Event
	max     int
	dropped uint64
}

func (f *feed) subscribe(buffer int) (<-chan Event, func()) {
	s := &subscriber{out: make(chan Event), wake: make(chan struct{}, 1), stop: make(chan struct{}), max: max(buffer, 1)}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		close(s.out)
		return s.out, func() {}
	}
	if f.subs == nil {
		f.subs = map[*subscriber]struct{}{}
	}
	f.subs[s] = struct{}{}
	f.wg.Go(s.run)
	return s.out, func() {
		f.mu.Lock()
		delete(f.subs, s)
		f.mu.Unlock()
		s.end()
	}
}

func (f *feed) publish(events []Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		s.add(events)
	}
}

// close ends all subscriptions and waits for their goroutines.
func (f *feed) close() {
	f.mu.Lock()
	f.closed = true
	for s := range f.subs {
		s.end()
	}
	f.subs = nil
	f.mu.Unlock()
	f.wg.Wait()
}

func (s *subscriber) end() { s.once.Do(func() { close(s.stop) }) }

func (s *subscriber) add(events []Event) {
	s.mu.Lock()
	s.buf = append(s.buf, events...)
	if over := len(s.buf) - s.max; over > 0 {
		s.dropped += uint64(over)
		s.buf = append(s.buf[:0], s.buf[over:]...)
	}
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// next takes the oldest waiting event, or the gap before it.
func (s *subscriber) next() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dropped > 0 {
		gap := Event{V: Schema, Ev: EvGap, Count: s.dropped}
		s.dropped = 0
		return gap, true
	}
	if len(s.buf) == 0 {
		return Event{}, false
	}
	e := s.buf[0]
	s.buf = s.buf[1:]
	return e, true
}

func (s *subscriber) run() {
	defer close(s.out)
	for {
		e, ok := s.next()
		if !ok {
			select {
			case <-s.wake:
				continue
			case <-s.stop:
				return
			}
		}
		select {
		case s.out <- e:
		case <-s.stop:
			return
		}
	}
}
