package launch

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/sandbox/landlock"
	"terok/internal/shield/policy"
	"terok/internal/state"
	"terok/internal/text"
)

// Launcher starts containers below one tree of state.
type Launcher struct {
	Roots   state.Roots
	Self    string // absolute path of the terok program
	Podman  *podman.Runner
	Environ func(string) string
	Now     func() time.Time
}

// Run starts a container detached and returns once its supervisor serves. A refused start is a
// Problem "start_refused" (exit 1) with the reason of hook or supervisor; nothing is left of it
// but the task directory's logs.
func (l *Launcher) Run(ctx context.Context, s Spec) (*Container, error) {
	p, done, err := l.plan(ctx, s)
	if err != nil {
		return nil, err
	}
	defer done()
	p.detach = true
	id, err := l.Podman.Run(ctx, p.argv())
	if err != nil {
		return nil, l.failed(ctx, p, err)
	}
	return p.container(id), nil
}

// Stdio is the terminal or the pipes of an attached run.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// RunAttached starts a container in the foreground with the caller's stdio and returns the
// command's exit code when it ends. Signals go to podman, which passes them on.
func (l *Launcher) RunAttached(ctx context.Context, s Spec, io Stdio) (int, error) {
	p, done, err := l.plan(ctx, s)
	if err != nil {
		return 0, err
	}
	defer done()
	cmd, err := l.Podman.Command(context.WithoutCancel(ctx), append([]string{"run"}, p.argv()...)...)
	if err != nil {
		return 0, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = io.In, io.Out, io.Err
	if !s.Stdin {
		cmd.Stdin = nil
	}
	if err := cmd.Start(); err != nil {
		return 0, problem.New("runtime_unavailable", problem.Runtime, "podman cannot be started: %w", err)
	}
	// Ctrl-C reaches podman by itself, since it shares our process group; a SIGTERM to us does not.
	stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer stop()
	err = cmd.Wait()
	code := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if code = exit.ExitCode(); code < 0 {
			code = problem.Terminated
		}
	} else if err != nil {
		return 0, err
	}
	// 125 to 127 are podman's own codes and a command's: a reason left behind tells them apart.
	if code >= 125 && code <= 127 && p.refusal() != "" {
		return code, l.failed(ctx, p, err)
	}
	return code, nil
}

// plan prepares everything up to podman's arguments. done ends the launch's record of being
// under way.
func (l *Launcher) plan(ctx context.Context, s Spec) (p *plan, done func(), err error) {
	if _, err := os.Lstat(l.Roots.PanicLock()); !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, problem.New("panic_locked", problem.Conflict, "terok is locked after a panic").WithHint("terok panic --clear")
	}
	if err := l.defaults(&s); err != nil {
		return nil, nil, err
	}
	if err := landlock.Missing(landlock.ABI()); err != nil && !s.WithoutLandlock {
		return nil, nil, problem.New("landlock_missing", problem.Runtime, "%w", err).WithHint("%s", landlock.Cure)
	}
	p = &plan{spec: s, hostname: hostname(s.Key)}
	if err := l.checkMounts(p); err != nil {
		return nil, nil, err
	}
	if p.caps, err = l.Podman.Ready(ctx, l.Roots.HooksDir()); err != nil {
		return nil, nil, err
	}
	if err := l.sweep(ctx); err != nil {
		return nil, nil, err
	}
	if p.image, err = l.imageID(ctx, p.caps, s.Image); err != nil {
		return nil, nil, err
	}
	if err := l.write(p); err != nil {
		return nil, nil, err
	}
	done, err = l.begin(p)
	return p, done, err
}

func (l *Launcher) defaults(s *Spec) error {
	if s.Key == "" || s.Name == "" || s.Image == "" || len(s.Argv) == 0 || !filepath.IsAbs(s.Dir) {
		return errors.New("launch: key, name, directory, image and command are needed")
	}
	if s.Mode == "" {
		s.Mode = ModeCommand
	}
	if s.Launch == "" {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		s.Launch = hex.EncodeToString(b[:])
	}
	switch s.Privilege {
	case "":
		s.Privilege = Sudo
	case Sudo, None:
	default:
		return problem.New("privilege_unknown", problem.Usage, "privilege %q is not sudo or none", s.Privilege)
	}
	if s.StopTimeout == 0 {
		s.StopTimeout = stopTimeout
	}
	if s.PidsLimit == 0 {
		s.PidsLimit = pidsLimit
	}
	if s.ShmSize == "" {
		s.ShmSize = shmSize
	}
	return checkPlainPath(s.Dir)
}

func (l *Launcher) checkMounts(p *plan) error {
	home := userHome(l.Environ)
	for _, m := range p.spec.Mounts {
		m, err := checkMount(m, l.Roots, home)
		if err != nil {
			return err
		}
		p.mounts = append(p.mounts, m)
	}
	for _, m := range p.spec.Trusted {
		if strings.ContainsRune(m.Source+m.Target, ':') {
			return fmt.Errorf("mount %s: podman cannot take a colon in a path", m.Source)
		}
		p.mounts = append(p.mounts, m)
	}
	return nil
}

