package guest

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/sandbox"
)

// keyShapes are the beginnings of credentials that are worth something elsewhere, by their
// vendors' documentation. A phantom has none of them.
var keyShapes = []string{"sk-ant-", "sk-proj-", "sk-or-v1-", "ghp_", "gho_", "ghs_", "ghu_", "github_pat_", "glpat-", "AKIA", "ASIA",
	"xoxb-", "xoxp-", "AIzaSy", "hf_", "npm_", "pypi-", "-----BEGIN OPENSSH PRIVATE KEY", "-----BEGIN RSA PRIVATE KEY", "-----BEGIN PRIVATE KEY", "AGE-SECRET-KEY-"}

// keyTail is how many characters a key has at least behind its beginning; a documentation's
// "sk-ant-..." has none.
const keyTail = 16

// Bounds of the search: it must end in a home directory of any size.
const (
	searchTime  = 4 * time.Second
	searchFiles = 5000
	searchBytes = 256 << 10 // of each file
)

// realKey: what can be read inside holds no key that works outside.
func (p *probe) realKey() (string, error) {
	var found holes
	variables := 0
	look := func(where string, data []byte) {
		for _, shape := range keyShapes {
			if at := keyIn(data, shape); at >= 0 {
				found.add("%s has something like %s…", where, shape)
			}
		}
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range procs {
		data, err := os.ReadFile(path)
		if err != nil {
			continue // ended, or not ours
		}
		variables += bytes.Count(data, []byte{0})
		look(path, data)
	}
	files := 0
	deadline := time.Now().Add(searchTime)
	for _, root := range []string{envFile, stateDir, filepath.Dir(sandbox.GuestProgram) + "/..", "/home", "/root", "/run/secrets", "/etc/environment"} {
		_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			switch {
			case err != nil, time.Now().After(deadline), files >= searchFiles:
				return nil
			case d.IsDir() && slices.Contains([]string{"node_modules", ".git", "workspace", ".cache"}, d.Name()):
				return fs.SkipDir
			case !d.Type().IsRegular() || path == sandbox.GuestProgram:
				return nil
			}
			f, err := os.Open(path)
			if err != nil {
				return nil
			}
			defer f.Close()
			data, _ := io.ReadAll(io.LimitReader(f, searchBytes))
			files++
			look(path, data)
			return nil
		})
	}
	return fmt.Sprintf("%d variables and %d files searched for %d shapes of keys: none", variables, files, len(keyShapes)), found.err()
}

// keyIn finds a beginning that is followed by a key, not by prose.
func keyIn(data []byte, shape string) int {
	for from := 0; ; {
		i := bytes.Index(data[from:], []byte(shape))
		if i < 0 {
			return -1
		}
		rest := data[from+i+len(shape):]
		if strings.HasPrefix(shape, "-----") {
			return from + i
		}
		n := 0
		for n < len(rest) && (rest[n] == '-' || rest[n] == '_' || rest[n] >= '0' && rest[n] <= '9' || rest[n]|0x20 >= 'a' && rest[n]|0x20 <= 'z') {
			n++
		}
		begins := from+i == 0 || !alnum(data[from+i-1])
		if n >= keyTail && begins {
			return from + i
		}
		from += i + len(shape)
	}
}

func alnum(c byte) bool { return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z' }

// controlSocket: the operator's sockets are not here.
func (p *probe) controlSocket() (string, error) {
	var found holes
	for _, path := range p.plan.Sockets {
		if _, err := os.Lstat(path); err == nil {
			found.add("%s is here", path)
		}
	}
	data, err := os.ReadFile("/proc/net/unix")
	for _, word := range []string{"control.sock", "keyholder.sock", "notify.sock"} {
		if bytes.Contains(data, []byte(word)) {
			found.add("/proc/net/unix lists a %s", word)
		}
	}
	if err == nil {
		err = found.err()
	}
	return counted(len(p.plan.Sockets), "path") + " and /proc/net/unix: nothing of the operator's", err
}

// processes: what guards the container cannot be seen from it, let alone signalled.
func (p *probe) processes() (string, error) {
	var found holes
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		data, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		if args := strings.Split(string(data), "\x00"); len(args) > 1 && strings.HasPrefix(args[1], "supervise") && filepath.Base(args[0]) == "terok" {
			found.add("%s is a supervisor", path)
		}
	}
	return fmt.Sprintf("processes in sight: %d, none of them the supervisor", len(all)), found.err()
}
