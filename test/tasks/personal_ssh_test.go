package tasks

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// knowHost pins a server's key where OpenSSH looks for it by itself: in the home directory of this
// user, which other runs share, so the line is added and taken out under a lock.
func (s *sshd) knowHost() {
	t := s.tr.t
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(me.HomeDir, ".ssh", "known_hosts")
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(s.dir, "host_key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	line := fmt.Appendf(nil, "[127.0.0.1]:%d %s\n", s.port, strings.Join(strings.Fields(string(key))[:2], " "))
	edit := func(change func([]byte) []byte) {
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			t.Error(err)
			return
		}
		data, err := os.ReadFile(file)
		if err == nil {
			data = change(data)
			if _, err = f.WriteAt(data, 0); err == nil {
				err = f.Truncate(int64(len(data)))
			}
		}
		if err != nil {
			t.Error(err)
		}
	}
	edit(func(have []byte) []byte { return append(have, line...) })
	t.Cleanup(func() {
		edit(func(have []byte) []byte { return bytes.ReplaceAll(have, line, nil) })
	})
}

// agent starts an ssh-agent with a new key and returns its socket and the public key.
func (tr *tree) agent() (socket, public string) {
	tr.t.Helper()
	key := filepath.Join(tr.dir, "personal_key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		tr.t.Fatalf("%v: %s", err, out)
	}
	socket = filepath.Join(tr.dir, "agent.sock")
	cmd := exec.Command("ssh-agent", "-D", "-a", socket)
	if err := cmd.Start(); err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	tr.wait(20*time.Second, "the agent's socket", func() bool { return exists(socket) })
	add := exec.Command("ssh-add", "-q", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		tr.t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(key + ".pub")
	if err != nil {
		tr.t.Fatal(err)
	}
	if err := os.Remove(key); err != nil { // what logs in is the agent, not a file
		tr.t.Fatal(err)
	}
	return socket, string(data)
}

// TestPersonalSSH: spec/gate.md §20: 13. While the vault is locked, or there is none, an ssh upstream
// is exit 8; with --use-personal-ssh sync, launch, look and promotion use the operator's own agent.
func TestPersonalSSH(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	server := tr.startSSHD("forge")
	server.knowHost()
	socket, public := tr.agent()
	server.authorize(public)
	bare := filepath.Join(tr.dir, "remote.git")
	if out, err := exec.Command("git", "clone", "-q", "--bare", repo, bare).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	tr.env = append(tr.env, "SSH_AUTH_SOCK="+socket)
	tr.run(0, "", "project", "create", "shop", "--upstream", fmt.Sprintf("ssh://%s@127.0.0.1:%d%s", me.Username, server.port, bare), "--agent", "shell")
	tr.run(0, "", "vault", "init", "--passphrase-file", tr.file("passphrase", pass+"\n"))
	tr.run(0, "", "vault", "lock")
	refused := func(args ...string) {
		t.Helper()
		if _, stderr := tr.run(8, "", args...); !strings.Contains(stderr, "terok vault unlock") {
			t.Errorf("terok %s: %s", strings.Join(args, " "), stderr)
		}
	}
	refused("project", "gate-sync", "shop")
	refused("task", "run", "shop", "true")
	tr.run(0, "", "project", "gate-sync", "shop", "--use-personal-ssh")
	var polled []struct{ Error string }
	tr.decode(&polled, "", "gate", "poll", "shop", "--force", "--use-personal-ssh")
	if len(polled) != 1 || polled[0].Error != "" {
		t.Errorf("poll: %+v", polled)
	}
	// The agent is the operator's: nothing of it is inside.
	out, _ := tr.run(0, "", "task", "run", "shop", `cd /workspace && echo "sock=$SSH_AUTH_SOCK"; echo new >new && git add new && git commit -qm new && git push -q origin HEAD`, "--use-personal-ssh")
	if !strings.Contains(out, "sock=\n") {
		t.Errorf("inside: %s", out)
	}
	task := tr.tasks()[0]
	promote := []string{"promote", "shop/" + task.ID, "--to", "upstream", "--as", "from-task", "--sha", tr.tip(task), "--approve", "--yes"}
	refused(promote...)
	tr.run(0, "", append(promote, "--use-personal-ssh")...)
	if got := gitOut(t, bare, "rev-parse", "refs/heads/from-task"); len(got) != 40 {
		t.Errorf("upstream has %q", got)
	}
	tr.run(0, "", "promote", "--undo", "shop/"+task.ID, "--use-personal-ssh", "--yes")
}
