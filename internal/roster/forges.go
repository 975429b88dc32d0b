package roster

import (
	"slices"

	"terok/internal/sandbox"
	"terok/internal/vault/oauth"
)

// The forges are open to reading; writing is confined to the project's repository by the front
// (internal/vault/front). What is refused here would outlive the task or reach beyond the
// repository: keys, tokens, hooks, secrets, members, and what gives the repository away. The
// patterns begin with "/**" because a company's own installation has its API below a path.

// denyWrites leaves reading open.
const denyWrites = "deny POST,PUT,PATCH,DELETE"

// below makes a rule for each name below a path, with everything under it.
func below(action, path string, names ...string) []string {
	var rules []string
	for _, n := range names {
		rules = append(rules, action+" "+path+n+"/**")
	}
	return rules
}

func github() *Provider {
	auth := sandbox.Auth{
		Header: "Authorization", Prefix: "token ", Env: map[string]string{"GH_TOKEN": sandbox.PhantomMark},
		Probe: sandbox.Probe{Host: "api.github.com", Method: "GET", Path: "/user"},
	}
	repo, org := "/**/repos/*/*/", "/**/orgs/*/"
	r := route("api.github.com")
	r.Policy = slices.Concat(
		below("deny", "/**/", "copilot_internal", "app", "app-manifests", "applications", "authorizations", "scim"), // they mint credentials
		below("deny", "/**/user/", "keys", "gpg_keys", "ssh_signing_keys"),
		below(denyWrites, "/**/user/", "emails", "email", "installations", "codespaces", "migrations", "packages"),
		below("deny", repo, "keys", "collaborators", "transfer", "forks", "generate", "installation", "actions/runners"),
		below("deny", org, "actions/runners", "actions/runner-groups", "personal-access-tokens", "personal-access-token-requests"),
		below(denyWrites, repo, "hooks", "invitations", "actions/secrets", "dependabot/secrets", "codespaces", "actions/variables",
			"actions/permissions", "actions/oidc", "environments", "rulesets", "branches/*/protection", "tags/protection", "pages",
			"autolinks", "interaction-limits", "security-advisories", "private-vulnerability-reporting", "import", "properties"),
		below(denyWrites, org, "hooks", "invitations", "members", "memberships", "outside_collaborators", "actions", "dependabot", "codespaces",
			"rulesets", "migrations", "teams", "installations", "security-managers", "packages"),
		[]string{"deny PATCH,DELETE /**/repos/*/*", "deny GET,POST,PUT,PATCH,DELETE /**/installations/*/access_tokens/**"},
	)
	r.Default = "allow"
	r.RedirectHosts = []string{"codeload.github.com", "objects.githubusercontent.com", "release-assets.githubusercontent.com"}
	return &Provider{
		Name: "github", Title: "GitHub", Routes: []sandbox.Route{r}, Forge: sandbox.GitHub,
		// Much of the API is public, and what a person opens by name without a grant stays open.
		SharedDomain: true,
		Kinds:        []string{sandbox.PAT, sandbox.OAuth},
		Auth:         map[string]sandbox.Auth{sandbox.PAT: auth, sandbox.OAuth: auth},
		KeyURL:       "https://github.com/settings/tokens",
		Refresh: &oauth.Endpoint{TokenURL: "https://github.com/login/oauth/access_token", DeviceURL: "https://github.com/login/device/code",
			Scope: "repo read:org", Form: true},
	}
}

func gitlab() *Provider {
	project, group := "/**/projects/*/", "/**/groups/*/"
	r := route("gitlab.com")
	both := func(action string, names ...string) []string {
		return slices.Concat(below(action, project, names...), below(action, group, names...))
	}
	r.Policy = slices.Concat(
		// The rotation of a personal access token answers with a real one.
		below("deny", "/**/", "personal_access_tokens", "deploy_keys", "deploy_tokens", "runners", "application", "applications", "hooks", "feed_token"),
		below("deny", "/**/user/", "keys", "gpg_keys", "runners", "personal_access_tokens"),
		below("deny", "/**/users/*/", "keys", "gpg_keys", "impersonation_tokens", "personal_access_tokens"),
		below(denyWrites, "/**/user/", "emails", "status", "avatar"),
		both("deny", "access_tokens", "deploy_keys", "deploy_tokens", "runners", "triggers", "variables", "trigger", "ref/*/trigger", "export"),
		both(denyWrites, "hooks", "integrations", "services", "members", "invitations", "share", "protected_branches", "protected_tags",
			"protected_environments", "cluster_agents", "clusters", "remote_mirrors", "mirror", "job_token_scope", "push_rule",
			"approval_rules", "saml_group_links", "ldap_group_links", "access_requests", "transfer", "fork", "archive", "restore", "pages"),
		[]string{"deny PUT,DELETE /**/projects/*", "deny PUT,DELETE /**/groups/*", "allow /api/**"},
	)
	return &Provider{
		Name: "gitlab", Title: "GitLab", Routes: []sandbox.Route{r}, Forge: sandbox.GitLab,
		Kinds: []string{sandbox.PAT, sandbox.OAuth},
		Auth: map[string]sandbox.Auth{
			sandbox.PAT: {
				Header: "PRIVATE-TOKEN", Env: map[string]string{"GITLAB_TOKEN": sandbox.PhantomMark},
				Probe: sandbox.Probe{Host: "gitlab.com", Method: "GET", Path: "/api/v4/user"},
			},
			sandbox.OAuth: {
				Header: "Authorization", Prefix: "Bearer ", Env: map[string]string{"GITLAB_TOKEN": sandbox.PhantomMark},
				Probe: sandbox.Probe{Host: "gitlab.com", Method: "GET", Path: "/api/v4/user"},
			},
		},
		Query:        []string{"private_token", "access_token"},
		SharedDomain: true,
		KeyURL:       "https://gitlab.com/-/user_settings/personal_access_tokens",
		Refresh: &oauth.Endpoint{TokenURL: "https://gitlab.com/oauth/token", DeviceURL: "https://gitlab.com/oauth/authorize_device",
			AuthorizeURL: "https://gitlab.com/oauth/authorize", RevokeURL: "https://gitlab.com/oauth/revoke", Scope: "api", Form: true},
	}
}
