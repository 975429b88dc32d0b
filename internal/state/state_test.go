package state

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"terok/internal/problem"
)

// TestMain runs the child processes of the tests below.
func TestMain(m *testing.M) {
	switch path := os.Getenv("STATE_TEST_PATH"); os.Getenv("STATE_TEST_CHILD") {
	case "write": // for ever, until killed
		fmt.Println("ready")
		for i := byte(0); ; i++ {
			if err := WriteFile(path, bytes.Repeat([]byte{'a' + i%26}, 200_000)); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
	case "lock":
		unlock, err := Lock(path)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("ready")
		end := make(chan os.Signal, 1)
		signal.Notify(end, syscall.SIGTERM)
		<-end
		unlock()
	case "full":
		signal.Ignore(syscall.SIGXFSZ)
		limit := syscall.Rlimit{Cur: 1000, Max: 1000}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(WriteFile(path, make([]byte, 5000)))
	default:
		os.Exit(m.Run())
	}
	os.Exit(0)
}

// child starts one of them and waits until it is ready.
func child(t *testing.T, what, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STATE_TEST_CHILD="+what, "STATE_TEST_PATH="+path)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("child: %q %v", line, err)
	}
	return cmd
}

func whole(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) != 200_000 || bytes.Count(data, data[:1]) != len(data) {
		t.Fatalf("half a file: %d bytes, %d of the first kind", len(data), bytes.Count(data, data[:1]))
	}
}

func TestKill9InTheMiddleOfAWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "task.json")
	if err := WriteFile(path, bytes.Repeat([]byte("z"), 200_000)); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		cmd := child(t, "write", path)
		for range 20 {
			whole(t, path)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		whole(t, path)
	}
	// Make sure that something is left, as old as if it were from yesterday.
	left := filepath.Join(filepath.Dir(path), ".task.json123456")
	other := filepath.Join(filepath.Dir(path), ".task.json-notes")
	for _, f := range []string{left, other} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	entries, _ := filepath.Glob(filepath.Join(filepath.Dir(path), ".task.json*"))
	for _, e := range entries {
		old := time.Now().Add(-24 * time.Hour)
		if err := os.Chtimes(e, old, old); err != nil {
			t.Fatal(err)
		}
	}
	young := filepath.Join(filepath.Dir(path), ".task.json777")
	if err := os.WriteFile(young, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	entries, _ = filepath.Glob(filepath.Join(filepath.Dir(path), ".task.json*"))
	if len(entries) != 2 || entries[0] != other || entries[1] != young {
		t.Errorf("left: %q", entries)
	}
}

func TestLockEndsWithItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x", "task.json")
	cmd := child(t, "lock", path)
	if _, err := TryLock(path); !errors.Is(err, ErrLocked) {
		t.Fatalf("TryLock got %v", err)
	}
	if _, err := LockFor(path, 20*time.Millisecond); !errors.Is(err, ErrLocked) {
		t.Fatalf("LockFor got %v", err)
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	unlock, err := LockFor(path, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	unlock, err = TryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

func TestTwoWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n.json")
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				unlock, err := Lock(path)
				if err != nil {
					t.Error(err)
					return
				}
				var n int
				if err := ReadJSON(path, &n); err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
				if err := WriteJSON(path, n+1); err != nil {
					t.Error(err)
				}
				unlock()
			}
		})
	}
	wg.Wait()
	var n int
	if err := ReadJSON(path, &n); err != nil || n != 100 {
		t.Errorf("%d %v", n, err)
	}
}

// TestFullDisk stands in for ENOSPC with RLIMIT_FSIZE: the write fails in its middle.
func TestFullDisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := WriteFile(path, []byte("old")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "STATE_TEST_CHILD=full", "STATE_TEST_PATH="+path)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "file too large") {
		t.Fatalf("%s %v", out, err)
	}
	if data, _ := os.ReadFile(path); string(data) != "old" {
		t.Errorf("the old file is %q", data)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("left: %v", entries)
	}
}

func TestModes(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	path := filepath.Join(t.TempDir(), "a", "b", "f")
	if err := WriteFile(path, nil); err != nil {
		t.Fatal(err)
	}
	if err := WriteFileMode(path+"x", nil, 0o444); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]fs.FileMode{path: 0o600, path + "x": 0o444, filepath.Dir(path): 0o700 | fs.ModeDir} {
		if fi, err := os.Stat(p); err != nil || fi.Mode() != want {
			t.Errorf("%s: %v %v, want %v", p, fi.Mode(), err, want)
		}
	}
}

