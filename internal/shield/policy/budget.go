package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// Breach says what happens when a budget is used up.
type Breach string

// Values of Budget.Breach.
const (
	BreachAsk        Breach = "ask"        // what sends waits for a verdict, and is cut without one
	BreachQuarantine Breach = "quarantine" // the whole container is cut off
)

// Budget bounds what leaves a container: so many bytes in any span of the window, by everything or
// by all connections to one target together. Its text form, in project.yml and in policy.json, is
//
//	budget = [ target " " ] size "/" unit [ " " breach ]
//	target = name | "*." name | "." name | ip
//	size   = digits [ "." digits ] [ "B" | "kB" | "MB" | "GB" | "KiB" | "MiB" | "GiB" ]
//	unit   = "m" | "h" | "d"     (any minute, hour or 24 hours)
//	breach = "ask" | "quarantine"
//
// for example "200MB/h" or "*.example.org 10MB/d quarantine".
type Budget struct {
	Target string // canonical; "" for everything together
	Bytes  uint64
	Window time.Duration
	Breach Breach

	rule Rule // of the target
}

// maxBudgets bounds the list of a document.
const maxBudgets = 64

var budgetUnits = []struct {
	name  string
	bytes float64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

var budgetWindows = map[string]time.Duration{"m": time.Minute, "h": time.Hour, "d": 24 * time.Hour}

// ParseBudget reads the text form.
func ParseBudget(s string) (Budget, error) {
	b := Budget{Breach: BreachAsk}
	fields := strings.Fields(s)
	if n := len(fields); n > 1 {
		switch last := Breach(fields[n-1]); last {
		case BreachAsk, BreachQuarantine:
			b.Breach, fields = last, fields[:n-1]
		}
	}
	switch len(fields) {
	case 1:
	case 2:
		r, err := ParseRule("-"+fields[0], Denied, "") // a deny: it takes wildcards and needs no reason
		if err != nil || r.parsed.kind == kindHost || r.parsed.kind == kindPrefix && !r.parsed.prefix.IsSingleIP() ||
			!r.parsed.ports.equal(allPorts) || r.parsed.protos != tcp|udp {
			return Budget{}, fmt.Errorf("%s is not a name, *.name, .name or an address", strconv.QuoteToASCII(fields[0]))
		}
		b.Target, b.rule, fields = r.Target(), r, fields[1:]
	default:
		return Budget{}, errors.New(`write a budget as "200MB/h" or "NAME 10MB/d quarantine"`)
	}
	size, unit, _ := strings.Cut(fields[0], "/")
	if b.Window = budgetWindows[unit]; b.Window == 0 {
		return Budget{}, errors.New("a budget is per minute, hour or day: SIZE/m, SIZE/h or SIZE/d")
	}
	factor := 1.0
	for _, u := range budgetUnits {
		if rest, ok := strings.CutSuffix(size, u.name); ok {
			size, factor = rest, u.bytes
			break
		}
	}
	n, err := strconv.ParseFloat(size, 64)
	if err != nil || strings.Trim(size, "0123456789.") != "" || n*factor < 1 || n*factor > 1<<50 {
		return Budget{}, fmt.Errorf("%s is not a size such as 200MB (B, kB, MB, GB, KiB, MiB, GiB)", strconv.QuoteToASCII(fields[0]))
	}
	b.Bytes = uint64(n * factor)
	return b, nil
}

// String returns the canonical text form; ParseBudget of it gives the same budget.
func (b Budget) String() string {
	var s strings.Builder
	if b.Target != "" {
		s.WriteString(b.Target + " ")
	}
	n, unit := b.Bytes, "B"
	for _, u := range []struct {
		name  string
		bytes uint64
	}{{"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}} {
		if b.Bytes%u.bytes == 0 {
			n, unit = b.Bytes/u.bytes, u.name
		}
	}
	s.WriteString(strconv.FormatUint(n, 10) + unit + "/")
	for name, w := range budgetWindows {
		if w == b.Window {
			s.WriteString(name)
		}
	}
	if b.Breach != BreachAsk {
		s.WriteString(" " + string(b.Breach))
	}
	return s.String()
}

// Covers tells whether traffic with a name, or with a literal address where name is "", counts.
func (b Budget) Covers(name string, a netip.Addr) bool {
	q := &b.rule.parsed
	switch {
	case b.Target == "":
		return true
	case q.kind == kindPrefix:
		return name == "" && q.prefix.Addr() == a
	case q.kind == kindName:
		return name == q.name
	case q.kind == kindSuffix && name == q.name:
		return true
	}
	return strings.HasSuffix(name, "."+q.name)
}

// MarshalText returns the canonical text form.
func (b Budget) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText is ParseBudget.
func (b *Budget) UnmarshalText(text []byte) error {
	p, err := ParseBudget(string(text))
	if err == nil {
		*b = p
	}
	return err
}

// Budgets is the list of a project: one text, or a list of them.
type Budgets []Budget

// UnmarshalConfig reads what project.yml has: a string or a list of strings.
func (l *Budgets) UnmarshalConfig(value any) error {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	var out Budgets
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return errors.New(`must be a budget such as "200MB/h", or a list of them`)
		}
		b, err := ParseBudget(s)
		if err != nil {
			return err
		}
		out = append(out, b)
	}
	if len(out) > maxBudgets {
		return fmt.Errorf("more than %d budgets", maxBudgets)
	}
	*l = out
	return nil
}
