package terok

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/sandbox"
	"terok/internal/text"
	"terok/internal/vault/front"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/oauth"
	"terok/internal/vault/store"
)

// AuthRequest says what to store for whom.
type AuthRequest struct {
	Name     string // of an agent or a provider
	Scope    string // "shared" or "project:NAME"; "" is shared
	Account  string // label; "" is the default one
	NoVerify bool   // store also what the provider was not asked about
}

// AuthResult is what was stored.
type AuthResult struct {
	Provider string   `json:"provider"`
	Scope    string   `json:"scope"`
	Account  string   `json:"account"` // label in the vault
	Kind     string   `json:"kind"`
	State    string   `json:"state"` // ok or unverified
	Login    string   `json:"login"` // whom the provider knows it as; "" when it does not say
	Replaced bool     `json:"replaced"`
	Tasks    []string `json:"tasks"` // running ones that it is for
	Late     bool     `json:"late"`  // they find it when their agent starts next, since there was none, or of another kind
	Warnings []string `json:"-"`
}

// AuthKey verifies an API key or token with its provider and stores it. Running tasks use it from
// their next request on. Problems: usage (2) for what is no key of this provider,
// credential_rejected (1) when the provider refuses it; what was stored before stays then.
func (a *App) AuthKey(ctx context.Context, req AuthRequest, key []byte) (*AuthResult, error) {
	defer clear(key)
	set, p, err := a.authProvider(req.Name)
	if err != nil {
		return nil, err
	}
	trimmed := bytes.TrimSpace(key)
	kind, err := judgeKey(set, p, string(trimmed))
	if err != nil {
		return nil, err
	}
	return a.authStore(ctx, req, p, &oauth.Captured{Kind: kind, Token: oauth.Token{Access: trimmed}})
}

// authProvider finds the provider of a name, and refuses while the panic lock stands.
func (a *App) authProvider(name string) (*roster.Roster, *roster.Provider, error) {
	if err := a.notPanicked(); err != nil {
		return nil, nil, err
	}
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, nil, err
	}
	p, err := set.Credential(name)
	return set, p, err
}

// judgeKey catches what people paste by mistake, without repeating it.
func judgeKey(set *roster.Roster, p *roster.Provider, key string) (kind string, err error) {
	wrong := func(format string, args ...any) error {
		return problem.New("usage", problem.Usage, format, args...).WithHint("%s", firstOf(hintURL(p), "terok auth "+p.Name))
	}
	switch {
	case key == "":
		return "", wrong("no key came")
	case strings.HasPrefix(key, "export ") || strings.HasPrefix(key, "set "):
		return "", wrong("that is a line of a shell; only the value behind the = is the key")
	case strings.ContainsAny(key[:1]+key[len(key)-1:], `"'`):
		return "", wrong("there are quotes around the key; they do not belong to it")
	case strings.HasPrefix(strings.ToLower(key), "bearer "):
		return "", wrong("there is the word Bearer before the key; it does not belong to it")
	case strings.ContainsAny(key, " \t\r\n"):
		return "", wrong("that is not an API key: a key has no spaces and one line")
	case len(key) < store.MinSecret:
		return "", wrong("that is not an API key: keys have at least %d characters", store.MinSecret)
	}
	if name, _, ok := strings.Cut(key, "="); ok && len(name) < len(key)-store.MinSecret && strings.ToUpper(name) == name && strings.Contains(name, "_") {
		return "", wrong("that is a line NAME=VALUE; only the value is the key")
	}
	kind, other := set.Recognise(p, key)
	if other != "" {
		return "", problem.New("usage", problem.Usage, "that looks like a credential of %s, not of %s", other, p.Name).WithHint("terok auth %s", other)
	}
	if kind == "" {
		kind = p.Kinds[0]
		if kind == sandbox.OAuth && len(p.Kinds) > 1 {
			kind = p.Kinds[1]
		}
	}
	if _, ok := p.Auth[kind]; !ok {
		return "", wrong("%s does not take a credential of the kind %s", p.Title, kind)
	}
	return kind, nil
}

func hintURL(p *roster.Provider) string {
	if p.KeyURL == "" {
		return ""
	}
	return "get one at " + p.KeyURL
}

