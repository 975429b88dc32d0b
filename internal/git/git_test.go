package git

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// rig is a bare repository with one commit, made with git plumbing only.
func rig(t *testing.T) (r *Runner, dir, commit string) {
	t.Helper()
	r, dir = &Runner{}, filepath.Join(t.TempDir(), "a.git")
	must(t, r, Cmd{Dir: filepath.Dir(dir), Args: []string{"init", "-q", "--bare", dir}})
	blob := must(t, r, Cmd{GitDir: dir, Args: []string{"hash-object", "-w", "--stdin"}, Stdin: strings.NewReader("hello\n")})
	tree := must(t, r, Cmd{GitDir: dir, Args: []string{"mktree"}, Stdin: strings.NewReader("100644 blob " + blob + "\tfile\n")})
	commit = must(t, r, Cmd{GitDir: dir, Env: identity, Args: []string{"commit-tree", "-m", "one", tree}})
	must(t, r, Cmd{GitDir: dir, Args: []string{"update-ref", "refs/heads/main", commit}})
	return r, dir, commit
}

var identity = []string{"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b"}

func must(t *testing.T, r *Runner, c Cmd) string {
	t.Helper()
	out, err := r.Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestRunAndErrors(t *testing.T) {
	r, dir, commit := rig(t)
	if got := must(t, r, Cmd{GitDir: dir, Args: []string{"rev-parse", "refs/heads/main"}}); got != commit {
		t.Errorf("rev-parse: %s, want %s", got, commit)
	}
	_, err := r.Run(t.Context(), Cmd{GitDir: dir, Args: []string{"rev-parse", "--verify", "--end-of-options", "\x1b[31mnope"}})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 128 || !IsExit(err, 128) {
		t.Fatalf("want an ExitError 128, got %v", err)
	}
	if strings.ContainsAny(err.Error(), "\x1b") || !strings.Contains(err.Error(), "git rev-parse --verify") {
		t.Errorf("the error must show the command and no escape: %q", err)
	}
	if _, err := r.Run(t.Context(), Cmd{GitDir: dir, Args: []string{"cat-file", "--batch-all-objects", "--batch"}, MaxOutput: 10}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the cap: %v", err)
	}
	var b bytes.Buffer
	if err := r.Stream(t.Context(), Cmd{GitDir: dir, Args: []string{"pack-objects", "--stdout", "--all", "--revs"}}, &b); err != nil || !bytes.HasPrefix(b.Bytes(), []byte("PACK")) {
		t.Errorf("stream: %v, %d bytes", err, b.Len())
	}
	if major, minor, err := r.Version(t.Context()); err != nil || major < 2 || minor == 0 {
		t.Errorf("version %d.%d: %v", major, minor, err)
	}
}

func TestDeadline(t *testing.T) {
	r, dir, _ := rig(t)
	stdin, w, err := os.Pipe() // a writer that never writes
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	defer w.Close()
	_, err = r.Run(t.Context(), Cmd{GitDir: dir, Args: []string{"cat-file", "--batch"}, Stdin: stdin, Timeout: 100 * time.Millisecond})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("want the deadline, got %v", err)
	}
}

