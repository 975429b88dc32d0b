package bench

import (
	"bufio"
	"fmt"
	"math/rand/v2"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/server"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/guest"
	"terok/internal/sandbox"
)

// gated is a project with a gate whose upstream is a bare repository of a given size.
type gated struct {
	*reviewed
	files, size int // of the upstream's newest commit; bytes of each file
}

// newGated makes an upstream of one pack: commits commits, the first with all the files, each further one
// changes ten of them.
func newGated(b *testing.B, files, size, commits int) *gated {
	b.Helper()
	r := &reviewed{tree: newTree(b), b: b}
	g := &gated{r, files, size}
	r.place()
	r.clone = filepath.Join(b.TempDir(), "up.git")
	r.git(b.TempDir(), "init", "-q", "--bare", "-b", "main", r.clone)
	pr, pw, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		defer pw.Close()
		w := bufio.NewWriterSize(pw, 1<<20)
		defer w.Flush()
		rnd := rand.New(rand.NewPCG(1, 2))
		letters := []byte("abcdefghijklmnopqrstuvwxyz (){};=.,\n")
		body := make([]byte, size)
		for c := range commits {
			fmt.Fprintf(w, "commit refs/heads/main\ncommitter A <a@b.test> %d +0000\ndata 1\nx\n", 1_700_000_000+c)
			n := files
			if c > 0 {
				n = 10
			}
			for i := range n {
				if c > 0 {
					i = rnd.IntN(files)
				}
				for j := 0; j < size; j += 8 {
					for k, v := 0, rnd.Uint64(); k < 8 && j+k < size; k, v = k+1, v>>8 {
						body[j+k] = letters[byte(v)%byte(len(letters))]
					}
				}
				fmt.Fprintf(w, "M 100644 inline src/d%d/f%d.txt\ndata %d\n", i%200, i, size)
				_, _ = w.Write(body)
				_ = w.WriteByte('\n')
			}
		}
	}()
	cmd := git.Cmd{GitDir: r.clone, Args: []string{"fast-import", "--quiet"}, Stdin: pr, Timeout: 10 * time.Minute, Config: []string{"core.compression=1"}}
	if _, err := (&git.Runner{}).Run(b.Context(), cmd); err != nil {
		b.Fatal(err)
	}
	pr.Close()
	r.run("project", "create", "shop", "--upstream", r.clone)
	sync := exec.CommandContext(b.Context(), g.terok, "project", "gate-sync", "shop") // a large one takes more than must waits
	sync.Env = g.environ()
	if out, err := sync.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	return g
}

const gateToken = "terok-g-0123456789abcdef0123456789abcdef"

// serve serves a task's repository as its supervisor does, and returns the URL with its token.
func (g *gated) serve(t store.Task) string {
	s := httptest.NewServer(server.New(server.Config{Git: &git.Runner{}, Repo: t.Repo, Base: t.Base, Token: gateToken,
		Limits: server.Limits{Quota: 8 << 30, MaxPack: 1 << 30}}))
	g.b.Cleanup(s.Close)
	return strings.Replace(s.URL, "http://", "http://x:"+gateToken+"@", 1) + server.Path
}

// backend serves a directory of repositories by git's own program, and returns the URL.
func (g *gated) backend(dir string, config ...string) string {
	env := []string{"GIT_PROJECT_ROOT=" + dir, "GIT_HTTP_EXPORT_ALL=1"}
	config = append([]string{"safe.directory=*", "http.receivepack=true"}, config...)
	for i, kv := range config {
		k, v, _ := strings.Cut(kv, "=")
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, k), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, v))
	}
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)))
	programs := strings.TrimSpace(must(g.b, os.Environ(), "git", "--exec-path"))
	s := httptest.NewServer(&cgi.Handler{Path: filepath.Join(programs, "git-http-backend"), Env: env, InheritEnv: []string{"PATH"}})
	g.b.Cleanup(s.Close)
	return s.URL
}

// gateTask makes a task's repository, without a task.
func (g *gated) gateTask(id string) store.Task {
	g.b.Helper()
	t, err := g.store.CreateTask(g.b.Context(), store.TaskSpec{Project: "shop", ID: id, Branch: "terok/" + id})
	if err != nil {
		g.b.Fatal(err)
	}
	return t
}

