package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
)

var digestText = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

const errNotEmpty = unix.ENOTEMPTY

// maxBundle bounds a bundle: entries, and bytes of all files together.
const (
	maxEntries = 500_000
	maxBundle  = 8 << 30
)

// seal takes the write bits from every file of a fresh bundle and returns its digest. The tree
// was written by a package manager that ran other people's archives: anything but directories,
// plain files and symbolic links that stay inside is refused, since containers of every project
// will mount it.
func seal(root string) (digest string, size int64, err error) {
	return walkTree(root, func(path string, fi fs.FileInfo) error {
		mode := fs.FileMode(0o444)
		switch {
		case fi.IsDir():
			mode = 0o755
		case fi.Mode()&0o111 != 0:
			mode = 0o555
		}
		return os.Chmod(path, mode)
	})
}

// Verify reads the whole bundle and compares it with its digest.
func (x Bundle) Verify() error {
	digest, _, err := walkTree(x.Dir, nil)
	if err != nil {
		return err
	}
	if digest != x.Digest {
		return problem.New("bundle_damaged", problem.Failed, "the bundle of %s in %s is not what was installed", x.Agent, x.Dir).
			WithHint("terok agents install %s --force", x.Agent)
	}
	return nil
}

// walkTree computes a digest over a tree: of every entry in lexical order its path, kind,
// executable bit, and content or link target. Owners and times do not count. each is called for
// every file and directory before it is read.
func walkTree(root string, each func(string, fs.FileInfo) error) (digest string, size int64, err error) {
	sum := sha256.New()
	n := 0
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if n++; n > maxEntries {
			return fmt.Errorf("more than %d entries", maxEntries)
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		entry := []any{rel}
		switch {
		case fi.Mode()&(fs.ModeSetuid|fs.ModeSetgid) != 0 && !fi.IsDir():
			return fmt.Errorf("%s changes the user when it runs", rel)
		case fi.IsDir():
			entry = append(entry, "dir")
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if filepath.IsAbs(target) || !filepath.IsLocal(filepath.Join(filepath.Dir(rel), target)) {
				return fmt.Errorf("%s is a link that leads out of the bundle", rel)
			}
			entry = append(entry, "link", target)
		case fi.Mode().IsRegular():
			if size += fi.Size(); size > maxBundle {
				return errors.New("more than 8 GiB")
			}
			content, err := hashFile(path)
			if err != nil {
				return err
			}
			entry = append(entry, "file", fi.Mode()&0o111 != 0, fi.Size(), content)
		default:
			return fmt.Errorf("%s is neither a file nor a directory", rel)
		}
		if each != nil && fi.Mode()&fs.ModeSymlink == 0 {
			if err := each(path, fi); err != nil {
				return err
			}
		}
		return json.NewEncoder(sum).Encode(entry) // one line per entry: no two trees look alike
	})
	if err != nil {
		return "", 0, fmt.Errorf("the bundle in %s is not usable: %w", root, err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), size, nil
}

func hashFile(path string) (string, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

// installedVersion reads the version that npm installed from the package's own manifest.
func installedVersion(root, pkg string) (string, error) {
	f, err := os.OpenFile(filepath.Join(root, "node_modules", filepath.FromSlash(pkg), "package.json"), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return "", fmt.Errorf("npm installed no %s: %w", pkg, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "", err
	}
	return parseVersionField(data)
}

func parseVersionField(data []byte) (string, error) {
	var manifest struct {
		Version string `json:"version"`
	}
	if err := json.Unmarshal(data, &manifest); err != nil {
		return "", fmt.Errorf("the package's manifest: %w", err)
	}
	if !exactNumber.MatchString(manifest.Version) || len(manifest.Version) > 100 {
		return "", fmt.Errorf("the package's manifest names the version %.100q", manifest.Version)
	}
	return manifest.Version, nil
}

// sweepTemporary removes trees that a killed installation left.
func sweepTemporary(home string) error {
	entries, err := os.ReadDir(home)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".new-") {
			if err := removeBundle(filepath.Join(home, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeBundle removes a tree whose directories may have been made unwritable by their package.
func removeBundle(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
