package tasks

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"terok/internal/sandbox"
)

// sshd is a real OpenSSH server of this user, on a port of the loopback.
type sshd struct {
	tr   *tree
	dir  string
	port int
	stop func()
}

// startSSHD serves logins of this user with the keys of authorized_keys, which is empty at first.
func (tr *tree) startSSHD(name string) *sshd {
	tr.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tr.t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	return tr.startSSHDAt(name, port)
}

func (tr *tree) startSSHDAt(name string, port int) *sshd {
	tr.t.Helper()
	s := &sshd{tr: tr, dir: filepath.Join(tr.dir, name), port: port}
	key := tr.file(name+"/placeholder", "")
	_ = os.Remove(key)
	hostKey := filepath.Join(s.dir, "host_key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", hostKey).CombinedOutput(); err != nil {
		tr.t.Fatalf("%v: %s", err, out)
	}
	authorized := tr.file(name+"/authorized_keys", "")
	config := tr.file(name+"/sshd_config", fmt.Sprintf(`ListenAddress 127.0.0.1:%d
HostKey %s
AuthorizedKeysFile %s
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
`, s.port, hostKey, authorized))
	log, err := os.Create(filepath.Join(s.dir, "log"))
	if err != nil {
		tr.t.Fatal(err)
	}
	cmd := exec.Command("/usr/sbin/sshd", "-D", "-e", "-f", config)
	cmd.Stderr = log
	if err := cmd.Start(); err != nil {
		tr.t.Fatal(err)
	}
	s.stop = sync.OnceFunc(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	tr.t.Cleanup(func() {
		s.stop()
		if tr.t.Failed() {
			text, _ := os.ReadFile(log.Name())
			tr.t.Logf("sshd %s:\n%s", name, tail(string(text)))
		}
		log.Close()
	})
	ctx, cancel := context.WithTimeout(tr.t.Context(), 20*time.Second)
	defer cancel()
	if !within(ctx, 20*time.Second, func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.port))
		if err == nil {
			c.Close()
		}
		return err == nil
	}) {
		tr.t.Fatal("sshd does not answer")
	}
	return s
}

func (s *sshd) authorize(line string) { s.tr.file(filepath.Base(s.dir)+"/authorized_keys", line) }

