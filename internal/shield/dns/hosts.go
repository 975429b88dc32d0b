package dns

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
)

// readBounded reads a small configuration file.
func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxConf))
}

// readMessage reads one DNS message: a datagram, or two bytes of length and a body.
func readMessage(c net.Conn, network string, buf []byte) (int, error) {
	if network != "tcp" {
		return c.Read(buf)
	}
	if _, err := io.ReadFull(c, buf[:2]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	return io.ReadFull(c, buf[:n])
}

// hostsFile is the host's /etc/hosts, read again when it changes.
type hostsFile struct {
	path string

	mu    sync.Mutex
	read  bool
	stamp fileStamp
	names map[string][]netip.Addr
}

// lookup returns the addresses of a lower-case name, in the file's order.
func (h *hostsFile) lookup(name string) []netip.Addr {
	if h.path == "" {
		return nil
	}
	stamp := stampOf(h.path)
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.read || stamp != h.stamp {
		h.read, h.stamp, h.names = true, stamp, parseHosts(h.path)
	}
	return h.names[name]
}

func parseHosts(path string) map[string][]netip.Addr {
	out := map[string][]netip.Addr{}
	b, err := readBounded(path)
	if err != nil {
		return out
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		line, _, _ := strings.Cut(lines.Text(), "#")
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		a, err := netip.ParseAddr(f[0])
		if err != nil {
			continue
		}
		for _, name := range f[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			out[name] = append(out[name], a)
		}
	}
	return out
}
