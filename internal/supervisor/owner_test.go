package supervisor

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeProc makes a process in a /proc of ours.
func fakeProc(t *testing.T, proc string, pid int, space, comm string, fds ...string) {
	t.Helper()
	dir := filepath.Join(proc, fmt.Sprint(pid))
	err := errors.Join(os.MkdirAll(dir+"/ns", 0o755), os.MkdirAll(dir+"/fd", 0o755), os.Symlink(space, dir+"/ns/net"),
		os.WriteFile(dir+"/comm", []byte(comm+"\n"), 0o644))
	for i, fd := range fds {
		err = errors.Join(err, os.Symlink(fd, fmt.Sprintf("%s/fd/%d", dir, i)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestOwner: the process that holds the connection is named, printable and bounded; a process of
// another namespace never is, and nothing is said where nothing is known.
func TestOwner(t *testing.T) {
	proc := t.TempDir()
	const space = "net:[7]"
	fakeProc(t, proc, 9, "net:[1]", "sshd", "socket:[41]", "socket:[42]") // a process of the host
	fakeProc(t, proc, 12, space, "sh", "/dev/null")
	fakeProc(t, proc, 15, space, "a\x1b[31m(b),pid\n", "pipe:[41]", "socket:[42]")
	fakeProc(t, proc, 16, space, "child", "socket:[42]")
	inode, lookups := uint32(42), 0
	o := &owners{space: space, proc: proc, links: ownerLinks, within: time.Minute, allowed: ownerBurst, since: time.Now(), inode: func(local, remote netip.AddrPort) (uint32, error) {
		if lookups++; local.String() != "10.0.2.100:40000" || remote.String() != "198.18.3.4:443" {
			t.Errorf("asked for %s to %s", local, remote)
		}
		return inode, nil
	}}
	question := encodeEnds(netip.MustParseAddrPort("10.0.2.100:40000"), netip.MustParseAddrPort("198.18.3.4:443"))
	if len(question) != ownerQuestion {
		t.Fatalf("a question of %d bytes", len(question))
	}
	ask := func() string {
		answer := o.find(question)
		if len(answer) != ownerAnswer {
			t.Fatalf("an answer of %d bytes", len(answer))
		}
		return ownerWords(answer)
	}
	if got := ask(); !strings.HasSuffix(got, ", pid 15") || !strings.Contains(got, "(b)") || strings.ContainsAny(got, "\x1b\n") {
		t.Errorf("%q", got)
	}
	inode = 41 // of the host's process and of no socket of the container
	if got := ask(); got != "" {
		t.Errorf("%q: a process that is not the container's", got)
	}
	for range 2 * ownerBurst {
		ask()
	}
	if lookups > ownerBurst+1 {
		t.Errorf("%d searches in one go", lookups)
	}
	if got := ask(); got != "" {
		t.Errorf("%q without a search", got)
	}
}

// TestOwnerIsBounded: a container with very many open files costs a bounded search.
func TestOwnerIsBounded(t *testing.T) {
	proc := t.TempDir()
	fds := make([]string, 300)
	for i := range fds {
		fds[i] = "pipe:[1]"
	}
	for pid := range 3 {
		fakeProc(t, proc, pid+2, "net:[7]", "hog", fds...)
	}
	fakeProc(t, proc, 100000, "net:[7]", "late", "socket:[42]")
	o := &owners{space: "net:[7]", proc: proc, links: 2000, within: time.Minute}
	if pid := o.holder("socket:[42]"); pid != 100000 {
		t.Errorf("found %d", pid)
	}
	o.links = 500
	if pid := o.holder("socket:[42]"); pid != 0 {
		t.Errorf("found %d behind more files than are looked at", pid)
	}
	o.links, o.within = 2000, 0
	if pid := o.holder("socket:[42]"); pid != 0 {
		t.Errorf("found %d after the time was over", pid)
	}
}

// TestMighty: a process that can change the container's network is named; one with the same
// capabilities in a user namespace of its own, or elsewhere, is not.
func TestMighty(t *testing.T) {
	proc := t.TempDir()
	const space = "net:[7]"
	have := func(pid int, user, caps string) {
		t.Helper()
		dir := filepath.Join(proc, fmt.Sprint(pid))
		err := errors.Join(os.Symlink(user, dir+"/ns/user"),
			os.WriteFile(dir+"/status", []byte("Name:\tCapBnd:\\nCapBnd:\nUmask:\t0022\nCapInh:\tffffffffffffffff\nCapBnd:\t"+caps+"\nCapEff:\t0000000000000000\n"), 0o644))
		if err != nil {
			t.Fatal(err)
		}
	}
	fakeProc(t, proc, 3, "net:[1]", "elsewhere")
	have(3, "user:[8]", "000001ffffffffff")
	fakeProc(t, proc, 4, space, "sh")
	have(4, "user:[8]", "00000000a80425fb") // what a container has
	fakeProc(t, proc, 5, space, "bwrap")
	have(5, "user:[9]", "000001ffffffffff")
	o := &owners{space: space, rulers: []string{"user:[8]", "user:[1]"}, proc: proc}
	if got := ownerWords(o.mighty(0)); got != "" {
		t.Errorf("%q can change the network", got)
	}
	fakeProc(t, proc, 6, space, "nft")
	have(6, "user:[8]", "0000000000001000")
	if got := ownerWords(o.mighty(0)); got != "nft, pid 6" {
		t.Errorf("%q", got)
	}
}

// TestLateAnswer: a parent that stands still costs a second and no more, and what it says later is no
// answer to another question.
func TestLateAnswer(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, err := newLink(os.NewFile(uintptr(pair[0]), "ours"))
	if err != nil {
		t.Fatal(err)
	}
	defer ours.conn.Close()
	theirs, err := newLink(os.NewFile(uintptr(pair[1]), "theirs"))
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.conn.Close()
	named := func(name string) []byte {
		answer := make([]byte, ownerAnswer)
		copy(answer, name)
		answer[ownerAnswer-1] = 7
		return answer
	}
	p := newProcesses(ours)
	here, there := netip.MustParseAddrPort("10.0.2.100:1"), netip.MustParseAddrPort("198.18.0.1:443")
	if got := p.owner(here, there); got != "" {
		t.Errorf("%q without an answer", got)
	}
	go func() {
		for range 2 * (1 + ownerQuestion) { // both questions have come
			if _, err := theirs.hearByte(); err != nil {
				return
			}
		}
		p.heard(named("late"))
		p.heard(named("right"))
	}()
	if got := p.owner(here, there); got != "right, pid 7" {
		t.Errorf("%q answers the second question", got)
	}
}

// FuzzOwner: whatever a worker asks and a parent answers has its size, and what people read of it is
// printable.
func FuzzOwner(f *testing.F) {
	f.Add(make([]byte, ownerQuestion), make([]byte, ownerAnswer))
	f.Fuzz(func(t *testing.T, question, answer []byte) {
		if len(question) >= ownerQuestion {
			local, remote := decodeEnds(question[:ownerQuestion])
			if a, b := decodeEnds(encodeEnds(local, remote)); a != local || b != remote {
				t.Errorf("%v %v became %v %v", local, remote, a, b)
			}
		}
		if len(answer) >= ownerAnswer {
			if s := ownerWords(answer[:ownerAnswer]); len(s) > 40 || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("%q", s)
			}
		}
	})
}
