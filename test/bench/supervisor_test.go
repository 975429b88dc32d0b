package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// restTime is longer than a supervisor takes to notice that its work is over.
const restTime = 12 * time.Second

// BenchmarkSupervisorMemory: proportional set size of parent and worker of one sandbox, idle, right
// after a gigabyte, and once it rests again. PSS shares the program's pages among all that map
// them, as the machine does.
func BenchmarkSupervisorMemory(b *testing.B) {
	port := listen(b)
	for _, use := range []string{"idle", "after 1 GiB", "at rest after 1 GiB"} {
		var parent, worker float64
		compare(b, "supervisor memory, "+use, "MiB", "at most 20 MiB for both", 5,
			side{"parent and worker", func(int) float64 {
				parent, worker = supervisorPSS(b, port, use)
				return parent + worker
			}},
			side{"parent", func(int) float64 { return parent }},
			side{"worker", func(int) float64 { return worker }})
	}
}

func supervisorPSS(b *testing.B, port int, use string) (parent, worker float64) {
	b.Helper()
	t := newTree(b)
	t.run("sandbox", "run", "-d", "--name", "memory", "--mount", self(b)+":/bench:ro",
		"--allow", fmt.Sprintf("host:%d", port), image, "--", "sleep", "600")
	defer t.run("sandbox", "rm", "memory")
	if use != "idle" {
		askClient(b, "terok-sandbox-memory", "down", fmt.Sprintf("host.terok.internal:%d", port), strconv.Itoa(1<<30))
	}
	if strings.HasPrefix(use, "at rest") {
		time.Sleep(restTime)
	}
	var status struct {
		Data struct {
			Parent, Worker struct{ PID int }
		}
	}
	if err := json.Unmarshal([]byte(t.run("shield", "status", "memory", "--json")), &status); err != nil {
		b.Fatal(err)
	}
	return pss(b, status.Data.Parent.PID), pss(b, status.Data.Worker.PID)
}

// pss is the proportional set size of a process in MiB. Neither is dumpable: only root of
// podman's user namespace may look.
func pss(b *testing.B, pid int) float64 {
	b.Helper()
	out := must(b, os.Environ(), "podman", "unshare", "cat", fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			if kib, err := strconv.Atoi(f[1]); err == nil {
				return float64(kib) / 1024
			}
		}
	}
	b.Fatalf("no Pss of %d in %q", pid, out)
	return 0
}
