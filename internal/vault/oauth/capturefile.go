package oauth

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ErrNoFile says that there is no file yet, or none that is read: only regular files of at most
// MaxCapture bytes are, without any symbolic link on the way to them.
var ErrNoFile = errors.New("there is no sign-in yet")

// ReadCapture reads a file below dir, which a container writes to: a link in it must not make the
// host read something of its own. The caller clears the result.
func ReadCapture(dir, file string) ([]byte, error) {
	root, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("capture directory: %w", err)
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, file, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return nil, ErrNoFile
	}
	f := os.NewFile(uintptr(fd), file)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > MaxCapture || st.Nlink != 1 {
		return nil, ErrNoFile
	}
	data := make([]byte, MaxCapture+1)
	n, err := f.ReadAt(data, 0)
	if n > MaxCapture {
		clear(data)
		return nil, ErrNoFile
	}
	if n == 0 && err != nil && st.Size > 0 {
		return nil, err
	}
	return data[:n], nil
}
