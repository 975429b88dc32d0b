// Package passphrase gets the vault's passphrase without a person: from a file or from the
// command in credentials.passphrase_command. Arguments and environment are never a source, since
// every process of the host can read them.
package passphrase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/child"
	"terok/internal/problem"
)

const maxLen = 4096 // bytes, as in store.MaxPassphrase

// deadline is how long a command may take before it has failed: it gets SIGTERM, then SIGKILL. With
// what a descendant may hold up beyond that (child.PipeGrace) a locked vault says so within 31 s.
type deadline struct{ term, kill time.Duration }

func production() deadline { return deadline{29 * time.Second, 500 * time.Millisecond} }

// File reads a passphrase from a file: everything but one trailing line end. A regular file must
// not be readable by others; a pipe ("/dev/fd/3", "/dev/stdin") is read to its end.
func File(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, problem.New("passphrase_unreadable", problem.Usage, "passphrase file: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st.Mode().IsRegular() && st.Mode().Perm()&0o077 != 0 {
		return nil, problem.New("passphrase_unreadable", problem.Usage, "others may read %s", path).
			WithHint("chmod 600 '%s'", strings.ReplaceAll(path, "'", `'\''`))
	}
	data, err := io.ReadAll(io.LimitReader(f, maxLen+3))
	if err != nil {
		return nil, problem.New("passphrase_unreadable", problem.Usage, "passphrase file: %w", err)
	}
	return judge(trimLineEnd(data), path)
}

func judge(p []byte, source string) ([]byte, error) {
	switch {
	case len(p) == 0:
		return nil, problem.New("empty_passphrase", problem.Usage, "%s is empty", source)
	case len(p) > maxLen:
		clear(p)
		return nil, problem.New("passphrase_unreadable", problem.Usage, "%s holds more than %d bytes", source, maxLen)
	}
	return p, nil
}

func trimLineEnd(p []byte) []byte {
	p = bytes.TrimSuffix(p, []byte("\n"))
	return bytes.TrimSuffix(p, []byte("\r"))
}

// Command runs a command line without a shell and returns the first line that it prints. getenv
// finds PATH; environ is the command's environment; stderr gets what it says there, so that a
// password manager can explain itself. A command that fails, prints nothing, prints too much or
// takes longer than 29 s is an error. No error holds more of the command than its first word.
func Command(ctx context.Context, line string, getenv func(string) string, environ []string, stderr io.Writer) ([]byte, error) {
	return production().command(ctx, line, getenv, environ, stderr)
}

func (d deadline) command(ctx context.Context, line string, getenv func(string) string, environ []string, stderr io.Writer) ([]byte, error) {
	words, err := Words(line)
	if err != nil {
		return nil, problem.New("passphrase_command", problem.Usage, "credentials.passphrase_command: %w", err)
	}
	failed := func(format string, args ...any) error {
		return problem.New("passphrase_command", problem.Locked, "credentials.passphrase_command (%s) "+format, append([]any{words[0]}, args...)...).
			WithHint("terok vault unlock --passphrase-file FILE")
	}
	path, err := lookPath(words[0], getenv("PATH"))
	if err != nil {
		return nil, failed("%w", err)
	}
	out, err := child.Run(ctx, child.Spec{Path: path, Args: words[1:], Env: environ, Stderr: stderr, Timeout: d.term, Grace: d.kill, MaxOutput: maxLen})
	if err != nil {
		clear(out)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		exit, ok := errors.AsType[*child.ExitError](err)
		switch {
		case errors.Is(err, child.ErrTooLarge):
			return nil, failed("printed more than %d bytes", maxLen)
		case errors.Is(err, context.DeadlineExceeded):
			return nil, failed("took longer than %s", d.term)
		case ok:
			return nil, failed("ended with exit code %d", exit.Code)
		}
		return nil, failed("cannot be run")
	}
	first, _, _ := bytes.Cut(out, []byte("\n"))
	first = trimLineEnd(first)
	if len(first) == 0 {
		return nil, failed("printed no passphrase")
	}
	return first, nil
}

// lookPath finds a program as a shell would; a relative entry of PATH finds nothing.
func lookPath(name, path string) (string, error) {
	if strings.Contains(name, "/") {
		if !filepath.IsAbs(name) {
			return "", errors.New("must be an absolute path or a name in PATH")
		}
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue
		}
		full := filepath.Join(dir, name)
		if st, err := os.Stat(full); err == nil && st.Mode().IsRegular() && unix.Access(full, unix.X_OK) == nil {
			return full, nil
		}
	}
	return "", errors.New("is not in PATH")
}

// Words splits a command line as a POSIX shell does, with quotes and backslashes and nothing
// else: no variables, no globs, no operators.
func Words(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	open, quote, escaped := false, rune(0), false
	for _, c := range line {
		switch {
		case escaped:
			if quote == '"' && c != '"' && c != '\\' && c != '$' && c != '`' {
				word.WriteByte('\\')
			}
			word.WriteRune(c)
			escaped = false
		case c == '\\' && quote != '\'':
			escaped, open = true, true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\'' || c == '"':
			quote, open = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if open {
				words = append(words, word.String())
				word.Reset()
				open = false
			}
		default:
			word.WriteRune(c)
			open = true
		}
	}
	if quote != 0 || escaped {
		return nil, fmt.Errorf("a quote or backslash is left open")
	}
	if open {
		words = append(words, word.String())
	}
	if len(words) == 0 || words[0] == "" {
		return nil, errors.New("no command")
	}
	return words, nil
}
