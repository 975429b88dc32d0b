// Package board is what a person sees of requests and what each key does, for every terminal: the
// menu of an attached task and terok clearance draw the same board.
//
// It guarantees: nothing is printed but printable ASCII of bounded length; a verdict key acts
// only on a request that has been selected and on the screen for a moment, unchanged; a request
// that somebody else answered takes the selection with it, so that the next key hits no other;
// what reaches further than this task asks once more; the whole name is on the screen before it
// can be answered, or the board says that it is cut.
package board

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"terok/internal/clearance/watch"
	"terok/internal/control"
)

const (
	// lookFirst is how long a request must have been on the screen before a verdict key acts:
	// a key pressed at what stood there before must not answer what came instead.
	lookFirst = 400 * time.Millisecond
	maxFilter = 64

	// UndoWithin is how long a verdict can be taken back.
	UndoWithin = 10 * time.Second
)

// Act is what a person decided: a verdict on Request, or taking the last one back.
type Act struct {
	Request control.Request
	Choice  control.Choice
	Undo    bool
}

// Then is what becomes of the board after a key.
type Then uint8

// What a key leads to.
const (
	Stay    Then = iota
	Leave        // close the board
	Detach       // leave the task's terminal; menu only
	Forward      // give the reserved key to the container; menu only
)

type mode uint8

const (
	listing mode = iota
	details
	asking // for a second key
	filtering
	helping
)

// Board is the model. It is not safe for concurrent use.
type Board struct {
	own  string // the key of the attached task: a menu; "" is the screen of all tasks
	name string // title
	now  func() time.Time

	state  watch.State
	rows   []control.Request // that pass own and filter
	others int               // open requests of other tasks, menu only

	mode   mode
	filter string
	sel    string // row id
	seen   struct {
		hash string
		at   time.Time // zero: not painted yet
	}
	lost  bool // the selected request went away; only moving selects again
	ask   control.Choice
	note  string
	busy  map[string]bool // row ids whose verdict is under way
	last  *Act            // that can be undone
	since time.Time       // of last
}

// New makes a board. own is the key of the attached task for a menu, "" for all tasks; name is
// shown in the title.
func New(own, name string, now func() time.Time) *Board {
	return &Board{own: own, name: name, now: now, busy: map[string]bool{}}
}

func rowID(r control.Request) string { return r.Key + "\x00" + r.ID }

// Update takes what is known now.
func (b *Board) Update(s watch.State) {
	b.state = s
	had := len(b.rows) > 0
	b.rows, b.others = b.rows[:0:0], 0
	for _, r := range s.Open {
		switch {
		case b.own != "" && r.Key != b.own:
			b.others++
		case b.filter == "" || strings.Contains(strings.ToLower(Task(r)+" "+Target(r)), b.filter):
			b.rows = append(b.rows, r)
		}
	}
	if b.sel != "" && b.at() < 0 {
		for _, d := range s.Decided {
			if rowID(d) == b.sel {
				b.note = Target(d) + ": " + Outcome(d)
			}
		}
		b.sel, b.lost = "", true
		if b.mode == asking || b.mode == details {
			b.mode = listing
		}
	}
	if b.sel == "" && !b.lost && !had && len(b.rows) > 0 {
		b.choose(0)
	}
	if i := b.at(); i >= 0 && b.rows[i].Hash != b.seen.hash {
		b.seen.hash, b.seen.at = b.rows[i].Hash, time.Time{}
		if b.mode == asking {
			b.mode, b.note = listing, "the request has changed: look again"
		}
	}
}

// Answered takes the result of an act.
func (b *Board) Answered(a Act, got control.Request, err error) {
	delete(b.busy, rowID(a.Request))
	switch {
	case err != nil:
		b.note = Target(a.Request) + ": " + ProblemText(err)
	case a.Undo:
		b.note, b.last = "taken back: "+Target(a.Request)+Elsewhere(got), nil
	default:
		b.note = Target(a.Request) + ": " + Outcome(got)
		done := a
		b.last, b.since = &done, b.now()
	}
}

// Name is the title of the board.
func (b *Board) Name() string { return b.name }

// WaitingIDs names the requests that Waiting counts.
func (b *Board) WaitingIDs() []string {
	var ids []string
	for _, r := range b.state.Open {
		if b.own == "" || r.Key == b.own {
			ids = append(ids, rowID(r))
		}
	}
	return ids
}

// Waiting is how many requests of the attached task wait, or of all tasks for the screen.
func (b *Board) Waiting() int { return len(b.WaitingIDs()) }

// at is the index of the selected row, -1 for none.
func (b *Board) at() int {
	return slices.IndexFunc(b.rows, func(r control.Request) bool { return rowID(r) == b.sel })
}

func (b *Board) choose(i int) {
	if len(b.rows) == 0 {
		b.sel = ""
		return
	}
	r := b.rows[min(max(i, 0), len(b.rows)-1)]
	if id := rowID(r); id != b.sel {
		b.sel, b.seen.hash, b.seen.at = id, r.Hash, time.Time{}
	}
}

