package terok

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/state"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/ssh"
)

// SSHKey is a stored SSH key without its private half; SSHHost a pinned host key.
type (
	SSHKey  = keyholder.SSHKey
	SSHHost = keyholder.SSHHost
)

// SSHAdd makes a key of kind "ed25519" or "rsa" in the vault for a project. Without force a
// project that has a key keeps it, and that one is returned; with force the new one is the main
// key and the one before stays as a side key.
func (a *App) SSHAdd(ctx context.Context, projectName, kind, comment string, force bool) (key SSHKey, made bool, err error) {
	if _, err := a.projects().Get(projectName); err != nil {
		return SSHKey{}, false, err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return SSHKey{}, false, err
	}
	defer c.Close()
	have, err := keysOf(ctx, c, projectName)
	if err != nil {
		return SSHKey{}, false, a.vaultProblem(err)
	}
	if len(have) > 0 && !force {
		return have[0], false, nil
	}
	k, err := ssh.NewKey(kind)
	if err != nil {
		return SSHKey{}, false, problem.New("usage", problem.Usage, "%w", err).WithHint("--type ed25519")
	}
	key, err = a.sshStore(ctx, c, projectName, k, comment, len(have))
	return key, err == nil, err
}

// SSHImport stores a private key file for a project. An encrypted one without passphrase is the
// Problem passphrase_needed. public, if given, must be the other half. A key that the vault has
// already is linked.
func (a *App) SSHImport(ctx context.Context, projectName string, private, passphrase, public []byte, comment string) (SSHKey, error) {
	if _, err := a.projects().Get(projectName); err != nil {
		return SSHKey{}, err
	}
	k, err := ssh.ParsePrivate(private, passphrase)
	if errors.Is(err, ssh.ErrEncrypted) {
		return SSHKey{}, problem.New("passphrase_needed", problem.Declined, "%w", err).WithHint("run it in a terminal, or ssh-keygen -p takes the passphrase off a copy")
	}
	if err != nil {
		return SSHKey{}, problem.New("bad_key", problem.Usage, "%w", err)
	}
	defer clear(k.Private)
	if k.Weak != "" {
		a.say("warning: %s", k.Weak)
	}
	if len(public) > 0 {
		other, text, err := ssh.ParsePublicLine(public)
		if err != nil {
			return SSHKey{}, problem.New("bad_key", problem.Usage, "%w", err)
		}
		if !bytes.Equal(other, k.Public) {
			return SSHKey{}, problem.New("key_mismatch", problem.Failed, "the public key is %s, the private one %s", ssh.FingerprintOf(other), k.Fingerprint)
		}
		comment = firstOf(comment, text)
	}
	c, err := a.operator(ctx)
	if err != nil {
		return SSHKey{}, err
	}
	defer c.Close()
	all, err := c.SSHList(ctx)
	if err != nil {
		return SSHKey{}, a.vaultProblem(err)
	}
	have, err := keysOf(ctx, c, projectName)
	if err != nil {
		return SSHKey{}, a.vaultProblem(err)
	}
	for _, old := range all {
		if old.Fingerprint == k.Fingerprint {
			return old, a.sshAssign(ctx, c, projectName, old, len(have))
		}
	}
	return a.sshStore(ctx, c, projectName, k, comment, len(have))
}

// sshStore puts a new key into the vault: a project's first is its main key, a later one becomes
// the main key and the others step aside.
func (a *App) sshStore(ctx context.Context, c *keyholder.Client, projectName string, k *ssh.Key, comment string, have int) (SSHKey, error) {
	defer clear(k.Private)
	if comment == "" {
		comment = "tk-main:" + projectName
		if have > 0 {
			comment = fmt.Sprintf("tk-side:%s:%d", projectName, have)
		}
	}
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	key := SSHKey{ID: hex.EncodeToString(id[:]), Type: k.Type, Public: k.Public, Fingerprint: k.Fingerprint, Comment: comment, CreatedAt: a.Now().UTC()}
	if _, err := c.SSH(ctx, keyholder.SSHRequest{Do: keyholder.SSHPut, Scope: projectName, Role: "main", Key: &key, Private: k.Private}); err != nil {
		return SSHKey{}, a.vaultProblem(err)
	}
	key.Scopes = []keyholder.SSHAssignment{{Scope: projectName, Role: "main"}}
	a.note("ssh_key_added", map[string]string{"project": projectName, "key": key.Fingerprint})
	return key, nil
}

func (a *App) sshAssign(ctx context.Context, c *keyholder.Client, projectName string, key SSHKey, have int) error {
	role := "main"
	if have > 0 {
		role = "side"
	}
	if slices.ContainsFunc(key.Scopes, func(s keyholder.SSHAssignment) bool { return s.Scope == projectName }) {
		return nil
	}
	if _, err := c.SSH(ctx, keyholder.SSHRequest{Do: keyholder.SSHAssign, Scope: projectName, KeyID: key.ID, Role: role}); err != nil {
		return a.vaultProblem(err)
	}
	a.note("ssh_key_linked", map[string]string{"project": projectName, "key": key.Fingerprint})
	return nil
}

