package server

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"terok/internal/git"
)

func TestHostileBodies(t *testing.T) {
	s := serve(t)
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	_, _ = zw.Write(make([]byte, 40<<20))
	zw.Close()
	resp := s.post("/git-receive-pack", "receive", bytes.NewReader(bomb.Bytes()), "gzip")
	if resp.StatusCode != 400 {
		t.Errorf("bomb: %s", resp.Status)
	}
	zero := strings.Repeat("0", 40)
	for name, body := range map[string]string{
		"not pkt":      "zzzz",
		"short":        "0010abc",
		"length 3":     "0003",
		"no ids":       string(appendPkt(nil, "hello")) + flushPkt,
		"certificate":  string(appendPkt(nil, "push-cert\x00 report-status")) + flushPkt,
		"options":      string(appendPkt(nil, zero+" "+s.task.Start+" refs/heads/x\x00 push-options")) + flushPkt,
		"twice":        string(appendPkt(appendPkt(nil, zero+" "+s.task.Start+" refs/heads/x\x00"), zero+" "+s.task.Start+" refs/heads/x")) + flushPkt,
		"both zero":    string(appendPkt(nil, zero+" "+zero+" refs/heads/x\x00")) + flushPkt,
		"newline":      string(appendPkt(nil, zero+" "+s.task.Start+" refs/heads/x\nrefs/tags/y\x00")) + flushPkt,
		"long section": strings.Repeat(string(appendPkt(nil, zero+" "+s.task.Start+" refs/heads/"+strings.Repeat("y", 30000))), 4) + flushPkt,
	} {
		if resp := s.post("/git-receive-pack", "receive", strings.NewReader(body), ""); resp.StatusCode != 400 {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	if resp := s.post("/git-receive-pack", "receive", strings.NewReader(flushPkt), ""); resp.StatusCode != 200 {
		t.Errorf("git's probe: %s", resp.Status)
	}
	if resp := s.post("/git-upload-pack", "upload", strings.NewReader("x"), "br"); resp.StatusCode != 400 {
		t.Errorf("unknown encoding: %s", resp.Status)
	}
}

// TestLyingOldValue: a command whose old value is not the branch's tip changes nothing and leaves
// no backup of an object the client chose.
func TestLyingOldValue(t *testing.T) {
	s := serve(t)
	first := s.Git(s.task.Repo, "rev-parse", s.task.Start+"^")
	caps := "\x00 report-status"
	body := string(appendPkt(nil, first+" "+strings.Repeat("0", 40)+" refs/heads/main"+caps)) + flushPkt
	resp := s.post("/git-receive-pack", "receive", strings.NewReader(body), "")
	data, _ := io.ReadAll(resp.Body)
	if !bytes.Contains(data, []byte("ng refs/heads/main")) || s.ref("refs/heads/main") != s.task.Start {
		t.Errorf("answer %q, main %s", data, s.ref("refs/heads/main"))
	}
	if out := s.Git(s.task.Repo, "for-each-ref", "refs/terok/backup"); out != "" {
		t.Errorf("backup: %s", out)
	}
}

// TestHostileTrees: objects that would trick a checkout are refused by fsck.
func TestHostileTrees(t *testing.T) {
	s := serve(t)
	for _, name := range []string{".git", ".GIT", "git~1", ".g\u200cit"} {
		tree := s.mktree("100644 " + name + "\x00")
		commit := s.Git(s.work, "commit-tree", "-m", "evil", tree)
		if _, err := s.TryGit(s.work, "push", "origin", commit+":refs/heads/evil"); err == nil || s.ref("refs/heads/evil") != "" {
			t.Errorf("a tree with %q was taken", name)
		}
	}
}

// mktree writes a raw tree object with one entry pointing at the README.
func (s *served) mktree(entry string) string {
	s.T.Helper()
	id := s.Git(s.work, "rev-parse", "HEAD:README.md")
	raw := []byte(entry)
	for i := 0; i < len(id); i += 2 {
		b, _ := strconv.ParseUint(id[i:i+2], 16, 8)
		raw = append(raw, byte(b))
	}
	out, err := (&git.Runner{}).Run(s.T.Context(), git.Cmd{GitDir: s.work + "/.git", Stdin: bytes.NewReader(raw),
		Args: []string{"hash-object", "-t", "tree", "-w", "--stdin", "--literally"}})
	if err != nil {
		s.T.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func TestConcurrentPushes(t *testing.T) {
	s := serve(t)
	ids := make([]string, 6)
	for i := range ids {
		s.Git(s.work, "checkout", "-q", "-b", "b"+strconv.Itoa(i), s.task.Start)
		ids[i] = s.commit("f"+strconv.Itoa(i), noise(200<<10))
	}
	var wg sync.WaitGroup
	for i := range ids {
		wg.Go(func() {
			if _, err := s.TryGit(s.work, "push", "-q", "origin", "b"+strconv.Itoa(i)); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			if _, err := s.TryGit(s.work, "ls-remote", "origin"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i, id := range ids {
		if s.ref("refs/heads/b"+strconv.Itoa(i)) != id {
			t.Errorf("b%d did not land", i)
		}
	}
	s.Git(s.task.Repo, "fsck", "--strict")
}

// pushHalf starts a raw push of a pack and stops in its middle; finish sends nothing more.
func (s *served) pushHalf(ctx context.Context) (w *io.PipeWriter, done chan error) {
	s.T.Helper()
	id := s.commit("half.bin", noise(4<<20))
	pack, err := (&git.Runner{}).Run(s.T.Context(), git.Cmd{GitDir: s.work + "/.git", MaxOutput: 64 << 20,
		Stdin: strings.NewReader(id + "\n^" + s.task.Start + "\n"), Args: []string{"pack-objects", "--revs", "--stdout", "-q"}})
	if err != nil {
		s.T.Fatal(err)
	}
	pr, pw := io.Pipe()
	req, _ := http.NewRequestWithContext(ctx, "POST", s.bare+"/git-receive-pack", pr)
	req.SetBasicAuth("x", token)
	req.Header.Set("Content-Type", "application/x-git-receive-pack-request")
	done = make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			var data []byte
			data, err = io.ReadAll(resp.Body)
			resp.Body.Close()
			if err == nil {
				err = fmt.Errorf("%s %q", resp.Status, data)
			}
		}
		done <- err
	}()
	line := s.task.Start + " " + id + " refs/heads/" + s.task.Branch + "\x00 report-status side-band-64k"
	_, _ = pw.Write(append(appendPkt(nil, line), flushPkt...))
	_, _ = pw.Write(pack[:len(pack)/2])
	return pw, done
}

// gitChildren finds git processes that have the task's repository in their environment, and tells
// whether one of them takes a pack. A process that is just being started is not seen.
func (s *served) gitChildren() (pids []int, unpacking bool) {
	dirs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range dirs {
		data, _ := os.ReadFile(path)
		unpacks := bytes.Contains(data, []byte("GIT_OBJECT_DIRECTORY="+s.task.Repo+"/objects/incoming-"))
		if unpacks || bytes.Contains(data, []byte("GIT_DIR="+s.task.Repo)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			pids, unpacking = append(pids, pid), unpacking || unpacks
		}
	}
	return pids, unpacking
}

// awaitUnpacking waits until git has begun to take the pack: from then on all of its processes are
// there, and are seen.
func (s *served) awaitUnpacking() {
	s.T.Helper()
	eventually(s.T, "git never took the pack", func() bool { _, unpacking := s.gitChildren(); return unpacking })
}

// eventually polls a condition that another process makes true.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatal(what)
		}
		runtime.Gosched()
	}
}

func (s *served) whole() {
	s.T.Helper()
	if got := s.ref("refs/heads/" + s.task.Branch); got != s.task.Start {
		s.T.Errorf("the branch moved to %s", got)
	}
	s.Git(s.task.Repo, "fsck", "--strict")
	s.Git(s.work, "push", "-q", "origin", "HEAD")
}

// spec/gate.md §20: 27 (git itself killed).
func TestKilledGit(t *testing.T) {
	s := serve(t)
	pw, done := s.pushHalf(t.Context())
	s.awaitUnpacking()
	eventually(t, "git was not killed", func() bool {
		pids, _ := s.gitChildren()
		for _, sig := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGKILL} { // none tells of another's end
			for _, pid := range pids {
				_ = syscall.Kill(pid, sig)
			}
		}
		return len(pids) == 0
	})
	pw.Close()
	// The answer may be lost: the server closes while the client still sends.
	if err := <-done; err == nil || !strings.Contains(err.Error(), "within the limits") && !strings.Contains(err.Error(), "reset by peer") && !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("answer: %v", err)
	}
	s.whole()
}

// spec/gate.md §20: 27.
func TestClientGone(t *testing.T) {
	s := serve(t)
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		pw, done := s.pushHalf(ctx)
		s.awaitUnpacking()
		cancel()
		pw.CloseWithError(context.Canceled)
		<-done
		eventually(t, "git outlived its client", func() bool { pids, _ := s.gitChildren(); return len(pids) == 0 })
		s.Git(s.work, "reset", "-q", "--hard", s.task.Start)
	}
	eventually(t, "quarantine left behind", func() bool {
		left, _ := filepath.Glob(s.task.Repo + "/objects/*incoming-*")
		return len(left) == 0
	})
	s.commit("after", "x")
	s.whole()
}

