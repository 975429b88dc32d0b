package supervisor

import (
	"context"
	"net/http"
	"strings"
	"time"

	"terok/internal/clearance"
	"terok/internal/control"
	"terok/internal/shield/profile"
	"terok/internal/text"
)

// asks bounds the questions that wait at the same time; their rate is the docket's.
type asks chan struct{}

func newAsks() asks { return make(asks, 16) }

// question is POST /v1/ask of the guest protocol. Whoever is in the container can ask; all that it
// learns is whether a host is open, which a connection would tell as well.
func (g *guestAPI) question(w http.ResponseWriter, r *http.Request) {
	var q control.AskQuestion
	if !readStrict(w, r, &q) {
		return
	}
	if q.Host == "" || len(q.Host) > 253 || q.Seconds < 0 || q.Seconds > control.MaxAskSeconds {
		http.Error(w, "a question has a host and waits 0 to 600 seconds", http.StatusBadRequest)
		return
	}
	// The wait is longer than a request may take to arrive; without this the server would take its
	// own deadline for the client's end.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	answer(w, g.ask(r.Context(), q))
}

// ask carries a question of the agent to whoever can answer, and waits.
func (s *service) ask(ctx context.Context, q control.AskQuestion) control.AskAnswer {
	t := control.Target{Host: strings.ToLower(strings.TrimSuffix(q.Host, ".")), Port: q.Port, Proto: "tcp"}
	if t.Port == 0 {
		t.Port = 443
	}
	a := clearance.Attempt{Target: clearance.Target{Host: t.Host, Port: t.Port, Proto: t.Proto}, NameSource: "agent", Reason: q.Reason}
	if addr, ok := literal(t.Host); ok {
		a.Host, a.NameSource = addr.WithZone("").String(), "none"
	} else {
		a.Risk = profile.Risk(t.Host)
	}
	t.Host = text.Line(a.Host, 253)
	out := control.AskAnswer{Target: t}
	if s.docket == nil {
		out.State = control.AskDenied
		if s.decide(t).Verdict.String() == "allow" {
			out.State = control.AskAllowed
		}
	} else {
		select {
		case s.asks <- struct{}{}:
			wait, cancel := context.WithTimeout(ctx, time.Duration(q.Seconds)*time.Second)
			out.State = s.docket.Ask(wait, a)
			cancel()
			<-s.asks
		default:
			out.State = control.AskLimited
		}
	}
	out.Reason = s.asked(out.State, t)
	return out
}

// asked says an answer in words. What an operator wrote and where stays outside.
func (s *service) asked(state control.AskState, t control.Target) string {
	switch state {
	case control.AskAllowed:
		return "it is open"
	case control.AskPending:
		return "nobody has answered yet; go on without it and ask again later"
	case control.AskLimited:
		return "too many questions: at most one in 10 seconds and 20 in an hour; nobody was asked this one"
	}
	switch d := s.decide(t); {
	case d.Rule != nil:
		return "a rule closes it; asking again does not help"
	case s.docket == nil:
		return "only listed hosts are open here, and nobody is asked"
	default:
		return "it is never opened on request: " + d.Reason
	}
}
