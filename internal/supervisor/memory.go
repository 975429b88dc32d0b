package supervisor

import (
	"bytes"
	"context"
	"os"
	"runtime/debug"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// settle gives back what only the start needed: free heap, and the pages of the program's own
// file that were mapped while it initialised. The mappings stay; what is used is mapped again
// from the page cache. One supervisor runs per container, so this is most of what each costs.
func settle() {
	debug.FreeOSMemory()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return
	}
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return
	}
	for line := range bytes.Lines(maps) {
		if start, end, ok := programMapping(line, exe); ok {
			// Private and not writable: every page is the file's (madvise(2), MADV_DONTNEED).
			_ = unix.Madvise(unsafe.Slice((*byte)(start), uintptr(end)-uintptr(start)), unix.MADV_DONTNEED)
		}
	}
}

// restEvery is how often a worker looks whether its work is over.
const restEvery = 5 * time.Second

// rest gives memory back each time after traffic, once nothing is open: most containers wait for
// a person or a model most of the time, and there may be a hundred of them.
func (s *service) rest(ctx context.Context) {
	tick := time.NewTicker(restEvery)
	defer tick.Stop()
	busy := func() (done, open uint64) {
		c := s.proxy.Counters()
		return c.Allowed + c.Denied + c.BytesUp + c.BytesDown + s.resolver.Counters.Queries.Load(), c.Open
	}
	settled, _ := busy()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if done, open := busy(); open == 0 && done != settled {
			settle()
			settled = done
		}
	}
}

// programMapping parses a line of /proc/<pid>/maps and says whether it maps exe without being
// writable: "start-end perms offset dev inode path".
func programMapping(line []byte, exe string) (start, end unsafe.Pointer, ok bool) {
	f := bytes.Fields(line)
	if len(f) != 6 || string(f[5]) != exe || len(f[1]) != 4 || f[1][1] == 'w' || f[1][3] != 'p' {
		return nil, nil, false
	}
	from, to, _ := bytes.Cut(f[0], []byte("-"))
	a, err1 := strconv.ParseUint(string(from), 16, 64)
	b, err2 := strconv.ParseUint(string(to), 16, 64)
	if err1 != nil || err2 != nil || b <= a {
		return nil, nil, false
	}
	return unsafe.Add(unsafe.Pointer(nil), a), unsafe.Add(unsafe.Pointer(nil), b), true
}
