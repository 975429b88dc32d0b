package dns

import (
	"sync"
	"time"

	"terok/internal/audit"
)

// bucket is a token bucket over a clock that is given, so that tests need not wait.
type bucket struct {
	mu   sync.Mutex
	rate float64 // tokens per second
	max  float64
	have float64
	last time.Time
}

func newBucket(rate float64, burst int, now time.Time) *bucket {
	return &bucket{rate: rate, max: float64(burst), have: float64(burst), last: now}
}

// take takes n tokens if there are as many.
func (b *bucket) take(n int, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if d := now.Sub(b.last); d > 0 {
		b.have = min(b.max, b.have+d.Seconds()*b.rate)
	}
	b.last = now
	if b.have < float64(n) {
		return false
	}
	b.have -= float64(n)
	return true
}

const (
	foldTime  = 30 * time.Second // one line per event and name
	limitFold = 5 * time.Minute  // one line per limit and kind of malformed message
	maxFolds  = 1024             // names remembered for that
)

// folder writes ledger lines at a bounded rate: the first of its kind at once, repetitions and
// what is over the rate later, as one line with a count. Nothing is lost from the counts.
type folder struct {
	rec   audit.Recorder
	lines int // per minute

	mu     sync.Mutex
	folds  map[string]*fold
	minute time.Time
	used   int
	over   map[string]uint64 // by event name
}

type fold struct {
	event audit.Event
	until time.Time
	count uint64 // since the line
}

func newFolder(rec audit.Recorder, lines int) *folder {
	return &folder{rec: rec, lines: lines, folds: map[string]*fold{}, over: map[string]uint64{}}
}

// add records an event under a key; events with the same key are folded for a time.
func (f *folder) add(e audit.Event, key string, now time.Time, span time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key = e.Ev + " " + key
	if old := f.folds[key]; old != nil {
		if now.Before(old.until) {
			old.count++
			return
		}
		f.close(key, old)
	}
	if now.Sub(f.minute) >= time.Minute {
		f.minute, f.used = now, 0
	}
	if f.used >= f.lines || len(f.folds) >= maxFolds {
		f.over[e.Ev]++
		return
	}
	f.used++
	f.folds[key] = &fold{event: e, until: now.Add(span)}
	f.rec.Record(e)
}

// close ends a fold and records what came after its line.
func (f *folder) close(key string, old *fold) {
	delete(f.folds, key)
	if old.count > 0 {
		old.event.Count = old.count
		f.rec.Record(old.event)
	}
}

// flush records what is folded and over; with all, also folds that are still open.
func (f *folder) flush(now time.Time, all bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, old := range f.folds {
		if all || !now.Before(old.until) {
			f.close(key, old)
		}
	}
	if !all && now.Sub(f.minute) < time.Minute {
		return
	}
	for ev, n := range f.over {
		f.rec.Record(audit.Event{Ev: ev, Actor: "workload", Count: n, Reason: "folded: too many different names for a line each"})
		delete(f.over, ev)
	}
}
