// Package state owns terok's one tree of files: where things are, how they are written and who
// may write. Every other package asks it for paths and writes through it, so that a reader never
// sees half a file, two writers never interleave, and a test relocates everything by filling in
// three fields.
//
// Directories are 0700 and files 0600. Writes go to a temporary file beside the target, are
// synced, renamed over it, and the directory is synced as well.
package state

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
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
func (r Roots) HostLedger() string     { return filepath.Join(r.Data, "audit", "host.jsonl") }
func (r Roots) HooksDir() string       { return filepath.Join(r.Data, "hooks") }
func (r Roots) ContainersConf() string { return filepath.Join(r.Data, "containers.conf") }
func (r Roots) SeccompDir() string     { return filepath.Join(r.Data, "seccomp") }
func (r Roots) GuestDir() string       { return filepath.Join(r.Data, "guest") }
func (r Roots) BundlesDir() string     { return filepath.Join(r.Data, "agents") }
func (r Roots) AgentLock() string      { return filepath.Join(r.Data, "agents", "lock.json") }
func (r Roots) ImagesDir() string      { return filepath.Join(r.Data, "images") }
func (r Roots) ArchiveDir() string     { return filepath.Join(r.Data, "archive") }

// Gate repositories.
func (r Roots) GateDir(p string) string { return filepath.Join(r.Data, "gate", p) }
func (r Roots) GateBase(p string) string {
	return filepath.Join(r.GateDir(p), "base.git")
}
func (r Roots) GateTask(p, id string) string {
	return filepath.Join(r.GateDir(p), "tasks", id+".git")
}

// Tasks of projects, and sandboxes without one.
func (r Roots) ProjectData(p string) string { return filepath.Join(r.Data, "projects", p) }
func (r Roots) TasksDir(p string) string    { return filepath.Join(r.ProjectData(p), "tasks") }
func (r Roots) TaskDir(p, id string) string { return filepath.Join(r.TasksDir(p), id) }
func (r Roots) SandboxesDir() string        { return filepath.Join(r.Data, "sandboxes") }
func (r Roots) SandboxDir(name string) string {
	return filepath.Join(r.SandboxesDir(), name)
}

// Below the runtime root.
func (r Roots) KeyholderSocket() string { return filepath.Join(r.Runtime, "keyholder.sock") }
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

// MkdirAll makes a private directory (0700) and its parents.
func MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

// WriteFile replaces path atomically and durably with mode 0600, making its directory if need be.
func WriteFile(path string, data []byte) error { return WriteFileMode(path, data, 0o600) }

// WriteFileMode is WriteFile with a mode of the caller's.
func WriteFileMode(path string, data []byte, mode fs.FileMode) error {
	if err := MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	err := renameio.WriteFile(path, data, mode, renameio.WithTempDir(filepath.Dir(path)),
		renameio.IgnoreUmask(), renameio.WithStaticPermissions(mode))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return syncDir(filepath.Dir(path)) // renameio does not
}

// WriteJSON replaces path atomically with v as indented JSON.
func WriteJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return WriteFile(path, append(data, '\n'))
}

// ReadJSON reads a file that terok wrote. Unknown fields are an error: they come from a newer
// version or from somebody else's hand. A missing file is an error that is fs.ErrNotExist.
func ReadJSON(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}

// ErrLocked says that another process holds the lock.
var ErrLocked = errors.New("locked by another terok process")

// Lock takes the exclusive lock of path (the file path+".lock") and waits for it.
// The lock ends with unlock or with the process, so a kill -9 leaves none behind.
func Lock(path string) (unlock func(), err error) { return lock(path, unix.LOCK_EX) }

// TryLock is Lock that does not wait: it fails with ErrLocked.
func TryLock(path string) (unlock func(), err error) {
	return lock(path, unix.LOCK_EX|unix.LOCK_NB)
}

// LockFor is Lock that gives up with ErrLocked after wait.
func LockFor(path string, wait time.Duration) (unlock func(), err error) {
	deadline := time.Now().Add(wait)
	for {
		unlock, err = TryLock(path)
		if !errors.Is(err, ErrLocked) || time.Now().After(deadline) {
			return unlock, err
		}
		time.Sleep(2 * time.Millisecond) // flock(2) has no timeout
	}
}

func lock(path string, how int) (func(), error) {
	if err := MkdirAll(filepath.Dir(path)); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { f.Close() }, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
