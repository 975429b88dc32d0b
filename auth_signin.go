package terok

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/config"
	"terok/internal/launch"
	"terok/internal/peer"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/state"
	"terok/internal/vault/oauth"
)

// signInWithin bounds a sign-in in a container.
const signInWithin = 15 * time.Minute

const killed = 137 // exit code of a program that SIGKILL ended

// AuthSignIn signs in with the vendor's own program, in a container of its own: it reaches the
// provider's hosts for signing in and nothing else, mounts nothing of any project, and ends after
// 15 minutes. What the program writes down is captured from memory (tmpfs) as soon as it is
// complete, also when the program is ended then; the directory and the container are removed in
// every case. Problems: not_captured (1) when the program ended without a sign-in, cancelled (9)
// when it was ended before.
func (a *App) AuthSignIn(ctx context.Context, req AuthRequest, device bool, io launch.Stdio) (*AuthResult, error) {
	set, p, err := a.authProvider(req.Name)
	if err != nil {
		return nil, err
	}
	s := p.SignIn
	if s == nil {
		return nil, problem.New("no_sign_in", problem.Usage, "%s has no sign-in that terok knows; give it a key", p.Title).WithHint("terok auth %s --api-key-stdin", p.Name)
	}
	if err := a.VaultNeed(ctx); err != nil {
		return nil, err
	}
	if err := a.sweepSignIns(ctx); err != nil {
		return nil, err
	}
	capture, err := a.captureDir()
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(capture)
	got, err := a.signIn(ctx, set, p, capture, device, io)
	if err != nil {
		return nil, err
	}
	return a.authStore(context.WithoutCancel(ctx), req, p, got)
}

// signIn runs the vendor's program and returns what it wrote.
func (a *App) signIn(ctx context.Context, set *roster.Roster, p *roster.Provider, capture string, device bool, io launch.Stdio) (*oauth.Captured, error) {
	spec, err := a.signInSpec(ctx, set, p, capture, device)
	if err != nil {
		return nil, err
	}
	spec.TTY, spec.Stdin = io.In != nil, io.In != nil
	defer func() {
		clean := context.WithoutCancel(ctx)
		_ = podman.New(a.Roots, a.Environ).Remove(clean, spec.Name)
		_ = a.removeSandboxFiles(spec.Key)
	}()
	if p.SignIn.Hint != "" {
		a.say("%s", p.SignIn.Hint)
	}
	run, cancel := context.WithTimeout(ctx, signInWithin)
	defer cancel()
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		a.watchCapture(run, p, capture)
	}()
	code, err := a.launcher().RunAttached(run, spec, io)
	late := run.Err()
	cancel()
	<-watched
	got, cerr := captured(p, capture)
	switch {
	case cerr == nil:
		return got, nil // also when the program failed, or was ended, after it had written it
	case err != nil:
		return nil, err
	case errors.Is(late, context.DeadlineExceeded):
		return nil, problem.New("cancelled", problem.Declined, "nobody signed in within %s; nothing was stored", signInWithin)
	}
	if drift, ok := errors.AsType[*oauth.Drift](cerr); ok {
		return nil, problem.New("not_captured", problem.Failed, "%w", drift).WithHint("terok auth %s --api-key-stdin", p.Name)
	}
	if late != nil || code == problem.Interrupted || code == problem.Terminated || code == killed {
		return nil, problem.New("cancelled", problem.Declined, "the sign-in was ended before it was complete; nothing was stored")
	}
	return nil, problem.New("not_captured", problem.Failed, "the program ended without a sign-in; nothing was stored").WithHint("terok auth %s", p.Name)
}

