package inspect

import (
	"bytes"
	"compress/zlib"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"terok/internal/git"
)

const tree4 = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"

func commitOf(parents ...string) []byte {
	body := "tree " + tree4 + "\n"
	for _, p := range parents {
		body += "parent " + p + "\n"
	}
	return []byte(body + "author A <a@b> 1 +0000\ncommitter A <a@b> 1 +0000\n\nx\n")
}

// holding makes a pack of objects and reads it again.
func holding(t testing.TB, objects ...object) (*held, []string) {
	t.Helper()
	h := &held{objects: map[string]object{}, idLen: 20}
	var ids []string
	for _, o := range objects {
		id := objectID(o.kind, o.data, idA)
		h.objects[id] = o
		ids = append(ids, id)
	}
	h.build()
	again, err := hold(h.pack, idA)
	if err != nil || len(again.objects) != len(h.objects) {
		t.Fatalf("%v: %v", again, err)
	}
	return again, ids
}

// TestHeldIsWhatGitReads: git finds each object in what is written, by the id that was computed, and its
// own checks find nothing wrong with pack and index.
func TestHeldIsWhatGitReads(t *testing.T) {
	dir := t.TempDir()
	r := &git.Runner{}
	if _, err := r.Run(t.Context(), gitInit(dir)); err != nil {
		t.Fatal(err)
	}
	big := object{kind: "blob", data: bytes.Repeat([]byte("0123456789"), 20_000)} // several stored blocks
	h, ids := holding(t, object{kind: "commit", data: commitOf()}, object{kind: "tree"}, object{kind: "blob", data: []byte("x")}, object{kind: "blob"}, big)
	if err := os.Remove(filepath.Join(dir, "objects", "pack")); err != nil {
		t.Fatal(err)
	}
	if err := h.write(filepath.Join(dir, "objects"), "held"); err != nil {
		t.Fatal(err)
	}
	p := &repo{Request: Request{Objects: filepath.Join(dir, "objects")}}
	for _, id := range append([]string{idA, idB, strings.Repeat("0", 40), strings.Repeat("f", 40)}, ids...) {
		if want := slices.Contains(ids, id); p.baseHas(id) != want {
			t.Errorf("a repository that has %s: %v", id, !want)
		}
	}
	if out, err := r.Run(t.Context(), git.Cmd{GitDir: dir, Args: []string{"verify-pack", "-v", filepath.Join(dir, "objects/pack/pack-held.idx")}}); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	for i, id := range ids {
		out, err := r.Run(t.Context(), git.Cmd{GitDir: dir, Args: []string{"cat-file", "-p", id}})
		if i == 4 && !bytes.Equal(out, big.data) || err != nil {
			t.Errorf("%d: %d bytes, %v", i, len(out), err)
		}
	}
}

// TestHeldGraph: what is not the host's word, and what is git's choice, is left to git.
func TestHeldGraph(t *testing.T) {
	commit := func(parents ...string) object { return object{kind: "commit", data: commitOf(parents...)} }
	first := objectID("commit", commitOf(idA), idA)
	second := objectID("commit", commitOf(first), idA)
	h, ids := holding(t, commit(first), commit(idA), commit(second))
	lacks := func(string) bool { return false }
	g := h.graph([]string{ids[2]}, idA, nil, lacks)
	if len(g) != 3 || !(g[ids[2]].order < g[ids[0]].order && g[ids[0]].order < g[ids[1]].order) || g[ids[2]].parents[0] != ids[0] {
		t.Errorf("a line: %v", g)
	}
	if h.graph([]string{ids[2]}, "", []string{idA}, lacks) == nil {
		t.Error("behind a branch of the base")
	}
	merge, _ := holding(t, commit(idA), commit(first, idA))
	odd, oddIDs := holding(t, object{kind: "commit", data: append(bytes.Replace(commitOf(idA), []byte("\n\n"), []byte("\nparent "+idB+"\n\n"), 1), 'x')})
	for name, g := range map[string]map[string]node{
		"behind a commit that the base is not said to have": h.graph([]string{ids[2]}, idB, []string{idB}, lacks),
		"the task's beginning is not the base's":            h.graph([]string{ids[2]}, ids[1], []string{idA}, lacks),
		"a merge":                                           merge.graph([]string{first}, idA, nil, lacks),
		"a tip that is not there":                           h.graph([]string{idB}, idA, nil, lacks),
		"a head that git reads as two":                      odd.graph(oddIDs, idA, nil, lacks),
		"its beginning is in the base":                      h.graph([]string{ids[2]}, idA, nil, func(id string) bool { return id == ids[1] }),
		"nothing held":                                      (*held)(nil).graph([]string{idA}, idA, nil, lacks),
	} {
		if g != nil {
			t.Errorf("%s: %v", name, g)
		}
	}
}

