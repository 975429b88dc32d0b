package guest

import (
	"bytes"
	"strings"
	"testing"

	"terok/internal/control"
)

func TestParseAsk(t *testing.T) {
	for _, c := range []struct {
		args string
		want control.AskQuestion
		bad  bool
	}{
		{args: "a.test|--reason|npm ci", want: control.AskQuestion{Host: "a.test", Reason: "npm ci", Seconds: 120}},
		{args: "--reason|x|a.test:8443", want: control.AskQuestion{Host: "a.test", Port: 8443, Reason: "x", Seconds: 120}},
		{args: "--wait|0s|a.test:22|--reason|x", want: control.AskQuestion{Host: "a.test", Port: 22, Reason: "x"}},
		{args: "[2001:db8::1]:443|-reason=x|-wait=1m", want: control.AskQuestion{Host: "2001:db8::1", Port: 443, Reason: "x", Seconds: 60}},
		{args: "https://a.test/path?q|--reason|x", want: control.AskQuestion{Host: "a.test", Reason: "x", Seconds: 120}},
		{args: "http://a.test/|--reason|x", want: control.AskQuestion{Host: "a.test", Port: 80, Reason: "x", Seconds: 120}},
		{args: "", bad: true},
		{args: "a.test", bad: true},
		{args: "a.test|--reason| ", bad: true},
		{args: "a.test|b.test|--reason|x", bad: true},
		{args: "a.test|--reason|" + strings.Repeat("x", 201), bad: true},
		{args: "a.test|--reason|x|--wait|11m", bad: true},
		{args: "a.test|--reason|x|--wait|-1s", bad: true},
		{args: "a.test:0|--reason|x", bad: true},
		{args: "a.test:99999|--reason|x", bad: true},
		{args: "a b|--reason|x", bad: true},
		{args: "a.test|--reason|x|--force", bad: true},
	} {
		got, err := parseAsk(strings.Split(c.args, "|"))
		if (err != nil) != c.bad || !c.bad && got != c.want {
			t.Errorf("%s: %+v, %v", c.args, got, err)
		}
	}
}

// TestAnswersAreClear: one line, an exit code, and the next step for the model that reads it.
func TestAnswersAreClear(t *testing.T) {
	for state, code := range map[control.AskState]int{control.AskAllowed: 0, control.AskDenied: 1, control.AskPending: 3, control.AskLimited: 3, "new": 3} {
		var b bytes.Buffer
		if got := answered(&b, control.AskAnswer{State: state, Target: control.Target{Host: "a.test", Port: 443}, Reason: "because\x1b[31m"}); got != code {
			t.Errorf("%s: exit code %d", state, got)
		}
		if s := b.String(); !strings.HasPrefix(s, string(state)+": a.test:443 (because") || strings.Count(s, "\n") != 1 || strings.Contains(s, "\x1b") {
			t.Errorf("%q", s)
		}
	}
	for want, e := range map[string]control.Explanation{
		"is open":                        {Verdict: "allow"},
		"guest ask a.test:443 --reason ": {Verdict: "deny", Tier: "default", Askable: true, Hint: "terok shield allow"},
		"Asking does not help":           {Verdict: "deny", Tier: "deny"},
		"terok shield allow P/T":         {Verdict: "deny", Tier: "session", Hint: "terok shield allow P/T"},
	} {
		var b bytes.Buffer
		e.Target = control.Target{Host: "a.test", Port: 443}
		if code := explain(&b, e); (code == 0) != (e.Verdict == "allow") || !strings.Contains(b.String(), want) {
			t.Errorf("%+v: %d %q", e, code, b.String())
		}
	}
}

func FuzzHostPort(f *testing.F) {
	for _, s := range []string{"a.test", "a.test:443", "[::1]:1", "https://u:p@a.test:8/x", "a b", "[", ":", "a\x00", "http://[::1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		host, _, err := hostPort(s)
		if err == nil && (host == "" || len(host) > 253 || strings.ContainsAny(host, " /\t\n")) {
			t.Errorf("%q is %q", s, host)
		}
		if err != nil && strings.ContainsFunc(err.Error(), func(c rune) bool { return c < ' ' || c > '~' }) {
			t.Errorf("%q: %q", s, err)
		}
	})
}
