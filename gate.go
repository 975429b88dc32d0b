package terok

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"terok/internal/audit"
	"terok/internal/gate/store"
	"terok/internal/git"
)

// What the gate's methods return.
type (
	GateReport = store.Report
	GateChange = store.Change
)

// hostLedger records what a person did, in the host's ledger; a failure is a warning.
type hostLedger struct{ app *App }

// Record implements audit.Recorder.
func (l hostLedger) Record(e audit.Event) {
	if err := audit.AppendOne(l.app.Roots.HostLedger(), e); err != nil {
		fmt.Fprintf(l.app.Progress, "warning: the host ledger could not be written: %v\n", err)
	}
}

// sshEnv lets ssh upstreams use the person's agent.
func (a *App) sshEnv() []string {
	if sock := a.Environ("SSH_AUTH_SOCK"); filepath.IsAbs(sock) {
		return []string{"SSH_AUTH_SOCK=" + sock}
	}
	return nil
}

// globalIgnores are the person's own ignore files (gitignore(5)): what they never commit is not
// carried into a task either.
func (a *App) globalIgnores(ctx context.Context) []string {
	home := a.Environ("HOME")
	config := firstOf(a.Environ("XDG_CONFIG_HOME"), filepath.Join(home, ".config"))
	files := []string{filepath.Join(config, "git", "ignore")}
	for _, f := range []string{filepath.Join(config, "git", "config"), filepath.Join(home, ".gitconfig")} {
		out, err := (&git.Runner{}).Run(ctx, git.Cmd{Args: []string{"config", "--file", f, "--get", "core.excludesFile"}})
		if path := strings.TrimSpace(string(out)); err == nil && path != "" {
			if rest, ok := strings.CutPrefix(path, "~/"); ok {
				path = filepath.Join(home, rest)
			}
			if filepath.IsAbs(path) {
				files = append(files, path)
			}
		}
	}
	return files
}

// HomeRelative shows a path below the person's home with a tilde.
func (a *App) HomeRelative(path string) string {
	if home := a.Environ("HOME"); filepath.IsAbs(home) {
		if rest, ok := strings.CutPrefix(path, filepath.Clean(home)+string(os.PathSeparator)); ok {
			return "~/" + rest
		}
	}
	return path
}