// signInSpec is the container of a sign-in.
func (a *App) signInSpec(ctx context.Context, set *roster.Roster, p *roster.Provider, capture string, device bool) (launch.Spec, error) {
	s := p.SignIn
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return launch.Spec{}, err
	}
	agent := &roster.Agent{Name: "sign-in", Command: s.Command[0]}
	if s.Agent != "" {
		if agent, err = set.Agent(s.Agent); err != nil {
			return launch.Spec{}, err
		}
	}
	imageID, bundles, err := a.ensureImage(ctx, global.Image.Base, agent)
	if err != nil {
		return launch.Spec{}, err
	}
	command := s.Command
	if device && len(s.Device) > 0 {
		command = s.Device
	}
	argv := command
	env := map[string]string{}
	if s.Agent != "" {
		program, first, err := agent.Program()
		if err != nil {
			return launch.Spec{}, err
		}
		argv = slices.Concat([]string{program}, first, command)
		for k, v := range agent.Spec.Env {
			env[k] = v
		}
	}
	doc := policy.Document{Settings: settings(global)}
	doc.Settings.Ask = false // nobody is asked: a program that signs in needs what is listed
	for _, host := range s.Hosts {
		r, err := sandboxRule("+", host)
		if err != nil {
			return launch.Spec{}, err
		}
		doc.Rules = append(doc.Rules, r)
	}
	name := "auth-" + strings.ToLower(rand.Text()[:10])
	spec := launch.Spec{Key: name, Name: "terok-" + name, Mode: launch.ModeAuth, Dir: a.Roots.SandboxDir(name), Image: imageID, Argv: argv, Remove: true,
		Command: "terok auth " + p.Name, Privilege: launch.None, Policy: doc, Start: sandbox.Start{Env: env}}
	limits(&spec, global.Run)
	spec.Privilege = launch.None
	a.confinement(&spec, global)
	spec.Trusted = append(spec.Trusted, launch.Mount{Source: capture, Target: path.Join("/home/dev", path.Dir(s.File)), NoExec: true})
	for _, b := range bundles {
		spec.Trusted = append(spec.Trusted, launch.Mount{Source: b.Dir, Target: sandbox.BundleMount + "/" + b.Agent, ReadOnly: true})
	}
	return spec, nil
}

// watchCapture says when the sign-in is complete.
func (a *App) watchCapture(ctx context.Context, p *roster.Provider, capture string) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if got, err := captured(p, capture); err == nil {
			got.Token.Wipe()
			fmt.Fprintf(a.Progress, "\r\nterok: the sign-in is complete; you can leave the program now\r\n")
			return
		}
	}
}

// captured reads what the program has written.
func captured(p *roster.Provider, capture string) (*oauth.Captured, error) {
	data, err := oauth.ReadCapture(capture, path.Base(p.SignIn.File))
	if err != nil {
		return nil, err
	}
	defer clear(data)
	return oauth.Parse(p.SignIn.Format, p.SignIn.Name, data)
}

func (a *App) capturesDir() string { return filepath.Join(a.Roots.Runtime, "auth") }

