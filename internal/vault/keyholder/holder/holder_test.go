package holder

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
)

const (
	pass   = "correct horse battery staple"
	secret = "sk-ant-api03-REAL-canary-0123456789"
)

// asPeer makes the test binary a client in a namespace; it prints what it got.
const asPeer = "TEROK_HOLDER_TEST_PEER"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "keyholder" {
		os.Exit(Main(os.Args[2:]))
	}
	if len(os.Args) > 1 && os.Args[1] == "keyholder-guard" {
		os.Exit(GuardMain(os.Args[2:]))
	}
	if socket := os.Getenv(asPeer); socket != "" {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		c, err := keyholder.Dial(ctx, socket)
		if err != nil {
			fmt.Println("dial:", err)
			os.Exit(0)
		}
		_, serr := c.Status(ctx)
		_, aerr := keyholder.Connect(ctx, socket, os.Getenv(asPeer+"_SANDBOX"))
		fmt.Printf("status: %v\nattach: %v\n", serr, aerr)
		os.Exit(0)
	}
	if dir := os.Getenv(asFull); dir != "" {
		fillDisk(dir)
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// inNamespace runs the test binary where it may mount, and returns what it printed.
func inNamespace(t *testing.T, env string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), env)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

// rig is one user's tree with a vault.
type rig struct {
	t     *testing.T
	ctx   context.Context
	roots state.Roots
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "kh") // socket paths are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	// Key derivation takes seconds on a machine that is busy.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	r := &rig{t, ctx, state.Roots{Data: filepath.Join(dir, "data"), Runtime: filepath.Join(dir, "run")}}
	// A vault made by the first version of the store, with a cheap work factor: it must open for
	// ever.
	for _, name := range []string{"vault.age", "slots.json"} {
		data, err := os.ReadFile(filepath.Join("testdata", "vault", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := state.WriteFile(filepath.Join(r.roots.VaultDir(), name), data); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// serve runs a keyholder in this process and returns how it ended.
func (r *rig) serve(cfg Config) <-chan error {
	r.t.Helper()
	cfg.Roots = r.roots
	if cfg.Watch == 0 {
		cfg.Watch = 5 * time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- Run(ctx, cfg, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-ended:
		r.t.Fatal(err)
	}
	r.t.Cleanup(cancel)
	return ended
}

// end waits for the end of a keyholder.
func (r *rig) end(ended <-chan error) error {
	r.t.Helper()
	select {
	case err := <-ended:
		return err
	case <-r.ctx.Done():
		r.t.Fatal("the keyholder does not end")
		return nil
	}
}

func (r *rig) client() *keyholder.Client {
	r.t.Helper()
	c, err := keyholder.Dial(r.ctx, r.roots.KeyholderSocket())
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	return c
}

func (r *rig) unlock() *keyholder.Client {
	r.t.Helper()
	c := r.client()
	if err := c.Unlock(r.ctx, []byte(pass)); err != nil {
		r.t.Fatal(err)
	}
	return c
}

// container makes a task directory with a running "init" and registers this process as its
// supervisor. It returns the sandbox file's path and the init.
func (r *rig) container(key string, grants ...sandbox.Grant) (string, *exec.Cmd) {
	r.t.Helper()
	path := r.sandboxFile(key, grants...)
	init := exec.Command("sleep", "1000")
	if err := init.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { init.Process.Kill(); init.Wait() })
	if err := keyholder.Register(path, init.Process.Pid); err != nil {
		r.t.Fatal(err)
	}
	return path, init
}

func (r *rig) sandboxFile(key string, grants ...sandbox.Grant) string {
	r.t.Helper()
	dir := r.roots.SandboxDir(key)
	digest := hex.EncodeToString(make([]byte, 32))
	f := sandbox.File{Schema: sandbox.Schema, Key: key, Name: key, Project: "p", Task: key, Launch: "launch-" + key, Dir: dir,
		RuntimeDir: r.roots.RunDir(key), CIDFile: filepath.Join(dir, "container.id"), StartError: filepath.Join(dir, "start-error"),
		PanicLock: r.roots.PanicLock(), Keyholder: r.roots.KeyholderSocket(), SeccompSHA256: digest, GuestSHA256: digest,
		SigningKey: make([]byte, 32), Vault: &sandbox.Vault{Grants: grants}}
	if err := state.WriteJSON(sandbox.Path(dir), f); err != nil {
		r.t.Fatal(err)
	}
	if err := state.WriteFile(f.CIDFile, []byte(strings.Repeat("ab", 32))); err != nil {
		r.t.Fatal(err)
	}
	return sandbox.Path(dir)
}

func grant(provider, scope string) sandbox.Grant {
	return sandbox.Grant{Provider: provider, Scope: scope}
}

func (r *rig) put(c *keyholder.Client, scope, provider, value string) {
	r.t.Helper()
	if _, err := c.Put(r.ctx, keyholder.Credential{Scope: scope, Provider: provider, Kind: "api_key"}, keyholder.Secrets{Secret: []byte(value)}); err != nil {
		r.t.Fatal(err)
	}
}

// eventually waits for a condition that another process or goroutine brings about.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-r.ctx.Done():
			r.t.Fatal("never: " + what)
		case <-tick.C:
		}
	}
}