// authStore verifies a credential and stores it.
func (a *App) authStore(ctx context.Context, req AuthRequest, p *roster.Provider, got *oauth.Captured) (*AuthResult, error) {
	defer got.Token.Wipe()
	scope := firstOf(req.Scope, "shared")
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	res := &AuthResult{Provider: p.Name, Scope: scope, Account: firstOf(req.Account, store.DefaultAccount), Kind: got.Kind, State: store.StateOK}
	public := map[string]string{}
	for k, v := range got.Public {
		public[k] = v
	}
	cred := Credential{Scope: scope, Provider: p.Name, Account: res.Account, Kind: got.Kind, Public: public, ExpiresAt: got.Token.ExpiresAt}
	if got.Kind == sandbox.OAuth && got.Token.Refresh != nil && p.Refresh != nil {
		cred.Endpoint = p.Refresh
	}
	if res.Warnings, err = a.verifyCredential(ctx, req, p, got, public, res); err != nil {
		return nil, err
	}
	cred.State = res.State
	if res.State == store.StateOK {
		cred.VerifiedAt = a.Now()
	}
	res.Login = public["account"]
	before, err := c.List(ctx)
	if err != nil {
		return nil, a.vaultProblem(err)
	}
	if res.Replaced, err = c.Put(ctx, cred, keyholder.Secrets{Secret: got.Token.Access, Refresh: got.Token.Refresh, IDToken: got.Token.ID}); err != nil {
		return nil, a.vaultProblem(err)
	}
	res.Tasks = a.tasksWith(p.Name, scope)
	res.Late = !slices.ContainsFunc(before, func(b Credential) bool {
		return b.Scope == scope && b.Provider == p.Name && b.Account == res.Account && b.Kind == res.Kind
	})
	a.note("auth_stored", map[string]string{"provider": p.Name, "scope": scope, "account": res.Account, "kind": got.Kind, "state": res.State})
	return res, nil
}

// verifyCredential asks the provider whether it takes a credential, before it is stored. What the
// provider refuses is a Problem; when it cannot be asked, the operator decides.
func (a *App) verifyCredential(ctx context.Context, req AuthRequest, p *roster.Provider, got *oauth.Captured, public map[string]string, res *AuthResult) ([]string, error) {
	warnings := tooMighty(p, got, nil)
	auth := p.Auth[got.Kind]
	if req.NoVerify || auth.Probe.Path == "" {
		res.State = store.StateUnverified
		return warnings, nil
	}
	grant := p.Grant(res.Scope, got.Kind, public)
	answer, err := front.Probe(ctx, grant, front.Secret{Kind: got.Kind, Value: got.Token.Access, Public: public}, auth.Probe, dialProvider)
	reason := ""
	switch {
	case err != nil:
		reason = err.Error()
	case answer.Status == 401 || answer.Status == 403 || answer.Status < 300 && saysInvalid(answer.Body):
		return nil, problem.New("credential_rejected", problem.Failed, "%s does not take this credential (HTTP %d); nothing was stored", p.Title, answer.Status).
			WithHint("%s", firstOf(hintURL(p), "terok auth "+p.Name))
	case answer.Status < 300:
		if login := loginOf(answer.Body); login != "" {
			public["account"] = login
		}
		return tooMighty(p, got, answer.Header), nil
	default:
		reason = fmt.Sprintf("it answers HTTP %d", answer.Status)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return nil, ctx.Err()
	}
	unverified := problem.New("unverified", problem.Failed, "%s could not be asked about this credential: %s", p.Title, reason).
		WithHint("terok auth %s --no-verify", p.Name)
	if a.Confirm == nil {
		return nil, unverified
	}
	ok, err := a.Confirm(text.Line(unverified.Message, 300) + ". Store it all the same?")
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, problem.New("declined", problem.Declined, "nothing was stored")
	}
	res.State = store.StateUnverified
	return warnings, nil
}

func dialProvider(ctx context.Context, host string, port uint16, allowPrivate bool) (net.Conn, error) {
	return oauth.Dial(ctx, net.JoinHostPort(host, strconv.Itoa(int(port))), allowPrivate)
}

