package holder

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// reserved is how many bytes beyond the vault's own size must be free before a refresh.
const reserved = 64 << 10

// reserve takes as much of the disk as storing the vault again needs, and returns what gives it
// back. A filesystem that cannot promise room is written to instead. The file has no name, so a
// crash leaves nothing.
func reserve(dir string) (release func(), err error) {
	size := int64(reserved)
	if st, err := os.Stat(filepath.Join(dir, "vault.age")); err == nil {
		size += st.Size()
	}
	f, err := os.CreateTemp(dir, ".vault.age.room-") // of the names that the store sweeps
	if err != nil {
		return nil, err
	}
	if err = os.Remove(f.Name()); err == nil {
		err = unix.Fallocate(int(f.Fd()), 0, 0, size)
	}
	if err == unix.EOPNOTSUPP || err == unix.ENOSYS {
		if _, err = f.Write(make([]byte, size)); err == nil {
			err = f.Sync()
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("reserve %d bytes: %w", size, err)
	}
	return sync.OnceFunc(func() { f.Close() }), nil
}
