package cli

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"terok/internal/problem"
)

// walk visits every command that a person can see.
func walk(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, sub := range c.Commands() {
		if !sub.Hidden {
			walk(sub, visit)
		}
	}
}

// TestHelp: every command says what it does, shows how it is typed, and its examples are commands
// and flags that exist.
func TestHelp(t *testing.T) {
	t.Setenv("HOME", t.TempDir())
	count := 0
	root := newRoot(&env{})
	walk(root, func(c *cobra.Command) {
		count++
		path := strings.Fields(c.CommandPath())[1:]
		var out, errw bytes.Buffer
		if code := Main(t.Context(), append(path, "--help"), strings.NewReader(""), &out, &errw); code != problem.OK || errw.Len() > 0 {
			t.Errorf("%s --help: exit %d, %s", c.CommandPath(), code, errw.String())
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: short text %q", c.CommandPath(), c.Short)
		}
		if !strings.Contains(out.String(), "\nExamples:\n") {
			t.Errorf("%s --help has no examples", c.CommandPath())
		}
		for line := range strings.Lines(c.Example) {
			checkExample(t, root, c, strings.TrimSpace(line))
		}
	})
	if count < 30 {
		t.Errorf("only %d commands were found", count)
	}
}

// TestUnknownFlags: every command refuses a flag that it does not have, with the cure, before it
// does anything.
func TestUnknownFlags(t *testing.T) {
	dir := t.TempDir()
	for key, sub := range map[string]string{"HOME": "home", "XDG_CONFIG_HOME": "c", "XDG_DATA_HOME": "d", "XDG_RUNTIME_DIR": "r"} {
		t.Setenv(key, filepath.Join(dir, sub))
	}
	walk(newRoot(&env{}), func(c *cobra.Command) {
		path := strings.Fields(c.CommandPath())[1:]
		if len(path) == 0 {
			return
		}
		var out, errw bytes.Buffer
		code := Main(t.Context(), append(path, "--no-such-flag"), strings.NewReader(""), &out, &errw)
		if code != problem.Usage || out.Len() > 0 || !strings.Contains(errw.String(), "unknown flag: --no-such-flag") || !strings.Contains(errw.String(), "\n  → ") {
			t.Errorf("%s: exit %d, stdout %q, stderr %q", c.CommandPath(), code, out.String(), errw.String())
		}
	})
	if left, _ := filepath.Glob(filepath.Join(dir, "*", "*")); len(left) > 0 {
		t.Errorf("made: %v", left)
	}
}

func checkExample(t *testing.T, root, c *cobra.Command, line string) {
	t.Helper()
	i := strings.Index(line, "terok ")
	if i < 0 {
		t.Errorf("%s: example %q names no terok", c.CommandPath(), line)
		return
	}
	words := strings.Fields(line[i:])[1:]
	found, _, err := root.Find(words)
	if err != nil || found == root && !strings.HasPrefix(words[0], "-") {
		t.Errorf("%s: example %q is no command of terok", c.CommandPath(), line)
		return
	}
	found.InitDefaultHelpFlag()
	for _, w := range words {
		if w == "--" || w == "|" || w == ">" {
			break
		}
		if name, ok := strings.CutPrefix(w, "--"); ok {
			name, _, _ = strings.Cut(strings.TrimRight(name, ")"), "=")
			if found.Flag(name) == nil && root.PersistentFlags().Lookup(name) == nil {
				t.Errorf("%s: example %q has the unknown flag --%s", c.CommandPath(), line, name)
			}
		}
	}
}