// keysOf lists the keys of a project, its main key first.
func keysOf(ctx context.Context, c *keyholder.Client, projectName string) ([]SSHKey, error) {
	all, err := c.SSHList(ctx)
	if err != nil {
		return nil, err
	}
	var list []SSHKey
	for _, k := range all {
		for _, s := range k.Scopes {
			switch {
			case s.Scope != projectName:
			case s.Role == "main":
				list = slices.Insert(list, 0, k)
			default:
				list = append(list, k)
			}
		}
	}
	return list, nil
}

// SSHList describes the stored keys, those of one project or, for "", all. Keys of terok's own
// stay hidden.
func (a *App) SSHList(ctx context.Context, projectName string) ([]SSHKey, error) {
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	var list []SSHKey
	if projectName != "" {
		if list, err = keysOf(ctx, c, projectName); err != nil {
			return nil, a.vaultProblem(err)
		}
		return list, nil
	}
	if list, err = c.SSHList(ctx); err != nil {
		return nil, a.vaultProblem(err)
	}
	return slices.DeleteFunc(list, func(k SSHKey) bool {
		return len(k.Scopes) > 0 && !slices.ContainsFunc(k.Scopes, func(s keyholder.SSHAssignment) bool { return !strings.HasPrefix(s.Scope, "%") })
	}), nil
}

// sshPick finds the one key whose fingerprint or id begins with prefix. The "SHA256:" may be left
// out.
func (a *App) sshPick(ctx context.Context, c *keyholder.Client, prefix string) (SSHKey, error) {
	all, err := c.SSHList(ctx)
	if err != nil {
		return SSHKey{}, a.vaultProblem(err)
	}
	var found []SSHKey
	for _, k := range all {
		if prefix != "" && (strings.HasPrefix(k.Fingerprint, prefix) || strings.HasPrefix(strings.TrimPrefix(k.Fingerprint, "SHA256:"), prefix) || strings.HasPrefix(k.ID, prefix)) {
			found = append(found, k)
		}
	}
	switch len(found) {
	case 0:
		return SSHKey{}, problem.New("ssh_key_missing", problem.NotFound, "no stored SSH key begins with %q", prefix).WithHint("terok ssh list")
	case 1:
		return found[0], nil
	}
	return SSHKey{}, problem.New("ambiguous", problem.Conflict, "%d stored SSH keys begin with %q", len(found), prefix).WithHint("terok ssh list")
}

// SSHLink lets a project use a stored key as well.
func (a *App) SSHLink(ctx context.Context, projectName, prefix string) (SSHKey, error) {
	if _, err := a.projects().Get(projectName); err != nil {
		return SSHKey{}, err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return SSHKey{}, err
	}
	defer c.Close()
	key, err := a.sshPick(ctx, c, prefix)
	if err != nil {
		return SSHKey{}, err
	}
	have, err := keysOf(ctx, c, projectName)
	if err != nil {
		return SSHKey{}, a.vaultProblem(err)
	}
	return key, a.sshAssign(ctx, c, projectName, key, len(have))
}

// SSHSelect says which keys SSHRemove takes: all given conditions hold. One is required.
type SSHSelect struct {
	Project     string // only from this project; the key stays where others use it
	Fingerprint string // prefix
	Comment     string // pattern as in path.Match
}

// SSHSelected lists the keys that match.
func (a *App) SSHSelected(ctx context.Context, sel SSHSelect) ([]SSHKey, error) {
	if sel == (SSHSelect{}) {
		return nil, problem.New("usage", problem.Usage, "say which keys: --project, --fingerprint or --comment").WithHint("terok ssh list")
	}
	list, err := a.SSHList(ctx, sel.Project)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list, func(k SSHKey) bool {
		ok, err := path.Match(sel.Comment, k.Comment)
		return sel.Comment != "" && (err != nil || !ok) ||
			!strings.HasPrefix(strings.TrimPrefix(k.Fingerprint, "SHA256:"), strings.TrimPrefix(sel.Fingerprint, "SHA256:"))
	}), nil
}

// SSHRemove takes keys from sel.Project, or from everywhere. A key that no project uses any more
// is deleted.
func (a *App) SSHRemove(ctx context.Context, keys []SSHKey, projectName string) (deleted int, err error) {
	c, err := a.operator(ctx)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for _, k := range keys {
		req := keyholder.SSHRequest{Do: keyholder.SSHDelete, KeyID: k.ID}
		if projectName != "" {
			req.Do, req.Scope = keyholder.SSHUnassign, projectName
		}
		reply, err := c.SSH(ctx, req)
		if err != nil {
			return deleted, a.vaultProblem(err)
		}
		if reply.Deleted {
			deleted++
		}
		a.note("ssh_key_removed", map[string]string{"key": k.Fingerprint, "project": projectName})
	}
	return deleted, nil
}

