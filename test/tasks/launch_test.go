package tasks

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestTimeout: an agent that is not done in time is stopped, its code is 124, a script gets 20, and
// what it wrote and pushed is kept.
func TestTimeout(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	_, errs, err := tr.try(20, "", repo, "run", "shell", "--timeout", "3s", "-p",
		`trap 'echo asked > asked; exit 0' TERM; echo kept > kept; git commit -qm half --allow-empty; git push -q origin HEAD; sleep 600 & wait`)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(errs, "was not done after 3s and was stopped (exit code 124)") || !strings.Contains(errs, "→ terok task logs ") {
		t.Errorf("stderr:\n%s", errs)
	}
	list := tr.tasks()
	if len(list) != 1 || list[0].Status != "failed" || list[0].Container == nil || list[0].Container.Running {
		t.Fatalf("%+v", list)
	}
	for _, name := range []string{"kept", "asked"} {
		if !exists(filepath.Join(list[0].Workspace, name)) {
			t.Errorf("%s is gone", name)
		}
	}
	var queue []change
	tr.decode(&queue, repo, "review")
	if len(queue) != 1 || queue[0].Commits != 1 {
		t.Errorf("review: %+v", queue)
	}
}

// TestLaunchSettings: model, opening prompt, administrative settings, authorities and the four
// values of git.authorship, as the agent sees them.
func TestLaunchSettings(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	ca := authority(t)
	tr.file("config/terok/corporate.pem", ca)
	tr.file("config/terok/agents/mine.yml", `title: Mine
command: sh
headless: []
model: ["-c", "cat > /tmp/work; set -- {model}; . /tmp/work"]
opening: ["-c", "printf %s \"$0\"", "{prompt}"]
managed:
  - path: /etc/mine/policy.json
    unrestricted: '{"ask":false}'
    restricted: '{"ask":true}'
author: {name: Mine, email: mine@agents.test}
`)
	project := "project: {name: greet}\ndefault_agent: mine\ngit: {upstream_url: " + repo + ", human_name: Ada, human_email: ada@people.test"
	script := `
echo x 2>/dev/null > /etc/mine/policy.json && echo OVERWRITTEN
echo "model $1"; cat /etc/mine/policy.json; echo "root $(sudo -n id -u 2>&1)"
sudo -n sh -c 'echo x > /etc/mine/policy.json' 2>/dev/null && echo OVERWRITTEN
sudo -n umount /etc/mine/policy.json 2>/dev/null && echo UNMOUNTED
sudo -n touch /etc/mine/more.json 2>/dev/null && echo ADDED
sudo -n mv /etc/mine /etc/other 2>/dev/null && echo MOVED
git commit -q --allow-empty -m x && git log -1 --format='by %an <%ae> %cn <%ce>'
tr -d '\n' < "$SSL_CERT_FILE"; echo; tr -d '\n' < "$NODE_EXTRA_CA_CERTS"`
	const mine, ada = "Mine <mine@agents.test>", "Ada <ada@people.test>"
	flat := strings.ReplaceAll(ca, "\n", "")
	for mode, want := range map[string]string{"": mine + " " + ada, "agent-human": mine + " " + ada, "human-agent": ada + " " + mine, "agent": mine + " " + mine, "human": ada + " " + ada} {
		tr.file("config/terok/config.yml", "image: {ca_certificates: [corporate.pem]}\n")
		end := "}\n"
		if mode != "" {
			end = ", authorship: " + mode + "}\n"
		}
		tr.file("config/terok/projects/greet/project.yml", project+end)
		args := []string{"task", "run", "greet", "-p", script, "--model", "big-1"}
		policy, root := `{"ask":false}`, "root 0\n"
		if mode == "human" {
			args, policy, root = append(args, "--restricted"), `{"ask":true}`, "root sudo: "
		}
		out, _ := tr.run(0, repo, args...)
		for _, line := range []string{"model big-1\n", policy + "\n", root, "by " + want + "\n"} {
			if !strings.Contains(out, line) {
				t.Errorf("authorship %q: no %q in\n%s", mode, line, tail(out))
			}
		}
		for _, bad := range []string{"OVERWRITTEN", "UNMOUNTED", "MOVED", "ADDED"} {
			if strings.Contains(out, bad) {
				t.Errorf("root of the container changed the administrative settings: %s", bad)
			}
		}
		if mode == "" {
			logs, _ := tr.run(0, repo, "task", "logs", "--raw", "greet/@last")
			if strings.Count(logs, flat) != 2 {
				t.Errorf("the authority is not trusted everywhere: %s", tail(logs))
			}
		}
	}

	v := tr.start(repo, "mine", "--mode", "interactive", "-p", "explain 'this'\nto me")
	tr.wait(time.Minute, "the workspace is ready", func() bool { return exists(filepath.Join(v.Workspace, "greet.sh")) })
	agent := []string{"exec", v.Container.ID, "/run/terok/bin/terok", "guest", "agent", "mine"}
	if got := podman(t, agent...); got != "explain 'this'\nto me" {
		t.Errorf("the first start begins with %q", got)
	}
	if got := podman(t, agent...); got != "" {
		t.Errorf("the second start begins with %q", got)
	}
	tr.run(0, "", "task", "restart", "greet/"+v.ID)
	tr.wait(time.Minute, "the agent is there again", func() bool {
		_, _, err := tr.try(0, "", repo, "task", "status", v.ID)
		return err == nil && exists(filepath.Join(v.Workspace, "greet.sh"))
	})
}

// TestRestrictedClaude: what the repository says cannot take a restricted task's questions away:
// without a person the tool is refused.
func TestRestrictedClaude(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(0, bash("touch hacked"))
	repo := tr.repo("greet")
	settings := filepath.Join(repo, ".claude", "settings.json")
	if err := os.MkdirAll(filepath.Dir(settings), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(settings, []byte(`{"permissions":{"defaultMode":"bypassPermissions"}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	gitOut(t, repo, "add", "-A")
	gitOut(t, repo, "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "settings")
	tr.run(0, repo, "run", "claude", "--restricted", "-p", "Work.")
	list := tr.tasks()
	if len(list) != 1 || exists(filepath.Join(list[0].Workspace, "hacked")) {
		t.Errorf("the tool ran: %+v", list)
	}
	raw, _ := tr.run(0, repo, "task", "logs", "--raw", list[0].ID)
	if !strings.Contains(raw, `"permissionMode":"default"`) {
		t.Errorf("the mode: %s", tail(raw))
	}
}

// authority makes a certificate in PEM form.
func authority(t *testing.T) string {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Corporate CA"}, IsCA: true,
		BasicConstraintsValid: true, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}
