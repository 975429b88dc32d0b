package holder

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"golang.org/x/time/rate"

	"terok/internal/problem"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/ssh"
	"terok/internal/vault/store"
)

// Signatures that one container may have: a fetch or push needs one, a recursive one some.
const (
	signEvery = 2 // seconds
	signBurst = 10
)

func newSignLimit() *rate.Limiter { return rate.NewLimiter(rate.Limit(1.0/signEvery), signBurst) }

// ssh does an operation on SSH keys: of a supervisor for its own project, of the operator for any.
func (h *Holder) ssh(c *conn, req *keyholder.SSHRequest) keyholder.Response {
	if req == nil {
		return keyholder.Response{Code: keyholder.CodeBadRequest, Message: "no SSH request came"}
	}
	if h.vault == nil {
		return locked()
	}
	var reply keyholder.SSHReply
	var err error
	switch {
	case c.bound != nil:
		err = h.sshBound(c.bound, req, &reply)
	case req.Do == keyholder.SSHKeys:
		err = h.vault.View(func(t *store.Tx) error { reply.Keys = offered(t, req.Scope); return nil })
	case req.Do == keyholder.SSHSign:
		err = h.sign(req, signScope{project: req.Scope, servers: req.Servers, users: req.Users}, &reply)
	case req.Do == keyholder.SSHList, req.Do == keyholder.SSHHosts, req.Do == keyholder.SSHExport:
		err = h.vault.View(func(t *store.Tx) error { return look(t, req, &reply) })
	default:
		err = h.vault.Update(h.cfg.Now(), func(t *store.Tx) error { return change(t, req, &reply) })
	}
	if err != nil {
		return refusalOf(err)
	}
	return keyholder.Response{SSH: &reply}
}

// sshBound answers a supervisor. The project comes from the sandbox file, never from the request.
func (h *Holder) sshBound(b *binding, req *keyholder.SSHRequest, reply *keyholder.SSHReply) error {
	if !b.init.Alive() {
		return problem.New(keyholder.CodeRefused, problem.Failed, "the container has ended")
	}
	grant := b.file.SSH
	if grant == nil || b.file.Project == "" {
		return problem.New(keyholder.CodeNotGranted, problem.Failed, "this task may not use SSH keys")
	}
	switch req.Do {
	case keyholder.SSHKeys:
		return h.vault.View(func(t *store.Tx) error { reply.Keys = offered(t, b.file.Project); return nil })
	case keyholder.SSHSign:
		if !b.signing.AllowN(h.cfg.Now(), 1) {
			return problem.New(keyholder.CodeSSHRefused, problem.Failed, "too many signatures in a short time")
		}
		return h.sign(req, signScope{b.file.Project, grant.Servers, grant.Users, grant.Unbound}, reply)
	}
	return problem.New(keyholder.CodeRefused, problem.Failed, "a supervisor may list and sign only")
}

// signScope is for whom a signature is asked.
type signScope struct {
	project string
	servers []string // of the upstream: for keys that name none
	users   []string // its login name: for keys that name none
	unbound bool
}

// sign judges and signs. The private half is in memory only meanwhile.
func (h *Holder) sign(req *keyholder.SSHRequest, s signScope, reply *keyholder.SSHReply) error {
	return h.vault.View(func(t *store.Tx) error {
		key, ok := keyOf(t, s.project, req.Public)
		if !ok {
			return problem.New(keyholder.CodeSSHRefused, problem.Failed, "project %s has no such SSH key", s.project)
		}
		defer clear(key.Private)
		rules := ssh.Rules{Key: key.Public, Users: firstList(key.AllowUsers, s.users, []string{"git"}), Namespaces: key.AllowSSHSIG,
			Unbound: s.unbound, Pins: func(server ssh.Server) [][]byte { return pinned(t, server) }}
		for _, text := range firstList(key.AllowHosts, s.servers) {
			server, err := ssh.ParseServer(text)
			if err != nil {
				return problem.New(keyholder.CodeFailed, problem.Failed, "the stored host of SSH key %s: %w", key.Fingerprint, err)
			}
			rules.Servers = append(rules.Servers, server)
		}
		use, err := rules.Judge(req.Data, req.Binds)
		if err != nil {
			return problem.New(keyholder.CodeSSHRefused, problem.Failed, "SSH key %s: %w", key.Fingerprint, err)
		}
		reply.Use = &use
		reply.Signature, err = ssh.Sign(key.Private, use.Algorithm, req.Data)
		return err
	})
}

func firstList(lists ...[]string) []string {
	for _, l := range lists {
		if len(l) > 0 {
			return l
		}
	}
	return nil
}

// pinned are the host keys known for a server: those that the operator pinned, else the built-in.
func pinned(t *store.Tx, s ssh.Server) (keys [][]byte) {
	for _, k := range t.HostKeys() {
		if k.Host == s.Host && k.Port == s.Port {
			keys = append(keys, k.Blob)
		}
	}
	if keys == nil {
		for _, p := range ssh.BuiltinPins(s) {
			keys = append(keys, p.Key)
		}
	}
	return keys
}

// keyOf finds a key of the project by its public half.
func keyOf(t *store.Tx, project string, public []byte) (store.SSHKey, bool) {
	for _, k := range offered(t, project) {
		if slices.Equal(k.Public, public) {
			return t.SSHKey(k.ID)
		}
	}
	return store.SSHKey{}, false
}