// SSHLimits are what a key may be used for; a nil field stays as it is.
type SSHLimits struct {
	Comment *string
	Hosts   *[]string // "host" or "host:port"; none: the upstream of the project
	Users   *[]string // login names; none: that of the upstream, else git
	SSHSIG  *[]string // namespaces of file signatures, "git" for commits; none: never
}

// SSHChange changes comment and limits of one key. They hold from the next signature on.
func (a *App) SSHChange(ctx context.Context, prefix string, l SSHLimits) (SSHKey, error) {
	if l.Hosts != nil {
		for _, h := range *l.Hosts {
			if _, err := ssh.ParseServer(h); err != nil {
				return SSHKey{}, problem.New("usage", problem.Usage, "%w", err).WithHint("--hosts github.com,git.example.org:2222")
			}
		}
	}
	c, err := a.operator(ctx)
	if err != nil {
		return SSHKey{}, err
	}
	defer c.Close()
	key, err := a.sshPick(ctx, c, prefix)
	if err != nil {
		return SSHKey{}, err
	}
	for _, set := range []struct {
		to   *[]string
		from *[]string
	}{{&key.Hosts, l.Hosts}, {&key.Users, l.Users}, {&key.SSHSIG, l.SSHSIG}} {
		if set.from != nil {
			*set.to = *set.from
		}
	}
	if l.Comment != nil {
		key.Comment = *l.Comment
	}
	if _, err := c.SSH(ctx, keyholder.SSHRequest{Do: keyholder.SSHChange, KeyID: key.ID, Key: &key}); err != nil {
		return SSHKey{}, a.vaultProblem(err)
	}
	a.note("ssh_key_changed", map[string]string{"key": key.Fingerprint})
	return key, nil
}

// SSHExport writes a key's two halves into dir as name (0600) and name.pub (0644). Existing files
// are the Problem exists. From then on the key is as safe as that file.
func (a *App) SSHExport(ctx context.Context, prefix, dir, name string) (file string, err error) {
	c, err := a.operator(ctx)
	if err != nil {
		return "", err
	}
	defer c.Close()
	key, err := a.sshPick(ctx, c, prefix)
	if err != nil {
		return "", err
	}
	reply, err := c.SSH(ctx, keyholder.SSHRequest{Do: keyholder.SSHExport, KeyID: key.ID})
	if err != nil {
		return "", a.vaultProblem(err)
	}
	defer clear(reply.Private)
	private, err := ssh.ExportPrivate(reply.Private, key.Comment)
	if err != nil {
		return "", err
	}
	defer clear(private)
	if name == "" {
		print := strings.NewReplacer("/", "_", "+", "-").Replace(strings.TrimPrefix(key.Fingerprint, "SHA256:"))
		name = "id_" + key.Type + "_" + print[:8]
	}
	file = filepath.Join(dir, name)
	a.note("ssh_key_exported", map[string]string{"key": key.Fingerprint, "file": file})
	// The public half first: where that cannot be written, no private one lies about.
	if err := writeExclusive(file+".pub", []byte(ssh.PublicLine(key.Public, key.Comment)+"\n"), 0o644); err != nil {
		return "", err
	}
	if err := writeExclusive(file, private, 0o600); err != nil {
		return "", errors.Join(err, os.Remove(file+".pub"))
	}
	return file, nil
}

// writeExclusive makes a new file.
func writeExclusive(path string, data []byte, mode os.FileMode) error {
	err := state.Create(path, data, mode)
	if errors.Is(err, fs.ErrExist) {
		return problem.New("exists", problem.Conflict, "%s is there already", path).WithHint("choose another --out-name")
	}
	return err
}

// sshServers is what a project's upstream asks of SSH keys: the server, and the login name if the
// URL has one.
func sshServers(p *project.Project) (servers, users []string) {
	s, user, ok := ssh.ServerOfURL(p.Git.UpstreamURL)
	if !ok {
		return nil, nil
	}
	if user != "" {
		users = []string{user}
	}
	return []string{s.String()}, users
}

// knownHosts is a known_hosts file of everything that is pinned or shipped.
func knownHosts(ctx context.Context, c *keyholder.Client) (string, error) {
	hosts, err := c.SSHHosts(ctx)
	if err != nil {
		return "", err
	}
	var pins []ssh.HostPin
	own := map[ssh.Server]bool{}
	for _, h := range hosts {
		s := ssh.Server{Host: h.Host, Port: h.Port}
		own[s] = true
		pins = append(pins, ssh.HostPin{Server: s, Type: h.Type, Key: h.Key})
	}
	for _, s := range ssh.Forges() {
		if !own[s] {
			pins = append(pins, ssh.BuiltinPins(s)...)
		}
	}
	return ssh.KnownHosts(pins), nil
}
