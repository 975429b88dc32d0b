// Package pager shows long text in the person's own pager, and diffs through delta where they have
// it.
//
// It runs programs of the person's, so it takes only text that was sanitised before (package text)
// and coloured by us: nothing that an agent wrote reaches them as more than printable characters.
// They get a small environment, no shell, and less in its secure mode, which opens no files and
// starts no programs. Without a pager the text is written as it is.
package pager

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// Pager is a person's choice.
type Pager struct {
	Environ func(string) string // os.Getenv
	Out     *os.File            // the terminal
}

// words are the pager's command line: $TEROK_PAGER, $PAGER, less, more. "cat" and "" mean none.
func (p Pager) words() []string {
	for _, name := range []string{"TEROK_PAGER", "PAGER"} {
		if set := p.Environ(name); set != "" {
			words := strings.Fields(set)
			if len(words) == 0 || words[0] == "cat" {
				return nil
			}
			return words
		}
	}
	for _, w := range []string{"less", "more"} {
		if _, err := exec.LookPath(w); err == nil {
			return []string{w}
		}
	}
	return nil
}

// environ is what a pager needs. Its own options are the person's; without any, less ends at once
// with a short text, keeps colours and leaves the text on the screen.
func (p Pager) environ() []string {
	env := []string{"LESSSECURE=1", "LESSCHARSET=utf-8"}
	for _, name := range []string{"PATH", "HOME", "TERM", "LANG", "LC_ALL", "LESS", "LV", "COLUMNS", "LINES", "COLORTERM", "TERMINFO", "BAT_THEME", "DELTA_FEATURES", "XDG_CONFIG_HOME"} {
		v := p.Environ(name)
		if name == "LESS" && v == "" {
			v = "FRX"
		}
		if v != "" {
			env = append(env, name+"="+v)
		}
	}
	return env
}

// Show writes text to the pager and waits until the person leaves it. A pager that cannot be
// started is no error: the text is written as it is.
func (p Pager) Show(ctx context.Context, text string) error {
	words := p.words()
	if len(words) == 0 {
		_, err := io.WriteString(p.Out, text)
		return err
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = p.environ(), p.Out, os.Stderr
	cmd.Stdin = strings.NewReader(text)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * time.Second
	err := cmd.Run()
	if cmd.Process == nil {
		_, err = io.WriteString(p.Out, text)
		return err
	}
	if _, left := errors.AsType[*exec.ExitError](err); left || errors.Is(err, syscall.EPIPE) || errors.Is(err, exec.ErrWaitDelay) {
		return nil // the person left before the end
	}
	return err
}

const (
	deltaTime = 10 * time.Second
	maxDelta  = 64 << 20
)

// Delta passes a unified diff through delta(1) with the person's own settings; ok is false where it
// is not installed, or fails.
func (p Pager) Delta(ctx context.Context, patch string, width string) (out string, ok bool) {
	path, err := exec.LookPath("delta")
	if err != nil {
		return "", false
	}
	ctx, cancel := context.WithTimeout(ctx, deltaTime)
	defer cancel()
	args := []string{"--paging=never"}
	if width != "" {
		args = append(args, "--width="+width)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env, cmd.Dir = p.environ(), "/"
	cmd.Stdin = strings.NewReader(patch)
	var b bytes.Buffer
	cmd.Stdout = &limited{&b, maxDelta}
	if err := cmd.Run(); err != nil || b.Len() == 0 {
		return "", false
	}
	return b.String(), true
}

type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= len(b); l.left < 0 {
		return 0, errors.New("too much")
	}
	return l.w.Write(b)
}
