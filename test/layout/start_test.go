package layout

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
)

const (
	maxInit  = 0.5 // milliseconds
	initRuns = 15
)

// initLine is a line of GODEBUG=inittrace=1, e.g. "init net @0.5 ms, 0.012 ms clock, 9 bytes, 1 allocs".
var initLine = regexp.MustCompile(`(?m)^init (\S+) @\S+ ms, (\S+) ms clock`)

// TestInitIsCheap: every start of the program pays for every package, and the hook is on the
// way of each container start. The least of several runs counts, since the machine is shared.
func TestInitIsCheap(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "terok")
	build := exec.Command("go", "build", "-o", bin, "terok/cmd/terok")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cost := map[string][]float64{}
	for range initRuns {
		var trace bytes.Buffer
		cmd := exec.Command(bin, "--version")
		cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
		cmd.Stderr = &trace
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v\n%s", err, trace.Bytes())
		}
		for _, m := range initLine.FindAllStringSubmatch(trace.String(), -1) {
			ms, err := strconv.ParseFloat(m[2], 64)
			if err != nil {
				t.Fatal(err)
			}
			cost[m[1]] = append(cost[m[1]], ms)
		}
	}
	if len(cost) < 10 {
		t.Fatalf("the trace shows only %d packages", len(cost))
	}
	for pkg, runs := range cost {
		slices.Sort(runs)
		// The least of many: a loaded machine only adds.
		least := runs[0]
		if least > maxInit {
			t.Errorf("the init of %s takes %.2f ms (%v): at most %.1f ms", pkg, least, runs, maxInit)
		}
		if least > maxInit/4 {
			t.Logf("%s: %.2f ms", pkg, least)
		}
	}
}
