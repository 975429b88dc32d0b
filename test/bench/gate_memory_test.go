package bench

import (
	"bufio"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/gate/server"
	"terok/internal/git"
)

// gateMain serves a task's repository until stdin ends, in a process of its own whose memory can be looked
// at: arguments are the repository and its base.
func gateMain(args []string) int {
	s := httptest.NewServer(http.Handler(server.New(server.Config{Git: &git.Runner{}, Repo: args[0], Base: args[1], Token: gateToken,
		Limits: server.Limits{Quota: 16 << 30, MaxPack: 1 << 30}})))
	defer s.Close()
	fmt.Println(s.URL)
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// memory is what processes have in memory now, in MiB: pid and all that descend from it. anon are their own
// pages, all counts mapped files and shared pages too, once for each process that has them.
func memory(pid int) (all, anon float64) {
	parents := map[int]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range stats {
		data, _ := os.ReadFile(f)
		_, rest, ok := strings.Cut(string(data), ") ")
		if w := strings.Fields(rest); ok && len(w) > 1 {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			parents[child], _ = strconv.Atoi(w[1])
		}
	}
	for child := range parents {
		for p := child; p > 1; p = parents[p] {
			if p != pid {
				continue
			}
			data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", child))
			for line := range strings.Lines(string(data)) {
				var kib float64
				if _, err := fmt.Sscanf(line, "VmRSS: %f kB", &kib); err == nil {
					all += kib / 1024
				}
				if _, err := fmt.Sscanf(line, "RssAnon: %f kB", &kib); err == nil {
					anon += kib / 1024
				}
			}
			break
		}
	}
	return all, anon
}

// BenchmarkGatePushMemory: the most memory that the server and its git processes have together while 500 MB
// are pushed, looked at every 10 ms: of the server alone, of all of them without and with mapped files.
func BenchmarkGatePushMemory(b *testing.B) {
	g := newGated(b, 100, 1000, 1)
	var server, anon, all, took float64
	compare(b, "gate: memory of a push of 500 MB", "MiB", "at most 100 MiB in the server", 3,
		side{"server", func(round int) float64 {
			server, anon, all = 0, 0, 0
			t := g.gateTask(fmt.Sprintf("t%d", round+1))
			work, done := g.fresh("work", round)
			defer done()
			g.git(g.dir, "clone", "-q", "--shared", "--no-checkout", t.Repo, work)
			g.load(work, t.Branch, 100, 5_000_000)
			cmd := exec.Command(self(b), "gate", t.Repo, t.Base)
			in, _ := cmd.StdinPipe()
			out, _ := cmd.StdoutPipe()
			if err := cmd.Start(); err != nil {
				b.Fatal(err)
			}
			url, err := bufio.NewReader(out).ReadString('\n')
			if err != nil {
				b.Fatal(err)
			}
			url = strings.Replace(strings.TrimSpace(url), "http://", "http://x:"+gateToken+"@", 1) + "/task.git"
			stop := make(chan struct{})
			var watch sync.WaitGroup
			watch.Go(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(10 * time.Millisecond):
					}
					if one, _ := resident(b, cmd.Process.Pid); one > server {
						server = one
					}
					if a, n := memory(cmd.Process.Pid); a > 0 {
						all, anon = max(all, a), max(anon, n)
					}
				}
			})
			took = timed(b, clientEnv(), "git", "-C", work, "push", "-q", url, "refs/heads/"+t.Branch) / 1000
			close(stop)
			watch.Wait()
			in.Close()
			if err := cmd.Wait(); err != nil {
				b.Fatal(err)
			}
			return server
		}},
		side{"server and git, own pages", func(int) float64 { return anon }},
		side{"server and git, mapped files too", func(int) float64 { return all }},
		side{"seconds", func(int) float64 { return took }})
}

// load commits files of noise to a branch.
func (g *gated) load(work, branch string, files, size int) {
	g.b.Helper()
	pr, pw, err := os.Pipe()
	if err != nil {
		g.b.Fatal(err)
	}
	go func() {
		defer pw.Close()
		w := bufio.NewWriterSize(pw, 1<<20)
		defer w.Flush()
		noise := rand.NewChaCha8([32]byte{2})
		fmt.Fprintf(w, "commit refs/heads/%s\ncommitter A <a@b.test> 1700000000 +0000\ndata 1\nx\nfrom refs/heads/%s^0\n", branch, branch)
		for i := range files {
			fmt.Fprintf(w, "M 100644 inline load/%d\ndata %d\n", i, size)
			_, _ = io.CopyN(w, noise, int64(size))
			_ = w.WriteByte('\n')
		}
	}()
	cmd := git.Cmd{GitDir: filepath.Join(work, ".git"), Alternates: []string{git.AnyAlternates}, Args: []string{"fast-import", "--quiet", "--force"}, Stdin: pr, Timeout: 10 * time.Minute, Config: []string{"core.compression=0"}}
	if _, err := (&git.Runner{}).Run(g.b.Context(), cmd); err != nil {
		g.b.Fatal(err)
	}
	pr.Close()
}
