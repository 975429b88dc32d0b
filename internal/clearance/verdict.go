package clearance

import (
	"fmt"
	"slices"
	"time"

	"terok/internal/control"
	"terok/internal/shield/policy"
	"terok/internal/text"
)

// Verdict answers a request. Whatever it refuses, with a *control.Error, has changed nothing.
func (d *Docket) Verdict(v control.VerdictChange) (control.Request, error) {
	e, err := d.take(v)
	if err != nil {
		return control.Request{}, err
	}
	dec := e.decision // taken: nobody else changes it until settle
	rule, expires := Rule(v.Choice, e.entry.target, dec.At)
	if e.entry.matter {
		expires = time.Time{}
	}
	source := fmt.Sprintf("verdict on %s by %s, %s", v.ID, dec.Actor, dec.At.Format(time.RFC3339))
	canonical, err := d.apply(e.entry, rule, expires, source)
	d.mu.Lock()
	if err != nil {
		r := d.failed(e.entry, err)
		d.mu.Unlock()
		return r, err
	}
	e.entry.r.Decision.Rule, e.entry.r.Decision.Expires = canonical, expires
	e.entry.source = source
	d.finish(e.entry, control.RequestApplied)
	d.verdict(e.entry, "")
	r := e.entry.copy()
	d.mu.Unlock()
	// Others that the rule decides as well, and live connections.
	d.Recheck()
	d.cfg.Settle()
	return r, nil
}

// taken is an entry on which this call alone decides.
type taken struct {
	entry    *entry
	decision control.Decision
}

// take makes the caller the one who decides, or says why not. The order of checks is from who to
// what: an id that is not there, one that is decided, another target, other words than those shown.
func (d *Docket) take(v control.VerdictChange) (*taken, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.byID[v.ID]
	if e == nil {
		return nil, &control.Error{Code: control.CodeUnknownRequest, Message: fmt.Sprintf("no request %q; ids change when the supervisor restarts", text.Line(v.ID, 40)),
			Hint: "terok clearance"}
	}
	if err := e.closed(); err != nil {
		return nil, err
	}
	if v.Host != e.r.Host || v.Port != e.r.Port || v.Proto != e.r.Proto {
		return nil, &control.Error{Code: control.CodeMismatch, Message: fmt.Sprintf("request %s is about %s, not %s", e.r.ID, e.target,
			text.Line(Target{v.Host, v.Port, v.Proto}.String(), 0))}
	}
	if v.Hash != e.r.Hash {
		return nil, &control.Error{Code: control.CodeStale, Message: fmt.Sprintf("request %s has changed since it was shown", e.r.ID)}
	}
	if !slices.Contains(e.r.Choices, v.Choice) {
		return nil, &control.Error{Code: control.CodeInvalidChoice, Message: fmt.Sprintf("request %s cannot be answered with %q", e.r.ID, text.Line(string(v.Choice), 40))}
	}
	dec := control.Decision{Choice: v.Choice, Actor: orOperator(v.Actor), Via: text.Line(v.Via, 32), At: d.cfg.Now().UTC().Truncate(time.Second)}
	e.r.State, e.r.Decision = control.RequestApplying, &dec
	d.publish(e)
	return &taken{e, dec}, nil
}

func orOperator(actor string) string {
	if a := text.Line(actor, 64); a != "" {
		return a
	}
	return "operator"
}

// closed says why an entry takes no verdict any more.
func (e *entry) closed() error {
	switch e.r.State {
	case control.RequestOpen:
		return nil
	case control.RequestApplying, control.RequestApplied:
		dec := e.r.Decision
		by := dec.Actor
		if dec.Via != "" {
			by += " (" + dec.Via + ")"
		}
		return &control.Error{Code: control.CodeAlreadyDecided, Message: fmt.Sprintf("request %s was answered with %q by %s at %s",
			e.r.ID, dec.Choice, by, dec.At.Format(time.RFC3339))}
	case control.RequestSuperseded:
		return &control.Error{Code: control.CodeAlreadyDecided, Message: fmt.Sprintf("request %s was decided by a rule or a posture meanwhile", e.r.ID)}
	}
	return &control.Error{Code: control.CodeUnknownRequest, Message: fmt.Sprintf("request %s has ended (%s)", e.r.ID, e.r.State), Hint: "terok clearance"}
}