// captureDir makes the directory that the program writes to. It is in memory: what lies on a disk
// for a moment can be found there later.
func (a *App) captureDir() (string, error) {
	if err := state.MkdirAll(a.capturesDir()); err != nil {
		return "", err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(a.capturesDir(), &st); err != nil {
		return "", err
	}
	if st.Type != unix.TMPFS_MAGIC && st.Type != unix.RAMFS_MAGIC {
		disk := problem.New("not_in_memory", problem.Manual, "%s lies on a disk, where a sign-in that was there for a moment can be found later", a.capturesDir()).
			WithHint("set XDG_RUNTIME_DIR to a directory in memory, as a login session has it")
		if a.Confirm == nil {
			return "", disk
		}
		if ok, err := a.Confirm(disk.Message + ". Use it all the same?"); err != nil || !ok {
			return "", errors.Join(err, disk)
		}
	}
	start, err := peer.StartTime(os.Getpid())
	if err != nil {
		return "", err
	}
	dir := filepath.Join(a.capturesDir(), fmt.Sprintf("%s.%d.%d", rand.Text()[:10], os.Getpid(), start))
	return dir, os.Mkdir(dir, 0o700)
}

// sweepSignIns removes what sign-ins left whose process was killed: directories and containers.
func (a *App) sweepSignIns(ctx context.Context) error {
	entries, err := os.ReadDir(a.capturesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	alive := false
	for _, e := range entries {
		var pid int
		var start uint64
		_, owner, _ := strings.Cut(e.Name(), ".")
		if n, _ := fmt.Sscanf(owner, "%d.%d", &pid, &start); n == 2 {
			if now, err := peer.StartTime(pid); err == nil && now == start {
				alive = true
				continue
			}
		}
		if err := os.RemoveAll(filepath.Join(a.capturesDir(), e.Name())); err != nil {
			return err
		}
	}
	if alive {
		return nil // whose container is whose is not told apart
	}
	p := podman.New(a.Roots, a.Environ)
	found, err := p.PS(ctx, sandbox.LabelManaged+"=1", sandbox.LabelMode+"="+launch.ModeAuth)
	if err != nil {
		return err
	}
	ours, err := filepath.EvalSymlinks(a.Roots.SandboxesDir())
	if err != nil {
		return nil // no container of this tree
	}
	for _, c := range found {
		if filepath.Dir(c.Labels[sandbox.LabelDir]) != ours {
			continue
		}
		if err := errors.Join(p.Remove(ctx, c.ID), a.removeSandboxFiles(c.Labels[sandbox.LabelName])); err != nil {
			return err
		}
	}
	return nil
}

// AuthImport stores the sign-in of a vendor's own file. The caller has been told that the program
// which wrote it and terok would renew the same sign-in, and so end it for one another.
func (a *App) AuthImport(ctx context.Context, req AuthRequest, file string) (*AuthResult, error) {
	_, p, err := a.authProvider(req.Name)
	if err != nil {
		return nil, err
	}
	if p.SignIn == nil {
		return nil, problem.New("no_sign_in", problem.Usage, "%s has no file of sign-ins that terok knows", p.Title).WithHint("terok auth %s --api-key-stdin", p.Name)
	}
	data, err := readShort(file, oauth.MaxCapture)
	if err != nil {
		return nil, problem.New("usage", problem.Usage, "%w", err)
	}
	defer clear(data)
	got, err := oauth.Parse(p.SignIn.Format, p.SignIn.Name, data)
	if err != nil {
		return nil, problem.New("not_captured", problem.Failed, "%s: %w", file, err)
	}
	return a.authStore(ctx, req, p, got)
}

// AuthDevice signs in without any vendor's program: the code that it shows is typed in a browser
// anywhere (RFC 8628). It needs a client id in the provider's file.
func (a *App) AuthDevice(ctx context.Context, req AuthRequest, show func(code *oauth.Code)) (*AuthResult, error) {
	_, p, err := a.authProvider(req.Name)
	if err != nil {
		return nil, err
	}
	if !canDevice(p) {
		return nil, problem.New("no_client", problem.Usage, "a sign-in by terok itself needs the id of an OAuth application of yours at %s", p.Title).
			WithHint("oauth_refresh: {client_id: …} in %s", filepath.Join(a.Roots.ProvidersDir(), p.Name+".yml"))
	}
	if err := a.VaultNeed(ctx); err != nil {
		return nil, err
	}
	c := &oauth.Client{Now: a.Now}
	code, err := c.Device(ctx, *p.Refresh)
	if err != nil {
		return nil, problem.New("sign_in_failed", problem.Failed, "%w", err)
	}
	show(code)
	tok, err := c.Wait(ctx, *p.Refresh, code)
	return a.signedIn(ctx, req, p, tok, err)
}

// AuthBrowse signs in through a browser on this machine (PKCE, RFC 7636 and 8252).
func (a *App) AuthBrowse(ctx context.Context, req AuthRequest, show func(url string)) (*AuthResult, error) {
	_, p, err := a.authProvider(req.Name)
	if err != nil {
		return nil, err
	}
	if !canBrowse(p) {
		return nil, problem.New("no_client", problem.Usage, "a sign-in by terok itself needs the id of an OAuth application of yours at %s", p.Title)
	}
	if err := a.VaultNeed(ctx); err != nil {
		return nil, err
	}
	b, err := (&oauth.Client{Now: a.Now}).Browse(*p.Refresh)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	show(b.URL)
	tok, err := b.Wait(ctx)
	return a.signedIn(ctx, req, p, tok, err)
}

func canDevice(p *roster.Provider) bool {
	return p.Refresh != nil && p.Refresh.ClientID != "" && p.Refresh.DeviceURL != ""
}

func canBrowse(p *roster.Provider) bool {
	return p.Refresh != nil && p.Refresh.ClientID != "" && p.Refresh.AuthorizeURL != ""
}

func (a *App) signedIn(ctx context.Context, req AuthRequest, p *roster.Provider, tok *oauth.Token, err error) (*AuthResult, error) {
	switch {
	case errors.Is(err, context.Canceled):
		return nil, problem.New("cancelled", problem.Declined, "the sign-in was ended before it was complete; nothing was stored")
	case errors.Is(err, oauth.ErrDenied), errors.Is(err, oauth.ErrExpired):
		return nil, problem.New("cancelled", problem.Declined, "%w; nothing was stored", err).WithHint("terok auth %s", p.Name)
	case err != nil:
		return nil, problem.New("sign_in_failed", problem.Failed, "%w", err)
	}
	got := &oauth.Captured{Kind: oauth.KindOAuth, Token: *tok, Public: map[string]string{"scopes": strings.Join(tok.Scopes, " ")}}
	return a.authStore(ctx, req, p, got)
}

// readShort reads a file that a person names, and one byte more than limit of a longer one.
func readShort(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit+1))
}
