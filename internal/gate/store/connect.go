package store

import (
	"context"
	"slices"
	"strings"
	"time"

	"terok/internal/gate/gitcred"
	"terok/internal/git"
	"terok/internal/shield/policy"
)

// Access is what reaching one upstream needs beyond its URL: a token, a key, an agent. Nothing of
// it may stand in Args, which every process of the machine can read.
type Access struct {
	Env    []string // e.g. GIT_SSH_COMMAND=…, SSH_AUTH_SOCK=…
	Config []string // git configuration, e.g. http.https://host/.extraHeader=…
	// Login and Authorities (PEM) say the same to our own requests over https: to the LFS server of upstream.
	Login       gitcred.Login
	Authorities []byte
	Close       func() // ends what was opened; may be nil
}

// Connection is one use of an upstream.
type Connection struct {
	up     Upstream
	access Access
}

// Connect opens the way to a project's upstream. Close it after the last command has ended. Without
// Store.Access an upstream is reached as everybody reaches it.
func (s *Store) Connect(ctx context.Context, project string, up Upstream) (*Connection, error) {
	c := &Connection{up: up}
	if s.Access == nil || up.URL == "" {
		return c, nil
	}
	var err error
	c.access, err = s.Access(ctx, project, up)
	return c, err
}

// Close ends the connection's access.
func (c *Connection) Close() {
	if c.access.Close != nil {
		c.access.Close()
	}
}

// Cmd is a git command in the repository dir, "" for none, that may talk to this upstream by its
// protocol and nothing else. The caller puts "--" before the URL.
func (c *Connection) Cmd(dir string, timeout time.Duration, args ...string) git.Cmd {
	cmd := git.Cmd{GitDir: dir, Args: args, Timeout: timeout, Protocols: c.up.protocols(), MaxOutput: 64 << 20,
		Config: append([]string{"http.lowSpeedLimit=1000", "http.lowSpeedTime=30"}, c.access.Config...)}
	if c.up.Protocol == "ssh" {
		cmd.Env = []string{"GIT_SSH_COMMAND=ssh -oBatchMode=yes -oClearAllForwardings=yes -oPermitLocalCommand=no " +
			"-oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4"}
	}
	cmd.Env = append(slices.Clip(cmd.Env), c.access.Env...) // the last word on a variable
	return c.onThisMachine(cmd)
}

// onThisMachine makes policy.HostName, by which containers call a port of this machine's loopback,
// mean the same to git on the host, so that one URL is good on both sides.
func (c *Connection) onThisMachine(cmd git.Cmd) git.Cmd {
	host, port := c.up.Server()
	if host != policy.HostName {
		return cmd
	}
	if c.up.Protocol == "https" {
		cmd.Config = append(cmd.Config, "http.curloptResolve="+host+":"+port+":127.0.0.1") // git 2.37
	}
	for i, kv := range cmd.Env {
		if strings.HasPrefix(kv, "GIT_SSH_COMMAND=") {
			alias := host
			if port != "22" {
				alias = "[" + host + "]:" + port // as known_hosts has it
			}
			cmd.Env[i] = kv + " -oHostName=127.0.0.1 '-oHostKeyAlias=" + alias + "'"
		}
	}
	return cmd
}
