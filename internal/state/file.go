package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// MkdirAll makes a private directory (0700) and its parents.
func MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

// WriteFile replaces path atomically and durably with mode 0600, making its directory if need be.
// When it fails, a full disk included, the old file is untouched. A symbolic link at path is
// replaced, never followed.
func WriteFile(path string, data []byte) error { return WriteFileMode(path, data, 0o600) }

// WriteFileMode is WriteFile with a mode of the caller's.
func WriteFileMode(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if err := MkdirAll(dir); err != nil {
		return err
	}
	// renameio.WriteFile would keep the mode of an existing file, however open it is.
	f, err := renameio.NewPendingFile(path, renameio.WithTempDir(dir), renameio.WithStaticPermissions(mode))
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer f.Cleanup()
	if _, err = f.Write(data); err == nil {
		err = f.CloseAtomicallyReplace()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return finish(path)
}

// Create makes a new file, whole and durable or not at all: it is written under another name, so that
// who is killed leaves nothing at path. Something that is there already, a symbolic link too, is an error
// that is fs.ErrExist. The directory must be there.
func Create(path string, data []byte, mode fs.FileMode) error {
	dir := filepath.Dir(path)
	if _, err := os.Lstat(path); err == nil { // said before anything is written; the rename decides
		return fmt.Errorf("create %s: %w", path, fs.ErrExist)
	}
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"*") // a name that finish knows
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	defer os.Remove(f.Name()) // it has gone when all went well
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = place(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("create %s: %w", path, err)
	}
	return finish(path)
}

// place gives a file its name, if nothing has it (rename(2), RENAME_NOREPLACE; link(2) where a file system
// cannot do that).
func place(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		err = os.Link(from, to)
	}
	return err
}

// WriteJSON replaces path atomically with v as indented JSON.
func WriteJSON(path string, v any) error {
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return WriteFile(path, append(data, '\n'))
}

// WriteCache is WriteJSON for what can be made anew: it waits for no disk, so that after a crash of the
// machine the file may be the old one, empty or broken.
func WriteCache(path string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if err := MkdirAll(filepath.Dir(path)); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path))
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
	}
	return err
}

const (
	staleAfter = 10 * time.Minute // no write takes so long
	sweepLook  = 512              // entries of the directory that a write looks at
)

// finish makes a rename durable, which renameio does not, and while the directory is open removes
// what writers of the same file left when they were killed: files named ".NAME<digits>". A writer
// whose file is taken away nevertheless fails, with the old file in place.
func finish(path string) error {
	dir := filepath.Dir(path)
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", dir, err)
	}
	names, _ := d.Readdirnames(sweepLook) // a failure leaves a file for the next time
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, "."+filepath.Base(path))
		if !ok || digits == "" || strings.Trim(digits, "0123456789") != "" {
			continue
		}
		left := filepath.Join(dir, name)
		if fi, err := os.Lstat(left); err == nil && fi.Mode().IsRegular() && time.Since(fi.ModTime()) > staleAfter {
			_ = os.Remove(left)
		}
	}
	return nil
}

// maxRead bounds a file of ours, in bytes.
const maxRead = 64 << 20

// ReadFile reads a private file that terok wrote. It refuses a symbolic link at path, anything
// but a regular file, one of another user and one that others can write: such a file is not the
// one that we wrote. A missing file is an error that is fs.ErrNotExist.
func ReadFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link, refused", path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, fmt.Errorf("%s is not a regular file, refused", path)
	case int(st.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s belongs to uid %d, refused", path, st.Uid)
	case st.Mode&0o022 != 0:
		return nil, fmt.Errorf("%s can be written by others (mode %04o), refused", path, st.Mode&0o777)
	case st.Size > maxRead:
		return nil, fmt.Errorf("%s is larger than %d bytes, refused", path, maxRead)
	}
	var b bytes.Buffer
	b.Grow(int(st.Size) + bytes.MinRead)
	if _, err := b.ReadFrom(io.LimitReader(f, maxRead)); err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return b.Bytes(), nil
}

// ReadJSON reads a file that terok wrote, as ReadFile does. Unknown fields and bytes after the
// value are an error: they come from a newer version or from somebody else's hand.
func ReadJSON(path string, v any) error {
	data, err := ReadFile(path)
	if err != nil {
		return err
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	err = dec.Decode(v)
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = errors.New("bytes after the end")
		}
	}
	if err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	return nil
}