// painted is called when the board has been drawn with the selected row on it.
func (b *Board) painted() {
	if b.sel != "" && b.seen.at.IsZero() {
		b.seen.at = b.now()
	}
}

// Press handles one key. The act, if there is one, is the caller's to carry out; its result goes
// to Answered.
func (b *Board) Press(k Key) (*Act, Then) {
	switch b.mode {
	case filtering:
		b.typeFilter(k)
		return nil, Stay
	case asking:
		b.mode, b.note = listing, ""
		if k == 'y' || k == 'Y' {
			return b.answer(b.ask, true), Stay
		}
		b.note = "nothing was done"
		return nil, Stay
	case details, helping:
		switch k {
		case Escape, Enter, 'q', '?', Interrupt, ' ':
			b.mode = listing
			return nil, Stay
		}
	}
	return b.command(k)
}

// choices are the verdict keys.
var choices = []struct {
	key    Key
	choice control.Choice
	hint   string
}{
	{'a', control.ChoiceTask, "a allow for task"},
	{'o', control.ChoiceOnce, "o once"},
	{'p', control.ChoiceProject, "p project"},
	{'w', control.ChoiceDomain, "w with subdomains"},
	{'x', control.ChoiceDeny, "x deny"},
	{'X', control.ChoiceDenyAlways, "X deny always"},
}

func (b *Board) command(k Key) (*Act, Then) {
	if b.own == "" && (k == 'd' || k == 'D') { // in a menu d detaches
		k = map[Key]Key{'d': 'x', 'D': 'X'}[k]
	}
	for _, c := range choices {
		if c.key == k {
			return b.answer(c.choice, false), Stay
		}
	}
	switch k {
	case 'q', 'Q', Interrupt, Escape:
		if k == Escape && b.filter != "" {
			b.filter = ""
			b.Update(b.state)
			return nil, Stay
		}
		return nil, Leave
	case Reserved:
		if b.own != "" {
			return nil, Forward
		}
		return nil, Leave
	case 'd', 'D':
		return nil, Detach
	case 'u':
		return b.undo(), Stay
	case '?':
		b.mode = helping
	case '/':
		if b.own == "" {
			b.mode, b.note = filtering, ""
		}
	case Enter, ' ':
		if b.at() < 0 {
			if b.own != "" {
				return nil, Leave
			}
			return nil, Stay
		}
		b.mode = details
	default:
		b.move(k)
	}
	return nil, Stay
}

func (b *Board) move(k Key) {
	i := b.at()
	switch k {
	case Up, 'k':
		i--
	case Down, 'j':
		i++
	case PageUp:
		i -= 10
	case PageDown:
		i += 10
	case Home, 'g':
		i = 0
	case End, 'G':
		i = len(b.rows) - 1
	default:
		return
	}
	b.note, b.lost = "", false
	b.choose(i)
}

func (b *Board) typeFilter(k Key) {
	switch {
	case k == Enter:
		b.mode = listing
	case k == Escape, k == Interrupt:
		b.mode, b.filter = listing, ""
	case k == Backspace && b.filter != "":
		b.filter = b.filter[:len(b.filter)-1]
	case k >= 0x20 && k < 0x7f && len(b.filter) < maxFilter:
		b.filter += strings.ToLower(string(rune(k)))
	}
	b.Update(b.state)
}

// answer turns a verdict key into an act, or says why it does not.
func (b *Board) answer(c control.Choice, sure bool) *Act {
	i := b.at()
	switch {
	case len(b.rows) == 0:
		b.note = "nothing waits"
		return nil
	case i < 0:
		b.note = "select a request first (up, down)"
		return nil
	case b.seen.at.IsZero() || b.now().Sub(b.seen.at) < lookFirst:
		b.note = "this one has just come up: look, then press again"
		return nil
	}
	r := b.rows[i]
	switch {
	case b.busy[rowID(r)] || r.State == control.RequestApplying:
		b.note = "a verdict on " + Target(r) + " is under way"
		return nil
	case !slices.Contains(r.Choices, c):
		b.note = "this request cannot be answered with: " + Grant(r, c)
		return nil
	case !sure && further(c):
		b.mode, b.ask = asking, c
		return nil
	}
	b.busy[rowID(r)] = true
	b.note = Target(r) + ": ..."
	return &Act{Request: r, Choice: c}
}

// further reports choices that reach beyond what was asked in this task.
func further(c control.Choice) bool {
	return c == control.ChoiceProject || c == control.ChoiceDomain
}

func (b *Board) undo() *Act {
	if b.last == nil || b.now().Sub(b.since) > UndoWithin {
		b.note = fmt.Sprintf("nothing to take back: a verdict can be, for %d seconds", int(UndoWithin.Seconds()))
		return nil
	}
	if b.busy[rowID(b.last.Request)] {
		return nil
	}
	b.busy[rowID(b.last.Request)] = true
	return &Act{Request: b.last.Request, Choice: b.last.Choice, Undo: true}
}
