package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"

	"terok/internal/peer"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
)

// conn is one client. A client is an operator until it attaches as a supervisor; then it stays
// one.
type conn struct {
	*net.UnixConn
	holder *Holder
	peer   *peer.Peer
	bound  *binding // set under holder.mu
	write  sync.Mutex

	waiting atomic.Int32 // answers that wait for a provider
}

// binding is what a supervisor's connection may fetch.
type binding struct {
	file     sandbox.File
	init     *peer.Pin       // the container's init
	phantoms map[string]bool // digests of this start's phantoms; under holder.mu
	signing  *rate.Limiter   // SSH signatures
}

func (c *conn) release() {
	if c.peer != nil {
		c.peer.Close()
	}
	if c.bound != nil {
		c.bound.init.Close()
	}
}

func (c *conn) serve() {
	p, err := peer.Of(c.UnixConn)
	if err != nil {
		return // a stranger gets no answer
	}
	c.peer = p
	buf := make([]byte, keyholder.MaxMessage+1)
	for {
		n, err := c.Read(buf)
		if err != nil || n == 0 {
			return
		}
		req, err := keyholder.DecodeRequest(buf[:n])
		clear(buf[:n])
		if err != nil {
			c.reply(keyholder.Response{ID: req.ID, Code: keyholder.CodeBadRequest, Message: err.Error()})
			return
		}
		if c.holder.token(c, &req) {
			continue
		}
		resp, end := c.holder.handle(c, &req)
		req.Wipe()
		resp.ID = req.ID
		ok := c.reply(resp)
		clear(resp.Secret)
		if resp.SSH != nil {
			clear(resp.SSH.Private)
		}
		if end {
			c.holder.stop()
		}
		if !ok {
			return
		}
	}
}

func (c *conn) reply(resp keyholder.Response) bool {
	msg, err := json.Marshal(resp)
	if err != nil {
		return false
	}
	defer clear(msg)
	c.write.Lock()
	defer c.write.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Write(msg)
	return err == nil
}

// notify sends a message of the keyholder's own. One that does not take it is cut off: it would
// go on using a credential that was taken away.
func (c *conn) notify() {
	c.tell([]byte(`{"id":0}`))
}

// bind judges a supervisor and returns what it may fetch. Everything is checked against facts
// that a container cannot make: the peer's kernel identity, files below the data root that only
// this user writes, and the processes they name.
func (h *Holder) bind(c *conn, path string) (*binding, error) {
	file, err := h.loadSandbox(path)
	if err != nil {
		return nil, err
	}
	var live sandbox.Live
	if err := h.readBelow(sandbox.LivePath(filepath.Dir(path)), 64<<10, &live); err != nil {
		return nil, fmt.Errorf("record of the running container: %w", err)
	}
	id, err := h.openBelow(file.CIDFile, 256)
	if err != nil {
		return nil, fmt.Errorf("container id: %w", err)
	}
	switch cid := strings.TrimSpace(string(id)); {
	case live.Schema != sandbox.Schema, live.Launch != file.Launch || live.Launch == "":
		return nil, errors.New("the record is of another launch")
	case len(cid) != 64 || live.ContainerID != cid:
		return nil, errors.New("the record is of another container")
	case live.ParentPID != c.peer.PID:
		return nil, errors.New("the record names another supervisor")
	}
	start, err := peer.StartTime(c.peer.PID)
	if err != nil || start != live.ParentStart || !c.peer.Alive() {
		return nil, errors.New("the record names another supervisor")
	}
	pin, err := peer.NewPin(live.InitPID, live.InitStart)
	if err != nil {
		return nil, fmt.Errorf("the container does not run: %w", err)
	}
	return &binding{file: *file, init: pin, signing: newSignLimit()}, nil
}

// loadSandbox reads the sandbox file at path, which must lie below the data root.
func (h *Holder) loadSandbox(path string) (*sandbox.File, error) {
	data, err := h.openBelow(path, sandbox.MaxFile)
	if err != nil {
		return nil, err
	}
	file, err := sandbox.Decode(data)
	if err != nil {
		return nil, err
	}
	if path != sandbox.Path(file.Dir) {
		return nil, errors.New("the sandbox file is about another directory")
	}
	return file, nil
}

func (h *Holder) readBelow(path string, limit int64, v any) error {
	data, err := h.openBelow(path, limit)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

// openBelow reads a private file of ours below the data root. The kernel resolves the path
// without following any symbolic link and without leaving the root (openat2(2)).
func (h *Holder) openBelow(path string, limit int64) ([]byte, error) {
	rel, err := filepath.Rel(h.cfg.Roots.Data, path)
	if err != nil || !filepath.IsLocal(rel) || filepath.Clean(path) != path {
		return nil, errors.New("the path is not below terok's data directory")
	}
	root, err := unix.Open(h.cfg.Roots.Data, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	fd, err := unix.Openat2(root, rel, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS})
	if err != nil {
		return nil, fmt.Errorf("open it: %w", err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0 || st.Size > limit {
		return nil, errors.New("it is not a private file of yours")
	}
	data := make([]byte, st.Size)
	if n, err := f.ReadAt(data, 0); n != len(data) {
		return nil, err
	}
	return data, nil
}

// refusalOf turns an error into a response; texts of this package and the store hold no secret.
func refusalOf(err error) keyholder.Response {
	p := problem.Of(err)
	return keyholder.Response{Code: p.Code, Message: p.Message, Hint: p.Hint, Exit: p.Exit}
}