// AuthRefresh gets a new access token for a stored sign-in now.
func (a *App) AuthRefresh(ctx context.Context, req AuthRequest) (*Credential, error) {
	_, p, err := a.authProvider(req.Name)
	if err != nil {
		return nil, err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	cred, err := c.Refresh(ctx, firstOf(req.Scope, "shared"), p.Name, req.Account)
	if err != nil {
		return nil, a.credentialProblem(err, p.Name, req)
	}
	return &cred, nil
}

// AuthRevoke forgets a credential; running tasks lose it within a second. With upstream the
// provider is told first, and a credential that it does not take back is kept; where terok knows no
// way to tell it, the Problem no_revocation (5) names the page.
func (a *App) AuthRevoke(ctx context.Context, req AuthRequest, upstream bool) (*AuthResult, error) {
	_, p, err := a.authProvider(req.Name)
	if err != nil {
		return nil, err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	scope := firstOf(req.Scope, "shared")
	res := &AuthResult{Provider: p.Name, Scope: scope, Account: firstOf(req.Account, store.DefaultAccount), Tasks: a.tasksWith(p.Name, scope)}
	if upstream {
		err = c.Revoke(ctx, scope, p.Name, req.Account, takeBack(p))
	} else {
		err = c.Delete(ctx, scope, p.Name, req.Account)
	}
	if err != nil {
		if r, ok := errors.AsType[*keyholder.Refusal](err); ok && r.Code == keyholder.CodeNoRevocation {
			return nil, problem.New(r.Code, problem.Manual, "%s; it is kept", r.Message).WithHint("revoke it at %s, then: terok auth --revoke %s", firstOf(p.KeyURL, p.Title), p.Name)
		}
		return nil, a.credentialProblem(err, p.Name, req)
	}
	a.note("auth_removed", map[string]string{"provider": p.Name, "scope": scope, "account": res.Account, "upstream": strconv.FormatBool(upstream)})
	return res, nil
}

// CheckScope refuses the scope of a project that does not exist: a credential there would serve nobody.
// One whose project.yml cannot be read exists.
func (a *App) CheckScope(scope string) error {
	name, ok := strings.CutPrefix(scope, "project:")
	if !ok {
		return nil
	}
	if _, err := a.projects().Get(name); problem.Is(err, "project_not_found") || problem.Is(err, "bad_project_name") {
		return err
	}
	return nil
}

// AuthBind makes a project use a stored credential, whatever its own scope says, or, with unbind,
// the one that its scope gives it again. Running tasks follow with their next request.
func (a *App) AuthBind(ctx context.Context, req AuthRequest, project string, unbind bool) (*AuthResult, error) {
	_, p, err := a.authProvider(req.Name)
	if err != nil {
		return nil, err
	}
	if _, err := a.projects().Get(project); err != nil {
		return nil, err
	}
	c, err := a.operator(ctx)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	res := &AuthResult{Provider: p.Name, Scope: firstOf(req.Scope, "shared"), Account: firstOf(req.Account, store.DefaultAccount)}
	scope := res.Scope
	if unbind {
		scope = ""
	}
	if err := c.Bind(ctx, project, p.Name, scope, res.Account); unbind && errors.Is(err, keyholder.ErrNoCredential) {
		return nil, problem.New("not_bound", problem.NotFound, "%s is bound to no account of %s", project, p.Name).WithHint("terok auth --list")
	} else if err != nil {
		return nil, a.credentialProblem(err, p.Name, req)
	}
	res.Tasks = a.tasksWith(p.Name, "project:"+project)
	a.note("auth_bound", map[string]string{"provider": p.Name, "scope": scope, "account": res.Account, "project": project})
	return res, nil
}

// takeBack is how a personal access token of GitLab ends itself.
func takeBack(p *roster.Provider) *keyholder.Revocation {
	if p.Forge != sandbox.GitLab {
		return nil
	}
	r := p.Routes[0]
	return &keyholder.Revocation{Method: "DELETE", URL: firstOf(r.Upstream, "https://"+r.Host) + "/api/v4/personal_access_tokens/self",
		Header: "PRIVATE-TOKEN", CAFile: r.CAFile, AllowPrivate: r.AllowPrivate}
}

func (a *App) credentialProblem(err error, provider string, req AuthRequest) error {
	if errors.Is(err, keyholder.ErrNoCredential) {
		return problem.New("credential_missing", problem.NotFound, "no credential of %s is stored in %s for %s", firstOf(req.Account, store.DefaultAccount),
			firstOf(req.Scope, "shared"), provider).WithHint("terok auth --list")
	}
	return a.vaultProblem(err)
}

// tasksWith lists the running tasks that use, or would use, a provider's credential of a scope.
func (a *App) tasksWith(provider, scope string) []string {
	refs := []string{}
	list, err := a.tasks().List()
	if err != nil {
		return refs
	}
	for i := range list {
		t := &list[i].Task
		f, err := sandbox.Load(sandbox.Path(t.Dir(a.Roots)))
		if err != nil || f.Vault == nil || !answers(a.controlSocket(taskKey(t))) {
			continue
		}
		for _, g := range f.Vault.Grants {
			if g.Provider == provider && (g.Scope == scope || scope == "project:"+t.Project) && !slices.Contains(refs, t.Ref()) {
				refs = append(refs, t.Ref())
			}
		}
	}
	return refs
}

// answers reports whether a supervisor listens on a control socket.
func answers(socket string) bool {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return false
	}
	c.Close()
	return true
}
