package terok

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"terok/internal/config"
	"terok/internal/control"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/verify"
)

// VerifyOptions say what `terok verify` attacks.
type VerifyOptions struct {
	Target string   // a sandbox or task; "": a throw-away container
	Image  string   // of the throw-away container; "": the one that tasks are made from
	Also   []string // names and addresses that must be refused as well
}

// verifyTime bounds the attacks; a run takes a few seconds.
const verifyTime = 60 * time.Second

// verifyUser: the attacks run as root inside, which is as much as a workload can become.
const verifyUser = "0:0"

// Verify attacks a container from inside and reports, row by row, whether its walls hold. A hole is
// the problem "verify_failed" beside the report. For the time of the run the container may reach two
// ports of the host's loopback, where the verifier listens.
func (a *App) Verify(ctx context.Context, o VerifyOptions) (*verify.Report, error) {
	for _, s := range o.Also {
		if _, err := netip.ParseAddr(s); err == nil {
			continue
		}
		if t, err := parseTarget(s); err != nil || t.Port != 0 {
			return nil, problem.New("usage", problem.Usage, "--also takes a name or an address, not %q", s)
		}
	}
	targets, err := verify.Open()
	if err != nil {
		return nil, problem.New("verify_unable", problem.Failed, "%w", err)
	}
	defer targets.Close()
	plan := targets.Plan()
	plan.Also = o.Also
	s, done, err := a.verifyContainer(ctx, o, targets, &plan)
	if err != nil {
		return nil, err
	}
	defer done()
	c, err := a.pod().Inspect(ctx, s.file.Name)
	if err != nil {
		return nil, err
	}
	plan.Sockets = []string{sandbox.ControlPath(s.file.RuntimeDir), a.Roots.KeyholderSocket(), s.dir, a.Roots.Data}
	ctx, cancel := context.WithTimeout(ctx, verifyTime)
	defer cancel()
	var sent func(context.Context) (uint64, error)
	if plan.Alone {
		sent = func(ctx context.Context) (uint64, error) {
			st, err := s.client().Status(ctx)
			return st.Counters.DNSSent, err
		}
	}
	report, err := targets.Run(ctx, plan, func(ctx context.Context, stdin []byte) ([]byte, error) {
		out, err := a.pod().Exec(ctx, c.ID, []string{sandbox.GuestProgram, "guest", "verify"},
			podman.ExecOptions{User: verifyUser, Stdin: strings.NewReader(string(stdin)), Timeout: verifyTime})
		return out, err
	}, sent)
	if err != nil {
		return nil, problem.New("verify_unable", problem.Failed, "%w", err).WithHint("terok verify")
	}
	report.Target = s.name
	if !report.OK {
		var rows []string
		for _, r := range report.Rows {
			if !r.OK {
				rows = append(rows, r.Row)
			}
		}
		return report, problem.New("verify_failed", problem.Failed, "%d of %d guarantees do not hold: %s", report.Failed, len(report.Rows), strings.Join(rows, ", ")).
			WithHint("terok panic cuts every task off")
	}
	return report, nil
}