func TestOperator(t *testing.T) {
	r := newRig(t)
	ended := r.serve(Config{})
	c := r.client()
	if st, err := c.Status(r.ctx); err != nil || st.Unlocked || st.PID != os.Getpid() {
		t.Fatal(st, err)
	}
	if _, err := c.List(r.ctx); !errors.Is(err, keyholder.ErrLocked) {
		t.Error(err)
	}
	if err := c.Unlock(r.ctx, []byte("wrong")); !errors.Is(err, keyholder.ErrWrong) {
		t.Error(err)
	}
	r.unlock()
	if err := c.Unlock(r.ctx, []byte("wrong")); !errors.Is(err, keyholder.ErrWrong) {
		t.Error("an open vault took any passphrase", err)
	}
	r.put(c, "shared", "anthropic", secret)
	if _, err := c.Put(r.ctx, keyholder.Credential{Scope: "shared", Provider: "anthropic", Kind: "api_key"}, keyholder.Secrets{Secret: []byte("short")}); err == nil || strings.Contains(err.Error(), "short") {
		t.Error(err)
	}
	list, err := c.List(r.ctx)
	if err != nil || len(list) != 1 || list[0].Hint != "6789" || strings.Contains(fmt.Sprintf("%+v", list), secret) {
		t.Error(list, err)
	}
	if st, err := c.Status(r.ctx); err != nil || !st.Unlocked || st.Credentials != 1 {
		t.Error(st, err)
	}
	if err := c.Delete(r.ctx, "shared", "nothing", ""); !errors.Is(err, keyholder.ErrNoCredential) {
		t.Error(err)
	}
	if err := c.Lock(r.ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(r.roots.KeyholderSocket()); err == nil {
		t.Error("the socket is still there after lock")
	}
	if err := r.end(ended); err != nil {
		t.Error(err)
	}
	if _, err := c.Status(r.ctx); !errors.Is(err, keyholder.ErrLocked) {
		t.Error(err)
	}
}

func TestSessionGetsItsGrantsOnly(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.unlock()
	r.put(c, "shared", "anthropic", secret)
	r.put(c, "shared", "openai", secret+"-openai")
	r.put(c, "project:p", "mistral", secret+"-own")
	r.put(c, "shared", "mistral", secret+"-shared")
	r.put(c, "shared", "kisski", secret+"-kisski")
	path, init := r.container("t1", grant("anthropic", "shared"), grant("mistral", "shared"), grant("kisski", "project:p"), grant("opper", "shared"))
	conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := keyholder.NewSession(conn)
	defer s.Close()
	for _, tt := range []struct {
		provider, want string
		err            error
	}{
		{"anthropic", secret, nil},
		{"openai", "", keyholder.ErrNotGranted},
		{"mistral", secret + "-own", nil},             // the project's own comes first
		{"kisski", "", keyholder.ErrNoCredential},     // a project that keeps to itself never falls back
		{"opper", "", keyholder.ErrNoCredential},      // granted, nothing stored yet
		{"../anthropic", "", keyholder.ErrNotGranted}, // names are compared, never parsed
	} {
		got, err := s.Credential(r.ctx, tt.provider)
		if string(got.Value) != tt.want || !errors.Is(err, tt.err) {
			t.Errorf("%s: %q %v", tt.provider, got.Value, err)
		}
	}
	// What a container may know of them: for which there is one, and of which kind.
	held := func() string {
		list, err := s.Held(r.ctx)
		var names []string
		for _, h := range list {
			names = append(names, h.Provider+"/"+h.Kind)
		}
		return fmt.Sprint(names, err)
	}
	if got := held(); got != "[anthropic/api_key mistral/api_key] <nil>" {
		t.Error(got)
	}
	// Replaced, removed and late credentials take effect at once.
	r.put(c, "shared", "opper", secret+"-late")
	r.eventually("late credential", func() bool { got, _ := s.Credential(r.ctx, "opper"); return string(got.Value) == secret+"-late" })
	if got := held(); got != "[anthropic/api_key mistral/api_key opper/api_key] <nil>" {
		t.Error(got)
	}
	r.put(c, "shared", "anthropic", secret+"-new")
	r.eventually("new credential", func() bool {
		got, _ := s.Credential(r.ctx, "anthropic")
		return string(got.Value) == secret+"-new"
	})
	if err := c.Delete(r.ctx, "shared", "anthropic", ""); err != nil {
		t.Fatal(err)
	}
	r.eventually("removed credential", func() bool {
		_, err := s.Credential(r.ctx, "anthropic")
		return errors.Is(err, keyholder.ErrNoCredential)
	})
	// A supervisor is no operator.
	for _, op := range []string{keyholder.OpList, keyholder.OpStatus, keyholder.OpLock, keyholder.OpPut, keyholder.OpAttach, keyholder.OpUnlock} {
		conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, `{"v":1,"id":7,"op":%q,"sandbox":%q}`, op, path)
		buf := make([]byte, keyholder.MaxMessage)
		n, err := conn.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), keyholder.CodeRefused) {
			t.Errorf("%s: %q %v", op, buf[:n], err)
		}
		conn.Close()
	}
	init.Process.Kill()
	init.Wait()
	if _, err := s.Credential(r.ctx, "kisski"); !errors.Is(err, keyholder.ErrRefused) {
		t.Error("the container has ended", err)
	}
	if _, err := s.Held(r.ctx); !errors.Is(err, keyholder.ErrRefused) {
		t.Error("the container has ended", err)
	}
}

