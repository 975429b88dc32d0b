package control

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// maxSocketPath is what fits into sockaddr_un beside its terminating zero (unix(7)).
const maxSocketPath = 107

// Listen makes the socket path with mode 0600 in a directory that is 0700 and ours (made if
// missing, refused if it is anything else), and removes a socket left by a process that has died.
// A socket that somebody still answers on is an error.
//
// The listener hands out only connections that passed CheckPeer; others are closed unread. The
// socket's file goes with the listener.
func Listen(path string) (net.Listener, error) {
	if !filepath.IsAbs(path) || len(path) > maxSocketPath {
		return nil, fmt.Errorf("socket path %q must be absolute and at most %d bytes", path, maxSocketPath)
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := checkSocketDir(dir); err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The socket is bound under a private name, given its mode and only then moved to its place:
	// nobody can connect between the two, and the process-wide umask stays alone.
	tmp := filepath.Join(dir, fmt.Sprintf(".s%d", os.Getpid()))
	if len(tmp) > maxSocketPath {
		return nil, fmt.Errorf("socket path %q is too long", tmp)
	}
	_ = os.Remove(tmp)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		l.Close()
		_ = os.Remove(tmp)
		return nil, err
	}
	// The open descriptor keeps the inode's number from being given to a successor's socket.
	fd, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &listener{UnixListener: l, path: path, made: os.NewFile(uintptr(fd), path)}, nil
}

// Inherit makes the listener of a socket that another process made with Listen and passed on as
// f, which is closed. Its connections pass CheckPeer as well; the socket's file stays when it is
// closed, since it belongs to who made it.
func Inherit(f *os.File) (net.Listener, error) {
	defer f.Close()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	u, ok := l.(*net.UnixListener)
	if !ok {
		l.Close()
		return nil, errors.New("the inherited descriptor is no unix socket")
	}
	u.SetUnlinkOnClose(false)
	return &inherited{u}, nil
}

// inherited is listener without the file.
type inherited struct{ *net.UnixListener }

func (l *inherited) Accept() (net.Conn, error) { return acceptOurs(l.UnixListener) }

// acceptOurs returns the next connection that passes CheckPeer; others are closed unread.
func acceptOurs(l *net.UnixListener) (net.Conn, error) {
	for {
		c, err := l.Accept()
		if err != nil {
			return nil, err
		}
		if CheckPeer(c) == nil {
			return c, nil
		}
		c.Close()
	}
}

// checkSocketDir refuses a directory in which somebody else could replace the socket.
func checkSocketDir(dir string) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return fmt.Errorf("%s: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fmt.Errorf("%s is not a directory", dir)
	case int(st.Uid) != os.Getuid():
		return fmt.Errorf("%s belongs to uid %d, not to us", dir, st.Uid)
	case st.Mode&0o077 != 0:
		return fmt.Errorf("%s has mode %04o: others can get at its sockets (chmod 700 %s)", dir, st.Mode&0o7777, dir)
	}
	return nil
}

// removeStale removes a socket on which nobody listens. Anything that is not a socket stays.
func removeStale(path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if fi.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is not a socket", path)
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		c.Close()
		return fmt.Errorf("%s: %w", path, unix.EADDRINUSE)
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return err
	}
	return os.Remove(path)
}

// listener is a unix listener whose every connection passed CheckPeer.
type listener struct {
	*net.UnixListener
	path string
	made *os.File
	once sync.Once
}

func (l *listener) Accept() (net.Conn, error) { return acceptOurs(l.UnixListener) }

// Addr has the final path, not the one the socket was bound under.
func (l *listener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

func (l *listener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() {
		// A successor may have put its own socket there.
		now, err1 := os.Lstat(l.path)
		made, err2 := l.made.Stat()
		if err1 == nil && err2 == nil && os.SameFile(now, made) {
			_ = os.Remove(l.path)
		}
		l.made.Close()
	})
	return err
}
