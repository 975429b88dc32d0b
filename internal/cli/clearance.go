package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/clearance/board"
	"terok/internal/control"
	"terok/internal/problem"
)

func newClearanceCmd(e *env) *cobra.Command {
	var target string
	var line bool
	c := &cobra.Command{
		Use:   "clearance",
		Short: "Answer what running tasks ask for: allow or deny, live",
		Long: `Shows what running tasks tried to reach and no rule lists, and takes your verdicts. While it runs,
such connections wait for you (clearance.hold in config.yml), so that the agent's first attempt
succeeds. Everybody who watches sees the outcome; the first verdict wins.

On a terminal it is a screen with keys (? shows them); without one, or with --line, it prints a
line for each request and reads commands: a N, o N, p N, w N, d N, D N, u, l, h, q. With --json it
only reports.`,
		Example: "  terok clearance\n  terok clearance --task webshop/k3v9p\n  terok clearance --line\n  terok clearance --json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			switch {
			case e.json && line:
				return problem.New("usage", problem.Usage, "--json only reports: it does not go with --line")
			case e.json:
				return e.clearanceJSON(ctx, target)
			case !line && e.interactive() && os.Getenv("TERM") != "dumb":
				return e.clearanceScreen(ctx, target)
			}
			return e.clearanceLines(ctx, target)
		},
	}
	c.Flags().StringVar(&target, "task", "", "only this task or sandbox")
	c.Flags().BoolVar(&line, "line", false, "lines and typed commands instead of a screen")
	_ = c.RegisterFlagCompletionFunc("task", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return e.completeTasks(cmd, nil, word)
	})
	return c
}

// present says that somebody can answer.
func present() bool { return true }

