package notify

import (
	"time"

	"terok"
	"terok/internal/audit"
	"terok/internal/text"
)

// Some events are shown though nothing is asked: a token where it must not be, a budget that is
// nearly used up. A container can cause them, so each is shown once in a while, and a few at most
// wait to be shown.
const (
	alertEvery  = 10 * time.Minute
	maxAlerts   = 8   // that wait
	maxRemember = 256 // kinds of alerts that were shown
)

// leaks are the words for the reasons of vault_leak (package front).
var leaks = map[string]string{
	"foreign_phantom": "a token of another container or of an earlier start was used",
	"wrong_secret":    "a token with a wrong secret was used",
	"revoked_phantom": "a revoked token is still used",
	"guessing":        "many wrong tokens are tried",
	"phantom_in_name": "a token stands in a name that was looked up",
	"phantom_in_push": "this task's token was in a push, and was revoked until the task's next start",
	"phantom_leaked":  "this task's token was used in another container, and was revoked",
}

// alert is what a person is told of an event, if it is one to be told of.
func alert(i terok.RequestItem) (content, bool) {
	ev := i.Event
	if ev == nil {
		return content{}, false
	}
	task := text.Line(i.Key, 64)
	if i.Project != "" {
		task = text.Line(i.Project+"/"+i.Task, 64)
	}
	switch {
	case ev.Ev == "vault_leak":
		what, known := leaks[ev.Reason]
		if !known {
			what = "a token is where it must not be"
		}
		lines := []string{"Task: " + task, "What: " + what}
		if owner := ev.Detail["owner"]; owner != "" {
			lines = append(lines, "Whose: "+text.Line(owner, 64))
		}
		return content{title: "Token misused", body: body(append(lines, "Look: terok events --kind vault")), urgent: true}, true
	case ev.Ev == "vault_budget" && ev.Verdict == "":
		return content{title: "Budget nearly used up", body: body([]string{"Task: " + task, text.Line(ev.Rule, 40) + ": " + text.Line(ev.Reason, 40),
			"Look: terok task usage"}), transient: true}, true
	}
	return content{}, false
}

// remember is true for an alert that was not shown lately.
func (n *notifier) remember(key string, ev *audit.Event) bool {
	now := n.cfg.App.Now()
	k := key + " " + ev.Ev + " " + ev.Reason
	if at, known := n.alerted[k]; known && now.Sub(at) < alertEvery {
		return false
	}
	if len(n.alerted) >= maxRemember {
		clear(n.alerted)
	}
	n.alerted[k] = now
	return true
}

// heard takes an item of a supervisor's stream; it must not wait.
func (n *notifier) heard(i terok.RequestItem) {
	if _, ok := alert(i); !ok || !n.remember(i.Key, i.Event) {
		return
	}
	select {
	case n.alerts <- i:
	default: // there are enough
	}
}

// tell shows an alert. A daemon that fails shows none; they are in the ledger.
func (n *notifier) tell(i terok.RequestItem) {
	if c, ok := alert(i); ok && n.bus.owner != "" && n.broken.IsZero() {
		_, _ = n.popups.show.notify(n.ctx, 0, c)
	}
}
