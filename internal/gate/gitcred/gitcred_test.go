package gitcred

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/git"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "git-credential" {
		os.Exit(Main(os.Args[2:], os.Stdin, os.Stdout))
	}
	os.Exit(m.Run())
}

// answering answers for login at socket until the test ends.
func answering(t *testing.T, socket string) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			Answer(c, login)
			c.Close()
		}
	}()
}

// TestRealGit: git itself asks through the helper, and gets nothing for another host.
func TestRealGit(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "it's.sock")
	answering(t, socket)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	fill := func(host string) (string, error) {
		out, err := (&git.Runner{}).Run(t.Context(), git.Cmd{Args: []string{"credential", "fill"},
			Stdin:  strings.NewReader("protocol=https\nhost=" + host + "\n\n"),
			Config: []string{"credential.https://forge.test:8443.helper=" + Helper(self, socket)}})
		return string(out), err
	}
	if out, err := fill(login.Host); err != nil || !strings.Contains(out, "username=oauth2\npassword=REAL-token\n") {
		t.Errorf("%q, %v", out, err)
	}
	if out, err := fill("evil.test"); err == nil || strings.Contains(out, "REAL") {
		t.Errorf("another host: %q", out)
	}
}

var login = Login{Protocol: "https", Host: "forge.test:8443", Username: "oauth2", Password: []byte("REAL-token")}

// TestAnswersOneHostOnly: whatever makes git ask for another place (a redirect, a submodule) gets
// no token.
func TestAnswersOneHostOnly(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "ask.sock")
	answering(t, socket)
	ask := func(verb, question string) string {
		var out bytes.Buffer
		if code := Main([]string{socket, verb}, strings.NewReader(question), &out); code != 0 {
			t.Errorf("%s: exit %d", question, code)
		}
		return out.String()
	}
	if got := ask("get", "protocol=https\nhost=forge.test:8443\ncapability[]=a\ncapability[]=b\n\n"); got != "username=oauth2\npassword=REAL-token\n" {
		t.Errorf("%q", got)
	}
	for _, question := range []string{
		"protocol=http\nhost=forge.test:8443\n", "protocol=https\nhost=forge.test\n", "protocol=https\nhost=evil.test\n",
		"protocol=https\nhost=forge.test:8443\nhost=evil.test\n", "protocol=https\nhost=evil.test\nhost=forge.test:8443\n",
		"host=forge.test:8443\n", "nonsense\nprotocol=https\nhost=forge.test:8443\n", "",
	} {
		if got := ask("get", question); got != "" {
			t.Errorf("%q is answered", question)
		}
	}
	if got := ask("store", "protocol=https\nhost=forge.test:8443\npassword=x\n"); got != "" {
		t.Errorf("store: %q", got)
	}
	if code := Main([]string{socket + ".gone", "get"}, strings.NewReader(""), &bytes.Buffer{}); code != 1 {
		t.Errorf("nobody there: exit %d", code)
	}
	if got := Helper("/opt/it's/terok", "/run/x"); got != `!'/opt/it'\''s/terok' git-credential /run/x` {
		t.Error(got)
	}
}

func FuzzAsks(f *testing.F) {
	f.Add("protocol=https\nhost=forge.test:8443\n\n")
	f.Add("protocol=https\nhost=forge.test:8443\nhost=evil.test\n")
	f.Fuzz(func(t *testing.T, question string) {
		if asks(strings.NewReader(question), login) && (!strings.Contains(question, "host=forge.test:8443") || !strings.Contains(question, "protocol=https")) {
			t.Fatalf("%q is answered", question)
		}
	})
}
