package bench

import (
	"fmt"
	"maps"
	"os"
	"slices"
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

// BenchmarkVaultFlows takes over what the front measures besides requests per second: the first
// event of a stream, 100 MiB either way, and the events of 200 streams at a time; against a bare
// httputil.ReverseProxy with TLS on both sides, which is what any proxy there costs, and against the
// upstream without anything in between. All sides run on one machine here, so a body costs the
// processor twice the cryptography that it costs directly.
func BenchmarkVaultFlows(b *testing.B) {
	out := must(b, os.Environ(), "go", "test", "-run", "^$", "-bench", "FrontFlows", "-benchtime", "1x", "terok/internal/vault/front")
	targets := map[string]string{"first event": "at most 1 ms later", "100 MiB down": "at most 1.3 × direct", "100 MiB up": "at most 1.3 × direct",
		"200 streams, event": "no event lost"}
	flows := map[string]*result{}
	for line := range strings.Lines(out) {
		var name string
		var front, bare, direct float64
		if k, _ := fmt.Sscanf(line, "flow %q %f %f %f ms", &name, &front, &bare, &direct); k != 4 {
			continue
		}
		fmt.Print("vault front ", line)
		r := flows[name]
		if r == nil {
			r = &result{Name: "vault front, " + name, Unit: "ms", Target: targets[name], Sides: []string{"front", "ReverseProxy", "direct"}, Samples: map[string][]float64{}}
			flows[name] = r
		}
		for side, took := range map[string]float64{"front": front, "ReverseProxy": bare, "direct": direct} {
			r.Samples[side] = append(r.Samples[side], took)
		}
	}
	if len(flows) != len(targets) {
		b.Fatalf("flows are missing in:\n%s", out)
	}
	for _, name := range slices.Sorted(maps.Keys(flows)) {
		book.add(b, flows[name])
	}
}

func milliseconds(b *testing.B, s string) float64 {
	d, err := time.ParseDuration(strings.TrimSuffix(s, ","))
	if err != nil {
		b.Fatal(err)
	}
	return float64(d) / float64(time.Millisecond)
}
