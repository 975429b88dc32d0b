package board

import (
	"context"
	"sync"
	"time"

	"terok/internal/clearance/watch"
	"terok/internal/control"
)

// Feed is where requests come from: a watch.Watch.
type Feed interface {
	State() watch.State
	Changed() <-chan struct{}
}

// Answer carries an act out and returns the request as it is then.
type Answer func(ctx context.Context, a Act) (control.Request, error)

// Desk is a Board with its source and its verdicts: acts are carried out beside the person, who
// goes on reading. Board's methods are called by one goroutine, which is told by Changed when to
// call Refresh and to draw again.
type Desk struct {
	*Board
	source  Feed
	answer  Answer
	changed chan struct{}
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	results []result
}

type result struct {
	act Act
	got control.Request
	err error
}

// NewDesk joins them; Close ends it.
func NewDesk(ctx context.Context, b *Board, source Feed, answer Answer) *Desk {
	d := &Desk{Board: b, source: source, answer: answer, changed: make(chan struct{}, 1)}
	d.ctx, d.cancel = context.WithCancel(ctx)
	d.wg.Go(d.run)
	return d
}

// run passes changes on, and a tick each second for ages and clocks.
func (d *Desk) run() {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-d.ctx.Done():
			return
		case <-d.source.Changed():
		case <-tick.C:
		}
		d.tell()
	}
}

func (d *Desk) tell() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// Changed holds one token when Refresh has something to do.
func (d *Desk) Changed() <-chan struct{} { return d.changed }

// Refresh takes over what arrived.
func (d *Desk) Refresh() {
	d.mu.Lock()
	results := d.results
	d.results = nil
	d.mu.Unlock()
	d.Update(d.source.State())
	for _, r := range results {
		d.Answered(r.act, r.got, r.err)
	}
}

// Keys handles the first key in p and returns how many bytes it had.
func (d *Desk) Keys(p []byte) (int, Then) {
	k, n := ParseKey(p)
	act, then := d.Press(k)
	if act != nil {
		a := *act
		d.wg.Go(func() {
			got, err := d.answer(d.ctx, a)
			d.mu.Lock()
			d.results = append(d.results, result{a, got, err})
			d.mu.Unlock()
			d.tell()
		})
	}
	return n, then
}

// Close ends what is under way and waits for it.
func (d *Desk) Close() {
	d.cancel()
	d.wg.Wait()
}
