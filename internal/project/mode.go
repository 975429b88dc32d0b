package project

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"

	"terok/internal/config"
	"terok/internal/gate/store"
	"terok/internal/shield/policy"
)

// Classes of projects: what a task's container reaches of the project's upstream.
const (
	ClassGatekeeping = "gatekeeping" // the gate and nothing else; a person carries work on
	ClassOnline      = "online"      // the upstream itself, as far as shield and vault let it
)

// Online reports whether tasks reach the upstream themselves.
func (c *Config) Online() bool { return c.Project.Class == ClassOnline }

// Gated reports whether tasks get their repository from the gate. A gatekeeping project without
// upstream has a gate of its own work; an online one without upstream has no repository.
func (c *Config) Gated() bool {
	return !c.Online() || c.Gate.Enabled && c.Git.UpstreamURL != ""
}

// External is the upstream of a container's further remote, "" for none.
func (c *Config) External() string {
	if c.Online() || !c.Gatekeeping.ExposeExternalRemote {
		return ""
	}
	return c.Git.UpstreamURL
}

// validateMode refuses combinations that could not work: each with what to write instead.
func (c *Config) validateMode() []config.FieldError {
	var bad []config.FieldError
	fail := func(path, format string, args ...any) {
		bad = append(bad, config.FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	up := c.Git.UpstreamURL
	if CheckUpstream(up) != nil {
		return nil // said already
	}
	local := up != "" && isLocal(up)
	if !c.Online() {
		if !c.Gate.Enabled {
			fail("gate.enabled", "a gatekeeping project works through its gate: remove this, or write project.security_class: online for tasks that reach the upstream themselves")
		}
		switch {
		case !c.Gatekeeping.ExposeExternalRemote:
		case up == "":
			fail("gatekeeping.expose_external_remote", "there is no git.upstream_url to show")
		case local:
			fail("gatekeeping.expose_external_remote", "the upstream is a directory of this machine, which means nothing inside a container")
		}
		return bad
	}
	if c.Gate.LFS == LFSProxy {
		fail("gate.lfs", "proxy is for gatekeeping projects: in an online one tasks push to the upstream, which would not get the files")
	}
	if c.Gatekeeping.ExposeExternalRemote {
		fail("gatekeeping.expose_external_remote", "is for gatekeeping projects: in an online one the upstream is origin")
	}
	switch {
	case local:
		fail("project.security_class", "online needs an upstream that a container reaches, https:// or ssh://; a directory of this machine works with gatekeeping")
	case up == "":
	default:
		if _, err := c.upstreamRule(""); err != nil {
			fail("git.upstream_url", "no rule can be made for its server: %v", err)
		}
		if u, err := store.ParseUpstream(up); err == nil && u.Protocol == "ssh" && !c.Gate.Enabled && !c.SSH.InContainer {
			fail("gate.enabled", "without a gate a task clones over ssh itself: write ssh.in_container: true, or leave the gate on")
		}
	}
	return bad
}

// UpstreamIsRemote reports whether the upstream is on a server.
func (c *Config) UpstreamIsRemote() bool {
	return c.Git.UpstreamURL != "" && !isLocal(c.Git.UpstreamURL)
}

func isLocal(up string) bool { return filepath.IsAbs(strings.TrimPrefix(up, "file://")) }

// upstreamRule lets the tasks of an online project reach the upstream's git server: its name and
// the one port, in the project's tier, so that every deny and quarantine close it.
func (c *Config) upstreamRule(source string) (policy.Rule, error) {
	up, err := store.ParseUpstream(c.Git.UpstreamURL)
	if err != nil {
		return policy.Rule{}, err
	}
	host, port := up.Server()
	if host == policy.HostName { // what containers call a port of this machine's loopback
		host = "host"
	}
	return parseRule("+"+net.JoinHostPort(host, port), policy.Project, source)
}
