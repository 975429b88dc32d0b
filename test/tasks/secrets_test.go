package tasks

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestSecretsAtWork: while a task's programs make requests without a pause and the sign-in that
// serves them is replaced, its tokens, old and new, are in no memory, environment, argument or file
// of the container. From the making of the vault to the task's first request no process of the host
// had a token, a phantom or the passphrase among its arguments. Each request is in the ledger once,
// and when all is over no file holds a token or the phantom.
//
// spec/vault.md §10: 1, 2, 3, 4, 6, 13, 63, 64, 80.
func TestSecretsAtWork(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	watch := argvs(t)
	i := tr.withIssuer()
	asked, answer := make(chan struct{}), make(chan struct{})
	var once sync.Once
	i.Token = func(http.ResponseWriter, *http.Request) bool {
		once.Do(func() { close(asked); <-answer })
		return true
	}
	tr.file("config/terok/providers/anthropic.yml", fmt.Sprintf("upstream: %s\nca_file: %s\nallow_private: true\noauth_refresh: {token_url: %s, ca_file: %s, allow_private: true}\n",
		i.URL, i.CAFile, i.Endpoint().TokenURL, i.CAFile))
	imported := tr.file("import-"+random(), credentials(i, time.Now().Add(time.Hour)))
	tr.run(0, "", "auth", "claude", "--import-file", imported, "--yes")
	repo := tr.repo("greet")
	marker := "marker-" + random()
	task := tr.start(repo, "script")
	tr.ready(task)
	lines, looks := watch()
	mine := phantom(t, task)
	for _, secret := range append(i.Secrets(), pass, mine) {
		if strings.Contains(lines, secret) {
			t.Errorf("%.12s… was among the arguments of a process", secret)
		}
	}
	if looks < 50 || !strings.Contains(lines, "oci-hook") || !strings.Contains(lines, "supervise") {
		t.Errorf("%d looks at the processes prove nothing", looks)
	}

	before := i.Count("api")
	inside(t, task, `echo `+marker+` | tee /workspace/mark ~/mark /tmp/mark >/dev/null
echo "Authorization: Bearer $(jq -er .CLAUDE_CODE_OAUTH_TOKEN /run/terok/env.json)" >/tmp/header
for loop in 1 2 3 4; do nohup sh -c 'while [ ! -e /tmp/stop ]; do
  [ "$(curl -sS --cacert /run/terok/ca/bundle.pem --max-time 60 -o /dev/null -w "%{http_code}" -H @/tmp/header https://api.anthropic.com/v1/models?work)" = 200 ] && echo good || echo bad
done >/tmp/loop'$loop'; touch /tmp/ended'$loop >/dev/null 2>&1 & done
export TOKEN="$(jq -er .CLAUDE_CODE_OAUTH_TOKEN /run/terok/env.json)"; nohup sleep 600 >/dev/null 2>&1 &`)
	needles := func() map[string]string {
		n := map[string]string{"phantom": mine, "marker": marker}
		for k, secret := range i.Secrets() {
			n["key "+strconv.Itoa(k)] = strings.TrimPrefix(strings.TrimPrefix(secret, "at-REAL-"), "rt-REAL-")
		}
		return n
	}
	if err := os.Remove(imported); err != nil {
		t.Fatal(err)
	}
	replaced := make(chan error, 1)
	go func() {
		_, _, err := tr.try(0, "", "", "auth", "claude", "--refresh")
		replaced <- err
	}()
	select {
	case <-asked:
	case err := <-replaced:
		t.Fatal("no refresh", err)
	}
	tr.sweepTask(task, needles()) // the provider has made the new tokens and holds its answer back
	close(answer)
	if err := <-replaced; err != nil {
		t.Fatal(err)
	}
	used := i.Count("api")
	tr.wait(time.Minute, "a hundred requests, of which many with the new token", func() bool { n := i.Count("api"); return n > before+100 && n > used+20 })
	tr.sweepTask(task, needles())
	inside(t, task, "touch /tmp/stop")
	tr.wait(time.Minute, "the loops end", func() bool {
		return inside(t, task, "ls /tmp/ended* 2>/dev/null | wc -l") == "4"
	})
	good, bad := inside(t, task, "cat /tmp/loop? | grep -c good; true"), inside(t, task, "cat /tmp/loop? | grep -c bad; true")
	if served := i.Count("api") - before; good != strconv.Itoa(served) || bad != "0" || len(i.Secrets()) != 4 {
		t.Errorf("%s good and %s bad requests inside, %d at the provider, %d tokens", good, bad, served, len(i.Secrets()))
	}
	out, _ := tr.run(0, repo, "task", "audit-credentials", task.ID, "--last", "0", "--json")
	recorded := 0
	for line := range strings.Lines(out) {
		var e struct {
			Ev, Method string
			Status     int
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err, line)
		}
		if e.Ev == "vault_request" && e.Method == http.MethodGet && e.Status == http.StatusOK {
			recorded++
		}
	}
	if strconv.Itoa(recorded) != good {
		t.Errorf("%s requests, %d in the ledger: %.600s", good, recorded, out)
	}

	// A locked vault closes the running task's way, an unlocked one opens it, without a restart.
	status := func() string {
		return inside(t, task, `curl -sS --cacert /run/terok/ca/bundle.pem --max-time 10 -o /dev/null -w '%{http_code} %header{x-terok-broker}' -H @/tmp/header https://api.anthropic.com/v1/models 2>&1; true`)
	}
	tr.run(0, "", "vault", "lock")
	if got := status(); got != "503 vault_locked" {
		t.Errorf("with a locked vault: %s", got)
	}
	tr.run(0, "", "vault", "unlock", "--passphrase-file", tr.dir+"/passphrase")
	if got := strings.TrimSpace(status()); got != "200" {
		t.Errorf("with a vault that was unlocked again: %s", got)
	}
	tr.run(0, repo, "task", "stop", task.ID)
	tr.noCanary(i, lines, out)
	_ = filepath.WalkDir(tr.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if data, _ := os.ReadFile(path); strings.Contains(string(data), mine) {
				t.Errorf("%s holds the phantom", path)
			}
		}
		return nil
	})
}
