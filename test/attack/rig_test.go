// Package attack lets a hostile workload try to get out of a sandbox, in the internet of package
// world, and proves with that internet's own records that it did not. Every test has a paired
// control: what is allowed works through the same path, so that a refusal is the guard's and no
// broken rig's.
//
//	scripts/rootless base && scripts/world run -- go test -count=1 ./test/attack
//
// Outside of the world the tests fail; they are not skipped.
package attack

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"terok/test/world"
)

// quick is how long a refusal may take.
const quick = time.Second

var (
	rig   string // directory of this run
	terok string // the program under test
	image string // holds the probe and nothing else
	names atomic.Int64
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "test/attack:", err)
		return 1
	}
	if _, err := world.Connect(); err != nil {
		return fail(fmt.Errorf("%w\nscripts/world run -- go test -count=1 ./test/attack", err))
	}
	dir, err := os.MkdirTemp("", "attack-") // short: sockets lie in it
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	rig, terok = dir, filepath.Join(dir, "terok")
	probe := filepath.Join(dir, "probe")
	for out, pkg := range map[string]string{terok: "terok/cmd/terok", probe: "terok/test/attack/probe"} {
		build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", out, pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := build.CombinedOutput(); err != nil {
			return fail(fmt.Errorf("build %s: %w\n%s", pkg, err, msg))
		}
	}
	image = fmt.Sprintf("localhost/terok-attack:%d", os.Getpid())
	if err := makeImage(probe); err != nil {
		return fail(err)
	}
	defer exec.Command("podman", "rmi", "--force", image).Run()
	return m.Run()
}

// makeImage imports an image with the probe as its only program.
func makeImage(probe string) error {
	program, err := os.ReadFile(probe)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(name string, kind byte, mode int64, content []byte) {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Typeflag: kind, Mode: mode, Size: int64(len(content))}))
		_, werr := w.Write(content)
		err = errors.Join(err, werr)
	}
	for _, d := range []string{"etc", "ctl", "proc", "sys", "dev", "run", "tmp", "home", "home/dev"} {
		add(d+"/", tar.TypeDir, 0o1777, nil)
	}
	add("etc/passwd", tar.TypeReg, 0o644, []byte("root:x:0:0::/:/probe\ndev:x:1000:1000::/home/dev:/probe\n"))
	add("etc/group", tar.TypeReg, 0o644, []byte("root:x:0:\ndev:x:1000:\n"))
	add("probe", tar.TypeReg, 0o755, program)
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	cmd := exec.Command("podman", "import", "--quiet", "-", image)
	cmd.Stdin = &b
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("podman import: %w\n%s", err, msg)
	}
	return nil
}

// testEnviron is the environment of the program under test: a state of its own and the user's podman.
func testEnviron() ([]string, error) {
	env := os.Environ()
	for _, v := range [][2]string{{"XDG_CONFIG_HOME", "c"}, {"XDG_DATA_HOME", "d"}, {"XDG_RUNTIME_DIR", "r"}} {
		dir := filepath.Join(rig, v[1])
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, err
		}
		env = append(env, v[0]+"="+dir)
	}
	return env, nil
}

// command runs the program under test.
func command(args ...string) (string, error) {
	cmd := exec.Command(terok, args...)
	var err error
	if cmd.Env, err = testEnviron(); err != nil {
		return "", err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("terok %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

func must(t testing.TB, args ...string) string {
	t.Helper()
	out, err := command(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// box is a sandbox with the probe in it.
type box struct{ name, socket string }

// start starts a sandbox with these flags, and removes it at the end of the test.
func start(t testing.TB, flags ...string) *box {
	t.Helper()
	name := fmt.Sprintf("attack-%d-%d", os.Getpid(), names.Add(1))
	dir := filepath.Join(rig, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	b := &box{name, filepath.Join(dir, "s")}
	t.Cleanup(func() {
		if _, err := command("sandbox", "rm", name); err != nil {
			t.Error(err)
		}
	})
	args := append([]string{"sandbox", "run", "-d", "--name", name, "--mount", dir + ":/ctl"}, flags...)
	if _, err := command(append(args, image, "--", "/probe", "/ctl/s")...); err != nil {
		log, lost := os.ReadFile(filepath.Join(rig, "d", "terok", "sandboxes", name, "logs", "supervisor.log"))
		t.Fatalf("%v\n%s%v", err, log, lost)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("unix", b.socket)
		if err == nil {
			c.Close()
			return b
		}
		if time.Now().After(deadline) {
			logs, _ := exec.Command("podman", "logs", "terok-sandbox-"+name).CombinedOutput()
			t.Fatalf("the probe does not answer: %v\n%s", err, logs)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// request and reply are the probe's Request and Reply.
type request struct {
	Op      string
	Network string
	Addr    string
	Send    []byte
	Numbers []int
	MS      int
}

type reply struct {
	Error string
	Errno string
	MS    int64
	Data  []byte
	List  []string
	Count int
}

func (b *box) begin(q request) (net.Conn, *bufio.Reader, reply, error) {
	var out reply
	c, err := net.Dial("unix", b.socket)
	if err != nil {
		return nil, nil, out, err
	}
	line, err := json.Marshal(q)
	if err == nil {
		_, err = c.Write(append(line, '\n'))
	}
	in := bufio.NewReader(c)
	if err == nil {
		line, err = in.ReadBytes('\n')
	}
	if err == nil {
		err = json.Unmarshal(line, &out)
	}
	if err != nil {
		c.Close()
		return nil, nil, out, fmt.Errorf("probe: %w", err)
	}
	return c, in, out, nil
}

// do lets the probe do something.
func (b *box) do(t testing.TB, q request) reply {
	t.Helper()
	c, _, out, err := b.begin(q)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	return out
}

// conn is a connection that the probe made. A reset at its other end looks like an early end here.
type conn struct {
	*net.UnixConn
	in io.Reader
}

func (c *conn) Read(p []byte) (int, error) { return c.in.Read(p) }

// dial lets the probe connect and hands the connection over.
func (b *box) dial(network, addr string) (net.Conn, error) {
	c, in, out, err := b.begin(request{Op: "dial", Network: network, Addr: addr})
	if err != nil {
		return nil, err
	}
	if out.Error != "" {
		c.Close()
		return nil, errors.New(out.Error)
	}
	return &conn{c.(*net.UnixConn), in}, nil
}

// internet resets the world and returns it, and the trust in its servers.
func internet(t testing.TB) (*world.Client, *x509.CertPool) {
	t.Helper()
	w, err := world.Connect()
	if err == nil {
		err = w.Reset(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	pem, err := w.CA(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	return w, roots
}

// sawOnly fails the test if a name was asked for, or a server reached, that is not in allowed:
// names, and addresses with port.
func sawOnly(t testing.TB, w *world.Client, allowed ...string) {
	t.Helper()
	seen, err := w.Seen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seen {
		what := s.Local
		if s.Kind == "dns" {
			what = s.Name
		}
		name, _, err := net.SplitHostPort(s.Name)
		if err != nil {
			name = s.Name
		}
		if !slices.Contains(allowed, what) || s.Kind != "dns" && name != "" && !slices.Contains(allowed, name) {
			t.Errorf("the internet saw %+v", s)
		}
	}
}

// saw reports whether a server or resolver saw something of this kind and name.
func saw(t testing.TB, w *world.Client, kind, name string) bool {
	t.Helper()
	seen, err := w.Seen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(seen, func(s world.Seen) bool { return s.Kind == kind && s.Name == name })
}
