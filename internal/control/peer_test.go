package control

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMain runs the child processes of the peer tests: a client that connects, and a server that
// judges its clients; both may be in a user namespace of their own.
func TestMain(m *testing.M) {
	var err error
	switch role, arg := os.Getenv("CONTROL_TEST_ROLE"), os.Getenv("CONTROL_TEST_SOCKET"); role {
	case "":
		os.Exit(m.Run())
	case "client":
		err = clientRole(arg)
	case "nested", "lookalike": // a client one user namespace further down, as in a container
		cmd := inRole("client", arg)
		maps := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		if role == "lookalike" { // root of a container can give the next one a map like Podman's
			maps = append(maps, syscall.SysProcIDMap{ContainerID: 1, HostID: 1, Size: 1000})
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		err = cmd.Run()
	case "server":
		err = serverRole(arg)
	}
	if err != nil {
		fmt.Println("FAILED:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// clientRole prints what the server answered: one word, or nothing when it was refused.
func clientRole(socket string) error {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return err
	}
	answer, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		return err
	}
	fmt.Printf("answer %q\n", answer)
	return nil
}

// serverRole greets every peer that passes until stdin ends.
func serverRole(socket string) error {
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	if err := os.Chmod(socket, 0o777); err != nil {
		return err
	}
	fmt.Println("ready")
	go greet(l)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// greet answers "welcome" to peers that CheckPeer accepts, nothing to others.
func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if err := CheckPeer(c); err == nil {
			_, _ = io.WriteString(c, "welcome")
		} else if !errors.Is(err, ErrForeignPeer) {
			_, _ = io.WriteString(c, err.Error())
		}
		c.Close()
	}
}

// inRole prepares this test program in another role.
func inRole(role, socket string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "CONTROL_TEST_ROLE="+role, "CONTROL_TEST_SOCKET="+socket)
	return cmd
}

// operator is the uid whose processes talk to each other. Podman never runs as root, and root's
// own namespaces look different, so as root the tests become an ordinary user.
func operator() (uid int, cred *syscall.Credential) {
	if os.Getuid() != 0 {
		return os.Getuid(), nil
	}
	return 4321, &syscall.Credential{Uid: 4321, Gid: 4321}
}

// openDir is a directory that the operator of the test can use, whoever runs it.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "terok-peer-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// newUser puts a command into a user namespace in which its user is root, as Podman's is.
func newUser(cmd *exec.Cmd, uid int, cred *syscall.Credential) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	if cred != nil { // as root we can give it the subordinate ids as well
		cmd.SysProcAttr.UidMappings = append(cmd.SysProcAttr.UidMappings, syscall.SysProcIDMap{ContainerID: 1, HostID: 300000, Size: 65536})
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true}
	}
}

// ask runs a client role and returns what it printed.
func ask(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return strings.TrimSpace(string(out))
}

const (
	accepted = `answer "welcome"`
	refused  = `answer ""`
)

// TestPeersOfAServerInPodmansNamespace is the supervisor's case: it lives in a user namespace of
// the operator, its clients on the host, and whoever is in a namespace below is a container.
func TestPeersOfAServerInPodmansNamespace(t *testing.T) {
	uid, cred := operator()
	socket := filepath.Join(openDir(t), "s")
	server := inRole("server", socket)
	newUser(server, uid, cred)
	in, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer server.Wait()
	defer in.Close()
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("server: %q", line)
	}

	host := inRole("client", socket)
	host.SysProcAttr = &syscall.SysProcAttr{Credential: cred}
	if got := ask(t, host); got != accepted {
		t.Errorf("the operator's process on the host got %s", got)
	}
	if cred != nil {
		stranger := inRole("client", socket)
		stranger.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 4322, Gid: 4322}}
		if got := ask(t, stranger); got != refused {
			t.Errorf("another user got %s", got)
		}
	}
	// The same kernel uid from a user namespace below the server's: nsenter by /proc/PID/ns/user
	// needs a single-threaded program, so the server's own child stands for the container.
	sandbox := inRole("nested", socket)
	newUser(sandbox, uid, cred)
	if got := ask(t, sandbox); got != refused {
		t.Errorf("a process in a container's namespace got %s", got)
	}
	// A sandbox beside the server's namespace that maps the operator only, such as bubblewrap's.
	beside := inRole("client", socket)
	beside.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}}
	if cred != nil {
		beside.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		beside.SysProcAttr.Credential = &syscall.Credential{NoSetGroups: true}
		if got := ask(t, beside); got != refused {
			t.Errorf("a sandbox beside got %s", got)
		}
	}
}

// TestPeersOfAServerOnTheHost is the keyholder's case.
func TestPeersOfAServerOnTheHost(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "run", "s")
	l, err := Listen(socket) // checks by itself
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "welcome")
			c.Close()
		}
	}()
	uid := os.Getuid()
	if got := ask(t, inRole("client", socket)); got != accepted {
		t.Errorf("our own process got %s", got)
	}
	// A namespace with the operator as its only id is a sandbox, not Podman's.
	for name, maps := range map[string][]syscall.SysProcIDMap{
		"a sandbox":     {{ContainerID: 0, HostID: uid, Size: 1}},
		"a keep-id map": {{ContainerID: 1000, HostID: uid, Size: 1}},
	} {
		cmd := inRole("client", socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: maps}
		if got := ask(t, cmd); got != refused {
			t.Errorf("%s got %s", name, got)
		}
	}
	if uid != 0 {
		return // the rest needs subordinate ids; the end-to-end suite has Podman for it
	}
	podman := []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}, {ContainerID: 1, HostID: 300000, Size: 65536}}
	cmd := inRole("client", socket)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: podman}
	if got := ask(t, cmd); got != accepted {
		t.Errorf("a process in Podman's namespace got %s", got)
	}
	for _, role := range []string{"nested", "lookalike"} {
		cmd = inRole(role, socket)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: podman, // a gid, or it could make no namespace
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
		if got := ask(t, cmd); got != refused {
			t.Errorf("a container's process (%s) got %s", role, got)
		}
	}
}

// TestDeadPeer: a peer that has ended proves nothing, its pid may be anybody's by now.
func TestDeadPeer(t *testing.T) {
	socket := filepath.Join(openDir(t), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	cmd := inRole("client", socket)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err := CheckPeer(c); !errors.Is(err, ErrForeignPeer) {
		t.Errorf("got %v", err)
	}
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if err := CheckPeer(a); !errors.Is(err, ErrForeignPeer) {
		t.Errorf("a pipe: %v", err)
	}
}