func TestAttachRefusals(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	r.put(r.unlock(), "shared", "anthropic", secret)
	g := grant("anthropic", "shared")
	edit := func(path string, change func(*sandbox.Live)) {
		t.Helper()
		var live sandbox.Live
		if err := state.ReadJSON(sandbox.LivePath(filepath.Dir(path)), &live); err != nil {
			t.Fatal(err)
		}
		change(&live)
		if err := state.WriteJSON(sandbox.LivePath(filepath.Dir(path)), live); err != nil {
			t.Fatal(err)
		}
	}
	for name, make := range map[string]func() string{
		"never registered": func() string { return r.sandboxFile("r1", g) },
		"other parent": func() string {
			p, _ := r.container("r2", g)
			edit(p, func(l *sandbox.Live) { l.ParentPID = 1 })
			return p
		},
		"reused parent": func() string {
			p, _ := r.container("r3", g)
			edit(p, func(l *sandbox.Live) { l.ParentStart++ })
			return p
		},
		"other launch": func() string {
			p, _ := r.container("r4", g)
			edit(p, func(l *sandbox.Live) { l.Launch = "x" })
			return p
		},
		"other container": func() string {
			p, _ := r.container("r5", g)
			edit(p, func(l *sandbox.Live) { l.ContainerID = strings.Repeat("cd", 32) })
			return p
		},
		"reused init": func() string {
			p, _ := r.container("r6", g)
			edit(p, func(l *sandbox.Live) { l.InitStart++ })
			return p
		},
		"ended init": func() string { p, i := r.container("r7", g); i.Process.Kill(); i.Wait(); return p },
		"symlink": func() string {
			p, _ := r.container("r8", g)
			os.Rename(p, p+"x")
			os.Symlink(p+"x", p)
			return p
		},
		"symlinked directory": func() string {
			p, _ := r.container("r9", g)
			d := filepath.Dir(p)
			os.Rename(d, d+"x")
			os.Symlink(d+"x", d)
			return p
		},
		"writable by others": func() string { p, _ := r.container("r10", g); os.Chmod(p, 0o666); return p },
		"outside":            func() string { return "/etc/passwd" },
		"dot dot":            func() string { p, _ := r.container("r11", g); return filepath.Dir(p) + "/../r11/sandbox.json" },
		"moved copy": func() string {
			p, _ := r.container("r12", g)
			data, _ := os.ReadFile(p)
			q := r.sandboxFile("r13")
			os.WriteFile(q, data, 0o600)
			return q
		},
		"empty": func() string { return "" },
		"fifo": func() string {
			p, _ := r.container("r14", g)
			os.Remove(p)
			syscall.Mkfifo(p, 0o600)
			return p
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), make())
			if !errors.Is(err, keyholder.ErrRefused) {
				t.Errorf("%v", err)
			}
			if conn != nil {
				conn.Close()
			}
		})
	}
	path, _ := r.container("good", g)
	conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