// clientEnv is how measured clients run: no configuration, no prompt.
func clientEnv() []string {
	return []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		"GIT_AUTHOR_NAME=A", "GIT_AUTHOR_EMAIL=a@b.test", "GIT_COMMITTER_NAME=A", "GIT_COMMITTER_EMAIL=a@b.test"}
}

// fresh is a directory name that nothing has, gone at the end of the sample that done ends.
func (g *gated) fresh(name string, round int) (dir string, done func()) {
	dir = filepath.Join(g.dir, fmt.Sprintf("%s-%d", name, round))
	return dir, func() { _ = os.RemoveAll(dir) }
}

// BenchmarkGateTask: the repository of a new task of a project with 3 000 files, against a bare clone that
// shares its objects.
func BenchmarkGateTask(b *testing.B) {
	g := newGated(b, 3_000, 7_000, 20)
	compare(b, "gate: task repository", "ms", "at most 50 ms", 25,
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
}

// BenchmarkGateClone: a clone over HTTP, files not written, of a task's repository by our server and by git
// http-backend, and of a plain mirror of the upstream by git http-backend: a small repository with hardly a
// history, and one of the size that spec/gate.md §15 names, with 2 000 commits. Then what a bitmap could make
// slower: the fetch of one commit into a clone, and a question without news.
func BenchmarkGateClone(b *testing.B) {
	b.Run("small", func(b *testing.B) { newGated(b, 3_000, 7_000, 20).clones("3 000 files, 21 MB, 20 commits", 15) })
	b.Run("history", func(b *testing.B) { newGated(b, 12_000, 7_000, 2_000).clones("12 000 files, 84 MB, 2 000 commits", 7) })
}

func (g *gated) clones(what string, rounds int) {
	b, t := g.b, g.gateTask("k3v9p")
	ours, theirs := g.serve(t), g.backend(filepath.Dir(t.Repo))+"/k3v9p.git"
	mirror := filepath.Join(g.dir, "mirror", "up.git")
	g.git(g.dir, "clone", "-q", "--mirror", "file://"+g.clone, mirror)
	plain := g.backend(filepath.Dir(mirror)) + "/up.git"
	clone := func(name, url string) side {
		return side{name, func(round int) float64 {
			dir, done := g.fresh("clone", round)
			defer done()
			return timed(b, clientEnv(), "git", "clone", "-q", "--no-checkout", url, dir) // writing the files is the client's alone
		}}
	}
	compare(b, "gate: clone over HTTP: "+what, "ms", "at most 0.9× git http-backend", rounds,
		clone("terok", ours), clone("http-backend, plain mirror", plain), clone("http-backend, same repository", theirs))
	// Two clones that lack the same commit, in each round a new one.
	work := filepath.Join(g.dir, "work")
	g.git(g.dir, "clone", "-q", "--shared", "--no-checkout", t.Repo, work)
	fetch := func(name, url string, push func(id string)) side {
		dir := filepath.Join(g.dir, "fetch-"+strings.ReplaceAll(name, " ", "-"))
		must(b, clientEnv(), "git", "clone", "-q", "--no-checkout", url, dir)
		return side{name, func(round int) float64 {
			id := strings.TrimSpace(must(b, clientEnv(), "git", "-C", work, "commit-tree", "-p", "origin/"+t.Branch, "-m", fmt.Sprint(name, round), "origin/"+t.Branch+"^{tree}"))
			push(id)
			return timed(b, clientEnv(), "git", "-C", dir, "fetch", "-q", url, "refs/heads/news")
		}}
	}
	into := func(repo string) func(string) {
		return func(id string) { g.git(work, "push", "-q", "-f", repo, id+":refs/heads/news") }
	}
	compare(b, "gate: fetch of one commit over HTTP: "+what, "ms", "", 25,
		fetch("terok", ours, into(t.Repo)), fetch("http-backend, plain mirror", plain, into(mirror)), fetch("http-backend, same repository", theirs, into(t.Repo)))
	compare(b, "gate: fetch without news over HTTP: "+what, "ms", "", 25,
		side{"terok", func(int) float64 { return timed(b, clientEnv(), "git", "ls-remote", ours) }},
		side{"http-backend, same repository", func(int) float64 { return timed(b, clientEnv(), "git", "ls-remote", theirs) }})
}

// BenchmarkGatePush: one commit, pushed into a task's repository through the rules and the inspection, and
// into a bare repository by git http-backend with git's own checks.
func BenchmarkGatePush(b *testing.B) {
	g := newGated(b, 3_000, 7_000, 20)
	t := g.gateTask("k3v9p")
	ours := g.serve(t)
	bare := filepath.Join(g.dir, "bare.git")
	g.git(g.dir, "clone", "-q", "--bare", g.clone, bare)
	theirs := g.backend(g.dir, "receive.fsckObjects=true") + "/bare.git"
	work := filepath.Join(g.dir, "work")
	g.git(g.dir, "clone", "-q", "--shared", t.Repo, work)
	n := 0
	push := func(name, url string) side {
		return side{name, func(int) float64 {
			n++
			g.write(work, "src/d1/new.txt", fmt.Sprint(n))
			g.git(work, "add", "src/d1/new.txt")
			g.git(work, "commit", "-q", "-m", "change")
			return timed(b, clientEnv(), "git", "-C", work, "push", "-q", url, "HEAD:refs/heads/feat")
		}}
	}
	compare(b, "gate: push of one commit", "ms", "at most 150 ms", 25, push("terok", ours), push("http-backend", theirs))
}

// BenchmarkGateSync: gate-sync of a project whose upstream has nothing new, against the question that it
// asks upstream.
func BenchmarkGateSync(b *testing.B) {
	g := newGated(b, 3_000, 7_000, 20)
	compare(b, "gate: sync without news", "ms", "at most 200 ms", 25,
		side{"terok", func(int) float64 { return timed(b, g.environ(), g.terok, "project", "gate-sync", "shop") }},
		side{"git ls-remote", func(int) float64 { return timed(b, clientEnv(), "git", "ls-remote", g.clone) }})
	compare(b, "gate: 20 syncs at once, until the last", "ms", "", 5,
		side{"terok", func(int) float64 {
			begin := time.Now()
			done := make(chan float64, 20)
			for range cap(done) {
				go func() { done <- timed(b, g.environ(), g.terok, "project", "gate-sync", "--wait", "shop") }()
			}
			for range cap(done) {
				<-done
			}
			return float64(time.Since(begin).Microseconds()) / 1000
		}},
		side{"one", func(int) float64 { return timed(b, g.environ(), g.terok, "project", "gate-sync", "shop") }})
}

// BenchmarkGateWorkspace: the workspace of a repository of 1 GiB in 20 000 files, as the guest prepares it,
// without the files and with them, against git clone of a local repository, which links the objects. It needs
// 4 GiB of disk.
func BenchmarkGateWorkspace(b *testing.B) {
	g := newGated(b, 20_000, 52_400, 100)
	t := g.gateTask("k3v9p")
	url := g.serve(t)
	local := func(round int, flags ...string) float64 {
		dir, done := g.fresh("local", round)
		defer done()
		cmd := exec.CommandContext(b.Context(), "git", slices.Concat([]string{"clone", "-q"}, flags, []string{g.clone, dir})...)
		cmd.Env = clientEnv()
		begin := time.Now()
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return float64(time.Since(begin).Microseconds()) / 1000
	}
	var ready float64
	compare(b, "gate: workspace of 1 GiB in 20 000 files", "ms", "at most 1000 ms before the files, 1.2× with them", 5,
		side{"terok", func(round int) float64 {
			dir, done := g.fresh("workspace", round)
			defer done()
			if err := os.Mkdir(dir, 0o700); err != nil {
				b.Fatal(err)
			}
			begin := time.Now()
			w, err := guest.OpenWorkspace(b.Context(), dir, &sandbox.Clone{URL: url, Branch: t.Branch, Borrow: filepath.Join(t.Base, "objects"), UserName: "A", UserEmail: "a@b.test"}, clientEnv())
			ready = float64(time.Since(begin).Microseconds()) / 1000
			if err == nil {
				err = w.CheckOut(b.Context())
			}
			if err != nil {
				b.Fatal(err)
			}
			return float64(time.Since(begin).Microseconds()) / 1000
		}},
		side{"local git clone", func(round int) float64 { return local(round) }},
		side{"terok, before the files", func(int) float64 { return ready }},
		side{"local git clone --no-checkout", func(round int) float64 { return local(round, "--no-checkout") }})
}
