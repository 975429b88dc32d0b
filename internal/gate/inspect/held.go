package inspect

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1" //nolint:gosec // git's ids
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Most looks of a queue are at a few small commits, and take as long as the processes that they start.
// What fits is therefore held in memory, read from loose objects or a pack by our own code, and git is
// started to compare only, or once more to write that pack. The ids are computed from the bytes here as git index-pack does it;
// only that SHA-1's known collisions are noticed later, when the commits are shown or copied.

// Bounds of what is held.
const (
	maxHeld     = 500     // objects
	maxHeldSize = 8 << 20 // bytes of the pack, and of all objects
)

// errNotHeld says that a pack is more than is held, or has deltas.
var errNotHeld = errors.New("more than is held in memory")

// held are objects by id, and the pack that they came in.
type held struct {
	objects map[string]object
	pack    []byte
	idLen   int
}

type object struct {
	kind string // commit, tree, blob, tag
	data []byte
	from int // where its entry begins in the pack, and where it ends
	to   int
}

// hold reads a pack (gitformat-pack(5)) of whole objects. like is any id of the repository.
func hold(pack []byte, like string) (*held, error) {
	h := &held{objects: map[string]object{}, pack: pack, idLen: len(like) / 2}
	if len(pack) < 12+h.idLen || string(pack[:4]) != "PACK" {
		return nil, errNotHeld
	}
	n := binary.BigEndian.Uint32(pack[8:])
	if n > maxHeld {
		return nil, errNotHeld
	}
	in := bytes.NewReader(pack[12 : len(pack)-h.idLen])
	at := func() int { return len(pack) - h.idLen - in.Len() }
	room := int64(maxHeldSize)
	var inflate io.ReadCloser
	for range n {
		from := at()
		kind, size, err := packEntry(in)
		if err != nil {
			return nil, err
		}
		if room -= size; kind == "" || room < 0 {
			return nil, errNotHeld
		}
		if inflate == nil {
			inflate, err = zlib.NewReader(in)
		} else {
			err = inflate.(zlib.Resetter).Reset(in, nil)
		}
		if err != nil {
			return nil, err
		}
		data := make([]byte, size)
		if _, err := io.ReadFull(inflate, data); err != nil {
			return nil, fmt.Errorf("an object is not as long as it says: %w", err)
		}
		if k, err := inflate.Read(make([]byte, 1)); k != 0 || err != io.EOF { // the checksum is judged here
			return nil, errors.New("an object is longer than it says")
		}
		h.objects[objectID(kind, data, like)] = object{kind, data, from, at()}
	}
	if in.Len() > 0 {
		return nil, errors.New("there is something behind the last object")
	}
	return h, nil
}

// kinds of whole objects, by their number in a pack.
var kinds = [8]string{1: "commit", 2: "tree", 3: "blob", 4: "tag"}

// packEntry reads the head of an entry; kind is "" for a delta.
func packEntry(pack io.ByteReader) (kind string, size int64, err error) {
	c, err := pack.ReadByte()
	if err != nil {
		return "", 0, err
	}
	kind = kinds[c>>4&7]
	size = int64(c & 15)
	for shift := 4; c&0x80 != 0; shift += 7 {
		if c, err = pack.ReadByte(); err != nil {
			return "", 0, err
		}
		if shift > 40 {
			return "", 0, errNotHeld
		}
		size |= int64(c&0x7f) << shift
	}
	return kind, size, nil
}

// objectID is the id of an object, of the kind that like is.
func objectID(kind string, data []byte, like string) string {
	sum := newHash(len(like) / 2)
	fmt.Fprintf(sum, "%s %d\x00", kind, len(data))
	sum.Write(data)
	return hex.EncodeToString(sum.Sum(nil))
}

func newHash(idLen int) hash.Hash {
	if idLen == sha256.Size {
		return sha256.New()
	}
	return sha1.New() //nolint:gosec // git's ids
}

// write puts the pack where git finds it, with an index of our own.
func (h *held) write(dir, name string) error {
	name = filepath.Join(dir, "pack", "pack-"+name)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(name+".pack", h.pack, 0o400); err != nil {
		return err
	}
	return os.WriteFile(name+".idx", h.index(), 0o400)
}