func TestPrivateFilesOnly(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	var v map[string]int
	write := func(s string) {
		t.Helper()
		if err := WriteFile(path, []byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"a":1}`)
	if err := ReadJSON(path, &v); err != nil || v["a"] != 1 {
		t.Fatal(v, err)
	}
	link := filepath.Join(dir, "link")
	fifo := filepath.Join(dir, "fifo")
	if err := errors.Join(os.Symlink(path, link), syscall.Mkfifo(fifo, 0o600)); err != nil {
		t.Fatal(err)
	}
	for p, want := range map[string]string{link: "symbolic link", fifo: "regular file", dir: "regular file"} {
		if _, err := ReadFile(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", p, err)
		}
	}
	if err := WriteFile(link, []byte("new")); err != nil {
		t.Fatal(err)
	}
	if data, _ := os.ReadFile(path); string(data) != `{"a":1}` {
		t.Errorf("a write went through a link: %q", data)
	}
	if err := os.Chmod(path, 0o620); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "0620") {
		t.Errorf("a file that the group can write: %v", err)
	}
	if os.Getuid() == 0 {
		write("1")
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadFile(path); err == nil || !strings.Contains(err.Error(), "12345") {
			t.Errorf("a file of somebody else: %v", err)
		}
	}
	if _, err := ReadFile("/proc/1/environ"); err == nil && os.Getuid() != 0 {
		t.Error("a file of root was read")
	}
	var s struct{ A int }
	for _, bad := range []string{`{"a":1,"b":2}`, `{"a":1} {"a":2}`, `{"a":`, ``, `{"a":1}x`} {
		write(bad)
		if err := ReadJSON(path, &s); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("%s: %v", bad, err)
		}
	}
	if err := ReadJSON(path+"x", &s); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestCheckRoots(t *testing.T) {
	dir := t.TempDir()
	r := Roots{Config: filepath.Join(dir, "c"), Data: filepath.Join(dir, "d"), Runtime: filepath.Join(dir, "r")}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	if err := MkdirAll(r.Data); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []fs.FileMode{0o770, 0o702, 0o777} {
		if err := os.Chmod(r.Data, mode); err != nil {
			t.Fatal(err)
		}
		p := problem.Of(r.Check())
		if p.Code != "state_unsafe" || p.Hint != "chmod go-w "+r.Data || p.Exit != problem.Usage {
			t.Errorf("mode %o: %+v", mode, p)
		}
	}
	// A directory of root for an ordinary user, of somebody else for root.
	foreign := Roots{Config: "/etc", Data: filepath.Join(dir, "none"), Runtime: filepath.Join(dir, "none")}
	if os.Getuid() == 0 {
		foreign.Config = filepath.Join(dir, "theirs")
		if err := errors.Join(os.Mkdir(foreign.Config, 0o700), os.Chown(foreign.Config, 12345, -1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := foreign.Check(); !problem.Is(err, "state_unsafe") || !strings.Contains(err.Error(), "another user") {
		t.Errorf("a foreign root: %v", err)
	}
	r.Data = filepath.Join(dir, "file")
	if err := os.WriteFile(r.Data, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(); !problem.Is(err, "state_unsafe") {
		t.Errorf("a file as root: %v", err)
	}
}

func TestFromEnv(t *testing.T) {
	env := map[string]string{"HOME": "/home/u"}
	get := func(k string) string { return env[k] }
	r, err := FromEnv(get)
	want := Roots{"/home/u/.config/terok", "/home/u/.local/share/terok", fmt.Sprintf("/run/user/%d/terok", os.Getuid())}
	if err != nil || r != want {
		t.Errorf("%+v %v", r, err)
	}
	env["XDG_CONFIG_HOME"], env["XDG_DATA_HOME"], env["XDG_RUNTIME_DIR"] = "relative", "/d", "/r"
	if r, err = FromEnv(get); err != nil || r != (Roots{"/home/u/.config/terok", "/d/terok", "/r/terok"}) {
		t.Errorf("%+v %v", r, err)
	}
	env["HOME"] = ""
	if _, err = FromEnv(get); err == nil {
		t.Error("no HOME is fine")
	}
}

func TestRunDirFitsASocket(t *testing.T) {
	r := Roots{Runtime: "/run/user/1000/terok"}
	if got := r.RunDir("webshop-k3v9p"); got != "/run/user/1000/terok/run/webshop-k3v9p" {
		t.Error(got)
	}
	long := strings.Repeat("x", 90)
	a, b := r.RunDir(long+"1"), r.RunDir(long+"2")
	if a == b || len(a)+len("/control.sock") > 107 || a != r.RunDir(long+"1") {
		t.Errorf("%s %s", a, b)
	}
}

func BenchmarkWriteFile(b *testing.B) {
	path := filepath.Join(b.TempDir(), "f")
	data := make([]byte, 2000)
	for b.Loop() {
		if err := WriteFile(path, data); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkFloor is the least that a durable replacement costs here: write, sync, rename, sync.
func BenchmarkFloor(b *testing.B) {
	dir := b.TempDir()
	data := make([]byte, 2000)
	for b.Loop() {
		f, err := os.Create(filepath.Join(dir, "t"))
		if err != nil {
			b.Fatal(err)
		}
		d, _ := os.Open(dir)
		_, err = f.Write(data)
		if err = errors.Join(err, f.Sync(), f.Close(), os.Rename(filepath.Join(dir, "t"), filepath.Join(dir, "f")), d.Sync(), d.Close()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestTempDir: what a killed process left goes, what others use stays.
func TestTempDir(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "x")
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	stay := []string{fmt.Sprintf("p-%d-a", os.Getppid()), fmt.Sprintf("other-%d-a", gone.Process.Pid), "p-x-a", "p-0-a", "p-file"}
	for _, name := range append(stay, fmt.Sprintf("p-%d-a", gone.Process.Pid)) {
		if err := os.MkdirAll(filepath.Join(parent, name, "sub"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := TempDir(parent, "p-")
	if err != nil || filepath.Dir(dir) != parent {
		t.Fatal(dir, err)
	}
	entries, err := os.ReadDir(parent)
	if err != nil || len(entries) != len(stay)+1 {
		t.Errorf("%v %v", entries, err)
	}
	for _, name := range stay {
		if _, err := os.Stat(filepath.Join(parent, name)); err != nil {
			t.Error(err)
		}
	}
}
