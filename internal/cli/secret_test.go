package cli

import (
	"io"
	"strings"
	"testing"

	"terok/internal/problem"
)

// A slip while a passphrase is chosen is asked again, three times at most: what a person goes on to
// type must not end up in the shell.
func TestChosenAsksAgain(t *testing.T) {
	t.Parallel()
	const good = "correct horse battery"
	for _, tt := range []struct {
		typed []string
		want  string // the passphrase, or the code of the problem
	}{
		{[]string{good, good}, good},
		{[]string{good, "correct hrose battery", good, good}, good},
		{[]string{good, "1", good, "2", good, "3"}, "usage"},
		{[]string{good, ""}, "declined"},
	} {
		c := newConsole(t)
		type answer struct {
			pass []byte
			err  error
		}
		done := make(chan answer, 1)
		go func() {
			e := &env{in: c.slave, out: c.slave, err: c.slave}
			pass, err := e.chosen("New: ")
			done <- answer{pass, err}
		}()
		from := 0
		for i, line := range tt.typed {
			prompt := []string{"New: ", "Again: "}[i%2]
			c.wait(func() bool {
				at := strings.Index(c.text()[from:], prompt)
				if at >= 0 {
					from += at + len(prompt)
				}
				return at >= 0
			}, prompt)
			if _, err := io.WriteString(c.master, line+"\n"); err != nil {
				t.Fatal(err)
			}
		}
		a := <-done
		got := string(a.pass)
		if a.err != nil {
			got = problem.Of(a.err).Code
		}
		if got != tt.want {
			t.Errorf("%q: %q (%v), want %q", tt.typed, got, a.err, tt.want)
		}
	}
}
