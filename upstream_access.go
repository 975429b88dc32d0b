package terok

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"terok/internal/child"
	"terok/internal/config"
	"terok/internal/gate/gitcred"
	"terok/internal/gate/store"
	"terok/internal/image"
	"terok/internal/peer"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/ssh"
)

// access is what git gets to reach a project's upstream: over ssh the project's key, which stays
// in the keyholder and signs a login at that host only; over https the token that the vault has
// for the forge at that host, if it has one. It ends with the command that needed it.
func (a *App) access(ctx context.Context, project string, up store.Upstream) (store.Access, error) {
	switch up.Protocol {
	case "ssh":
		return a.sshAccess(ctx, project, up)
	case "https":
		return a.httpsAccess(ctx, project, up)
	}
	return store.Access{}, nil
}

func (a *App) sshAccess(ctx context.Context, name string, up store.Upstream) (store.Access, error) {
	p, err := a.projects().Get(name)
	if err != nil {
		return store.Access{}, err
	}
	if p.SSH.UsePersonal || a.PersonalSSH {
		return store.Access{Env: a.sshEnv()}, nil
	}
	server, user, ok := ssh.ServerOfURL(up.URL)
	if !ok {
		return store.Access{}, problem.New("bad_upstream", problem.Usage, "no ssh server can be read from %s", up.URL)
	}
	c, err := a.operator(ctx)
	if err != nil {
		return store.Access{}, err
	}
	acc, err := a.serveKeys(ctx, c, p, server, user)
	if err != nil {
		c.Close()
	}
	return acc, err
}

// serveKeys makes the agent's socket and the known_hosts file of one command.
func (a *App) serveKeys(ctx context.Context, c *keyholder.Client, p *project.Project, server ssh.Server, user string) (store.Access, error) {
	keys, err := keysOf(ctx, c, p.Name)
	if err != nil {
		return store.Access{}, a.vaultProblem(err)
	}
	if len(keys) == 0 {
		return store.Access{}, problem.New("gate_auth_not_configured", problem.Locked, "project %s has no SSH key for %s", p.Name, server).
			WithHint("terok ssh add %s, and give the key to %s; or your own agent: --use-personal-ssh, for good ssh.use_personal: true in %s", p.Name, server.Host, p.File)
	}
	hosts, err := knownHosts(ctx, c)
	if err != nil {
		return store.Access{}, a.vaultProblem(err)
	}
	if !strings.Contains("\n"+hosts, "\n"+ssh.KnownName(server)+" ") {
		return store.Access{}, problem.New("host_key_unknown", problem.Manual, "no host key is pinned for %s", server).WithHint("terok ssh trust %s", server)
	}
	dir, err := state.TempDir(a.Roots.Runtime, "access-")
	if err != nil {
		return store.Access{}, err
	}
	known, socket := filepath.Join(dir, "known_hosts"), filepath.Join(dir, "agent.sock")
	if err := state.WriteFile(known, []byte(hosts)); err != nil {
		return store.Access{}, errors.Join(err, os.RemoveAll(dir))
	}
	ring := &keyholder.Ring{Client: c, Project: p.Name, Servers: []string{server.String()}}
	if user != "" {
		ring.Users = []string{user}
	}
	stop, err := serveSocket(ctx, socket, func(ctx context.Context, conn net.Conn) { ssh.ServeAgent(ctx, conn, ring) })
	if err != nil {
		return store.Access{}, errors.Join(err, os.RemoveAll(dir))
	}
	command := []string{"ssh", "-F", "/dev/null", "-oIdentityAgent=" + socket, "-oIdentityFile=none", "-oIdentitiesOnly=no", "-oBatchMode=yes",
		"-oPreferredAuthentications=publickey", "-oStrictHostKeyChecking=yes", "-oUserKnownHostsFile=" + known, "-oGlobalKnownHostsFile=/dev/null",
		"-oUpdateHostKeys=no", "-oClearAllForwardings=yes", "-oPermitLocalCommand=no", "-oConnectTimeout=15", "-oServerAliveInterval=15", "-oServerAliveCountMax=4"}
	for i := range command {
		command[i] = child.Quote(command[i]) // the runtime directory may have blanks in its name
	}
	return store.Access{Env: []string{"GIT_SSH_COMMAND=" + strings.Join(command, " ")}, Close: func() {
		stop()
		c.Close()
		_ = os.RemoveAll(dir)
	}}, nil
}

