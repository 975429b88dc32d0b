package roster

import (
	"slices"

	"terok/internal/sandbox"
	"terok/internal/vault/oauth"
)

// The forges are open to reading; writing is confined to the project's repository by the front
// (internal/vault/front). What is refused here would outlive the task or reach beyond the
// repository: keys, tokens, hooks, secrets, members, what guards branches, and what gives the
// repository away. A forge knows one thing by several paths, and each of them is here: repositories
// and organisations by name and by number, and the API of a company's own installation. Paths are
// whole from the API's root on, so that a file or branch that is called "keys" stays readable.

// denyWrites leaves reading open.
const denyWrites = "deny POST,PUT,PATCH,DELETE"

// below makes a rule for each name below each path, with everything under it.
func below(action string, paths []string, names ...string) []string {
	var rules []string
	for _, path := range paths {
		for _, n := range names {
			rules = append(rules, action+" "+path+n+"/**")
		}
	}
	return rules
}

// at appends words to each path.
func at(paths []string, words ...string) []string {
	var all []string
	for _, path := range paths {
		for _, w := range words {
			all = append(all, path+w)
		}
	}
	return all
}

func github() *Provider {
	auth := sandbox.Auth{
		Header: "Authorization", Prefix: "token ", Env: map[string]string{"GH_TOKEN": sandbox.PhantomMark},
		Probe: sandbox.Probe{Host: "api.github.com", Method: "GET", Path: "/user"},
	}
	root := []string{"/", "/api/v3/"}
	repos := at(root, "repos/*/*", "repositories/*")
	repo, user := at(repos, "/"), at(root, "user/")
	r := route("api.github.com")
	r.Policy = slices.Concat(
		below("deny", root, "copilot_internal", "app", "app-manifests", "applications", "authorizations", "scim", // they mint credentials
			"installations/*/access_tokens", "app/installations", "admin", "setup", "manage"),
		below("deny", at(root, "enterprises/*/", "orgs/*/", "organizations/*/"), "actions/runners", "actions/runner-groups",
			"personal-access-tokens", "personal-access-token-requests"),
		below("deny", user, "keys", "gpg_keys", "ssh_signing_keys"),
		below(denyWrites, user, "emails", "email", "installations", "codespaces", "migrations", "packages", "memberships", "repository_invitations"),
		below("deny", repo, "keys", "collaborators", "transfer", "forks", "generate", "installation", "actions/runners"),
		below(denyWrites, repo, "hooks", "invitations", "actions/secrets", "dependabot", "codespaces", "actions/variables",
			"actions/permissions", "actions/oidc", "environments", "rulesets", "branches/**/protection", "tags/protection", "pages",
			"autolinks", "interaction-limits", "security-advisories", "private-vulnerability-reporting", "import", "properties",
			"vulnerability-alerts", "automated-security-fixes", "secret-scanning", "code-scanning", "immutable-releases"),
		at([]string{"deny PATCH,DELETE "}, repos...),
		below(denyWrites, root, "orgs", "organizations", "enterprises", "teams"),
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
	root := []string{"/api/v4/"}
	both := at(root, "projects/*/", "groups/*/")
	r := route("gitlab.com")
	r.Policy = slices.Concat(
		// The rotation of a personal access token answers with a real one.
		below("deny", root, "personal_access_tokens", "deploy_keys", "deploy_tokens", "runners", "application", "applications", "hooks", "feed_token",
			"admin", "features", "license", "geo", "geo_nodes", "geo_sites", "internal", "service_accounts"),
		below(denyWrites, root, "bulk_imports", "import"),
		below("deny", at(root, "user/", "users/*/"), "keys", "gpg_keys", "runners", "personal_access_tokens", "impersonation_tokens", "feed_token"),
		below(denyWrites, root, "users", "user/emails", "user/status", "user/avatar"),
		// Some of these are read as well as written: variables, states and schedules hold secrets.
		below("deny", both, "access_tokens", "deploy_keys", "deploy_tokens", "runners", "triggers", "variables", "trigger", "ref/*/trigger",
			"export", "export_relations", "hooks", "secure_files", "terraform", "pipeline_schedules", "pipelines/*/variables", "service_accounts",
			"manage", "ssh_certificates", "scim"),
		below(denyWrites, both, "integrations", "services", "members", "invitations", "share", "protected_branches", "protected_tags",
			"protected_environments", "cluster_agents", "clusters", "remote_mirrors", "mirror", "job_token_scope", "push_rule",
			"approval_rules", "approvals", "approval_settings", "merge_request_approval_setting", "merge_request_approval_settings",
			"external_status_checks", "error_tracking", "registry/protection", "packages/protection", "security_settings",
			"repository/branches/*/protect", "repository/branches/*/unprotect", "saml_group_links", "ldap_group_links",
			"access_requests", "transfer", "fork", "archive", "restore", "pages"),
		[]string{"deny PUT,DELETE /api/v4/projects/*", "deny PUT,DELETE /api/v4/groups/*", "allow /api/v4/**", "allow /api/graphql/**"},
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
