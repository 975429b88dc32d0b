// Package usage counts what a task's requests to model providers cost: tokens by the providers'
// own usage fields, money by a table of prices, and budgets over both.
//
//   - Meter reads an answer as it streams by, in any pieces, keeps none of it, and knows the usage
//     fields of Anthropic Messages, OpenAI Responses and OpenAI Chat Completions.
//   - Prices turns tokens of a model into money. A model that is not in the table costs nothing and
//     is counted in Total.Unpriced: nobody is told a made-up price.
//   - Book is the account of one task: JSON Lines, one per request, in a directory that the tasks
//     of a project share, so that every task can read what the others used and writes only its own.
//   - Budget bounds what a task, a project, or the tasks of a project in one day may use.
//
// An answer that ends before its usage field, because the client went away or asked for none, is
// estimated, or a task could spend without being counted: see Meter.Tokens.
package usage

// Tokens is what one or more requests used.
type Tokens struct {
	Input      int64 `json:"input"`       // read by the model, without what came from a cache
	Output     int64 `json:"output"`      // written by the model, with its thinking
	CacheRead  int64 `json:"cache_read"`  // input that came from a cache
	CacheWrite int64 `json:"cache_write"` // input that was put into a cache
	// CacheLong is the part of CacheWrite that is kept for an hour, which costs more.
	CacheLong int64 `json:"cache_long,omitempty"`
}

// Sum is all tokens, as budgets count them.
func (t Tokens) Sum() int64 { return t.Input + t.Output + t.CacheRead + t.CacheWrite }

// Add adds o.
func (t *Tokens) Add(o Tokens) {
	t.Input = plus(t.Input, o.Input)
	t.Output = plus(t.Output, o.Output)
	t.CacheRead = plus(t.CacheRead, o.CacheRead)
	t.CacheWrite = plus(t.CacheWrite, o.CacheWrite)
	t.CacheLong = plus(t.CacheLong, o.CacheLong)
}

// maxSum is where sums stop: a book that lies must not make them turn over and be nothing again.
const maxSum = 1 << 60

// plus adds two counts that are not negative.
func plus(a, b int64) int64 { return min(min(a, maxSum)+min(b, maxSum), maxSum) }

// max0 keeps a lying provider from making anything cheaper.
func (t *Tokens) max0() {
	for _, n := range []*int64{&t.Input, &t.Output, &t.CacheRead, &t.CacheWrite, &t.CacheLong} {
		*n = min(max(*n, 0), maxCount)
	}
}

// maxCount is more tokens than any request has.
const maxCount = 1e10
