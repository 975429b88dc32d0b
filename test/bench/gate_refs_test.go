package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/store"
	"terok/internal/git"
)

const manyRefs = 50_000

// BenchmarkGateRefs: a project whose upstream has 50 000 branches. A task of it has each of them twice, as its
// own and as upstream's. spec/gate.md §15.
func BenchmarkGateRefs(b *testing.B) {
	r := &reviewed{tree: newTree(b), b: b}
	g := &gated{r, 0, 0}
	r.place()
	r.clone = filepath.Join(b.TempDir(), "up.git")
	r.git(b.TempDir(), "init", "-q", "--bare", "-b", "main", r.clone)
	var in bytes.Buffer
	for i := range 2_000 {
		fmt.Fprintf(&in, "commit refs/heads/main\nmark :%d\ncommitter A <a@b.test> %d +0000\ndata 1\nx\nM 100644 inline f\ndata <<.\n%d\n.\n\n", i+1, 1_700_000_000+i, i)
	}
	for i := range manyRefs - 1 {
		fmt.Fprintf(&in, "reset %s\nfrom :%d\n\n", branchName(i), i%2_000+1)
	}
	if _, err := (&git.Runner{}).Run(b.Context(), git.Cmd{GitDir: r.clone, Args: []string{"fast-import", "--quiet"}, Stdin: &in, Timeout: 10 * time.Minute}); err != nil {
		b.Fatal(err)
	}
	r.git(r.clone, "pack-refs", "--all")
	begin := time.Now()
	r.run("project", "create", "shop", "--upstream", r.clone)
	r.run("project", "gate-sync", "shop")
	fmt.Printf("gate: first sync of %d branches: %d ms\n", manyRefs, time.Since(begin).Milliseconds())

	compare(b, "gate: task repository, 50 000 branches", "ms", "", 9,
		side{"terok", func(round int) float64 {
			begin := time.Now()
			g.gateTask(fmt.Sprintf("t%d", round+1))
			return float64(time.Since(begin).Microseconds()) / 1000
		}},
		side{"git clone --bare --shared", func(round int) float64 {
			dir, done := g.fresh("shared", round)
			defer done()
			return timed(b, clientEnv(), "git", "clone", "-q", "--bare", "--shared", g.clone, dir)
		}})
	for round := -1; round < 9; round++ {
		if err := g.store.DeleteTask(b.Context(), "shop", fmt.Sprintf("t%d", round+1)); err != nil {
			b.Fatal(err)
		}
	}
	t := g.gateTask("k3v9p")
	ours, theirs, plain := g.serve(t), g.backend(filepath.Dir(t.Repo))+"/k3v9p.git", g.backend(filepath.Dir(g.clone))+"/up.git"
	first := func(url string) side {
		return side{name(url, ours, theirs), func(int) float64 { return g.post(url, "", "refs/heads/main") }}
	}
	compare(b, "gate: advertisement of 50 000 branches, protocol 0", "ms", "at most 1000 ms", 9, first(ours), first(theirs), first(plain))
	for _, ask := range []struct{ what, prefix string }{{"one branch", branchName(4711)}, {"all branches", "refs/heads/"}} {
		list := func(url string) side {
			return side{name(url, ours, theirs), func(int) float64 { return g.post(url, ask.prefix, branchName(4711)) }}
		}
		compare(b, "gate: ls-refs of "+ask.what+" of 50 000, protocol 2", "ms", "", 9, list(ours), list(theirs), list(plain))
	}
	// What a task's view costs after a sync that moved one branch, and after one that moved a hundred.
	next := 0
	for _, n := range []int{1, 100} {
		compare(b, fmt.Sprintf("gate: sync that moves %d of 50 000 branches, with one task", n), "ms", "", 5,
			side{"terok", func(int) float64 {
				var script strings.Builder
				next++
				for i := range n {
					fmt.Fprintf(&script, "update %s refs/heads/main~%d\n", branchName(i), next)
				}
				c := git.Cmd{GitDir: g.clone, Args: []string{"update-ref", "--stdin"}, Stdin: strings.NewReader(script.String())}
				if _, err := (&git.Runner{}).Run(b.Context(), c); err != nil {
					b.Fatal(err)
				}
				begin := time.Now()
				if _, err := g.store.SyncWith(b.Context(), "shop", g.clone, store.Options{Destructive: true, Backups: store.Backups{Off: true, LoseCommits: true}}); err != nil {
					b.Fatal(err)
				}
				return float64(time.Since(begin).Microseconds()) / 1000
			}},
			side{"without news", func(int) float64 {
				begin := time.Now()
				if _, err := g.store.SyncWith(b.Context(), "shop", g.clone, store.Options{Backups: store.DefaultBackups}); err != nil {
					b.Fatal(err)
				}
				return float64(time.Since(begin).Microseconds()) / 1000
			}},
			side{"the next advertisement", func(int) float64 { return g.post(ours, "", "refs/heads/main") }})
	}
}

func branchName(i int) string { return fmt.Sprintf("refs/heads/topic%d/b%d", i%100, i) }

// name is what a server is called in a comparison.
func name(url, ours, theirs string) string {
	switch url {
	case ours:
		return "terok"
	case theirs:
		return "http-backend, same repository"
	}
	return "http-backend, upstream"
}

// post asks a server for refs and returns after how many milliseconds all of them were here: with prefix ""
// by the advertisement of protocol 0, otherwise by ls-refs of protocol 2. want must be among them.
func (g *gated) post(url, prefix, want string) float64 {
	g.b.Helper()
	ctx, cancel := context.WithTimeout(g.b.Context(), 2*time.Minute)
	defer cancel()
	method, path, body := http.MethodGet, "/info/refs?service=git-upload-pack", ""
	if prefix != "" {
		pkt := func(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }
		method, path = http.MethodPost, "/git-upload-pack"
		body = pkt("command=ls-refs\n") + pkt("agent=git/bench") + "0001" + pkt("peel\n") + pkt("symrefs\n") + pkt("ref-prefix "+prefix+"\n") + "0000"
	}
	req, err := http.NewRequestWithContext(ctx, method, url+path, strings.NewReader(body))
	if err != nil {
		g.b.Fatal(err)
	}
	if prefix != "" {
		req.Header.Set("Git-Protocol", "version=2")
		req.Header.Set("Content-Type", "application/x-git-upload-pack-request")
	}
	begin := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		g.b.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	took := float64(time.Since(begin).Microseconds()) / 1000
	if err != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(data, []byte(want)) {
		g.b.Fatalf("%s: %s, %d bytes without %s: %v", url, resp.Status, len(data), want, err)
	}
	return took
}
