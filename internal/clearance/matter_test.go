package clearance

import (
	"testing"
	"time"

	"terok/internal/control"
)

// TestMatter: a question without a rule is asked once, only while somebody can answer, and its
// verdict changes no policy.
func TestMatter(t *testing.T) {
	r := newRig(t, time.Minute)
	m := Matter{Kind: control.OverBudget, Host: "all hosts", Names: []string{"200MB/h\n"}}
	if r.Decide(t.Context(), m) || len(r.Requests()) != 0 {
		t.Error("asked nobody")
	}
	stop := r.Answer()
	ask := func() chan bool {
		got := make(chan bool)
		go func() { got <- r.Decide(t.Context(), m) }()
		eventually(t, "asked", func() bool {
			q := r.Requests()
			return len(q) > 0 && q[0].State == control.RequestOpen && q[0].Held == 1
		})
		return got
	}
	got := ask()
	r.Recheck() // policy has no word in it
	q := r.one()
	if q.Names[0] != "200MB/h " || len(q.Choices) != 2 {
		t.Errorf("%+v", q)
	}
	if _, err := r.Verdict(answer(q, control.ChoiceTask)); code(err) != control.CodeInvalidChoice {
		t.Error(err)
	}
	if q, err := r.Verdict(answer(q, control.ChoiceOnce)); err != nil || q.Decision.Rule != "" || !q.Decision.Expires.IsZero() || !<-got {
		t.Errorf("%+v %v", q, err)
	}
	if _, err := r.Undo(control.UndoChange{ID: q.ID}); code(err) != control.CodeNotDecided {
		t.Error(err)
	}
	got = ask()
	if _, err := r.Verdict(answer(r.one(), control.ChoiceDeny)); err != nil || <-got {
		t.Error("denied, but granted", err)
	}
	got = ask()
	stop()
	if <-got || r.session() != "" {
		t.Errorf("granted with nobody there; rules %q", r.session())
	}
}