// verifyContainer finds or starts the container and opens the allowed target to it; done takes both
// back.
func (a *App) verifyContainer(ctx context.Context, o VerifyOptions, targets *verify.Targets, plan *control.VerifyPlan) (*shielded, func(), error) {
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, nil, err
	}
	plan.Range = global.Shield.Range.String()
	if o.Target == "" {
		return a.throwAway(ctx, o, global, targets, plan)
	}
	s, err := a.shielded(o.Target)
	if err != nil {
		return nil, nil, err
	}
	st, err := s.client().Status(ctx)
	if err != nil {
		return nil, nil, s.explain(err)
	}
	if st.Posture != control.Up {
		return nil, nil, problem.New("not_up", problem.Conflict, "the shield of %s is %s: what it opens or closes beside the rules proves nothing", s.name, st.Posture).
			WithHint("terok shield up %s", s.name)
	}
	plan.MayHold, plan.Gate = !global.Clearance.Off && global.Clearance.Hold > 0, s.file.Gate != nil
	if s.file.Vault != nil {
		for _, g := range s.file.Vault.Grants {
			for _, r := range g.Routes {
				plan.Routed = append(plan.Routed, r.Host)
			}
			if v, ok := verifyVault(&g); ok && !g.Waiting {
				plan.Vault = append(plan.Vault, v)
			}
		}
	}
	if a.Confirm == nil {
		return nil, nil, problem.New("needs_answer", problem.Declined, "attacking a container at work needs a confirmation").
			WithHint("terok verify %s --yes, or without a target in a throw-away container", o.Target)
	}
	ok, err := a.Confirm(fmt.Sprintf("Attack %s from inside? For some seconds it may reach two ports of your machine's loopback where terok listens.", s.name))
	if err != nil {
		return nil, nil, err
	}
	if !ok {
		return nil, nil, problem.New("declined", problem.Declined, "not attacked")
	}
	done, err := a.openTargets(ctx, s, targets)
	return s, done, err
}

// openTargets adds the rules of the targets, which end by themselves should nobody take them back.
func (a *App) openTargets(ctx context.Context, s *shielded, targets *verify.Targets) (func(), error) {
	change := func(ctx context.Context, rule string, remove bool) error {
		c := control.RuleChange{Rule: "+" + rule, Remove: remove, Reason: "terok verify", Actor: "operator"}
		if !remove {
			c.Expires = a.Now().Add(2 * verifyTime).UTC().Format(time.RFC3339)
		}
		_, err := s.client().ChangeRule(ctx, c)
		return err
	}
	var open []string
	done := func() {
		for _, r := range open {
			if err := change(context.WithoutCancel(ctx), r, true); err != nil {
				a.say("warning: the rule %s of the run could not be taken back, it ends by itself: %v", r, err)
			}
		}
	}
	for _, r := range targets.Rules() {
		if err := change(ctx, r, false); err != nil {
			done()
			return nil, s.explain(err)
		}
		open = append(open, r)
	}
	return done, nil
}

// throwAway starts a container for the run.
func (a *App) throwAway(ctx context.Context, o VerifyOptions, global config.Global, targets *verify.Targets, plan *control.VerifyPlan) (*shielded, func(), error) {
	plan.Alone = true
	image := o.Image
	if image == "" {
		id, _, err := a.ensureImage(ctx, global.Image.Base, &roster.Agent{})
		if err != nil {
			return nil, nil, err
		}
		image = id
	}
	name := fmt.Sprintf("verify-%x-%d", a.Now().UnixMilli()&0xffffffffff, os.Getpid())
	done := func() {
		if err := a.SandboxRemove(context.WithoutCancel(ctx), name); err != nil && !problem.Is(err, "sandbox_not_found") {
			a.say("warning: the throw-away container could not be removed: %v (terok sandbox rm %s)", err, name)
		}
	}
	if _, err := a.SandboxRun(ctx, SandboxOptions{Name: name, Image: image, Command: []string{sandbox.GuestProgram, "guest", "idle"},
		Allow: targets.Rules(), noAsk: true}); err != nil {
		done()
		return nil, nil, err
	}
	s, err := a.shielded(name)
	if err != nil {
		done()
		return nil, nil, err
	}
	s.name = "a throw-away container"
	for begin := a.Now(); ; { // pid 1 prepares, then the command runs
		st, err := s.client().Status(ctx)
		if err == nil && st.Ready {
			return s, done, nil
		}
		if err == nil && a.Now().Sub(begin) > verifyTime/2 {
			err = errors.New("its guest does not get ready")
		}
		if err != nil {
			done()
			return nil, nil, problem.New("verify_unable", problem.Failed, "the throw-away container did not start: %w", err)
		}
		select {
		case <-ctx.Done():
			done()
			return nil, nil, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}