// TestPeersInNamespaces connects from where containers are. All have the operator's uid in the
// kernel's eyes. What podman's own namespace may do is tested with podman, in test/vault.
func TestPeersInNamespaces(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	r.put(r.unlock(), "shared", "anthropic", secret)
	path, _ := r.container("t1", grant("anthropic", "shared"))
	uid := os.Getuid()
	for _, tt := range []struct {
		name   string
		inside int
		flags  uintptr
		want   string
	}{
		{"keep-id container", 1000, syscall.CLONE_NEWUSER, "went away"},
		{"keep-id container with its own pids", 1000, syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID, "went away"},
		{"container in podman's namespace", 0, syscall.CLONE_NEWUSER | syscall.CLONE_NEWPID, "went away"},
		{"a sandbox of the operator's", 0, syscall.CLONE_NEWUSER, "went away"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), asPeer+"="+r.roots.KeyholderSocket(), asPeer+"_SANDBOX="+path)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: tt.flags,
				UidMappings: []syscall.SysProcIDMap{{ContainerID: tt.inside, HostID: uid, Size: 1}},
				GidMappings: []syscall.SysProcIDMap{{ContainerID: tt.inside, HostID: os.Getgid(), Size: 1}}}
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			status, attach, _ := strings.Cut(string(out), "\n")
			if !strings.Contains(status, tt.want) || strings.Contains(attach, "<nil>") {
				t.Errorf("%s", out)
			}
		})
	}
}

func TestHostileMessages(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	for _, msg := range []string{"", "x", "{}", `{"v":2,"id":1,"op":"status"}`, `{"v":1,"id":0,"op":"status"}`, `{"v":1,"id":1,"op":"status","x":1}`,
		`{"v":1,"id":1,"op":"status"}{}`, `{"v":1,"id":1,"op":"nonsense"}`, `{"v":1,"id":1,"op":"credential","provider":"anthropic"}`, strings.Repeat("a", keyholder.MaxMessage+10)} {
		conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: r.roots.KeyholderSocket(), Net: "unixpacket"})
		if err != nil {
			t.Fatal(err)
		}
		conn.Write([]byte(msg))
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		buf := make([]byte, keyholder.MaxMessage)
		n, err := conn.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) || n > 0 && !strings.Contains(string(buf[:n]), `"code"`) {
			t.Errorf("%.40q: %q %v", msg, buf[:n], err)
		}
		conn.Close()
	}
	if _, err := r.client().Status(r.ctx); err != nil {
		t.Error(err)
	}
}

func TestReasonsToEnd(t *testing.T) {
	t.Run("idle and locked", func(t *testing.T) {
		r := newRig(t)
		if err := r.end(r.serve(Config{Idle: time.Millisecond})); err != nil {
			t.Error(err)
		}
	})
	t.Run("not while unlocked", func(t *testing.T) {
		r := newRig(t)
		ended := r.serve(Config{Idle: 2 * time.Second})
		r.unlock()
		select {
		case err := <-ended:
			t.Error("ended while unlocked", err)
		case <-time.After(2500 * time.Millisecond):
		}
	})
	t.Run("logout", func(t *testing.T) {
		r := newRig(t)
		ended := r.serve(Config{})
		r.unlock()
		os.RemoveAll(r.roots.Runtime)
		if err := r.end(ended); err != nil {
			t.Error(err)
		}
	})
	t.Run("panic", func(t *testing.T) {
		r := newRig(t)
		ended := r.serve(Config{})
		r.unlock()
		if err := state.WriteFile(r.roots.PanicLock(), nil); err != nil {
			t.Fatal(err)
		}
		if err := r.end(ended); err != nil {
			t.Error(err)
		}
		if err := Run(r.ctx, Config{Roots: r.roots}, nil); problem.Of(err).Code != "panic" {
			t.Error("started while the panic lock stands", err)
		}
	})
	t.Run("second one", func(t *testing.T) {
		r := newRig(t)
		r.serve(Config{})
		if err := Run(r.ctx, Config{Roots: r.roots}, nil); !errors.Is(err, ErrRunning) {
			t.Error(err)
		}
	})
}

