package store

import (
	"context"
	"time"

	"terok/internal/git"
)

// Access is what reaching one upstream needs beyond its URL: a token, a key, an agent. Nothing of
// it may stand in Args, which every process of the machine can read.
type Access struct {
	Env    []string // e.g. GIT_SSH_COMMAND=…, SSH_AUTH_SOCK=…
	Config []string // git configuration, e.g. http.https://host/.extraHeader=…
	Close  func()   // ends what was opened; may be nil
}

// Connection is one use of an upstream.
type Connection struct {
	store  *Store
	up     Upstream
	access Access
}

// Connect opens the way to an upstream. Close it after the last command has ended. Without
// Store.Access an upstream is reached with the person's ssh agent, or as everybody does.
func (s *Store) Connect(ctx context.Context, up Upstream) (*Connection, error) {
	c := &Connection{store: s, up: up}
	if s.Access == nil || up.URL == "" {
		return c, nil
	}
	var err error
	c.access, err = s.Access(ctx, up)
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
	cmd := c.store.Transport(c.up, dir, timeout, args...)
	cmd.Env = append(cmd.Env, c.access.Env...)
	cmd.Config = append(cmd.Config, c.access.Config...)
	return cmd
}

// Transport is Cmd without what Store.Access adds.
func (s *Store) Transport(up Upstream, dir string, timeout time.Duration, args ...string) git.Cmd {
	c := git.Cmd{GitDir: dir, Args: args, Timeout: timeout, Protocols: up.protocols(), MaxOutput: 64 << 20,
		Config: []string{"http.lowSpeedLimit=1000", "http.lowSpeedTime=30"}}
	if up.Protocol == "ssh" {
		c.Env = append([]string{"GIT_SSH_COMMAND=ssh -oBatchMode=yes -oClearAllForwardings=yes -oPermitLocalCommand=no " +
			"-oConnectTimeout=15 -oServerAliveInterval=15 -oServerAliveCountMax=4"}, s.SSHEnv...)
	}
	return c
}
