package bench

import "testing"

// BenchmarkPosture: one command each, from its start to its end: what the new state refuses is cut
// by then. `terok --version` is what a command costs that does nothing.
func BenchmarkPosture(b *testing.B) {
	t := newTree(b)
	t.start("posture")
	verb := func(args ...string) func(int) float64 {
		return func(int) float64 { return timed(b, t.environ(), t.terok, append([]string{"shield"}, args...)...) }
	}
	compare(b, "posture and verdict by command", "ms", "at most 20 ms each", 30,
		side{"down", verb("down", "posture", "--reason", "bench")},
		side{"up", verb("up", "posture")},
		side{"quarantine", verb("quarantine", "posture")},
		side{"up again", verb("up", "posture")},
		side{"allow", verb("allow", "posture", "example.org:443")},
		side{"deny", verb("deny", "posture", "example.org")},
		side{"--version", func(int) float64 { return timed(b, t.environ(), t.terok, "--version") }})
}
