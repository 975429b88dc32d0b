package terok

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/problem"
	"terok/internal/relay"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/task"
	"terok/internal/text"
	"terok/internal/transcript"
)

// TaskEnd is how a headless task ended and what it left.
type TaskEnd struct {
	Project   string   `json:"project"`
	ID        string   `json:"id"`
	ExitCode  int      `json:"exit_code"`
	Seconds   float64  `json:"seconds"`
	Commits   int      `json:"commits"`
	Added     int      `json:"lines_added"`
	Removed   int      `json:"lines_removed"`
	Tokens    int64    `json:"tokens"`
	Usage     string   `json:"usage"` // tokens and cost in words, "" when nothing was used
	CostUSD   *float64 `json:"cost_usd"`
	BytesOut  uint64   `json:"bytes_out"`
	Hosts     []string `json:"hosts"`   // that bytes went to
	Refused   []string `json:"refused"` // hosts that were refused
	AgentSays *string  `json:"result"`
	GaveUp    bool     `json:"gave_up"` // the agent itself reported that it failed; some end with 0 all the same

	Traffic []audit.NameTraffic `json:"traffic"` // most bytes first, at most 20 names
}

// Failed reports whether the agent did not do its work: by its exit code, or by its own words where
// it ends with 0 whatever happened.
func (e *TaskEnd) Failed() bool { return e.ExitCode != 0 || e.GaveUp }

// Line is the usage line at the end of a headless run.
func (e *TaskEnd) Line() string {
	parts := []string{"done in " + text.Duration(time.Duration(e.Seconds*float64(time.Second)))}
	if e.Failed() {
		parts[0] = fmt.Sprintf("failed (exit code %d) after %s", e.ExitCode, text.Duration(time.Duration(e.Seconds*float64(time.Second))))
	}
	parts = append(parts, fmt.Sprintf("%s, +%d −%d", count(e.Commits, "commit"), e.Added, e.Removed))
	if e.Usage != "" {
		parts = append(parts, e.Usage)
	}
	out := fmt.Sprintf("%s out to %s", text.Size(e.BytesOut), count(len(e.Hosts), "host"))
	if n := len(e.Refused); n > 0 {
		out += fmt.Sprintf(", %d refused (%s)", n, strings.Join(e.Refused[:min(n, 3)], ", "))
	}
	return strings.Join(append(parts, out), " · ")
}

func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// Headline says what was started, in two lines. With attached, the caller's terminal is where
// requests for the rest are answered.
func (a *App) Headline(t *task.Task, attached bool) []string {
	first := t.Ref() + " · branch " + t.Branch
	if t.Start != "" {
		first += fmt.Sprintf(" · from %s@%.7s", firstOf(t.Base, "commit"), t.Start)
	}
	f, err := sandbox.Load(sandbox.Path(t.Dir(a.Roots)))
	if err != nil {
		return []string{first}
	}
	var open []string
	rest := "is refused"
	if f.Vault != nil {
		for _, g := range f.Vault.Grants {
			if g.Waiting {
				continue
			}
			open = append(open, g.Routes[0].Host+" through the vault")
		}
	}
	if data, err := os.ReadFile(sandbox.PolicyPath(t.Dir(a.Roots))); err == nil {
		doc, _ := policy.DecodeDocument(data)
		if attached && doc.Settings.Ask {
			rest = "asks you (Ctrl-q)"
		}
		for _, r := range doc.Rules {
			if r.Allows() {
				open = append(open, strings.TrimPrefix(r.Text, "+"))
			}
		}
	}
	if len(open) == 0 {
		return []string{first, "network: everything " + rest}
	}
	return []string{first, "network: " + strings.Join(open, ", ") + "; everything else " + rest}
}

