package sandbox

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxFile bounds a sandbox file, in bytes: starts carry prompts and instructions.
const MaxFile = 16 << 20

// ErrSchema says that the sandbox file was written by another version of terok.
var ErrSchema = errors.New("the sandbox file was written by another version of terok")

// systemTrees never hold a task directory; an annotation that points there is an attack.
var systemTrees = []string{"/etc", "/proc", "/sys", "/dev", "/usr", "/bin", "/sbin", "/lib", "/lib64", "/boot"}

// plainKey reports whether s is a name that is safe in a path: ^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$.
// By hand, since compiling an expression costs 0.4 ms at every start of the program.
func plainKey(s string) bool {
	const alnum = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	return s != "" && len(s) <= 128 && strings.IndexByte(alnum, s[0]) >= 0 && strings.Trim(s, alnum+"._-") == ""
}

// Load reads and judges the sandbox file at path, which came from a container's annotation and is
// hostile until proven ours: absolute and clean, outside the system's trees, a regular file of
// our own that nobody else can write, in a directory of our own that nobody else can write, not a
// symbolic link, of bounded size, strict JSON of this schema, and about this directory.
func Load(path string) (*File, error) {
	if err := checkPath(path); err != nil {
		return nil, err
	}
	var dir unix.Stat_t
	if err := unix.Lstat(filepath.Dir(path), &dir); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Dir(path), err)
	}
	if dir.Mode&unix.S_IFMT != unix.S_IFDIR || int(dir.Uid) != os.Geteuid() || dir.Mode&0o022 != 0 {
		return nil, fmt.Errorf("%s must be a directory of yours that nobody else can write", filepath.Dir(path))
	}
	// O_NONBLOCK: opening a FIFO must not hang the hook.
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("%s must be a file of yours that nobody else can write", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > MaxFile {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, MaxFile)
	}
	file, err := Decode(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if file.Dir != filepath.Dir(path) {
		return nil, fmt.Errorf("%s says that it belongs to %s", path, file.Dir)
	}
	return file, nil
}

func checkPath(path string) error {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path || strings.ContainsAny(path, "\x00\n\r") {
		return fmt.Errorf("%q is not a clean absolute path", path)
	}
	for _, tree := range systemTrees {
		if path == tree || strings.HasPrefix(path, tree+"/") {
			return fmt.Errorf("%q lies in %s", path, tree)
		}
	}
	return nil
}

// Decode parses a sandbox file strictly and checks every field that the hook relies on.
func Decode(data []byte) (*File, error) {
	var version struct {
		Schema int `json:"schema"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, fmt.Errorf("not a sandbox file: %w", err)
	}
	if version.Schema != Schema {
		return nil, fmt.Errorf("%w (schema %d, this one writes %d)", ErrSchema, version.Schema, Schema)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	var f File
	if err := dec.Decode(&f); err != nil {
		return nil, fmt.Errorf("not a sandbox file: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("not a sandbox file: bytes after its end")
	}
	return &f, f.check()
}

func (f *File) check() error {
	for what, v := range map[string]string{"key": f.Key, "name": f.Name, "launch": f.Launch} {
		if !plainKey(v) {
			return fmt.Errorf("sandbox file: %s is %q", what, v)
		}
	}
	for what, v := range map[string]string{"dir": f.Dir, "runtime_dir": f.RuntimeDir, "cid_file": f.CIDFile,
		"start_error": f.StartError, "panic_lock": f.PanicLock} {
		if err := checkPath(v); err != nil {
			return fmt.Errorf("sandbox file: %s: %w", what, err)
		}
	}
	for what, v := range map[string]string{"cid_file": f.CIDFile, "start_error": f.StartError} {
		if filepath.Dir(v) != f.Dir {
			return fmt.Errorf("sandbox file: %s lies outside the task directory", what)
		}
	}
	for what, v := range map[string]string{"seccomp_sha256": f.SeccompSHA256, "guest_sha256": f.GuestSHA256} {
		if b, err := hex.DecodeString(v); err != nil || len(b) != 32 {
			return fmt.Errorf("sandbox file: %s is no SHA-256", what)
		}
	}
	if len(f.SigningKey) != 32 {
		return errors.New("sandbox file: the signing key is missing")
	}
	if n := len(f.SealingKey); n != 0 && n != 32 {
		return fmt.Errorf("sandbox file: the sealing key has %d bytes", n)
	}
	return nil
}
