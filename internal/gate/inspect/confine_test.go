package inspect

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"terok/internal/git"
)

// confinedEnv makes the test binary be a child that was taken over: it gives up what the inspector
// gives up, and then tries what it should not be able to do.
const confinedEnv = "INSPECT_TEST_CONFINED"

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(confinedEnv) != "":
		takenOver(os.Getenv(confinedEnv))
	case os.Getenv(compartmentsEnv) != "":
		takenOverGit(os.Getenv(compartmentsEnv))
	case len(os.Args) > 1 && os.Args[1] == Command:
		fmt.Println(`{"branches":[{"tip":"--upload-pack=x"}],"list":[],"text":""}`)
	default:
		os.Exit(m.Run())
	}
}

func takenOver(dir string) {
	req := Request{Op: OpScan, Repo: filepath.Join(dir, "repo"), Objects: filepath.Join(dir, "base/objects"), Scratch: filepath.Join(dir, "scratch")}
	if err := confine(req); err != nil {
		fmt.Println("confine:", err)
		return
	}
	try := func(name string, err error) {
		verdict := "refused"
		if err == nil {
			verdict = "possible"
		}
		fmt.Printf("%s: %s\n", name, verdict)
	}
	_, err := os.ReadFile(filepath.Join(dir, "secret"))
	try("read another file", err)
	_, err = os.ReadFile("/etc/passwd")
	try("read /etc/passwd", err)
	_, err = os.ReadFile(filepath.Join(req.Repo, "file"))
	try("read the repository", err)
	try("write the repository", os.WriteFile(filepath.Join(req.Repo, "new"), nil, 0o600))
	try("write the base", os.WriteFile(filepath.Join(req.Objects, "new"), nil, 0o600))
	try("write scratch", os.WriteFile(filepath.Join(req.Scratch, "new"), nil, 0o600))
	_, err = net.Dial("tcp", "127.0.0.1:1")
	if err != nil && strings.Contains(err.Error(), "refused") {
		err = nil // it got that far
	}
	try("connect", err)
	_, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	try("socket", err)
	try("run sh", exec.Command("/bin/sh", "-c", "true").Run())
	_, err = (&git.Runner{}).Run(context.Background(), git.Cmd{Args: []string{"version"}})
	try("run git", err)
	var limit unix.Rlimit
	try("memory", unix.Getrlimit(unix.RLIMIT_DATA, &limit))
	fmt.Println("limit", limit.Cur)
}

// TestConfined: an inspector that was taken over reads the two stores and nothing else, writes its
// scratch directory only, has no socket, and runs nothing but git.
func TestConfined(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"repo", "base/objects", "scratch"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"secret", "repo/file"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), confinedEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := fmt.Sprintf(`read another file: refused
read /etc/passwd: refused
read the repository: possible
write the repository: refused
write the base: refused
write scratch: possible
connect: refused
socket: refused
run sh: refused
run git: possible
memory: possible
limit %d
`, maxMemory)
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// TestChildIsNotTrusted: what a child says is judged before anybody uses it.
func TestChildIsNotTrusted(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	i := &Inspector{Self: self, Scratch: t.TempDir()}
	reply, err := i.Do(t.Context(), Request{Op: OpScan, Branches: []string{idA}})
	if err == nil {
		data, _ := json.Marshal(reply)
		t.Errorf("believed: %s", data)
	}
}

// compartmentsEnv makes the test binary be an inspector of two tasks, of which one has a git that was
// taken over.
const compartmentsEnv = "INSPECT_TEST_COMPARTMENTS"

// takenOverGit lets git try, from within task a's compartment and then from b's, what it could read and write.
func takenOverGit(dir string) {
	var reqs []Request
	for _, task := range []string{"a", "b"} {
		reqs = append(reqs, Request{Op: OpScan, Repo: filepath.Join(dir, task), Objects: filepath.Join(dir, "base/objects"), Scratch: filepath.Join(dir, "scratch-"+task)})
	}
	c, err := confineMany(reqs)
	if err != nil {
		fmt.Println("confine:", err)
		return
	}
	for n, task := range []string{"a", "b"} {
		err := c.within(n, func(r *git.Runner) error {
			for _, file := range []string{"a/file", "b/file", "base/file", "secret", "scratch-a/file", "scratch-b/file"} {
				// From a goroutine of its own, as the inspector starts git for a pipe.
				done := make(chan error)
				go func() {
					_, err := r.Run(context.Background(), git.Cmd{Args: []string{"hash-object", "--no-filters", filepath.Join(dir, file)}})
					done <- err
				}()
				fmt.Printf("%s reads %s: %v\n", task, file, <-done == nil)
			}
			for _, other := range []string{"a", "b"} {
				_, err := r.Run(context.Background(), git.Cmd{GitDir: filepath.Join(dir, "base"), Args: []string{"hash-object", "-w", "--stdin"},
					Stdin: strings.NewReader(task), Env: []string{"GIT_OBJECT_DIRECTORY=" + filepath.Join(dir, "scratch-"+other)}})
				fmt.Printf("%s writes scratch-%s: %v\n", task, other, err == nil)
			}
			return nil
		})
		if err != nil {
			fmt.Println(task, err)
		}
	}
	// A thread that belonged to a task serves nobody else.
	_, err = os.ReadFile(filepath.Join(dir, "a/file"))
	_, err2 := os.ReadFile(filepath.Join(dir, "b/file"))
	fmt.Println("the others still read both:", err == nil && err2 == nil)
}

// TestCompartments: one inspector looks at several tasks, and a git that was taken over by what one of
// them pushed reads and writes nothing of another. Spec/gate.md §12.5.
func TestCompartments(t *testing.T) {
	dir := t.TempDir()
	git := git.Runner{}
	if _, err := git.Run(t.Context(), gitInit(filepath.Join(dir, "base"))); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"a", "b", "scratch-a", "scratch-b"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{"secret", "a/file", "b/file", "base/file", "scratch-a/file", "scratch-b/file"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), compartmentsEnv+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := `a reads a/file: true
a reads b/file: false
a reads base/file: true
a reads secret: false
a reads scratch-a/file: true
a reads scratch-b/file: false
a writes scratch-a: true
a writes scratch-b: false
b reads a/file: false
b reads b/file: true
b reads base/file: true
b reads secret: false
b reads scratch-a/file: false
b reads scratch-b/file: true
b writes scratch-a: false
b writes scratch-b: true
the others still read both: true
`
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

func gitInit(dir string) git.Cmd { return git.Cmd{Args: []string{"init", "-q", "--bare", dir}} }
