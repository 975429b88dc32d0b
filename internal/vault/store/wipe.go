package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Wipe destroys the vault in dir and the ones that restore moved aside. The slots go first: with
// the first of them overwritten nobody opens the rest. Overwriting reaches no copy that a file
// system or a drive keeps; what makes those worthless is that a passphrase is all that opens them,
// so keys that matter must be revoked where they were made. No keyholder may run.
func Wipe(dir string) error {
	old, err := filepath.Glob(globEscape(dir) + ".old-*")
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range append([]string{dir, dir + ".restoring"}, old...) {
		errs = append(errs, wipeDir(d))
	}
	return errors.Join(errs...)
}

func wipeDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, first := range []bool{true, false} {
		for _, e := range entries {
			if strings.Contains(e.Name(), "slots.json") != first {
				continue
			}
			path := filepath.Join(dir, e.Name())
			if e.Type().IsRegular() {
				errs = append(errs, overwrite(path))
			}
			errs = append(errs, os.RemoveAll(path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("wipe the vault: %w", err)
	}
	return os.Remove(dir)
}

func overwrite(path string) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, st.Size()))
	return errors.Join(err, f.Sync(), f.Close())
}
