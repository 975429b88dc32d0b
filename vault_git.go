package terok

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"terok/internal/gate/gitcred"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/sandbox"
)

// addGitHost lets the tasks of an online project use the credential of a forge at its git server as
// well: to fetch any repository that the credential can read, as its API does, and to push to the
// project's own, by both of its addresses. The host is then relayed by the vault and open to nothing
// else; what stands in vault.policy takes from this too.
func addGitHost(g *sandbox.Grant, p *project.Project, set *roster.Roster, forge *roster.Provider) {
	if !p.Online() || forge.Forge == "" {
		return
	}
	u, err := url.Parse(p.Git.UpstreamURL)
	if err != nil || u.Scheme != "https" || forgeAt(set, u) != forge {
		return
	}
	repo := strings.TrimSuffix(strings.Trim(u.Path, "/"), ".git")
	if repo == "" || strings.ContainsAny(repo, "*%?#;\\ ") || u.RawPath != "" {
		return // no rule can name it: the host stays under the shield's rules alone
	}
	rules := []string{"allow GET /**/info/refs", "allow POST /**/git-upload-pack", "allow POST /" + repo + ".git/git-receive-pack",
		"allow POST /" + repo + "/git-receive-pack"}
	if g.AllRepos {
		rules = append(rules, "allow POST /**/git-receive-pack")
	}
	port := uint16(443)
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil {
		port = uint16(n)
	}
	i := slices.IndexFunc(g.Routes, func(r sandbox.Route) bool { return r.Host == u.Hostname() && r.Port == port })
	if i < 0 {
		i = len(g.Routes)
		g.Routes = append(g.Routes, sandbox.Route{Host: u.Hostname(), Port: port, Default: "deny"})
	}
	login := sandbox.GitHost{User: gitcred.Username(forge.Forge)}
	g.Routes[i].Git, g.Routes[i].Policy = &login, append(rules, g.Routes[i].Policy...)
	file := sandbox.StartFile{Path: sandbox.UpstreamLogin, Mode: 0o600,
		Content: fmt.Sprintf("protocol=https\nhost=%s\nusername=%s\npassword=%s\n", u.Host, login.User, sandbox.PhantomMark)}
	for kind, a := range g.Auth {
		a.Files = append(a.Files, file)
		g.Auth[kind] = a
	}
}
