package holder

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/store"
)

// An upgrade of terok replaces the program under a running keyholder. The first command of the new
// one notices and asks the keyholder to become it: this process ends its work as at a lock and
// then executes the new program in its place, which finds the vault's key in a sealed memory file.
// Between exec(2) and harden the process can be inspected by others of the same user, for a few
// milliseconds; a container's processes cannot even see it.

// resumeArg tells a keyholder that descriptor 3 holds a key and descriptor 4 the lock: there is no
// moment in which another keyholder could come in between.
const (
	resumeArg = "resume"
	lockFD    = 4
)

// successor is the program that takes over.
type successor struct {
	program string
	key     *os.File // memory file; empty when the vault is locked
	lock    *os.File
}

func (s *successor) Error() string { return "the keyholder becomes " + s.program }

// outdated reports whether another program lies at path than the one that runs.
func outdated(path string) bool {
	if path == "" {
		return false
	}
	mine, err := os.Stat("/proc/self/exe")
	if err != nil {
		return false
	}
	theirs, err := os.Stat(path)
	return err == nil && theirs.Mode().IsRegular() && theirs.Mode()&0o111 != 0 && !os.SameFile(mine, theirs)
}

// upgrade prepares the change. Only the program at our own path can take over, so that nobody can
// hand the key to another one. The caller holds mu.
func (h *Holder) upgrade() (resp keyholder.Response, end bool) {
	if !outdated(h.cfg.Program) {
		return keyholder.Response{Code: keyholder.CodeRefused, Message: "the keyholder runs the program that is installed"}, false
	}
	var key []byte
	if h.vault != nil {
		var err error
		if key, err = h.vault.Key(); err != nil {
			return refusalOf(err), false
		}
	}
	defer clear(key)
	file, err := memoryFile(key)
	if err != nil {
		return refusalOf(err), false
	}
	h.next, h.ending = &successor{program: h.cfg.Program, key: file}, true
	return keyholder.Response{}, true
}

// memoryFile is a sealed file in memory that an executed program inherits.
func memoryFile(data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("key", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("memory for the key: %w", err)
	}
	f := os.NewFile(uintptr(fd), "key")
	if _, err := f.Write(data); err != nil {
		f.Close()
		return nil, err
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// readKey takes the key over.
func readKey(f *os.File) ([]byte, error) {
	if f == nil {
		return nil, errors.New("no key was handed over")
	}
	defer f.Close()
	key, err := io.ReadAll(io.NewSectionReader(f, 0, 4<<10))
	if err != nil {
		return nil, fmt.Errorf("take the key over: %w", err)
	}
	return key, nil
}

// exec becomes the new program. It returns when that fails; the vault is locked then.
func (s *successor) exec(roots state.Roots) error {
	// First out of the way of the two numbers, then to them.
	for _, f := range []**os.File{&s.key, &s.lock} {
		fd, err := unix.FcntlInt((*f).Fd(), unix.F_DUPFD_CLOEXEC, 10)
		if err != nil {
			return fmt.Errorf("hand the key over: %w", err)
		}
		(*f).Close()
		*f = os.NewFile(uintptr(fd), "handed over")
	}
	err := errors.Join(unix.Dup3(int(s.key.Fd()), readyFD, 0), unix.Dup3(int(s.lock.Fd()), lockFD, 0))
	if err != nil {
		return fmt.Errorf("hand the key over: %w", err)
	}
	err = unix.Exec(s.program, []string{"terok", "keyholder", roots.Data, roots.Runtime, resumeArg}, []string{"PATH=/usr/bin:/bin", "GOTRACEBACK=none"})
	return problem.New("keyholder_failed", problem.Failed, "%s cannot be executed: %w", s.program, err)
}

// inherit opens the vault with the key of the keyholder before this one.
func (h *Holder) inherit() error {
	if len(h.cfg.Key) == 0 {
		return nil
	}
	defer clear(h.cfg.Key)
	v, err := store.OpenKey(h.cfg.Roots.VaultDir(), h.cfg.Key)
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.vault = v
	h.resume()
	return nil
}