// TestSSHFromATask: spec/vault.md §10: 75, 76, 78. Real git and OpenSSH in a task log in to a real
// sshd with a key that never leaves the vault; the agent signs nothing else, for nobody else.
func TestSSHFromATask(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	good, other := tr.startSSHD("good"), tr.startSSHD("other")
	tr.run(0, "", "vault", "init", "--passphrase-file", tr.file("passphrase", pass+"\n"))
	tr.run(0, "", "project", "create", "shop", "--upstream", repo, "--agent", "shell")
	config := filepath.Join(tr.dir, "config/terok/projects/shop/project.yml")
	yml, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	tr.file("config/terok/projects/shop/project.yml", string(yml)+fmt.Sprintf("ssh:\n  in_container: true\nshield:\n  allow:\n    - host:%d\n    - host:%d\n", good.port, other.port))

	public, _ := tr.run(0, "", "ssh", "add", "shop")
	good.authorize(public)
	other.authorize(public)
	var keys struct {
		Keys []struct{ Fingerprint string }
	}
	tr.decode(&keys, "", "ssh", "list", "shop")
	print := keys.Keys[0].Fingerprint
	tr.run(0, "", "ssh", "add", "shop") // keeps the one that is there
	host := fmt.Sprintf("host.terok.internal:%d", good.port)
	tr.run(0, "", "ssh", "restrict", print, "--hosts", host, "--users", me.Username)
	// Nobody there: the fingerprint is shown, nothing is pinned; with the right one it is.
	_, stderr := tr.run(9, "", "ssh", "trust", host)
	hostPrint, _ := exec.Command("ssh-keygen", "-lf", filepath.Join(good.dir, "host_key.pub")).Output()
	fields := strings.Fields(string(hostPrint))
	if len(fields) < 2 || !strings.Contains(stderr, fields[1]) {
		t.Errorf("trust shows %q, the host key is %s", stderr, hostPrint)
	}
	tr.run(1, "", "ssh", "trust", host, "--fingerprint", "SHA256:wrong")
	tr.run(0, "", "ssh", "trust", host, "--fingerprint", fields[1])

	bare := filepath.Join(tr.dir, "remote.git")
	if out, err := exec.Command("git", "init", "-q", "--bare", bare).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	script := fmt.Sprintf(`cd /workspace
say() { echo "== $1"; shift; "$@" 2>&1; echo "exit $?"; }
export SSH="ssh -o BatchMode=yes"
say list ssh-add -L
say push git push ssh://%[1]s@host.terok.internal:%[2]d%[4]s HEAD:refs/heads/from-task
say fetch git ls-remote ssh://%[1]s@host.terok.internal:%[2]d%[4]s
say unpinned git ls-remote ssh://%[1]s@host.terok.internal:%[3]d%[4]s
say elsewhere ssh -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -p %[3]d %[1]s@host.terok.internal true
ssh-add -L >/tmp/key.pub; echo hello >/tmp/file
say file ssh-keygen -Y sign -n git -f /tmp/key.pub /tmp/file
say add sh -c 'ssh-keygen -q -t ed25519 -N "" -f /tmp/new && ssh-add /tmp/new'
say files grep -rl "PRIVATE KEY" /run/terok /home/dev /workspace --include=* 
`, me.Username, good.port, other.port, bare)
	out, _ := tr.run(0, "", "task", "run", "shop", script)
	section := func(name string) string {
		_, rest, ok := strings.Cut(out, "== "+name+"\n")
		if !ok {
			t.Fatalf("no section %s in\n%s", name, out)
		}
		s, _, _ := strings.Cut(rest, "\n== ")
		return s
	}
	if s := section("list"); !strings.Contains(s, strings.Fields(public)[1]) || strings.Count(s, "ssh-") != 1 {
		t.Errorf("ssh-add -L: %s", s)
	}
	for _, name := range []string{"push", "fetch"} {
		if s := section(name); !strings.Contains(s, "from-task") || !strings.HasSuffix(strings.TrimSpace(s), "exit 0") {
			t.Errorf("%s: %s", name, s)
		}
	}
	for _, name := range []string{"unpinned", "elsewhere", "file", "add", "files"} {
		if s := section(name); strings.HasSuffix(strings.TrimSpace(s), "exit 0") {
			t.Errorf("%s works: %s", name, s)
		}
	}
	if got := gitOut(t, bare, "rev-parse", "refs/heads/from-task"); len(got) != 40 {
		t.Errorf("the push did not arrive: %q", got)
	}
	task := tr.tasks()[0]
	ledger, err := os.ReadFile(sandbox.LedgerPath(filepath.Join(tr.data(), "projects/shop/tasks", task.ID)))
	if err != nil {
		t.Fatal(err)
	}
	var signed, denied int
	for line := range strings.Lines(string(ledger)) {
		var e struct {
			Ev, Name string
			Detail   map[string]string
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		switch e.Ev {
		case "ssh_sign":
			if signed++; e.Name != host || e.Detail["user"] != me.Username || e.Detail["key"] != print {
				t.Errorf("ledger: %s", line)
			}
		case "sign_denied":
			denied++
		}
	}
	if signed < 2 || denied < 2 {
		t.Errorf("%d signatures and %d refusals in the ledger", signed, denied)
	}
}

// TestSSHUpstream: spec/gate.md §20: 13, and 10 for the host key; spec/vault.md §10: 79. The gate
// reaches an ssh upstream with the project's key, at the pinned host and nowhere else.
func TestSSHUpstream(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	server := tr.startSSHD("forge")
	bare := filepath.Join(tr.dir, "remote.git")
	if out, err := exec.Command("git", "clone", "-q", "--bare", repo, bare).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	host := fmt.Sprintf("127.0.0.1:%d", server.port)
	tr.run(0, "", "project", "create", "shop", "--upstream", fmt.Sprintf("ssh://%s@%s%s", me.Username, host, bare), "--agent", "shell")
	refused := func(code int, cure string, args ...string) {
		t.Helper()
		_, stderr := tr.run(code, "", args...)
		if !strings.Contains(stderr, cure) {
			t.Errorf("terok %s: no cure %q in %s", strings.Join(args, " "), cure, stderr)
		}
	}
	refused(8, "terok vault init", "project", "gate-sync", "shop")
	tr.run(0, "", "vault", "init", "--passphrase-file", tr.file("passphrase", pass+"\n"))
	refused(8, "terok ssh add shop", "project", "gate-sync", "shop")
	public, _ := tr.run(0, "", "ssh", "add", "shop")
	server.authorize(public)
	refused(5, "terok ssh trust "+host, "project", "gate-sync", "shop")
	print := func() string {
		out, err := exec.Command("ssh-keygen", "-lf", filepath.Join(server.dir, "host_key.pub")).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))[1]
	}
	first := print()
	tr.run(0, "", "ssh", "trust", host, "--fingerprint", first)
	tr.run(0, "", "project", "gate-sync", "shop")

	tr.run(0, "", "task", "run", "shop", `cd /workspace && echo new >new && git add new && git commit -qm new && git push -q origin HEAD`)
	task := tr.tasks()[0]
	tr.run(0, "", "promote", "shop/"+task.ID, "--to", "upstream", "--as", "from-task", "--sha", tr.tip(task), "--approve", "--yes")
	if got := gitOut(t, bare, "rev-parse", "refs/heads/from-task"); len(got) != 40 {
		t.Errorf("upstream has %q", got)
	}
	tr.run(0, "", "vault", "lock")
	refused(8, "terok vault unlock", "project", "gate-sync", "shop")
	tr.run(0, "", "vault", "unlock", "--passphrase-file", filepath.Join(tr.dir, "passphrase"))

	// Another server at the same address: nothing is fetched, and trusting it names both keys.
	server.stop()
	server = tr.startSSHDAt("forge2", server.port)
	server.authorize(public)
	tr.run(1, "", "project", "gate-sync", "shop")
	_, stderr := tr.run(1, "", "ssh", "trust", host, "--fingerprint", print())
	if !strings.Contains(stderr, first) || !strings.Contains(stderr, print()) {
		t.Errorf("a changed host key: %s", stderr)
	}
	tr.run(0, "", "ssh", "untrust", host)
	tr.run(0, "", "ssh", "trust", host, "--fingerprint", print())
	tr.run(0, "", "project", "gate-sync", "shop")
	left, err := filepath.Glob(filepath.Join(tr.dir, "run/terok/access-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left in the runtime directory: %v, %v", left, err)
	}
}