// TestOneHistory: parents are where git reads them, and nowhere else.
func TestOneHistory(t *testing.T) {
	for name, c := range map[string]struct {
		body    string
		parents string
		odd     bool
	}{
		"plain":             {"tree " + idA + "\nparent " + idB + "\nauthor A <a> 1 +0000\ncommitter B <b> 1 +0000\n\nx", idB, false},
		"behind the author": {"tree " + idA + "\nauthor A <a> 1 +0000\nparent " + idB + "\ncommitter B <b> 1 +0000\n\nx", "", true},
		"in capitals":       {"tree " + idA + "\nparent " + strings.ToUpper("abcd"+idB[4:]) + "\nauthor A <a> 1 +0000\n\nx", "", true},
		"before the tree":   {"parent " + idB + "\ntree " + idA + "\nauthor A <a> 1 +0000\n\nx", "", true},
		"no author":         {"tree " + idA + "\nparent " + idB + "\ncommitter B <b> 1 +0000\n\nx", idB, true},
		"two trees":         {"tree " + idA + "\ntree " + idB + "\nauthor A <a> 1 +0000\n\nx", "", true},
		"two authors":       {"tree " + idA + "\nauthor A <a> 1 +0000\nauthor B <b> 1 +0000\n\nx", "", false},
	} {
		got := ParseCommit(idA, []byte(c.body))
		if strings.Join(got.Parents, " ") != c.parents || got.Odd != c.odd || strings.Contains(got.Author, "B") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// FuzzHold: whatever a pack holds, reading it ends, stays bounded, and every object is what its id says.
func FuzzHold(f *testing.F) {
	h, _ := holding(f, object{kind: "commit", data: commitOf(idA)}, object{kind: "blob", data: []byte("x")})
	f.Add(h.pack)
	f.Add([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x70"))
	f.Fuzz(func(t *testing.T, pack []byte) {
		h, err := hold(pack, idA)
		if err != nil {
			return
		}
		for id, o := range h.objects {
			if objectID(o.kind, o.data, idA) != id || o.from < 12 || o.to > len(pack) || o.from >= o.to {
				t.Fatalf("%s: %+v", id, o)
			}
			_, _ = h.get(id+":a/b", "tree")
		}
		h.graph(nil, idA, nil, func(string) bool { return false })
		if len(h.index()) < 1024 {
			t.Fatal("no index")
		}
	})
}

// FuzzLoose: whatever a loose object holds.
func FuzzLoose(f *testing.F) {
	var b bytes.Buffer
	z := zlib.NewWriter(&b)
	_, _ = z.Write([]byte("blob 1\x00x"))
	_ = z.Close()
	f.Add(b.Bytes())
	f.Add(stored([]byte("tree 99999999999999\x00")))
	dir := f.TempDir()
	if err := os.Mkdir(filepath.Join(dir, idA[:2]), 0o700); err != nil {
		f.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		if err := os.WriteFile(filepath.Join(dir, idA[:2], idA[2:]), file, 0o600); err != nil {
			t.Fatal(err)
		}
		if o, err := readLoose(root, idA, 1000); err == nil && len(o.data) > 1000 {
			t.Fatalf("%d bytes", len(o.data))
		}
	})
}

// TestLooseStaysInside: a link in the task's repository leads nowhere, and an object under another's name
// is none.
func TestLooseStaysInside(t *testing.T) {
	dir := t.TempDir()
	write := func(repo, id string, data []byte) {
		t.Helper()
		path := filepath.Join(dir, repo, "objects", id[:2], id[2:])
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, stored(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	body := commitOf(idA)
	id := objectID("commit", body, idA)
	loose := append([]byte("commit "+strconv.Itoa(len(body))+"\x00"), body...)
	p := &repo{Request: Request{Repo: filepath.Join(dir, "a"), Branches: []string{id}, Start: idA, Now: time.Now()}}
	write("a", id, loose)
	if h := p.loose(); h == nil || len(h.objects) != 1 {
		t.Fatalf("%+v", h)
	}
	write("a", id, append([]byte("commit "+strconv.Itoa(len(body))+"\x00"), bytes.Replace(body, []byte("\nx\n"), []byte("\ny\n"), 1)...))
	if h := p.loose(); h != nil {
		t.Errorf("another object's bytes: %+v", h)
	}
	write("b", id, loose)
	for _, d := range []string{"a/objects/" + id[:2], "a/objects/" + id[:2] + "/" + id[2:]} {
		if err := os.RemoveAll(filepath.Join(dir, "a/objects", id[:2])); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(d)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(filepath.Join(dir, "b", strings.TrimPrefix(d, "a")), filepath.Join(dir, d)); err != nil {
			t.Fatal(err)
		}
		if h := p.loose(); h != nil {
			t.Errorf("%s: %+v", d, h)
		}
	}
}
