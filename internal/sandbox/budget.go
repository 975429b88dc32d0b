package sandbox

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"terok/internal/text"
)

// Span is whose usage a budget bounds.
type Span string

// Spans of a budget.
const (
	PerTask    Span = "task"    // this task, from its beginning
	PerProject Span = "project" // all tasks of the project, from its beginning
	PerDay     Span = "day"     // all tasks of the project, since midnight UTC
)

// Budget is how much of providers' services tasks may use: an amount per span, of money
// (MicroUSD, millionths of a dollar) or of Tokens; the other is 0.
type Budget struct {
	MicroUSD int64
	Tokens   int64
	Span     Span
}

var errBudget = errors.New(`write a budget as "5 USD/task", "20 USD/day" or "2M tokens/project"`)

// ParseBudget reads "AMOUNT USD/SPAN" or "COUNT tokens/SPAN": an amount has up to six decimals
// (and may be written "$5"), a count may end in k, M or G (powers of 1000), a span is task, project
// or day.
func ParseBudget(s string) (Budget, error) {
	amount, span, ok := strings.Cut(strings.TrimSpace(s), "/")
	b := Budget{Span: Span(strings.TrimSpace(span))}
	if !ok || b.Span != PerTask && b.Span != PerProject && b.Span != PerDay {
		return Budget{}, errBudget
	}
	amount = strings.TrimSpace(amount)
	number, dollars := strings.CutPrefix(amount, "$")
	if !dollars {
		number, dollars = strings.CutSuffix(amount, "USD")
	}
	if dollars {
		f, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(f >= 0.000001 && f <= 1e6) {
			return Budget{}, errBudget
		}
		b.MicroUSD = int64(f*1e6 + 0.5)
		return b, nil
	}
	number, ok = strings.CutSuffix(amount, "tokens")
	if !ok {
		return Budget{}, errBudget
	}
	number = strings.TrimSpace(number)
	factor := 1.0
	for unit, f := range map[string]float64{"k": 1e3, "M": 1e6, "G": 1e9} {
		if n, ok := strings.CutSuffix(number, unit); ok {
			number, factor = strings.TrimSpace(n), f
			break
		}
	}
	f, err := strconv.ParseFloat(number, 64)
	if err != nil || !(f*factor >= 1 && f*factor <= 1e15) {
		return Budget{}, errBudget
	}
	b.Tokens = int64(f*factor + 0.5)
	return b, nil
}

// String is the canonical form.
func (b Budget) String() string { return b.Amount() + "/" + string(b.Span) }

// Amount is the budget without its span.
func (b Budget) Amount() string {
	if b.MicroUSD > 0 {
		return strconv.FormatFloat(float64(b.MicroUSD)/1e6, 'f', -1, 64) + " USD"
	}
	for _, u := range []struct {
		n    int64
		name string
	}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
		if b.Tokens%u.n == 0 {
			return strconv.FormatInt(b.Tokens/u.n, 10) + u.name + " tokens"
		}
	}
	return strconv.FormatInt(b.Tokens, 10) + " tokens"
}

// MarshalText is String.
func (b Budget) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText is ParseBudget.
func (b *Budget) UnmarshalText(text []byte) error {
	p, err := ParseBudget(string(text))
	if err == nil {
		*b = p
	}
	return err
}

// Budgets is a list of them: in a file one text, or a list of texts.
type Budgets []Budget

// maxBudgets bounds a list.
const maxBudgets = 16

// UnmarshalConfig implements config.Unmarshaler.
func (l *Budgets) UnmarshalConfig(value any) error {
	list, ok := value.([]any)
	if !ok {
		list = []any{value}
	}
	out := Budgets{}
	for _, v := range list {
		s, ok := v.(string)
		if !ok {
			return errBudget
		}
		if s == "" && len(list) == 1 {
			break // none
		}
		b, err := ParseBudget(s)
		if err != nil {
			return fmt.Errorf("%q: %w", text.Line(s, 40), err)
		}
		out = append(out, b)
	}
	if len(out) > maxBudgets {
		return fmt.Errorf("more than %d budgets", maxBudgets)
	}
	*l = out
	return nil
}