// write makes every file of the launch.
func (l *Launcher) write(p *plan) error {
	s := &p.spec
	if err := state.MkdirAll(s.Dir); err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(s.Dir) // the hook refuses surprises on the way
	if err != nil {
		return err
	}
	f := sandbox.File{Schema: sandbox.Schema, Key: s.Key, Name: s.Name, Project: s.Project, Task: s.Task, Mode: s.Mode,
		Launch: s.Launch, Dir: dir, RuntimeDir: l.Roots.RunDir(s.Key), CIDFile: filepath.Join(dir, "container.id"),
		StartError: filepath.Join(dir, "start-error"), PanicLock: l.Roots.PanicLock(), Keyholder: l.Roots.KeyholderSocket(),
		Start: s.Start, Gate: s.Gate, Vault: s.Vault, SSH: s.SSH, SigningKey: make([]byte, 32), SealingKey: make([]byte, 32),
		AuditRequired: s.AuditRequired, WithoutLandlock: s.WithoutLandlock}
	_, _ = rand.Read(f.SigningKey) // never fails
	_, _ = rand.Read(f.SealingKey)
	if s.Privilege == Sudo {
		f.Bounding = bounding
	} else {
		f.Bounding, f.NoNewPrivs = []string{}, true
	}
	if p.seccomp, f.SeccompSHA256, err = writeProfile(l.Roots); err != nil {
		return err
	}
	if p.guest, f.GuestSHA256, err = guestBinary(l.Roots, l.Self); err != nil {
		return err
	}
	if err := writeHook(l.Roots.HooksDir(), l.Self); err != nil {
		return err
	}
	if err := removeAll(f.CIDFile, f.StartError); err != nil {
		return err
	}
	p.resolv = filepath.Join(dir, "resolv.conf")
	if old, err := os.ReadFile(p.resolv); err != nil || !bytes.Equal(old, resolver()) {
		if err := os.WriteFile(p.resolv, resolver(), 0o600); err != nil { // one constant: need not be synced
			return err
		}
	}
	if err := os.Chmod(p.resolv, 0o644); err != nil {
		return err
	}
	doc, err := policy.EncodeDocument(s.Policy)
	if err != nil {
		return problem.New("policy_invalid", problem.Usage, "%w", err)
	}
	if err := writeIfDifferent(sandbox.PolicyPath(dir), doc); err != nil {
		return err
	}
	for _, path := range []string{f.RuntimeDir, filepath.Dir(sandbox.LedgerPath(dir))} {
		if err := state.MkdirAll(path); err != nil {
			return err
		}
	}
	p.file = f
	return state.WriteJSON(sandbox.Path(dir), &f)
}

func (p *plan) container(id string) *Container {
	return &Container{ID: id, Name: p.file.Name, Key: p.file.Key, Launch: p.file.Launch, ImageID: p.image, Dir: p.file.Dir}
}

// refusal is the reason that hook or supervisor left, "" for none.
func (p *plan) refusal() string {
	data, err := os.ReadFile(p.file.StartError)
	if err != nil {
		return ""
	}
	return text.Line(strings.TrimSpace(string(data)), 1000)
}

// failed turns podman's failure into what a person needs and removes the container that a refused
// start leaves in state "created".
func (l *Launcher) failed(ctx context.Context, p *plan, err error) error {
	ctx = context.WithoutCancel(ctx) // Ctrl-C must not leave it behind
	reason := p.refusal()
	exit, exited := errors.AsType[*podman.ExitError](err)
	if reason == "" && exited && strings.Contains(exit.Stderr, "already in use") {
		return problem.New("name_taken", problem.Conflict, "a container %q exists already", p.file.Name).
			WithHint("terok sandbox rm %s", p.file.Key)
	}
	if e := l.removeLaunch(ctx, p.file.Launch); e != nil {
		err = errors.Join(err, e)
	}
	if reason != "" {
		return problem.New("start_refused", problem.Failed, "the container was not started: %s", reason).
			WithHint("%s has the supervisor's log", sandbox.LogPath(p.file.Dir))
	}
	if errors.Is(err, context.Canceled) {
		return err
	}
	return problem.New("start_failed", problem.Runtime, "the container was not started: %w", err)
}

// removeLaunch removes what a launch left in podman.
func (l *Launcher) removeLaunch(ctx context.Context, launch string) error {
	found, err := l.Podman.PS(ctx, sandbox.LabelLaunch+"="+launch)
	if err != nil {
		return err
	}
	for _, c := range found {
		if c.Running() {
			continue // it started after all; it is found by its name
		}
		if err := l.Podman.Remove(ctx, c.ID); err != nil {
			return err
		}
	}
	return nil
}

func shortSum(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:4])
}