// offered are the keys assigned to a project, main first. Scopes of terok's own are nobody's.
func offered(t *store.Tx, project string) []keyholder.SSHKey {
	if project == "" || strings.HasPrefix(project, "%") {
		return nil
	}
	keys := t.SSHKeys()
	var list []keyholder.SSHKey
	for _, a := range t.SSHAssignments() {
		if a.Scope != project {
			continue
		}
		if i := slices.IndexFunc(keys, func(k store.SSHKey) bool { return k.ID == a.KeyID }); i >= 0 {
			list = append(list, keyholder.SSHKey{ID: keys[i].ID, Public: keys[i].Public, Comment: keys[i].Comment, Fingerprint: keys[i].Fingerprint})
		}
		if len(list) == maxOffered {
			break
		}
	}
	return list
}

// maxOffered is how many keys an agent offers; servers give up after about six.
const maxOffered = 16

// look reads for the operator.
func look(t *store.Tx, req *keyholder.SSHRequest, reply *keyholder.SSHReply) error {
	switch req.Do {
	case keyholder.SSHExport:
		k, ok := t.SSHKey(req.KeyID)
		if !ok {
			return noSSHKey()
		}
		reply.Private, reply.Keys = k.Private, []keyholder.SSHKey{describedKey(t, &k)}
	case keyholder.SSHHosts:
		page(t.HostKeys(), req.After, &reply.More, func(k store.HostKey) any {
			reply.Hosts = append(reply.Hosts, keyholder.SSHHost{Host: k.Host, Port: k.Port, Type: k.Type, Key: k.Blob, Source: k.Source, AddedAt: k.AddedAt})
			return reply.Hosts[len(reply.Hosts)-1]
		})
	default:
		page(t.SSHKeys(), req.After, &reply.More, func(k store.SSHKey) any {
			reply.Keys = append(reply.Keys, describedKey(t, &k))
			return reply.Keys[len(reply.Keys)-1]
		})
	}
	return nil
}

// page adds items to an answer as long as they fit into one message.
func page[T any](list []T, after int, more *bool, add func(T) any) {
	size := 0
	for i := min(max(after, 0), len(list)); i < len(list); i++ {
		b, err := json.Marshal(add(list[i]))
		if size += len(b) + 1; err != nil || size > keyholder.MaxMessage/2 {
			*more = i+1 < len(list)
			return
		}
	}
}

// change writes for the operator.
func change(t *store.Tx, req *keyholder.SSHRequest, reply *keyholder.SSHReply) error {
	switch req.Do {
	case keyholder.SSHPut:
		k := req.Key
		if k == nil {
			return errors.New("no key came")
		}
		if err := t.PutSSHKey(store.SSHKey{ID: k.ID, Type: k.Type, Private: req.Private, Public: k.Public, Fingerprint: k.Fingerprint,
			Comment: k.Comment, AllowHosts: k.Hosts, AllowUsers: k.Users, AllowSSHSIG: k.SSHSIG}); err != nil {
			return err
		}
		return t.AssignSSHKey(req.Scope, k.ID, req.Role)
	case keyholder.SSHAssign:
		return t.AssignSSHKey(req.Scope, req.KeyID, req.Role)
	case keyholder.SSHUnassign:
		if !t.UnassignSSHKey(req.Scope, req.KeyID) {
			return noSSHKey()
		}
		if !slices.ContainsFunc(t.SSHAssignments(), func(a store.SSHAssignment) bool { return a.KeyID == req.KeyID }) {
			reply.Deleted = t.DeleteSSHKey(req.KeyID)
		}
	case keyholder.SSHChange:
		k, ok := t.SSHKey(req.KeyID)
		if !ok || req.Key == nil {
			return noSSHKey()
		}
		defer clear(k.Private)
		k.Comment, k.AllowHosts, k.AllowUsers, k.AllowSSHSIG = req.Key.Comment, req.Key.Hosts, req.Key.Users, req.Key.SSHSIG
		return t.PutSSHKey(k)
	case keyholder.SSHDelete:
		if reply.Deleted = t.DeleteSSHKey(req.KeyID); !reply.Deleted {
			return noSSHKey()
		}
	case keyholder.SSHPin:
		if req.Host == nil {
			return errors.New("no host key came")
		}
		return t.PutHostKey(store.HostKey{Host: req.Host.Host, Port: req.Host.Port, Type: req.Host.Type, Blob: req.Host.Key, Source: req.Host.Source})
	case keyholder.SSHUnpin:
		if req.Host == nil || t.DeleteHostKeys(req.Host.Host, req.Host.Port) == 0 {
			return problem.New("host_key_missing", problem.NotFound, "no host key is pinned for this server").WithHint("terok ssh hosts")
		}
	default:
		return problem.New(keyholder.CodeBadRequest, problem.Failed, "unknown SSH operation")
	}
	return nil
}

func describedKey(t *store.Tx, k *store.SSHKey) keyholder.SSHKey {
	out := keyholder.SSHKey{ID: k.ID, Type: k.Type, Public: k.Public, Fingerprint: k.Fingerprint, Comment: k.Comment, CreatedAt: k.CreatedAt,
		Hosts: k.AllowHosts, Users: k.AllowUsers, SSHSIG: k.AllowSSHSIG}
	for _, a := range t.SSHAssignments() {
		if a.KeyID == k.ID {
			out.Scopes = append(out.Scopes, keyholder.SSHAssignment{Scope: a.Scope, Role: a.Role})
		}
	}
	return out
}

func noSSHKey() error {
	return problem.New("ssh_key_missing", problem.NotFound, "no such SSH key is stored").WithHint("terok ssh list")
}
