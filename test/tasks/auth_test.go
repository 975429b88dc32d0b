package tasks

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"terok/test/issuer"
)

// withIssuer starts a provider of sign-ins and makes the vault. The caller points providers at it.
func (tr *tree) withIssuer() *issuer.Server {
	tr.t.Helper()
	i, err := issuer.Start(tr.dir)
	if err != nil {
		tr.t.Fatal(err)
	}
	tr.t.Cleanup(i.Close)
	tr.run(0, "", "vault", "init", "--passphrase-file", tr.file("passphrase", pass+"\n"))
	return i
}

// credentials is a sign-in as Claude Code writes it down.
func credentials(i *issuer.Server, end time.Time) string {
	access, refresh := i.Issue()
	return fmt.Sprintf(`{"claudeAiOauth":{"accessToken":%q,"refreshToken":%q,"expiresAt":%d,"scopes":["user:inference"],"subscriptionType":"max"}}`,
		access, refresh, end.UnixMilli())
}

// noCanary fails when one of the issuer's tokens is in a file of the tree, or in a text.
func (tr *tree) noCanary(i *issuer.Server, texts ...string) {
	tr.t.Helper()
	secrets := i.Secrets()
	_ = filepath.WalkDir(tr.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasPrefix(filepath.Base(path), "import-") {
			return nil
		}
		data, _ := os.ReadFile(path)
		for _, s := range secrets {
			if bytes.Contains(data, []byte(s)) {
				tr.t.Errorf("%s holds a token", path)
			}
		}
		return nil
	})
	for _, text := range texts {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				tr.t.Errorf("a token is shown: %s", tail(text))
			}
		}
	}
}

// TestSubscription: a sign-in whose token has ended serves two tasks after one refresh, its end is
// said to the client, and a new one works in the same containers.
//
// spec/vault.md §10: 17, 45, 48, 51; 6 for what auth and refresh write.
func TestSubscription(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	i := tr.withIssuer()
	ep := i.Endpoint()
	tr.file("config/terok/providers/anthropic.yml", fmt.Sprintf(`upstream: %s
ca_file: %s
allow_private: true
oauth_refresh: {token_url: %s, ca_file: %s, allow_private: true}
`, i.URL, i.CAFile, ep.TokenURL, i.CAFile))
	signIn := func(end time.Time) (shown string) {
		t.Helper()
		out, errs := tr.run(0, "", "auth", "claude", "--import-file", tr.file("import-"+random(), credentials(i, end)), "--yes")
		return out + errs
	}
	shown := signIn(time.Now().Add(-time.Minute))
	if !strings.Contains(shown, "anthropic: sign-in stored (shared) · octo\n") {
		t.Errorf("%q", shown)
	}
	repo := tr.repo("greet")
	one, two := tr.start(repo, "script"), tr.start(repo, "script")
	tr.ready(one)
	tr.ready(two)
	token := func(task taskView) string {
		t.Helper()
		return inside(t, task, "jq -er .CLAUDE_CODE_OAUTH_TOKEN /run/terok/env.json")
	}
	// Twenty-five requests of each container at once, with a token that has ended.
	var all sync.WaitGroup
	for _, task := range []taskView{one, two} {
		all.Go(func() {
			out := inside(t, task, `for i in $(seq 25); do curl -sS --cacert /run/terok/ca/bundle.pem --max-time 30 -o /dev/null -w '%{http_code}\n' -H "Authorization: Bearer `+
				token(task)+`" https://api.anthropic.com/v1/models & done; wait`)
			if n := strings.Count(out, "200"); n != 25 {
				t.Errorf("%d of 25 requests: %s", n, tail(out))
			}
		})
	}
	all.Wait()
	if n := i.Count("token"); n != 1 {
		t.Errorf("%d requests to the token endpoint", n)
	}
	if ask(t, one, token(one)) != "200" {
		t.Error("not served afterwards")
	}

	// A client's own refresh is answered on the host.
	answer := inside(t, one, `curl -sS --cacert /run/terok/ca/bundle.pem --max-time 10 -H 'Content-Type: application/json' -d '{"grant_type":"refresh_token","refresh_token":"`+
		token(one)+`"}' https://platform.claude.com/v1/oauth/token`)
	if !strings.Contains(answer, `"access_token":"`+token(one)+`"`) || i.Count("token") != 1 {
		t.Error(answer, i.Count("token"))
	}

	// The provider ends the sign-in.
	i.Forget()
	_, errs := tr.run(1, "", "auth", "claude", "--refresh")
	out, _ := tr.run(0, "", "auth", "--list")
	if !strings.Contains(errs, "terok auth anthropic") || !strings.Contains(out, "re-auth needed") {
		t.Error(errs, out)
	}
	if got := ask(t, two, token(two)); got != "403" {
		t.Error("a sign-in that has ended:", got)
	}
	signIn(time.Now().Add(time.Hour))
	for _, task := range []taskView{one, two} {
		if got := ask(t, task, token(task)); got != "200" {
			t.Error("after the new sign-in:", got)
		}
	}
	out, _ = tr.run(0, "", "auth", "claude", "--refresh")
	if !strings.Contains(out, "new token") || ask(t, one, token(one)) != "200" {
		t.Error(out)
	}

	// Revoked and late.
	out, _ = tr.run(0, "", "auth", "claude", "--revoke")
	if !strings.Contains(out, "greet/"+one.ID) || !strings.Contains(out, "greet/"+two.ID) {
		t.Error(out)
	}
	start := time.Now()
	if got := ask(t, one, token(one)); got != "403" {
		t.Errorf("%s after the revocation: %s", time.Since(start), got)
	}
	access, _ := i.Issue()
	i.Refuse()
	good, _ := i.Issue()
	if _, errs, err := tr.try(1, access, "", "auth", "claude", "--api-key-stdin"); err != nil || !strings.Contains(errs, "does not take") {
		t.Error(err, errs)
	}
	if _, _, err := tr.try(0, good, "", "auth", "claude", "--api-key-stdin"); err != nil {
		t.Error(err)
	}
	if got := ask(t, one, token(one)); got != "200" {
		t.Error("a key that came late:", got)
	}
	// A refused key leaves the one before in place (73).
	if _, _, err := tr.try(1, access, "", "auth", "claude", "--api-key-stdin"); err != nil {
		t.Error(err)
	}
	if got := ask(t, two, token(two)); got != "200" {
		t.Error("the key before a refused one:", got)
	}
	tr.noCanary(i, shown, out, errs)
}

