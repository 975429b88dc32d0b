package roster

import (
	"strings"
	"testing"
)

// TestForgesMintNothing: what outlives a task or reaches beyond its repository is refused under
// every name that a forge has for it: repositories and organisations by number, branches with
// slashes, installations of a company's own.
func TestForgesMintNothing(t *testing.T) {
	github := `
		POST /repositories/42/keys
		POST /repositories/42/hooks
		PUT /repositories/42/collaborators/mallory
		PUT /repositories/42/environments/prod/secrets/X
		PUT /repositories/42/actions/secrets/X
		POST /repositories/42/actions/runners/registration-token
		POST /repositories/42/transfer
		PATCH /repositories/42
		DELETE /repositories/42
		POST /organizations/7/hooks
		POST /organizations/7/actions/runners/registration-token
		POST /enterprises/e/actions/runners/registration-token
		PUT /teams/7/memberships/mallory
		PUT /orgs/o/memberships/mallory
		POST /orgs/o/private-registries
		POST /orgs/o/organization-roles
		DELETE /repos/o/r/branches/release/1.0/protection
		PUT /repos/o/r/branches/release%2F1.0/protection
		DELETE /repos/o/r/branches/main/protection/required_status_checks
		DELETE /repos/o/r/vulnerability-alerts
		DELETE /repos/o/r/automated-security-fixes
		PATCH /repos/o/r/secret-scanning/alerts/1
		POST /repos/o/r/secret-scanning/push-protection-bypasses
		PATCH /repos/o/r/dependabot/alerts/1
		PATCH /repos/o/r/code-scanning/default-setup
		DELETE /repos/o/r/immutable-releases
		PATCH /user/memberships/orgs/o
		PATCH /user/repository_invitations/1
		POST /admin/users/x/authorizations
		POST /setup/api/settings/authorized-keys
		POST /manage/v1/config/init`
	for line := range strings.Lines(strings.TrimSpace(github)) {
		w := strings.Fields(line)
		for _, path := range []string{w[1], "/api/v3" + w[1], strings.ToUpper(w[1])} {
			if got := decide(t, "github", "api.github.com", w[0], path); got != "deny" {
				t.Errorf("GitHub: %s %s: %s", w[0], path, got)
			}
		}
	}
	gitlab := `
		POST /groups/1/service_accounts
		POST /groups/1/service_accounts/2/personal_access_tokens
		POST /service_accounts
		GET /groups/1/manage/personal_access_tokens
		GET /projects/1/secure_files/2/download
		GET /projects/g%2Fr/secure_files
		GET /projects/1/terraform/state/prod
		GET /projects/1/pipeline_schedules/1
		POST /projects/1/pipeline_schedules
		GET /projects/1/pipelines/9/variables
		POST /projects/1/error_tracking/client_keys
		POST /projects/1/external_status_checks
		POST /projects/1/approvals
		PUT /projects/1/merge_request_approval_setting
		POST /projects/1/export_relations
		PUT /projects/1/repository/branches/main/unprotect
		PUT /projects/1/repository/branches/release%2F1/unprotect
		POST /projects/1/registry/protection/repository/rules
		POST /projects/1/cluster_agents/1/tokens
		GET /projects/1/hooks
		POST /groups/1/ssh_certificates
		GET /admin/ci/variables
		POST /features/x
		POST /bulk_imports
		POST /import/github
		POST /users/1/block
		POST /runners`
	for line := range strings.Lines(strings.TrimSpace(gitlab)) {
		w := strings.Fields(line)
		for _, path := range []string{w[1], w[1] + ".json"} {
			if got := decide(t, "gitlab", "gitlab.com", w[0], "/api/v4"+path); got != "deny" {
				t.Errorf("GitLab: %s %s: %s", w[0], path, got)
			}
		}
	}
	if got := decide(t, "gitlab", "gitlab.com", "POST", "/api/scim/v2/groups/g/Users"); got != "deny" {
		t.Error("SCIM:", got)
	}
}

// TestForgesReadEveryFile: a file, branch or label that is called like something refused is none.
func TestForgesReadEveryFile(t *testing.T) {
	for _, path := range []string{"/repos/o/r/contents/app/models/user.rb", "/repos/o/r/contents/applications/x", "/repos/o/r/contents/admin/user/keys/x",
		"/repos/o/r/contents/orgs/x/hooks/y", "/repositories/42/contents/app/x", "/repos/o/r/git/ref/heads/app/x", "/api/v3/repos/o/r/contents/app/x",
		"/repos/app/keys", "/repos/keys/app/issues", "/orgs/app/repos"} {
		if got := decide(t, "github", "api.github.com", "GET", path); got != "allow" {
			t.Errorf("GitHub: GET %s: %s", path, got)
		}
	}
	for _, path := range []string{"/repository/files/hooks%2Fuse.ts", "/repository/files/runners%2Fapplication%2Fx/raw", "/repository/files/app%2Fadmin%2Fkeys.rb",
		"/repository/branches/hooks%2Fx", "/issues/1"} {
		if got := decide(t, "gitlab", "gitlab.com", "GET", "/api/v4/projects/g%2Fr"+path); got != "allow" {
			t.Errorf("GitLab: GET %s: %s", path, got)
		}
	}
	for _, c := range []string{"PUT /api/v4/projects/1/repository/files/runners%2Fx", "POST /api/v4/projects/1/repository/commits", "POST /api/v4/projects/1/merge_requests/1/notes",
		"POST /api/v4/projects/1/repository/branches"} {
		w := strings.Fields(c)
		if got := decide(t, "gitlab", "gitlab.com", w[0], w[1]); got != "allow" {
			t.Errorf("GitLab: %s: %s", c, got)
		}
	}
	for _, c := range []string{"PUT /repos/o/r/contents/app/x", "POST /repos/o/r/git/refs", "POST /repositories/42/pulls", "PUT /repos/o/r/pulls/1/merge", "POST /repos/o/r/branches/app/rename"} {
		w := strings.Fields(c)
		if got := decide(t, "github", "api.github.com", w[0], w[1]); got != "allow" {
			t.Errorf("GitHub: %s: %s", c, got)
		}
	}
}
