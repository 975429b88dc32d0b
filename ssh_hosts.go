package terok

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/sandbox"
	"terok/internal/shield/policy"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/ssh"
)

// SSHHosts lists the pinned host keys, those that terok ships for large forges among them.
func (a *App) SSHHosts(ctx context.Context) ([]SSHHost, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	list, err := c.SSHHosts(ctx)
	if err != nil {
		return nil, a.vaultProblem(err)
	}
	for _, s := range ssh.Forges() {
		if slices.ContainsFunc(list, func(h SSHHost) bool { return h.Host == s.Host && h.Port == s.Port }) {
			continue
		}
		for _, p := range ssh.BuiltinPins(s) {
			list = append(list, SSHHost{Host: p.Host, Port: p.Port, Type: p.Type, Key: p.Key, Source: p.Source})
		}
	}
	return list, nil
}

// SSHTrust pins the host keys of a server. They are what it shows now; confirm gets their
// fingerprints before anything is stored. With fingerprint ("SHA256:…") only the key that has it
// is pinned and nobody is asked. A server whose pinned key is another one is the Problem
// host_key_changed: nothing is replaced silently.
func (a *App) SSHTrust(ctx context.Context, text, fingerprint string, confirm func(question string) (bool, error)) ([]SSHHost, error) {
	server, err := ssh.ParseServer(text)
	if err != nil {
		return nil, problem.New("usage", problem.Usage, "%w", err).WithHint("terok ssh trust git.example.org:2222")
	}
	address := ""
	if server.Host == policy.HostName { // what containers call a port of this machine's loopback
		address = net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port))
	}
	pins, err := ssh.Scan(ctx, server, address)
	if err != nil {
		return nil, problem.New("host_unreachable", problem.Failed, "%w", err)
	}
	if fingerprint != "" {
		shown := pins
		if pins = slices.DeleteFunc(slices.Clone(pins), func(p ssh.HostPin) bool { return ssh.FingerprintOf(p.Key) != fingerprint }); len(pins) == 0 {
			return nil, problem.New("host_key_changed", problem.Failed, "%s shows no host key %s; it shows %s", server, fingerprint, fingerprints(shown))
		}
	}
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	known, err := c.SSHHosts(ctx)
	if err != nil {
		return nil, a.vaultProblem(err)
	}
	for _, p := range pins {
		if err := unchanged(server, p, known); err != nil {
			return nil, err
		}
	}
	if fingerprint == "" {
		if confirm == nil {
			return nil, problem.New("needs_answer", problem.Declined, "%s shows %s; nobody can say whether that is right", server, fingerprints(pins)).
				WithHint("terok ssh trust %s --fingerprint %s", server, ssh.FingerprintOf(pins[0].Key))
		}
		ok, err := confirm(fmt.Sprintf("%s shows %s. Is that what its operator publishes?", server, fingerprints(pins)))
		if err != nil || !ok {
			return nil, declined(err, "nothing was pinned")
		}
	}
	var out []SSHHost
	for _, p := range pins {
		h := SSHHost{Host: server.Host, Port: server.Port, Type: p.Type, Key: p.Key, Source: "user"}
		if _, err := c.SSH(ctx, keyholder.SSHRequest{Do: keyholder.SSHPin, Host: &h}); err != nil {
			return nil, a.vaultProblem(err)
		}
		out = append(out, h)
	}
	a.note("ssh_host_pinned", map[string]string{"host": server.String(), "keys": fingerprints(pins)})
	return out, nil
}

func declined(err error, what string) error {
	if err != nil {
		return err
	}
	return problem.New("declined", problem.Declined, "%s", what)
}

// unchanged refuses a host key that differs from the pinned one of its type.
func unchanged(server ssh.Server, p ssh.HostPin, known []SSHHost) error {
	for _, h := range known {
		if h.Host == server.Host && h.Port == server.Port && h.Type == p.Type && ssh.FingerprintOf(h.Key) != ssh.FingerprintOf(p.Key) {
			return problem.New("host_key_changed", problem.Failed, "the host key of %s is %s now, %s is pinned: it was replaced, or somebody is in between",
				server, ssh.FingerprintOf(p.Key), ssh.FingerprintOf(h.Key)).WithHint("ask its operator; then: terok ssh untrust %s && terok ssh trust %s", server, server)
		}
	}
	return nil
}

func fingerprints(pins []ssh.HostPin) string {
	var list []string
	for _, p := range pins {
		list = append(list, strings.TrimPrefix(p.Type, "ssh-")+" "+ssh.FingerprintOf(p.Key))
	}
	return strings.Join(list, ", ")
}

// SSHUntrust forgets the pinned host keys of a server.
func (a *App) SSHUntrust(ctx context.Context, text string) error {
	server, err := ssh.ParseServer(text)
	if err != nil {
		return problem.New("usage", problem.Usage, "%w", err)
	}
	c, err := a.operator(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.SSH(ctx, keyholder.SSHRequest{Do: keyholder.SSHUnpin, Host: &SSHHost{Host: server.Host, Port: server.Port}}); err != nil {
		return a.vaultProblem(err)
	}
	a.note("ssh_host_unpinned", map[string]string{"host": server.String()})
	return nil
}

// addSSH gives the container an SSH agent with the project's keys, where the project says so
// (ssh.in_container). The keys stay in the keyholder.
func (a *App) addSSH(ctx context.Context, p *project.Project, start *sandbox.Start) (*sandbox.SSH, error) {
	if !p.SSH.InContainer {
		return nil, nil
	}
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	hosts, err := knownHosts(ctx, c)
	if err != nil {
		return nil, a.vaultProblem(err)
	}
	grant := &sandbox.SSH{Unbound: !p.SSH.RequireSessionBind}
	grant.Servers, grant.Users = sshServers(p)
	start.SSHAgent = true
	start.Files = append(start.Files, sandbox.StartFile{Path: sandbox.SSHHosts, Mode: 0o444, Content: hosts})
	start.Env["SSH_AUTH_SOCK"] = sandbox.SSHAgentSock
	if _, own := start.Env["GIT_SSH_COMMAND"]; !own {
		start.Env["GIT_SSH_COMMAND"] = "ssh -o UserKnownHostsFile=" + sandbox.SSHHosts + " -o StrictHostKeyChecking=yes -o BatchMode=yes"
	}
	return grant, nil
}