// index is the index of the pack, version 2 (gitformat-pack(5)).
func (h *held) index() []byte {
	ids := slices.Sorted(maps.Keys(h.objects))
	out := []byte("\377tOc\x00\x00\x00\x02")
	for first, n := 0, 0; first < 256; first++ {
		for n < len(ids) && ids[n][:2] <= fmt.Sprintf("%02x", first) {
			n++
		}
		out = binary.BigEndian.AppendUint32(out, uint32(n)) //nolint:gosec // at most maxHeld
	}
	for _, id := range ids {
		raw, _ := hex.DecodeString(id) // we wrote it
		out = append(out, raw...)
	}
	for _, id := range ids {
		o := h.objects[id]
		out = binary.BigEndian.AppendUint32(out, crc32.ChecksumIEEE(h.pack[o.from:o.to]))
	}
	for _, id := range ids {
		out = binary.BigEndian.AppendUint32(out, uint32(h.objects[id].from)) //nolint:gosec // at most maxHeldSize
	}
	out = append(out, h.pack[len(h.pack)-h.idLen:]...)
	sum := newHash(h.idLen)
	sum.Write(out)
	return sum.Sum(out)
}

// graph is what git rev-list says of the commits that are held, nil where only git can say it: where
// one has several parents, so that their order is git's choice, and where one begins behind a commit of
// which the host has not said that the base has it. That the base has an object does not make it the
// base's, and a repository that was tampered with may leave a commit out of its pack.
// has says of a commit that the base has it: then a branch of it may lead there, or not.
func (h *held) graph(tips []string, start string, not []string, has func(id string) bool) map[string]node {
	if h == nil {
		return nil
	}
	if _, ours := h.objects[start]; ours {
		return nil
	}
	begins := func(id string) bool {
		o, ours := h.objects[id]
		return ours && o.kind == "commit" || id == start || slices.Contains(not, id)
	}
	for _, tip := range tips {
		if !begins(tip) {
			return nil
		}
	}
	g := map[string]node{}
	for id, o := range h.objects {
		if o.kind != "commit" {
			continue
		}
		c := ParseCommit(id, o.data)
		if len(c.Parents) > 1 || c.Odd {
			return nil
		}
		lowest := true
		for _, parent := range c.Parents {
			if !begins(parent) {
				return nil
			}
			_, above := h.objects[parent]
			lowest = lowest && !above
		}
		// What the base lacks, none of its branches leads to, nor to what stands on top of it.
		if lowest && has(id) {
			return nil
		}
		g[id] = node{parents: c.Parents}
	}
	depth := map[string]int{} // how many commits stand behind one, and itself
	for id := range g {
		var line []string
		for at := id; depth[at] == 0; {
			n, ours := g[at]
			if !ours {
				break
			}
			if line = append(line, at); len(n.parents) == 0 {
				break
			}
			at = n.parents[0]
		}
		for _, at := range slices.Backward(line) {
			if depth[at] = 1; len(g[at].parents) > 0 {
				depth[at] += depth[g[at].parents[0]]
			}
		}
	}
	for id, n := range g {
		n.order = len(g) - depth[id]
		g[id] = n
	}
	return g
}

// get is an object that is held; what names it is an id, or "id:path" of a commit. known is false where
// git has to be asked.
func (h *held) get(name, kind string) (data []byte, known bool) {
	if h == nil {
		return nil, false
	}
	id, path, isPath := strings.Cut(name, ":")
	o, ok := h.objects[id]
	if !isPath {
		return o.data, ok && o.kind == kind
	}
	if !ok || o.kind != "commit" {
		return nil, false
	}
	id = ParseCommit(id, o.data).Tree
	if o, ok = h.objects[id]; !ok || o.kind != "tree" {
		return nil, false
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" {
			continue
		}
		if id = treeEntry(o.data, part, len(id)/2); id == "" {
			return nil, false
		}
		if o, ok = h.objects[id]; !ok {
			return nil, false
		}
	}
	return o.data, o.kind == kind
}

// treeEntry is the id that a name has in a tree object, "" for none.
func treeEntry(tree []byte, name string, idLen int) string {
	for len(tree) > 0 {
		var is, id string
		if _, is, id, tree = cutEntry(tree, idLen); is == name || id == "" {
			return id
		}
	}
	return ""
}