// TestHooksAreDead: programs named by the repository's own files never run.
func TestHooksAreDead(t *testing.T) {
	s := serve(t)
	canary := filepath.Join(s.Dir, "canary")
	script := "#!/bin/sh\ntouch " + canary + "\n"
	if err := os.MkdirAll(s.task.Repo+"/hooks", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, hook := range []string{"pre-receive", "update", "post-receive", "post-update", "reference-transaction", "proc-receive", "pre-auto-gc"} {
		if err := os.WriteFile(s.task.Repo+"/hooks/"+hook, []byte(script), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	tool := filepath.Join(s.Dir, "tool")
	if err := os.WriteFile(tool, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.task.Repo+"/config", os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "[core]\n\thooksPath = %s/hooks\n\tfsmonitor = %s\n\talternateRefsCommand = %s\n[uploadpack]\n\tpackObjectsHook = %s\n[receive]\n\tprocReceiveRefs = refs/heads\n",
		s.task.Repo, tool, tool, tool)
	f.Close()
	s.commit("a", "x")
	_, _ = s.TryGit(s.work, "push", "-q", "origin", "HEAD")
	s.Git(s.Dir, "clone", "-q", s.url, filepath.Join(s.Dir, "again"))
	if _, err := os.Stat(canary); err == nil {
		t.Error("a program of the repository ran on the host")
	}
}