// TestEnvironmentFromZero defends against what the caller's environment or home could add.
func TestEnvironmentFromZero(t *testing.T) {
	canary := filepath.Join(t.TempDir(), "canary")
	home := t.TempDir()
	config := "[alias]\n\trev-parse = !touch " + canary + "\n[core]\n\tpager = touch " + canary + "\n[user]\n\tname = evil\n"
	if err := os.WriteFile(filepath.Join(home, ".gitconfig"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", home)
	t.Setenv("GIT_CONFIG_PARAMETERS", "'user.name=evil'")
	t.Setenv("GIT_EXTERNAL_DIFF", "touch "+canary)
	t.Setenv("GIT_TRACE", canary)
	t.Setenv("GIT_OBJECT_DIRECTORY", filepath.Join(t.TempDir(), "absent"))
	r, dir, commit := rig(t)
	if got := must(t, r, Cmd{GitDir: dir, Args: []string{"rev-parse", "main"}}); got != commit {
		t.Errorf("rev-parse: %q", got)
	}
	if out, err := r.Run(t.Context(), Cmd{GitDir: dir, Args: []string{"config", "user.name"}}); err == nil {
		t.Errorf("user.name comes from somewhere: %q", out)
	}
	gone(t, canary)
}

// TestHostileRepositoryConfig defends against a repository whose own configuration runs programs.
func TestHostileRepositoryConfig(t *testing.T) {
	r, dir, commit := rig(t)
	canary := filepath.Join(t.TempDir(), "canary")
	evil := filepath.Join(t.TempDir(), "evil")
	if err := os.WriteFile(evil, []byte("#!/bin/sh\ntouch "+canary+"\ncat\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, kv := range []string{"diff.external=" + evil, "core.fsmonitor=" + evil, "core.hooksPath=" + filepath.Dir(evil),
		"core.pager=" + evil, "credential.helper=" + evil, "gpg.program=" + evil, "core.sshCommand=" + evil,
		"core.alternateRefsCommand=" + evil, "core.attributesFile=" + evil + ".attr", "diff.evil.textconv=" + evil, "log.showSignature=true"} {
		k, v, _ := strings.Cut(kv, "=")
		f, err := os.OpenFile(filepath.Join(dir, "config"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		i := strings.LastIndex(k, ".")
		section, sub, _ := strings.Cut(k[:i], ".")
		if sub != "" {
			section += ` "` + sub + `"`
		}
		_, _ = f.WriteString("[" + section + "]\n\t" + k[i+1:] + " = " + v + "\n")
		f.Close()
	}
	if err := os.WriteFile(evil+".attr", []byte("* diff=evil\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, hook := range []string{"reference-transaction", "pre-receive", "update", "post-update"} {
		if err := os.Rename(copyOf(t, evil), filepath.Join(filepath.Dir(evil), hook)); err != nil {
			t.Fatal(err)
		}
	}
	blob := must(t, r, Cmd{GitDir: dir, Args: []string{"hash-object", "-w", "--stdin"}, Stdin: strings.NewReader("two\n")})
	tree := must(t, r, Cmd{GitDir: dir, Args: []string{"mktree"}, Stdin: strings.NewReader("100644 blob " + blob + "\tfile\n")})
	next := must(t, r, Cmd{GitDir: dir, Env: identity, Args: []string{"commit-tree", "-p", commit, "-m", "two", tree}})
	must(t, r, Cmd{GitDir: dir, Args: []string{"update-ref", "refs/heads/main", next}})
	if out := must(t, r, Cmd{GitDir: dir, Args: []string{"log", "-p", "--no-ext-diff", "--no-textconv", "refs/heads/main"}}); !strings.Contains(out, "+two") {
		t.Errorf("log -p: %q", out)
	}
	if out := must(t, r, Cmd{GitDir: dir, Args: []string{"diff-tree", "-p", commit, next}}); !strings.Contains(out, "+two") {
		t.Errorf("diff-tree: %q", out)
	}
	gone(t, canary)
}

func TestReplaceRefsAreIgnored(t *testing.T) {
	r, dir, commit := rig(t)
	tree := must(t, r, Cmd{GitDir: dir, Args: []string{"mktree"}})
	other := must(t, r, Cmd{GitDir: dir, Env: identity, Args: []string{"commit-tree", "-m", "innocent", tree}})
	must(t, r, Cmd{GitDir: dir, Args: []string{"update-ref", "refs/replace/" + commit, other}})
	if out := must(t, r, Cmd{GitDir: dir, Args: []string{"log", "--format=%s", commit}}); out != "one" {
		t.Errorf("the replacement is shown: %q", out)
	}
}

func TestNoTransportUnlessListed(t *testing.T) {
	r, dir, _ := rig(t)
	ls := Cmd{Dir: t.TempDir(), Args: []string{"ls-remote", dir}}
	if _, err := r.Run(t.Context(), ls); err == nil {
		t.Error("file transport without being listed")
	}
	ls.Protocols = []string{"file"}
	if out := must(t, r, ls); !strings.Contains(out, "refs/heads/main") {
		t.Errorf("ls-remote: %q", out)
	}
	canary := filepath.Join(t.TempDir(), "canary")
	ls.Args = []string{"ls-remote", "ext::sh -c touch% " + canary}
	if _, err := r.Run(t.Context(), ls); err == nil {
		t.Error("ext transport")
	}
	gone(t, canary)
}

func TestAlternates(t *testing.T) {
	r, dir, _ := rig(t)
	_, borrower, _ := rig(t)
	file := filepath.Join(borrower, "objects/info/alternates")
	objects := filepath.Join(dir, "objects")
	call := Cmd{GitDir: borrower, Args: []string{"count-objects", "-v"}}
	refused := func(why string) {
		t.Helper()
		if _, err := r.Run(t.Context(), call); err == nil {
			t.Errorf("%s was followed", why)
		}
	}
	write(t, file, objects+"\n")
	refused("an alternate that was not listed")
	call.Alternates = []string{objects}
	must(t, r, call)
	write(t, filepath.Join(objects, "info/alternates"), "/somewhere/objects\n")
	refused("a second hop")
	write(t, filepath.Join(objects, "info/alternates"), "")
	write(t, file, "../../a.git/objects\n")
	refused("a relative path")
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(objects, "info/alternates"), file); err != nil {
		t.Fatal(err)
	}
	refused("a symbolic link")
	call.Alternates = []string{AnyAlternates}
	must(t, r, call)
}

func FuzzParseAlternates(f *testing.F) {
	for _, seed := range []string{"", "/a/objects\n", "/a\n/b\n", "../x\n", "# c\n", "\"/q\"\n", "/a/../b\n", "/a\x00b\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		dirs, err := parseAlternates(data)
		if err != nil {
			return
		}
		for _, d := range dirs {
			if !filepath.IsAbs(d) || filepath.Clean(d) != d || strings.ContainsAny(d, "\n\x00") {
				t.Errorf("accepted %q", d)
			}
		}
	})
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func copyOf(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".copy", data, 0o700); err != nil {
		t.Fatal(err)
	}
	return path + ".copy"
}

func gone(t *testing.T, canary string) {
	t.Helper()
	if _, err := os.Lstat(canary); err == nil {
		t.Errorf("a program of somebody else's ran")
	}
}

// TestObjectFormats: newer gits die where GIT_ATTR_SOURCE is no tree of the repository's own object
// format, also in a linked worktree's git directory, whose config is elsewhere.
func TestObjectFormats(t *testing.T) {
	for format, want := range map[string]string{"sha1": emptyTreeSHA1, "sha256": emptyTreeSHA256} {
		r, dir := &Runner{}, filepath.Join(t.TempDir(), "a.git")
		must(t, r, Cmd{Dir: filepath.Dir(dir), Args: []string{"init", "-q", "--bare", "--object-format=" + format, dir}})
		linked := filepath.Join(dir, "worktrees", "w")
		if err := os.MkdirAll(linked, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(linked, "commondir"), []byte("../..\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, d := range []string{dir, linked} {
			if got := emptyTree(d); got != want {
				t.Errorf("%s in %s: %s", format, d, got)
			}
		}
		blob := must(t, r, Cmd{GitDir: dir, Args: []string{"hash-object", "-w", "--stdin"}, Stdin: strings.NewReader("hello\n")})
		tree := must(t, r, Cmd{GitDir: dir, Args: []string{"mktree"}, Stdin: strings.NewReader("100644 blob " + blob + "\tfile\n")})
		if got := must(t, r, Cmd{GitDir: dir, Args: []string{"diff-tree", "--name-only", "-r", emptyTree(dir), tree}}); got != "file" {
			t.Errorf("%s: diff %q", format, got)
		}
		must(t, r, Cmd{GitDir: dir, Args: []string{"pack-objects", "--stdout", "-q"}, Stdin: strings.NewReader(blob + "\n")})
	}
}