// clearanceJSON reports as JSON Lines until it is interrupted.
func (e *env) clearanceJSON(ctx context.Context, target string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	enc := json.NewEncoder(e.out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(map[string]string{"type": "hello", "schema": "terok.clearance.watch/1"}); err != nil {
		return err
	}
	w, err := e.app.WatchRequests(ctx, terok.WatchOptions{Target: target, Each: func(i terok.RequestItem) {
		if v := clearanceItem(i); v != nil {
			if err := enc.Encode(v); err != nil {
				cancel(err) // nobody reads any more
			}
		}
	}})
	if err != nil {
		return err
	}
	defer w.Close()
	<-ctx.Done()
	return context.Cause(ctx)
}

// clearanceItem is one line of the stream; nil for what is not about requests.
func clearanceItem(i terok.RequestItem) map[string]any {
	v := map[string]any{"key": i.Key, "project": i.Project, "task": i.Task}
	switch {
	case i.Snapshot != nil:
		requests := i.Snapshot.Requests
		if requests == nil {
			requests = []control.Request{}
		}
		v["type"], v["posture"], v["requests"] = "snapshot", i.Snapshot.Status.Posture, requests
	case i.Request != nil:
		v["type"], v["request"] = "request", i.Request
	case i.Event != nil && i.Event.Ev == "posture_changed":
		v["type"], v["posture"] = "posture", i.Event.Verdict
	case i.Gap > 0:
		v["type"], v["lost"] = "gap", i.Gap
	case i.Gone:
		v["type"] = "end"
	default:
		return nil
	}
	return v
}

// lineMode is the conversation without a screen. Requests have numbers that never change; a
// verdict is about what was last printed under its number.
type lineMode struct {
	out    io.Writer
	answer board.Answer
	shown  []control.Request
	number map[string]int // row → index in shown
	last   *board.Act
	at     time.Time
}

const lineHelp = `a N  allow for the task    o N  allow for 15 minutes   p N  allow for the project
w N  allow with all names below it   d N  deny for an hour   D N  deny always
u  take the last verdict back (10 s)   l  list   h  help   q  quit`

func (e *env) clearanceLines(ctx context.Context, target string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := e.app.WatchRequests(ctx, terok.WatchOptions{Target: target, Answers: present})
	if err != nil {
		return err
	}
	defer w.Close()
	m := &lineMode{out: e.out, answer: e.app.Answerer("cli"), number: map[string]int{}}
	lines := make(chan string)
	go func() { // ends with the program's stdin, or with the program
		defer close(lines)
		sc := bufio.NewScanner(e.in)
		for sc.Scan() {
			select {
			case lines <- sc.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	w.Settle(ctx)
	m.update(w.State())
	if len(m.shown) == 0 {
		fmt.Fprintln(e.err, "nothing waits; h shows the commands, q ends")
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.Changed():
			m.update(w.State())
		case line, ok := <-lines:
			if !ok || m.command(ctx, line) {
				return nil
			}
		}
	}
}

// update prints what is new and what has ended.
func (m *lineMode) update(s terok.RequestState) {
	for _, r := range s.Open {
		row := r.Key + " " + r.ID
		n, known := m.number[row]
		if !known {
			n = len(m.shown)
			m.number[row] = n
			m.shown = append(m.shown, control.Request{})
		}
		old := m.shown[n]
		if !known || old.Hash != r.Hash || old.State != r.State && r.State == control.RequestOpen {
			m.print(n, r)
		}
		m.shown[n] = r
	}
	for _, r := range s.Decided {
		if n, known := m.number[r.Key+" "+r.ID]; known && (m.shown[n].State == control.RequestOpen || m.shown[n].State == control.RequestApplying) {
			m.shown[n] = r
			fmt.Fprintf(m.out, "[%d] %s %s: %s\n", n+1, board.Task(r), board.Target(r), board.Outcome(r))
		}
	}
}

func (m *lineMode) print(n int, r control.Request) {
	fmt.Fprintf(m.out, "[%d] %s %s %s (%s) %s", n+1, board.Clock(r.FirstSeen), board.Task(r), board.Target(r), board.Source(r), board.Why(r))
	if who := board.Process(r); who != "" {
		fmt.Fprintf(m.out, ", by %s", who)
	}
	if risks := board.Risks(r); risks != "" {
		fmt.Fprintf(m.out, " ! %s", risks)
	}
	if why := board.Reason(r); why != "" {
		fmt.Fprintf(m.out, "; the agent says (not to be trusted): %s", why)
	}
	fmt.Fprintln(m.out)
}

// lineChoices are the verdicts; x and X are the keys of the screen.
var lineChoices = map[string]control.Choice{
	"a": control.ChoiceTask, "o": control.ChoiceOnce, "p": control.ChoiceProject, "w": control.ChoiceDomain,
	"d": control.ChoiceDeny, "x": control.ChoiceDeny, "D": control.ChoiceDenyAlways, "X": control.ChoiceDenyAlways,
}

// command carries one line out; it reports whether the person leaves.
func (m *lineMode) command(ctx context.Context, line string) (quit bool) {
	words := strings.Fields(line)
	if len(words) == 0 {
		return false
	}
	choice, isChoice := lineChoices[words[0]]
	switch {
	case words[0] == "q" && len(words) == 1:
		return true
	case words[0] == "l" && len(words) == 1:
		m.list()
	case words[0] == "u" && len(words) == 1:
		m.undo(ctx)
	case isChoice && (len(words) == 2 || len(words) == 3 && words[2] == "yes"):
		n, err := strconv.Atoi(words[1])
		if err != nil || n < 1 || n > len(m.shown) {
			fmt.Fprintln(m.out, "there is no such request; l lists them")
			return false
		}
		r := m.shown[n-1]
		if (choice == control.ChoiceProject || choice == control.ChoiceDomain) && len(words) == 2 {
			fmt.Fprintf(m.out, "%s?  %s %d yes does it\n", board.Grant(r, choice), words[0], n)
			return false
		}
		m.verdict(ctx, board.Act{Request: r, Choice: choice})
	default:
		fmt.Fprintln(m.out, lineHelp)
	}
	return false
}

func (m *lineMode) list() {
	any := false
	for n, r := range m.shown {
		if r.State == control.RequestOpen {
			any = true
			m.print(n, r)
		}
	}
	if !any {
		fmt.Fprintln(m.out, "nothing waits")
	}
}

func (m *lineMode) verdict(ctx context.Context, act board.Act) {
	got, err := m.answer(ctx, act)
	if err != nil {
		fmt.Fprintf(m.out, "%s: %s\n", board.Target(act.Request), board.ProblemText(err))
		return
	}
	m.last, m.at = &act, time.Now()
	fmt.Fprintf(m.out, "%s %s: %s\n", board.Task(got), board.Target(got), board.Outcome(got))
	m.shown[m.number[got.Key+" "+got.ID]] = got
}

func (m *lineMode) undo(ctx context.Context) {
	if m.last == nil || time.Since(m.at) > board.UndoWithin {
		fmt.Fprintln(m.out, "nothing to take back: a verdict can be, for ten seconds")
		return
	}
	act := *m.last
	act.Undo = true
	got, err := m.answer(ctx, act)
	if err != nil {
		fmt.Fprintf(m.out, "%s: %s\n", board.Target(act.Request), board.ProblemText(err))
		return
	}
	m.last = nil
	fmt.Fprintf(m.out, "taken back: %s%s\n", board.Target(act.Request), board.Elsewhere(got))
}