// TestSignIn: a vendor's program signs in, in a container of its own; what it wrote is captured
// also when it is ended then, links are not followed, and nothing stays. Fake vendor, real
// container.
//
// spec/vault.md §10: 4 for auth, 6, 74.
func TestSignIn(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	i := tr.withIssuer()
	provider := func(name, program string) {
		t.Helper()
		script, err := json.Marshal([]string{"bash", "-c", program})
		if err != nil {
			t.Fatal(err)
		}
		tr.file("config/terok/providers/"+name+".yml", fmt.Sprintf(`host: api.%s.test
upstream: %s
ca_file: %s
allow_private: true
auth:
  oauth: {header: Authorization, prefix: "Bearer ", probe: {method: GET, path: /user}}
oauth_refresh: {token_url: %s, ca_file: %s, allow_private: true}
sign_in: {command: %s, hosts: [login.%s.test], file: .demo/auth.json, format: claude}
`, name, i.URL, i.CAFile, i.Endpoint().TokenURL, i.CAFile, script, name))
	}
	write := func() string {
		return "cat >~/.demo/auth.json <<'E'\n" + credentials(i, time.Now().Add(time.Hour)) + "\nE\n"
	}
	stored := func() int {
		t.Helper()
		var list struct{ Credentials []struct{ Provider string } }
		tr.decode(&list, "", "auth", "--list")
		return len(list.Credentials)
	}
	signIn := []string{"--device-auth", "--yes"}

	// It ends by itself. Nothing of the host is in its container, and it reaches no other host.
	provider("ends", `set -e
[ "$(ls -A /workspace 2>/dev/null)" = "" ]; [ ! -e /run/terok/base ]
! curl -sS --max-time 5 https://api.ends.test 2>/dev/null
`+write())
	var shown []string
	watch := argvs(t)
	out, errs := tr.run(0, "", append([]string{"auth", "ends"}, signIn...)...)
	if !strings.Contains(out, "ends: sign-in stored (shared) · octo") || stored() != 1 {
		t.Error(out, errs)
	}
	shown = append(shown, out, errs)
	lines, n := watch()
	if n < 3 {
		t.Errorf("only %d looks at the processes", n)
	}
	shown = append(shown, lines)
	if c := i.Count("token"); c != 0 {
		t.Error("refreshed at once", c)
	}
	out, _ = tr.run(0, "", "auth", "ends", "--refresh")
	if !strings.Contains(out, "new token") {
		t.Error(out)
	}

	// It writes nothing; it leaves a link; it writes something else.
	provider("nothing", "true")
	out, errs = tr.run(1, "", append([]string{"auth", "nothing"}, signIn...)...)
	shown = append(shown, out, errs)
	provider("link", "ln -s /etc/passwd ~/.demo/auth.json")
	tr.run(1, "", append([]string{"auth", "link"}, signIn...)...)
	provider("drift", `echo '{"claudeAiOauth":{"token":"elsewhere"}}' >~/.demo/auth.json`)
	if _, errs := tr.run(1, "", append([]string{"auth", "drift"}, signIn...)...); !strings.Contains(errs, "accessToken is missing") {
		t.Error(errs)
	}

	// Ended by Ctrl-C, after and before.
	for name, tt := range map[string]struct {
		program string
		exit    int
	}{"after": {write() + "echo written; sleep 1000", 0}, "before": {"echo written; sleep 1000", 9}} {
		provider(name, tt.program)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		cmd := tr.command(ctx, "", append([]string{"auth", name}, signIn...)...)
		var text lockedBuffer
		cmd.Stdout, cmd.Stderr = &text, &text
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		tr.wait(time.Minute, name+": the program is there", func() bool { return strings.Contains(text.String(), "written") })
		if name == "after" {
			tr.wait(30*time.Second, "told that he may leave", func() bool { return strings.Contains(text.String(), "you can leave") })
		}
		_ = cmd.Process.Signal(syscall.SIGINT)
		_ = cmd.Wait()
		cancel()
		if got := cmd.ProcessState.ExitCode(); got != tt.exit {
			t.Errorf("%s: exit %d, want %d\n%s", name, got, tt.exit, text.String())
		}
		shown = append(shown, text.String())
	}
	if n := stored(); n != 2 {
		t.Errorf("%d are stored", n)
	}

	// Killed: the next sign-in sweeps what it left.
	provider("killed", write()+"echo written; sleep 1000")
	cmd := tr.command(t.Context(), "", append([]string{"auth", "killed"}, signIn...)...)
	var text lockedBuffer
	cmd.Stdout, cmd.Stderr = &text, &text
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	tr.wait(time.Minute, "killed: the program is there", func() bool { return strings.Contains(text.String(), "written") })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	tr.run(1, "", append([]string{"auth", "nothing"}, signIn...)...)
	left, _ := filepath.Glob(filepath.Join(tr.dir, "run/terok/auth/*"))
	if len(left) > 0 || strings.Contains(podman(t, "ps", "-a", "--format", "{{.Labels}}"), tr.dir+"/") {
		t.Error("left behind:", left)
	}
	for _, name := range []string{"ends", "after", "before", "killed"} {
		_ = os.Remove(filepath.Join(tr.dir, "config/terok/providers/"+name+".yml")) // the fake vendor is written down there
	}
	tr.noCanary(i, shown...)
	tr.run(0, "", "vault", "lock")
	tr.run(8, "", append([]string{"auth", "nothing"}, signIn...)...)
}

// lockedBuffer takes what a process writes while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// argvs looks at the arguments and environments of all processes of this user until the returned
// function is called; that one returns them all and how often it looked.
func argvs(t *testing.T) func() (string, int) {
	var seen strings.Builder
	looks := 0
	ctx, stop := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		known := map[string]bool{}
		for ctx.Err() == nil {
			procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, p := range procs {
				line, _ := os.ReadFile(p)
				if !known[string(line)] {
					known[string(line)] = true
					// The fake vendor's own arguments hold the sign-in that it makes.
					if !bytes.Contains(line, []byte("cat >~/.demo")) {
						seen.Write(line)
					}
				}
			}
			looks++
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
		}
	})
	return func() (string, int) {
		stop()
		done.Wait()
		return seen.String(), looks
	}
}
