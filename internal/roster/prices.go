package roster

import (
	"maps"

	"terok/internal/vault/usage"
)

// Prices of models in dollars per million tokens, from the vendors' public lists as of early 2026.
// Long contexts, batches and priority tiers cost something else; providers/NAME.yml can say so
// (prices). A model that is in no list is counted in tokens only.

// claude is Anthropic's rule for caches: a tenth to read, a quarter more to write, twice as much
// to write for an hour.
func claude(input, output float64) usage.Price {
	return usage.Price{Input: input, Output: output, CacheRead: input / 10, CacheWrite: input * 1.25, CacheLong: input * 2}
}

func anthropicPrices() usage.Prices {
	return usage.Prices{
		"claude-opus-4-6": claude(5, 25), "claude-sonnet-4-6": claude(3, 15),
		"claude-opus-4-5": claude(5, 25), "claude-opus-4-1": claude(15, 75), "claude-opus-4": claude(15, 75), "claude-opus-4-0": claude(15, 75),
		"claude-sonnet-4-5": claude(3, 15), "claude-sonnet-4": claude(3, 15), "claude-sonnet-4-0": claude(3, 15), "claude-3-7-sonnet": claude(3, 15),
		"claude-haiku-4-5": claude(1, 5), "claude-3-5-haiku": claude(0.8, 4), "claude-3-haiku": claude(0.25, 1.25),
	}
}

func openaiPrices() usage.Prices {
	gpt := func(input, cached, output float64) usage.Price {
		return usage.Price{Input: input, CacheRead: cached, Output: output}
	}
	return usage.Prices{
		"gpt-5.2": gpt(1.75, 0.175, 14), "gpt-5.2-codex": gpt(1.75, 0.175, 14),
		"gpt-5.1": gpt(1.25, 0.125, 10), "gpt-5.1-codex": gpt(1.25, 0.125, 10), "gpt-5.1-codex-mini": gpt(0.25, 0.025, 2),
		"gpt-5": gpt(1.25, 0.125, 10), "gpt-5-codex": gpt(1.25, 0.125, 10), "gpt-5-mini": gpt(0.25, 0.025, 2), "gpt-5-nano": gpt(0.05, 0.005, 0.4),
		"gpt-4.1": gpt(2, 0.5, 8), "gpt-4.1-mini": gpt(0.4, 0.1, 1.6), "gpt-4.1-nano": gpt(0.1, 0.025, 0.4),
		"gpt-4o": gpt(2.5, 1.25, 10), "gpt-4o-mini": gpt(0.15, 0.075, 0.6), "o3": gpt(2, 0.5, 8), "o4-mini": gpt(1.1, 0.275, 4.4),
	}
}

func mistralPrices() usage.Prices {
	return usage.Prices{
		"devstral-medium": {Input: 0.4, Output: 2}, "devstral-small": {Input: 0.1, Output: 0.3}, "codestral": {Input: 0.3, Output: 0.9},
		"mistral-medium": {Input: 0.4, Output: 2}, "mistral-small": {Input: 0.1, Output: 0.3},
	}
}

// vendorPrices are for gateways that pass the vendors' prices on.
func vendorPrices() usage.Prices {
	all := usage.Prices{}
	for _, p := range []usage.Prices{anthropicPrices(), openaiPrices(), mistralPrices()} {
		maps.Copy(all, p)
	}
	return all
}
