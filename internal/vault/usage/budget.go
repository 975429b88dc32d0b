package usage

import "terok/internal/sandbox"

// Budget bounds what is used.
type Budget = sandbox.Budget

// Span is whose usage a budget bounds.
type Span = sandbox.Span

// Used is how much of a budget a total uses: 1 is all of it.
func Used(b Budget, t Total) float64 {
	if b.MicroUSD > 0 {
		return float64(t.MicroUSD) / float64(b.MicroUSD)
	}
	return float64(t.Sum()) / float64(max(b.Tokens, 1))
}
