// Package gatetest builds the little world that tests of the gate need: an upstream that is a
// person's clone, a store in a temporary tree, and git as a client would run it.
package gatetest

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"terok/internal/audit"
	"terok/internal/gate/inspect"
	"terok/internal/gate/store"
	"terok/internal/git"
	"terok/internal/state"
)

// Project is the name of the project in the world.
const Project = "webshop"

// World is one upstream with its gate.
type World struct {
	T        testing.TB `json:"-"`
	Dir      string     // everything lies below
	Upstream string     // a person's clone: working tree on branch main with two commits
	Roots    state.Roots
	Store    *store.Store `json:"-"`
	Ledger   *Ledger      `json:"-"`
	Env      []string     // further environment of Git, "K=V"
}

// Ledger remembers what was recorded.
type Ledger struct {
	mu     sync.Mutex
	events []audit.Event
}

// Record implements audit.Recorder.
func (l *Ledger) Record(e audit.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.events = append(l.events, e)
}

// Events returns what was recorded under a name.
func (l *Ledger) Events(ev string) []audit.Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []audit.Event
	for _, e := range l.events {
		if e.Ev == ev {
			out = append(out, e)
		}
	}
	return out
}

// Main is TestMain of packages that read what was pushed: the test binary is the inspector too.
func Main(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == inspect.Command {
		os.Exit(inspect.Main(os.Args[2:]))
	}
	os.Exit(m.Run())
}

// Self is the program whose inspector tests use: the test binary.
func Self(t testing.TB) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// New makes a world without a gate.
func New(t testing.TB) *World {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return NewIn(t, dir)
}

// NewIn makes a world in a directory of the caller's, a path without symbolic links.
func NewIn(t testing.TB, dir string) *World {
	t.Helper()
	w := &World{T: t, Dir: dir, Upstream: filepath.Join(dir, "clone"), Ledger: &Ledger{}}
	w.Roots = state.Roots{Config: filepath.Join(dir, "config"), Data: filepath.Join(dir, "data"), Runtime: filepath.Join(dir, "run")}
	w.Store = &store.Store{Roots: w.Roots, Git: &git.Runner{}, Ledger: w.Ledger}
	w.clone()
	return w
}

// sample is the upstream of every world, made once: worlds are many, and git is slow where many tests run.
var sample struct {
	sync.Mutex
	files fstest.MapFS
}

// clone makes the upstream.
func (w *World) clone() {
	w.T.Helper()
	sample.Lock()
	defer sample.Unlock()
	if sample.files == nil {
		w.Git(w.Dir, "init", "-q", "-b", "main", w.Upstream)
		w.Write("README.md", "hello\n")
		w.Commit(w.Upstream, "first")
		w.Write("src/main.go", "package main\n")
		w.Commit(w.Upstream, "second")
		files, err := load(w.Upstream)
		if err != nil {
			w.T.Fatal(err)
		}
		sample.files = files
		return
	}
	if err := os.CopyFS(w.Upstream, sample.files); err != nil {
		w.T.Fatal(err)
	}
}

// load reads a directory into memory.
func load(dir string) (fstest.MapFS, error) {
	files := fstest.MapFS{}
	return files, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		file := &fstest.MapFile{Mode: fs.ModeDir | 0o755}
		if !d.IsDir() {
			file.Mode = 0o644
			file.Data, err = os.ReadFile(path)
		}
		files[filepath.ToSlash(name)] = file
		return err
	})
}

// Gate makes the gate of the world and one task.
func (w *World) Gate(id string) store.Task {
	w.T.Helper()
	if _, err := w.Store.Init(w.T.Context(), Project, w.Upstream); err != nil {
		w.T.Fatal(err)
	}
	return w.Task(id)
}

// Task makes a further task of the gate.
func (w *World) Task(id string) store.Task {
	w.T.Helper()
	t, err := w.Store.CreateTask(w.T.Context(), store.TaskSpec{Project: Project, ID: id, Branch: "terok/" + id + "-brave-otter"})
	if err != nil {
		w.T.Fatal(err)
	}
	return t
}

// Write writes a file of the upstream's working tree.
func (w *World) Write(path, content string) { w.T.Helper(); WriteFile(w.T, w.Upstream, path, content) }

// WriteFile writes a file below dir.
func WriteFile(t testing.TB, dir, path, content string) {
	t.Helper()
	path = filepath.Join(dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Commit commits everything in dir and returns the id.
func (w *World) Commit(dir, message string) string {
	w.T.Helper()
	w.Git(dir, "add", "-A")
	w.Git(dir, "commit", "-q", "--allow-empty", "-m", message)
	return w.Git(dir, "rev-parse", "HEAD")
}

// Git runs git in dir and returns what it printed, trimmed.
func (w *World) Git(dir string, args ...string) string {
	w.T.Helper()
	out, err := w.TryGit(dir, args...)
	if err != nil {
		w.T.Fatalf("git %s: %v", strings.Join(args, " "), err)
	}
	return out
}

// TryGit is Git that may fail; the error holds what git printed to stderr.
func (w *World) TryGit(dir string, args ...string) (string, error) {
	w.T.Helper()
	var stderr strings.Builder
	r := &git.Runner{}
	out, err := r.Run(context.WithoutCancel(w.T.Context()), git.Cmd{Dir: dir, Args: args, Timeout: 2 * time.Minute, Stderr: &stderr, MaxOutput: 64 << 20,
		Protocols: []string{"file", "http"},
		Env: append([]string{"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.test", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.test",
			"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000", "GIT_LITERAL_PATHSPECS=0", "GIT_NO_LAZY_FETCH=0"}, w.Env...),
		Config: []string{"protocol.allow=always"}})
	if err != nil {
		err = errors.Join(err, errors.New(stderr.String()))
	}
	return strings.TrimSpace(string(out)), err
}
