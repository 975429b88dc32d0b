package cli

import (
	"bytes"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"terok/internal/problem"
)

func passphraseFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "passphrase-file", "", "file (mode 0600) or pipe that holds the passphrase")
}

// chosen asks for a new passphrase, twice, and again after a slip: who has begun to type a
// passphrase must not go on typing it into a shell.
func (e *env) chosen(prompt string) ([]byte, error) {
	pass, err := e.twice(prompt)
	for tries := 1; pass == nil && err == nil; tries++ {
		if tries == 3 {
			return nil, problem.New("usage", problem.Usage, "the two were not the same")
		}
		fmt.Fprintln(e.err, "These two were not the same. Once more.")
		pass, err = e.twice(prompt)
	}
	if err != nil {
		return nil, err
	}
	if weak(pass) {
		ok, err := e.confirm("That is short or of one kind of character only. Use it all the same?")
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, problem.New("declined", problem.Declined, "nothing was made")
		}
	}
	return pass, nil
}

// twice asks for a secret and once more; nil when the two differ.
func (e *env) twice(prompt string) ([]byte, error) {
	pass, err := e.secret(prompt)
	if err != nil {
		return nil, err
	}
	again, err := e.secret("Again: ")
	if err != nil {
		return nil, err
	}
	defer clear(again)
	if !bytes.Equal(pass, again) {
		clear(pass)
		return nil, nil
	}
	return pass, nil
}

// weak reports whether a passphrase is under 12 characters or of one kind only.
func weak(p []byte) bool {
	var lower, upper, digit, other int
	for _, c := range p {
		switch {
		case c >= 'a' && c <= 'z':
			lower = 1
		case c >= 'A' && c <= 'Z':
			upper = 1
		case c >= '0' && c <= '9':
			digit = 1
		default:
			other = 1
		}
	}
	return len(p) < 12 || lower+upper+digit+other < 2
}

// secret reads one line from the terminal without showing it.
func (e *env) secret(prompt string) ([]byte, error) {
	f, ok := e.in.(*os.File)
	if !ok || !e.interactive() {
		return nil, problem.New("declined", problem.Declined, "a secret is needed and there is no terminal to type it")
	}
	fmt.Fprint(e.err, prompt)
	b, err := term.ReadPassword(int(f.Fd()))
	fmt.Fprintln(e.err)
	if err != nil {
		return nil, err
	}
	// Markers of a bracketed paste, where the terminal sends them.
	b = bytes.TrimSuffix(bytes.TrimPrefix(b, []byte("\x1b[200~")), []byte("\x1b[201~"))
	if len(b) == 0 {
		return nil, problem.New("declined", problem.Declined, "nothing was typed")
	}
	return b, nil
}
