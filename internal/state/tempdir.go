package state

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// TempDir makes a directory of this process below parent, 0700, which is made if need be. It first
// removes those of the same prefix that killed processes left: the name holds the process id.
func TempDir(parent, prefix string) (string, error) {
	if err := MkdirAll(parent); err != nil {
		return "", err
	}
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		name, ours := strings.CutPrefix(e.Name(), prefix)
		word, _, ok := strings.Cut(name, "-")
		pid, err := strconv.Atoi(word)
		if !ours || !ok || err != nil || pid <= 0 {
			continue
		}
		if _, err := os.Lstat("/proc/" + word); errors.Is(err, fs.ErrNotExist) {
			_ = os.RemoveAll(filepath.Join(parent, e.Name())) // somebody else may be doing it
		}
	}
	return os.MkdirTemp(parent, prefix+strconv.Itoa(os.Getpid())+"-")
}
