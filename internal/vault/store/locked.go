package store

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// lockedBuffer is memory outside the garbage collected heap: never moved, not swapped where the
// memory lock limit allows it, in no core dump, empty in a forked child, overwritten when closed.
type lockedBuffer struct {
	mem []byte
	n   int
}

// newLockedBuffer moves data into locked memory and clears data.
func newLockedBuffer(data []byte) (*lockedBuffer, error) {
	defer clear(data)
	mem, err := unix.Mmap(-1, 0, max(len(data), 1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("memory for the vault: %w", err)
	}
	// Best effort: RLIMIT_MEMLOCK is often small, and an old kernel lacks an advice.
	_ = unix.Mlock(mem)
	_ = unix.Madvise(mem, unix.MADV_DONTDUMP)
	_ = unix.Madvise(mem, unix.MADV_WIPEONFORK)
	copy(mem, data)
	return &lockedBuffer{mem, len(data)}, nil
}

func (b *lockedBuffer) bytes() []byte { return b.mem[:b.n] }

func (b *lockedBuffer) close() {
	clear(b.mem)
	_ = unix.Munlock(b.mem)
	_ = unix.Munmap(b.mem)
	b.mem, b.n = nil, 0
}
