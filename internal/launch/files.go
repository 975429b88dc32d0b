package launch

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
	"terok/internal/state"
)

// writeIfDifferent writes a file only when its content differs, so that a launch changes nothing
// that is right.
func writeIfDifferent(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return state.WriteFile(path, data)
}

// hookTimeout is after how many seconds podman gives up on the hook, which is itself quicker.
const hookTimeout = 20

// writeHook makes the descriptor that lets podman run `terok oci-hook` for our containers. Keys
// and values of "annotations" are regular expressions: unanchored ones would match others'.
func writeHook(dir, self string) error {
	type hook struct {
		Path    string   `json:"path"`
		Args    []string `json:"args"`
		Env     []string `json:"env"`
		Timeout int      `json:"timeout"`
	}
	d := struct {
		Version string                       `json:"version"`
		Hook    hook                         `json:"hook"`
		When    map[string]map[string]string `json:"when"`
		Stages  []string                     `json:"stages"`
	}{
		Version: "1.0.0",
		Hook: hook{Path: self, Args: []string{"terok", "oci-hook", "createRuntime"},
			Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}, Timeout: hookTimeout},
		When:   map[string]map[string]string{"annotations": {`^io\.terok\.sandbox$`: `^/.+$`}},
		Stages: []string{"createRuntime"},
	}
	data, err := json.MarshalIndent(d, "", "  ")
	if err != nil {
		return err
	}
	return writeIfDifferent(filepath.Join(dir, "terok.json"), append(data, '\n'))
}

// guestIndex remembers the digest of a program, so that a launch does not read it again.
type guestIndex struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	MTime  int64  `json:"mtime"` // nanoseconds
	Inode  uint64 `json:"inode"`
	Digest string `json:"digest"`
}

// guestBinary makes the copy of our own program that containers run: the host's own is never
// shared, and an upgrade of it changes no running container. Mode 0555 in a directory named for
// its SHA-256.
func guestBinary(roots state.Roots, self string) (path, digest string, err error) {
	var st unix.Stat_t
	if err := unix.Stat(self, &st); err != nil {
		return "", "", fmt.Errorf("%s: %w", self, err)
	}
	now := guestIndex{Path: self, Size: st.Size, MTime: st.Mtim.Nano(), Inode: st.Ino}
	indexPath := filepath.Join(roots.GuestDir(), "index.json")
	var known guestIndex
	if err := state.ReadJSON(indexPath, &known); err == nil {
		now.Digest = known.Digest
		path = filepath.Join(roots.GuestDir(), known.Digest, "terok")
		if fi, err := os.Lstat(path); err == nil && now == known && fi.Size() == st.Size && fi.Mode() == 0o555 {
			return path, known.Digest, nil
		}
	}
	if now.Digest, err = digestFile(self); err != nil {
		return "", "", err
	}
	dir := filepath.Join(roots.GuestDir(), now.Digest)
	path = filepath.Join(dir, "terok")
	if have, err := digestFile(path); err != nil || have != now.Digest {
		if err := copyProgram(self, path); err != nil {
			return "", "", err
		}
	}
	return path, now.Digest, state.WriteJSON(indexPath, now)
}

func digestFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func copyProgram(from, to string) error {
	if err := state.MkdirAll(filepath.Dir(to)); err != nil {
		return err
	}
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	tmp, err := os.CreateTemp(filepath.Dir(to), ".terok-*")
	if err != nil {
		return err
	}
	_, err = io.Copy(tmp, src)
	err = errors.Join(err, tmp.Chmod(0o555), tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), to)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("copy the guest: %w", err)
	}
	// A container's user namespace enters through podman's, as root there: the directories need
	// no further mode.
	return nil
}

// resolver is the container's /etc/resolv.conf: podman refuses --dns without a network.
func resolver() []byte {
	return fmt.Appendf(nil, "nameserver %s\noptions ndots:1\n", sandbox.ResolverAddr)
}

// removeAll removes files that may be missing.
func removeAll(paths ...string) error {
	for _, p := range paths {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
