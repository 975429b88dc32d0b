package server

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok/internal/audit"
	"terok/internal/gate/gatetest"
	"terok/internal/git"
)

// packEntry appends one entry of a pack: a header with type and size, what stands before the data, the data
// deflated (gitformat-pack(5)).
func packEntry(pack []byte, kind byte, size int, before, data []byte) []byte {
	b := kind<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		pack = append(pack, b|0x80)
		b = byte(size & 0x7f)
	}
	pack = append(append(pack, b), before...)
	var z bytes.Buffer
	w := zlib.NewWriter(&z)
	_, _ = w.Write(data)
	_ = w.Close()
	return append(pack, z.Bytes()...)
}

// deltaBomb is a pack of half a kilobyte in which each object is many times the one before: the last
// would be 16 GiB.
func deltaBomb() []byte {
	size := uint64(1 << 16)
	pack := packEntry([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x04"), 3, int(size), nil, make([]byte, size))
	offset := 12
	for _, times := range []uint64{16, 16, 1024} {
		delta := binary.AppendUvarint(binary.AppendUvarint(nil, size), size*times)
		for range 16 {
			delta = append(delta, 0x80|0x40, byte(size>>16)) // copy from offset 0; the third byte of the size, 0 is 64 KiB
		}
		at := len(pack)
		back := at - offset
		before := []byte{byte(back & 0x7f)}
		for back >>= 7; back > 0; back >>= 7 {
			back--
			before = append([]byte{byte(back&0x7f) | 0x80}, before...)
		}
		pack = packEntry(pack, 6, len(delta), before, delta)
		offset, size = at, size*times
	}
	sum := sha1.Sum(pack)
	return append(pack, sum[:]...)
}

// TestDeltaBomb: a pack whose deltas multiply is refused with a reason and leaves nothing, and the server
// answers others meanwhile.
//
// spec/gate.md §20: 23.
func TestDeltaBomb(t *testing.T) {
	s := serve(t)
	bomb := deltaBomb()
	body := append(listOf(zeroID+" "+someID+" refs/heads/bomb\x00report-status"), bomb...)
	answered := make(chan string, 1)
	go func() {
		resp := s.post("/git-receive-pack", "receive", bytes.NewReader(body), "")
		defer resp.Body.Close()
		data, _ := io.ReadAll(resp.Body)
		answered <- string(data)
	}()
	if out, err := s.TryGit(s.Dir, "ls-remote", s.url); err != nil || !strings.Contains(out, s.task.Start) {
		t.Errorf("the server does not answer others: %v", err)
	}
	if said := <-answered; !strings.Contains(said, "ng refs/heads/bomb terok: ") {
		t.Errorf("%q", said)
	}
	left, _ := filepath.Glob(s.task.Repo + "/objects/*incoming*")
	packs, _ := filepath.Glob(s.task.Repo + "/objects/pack/*")
	if len(left)+len(packs) > 0 {
		t.Errorf("left behind: %v %v", left, packs)
	}
	s.commit("a", "x")
	s.Git(s.work, "push", "-q", "origin", "HEAD")
}

// diskEnv names the directory on which TestFullDisk may mount, in the process that has a mount namespace.
const diskEnv = "TEROK_TEST_FULL_DISK"

// TestFullDisk: the gate's repositories and the ledger on a disk that is really full. The push fails with
// the reason, refs and ledger are what they were, nothing is left of the pack, and with room again the
// same push lands.
//
// spec/gate.md §20: 24.
func TestFullDisk(t *testing.T) {
	disk := os.Getenv(diskEnv)
	if disk == "" {
		t.Parallel()
		cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "--mount", "--kill-child", os.Args[0], "-test.run=^TestFullDisk$", "-test.v")
		cmd.Env = append(os.Environ(), diskEnv+"="+t.TempDir())
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=8m,mode=700"); err != nil {
		t.Fatal(err)
	}
	w := gatetest.NewIn(t, disk)
	task := w.Gate("k3v9p")
	ledger, err := audit.Open(filepath.Join(disk, "audit.jsonl"), audit.Identity{}, audit.Options{})
	if err != nil {
		t.Fatal(err)
	}
	h := New(Config{Git: &git.Runner{}, Repo: task.Repo, Base: task.Base, Token: token, Record: ledger, Limits: Limits{Headroom: 1}})
	srv := httptest.NewServer(h)
	defer srv.Close()
	s := &served{World: w, task: task, bare: srv.URL + Path, url: strings.Replace(srv.URL, "http://", "http://x:"+token+"@", 1) + Path, work: filepath.Join(t.TempDir(), "work")}
	s.Git(w.Dir, "clone", "-q", s.url, s.work)
	s.commit("small", "x")
	s.Git(s.work, "push", "-q", "origin", "HEAD:refs/heads/before")
	refs := s.Git(task.Repo, "for-each-ref")
	lines := func() int {
		t.Helper()
		if err := ledger.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(disk, "audit.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(data, []byte("push_received"))
	}
	received := lines()

	// The pack does not fit: what is free now is more than the headroom of 5 % and less than the pack.
	s.commit("large", noise(16<<20))
	_, err = s.TryGit(s.work, "push", "origin", "HEAD:refs/heads/large")
	s.refused(err, "full")
	if now := s.Git(task.Repo, "for-each-ref"); now != refs {
		t.Errorf("refs moved:\n%s", now)
	}
	if left, _ := filepath.Glob(task.Repo + "/objects/*incoming*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if n := lines(); n != received {
		t.Errorf("%d pushes recorded, not %d", n, received)
	}
	s.Git(task.Repo, "fsck")

	// Not even a ref can be written: there is no byte left.
	fill(t, filepath.Join(disk, "filler"))
	_, err = s.TryGit(s.work, "push", "origin", "HEAD~1:refs/heads/after")
	s.refused(err, "full")
	if now := s.Git(task.Repo, "for-each-ref"); now != refs {
		t.Errorf("refs moved:\n%s", now)
	}
	if err := os.Remove(filepath.Join(disk, "filler")); err != nil {
		t.Fatal(err)
	}
	s.Git(s.work, "push", "-q", "origin", "HEAD~1:refs/heads/after")
	if n := lines(); n != received+1 {
		t.Errorf("%d pushes recorded, not %d", n, received+1)
	}
	s.Git(task.Repo, "fsck")
	if err := ledger.Close(); err != nil {
		t.Error(err)
	}
}

// fill takes the last byte of a disk.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{1 << 20, 4096, 1} {
		for {
			if _, err = f.Write(make([]byte, n)); err != nil {
				break
			}
		}
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}
