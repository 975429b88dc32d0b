package bench

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// BenchmarkVaultFront runs the front's own comparison, which needs its inside, and takes over
// every sample: terok's front and a bare httputil.ReverseProxy with TLS on both sides, in
// alternating rounds of one process.
func BenchmarkVaultFront(b *testing.B) {
	out := must(b, os.Environ(), "go", "test", "-run", "^$", "-bench", "FrontVersusReverseProxy", "-benchtime", "1x",
		"terok/internal/vault/front")
	rate := &result{Name: "vault front", Unit: "req/s", Target: "at least 10 000 and 0.9 × a bare ReverseProxy",
		Sides: []string{"front", "ReverseProxy"}, Samples: map[string][]float64{}}
	latency := &result{Name: "vault front, p50", Unit: "ms", Target: "at most 0.5 ms more than a bare ReverseProxy",
		Sides: rate.Sides, Samples: map[string][]float64{}}
	for line := range strings.Lines(out) {
		var n int
		var front, bare, ratio float64
		var frontP50, bareP50 string
		if k, _ := fmt.Sscanf(line, "round %d: front %f req/s p50 %s ReverseProxy %f req/s p50 %s ratio %f",
			&n, &front, &frontP50, &bare, &bareP50, &ratio); k != 6 {
			continue
		}
		fmt.Print("vault front ", line)
		rate.Samples["front"] = append(rate.Samples["front"], front)
		rate.Samples["ReverseProxy"] = append(rate.Samples["ReverseProxy"], bare)
		latency.Samples["front"] = append(latency.Samples["front"], milliseconds(b, frontP50))
		latency.Samples["ReverseProxy"] = append(latency.Samples["ReverseProxy"], milliseconds(b, bareP50))
	}
	if len(rate.Samples["front"]) == 0 {
		b.Fatalf("no rounds in:\n%s", out)
	}
	book.add(b, rate)
	book.add(b, latency)
}

func milliseconds(b *testing.B, s string) float64 {
	d, err := time.ParseDuration(strings.TrimSuffix(s, ","))
	if err != nil {
		b.Fatal(err)
	}
	return float64(d) / float64(time.Millisecond)
}