// TestProcess drives real keyholder processes: hardening, two starts at once, kill -9, lock and
// unlock under a supervisor that keeps its connection.
func TestProcess(t *testing.T) {
	r := newRig(t)
	start := func() {
		t.Helper()
		if err := Start(r.ctx, os.Args[0], r.roots, Guard{}); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { Kill(r.roots) })
	var starts sync.WaitGroup
	for range 6 { // all at once: one wins, nobody fails
		starts.Go(func() {
			if err := Start(r.ctx, os.Args[0], r.roots, Guard{}); err != nil {
				t.Error(err)
			}
		})
	}
	starts.Wait()
	c := r.unlock()
	st, err := c.Status(r.ctx)
	if err != nil {
		t.Fatal(err)
	}
	proc := fmt.Sprintf("/proc/%d/", st.PID)
	status, err := os.ReadFile(proc + "status")
	if err != nil || !strings.Contains(string(status), "NoNewPrivs:\t1\n") {
		t.Error("new privileges possible", err)
	}
	limits, _ := os.ReadFile(proc + "limits")
	if f := strings.Fields(string(limits[strings.Index(string(limits), "Max core file size"):])); f[4] != "0" || f[5] != "0" {
		t.Error("core files possible", f[:6])
	}
	if os.Getuid() != 0 { // root may look at everything
		if _, err := os.ReadFile(proc + "environ"); err == nil {
			t.Error("the keyholder is dumpable")
		}
	}
	cmdline, _ := os.ReadFile(proc + "cmdline")
	if strings.Contains(string(cmdline), pass) {
		t.Error("the passphrase is in the arguments")
	}
	r.put(c, "shared", "anthropic", secret)

	path, _ := r.container("t1", grant("anthropic", "shared"))
	s := keyholder.NewSession(nil)
	defer s.Close()
	if _, err := s.Credential(r.ctx, "anthropic"); !errors.Is(err, keyholder.ErrLocked) {
		t.Error(err)
	}
	keeping, stop := context.WithCancel(r.ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { keyholder.Keep(keeping, r.roots.KeyholderSocket(), path, s.Attach) })
	defer keeper.Wait()
	defer stop()
	served := func() bool {
		got, err := s.Credential(r.ctx, "anthropic")
		return err == nil && string(got.Value) == secret
	}
	locked := func() bool {
		_, err := s.Credential(r.ctx, "anthropic")
		return errors.Is(err, keyholder.ErrLocked)
	}
	r.eventually("served", served)
	if err := c.Lock(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.eventually("locked", locked)
	start() // at once, while the old one may still be ending
	if !locked() {
		t.Error("served by a locked keyholder")
	}
	r.unlock()
	r.eventually("served after unlock", served)

	if killed, err := Kill(r.roots); err != nil || !killed {
		t.Fatal(killed, err)
	}
	r.eventually("locked after kill -9", locked)
	start()
	r.unlock()
	r.eventually("served after kill -9", served)
	if err := r.unlock().Lock(r.ctx); err != nil {
		t.Fatal(err)
	}
	r.eventually("gone", func() bool { killed, _ := Kill(r.roots); return !killed })
}

func TestSessionSurvivesAWorker(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	r.put(r.unlock(), "shared", "anthropic", secret)
	path, _ := r.container("t1", grant("anthropic", "shared"))
	conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := conn.File() // what the parent keeps
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	// A worker that dies with a question on its way.
	fmt.Fprint(conn, `{"v":1,"id":99,"op":"credential","provider":"anthropic"}`)
	conn.Close()
	next, err := net.FileConn(f)
	if err != nil {
		t.Fatal(err)
	}
	s := keyholder.NewSession(next.(*net.UnixConn))
	defer s.Close()
	if got, err := s.Credential(r.ctx, "anthropic"); err != nil || string(got.Value) != secret {
		t.Error(got, err)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":1,"op":"unlock","passphrase":"cGFzcw=="}`))
	f.Add([]byte(`{"v":1,"id":2,"op":"attach","sandbox":"/x/sandbox.json"}`))
	f.Add([]byte(`{"v":1,"id":18446744073709551615,"op":"put","secret":"AAAA","scope":"shared"}`))
	f.Fuzz(func(t *testing.T, msg []byte) {
		req, err := keyholder.DecodeRequest(msg)
		if err != nil {
			if req.ID != 0 || req.Passphrase != nil || req.Secret != nil {
				t.Fatal("a refused message left something behind")
			}
			return
		}
		if req.V != 1 || req.ID == 0 || req.Op == "" {
			t.Fatalf("accepted %+v", req)
		}
	})
}
