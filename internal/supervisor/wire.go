package supervisor

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// The link is a stream socket pair between parent and worker. The parent writes the handover
// first: four bytes of length, big-endian, and JSON. After that only single bytes go either way,
// so that a worker that was taken over finds nothing to confuse the parent with; the parent may
// attach a descriptor to its byte. There are two exceptions: the box that the guest kept for a
// parent that took over, bytes that only a parent can have sealed, which the parent decrypts before
// it looks at them (sealed.go); and the two ends of a connection, of a fixed size, whose process
// the worker wants to know (owner.go).
const (
	// worker → parent
	opReady  = 'r' // the worker serves
	opServed = 's' // the start was handed to the guest; never hand it out again
	opGuest  = 'g' // the guest reported a ready workspace
	opSealed = 'b' // the box that the guest kept follows: four bytes of length, big-endian, and bytes
	opSocket = 'u' // wants a UDP socket inside; the parent answers with the same byte
	opOwner  = 'p' // wants to know a connection's process: ownerQuestion bytes follow; the same byte and ownerAnswer bytes answer
	opMighty = 'm' // wants to know a process in the container that can change its network; answered like opOwner
	opToken  = 'n' // wants a new token for the task's gate; the parent answers with the same byte and a block (rotate.go)

	// parent → worker
	opKeyholder = 'k' // with a connection to the keyholder
	opTampered  = 't' // links or tables were changed from outside; ownerAnswer bytes say who can, if it was found
	// opSocket with an unbound UDP socket of the container's namespace, or without one
)

// Descriptors of a worker, in the order of exec.Cmd.ExtraFiles. The sockets of netns.Inside
// follow in its order.
const (
	fdLink    = 3
	fdControl = 4
	fdSockets = 5
)

const maxHandover = 64 << 20

// handover is everything that a worker starts from. It holds the secrets of this container start
// and exists in the memory of parent and worker and in the socket between them only.
type handover struct {
	Path        string       `json:"path"` // of the sandbox file
	File        sandbox.File `json:"file"`
	ContainerID string       `json:"container_id"`
	V6          bool         `json:"v6"` // the IPv6 sockets follow as well

	StartedAt  time.Time       `json:"started_at"` // of the container
	Parent     control.Process `json:"parent"`
	Restarts   int             `json:"restarts"`
	Served     bool            `json:"served"`
	GuestReady bool            `json:"guest_ready"`
	Tampered   bool            `json:"tampered"`

	Adopted  bool `json:"adopted"`  // the container ran before this parent did
	Waiting  bool `json:"waiting"`  // the secrets of this start are still with the guest
	Landlock int  `json:"landlock"` // ABI of this kernel

	secrets
	Sealed []byte `json:"sealed,omitempty"` // them, for the guest to keep
}

// link is one end of the socket pair.
type link struct {
	conn *net.UnixConn
	mu   sync.Mutex // one writer at a time
}

func newLink(f *os.File) (*link, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("open the link: %w", err)
	}
	f.Close()
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("the link is not a unix socket")
	}
	return &link{conn: u}, nil
}

func (l *link) sendHandover(h *handover) error {
	data, err := json.Marshal(h)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(readyTimeout)); err != nil {
		return err
	}
	if _, err := l.conn.Write(binary.BigEndian.AppendUint32(nil, uint32(len(data)))); err != nil {
		return err
	}
	_, err = l.conn.Write(data)
	return err
}

func (l *link) receiveHandover() (*handover, error) {
	var size [4]byte
	if _, err := io.ReadFull(l.conn, size[:]); err != nil {
		return nil, fmt.Errorf("read the handover: %w", err)
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > maxHandover {
		return nil, fmt.Errorf("the handover has %d bytes", n)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(l.conn, data); err != nil {
		return nil, fmt.Errorf("read the handover: %w", err)
	}
	var h handover
	if err := json.Unmarshal(data, &h); err != nil {
		return nil, fmt.Errorf("decode the handover: %w", err)
	}
	return &h, nil
}

// say sends one byte, with a descriptor unless file is nil.
func (l *link) say(op byte, file *os.File) error {
	var rights []byte
	if file != nil {
		rights = unix.UnixRights(int(file.Fd()))
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, _, err := l.conn.WriteMsgUnix([]byte{op}, rights, nil)
	return err
}

// hear reads one byte and the descriptor that came with it, if any. A worker's end must not be
// able to fill the parent's descriptor table, so the parent uses hearByte.
func (l *link) hear() (byte, *os.File, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := l.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, nil, err
	}
	if n == 0 {
		return 0, nil, io.EOF
	}
	if oobn == 0 {
		return buf[0], nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, nil, err
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err == nil && len(fds) == 1 {
			unix.CloseOnExec(fds[0])
			return buf[0], os.NewFile(uintptr(fds[0]), "received"), nil
		}
	}
	return buf[0], nil, nil
}

// hearByte reads one byte; the kernel drops descriptors that nobody asked for.
func (l *link) hearByte() (byte, error) {
	var buf [1]byte
	_, err := io.ReadFull(l.conn, buf[:])
	return buf[0], err
}

// maxBlock bounds a block, in bytes: a box, or a token and a box.
const maxBlock = gateTokenSize + control.MaxSealed

// sayBlock sends op and data of at most maxBlock bytes.
func (l *link) sayBlock(op byte, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := l.conn.Write(append(binary.BigEndian.AppendUint32([]byte{op}, uint32(len(data))), data...))
	return err
}

// sayRecord sends op and data whose size both sides know.
func (l *link) sayRecord(op byte, data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err := l.conn.Write(append([]byte{op}, data...))
	return err
}

// hearRecord reads the rest of what sayRecord sent.
func (l *link) hearRecord(size int) ([]byte, error) {
	data := make([]byte, size)
	_, err := io.ReadFull(l.conn, data)
	return data, err
}

// hearBlock reads the rest of what sayBlock sent.
func (l *link) hearBlock() ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(l.conn, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if int(n) > maxBlock {
		return nil, fmt.Errorf("a block of %d bytes", n)
	}
	data := make([]byte, n)
	_, err := io.ReadFull(l.conn, data)
	return data, err
}
