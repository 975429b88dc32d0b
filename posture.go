package terok

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"terok/internal/control"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
)

// LoweredFor is how long a lowered shield stays so unless the operator says how long.
const LoweredFor = time.Hour

// PostureView is what a change of posture left.
type PostureView struct {
	Target  string          `json:"target"`
	Posture control.Posture `json:"posture"` // what holds now
	Desired control.Posture `json:"desired"`
	Until   *time.Time      `json:"until"` // nil: until changed
	Reason  string          `json:"reason"`
	// Applied is false when no supervisor runs: the posture is written and holds from the next start.
	Applied bool `json:"applied"`
}

// Window parses how long a posture is to last: a number and one of s, m, h, d.
func Window(s string) (time.Duration, error) {
	bad := problem.New("usage", problem.Usage, "--for takes a number and one of s, m, h, d, such as 30m, not %q", s)
	if len(s) < 2 {
		return 0, bad
	}
	unit, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}[s[len(s)-1]]
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if !ok || err != nil || s[0] == '+' || n == 0 || n > uint64(control.MaxWindow/unit) {
		return 0, bad
	}
	return time.Duration(n) * unit, nil
}

// SetPosture changes the posture of a sandbox or task. What the new posture refuses is cut when it
// returns. Without a supervisor the posture is written down for the next start. A lowered posture
// ends after window, zero meaning LoweredFor.
func (a *App) SetPosture(ctx context.Context, target string, p control.Posture, window time.Duration, reason, via string) (PostureView, error) {
	s, err := a.shielded(target)
	if err != nil {
		return PostureView{}, err
	}
	c := control.PostureChange{Posture: p, Reason: reason, Actor: "operator", Via: via}
	if p.Lowered() {
		if window == 0 {
			window = LoweredFor
		}
		c.Seconds = int(window / time.Second)
	}
	return a.setPosture(ctx, s, c)
}

func (a *App) setPosture(ctx context.Context, s *shielded, c control.PostureChange) (PostureView, error) {
	st, err := s.client().SetPosture(ctx, c)
	if errors.Is(err, control.ErrNoSupervisor) {
		d, derr := c.Desired(a.Now())
		if derr != nil {
			return PostureView{}, derr
		}
		if err := control.WriteDesired(sandbox.PosturePath(s.dir), d); err != nil {
			return PostureView{}, problem.New("posture_unwritten", problem.Failed, "the posture of %s could not be written: %w", s.name, err)
		}
		// One that started meanwhile may have read what was there before.
		if st, err = s.client().SetPosture(ctx, c); errors.Is(err, control.ErrNoSupervisor) {
			v := PostureView{Target: s.name, Posture: control.Offline, Desired: d.Posture, Reason: d.Reason}
			if !d.Until.IsZero() {
				v.Until = &d.Until
			}
			return v, nil
		}
	}
	if err != nil {
		return PostureView{}, s.explain(err)
	}
	return PostureView{Target: s.name, Posture: st.Posture, Desired: st.Desired, Until: st.Until, Reason: st.Reason, Applied: true}, nil
}

// QuarantineAll quarantines every task and sandbox that runs, whatever project it is of. It goes on
// after an error; the problem names those that could not be quarantined.
func (a *App) QuarantineAll(ctx context.Context, reason, via string) ([]PostureView, error) {
	all, err := a.containers(ctx)
	if err != nil {
		return nil, err
	}
	views := []PostureView{}
	var failed []string
	for key, c := range all {
		dir := c.Labels[sandbox.LabelDir]
		if !c.Running() && c.State != "paused" || !strings.HasPrefix(dir, a.Roots.Data+"/") {
			continue
		}
		name := targetOf(c)
		f, err := sandbox.Load(sandbox.Path(dir))
		if err == nil {
			var v PostureView
			s := &shielded{file: f, dir: dir, name: name}
			if v, err = a.setPosture(ctx, s, control.PostureChange{Posture: control.Quarantine, Reason: reason, Actor: "operator", Via: via}); err == nil {
				views = append(views, v)
			}
		}
		if err != nil {
			failed = append(failed, fmt.Sprintf("%s: %v", firstOf(name, key), err))
		}
	}
	if len(failed) > 0 {
		return views, problem.New("quarantine_incomplete", problem.Failed, "not everything is in quarantine: %s", strings.Join(failed, "; ")).
			WithHint("terok panic")
	}
	return views, nil
}

// targetOf is what a person calls a container: PROJECT/TASK, or the sandbox's name.
func targetOf(c podman.Container) string {
	if p := c.Labels[sandbox.LabelProject]; p != "" {
		return p + "/" + c.Labels[sandbox.LabelTask]
	}
	return c.Labels[sandbox.LabelName]
}

// Lowered is a task whose shield is down.
type Lowered struct {
	Target string
	control.Desired
}

// Line says it in one line, with the way back.
func (l Lowered) Line(now time.Time) string {
	what := "the shield is DOWN: every public address is open"
	if l.Posture == control.DownAll {
		what = "the shield is DOWN for private ranges as well"
	}
	end := "until it is raised"
	if !l.Until.IsZero() {
		end = "for " + countdown(l.Until.Sub(now)) + " more"
	}
	return fmt.Sprintf("%s: %s, %s (%s); raise it: terok shield up %s", l.Target, what, end, l.Reason, l.Target)
}

// countdown is a duration that still runs, in two units at most.
func countdown(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	switch days := d / (24 * time.Hour); {
	case days > 0:
		return fmt.Sprintf("%dd%dh", days, d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	}
	return fmt.Sprintf("%ds", d/time.Second)
}

// LoweredTasks are those of the tasks ("project", "id") whose shield is down now, by what is on
// disk: no supervisor is asked.
func (a *App) LoweredTasks(refs ...[2]string) []Lowered {
	var out []Lowered
	now := a.Now()
	for _, r := range refs {
		path := sandbox.PosturePath(a.Roots.TaskDir(r[0], r[1]))
		if _, err := os.Lstat(path); err != nil {
			continue // most have none
		}
		if d, err := control.ReadDesired(path); err == nil && d.At(now).Lowered() {
			out = append(out, Lowered{r[0] + "/" + r[1], d})
		}
	}
	return out
}
