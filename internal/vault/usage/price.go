package usage

import (
	"fmt"
	"strings"

	"terok/internal/sandbox"
)

// Price is what a million tokens of a model cost.
type Price = sandbox.Price

// maxPrice is more than any model costs per million tokens, in dollars.
const maxPrice = 100_000

// CheckPrice checks a price that a person wrote.
func CheckPrice(p Price) error {
	for name, v := range map[string]float64{"input": p.Input, "output": p.Output, "cache_read": p.CacheRead,
		"cache_write": p.CacheWrite, "cache_long": p.CacheLong} {
		if !(v >= 0 && v <= maxPrice) {
			return fmt.Errorf("%s must be dollars per million tokens, from 0 to %d", name, maxPrice)
		}
	}
	return nil
}

// Prices are the prices of a provider's models by name.
type Prices map[string]Price

// Of finds the price of a model by its name or by its name without what says which of its versions
// it is: a date or "latest" at its end. gpt-5-mini is not gpt-5, so nothing else is cut off.
func (p Prices) Of(model string) (Price, bool) {
	if price, ok := p[model]; ok {
		return price, true
	}
	if i := strings.LastIndexByte(model, '/'); i >= 0 { // gateways put the vendor before it
		if price, ok := p.Of(model[i+1:]); ok {
			return price, true
		}
	}
	price, ok := p[unversioned(model)]
	return price, ok
}

func unversioned(model string) string {
	for _, sep := range []string{"@", ":"} {
		if base, version, ok := strings.Cut(model, sep); ok && (digits(version) || version == "latest") {
			return base
		}
	}
	if base, ok := strings.CutSuffix(model, "-latest"); ok {
		return base
	}
	if i := len(model) - len("-2026-01-02"); i > 0 && model[i] == '-' && model[i+5] == '-' && model[i+8] == '-' &&
		digits(strings.ReplaceAll(model[i:], "-", "")) {
		return model[:i]
	}
	if i := strings.LastIndexByte(model, '-'); i > 0 && (len(model)-i == 9 || len(model)-i == 5) && digits(model[i+1:]) {
		return model[:i] // -20260102, or -2601 as Mistral writes it
	}
	return model
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// Cost is what tokens of a model cost, in millionths of a dollar, rounded up; ok is false for a
// model without a price.
func (p Prices) Cost(model string, t Tokens) (microUSD int64, ok bool) {
	price, ok := p.Of(model)
	if !ok {
		return 0, false
	}
	or := func(v, other float64) float64 {
		if v == 0 {
			return other
		}
		return v
	}
	write := or(price.CacheWrite, price.Input)
	long := min(t.CacheLong, t.CacheWrite)
	sum := float64(t.Input)*price.Input + float64(t.Output)*price.Output + float64(t.CacheRead)*or(price.CacheRead, price.Input) +
		float64(t.CacheWrite-long)*write + float64(long)*or(price.CacheLong, write)
	micro := int64(sum)
	if float64(micro) < sum {
		micro++
	}
	return micro, true
}
