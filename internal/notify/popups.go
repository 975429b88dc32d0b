package notify

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"terok/internal/clearance/board"
	"terok/internal/control"

	"terok"
)

const (
	// maxPopups bounds the questions on the screen, of all tasks together; one more notification
	// counts the rest.
	maxPopups = 6
	// calm is the least time between two updates of a popup that only counts on.
	calm = 2 * time.Second
)

// shower shows notifications: the bus.
type shower interface {
	notify(ctx context.Context, id uint32, c content) (uint32, error)
	withdraw(ctx context.Context, id uint32)
}

// popups keeps what is on the screen in step with what waits. It is used by one goroutine.
type popups struct {
	show shower
	now  func() time.Time

	shown     map[string]*popup // by target
	dismissed map[string]string // target → id of the request that the person closed
	summary   uint32            // notification id, 0 for none
	counted   int
}

type popup struct {
	id     uint32
	r      control.Request
	c      content
	at     time.Time
	failed string // why the last verdict was not applied
	busy   bool   // a verdict is under way
}

func newPopups(show shower, now func() time.Time) *popups {
	p := &popups{show: show, now: now}
	p.forget()
	return p
}

// forget drops everything: the daemon that showed it is gone, and so are its ids.
func (p *popups) forget() {
	p.shown, p.dismissed, p.summary, p.counted = map[string]*popup{}, map[string]string{}, 0, 0
}

// targetOf names what is asked in which container: one popup each, replaced in place also when the
// supervisor counts its requests anew.
func targetOf(r control.Request) string {
	return fmt.Sprintf("%s\x00%s\x00%s\x00%d\x00%s", r.Key, r.Kind, r.Host, r.Port, r.Proto)
}

// sync makes the screen show s. An error means that the daemon does not do what it is asked.
func (p *popups) sync(ctx context.Context, s terok.RequestState, acts bool) error {
	up := map[string]bool{}
	for _, t := range s.Tasks {
		up[t.Key] = t.Posture == control.Up
	}
	var order []string
	want := map[string]control.Request{}
	for _, r := range s.Open {
		t := targetOf(r)
		if !up[r.Key] || p.dismissed[t] == r.ID {
			continue
		}
		if _, twice := want[t]; !twice {
			order = append(order, t)
		}
		want[t] = r
	}
	if err := p.leave(ctx, s, want); err != nil {
		return err
	}
	for _, t := range order {
		if p.shown[t] == nil && len(p.shown) >= maxPopups {
			continue
		}
		if err := p.put(ctx, t, want[t], acts); err != nil {
			return err
		}
	}
	return p.count(ctx, len(want)-len(p.shown))
}

// leave takes away what does not wait any more: a verdict is shown for a moment, everything else
// just goes.
func (p *popups) leave(ctx context.Context, s terok.RequestState, want map[string]control.Request) error {
	for t, at := range p.dismissed {
		if !slices.ContainsFunc(s.Open, func(r control.Request) bool { return targetOf(r) == t && r.ID == at }) {
			delete(p.dismissed, t)
		}
	}
	for _, t := range slices.Sorted(maps.Keys(p.shown)) {
		if _, stays := want[t]; stays {
			continue
		}
		u := p.shown[t]
		delete(p.shown, t)
		i := slices.IndexFunc(s.Decided, func(d control.Request) bool { return d.Key == u.r.Key && d.ID == u.r.ID })
		if i < 0 || s.Decided[i].State != control.RequestApplied || s.Decided[i].Decision == nil {
			p.show.withdraw(ctx, u.id)
			continue
		}
		if _, err := p.show.notify(ctx, u.id, outcome(s.Decided[i])); err != nil {
			return err
		}
	}
	return nil
}

// put shows one question, or the changes in it.
func (p *popups) put(ctx context.Context, t string, r control.Request, acts bool) error {
	u := p.shown[t]
	if u == nil {
		u = &popup{}
	}
	if u.r.ID != r.ID {
		u.failed, u.busy = "", false
	}
	c := blocked(r, u.failed, acts)
	switch {
	case u.id == 0:
	case c.title == u.c.title && c.body == u.c.body && slices.Equal(c.actions, u.c.actions):
		u.r = r
		return nil
	case slices.Equal(c.actions, u.c.actions) && c.title == u.c.title && p.now().Sub(u.at) < calm:
		return nil // it counts on; the next look shows it
	}
	id, err := p.show.notify(ctx, u.id, c)
	if err != nil {
		return err
	}
	u.id, u.r, u.c, u.at = id, r, c, p.now()
	p.shown[t] = u
	return nil
}

// count keeps the summary of those beyond the cap.
func (p *popups) count(ctx context.Context, n int) error {
	switch {
	case n <= 0 && p.summary != 0:
		p.show.withdraw(ctx, p.summary)
		p.summary, p.counted = 0, 0
	case n > 0 && n != p.counted:
		id, err := p.show.notify(ctx, p.summary, more(n))
		if err != nil {
			return err
		}
		p.summary, p.counted = id, n
	}
	return nil
}

// byID finds the popup with a notification id; its target is "" when there is none.
func (p *popups) byID(id uint32) (string, *popup) {
	for t, u := range p.shown {
		if u.id == id {
			return t, u
		}
	}
	return "", nil
}

// pressed turns a button into what the person decided, if it belongs to what is shown.
func (p *popups) pressed(id uint32, key string) (board.Act, bool) {
	_, u := p.byID(id)
	choice, hash, ok := clicked(key)
	if u == nil || !ok || u.busy || hash != u.r.Hash || !slices.Contains(u.r.Choices, choice) {
		return board.Act{}, false
	}
	u.busy = true
	return board.Act{Request: u.r, Choice: choice}, true
}

// answered takes the result of a verdict. A failure is shown in the popup, which stays.
func (p *popups) answered(act board.Act, err error) {
	u := p.shown[targetOf(act.Request)]
	if u == nil || u.r.ID != act.Request.ID {
		return
	}
	u.busy = false
	if err != nil {
		u.failed = board.ProblemText(err)
	}
}

// closed notes that a notification is gone. A question that the person closed stays away, and
// stays open elsewhere; one that the daemon dropped is shown again.
func (p *popups) closed(id uint32, byHuman bool) {
	if id == p.summary {
		p.summary = 0
		if !byHuman {
			p.counted = 0
		}
	}
	if t, u := p.byID(id); u != nil {
		delete(p.shown, t)
		if byHuman {
			p.dismissed[t] = u.r.ID
		}
	}
}

// clear withdraws everything.
func (p *popups) clear(ctx context.Context) {
	for _, u := range p.shown {
		p.show.withdraw(ctx, u.id)
	}
	if p.summary != 0 {
		p.show.withdraw(ctx, p.summary)
	}
	p.forget()
}