// apply makes the rule of a verdict. The caller has taken the entry and does not hold the lock.
func (d *Docket) apply(e *entry, rule string, expires time.Time, source string) (string, error) {
	// Policy may have changed since the request was made; a verdict never outranks it.
	if e.matter {
		return "", nil
	}
	if v := d.cfg.Judge(e.target); v != policy.Ask {
		return "", &control.Error{Code: control.CodeOutranked, Message: fmt.Sprintf("a rule or the posture decides about %s already: %s", e.target, v),
			Hint: "terok shield explain"}
	}
	canonical, err := d.cfg.Grant(rule, expires, source)
	if err != nil {
		return "", &control.Error{Code: control.CodeApplyFailed, Message: fmt.Sprintf("the verdict on %s could not be applied, it is open again: %v", e.r.ID, err)}
	}
	return canonical, nil
}

// failed puts an entry whose verdict could not be applied back to open, with the reason. Called
// with the lock held.
func (d *Docket) failed(e *entry, err error) control.Request {
	e.r.State, e.r.Decision.Error = control.RequestOpen, text.Line(err.Error(), 0)
	d.see(e, d.cfg.Now())
	d.verdict(e, "failed")
	if d.ended {
		d.finish(e, control.RequestCancelled)
	} else if !d.stands(e) {
		d.finish(e, control.RequestSuperseded)
	} else {
		d.publish(e)
	}
	return e.copy()
}

// Undo takes the verdict on a request back. The request is open again.
func (d *Docket) Undo(v control.UndoChange) (control.Request, error) {
	d.mu.Lock()
	e := d.byID[v.ID]
	switch {
	case e == nil:
		d.mu.Unlock()
		return control.Request{}, &control.Error{Code: control.CodeUnknownRequest, Message: fmt.Sprintf("no request %q", text.Line(v.ID, 40)), Hint: "terok clearance"}
	case e.r.State != control.RequestApplied || e.matter:
		d.mu.Unlock()
		return control.Request{}, &control.Error{Code: control.CodeNotDecided, Message: fmt.Sprintf("there is no verdict on request %s (%s)", e.r.ID, e.r.State)}
	}
	e.r.State = control.RequestApplying // nobody else undoes it meanwhile
	rule, source := e.r.Decision.Rule, e.source
	d.mu.Unlock()
	err := d.cfg.Revoke(rule, source)
	d.mu.Lock()
	e.r.State = control.RequestApplied
	if err != nil {
		d.mu.Unlock()
		return control.Request{}, &control.Error{Code: control.CodeNotDecided, Message: fmt.Sprintf("the rule of request %s is gone or was replaced: %v", e.r.ID, err)}
	}
	e.r.Decision.Actor, e.r.Decision.Via = orOperator(v.Actor), text.Line(v.Via, 32)
	d.verdict(e, "undone")
	d.reopen(e)
	r := e.copy()
	d.mu.Unlock()
	d.Recheck()
	d.cfg.Settle()
	return r, nil
}

// reopen makes a decided entry open again, unless its target has another request meanwhile. Called
// with the lock held.
func (d *Docket) reopen(e *entry) {
	if d.ended || d.open[e.target] != nil {
		e.r.State = control.RequestSuperseded
		d.publish(e)
		return
	}
	d.closed = slices.DeleteFunc(d.closed, func(c *entry) bool { return c == e })
	e.r.State, e.r.Decision, e.source, e.decided = control.RequestOpen, nil, "", make(chan struct{})
	d.open[e.target], d.byID[e.r.ID] = e, e
	d.see(e, d.cfg.Now())
	d.poke()
	d.publish(e)
}

// verdict writes a verdict into the ledger; scope is "" for one that holds, else what became of it.
func (d *Docket) verdict(e *entry, end string) {
	dec := e.r.Decision
	ev := e.event("verdict")
	ev.Actor, ev.Via, ev.Rule, ev.Scope, ev.Verdict, ev.Count = "operator", dec.Via, dec.Rule, string(dec.Choice), "allow", e.r.Count
	ev.Tier = policy.Session.String()
	ev.Detail["by"] = dec.Actor
	if dec.Choice == control.ChoiceDeny || dec.Choice == control.ChoiceDenyAlways {
		ev.Verdict = "deny"
	}
	if end != "" {
		ev.Detail["end"], ev.Reason = end, dec.Error
	}
	if !dec.Expires.IsZero() {
		ev.Expires = dec.Expires.UTC().Format(time.RFC3339)
	}
	d.cfg.Record(ev)
}
