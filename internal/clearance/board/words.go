package board

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/idna"
	"golang.org/x/net/publicsuffix"

	"terok/internal/control"
	"terok/internal/text"
)

// Every string of a request passes here on its way to a person. They are sanitised by the
// supervisor already; a supervisor whose worker was taken over must not reach a terminal either.

const maxName = 253 // bytes of a DNS name

// Host is the name or address that is asked for. A name with other letters than ASCII's is shown
// as its A-label: letters of two scripts can look the same.
func Host(r control.Request) string {
	host := r.Host
	if len(host) <= maxName && !printable(host) {
		if a, err := idna.Punycode.ToASCII(host); err == nil {
			host = a
		}
	}
	return text.Line(host, maxName)
}

// Target is HOST:PORT, with /udp where it is not TCP.
func Target(r control.Request) string {
	t := net.JoinHostPort(Host(r), strconv.Itoa(int(r.Port)))
	if r.Proto != "" && r.Proto != "tcp" {
		t += "/" + text.Line(r.Proto, 8)
	}
	return t
}

// Task is PROJECT/ID, or the name of a sandbox without a project.
func Task(r control.Request) string {
	if r.Project == "" {
		return text.Line(r.Key, 64)
	}
	return text.Line(r.Project+"/"+r.Task, 64)
}

// Source says where the name comes from.
func Source(r control.Request) string {
	switch r.NameSource {
	case "dns":
		return "DNS"
	case "sni":
		return "TLS"
	case "host":
		return "HTTP"
	}
	return "address"
}

// Domain is the part of the name that somebody registered, "" for an address or where there is
// none: what stands left of it is the owner's free choice and may be made to mislead.
func Domain(r control.Request) string {
	host := Host(r)
	if _, err := netip.ParseAddr(host); err == nil || net.ParseIP(host) != nil {
		return ""
	}
	d, err := publicsuffix.EffectiveTLDPlusOne(strings.ToLower(host))
	if err != nil {
		return ""
	}
	return d
}

// Why says in words what kind of request it is.
func Why(r control.Request) string {
	switch r.Kind {
	case control.NameBlocked:
		return "no rule lists this name"
	case control.FlowBlocked:
		return "no rule lists this address or port"
	case control.NameMismatch:
		return "the connection names another host: " + list(r.Names)
	case control.AgentAsked:
		return "the agent asks for it"
	case control.OverBudget:
		return "its egress budget is used up"
	case control.VaultBudget:
		return "a budget of the vault is used up: " + list(r.Names)
	case control.Flood:
		return "stands for many that are not shown, such as " + list(r.Names)
	}
	return text.Line(string(r.Kind), 40)
}

func list(names []string) string {
	var out []string
	for _, n := range names[:min(len(names), 5)] {
		out = append(out, text.Line(n, 80))
	}
	return strings.Join(out, ", ")
}

// Risks are the flags of the target, joined.
func Risks(r control.Request) string { return list(r.Risk) }

// Reason is what the agent says it wants, quoted: it is not to be trusted.
func Reason(r control.Request) string {
	if r.Reason == "" {
		return ""
	}
	return strconv.Quote(text.Line(r.Reason, 200))
}

// Process is who asked first, as it calls itself, with its number on this host; "" for unknown.
func Process(r control.Request) string { return text.Line(r.Process, 64) }

// scope says how far a choice reaches.
func scope(c control.Choice) string {
	switch c {
	case control.ChoiceOnce:
		return "for 15 minutes"
	case control.ChoiceTask:
		return "for the task"
	case control.ChoiceProject:
		return "for the project"
	case control.ChoiceDomain:
		return "with all names below it, for the task"
	case control.ChoiceDeny:
		return "for an hour"
	case control.ChoiceDenyAlways:
		return "always"
	}
	return text.Line(string(c), 20)
}

// Grant says what a choice does, before it is made.
func Grant(r control.Request, c control.Choice) string {
	verb := "allow"
	if c == control.ChoiceDeny || c == control.ChoiceDenyAlways {
		verb = "deny"
	}
	if c == control.ChoiceProject {
		return fmt.Sprintf("allow %s in every task of %s (project.yml)", Target(r), text.Line(r.Project, 64))
	}
	return fmt.Sprintf("%s %s %s", verb, Target(r), scope(c))
}

// Outcome says how a request ended: "allowed for the task by ada (menu)".
func Outcome(r control.Request) string {
	d := r.Decision
	switch {
	case r.State == control.RequestOpen && d != nil && d.Error != "":
		return "could not be applied: " + text.Line(d.Error, 200)
	case r.State == control.RequestOpen:
		return "waits for you"
	case r.State == control.RequestApplying:
		return "is being applied"
	case r.State == control.RequestExpired:
		return "expired: nobody asked again"
	case r.State == control.RequestCancelled:
		return "the container stopped"
	case r.State == control.RequestSuperseded && d == nil:
		return "answered by a rule"
	case d == nil:
		return text.Line(string(r.State), 20)
	}
	verb := "allowed"
	if d.Choice == control.ChoiceDeny || d.Choice == control.ChoiceDenyAlways {
		verb = "denied"
	}
	out := verb + " " + scope(d.Choice)
	if d.Actor != "" {
		out += " by " + text.Line(d.Actor, 40)
	}
	if d.Via != "" {
		out += " (" + text.Line(d.Via, 20) + ")"
	}
	return out + Elsewhere(r)
}

// Elsewhere is what became of the project's other tasks, after a semicolon, or "".
func Elsewhere(r control.Request) string {
	if r.Elsewhere == "" {
		return ""
	}
	return "; " + text.Line(r.Elsewhere, 200)
}

// Age is a duration in at most four characters.
func Age(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
	return fmt.Sprintf("%dd", int(d.Hours()/24))
}

// Clock is the local time of day.
func Clock(t time.Time) string { return t.Local().Format("15:04:05") }

// Tail cuts s to max bytes from the left: the right end of a name is the part that its owner
// cannot choose.
func Tail(s string, max int) string {
	if len(s) <= max {
		return s
	}
	if max < 4 {
		return s[len(s)-max:]
	}
	return "..." + s[len(s)-max+3:]
}
