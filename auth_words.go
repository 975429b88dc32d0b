package terok

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"terok/internal/problem"
	"terok/internal/roster"
	"terok/internal/text"
	"terok/internal/vault/oauth"
	"terok/internal/vault/store"
)

// saysInvalid reports whether a provider says in a successful answer that the credential is none,
// as SonarCloud does.
func saysInvalid(body []byte) bool {
	var a struct {
		Valid *bool `json:"valid"`
	}
	return json.Unmarshal(body, &a) == nil && a.Valid != nil && !*a.Valid
}

// loginOf finds whom the provider knows a credential as: a name or an address, "" when it does not
// say.
func loginOf(body []byte) string {
	var a struct {
		Login    string `json:"login"`
		Username string `json:"username"`
		Email    string `json:"email"`
		Account  struct {
			Email string `json:"email"`
			Name  string `json:"full_name"`
		} `json:"account"`
	}
	if json.Unmarshal(body, &a) != nil {
		return ""
	}
	login := firstOf(a.Login, a.Username, a.Email, a.Account.Email, a.Account.Name)
	if line := text.Line(login, 120); line == login {
		return login
	}
	return ""
}

// tooMighty says what a credential may do that no task should.
func tooMighty(p *roster.Provider, got *oauth.Captured, answer http.Header) []string {
	var warnings []string
	for _, prefix := range []string{"sk-ant-admin", "sk-admin-"} {
		if strings.HasPrefix(string(got.Token.Access), prefix) {
			warnings = append(warnings, "this is an administration key of "+p.Title+": it can make and delete keys; use an ordinary one")
		}
	}
	scopes := strings.FieldsFunc(strings.Join(answer.Values("X-Oauth-Scopes"), ","), func(r rune) bool { return r == ',' || r == ' ' })
	scopes = append(scopes, got.Token.Scopes...)
	slices.Sort(scopes)
	for _, s := range slices.Compact(scopes) {
		if strings.HasPrefix(s, "admin:") || s == "delete_repo" || s == "sudo" || s == "site_admin" {
			warnings = append(warnings, "the token has the right "+text.Line(s, 64)+", which no task needs; a token without it is safer")
		}
	}
	return warnings
}

// AuthBadge is the state of a credential in a word or two: the same words in every face.
func AuthBadge(c Credential, now time.Time) string {
	login := ""
	if account := c.Public["account"]; account != "" {
		login = ", " + text.Line(account, 40)
	}
	switch {
	case c.State == store.StateReauth:
		return "⚠ re-auth needed"
	case c.State == store.StateInvalid:
		return "✗ rejected"
	case c.Refreshing:
		return "↻ refreshing"
	case !c.ExpiresAt.IsZero() && c.Endpoint == nil && !c.ExpiresAt.After(now):
		return "⚠ re-auth needed"
	case !c.ExpiresAt.IsZero() && c.Endpoint == nil && c.ExpiresAt.Sub(now) < 7*24*time.Hour:
		return "⏳ expires in " + text.Duration(c.ExpiresAt.Sub(now))
	case c.State == store.StateUnverified:
		return "? not verified"
	}
	return "✓ ok (" + text.Duration(max(now.Sub(c.UpdatedAt), 0)) + login + ")"
}

// AuthChoice is one line of the menu of `terok auth`.
type AuthChoice struct {
	Provider string   `json:"provider"`
	Title    string   `json:"title"`
	Agents   []string `json:"agents"` // that use it first
	Badge    string   `json:"badge"`  // of the shared credential; "none", or "? locked"
	SignIn   bool     `json:"sign_in"`
}

// AuthChoices are the providers, for the menu. While the vault is locked their badges say so.
func (a *App) AuthChoices(ctx context.Context) ([]AuthChoice, error) {
	set, err := roster.Load(a.Roots)
	if err != nil {
		return nil, err
	}
	stored, err := a.AuthList(ctx)
	locked := problem.Of(err) != nil && problem.Of(err).Exit == problem.Locked
	if err != nil && !locked {
		return nil, err
	}
	var out []AuthChoice
	for _, p := range set.Providers() {
		c := AuthChoice{Provider: p.Name, Title: p.Title, Agents: []string{}, Badge: "none", SignIn: p.SignIn != nil}
		for _, agent := range set.Agents() {
			if len(agent.Providers) > 0 && agent.Providers[0] == p.Name {
				c.Agents = append(c.Agents, agent.Name)
			}
		}
		for _, cred := range stored {
			if cred.Provider == p.Name && (c.Badge == "none" || cred.Scope == "shared") {
				c.Badge = AuthBadge(cred, a.Now())
			}
		}
		if locked {
			c.Badge = "? locked"
		}
		out = append(out, c)
	}
	return out, nil
}

// AuthWays says how a person can sign in at a provider besides giving a key.
type AuthWays struct {
	Provider string
	Title    string
	KeyURL   string
	Program  string // words for the vendor's program, "" when there is none
	Device   bool   // by a code, without any program
	Browser  bool   // by a browser on this machine, without any program
}

// AuthWays looks a provider's ways to sign in up, by its own or an agent's name.
func (a *App) AuthWays(name string) (AuthWays, error) {
	_, p, err := a.authProvider(name)
	if err != nil {
		return AuthWays{}, err
	}
	w := AuthWays{Provider: p.Name, Title: p.Title, KeyURL: p.KeyURL, Device: canDevice(p), Browser: canBrowse(p)}
	if p.SignIn != nil {
		w.Program = strings.Join(p.SignIn.Command, " ")
		if p.SignIn.Agent != "" {
			w.Program = p.SignIn.Agent + " " + w.Program
		}
	}
	return w, nil
}
