package guest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/text"
)

// Exit codes of ask and why.
const (
	exitOpen    = 0
	exitClosed  = 1
	exitPending = 3 // nobody has answered, or too much was asked
)

// defaultWait is how long a question waits unless it says otherwise.
const defaultWait = 120 * time.Second

const askUsage = `usage: terok guest ask HOST[:PORT] --reason TEXT [--wait 120s]

Asks the operator to open a host for this task and waits for the answer. Port 443 without one.
Exit code: 0 it is open, 1 it stays closed, 3 no answer yet.

  terok guest ask registry.npmjs.org --reason "npm ci of the web client"
  terok guest ask example.org:22 --reason "clone the fixtures" --wait 0s`

// whyMain is `terok guest why HOST[:PORT]`.
func whyMain(args []string, out io.Writer) int {
	if len(args) != 1 || strings.HasPrefix(args[0], "-") {
		fmt.Fprintln(out, "usage: terok guest why HOST[:PORT]")
		return exitUsage
	}
	host, port, err := hostPort(args[0])
	if err != nil {
		fmt.Fprintln(out, "terok:", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	q := url.Values{"host": {host}}
	if port != 0 {
		q.Set("port", strconv.Itoa(int(port)))
	}
	var e control.Explanation
	if err := newSupervisor().call(ctx, http.MethodGet, "/v1/why?"+q.Encode(), nil, &e); err != nil {
		fmt.Fprintln(out, "no answer from terok:", err)
		return exitClosed
	}
	return explain(out, e)
}

// explain prints why a target is open or closed, and what can be done.
func explain(out io.Writer, e control.Explanation) int {
	target := text.Line(net.JoinHostPort(e.Target.Host, strconv.Itoa(int(e.Target.Port))), 300)
	reason := text.Line(e.Reason, 0)
	switch {
	case e.Verdict == "allow":
		fmt.Fprintf(out, "%s is open: %s\n", target, reason)
		return exitOpen
	case e.Askable:
		fmt.Fprintf(out, "%s is closed: %s\nTo ask for it: %s guest ask %s --reason \"what it is needed for\"\n", target, reason, sandbox.GuestProgram, target)
	default:
		fmt.Fprintf(out, "%s is closed: %s\nAsking does not help; only a person outside can change that", target, reason)
		if e.Hint != "" {
			fmt.Fprintf(out, ": %s", text.Line(e.Hint, 0))
		}
		fmt.Fprintln(out)
	}
	return exitClosed
}

// askMain is `terok guest ask HOST[:PORT] --reason TEXT [--wait D]`.
func askMain(args []string, out io.Writer) int {
	q, err := parseAsk(args)
	if err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(out, "terok:", err)
		}
		fmt.Fprintln(out, askUsage)
		return exitUsage
	}
	// The answer may come as late as the wait ends.
	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(q.Seconds)*time.Second+10*time.Second)
	defer cancel()
	var a control.AskAnswer
	if err := newSupervisor().call(ctx, http.MethodPost, "/v1/ask", q, &a); err != nil {
		fmt.Fprintln(out, "no answer from terok:", err)
		return exitPending
	}
	return answered(out, a)
}

// answered prints the answer to a question.
func answered(out io.Writer, a control.AskAnswer) int {
	target := text.Line(net.JoinHostPort(a.Target.Host, strconv.Itoa(int(a.Target.Port))), 300)
	fmt.Fprintf(out, "%s: %s (%s)\n", text.Line(string(a.State), 20), target, text.Line(a.Reason, 0))
	switch a.State {
	case control.AskAllowed:
		return exitOpen
	case control.AskDenied:
		return exitClosed
	}
	return exitPending
}

// parseAsk reads the arguments; the flags may stand before or behind the host.
func parseAsk(args []string) (control.AskQuestion, error) {
	var q control.AskQuestion
	f := flag.NewFlagSet("ask", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&q.Reason, "reason", "", "")
	wait := f.Duration("wait", defaultWait, "")
	if err := f.Parse(args); err != nil {
		return q, err
	}
	host := f.Arg(0)
	if f.NArg() > 0 {
		if err := f.Parse(f.Args()[1:]); err != nil {
			return q, err
		}
	}
	switch {
	case host == "" || f.NArg() > 0:
		return q, errors.New("one HOST[:PORT] is needed")
	case strings.TrimSpace(q.Reason) == "":
		return q, errors.New("--reason is needed: the operator decides by it")
	case len(q.Reason) > 200:
		return q, errors.New("--reason takes at most 200 bytes")
	case *wait < 0 || *wait > control.MaxAskSeconds*time.Second:
		return q, fmt.Errorf("--wait takes 0s to %ds", control.MaxAskSeconds)
	}
	q.Seconds = int(wait.Round(time.Second) / time.Second)
	var err error
	q.Host, q.Port, err = hostPort(host)
	return q, err
}

// hostPort reads HOST, HOST:PORT, [V6]:PORT or a URL's host; the port is 0 when there is none.
func hostPort(s string) (string, uint16, error) {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		if s = u.Host; u.Port() == "" && u.Scheme == "http" {
			s = net.JoinHostPort(u.Hostname(), "80")
		}
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = strings.Trim(s, "[]"), ""
	}
	if host == "" || len(host) > 253 || strings.ContainsAny(host, " /\t\n") {
		return "", 0, fmt.Errorf("%s is not HOST or HOST:PORT", strconv.QuoteToASCII(text.Line(s, 80)))
	}
	if port == "" {
		return host, 0, nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return "", 0, fmt.Errorf("%s is not a port", strconv.QuoteToASCII(text.Line(port, 20)))
	}
	return host, uint16(n), nil
}
