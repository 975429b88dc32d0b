// Package state owns terok's one tree of files: where things are, how they are written and who
// may write. Every other package asks it for paths and writes through it, so that a reader never
// sees half a file, two writers never interleave, and a test relocates everything by filling in
// three fields.
//
// Directories are 0700 and files 0600. Writes go to a temporary file beside the target, are
// synced, renamed over it, and the directory is synced as well; what a killed writer leaves is
// removed by a later write of the same file. Reads refuse symbolic links and files that somebody
// else owns or may write. Locks are flock(2) and end with their process.
package state

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"terok/internal/problem"
)

// Roots are the three directories below which terok keeps everything.
type Roots struct {
	Config  string // what a person writes: $XDG_CONFIG_HOME/terok
	Data    string // what terok writes: $XDG_DATA_HOME/terok
	Runtime string // sockets, gone at logout: $XDG_RUNTIME_DIR/terok
}

// FromEnv finds the roots as the XDG base directory specification says.
// It fails when HOME or XDG_RUNTIME_DIR are needed and not absolute paths.
func FromEnv(getenv func(string) string) (Roots, error) {
	home := getenv("HOME")
	dir := func(key, below string) (string, error) {
		if v := getenv(key); filepath.IsAbs(v) {
			return filepath.Join(v, "terok"), nil
		}
		if below == "" || !filepath.IsAbs(home) {
			return "", fmt.Errorf("%s is not set to an absolute path", key)
		}
		return filepath.Join(home, below, "terok"), nil
	}
	var r Roots
	var errs [3]error
	r.Config, errs[0] = dir("XDG_CONFIG_HOME", ".config")
	r.Data, errs[1] = dir("XDG_DATA_HOME", ".local/share")
	if v := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(v) {
		r.Runtime = filepath.Join(v, "terok")
	} else {
		r.Runtime = filepath.Join("/run/user", fmt.Sprint(os.Getuid()), "terok")
	}
	return r, errors.Join(errs[:]...)
}

// Below the configuration root.
func (r Roots) ConfigFile() string          { return filepath.Join(r.Config, "config.yml") }
func (r Roots) ProfilesDir() string         { return filepath.Join(r.Config, "profiles") }
func (r Roots) ProvidersDir() string        { return filepath.Join(r.Config, "providers") }
func (r Roots) AgentsConfigDir() string     { return filepath.Join(r.Config, "agents") }
func (r Roots) ProjectsDir() string         { return filepath.Join(r.Config, "projects") }
func (r Roots) ProjectDir(p string) string  { return filepath.Join(r.ProjectsDir(), p) }
func (r Roots) ProjectFile(p string) string { return filepath.Join(r.ProjectDir(p), "project.yml") }

// Below the data root.
func (r Roots) VaultDir() string       { return filepath.Join(r.Data, "vault") }
func (r Roots) VaultLocked() string    { return filepath.Join(r.VaultDir(), "user-locked") } // stands while a person wants the vault locked
func (r Roots) HostLedger() string     { return filepath.Join(r.Data, "audit", "host.jsonl") }
func (r Roots) HooksDir() string       { return filepath.Join(r.Data, "hooks") }
func (r Roots) ContainersConf() string { return filepath.Join(r.Data, "containers.conf") }
func (r Roots) SeccompDir() string     { return filepath.Join(r.Data, "seccomp") }
func (r Roots) GuestDir() string       { return filepath.Join(r.Data, "guest") }
func (r Roots) BundlesDir() string     { return filepath.Join(r.Data, "agents") }
func (r Roots) AgentLock() string      { return filepath.Join(r.Data, "agents", "lock.json") }
func (r Roots) ImagesDir() string      { return filepath.Join(r.Data, "images") }
func (r Roots) ReceiptsDir() string    { return filepath.Join(r.Data, "receipts") }
func (r Roots) ArchiveDir() string     { return filepath.Join(r.Data, "archive") }

// Gate repositories.
func (r Roots) GateDir(p string) string { return filepath.Join(r.Data, "gate", p) }
func (r Roots) GateBase(p string) string {
	return filepath.Join(r.GateHome(p), "base.git")
}

// GateLink is a symbolic link that says where the mirror of a project lies that has it elsewhere.
func (r Roots) GateLink(p string) string { return filepath.Join(r.GateDir(p), "mirror") }

// GateHome is the directory of a project's mirror, base.git with its state and lock: its own, or
// one that it shares with other projects. Task repositories and reviews are always its own.
func (r Roots) GateHome(p string) string {
	if at, err := os.Readlink(r.GateLink(p)); err == nil && filepath.IsAbs(at) {
		return filepath.Clean(at)
	}
	return r.GateDir(p)
}

func (r Roots) GateTask(p, id string) string {
	return filepath.Join(r.GateDir(p), "tasks", id+".git")
}

// Tasks of projects, and sandboxes without one.
func (r Roots) ProjectData(p string) string { return filepath.Join(r.Data, "projects", p) }
func (r Roots) UsageDir(p string) string    { return filepath.Join(r.ProjectData(p), "usage") }
func (r Roots) TasksDir(p string) string    { return filepath.Join(r.ProjectData(p), "tasks") }
func (r Roots) TaskDir(p, id string) string { return filepath.Join(r.TasksDir(p), id) }
func (r Roots) SandboxesDir() string        { return filepath.Join(r.Data, "sandboxes") }
func (r Roots) SandboxDir(name string) string {
	return filepath.Join(r.SandboxesDir(), name)
}

// Below the runtime root.
func (r Roots) KeyholderSocket() string { return filepath.Join(r.Runtime, "keyholder.sock") }
func (r Roots) NotifySocket() string    { return filepath.Join(r.Runtime, "notify.sock") }
func (r Roots) PanicLock() string       { return filepath.Join(r.Data, "panic.lock") }

// RunDir is where the sockets of one container live. Unix socket paths are limited to 107
// bytes, so a long key is replaced by a hash of it.
func (r Roots) RunDir(key string) string {
	d := filepath.Join(r.Runtime, "run", key)
	if len(d)+len("/control.sock") <= 107 {
		return d
	}
	sum := sha256.Sum256([]byte(key))
	return filepath.Join(r.Runtime, "run", strings.ToLower(base32.HexEncoding.EncodeToString(sum[:8]))[:13])
}

// Check refuses roots in which somebody else could put files: a root that exists must be a
// directory of this user that neither group nor others can write. A root that does not exist is
// fine, it is made 0700 when it is needed.
func (r Roots) Check() error {
	for _, dir := range []string{r.Config, r.Data, r.Runtime} {
		fi, err := os.Stat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return problem.New("state_unreadable", problem.Usage, "cannot use %s: %w", dir, err)
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		switch {
		case !fi.IsDir():
			return problem.New("state_unsafe", problem.Usage, "%s is not a directory", dir)
		case !ok || int(st.Uid) != os.Geteuid():
			return problem.New("state_unsafe", problem.Usage, "%s belongs to another user", dir).
				WithHint("set XDG_CONFIG_HOME, XDG_DATA_HOME and XDG_RUNTIME_DIR to directories of your own, or: sudo chown -R \"$USER\" %s", dir)
		case fi.Mode().Perm()&0o022 != 0:
			return problem.New("state_unsafe", problem.Usage, "%s can be written by others (mode %04o)", dir, fi.Mode().Perm()).
				WithHint("chmod go-w %s", dir)
		}
	}
	return nil
}