// httpsAccess answers git's question for a password with the vault's token for that forge. Without
// a token the upstream is asked as everybody asks it, also while the vault is locked: public
// repositories need none. The operator's own authorities are trusted besides those of the system.
func (a *App) httpsAccess(ctx context.Context, name string, up store.Upstream) (acc store.Access, err error) {
	u, err := url.Parse(up.URL)
	if err != nil {
		return acc, err
	}
	p, err := a.projects().Get(name)
	if err != nil {
		return acc, err
	}
	provider, token, err := a.upstreamToken(ctx, p, u, "")
	if err != nil {
		return acc, err
	}
	authorities, err := a.upstreamAuthorities(provider)
	if err != nil || len(token)+len(authorities) == 0 {
		return acc, err
	}
	dir, err := state.TempDir(a.Roots.Runtime, "access-")
	if err != nil {
		return acc, err
	}
	stop := func() {}
	acc.Close = func() {
		stop()
		clear(token)
		_ = os.RemoveAll(dir)
	}
	defer func() {
		if err != nil {
			acc.Close()
			acc = store.Access{}
		}
	}()
	if len(authorities) > 0 {
		bundle := filepath.Join(dir, "ca.pem")
		acc.Config, acc.Authorities = append(acc.Config, "http.sslCAInfo="+bundle), authorities
		if err := state.WriteFile(bundle, authorities); err != nil {
			return acc, err
		}
	}
	if len(token) > 0 {
		socket := filepath.Join(dir, "ask.sock")
		login := gitcred.Login{Protocol: u.Scheme, Host: u.Host, Username: gitcred.Username(provider.Forge), Password: token}
		acc.Login = login
		acc.Config = append(acc.Config, "credential."+u.Scheme+"://"+u.Host+".helper="+gitcred.Helper(a.Self, socket))
		end, err := serveSocket(ctx, socket, func(_ context.Context, conn net.Conn) { gitcred.Answer(conn, login) })
		if err != nil {
			return acc, err
		}
		stop = end
	}
	return acc, nil
}

// systemBundles are where distributions keep their certificates in one file.
var systemBundles = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem", "/etc/ssl/cert.pem"}

// upstreamAuthorities is the system's certificates with those that the operator named for all
// programs (image.ca_certificates) and for the forge (ca_file); empty where there are none of these.
func (a *App) upstreamAuthorities(provider *roster.Provider) ([]byte, error) {
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, err
	}
	files := slices.Clone(global.Image.CACertificates)
	if provider != nil && provider.Routes[0].CAFile != "" {
		files = append(files, provider.Routes[0].CAFile)
	}
	own, err := image.Authorities(files)
	if err != nil || len(own) == 0 {
		return nil, err
	}
	for _, path := range systemBundles {
		if system, err := os.ReadFile(path); err == nil {
			return append(append(own, '\n'), system...), nil
		}
	}
	return own, nil
}

// upstreamToken is what the vault has for the forge whose git server is at u, for this project; an
// empty token where there is no such forge, no token or no vault. A locked vault is said and is no
// error. The caller clears the token.
// A provider of one's own need not be a forge that terok knows: where apiHost is given, one that has a
// route to exactly that host is asked, since the host has its credential anyway.
func (a *App) upstreamToken(ctx context.Context, p *project.Project, u *url.URL, apiHost string) (*roster.Provider, []byte, error) {
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, nil, err
	}
	provider := forgeAt(set, u)
	if provider == nil && apiHost != "" {
		provider = providerOf(set, apiHost)
	}
	if provider == nil {
		return nil, nil, nil
	}
	st, err := a.VaultStatus(ctx)
	if err != nil || st.State == VaultUnprovisioned {
		return provider, nil, err
	}
	c, err := a.operator(ctx)
	if problem.Is(err, keyholder.CodeLocked) {
		a.say("note: the vault is locked; %s is asked without a token (terok vault unlock)", u.Host)
		return provider, nil, nil
	}
	if err != nil {
		return provider, nil, err
	}
	defer c.Close()
	token, err := c.UpstreamToken(ctx, p.Name, p.Scope(), provider.Name)
	if errors.Is(err, keyholder.ErrNoCredential) {
		return provider, nil, nil
	}
	return provider, token, a.vaultProblem(err)
}

// forgeAt finds the forge whose git server is at a URL: that of its API, or api.HOST.
func forgeAt(set *roster.Roster, u *url.URL) *roster.Provider {
	port := u.Port()
	for _, p := range set.Providers() {
		if p.Forge == "" {
			continue
		}
		for _, r := range p.Routes {
			if (r.Host == u.Hostname() || r.Host == "api."+u.Hostname()) && (port == "" && r.Port == 443 || port == strconv.Itoa(int(r.Port))) {
				return p
			}
		}
	}
	return nil
}

// providerOf finds who has a route to a host, by its name or by name and port.
func providerOf(set *roster.Roster, host string) *roster.Provider {
	for _, p := range set.Providers() {
		for _, r := range p.Routes {
			if r.Port == 443 && r.Host == host || net.JoinHostPort(r.Host, strconv.Itoa(int(r.Port))) == host {
				return p
			}
		}
	}
	return nil
}

// serveSocket answers clients of this user, from this side of every container, until stop is
// called, which waits for them.
func serveSocket(ctx context.Context, path string, serve func(context.Context, net.Conn)) (stop func(), err error) {
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				context.AfterFunc(ctx, func() { conn.Close() })
				p, err := peer.Of(conn.(*net.UnixConn))
				if err != nil {
					return
				}
				defer p.Close()
				if p.Kind != peer.Host {
					return
				}
				serve(ctx, conn)
			})
		}
	})
	return func() {
		l.Close()
		cancel()
		wg.Wait()
	}, nil
}
