package inspect

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/adler32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// loose holds what the branches bring, from the task's loose objects: a small push leaves nothing else.
// Each is what its id says, or it is not held; what is not there is the base's, or git will say that it
// is missing. nil: there are packs, or more than is held, or something that git has to judge.
func (p *repo) loose() *held {
	dir := filepath.Join(p.Repo, "objects")
	if packs, err := os.ReadDir(filepath.Join(dir, "pack")); len(packs) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) || p.Have != nil {
		return nil
	}
	root, err := os.OpenRoot(dir) // no link leads out of it
	if err != nil {
		return nil
	}
	defer root.Close()
	there := looseIDs(root)
	if there == nil {
		return nil
	}
	h := &held{objects: map[string]object{}, idLen: len(p.Branches[0]) / 2}
	room := int64(maxHeldSize)
	type want struct{ id, kind string }
	var todo []want
	for _, id := range append([]string{p.Start, p.View.From}, p.Branches...) {
		if id != "" {
			todo = append(todo, want{id, "commit"})
		}
	}
	seen := map[string]bool{}
	for len(todo) > 0 {
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[w.id] || !there[w.id] {
			continue
		}
		seen[w.id] = true
		o, err := readLoose(root, w.id, room)
		if err != nil || o.kind != w.kind || objectID(o.kind, o.data, w.id) != w.id || len(h.objects) == maxHeld {
			return nil
		}
		room -= int64(len(o.data))
		h.objects[w.id] = o
		switch w.kind {
		case "commit":
			c := ParseCommit(w.id, o.data)
			if c.Odd || c.Tree == "" {
				return nil
			}
			todo = append(todo, want{c.Tree, "tree"})
			for _, parent := range c.Parents {
				todo = append(todo, want{parent, "commit"})
			}
		case "tree":
			for rest := o.data; len(rest) > 0; {
				var mode, id string
				if mode, _, id, rest = cutEntry(rest, h.idLen); id == "" {
					return nil
				}
				switch mode {
				case "40000":
					todo = append(todo, want{id, "tree"})
				case "160000": // a submodule's commit is elsewhere
				default:
					todo = append(todo, want{id, "blob"})
				}
			}
		}
	}
	h.build()
	return h
}

// looseIDs are the ids of all loose objects, nil when there are many.
func looseIDs(root *os.Root) map[string]bool {
	ids := map[string]bool{}
	dirs, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		if len(d.Name()) != 2 {
			continue // pack, info
		}
		files, err := fs.ReadDir(root.FS(), d.Name())
		if err != nil || len(ids)+len(files) > 4*maxHeld {
			return nil
		}
		for _, f := range files {
			ids[d.Name()+f.Name()] = true
		}
	}
	return ids
}

// readLoose reads one object of at most room bytes (gitformat-loose(5)).
func readLoose(root *os.Root, id string, room int64) (object, error) {
	f, err := root.OpenFile(id[:2]+"/"+id[2:], os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return object{}, err
	}
	defer f.Close()
	z, err := zlib.NewReader(bufio.NewReader(f))
	if err != nil {
		return object{}, err
	}
	in := bufio.NewReader(z)
	head, err := in.ReadSlice(0)
	if err != nil || len(head) > 40 {
		return object{}, errNotHeld
	}
	kind, length, _ := strings.Cut(string(head[:len(head)-1]), " ")
	size, err := strconv.ParseInt(length, 10, 64)
	if err != nil || size < 0 || size > room {
		return object{}, errNotHeld
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(in, data); err != nil {
		return object{}, fmt.Errorf("an object is not as long as it says: %w", errors.Join(errNotHeld, err))
	}
	if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		return object{}, errNotHeld
	}
	return object{kind: kind, data: data}, nil
}

// baseHas reports whether the base has an object, or may have it: what cannot be read is git's.
func (p *repo) baseHas(id string) bool {
	if _, err := os.Lstat(filepath.Join(p.Objects, id[:2], id[2:])); !errors.Is(err, fs.ErrNotExist) {
		return true
	}
	names, err := filepath.Glob(filepath.Join(p.Objects, "pack", "*.idx"))
	raw, err2 := hex.DecodeString(id)
	if err != nil || err2 != nil {
		return true
	}
	for _, name := range names {
		if has, err := indexHas(name, raw); has || err != nil {
			return true
		}
	}
	return false
}

// indexHas looks for an id in the index of a pack, version 2 (gitformat-pack(5)).
func indexHas(name string, id []byte) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head := make([]byte, 8+256*4)
	if _, err := io.ReadFull(f, head); err != nil || string(head[:8]) != "\377tOc\x00\x00\x00\x02" {
		return false, errors.Join(err, errNotHeld)
	}
	upTo := func(first int) int64 { return int64(binary.BigEndian.Uint32(head[8+4*first:])) }
	from, to := int64(0), upTo(int(id[0]))
	if id[0] > 0 {
		from = upTo(int(id[0]) - 1)
	}
	for at := make([]byte, len(id)); from < to; {
		middle := (from + to) / 2
		if _, err := f.ReadAt(at, int64(len(head))+middle*int64(len(id))); err != nil {
			return false, err
		}
		switch bytes.Compare(at, id) {
		case 0:
			return true, nil
		case -1:
			from = middle + 1
		default:
			to = middle
		}
	}
	return false, nil
}

// build makes a pack of what is held, so that git finds it. Nothing is compressed.
func (h *held) build() {
	h.pack = binary.BigEndian.AppendUint32([]byte("PACK\x00\x00\x00\x02"), uint32(len(h.objects))) //nolint:gosec // at most maxHeld
	for id, o := range h.objects {
		o.from = len(h.pack)
		c := byte(slices.Index(kinds[:], o.kind))<<4 | byte(len(o.data)&15) //nolint:gosec // it is one of these
		for size := len(o.data) >> 4; ; size >>= 7 {
			if size == 0 {
				h.pack = append(h.pack, c)
				break
			}
			h.pack = append(h.pack, c|0x80)
			c = byte(size & 0x7f)
		}
		h.pack = append(h.pack, stored(o.data)...)
		o.to = len(h.pack)
		h.objects[id] = o
	}
	sum := newHash(h.idLen)
	sum.Write(h.pack)
	h.pack = sum.Sum(h.pack)
}

// stored is data as a zlib stream that compresses nothing (RFC 1950, RFC 1951 §3.2.4).
func stored(data []byte) []byte {
	const most = 0xffff
	out := append(make([]byte, 0, len(data)+len(data)/most*5+16), 0x78, 0x01)
	for rest, last := data, byte(0); last == 0; {
		part := rest[:min(len(rest), most)]
		if rest = rest[len(part):]; len(rest) == 0 {
			last = 1
		}
		n := uint16(len(part)) //nolint:gosec // at most most
		out = append(out, last)
		out = binary.LittleEndian.AppendUint16(out, n)
		out = binary.LittleEndian.AppendUint16(out, ^n)
		out = append(out, part...)
	}
	return binary.BigEndian.AppendUint32(out, adler32.Checksum(data))
}

// cutEntry takes the first entry of a tree object, "mode name\0" and an id of idLen bytes; id is "" where
// there is none.
func cutEntry(tree []byte, idLen int) (mode, name, id string, rest []byte) {
	head, rest, ok := bytes.Cut(tree, []byte{0})
	mode, name, ok2 := strings.Cut(string(head), " ")
	if !ok || !ok2 || len(rest) < idLen {
		return "", "", "", nil
	}
	return mode, name, hex.EncodeToString(rest[:idLen]), rest[idLen:]
}
