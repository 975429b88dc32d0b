package notify

import (
	"fmt"
	"strings"

	"terok/internal/clearance/board"
	"terok/internal/control"
	"terok/internal/text"
)

// Limits of what a notification holds, in bytes as they are sent.
const (
	maxTitle = 120
	maxBody  = 256
)

// content is one notification: a title of plain text, a body in which markup is escaped.
type content struct {
	title, body string
	urgent      bool
	transient   bool
	actions     []string // key, label, key, label
}

// blocked is the question that a request asks. The actions carry the hash of what is shown, so
// that a click cannot answer anything else.
func blocked(r control.Request, failed string, canAct bool) content {
	c := content{title: title("Blocked: ", r), urgent: true}
	if failed != "" {
		c.title = title("Not answered: ", r)
	}
	if canAct {
		for _, a := range actions {
			for _, can := range r.Choices {
				if can == a.choice {
					c.actions = append(c.actions, a.name+"@"+r.Hash, a.label)
				}
			}
		}
	}
	lines := []string{failed, "Task: " + board.Task(r), protocol(r)}
	if d := board.Domain(r); d != "" && d != board.Host(r) {
		lines = append(lines, "Belongs to: "+d)
	}
	if r.Kind != control.NameBlocked {
		lines = append(lines, "Because: "+board.Why(r))
	}
	if r.Count > 1 {
		lines = append(lines, fmt.Sprintf("Blocked %d times since %s", r.Count, board.Clock(r.FirstSeen)))
	}
	if risks := board.Risks(r); risks != "" {
		lines = append(lines, "Risk: "+risks)
	}
	if who := board.Process(r); who != "" {
		lines = append(lines, "Process: "+who)
	}
	if why := board.Reason(r); why != "" {
		lines = append(lines, "The agent says (untrusted): "+why)
	}
	if !canAct {
		lines = append(lines, "Answer with: terok clearance")
	}
	c.body = body(lines)
	return c
}

// actions are the buttons; everything else is in the menu and in terok clearance.
var actions = []struct {
	name   string
	choice control.Choice
	label  string
}{
	{"once", control.ChoiceOnce, "Allow once"},
	{"task", control.ChoiceTask, "Allow for task"},
	{"deny", control.ChoiceDeny, "Deny"},
}

// clicked reads an action key of ours: the choice and the hash of what was shown.
func clicked(key string) (c control.Choice, hash string, ok bool) {
	name, hash, _ := strings.Cut(key, "@")
	for _, a := range actions {
		if a.name == name {
			return a.choice, hash, true
		}
	}
	return "", "", false
}

// outcome takes the place of a question that was answered.
func outcome(r control.Request) content {
	verb := "Allowed: "
	if d := r.Decision; d != nil && (d.Choice == control.ChoiceDeny || d.Choice == control.ChoiceDenyAlways) {
		verb = "Denied: "
	}
	return content{title: title(verb, r), body: body([]string{"Task: " + board.Task(r), board.Outcome(r)}), transient: true}
}

// more stands for the requests beyond the cap.
func more(n int) content {
	what := "requests wait"
	if n == 1 {
		what = "request waits"
	}
	return content{title: fmt.Sprintf("%d more %s", n, what), body: "Answer with: terok clearance", urgent: true}
}

func protocol(r control.Request) string {
	from := map[string]string{"DNS": "from DNS", "TLS": "from TLS", "HTTP": "from HTTP", "address": "address only"}[board.Source(r)]
	return fmt.Sprintf("Protocol: %s, name %s", strings.ToUpper(text.Line(r.Proto, 8)), from)
}

// title is a verb and the target, whose right end is kept: the part that its owner cannot choose.
// Daemons show titles as they are, so nothing in it may look like markup to one that does not.
func title(verb string, r control.Request) string {
	t := verb + board.Tail(board.Target(r), maxTitle-len(verb))
	return strings.NewReplacer("<", "?", ">", "?", "&", "?").Replace(t)
}

// body joins lines, escaped, as far as they fit.
func body(lines []string) string {
	var b strings.Builder
	for _, l := range lines {
		if l == "" {
			continue
		}
		room := maxBody - b.Len()
		if b.Len() > 0 {
			room--
		}
		if room < 8 {
			break
		}
		if b.Len() > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(escape(l, room))
	}
	return b.String()
}

// escape makes s printable ASCII without markup (Desktop Notifications specification, "Markup"),
// at most max bytes; an entity is never cut.
func escape(s string, max int) string {
	var b strings.Builder
	for _, c := range []byte(text.Line(s, maxBody)) {
		e := string(rune(c))
		switch c {
		case '&':
			e = "&amp;"
		case '<':
			e = "&lt;"
		case '>':
			e = "&gt;"
		}
		if b.Len()+len(e) > max {
			break
		}
		b.WriteString(e)
	}
	return b.String()
}