// FollowTask renders what the agent did and says, with follow until it ends. The summary is what
// the agent itself reported; it is nil for agents that report none.
func (a *App) FollowTask(ctx context.Context, t *task.Task, follow bool, w io.Writer, styled bool) (*transcript.Summary, error) {
	stream := "plain"
	if set, err := roster.Load(a.Roots); err == nil {
		if agent, err := set.Agent(t.Agent); err == nil {
			stream = agent.Stream
		}
	}
	if t.Mode != task.Headless {
		stream = "plain"
	}
	r := transcript.New(w, stream, transcript.Options{Color: styled})
	err := a.TaskLogs(ctx, t, follow, r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	sum := r.Summary()
	return &sum, err
}

// FinishTask waits for the end of a headless task, writes it down and gathers what it left.
func (a *App) FinishTask(ctx context.Context, t *task.Task, sum *transcript.Summary) (*TaskEnd, error) {
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return nil, err
	}
	if c == nil {
		return nil, problem.New("task_gone", problem.Failed, "the container of %s vanished", t.Ref()).WithHint("terok task status %s", t.Ref())
	}
	code, err := a.pod().Wait(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	now := a.Now().UTC()
	if t, err = a.tasks().Update(t.Project, t.ID, func(t *task.Task) error {
		t.Exit = &task.Exit{Code: code, At: now}
		if t.ReadyAt.IsZero() {
			t.ReadyAt = now
		}
		return nil
	}); err != nil {
		return nil, err
	}
	end := &TaskEnd{Project: t.Project, ID: t.ID, ExitCode: code, Seconds: now.Sub(t.Launch.StartedAt).Seconds(), Hosts: []string{}, Refused: []string{}}
	if sum != nil {
		end.Tokens, end.Usage = sum.InputTokens+sum.OutputTokens, sum.Usage()
		end.AgentSays, end.GaveUp = opt(text.Prose(sum.Result, 2000)), sum.Complete && sum.IsError
		if sum.CostUSD > 0 {
			end.CostUSD = &sum.CostUSD
		}
	}
	// The vault's own count is of the whole task and does not depend on what the agent says.
	u, err := a.TaskUsageOf(t)
	if err != nil {
		return nil, err
	}
	if words := u.Total.Words(); words != "" {
		end.Tokens, end.Usage, end.CostUSD = u.Total.Tokens(), words, nil
		if u.Total.CostUSD > 0 {
			end.CostUSD = &u.Total.CostUSD
		}
	}
	if end.Commits, end.Added, end.Removed, err = a.reviewCounts(ctx, t); err != nil {
		return nil, err
	}
	return end, a.traffic(t, end)
}

// traffic sums up the ledger of the task: bytes out, hosts reached and hosts refused.
func (a *App) traffic(t *task.Task, end *TaskEnd) error {
	sum, err := a.taskTraffic(t)
	for _, n := range sum.Top(len(sum)) {
		end.BytesOut += n.BytesUp
		if n.BytesUp > 0 {
			end.Hosts = append(end.Hosts, text.Line(n.Name, 80))
		}
		if n.Refused > 0 {
			end.Refused = append(end.Refused, text.Line(n.Name, 80))
		}
	}
	end.Traffic = sum.Top(trafficNames)
	return err
}

// AttachTask gives the person the task's terminal: the tmux session in the container, behind our
// own relay on the host.
func (a *App) AttachTask(ctx context.Context, t *task.Task, in, out *os.File) error {
	a.pollSoon(t.Project)
	c, err := a.taskContainer(ctx, t)
	if err != nil {
		return err
	}
	if c == nil || !c.Running() {
		return problem.New("task_not_running", problem.Conflict, "task %s is not running", t.Ref()).
			WithHint("terok task restart %s", t.Ref())
	}
	if err := a.waitReady(ctx, t); err != nil {
		return err
	}
	cmd, err := a.pod().Command(context.WithoutCancel(ctx), "exec", "-it", "--workdir", "/workspace", c.ID, sandbox.GuestProgram, "guest", "agent", "--attach", t.Agent)
	if err != nil {
		return err
	}
	end, err := a.attach(ctx, t, relay.Options{Cmd: cmd, In: in, Out: out, LeaveKeys: "\x01d"})
	if err != nil {
		return err
	}
	if !end.Detached && end.Code != 0 && end.Code != 137 { // 137: stopped meanwhile
		return problem.New("attach_failed", problem.Failed, "the task's terminal ended with code %d", end.Code).
			WithHint("terok task status %s", t.Ref())
	}
	return nil
}

// reviewCounts sums up what a task pushed: commits, and lines added and removed.
func (a *App) reviewCounts(ctx context.Context, t *task.Task) (commits, added, removed int, err error) {
	if t.Branch == "" || t.Start == "" && t.Base == "" {
		return 0, 0, 0, nil
	}
	changes, err := a.ReviewTask(ctx, t)
	if err != nil {
		return 0, 0, 0, err
	}
	for _, c := range changes {
		commits, added, removed = commits+c.Commits, added+c.Insertions, removed+c.Deletions
	}
	return commits, added, removed, nil
}
