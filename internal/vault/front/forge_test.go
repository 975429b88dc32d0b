package front

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"terok/internal/sandbox"
)

// forge is an upstream that knows which repository an id belongs to and counts what it was asked.
type forge struct {
	t       *testing.T
	lookups atomic.Int64
	writes  atomic.Int64
	broken  atomic.Bool
}

func (g *forge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if got := r.Header.Get("Authorization") + r.Header.Get("Private-Token"); !strings.Contains(got, realKey) {
		g.t.Errorf("%s %s came with %q", r.Method, r.URL, got)
	}
	body, _ := io.ReadAll(r.Body)
	lookup := func(answer string) {
		g.lookups.Add(1)
		if g.broken.Load() {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		io.WriteString(w, answer)
	}
	switch {
	case r.Method == "GET" && r.URL.Path == "/repositories/42", r.Method == "GET" && r.URL.Path == "/api/v3/repositories/42":
		lookup(`{"full_name":"Acme/Shop"}`)
	case r.Method == "GET" && r.URL.Path == "/repositories/43":
		lookup(`{"full_name":"acme/other"}`)
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/repositories/"):
		g.lookups.Add(1)
		http.NotFound(w, r)
	case r.Method == "GET" && r.URL.Path == "/api/v4/projects/42":
		lookup(`{"path_with_namespace":"acme/shop"}`)
	case r.Method == "GET" && strings.HasPrefix(r.URL.Path, "/api/v4/projects/4"):
		lookup(`{"path_with_namespace":"acme/other"}`)
	case strings.Contains(string(body), "nodes(ids:"):
		var q struct{ Variables struct{ IDs []string } }
		if err := json.Unmarshal(body, &q); err != nil {
			g.t.Error(err)
		}
		var nodes []string
		for _, id := range q.Variables.IDs {
			switch id[:2] {
			case "R_":
				nodes = append(nodes, fmt.Sprintf(`{"__typename":"Repository","id":%q,"nameWithOwner":"acme/%s"}`, id, id[2:]))
			case "I_":
				nodes = append(nodes, fmt.Sprintf(`{"__typename":"Issue","id":%q,"repository":{"nameWithOwner":"acme/%s"}}`, id, id[2:]))
			case "U_":
				nodes = append(nodes, fmt.Sprintf(`{"__typename":"User","id":%q}`, id))
			default:
				nodes = append(nodes, "null")
			}
		}
		lookup(`{"data":{"nodes":[` + strings.Join(nodes, ",") + `]}}`)
	default:
		g.writes.Add(1)
		io.WriteString(w, `{}`)
	}
}

func newForge(t *testing.T, kind string, change func(*sandbox.Grant)) (*rig, *forge) {
	t.Helper()
	g := &forge{t: t}
	r := newRig(t, g.ServeHTTP, func(c *Config, _ *httptest.Server) {
		grant := &c.Grants[0].Grant
		grant.Provider, grant.Forge, grant.Repos = kind, kind, []string{"acme/shop"}
		grant.Auth = map[string]sandbox.Auth{sandbox.APIKey: {Header: "Authorization", Prefix: "token "}}
		if kind == sandbox.GitLab {
			grant.Auth = map[string]sandbox.Auth{sandbox.APIKey: {Header: "PRIVATE-TOKEN"}}
		}
		grant.Routes[0].Default = "allow"
		if change != nil {
			change(grant)
		}
	})
	return r, g
}

type forgeCase struct {
	method, path, body string
	code               string // of the refusal, "" is relayed
}

func (r *rig) forgeCases(g *forge, cases []forgeCase) {
	r.t.Helper()
	for _, c := range cases {
		before := g.writes.Load()
		req := r.request(c.method, c.path, c.body)
		if strings.HasPrefix(c.body, "form:") {
			req = r.request(c.method, c.path, c.body[5:])
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		resp, body := r.do(req)
		got := resp.Header.Get("X-Terok-Broker")
		if got != c.code || (g.writes.Load() != before) != (c.code == "") {
			r.t.Errorf("%s %s %s: %d %q, want %q: %s", c.method, c.path, c.body, resp.StatusCode, got, c.code, body)
		}
		if got != "" && got != "bad_target" && resp.StatusCode != 403 {
			r.t.Errorf("%s %s: %d", c.method, c.path, resp.StatusCode)
		}
	}
}

// TestGitHubWrites: writing is confined to the project's repository by path and by number.
func TestGitHubWrites(t *testing.T) {
	r, g := newForge(t, sandbox.GitHub, nil)
	r.forgeCases(g, []forgeCase{
		{"GET", "/repos/other/repo/pulls", "", ""},
		{"GET", "/user", "", ""},
		{"POST", "/repos/acme/shop/pulls", `{"title":"t"}`, ""},
		{"POST", "/repos/ACME/Shop/pulls", `{"title":"t"}`, ""},
		{"POST", "/api/v3/repos/acme/shop/pulls", `{"title":"t"}`, ""},
		{"PATCH", "/repos/acme/shop/git/refs/heads%2Fx", `{"sha":"1"}`, ""},
		{"POST", "/repos/acme/shop/statuses/1", `{"target_url":"https://ci.test/1"}`, ""},
		{"POST", "/repositories/42/issues", `{"title":"t"}`, ""},
		{"POST", "/markdown", `{"text":"t"}`, ""},
		{"POST", "/repos/acme/other/pulls", `{"title":"t"}`, "repo_denied"},
		{"POST", "/repos/acme/shop-other/pulls", `{}`, "repo_denied"},
		{"PUT", "/repos/evil/acme%2Fshop/contents/x", `{}`, "bad_target"},
		{"PUT", "/repos%2Facme/shop/contents/x", `{}`, "bad_target"},
		{"PUT", "/repos/acme%2Fshop/contents/x", `{}`, "bad_target"},
		{"POST", "/repos/acme/shop/../other/pulls", `{}`, "bad_target"},
		{"POST", "/repositories/43/issues", `{}`, "repo_denied"},
		{"POST", "/repositories/99/issues", `{}`, "repo_denied"},
		{"POST", "/gists", `{"files":{}}`, "repo_denied"},
		{"POST", "/user/repos", `{"name":"x"}`, "repo_denied"},
		{"PUT", "/user/starred/acme/shop", "", "repo_denied"},
		{"DELETE", "/orgs/acme/x", "", "repo_denied"},
		{"GET", "/repos/acme/other/pulls?_method=DELETE", "", "repo_denied"},
	})
	req := r.request("GET", "/repos/acme/other/issues/1", "")
	req.Header.Set("X-HTTP-Method-Override", "PATCH")
	if resp, _ := r.do(req); resp.Header.Get("X-Terok-Broker") != "repo_denied" {
		t.Error("an override wrote", resp.Status)
	}
	g.broken.Store(true)
	r.forgeCases(g, []forgeCase{{"POST", "/repositories/42/issues", `{}`, ""}, {"POST", "/repositories/44/issues", `{}`, "repo_denied"}})
}

// TestGitLabWrites: the same for paths, numbers and parameters of GitLab.
func TestGitLabWrites(t *testing.T) {
	r, g := newForge(t, sandbox.GitLab, nil)
	r.forgeCases(g, []forgeCase{
		{"GET", "/api/v4/projects/other%2Frepo/issues", "", ""},
		{"POST", "/api/v4/projects/acme%2Fshop/issues", `{"title":"t"}`, ""},
		{"POST", "/api/v4/projects/Acme%2FShop/issues", `form:title=t`, ""},
		{"POST", "/api/v4/projects/42/merge_requests", `{"title":"t","target_project_id":42}`, ""},
		{"POST", "/api/v4/projects/42/merge_requests", `{"title":"t","target_project_id":null}`, ""},
		{"POST", "/api/v4/projects/42/merge_requests", `{"title":"t","target_project_id":"acme/shop"}`, ""},
		{"PUT", "/api/v4/projects/42/repository/files/src%2Fmain.go", `{"content":"x"}`, ""},
		{"POST", "/api/v4/projects/acme%2Fother/issues", `{}`, "repo_denied"},
		{"POST", "/api/v4/projects/43/issues", `{}`, "repo_denied"},
		{"POST", "/api/v4/projects/acme/shop/issues", `{}`, "repo_denied"},
		{"POST", "/api/v4/projects", `{"name":"x"}`, "repo_denied"},
		{"POST", "/api/v4/snippets", `{}`, "repo_denied"},
		{"POST", "/api/v4/groups/1/wikis", `{}`, "repo_denied"},
		{"POST", "/api/v4/projects/42/merge_requests", `{"target_project_id":43}`, "repo_denied"},
		{"POST", "/api/v4/projects/42/merge_requests", `{"target_project_id":42,"target_project_id":43}`, "repo_denied"},
		{"POST", "/api/v4/projects/42/merge_requests", `{"target_project_id":"43"}`, "repo_denied"},
		{"POST", "/api/v4/projects/42/merge_requests", `{"target\u005fproject_id":43}`, "repo_denied"},
		{"POST", "/api/v4/projects/42/merge_requests?target_project_id=43", `{}`, "repo_denied"},
		{"POST", "/api/v4/projects/42/merge_requests", `form:target_project_id=43`, "repo_denied"},
		{"POST", "/api/v4/projects/42/issues/1/move", `{"to_project_id":43}`, "repo_denied"},
		{"POST", "/api/v4/projects/43%2F..%2F42/issues", `{}`, "bad_target"},
	})
}

func gql(query string, variables string) string {
	q, _ := json.Marshal(query)
	if variables != "" {
		variables = `,"variables":` + variables
	}
	return `{"query":` + string(q) + variables + `}`
}

// TestGraphQL: spec/vault.md §10: 39, and mutations are confined by what their ids mean.
func TestGraphQL(t *testing.T) {
	r, g := newForge(t, sandbox.GitHub, nil)
	big := gql("{a}"+strings.Repeat("#\n", 40_000), "")
	r.forgeCases(g, []forgeCase{
		{"POST", "/graphql", gql(`{viewer{login}}`, ""), ""},
		{"POST", "/graphql", gql(`mutation($input:CreatePullRequestInput!){createPullRequest(input:$input){pullRequest{id}}}`,
			`{"input":{"repositoryId":"R_shop","headRepositoryId":"R_shop","title":"t","clientMutationId":"R_other"}}`), ""},
		{"POST", "/graphql", gql(`mutation{addComment(input:{subjectId:"I_shop",body:"b"}){x}}`, ""), ""},
		{"POST", "/graphql", gql(`mutation{addAssigneesToAssignable(input:{assignableId:"I_shop",assigneeIds:["U_a","U_b"]}){x}}`, ""), ""},
		{"POST", "/graphql", gql(`mutation($i:X){createCommitOnBranch(input:$i){x}}`, `{"i":{"branch":{"repositoryNameWithOwner":"acme/shop","branchName":"b"}}}`), ""},

		{"POST", "/graphql", gql(`mutation{createPullRequest(input:{repositoryId:"R_other"}){x}}`, ""), "repo_denied"},
		{"POST", "/graphql", gql(`mutation{createPullRequest(input:{repositoryId:"R_shop",headRepositoryId:"R_other"}){x}}`, ""), "repo_denied"},
		{"POST", "/graphql", gql(`mutation{addComment(input:{subjectId:"I_other",body:"b"}){x}}`, ""), "repo_denied"},
		{"POST", "/graphql", gql(`mutation{addComment(input:{subjectId:"X_unknown",body:"b"}){x}}`, ""), "repo_denied"},
		{"POST", "/graphql", gql(`mutation{addComment(input:{body:"b"}){x}}`, ""), "repo_denied"},
		{"POST", "/graphql", gql(`mutation{addAssigneesToAssignable(input:{assignableId:null,assigneeIds:["U_a"]}){x}}`, ""), "repo_denied"},
		{"POST", "/graphql", gql(`mutation{updateIssue(input:{id:12}){x}}`, ""), "repo_denied"},
		{"POST", "/graphql", gql(`mutation($a:ID="I_other"){a:addComment(input:{subjectId:"I_shop"}){x} b:addComment(input:{subjectId:$a}){x}}`, ""), "repo_denied"},
		{"POST", "/graphql", gql(`mutation($i:X){createCommitOnBranch(input:$i){x}}`, `{"i":{"branch":{"repositoryNameWithOwner":"acme/other"}}}`), "repo_denied"},

		{"POST", "/graphql", gql(`mutation{deleteRepository(input:{repositoryId:"R_shop"}){x}}`, ""), "path_denied"},
		{"POST", "/graphql", gql(`mutation{addComment:createDeployKey(input:{repositoryId:"R_shop"}){x}}`, ""), "path_denied"},
		{"POST", "/graphql", gql(`mutation{...F} fragment F on Mutation{transferIssue(input:{issueId:"I_shop"}){x}}`, ""), "path_denied"},
		{"POST", "/graphql", gql("mutation#{addComment\n{#x\ndeleteRepository(input:{}){x}}", ""), "path_denied"},
		{"POST", "/graphql", gql(`query A{a} mutation B{deleteRepository(input:{}){x}}`, ""), "path_denied"},
		{"POST", "/graphql", gql(`subscription{a}`, ""), "path_denied"},
		{"POST", "/graphql", "[" + gql(`{a}`, "") + "]", "path_denied"},
		{"POST", "/graphql", `{"query":"{a}","query":"mutation{deleteRepository(input:{}){x}}"}`, "path_denied"},
		{"POST", "/graphql", `{"query":"mutation{deleteRepository(input:{}){x}}","query":"{a}"}`, "path_denied"},
		{"POST", "/graphql.1", gql(`mutation{deleteRepository(input:{}){x}}`, ""), "path_denied"},
		{"POST", "/graphql", `{"query":"{a}","extensions":{"persistedQuery":{}}}`, "path_denied"},
		{"POST", "/graphql", `{"documentId":"x"}`, "path_denied"},
		{"POST", "/graphql", big, "path_denied"},
		{"POST", "/graphql", `form:query=mutation{x}`, "path_denied"},
		{"POST", "/graphql", ``, "path_denied"},
		{"POST", "/graphql?query=mutation{x}", gql(`{a}`, ""), "path_denied"},
		{"GET", "/graphql?query=mutation{x}", "", "path_denied"},
		{"GET", "/graphql", "", "path_denied"},
		{"POST", "/api/graphql", gql(`mutation{deleteRepository(input:{}){x}}`, ""), "path_denied"},
		{"POST", "/GraphQL.json", gql(`mutation{deleteRepository(input:{}){x}}`, ""), "path_denied"},
		{"POST", "/api%2Fgraphql", gql(`mutation{deleteRepository(input:{}){x}}`, ""), "path_denied"},
	})
	before := g.lookups.Load()
	r.forgeCases(g, []forgeCase{{"POST", "/graphql", gql(`mutation{addComment(input:{subjectId:"I_shop",body:"b"}){x}}`, ""), ""}})
	if g.lookups.Load() != before {
		t.Error("a known id was asked for again")
	}
	g.broken.Store(true)
	r.forgeCases(g, []forgeCase{{"POST", "/graphql", gql(`mutation{addComment(input:{subjectId:"I_shop2",body:"b"}){x}}`, ""), "repo_denied"}})

	r, g = newForge(t, sandbox.GitHub, func(s *sandbox.Grant) { s.AllRepos = true })
	r.forgeCases(g, []forgeCase{
		{"POST", "/repos/acme/other/pulls", `{}`, ""},
		{"POST", "/graphql", gql(`mutation{addComment(input:{subjectId:"I_other",body:"b"}){x}}`, ""), ""},
		{"POST", "/graphql", gql(`mutation{deleteRepository(input:{repositoryId:"R_shop"}){x}}`, ""), "path_denied"},
	})
	r, g = newForge(t, sandbox.GitLab, nil)
	r.forgeCases(g, []forgeCase{
		{"POST", "/api/graphql", gql(`mutation{mergeRequestCreate(input:{projectPath:"acme/shop",title:"t"}){x}}`, ""), ""},
		{"POST", "/api/graphql", gql(`mutation{mergeRequestSetAssignees(input:{projectPath:"acme/shop",iid:"1",assigneeUsernames:["a"]}){x}}`, ""), ""},
		{"POST", "/api/graphql", gql(`mutation{mergeRequestCreate(input:{projectPath:"acme/other",title:"t"}){x}}`, ""), "repo_denied"},
		{"POST", "/api/graphql", gql(`mutation{createNote(input:{noteableId:"gid://gitlab/Issue/1",body:"b"}){x}}`, ""), "repo_denied"},
		{"POST", "/api/graphql", gql(`mutation{createSnippet(input:{projectPath:"acme/shop"}){x}}`, ""), "path_denied"},
		{"POST", "/api/graphql.json", gql(`mutation{createSnippet(input:{projectPath:"acme/shop"}){x}}`, ""), "path_denied"},
	})
	r, g = newForge(t, sandbox.GitHub, func(s *sandbox.Grant) { s.Repos = nil })
	r.forgeCases(g, []forgeCase{{"POST", "/repos/acme/shop/pulls", `{}`, "repo_denied"}, {"GET", "/repos/acme/shop/pulls", ``, ""}})
}

// FuzzGraphQLRequest: whatever the body, the judgement ends, and a plain denied mutation in it is
// never let through.
func FuzzGraphQLRequest(f *testing.F) {
	f.Add([]byte(gql(`mutation{addComment(input:{subjectId:"x"}){y}}`, `{"a":[1,null]}`)))
	f.Add([]byte(`{"query":"{a}","operationName":null}`))
	f.Add([]byte(`[{"query":"{a}"}]`))
	rt := &route{grant: &grant{Grant: Grant{Grant: sandbox.Grant{Forge: sandbox.GitHub, AllRepos: true}}}}
	f.Fuzz(func(t *testing.T, body []byte) {
		if rt.judgeGraphQL(body, nil) != nil {
			return
		}
		var m map[string]any
		if json.Unmarshal(body, &m) != nil {
			t.Fatalf("%q is no JSON object", body)
		}
		if q, _ := m["query"].(string); strings.HasPrefix(q, "mutation{deleteRepository") {
			t.Fatalf("%q passed", body)
		}
	})
}
