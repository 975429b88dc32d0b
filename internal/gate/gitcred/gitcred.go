// Package gitcred gives git on the host a password for one upstream, without putting it into an
// argument, an environment or a file.
//
// git runs its credential helper (gitcredentials(7)): `terok git-credential SOCKET get`. The helper
// passes git's question over a socket to the terok command that started git, which answers for
// exactly one protocol and host and is silent otherwise. The secret is in pipes and in the memory
// of terok and git only.
package gitcred

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"terok/internal/child"
)

const (
	maxQuestion = 16 << 10 // bytes
	within      = 10 * time.Second
)

// Login is the answer to one question.
type Login struct {
	Protocol, Host string // "https", "host" or "host:port"; exactly
	Username       string
	Password       []byte
}

// Username is what a forge wants beside a token.
func Username(forge string) string {
	if forge == "gitlab" {
		return "oauth2"
	}
	return "x-access-token"
}

// Helper is the value of git's credential.helper: our program, asked through the shell.
func Helper(self, socket string) string {
	return "!" + child.Quote(self) + " git-credential " + child.Quote(socket)
}

// Main is `terok git-credential SOCKET get|store|erase`.
func Main(args []string, in io.Reader, out io.Writer) int {
	if len(args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: terok git-credential SOCKET get")
		return 2
	}
	if args[1] != "get" {
		return 0 // nothing is stored or erased here
	}
	question, err := io.ReadAll(io.LimitReader(in, maxQuestion))
	if err != nil {
		return 1
	}
	conn, err := net.DialTimeout("unix", args[0], within)
	if err != nil {
		return 1 // the command that asked is gone
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Write(append(bytes.TrimRight(question, "\n"), "\n\n"...)); err != nil {
		return 1
	}
	if _, err := io.Copy(out, io.LimitReader(conn, maxQuestion)); err != nil {
		return 1
	}
	return 0
}

// Answer reads one question and answers it if it is for login's protocol and host.
func Answer(conn net.Conn, login Login) {
	_ = conn.SetDeadline(time.Now().Add(within))
	if !asks(conn, login) {
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "username=%s\npassword=", login.Username)
	b.Write(login.Password)
	b.WriteByte('\n')
	_, _ = conn.Write(b.Bytes())
	clear(b.Bytes())
}

// asks reports whether git's question is for login. A line that stands twice is no question.
func asks(in io.Reader, login Login) bool {
	asked := map[string]string{}
	lines := bufio.NewScanner(io.LimitReader(in, maxQuestion))
	for lines.Scan() && lines.Text() != "" {
		k, v, ok := strings.Cut(lines.Text(), "=")
		if _, twice := asked[k]; !ok || twice && !strings.HasSuffix(k, "[]") {
			return false
		}
		asked[k] = v
	}
	return asked["protocol"] == login.Protocol && asked["host"] == login.Host
}
