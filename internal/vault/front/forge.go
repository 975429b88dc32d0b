package front

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"terok/internal/sandbox"
	"terok/internal/text"
)

// A forge's credential can usually do more than a task should: write to every repository of its
// owner. So writes are confined to the repositories of the grant, by every way in which an API
// names one: path, number, node id, GraphQL argument, body member. Reading stays open, since the
// credential's owner can read and code needs to see other code; what cannot be told is refused.

// forgeCheck is what the body of a request to a forge has to pass besides what every body has to.
type forgeCheck struct {
	// whole judges a body that must be there as a whole, a GraphQL document; nil: none.
	whole func(body []byte) *refusal
	// project judges the value of a member or parameter that names another project; nil: none are
	// looked for.
	project func(id string) *refusal
}

// projectMembers are names, folded, of parameters that name a second project in requests to GitLab.
var projectMembers = map[string]bool{"targetprojectid": true, "toprojectid": true, "sourceprojectid": true}

// confine judges where a request to a forge wants to write and says how its body is judged.
func (rt *route) confine(r *http.Request, v verdict, look *lookup) (forgeCheck, *refusal) {
	path := rt.api(v.path.Segments)
	if slices.ContainsFunc(v.path.Readings(), isGraphQL) || isGraphQL(path) {
		// A GET could carry the document in the query, a POST a second one.
		if r.Method != http.MethodPost || len(v.methods) > 1 || r.URL.RawQuery != "" {
			return forgeCheck{}, refuse(http.StatusForbidden, "path_denied", "GraphQL is relayed as a POST of JSON without a query")
		}
		return forgeCheck{whole: func(body []byte) *refusal { return rt.judgeGraphQL(body, look) }}, nil
	}
	if rt.AllRepos || !slices.ContainsFunc(v.methods, writes) {
		return forgeCheck{}, nil
	}
	if flat := v.path.Flat; flat != nil && rt.Forge == sandbox.GitHub && !slices.Equal(rt.api(flat)[:min(3, len(path))], path[:min(3, len(path))]) {
		return forgeCheck{}, refuse(http.StatusBadRequest, "bad_target", "the path can be read in more than one way")
	}
	if ref := rt.confinePath(path, look); ref != nil {
		return forgeCheck{}, ref
	}
	if rt.Forge != sandbox.GitLab {
		return forgeCheck{}, nil
	}
	check := forgeCheck{project: func(id string) *refusal { return rt.ownProject(id, look) }}
	query, _ := url.ParseQuery(r.URL.RawQuery) // it could be read: identify did
	for name, values := range query {
		if projectMembers[foldName(name)] {
			for _, id := range values {
				if ref := check.project(id); ref != nil {
					return forgeCheck{}, ref
				}
			}
		}
	}
	return check, nil
}

func writes(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

// api is the path below the API's own.
func (rt *route) api(path []string) []string {
	prefix := []string{"api", "v3"} // of an installation; github.com has none
	if rt.Forge == sandbox.GitLab {
		prefix = []string{"api", "v4"}
	}
	if len(path) >= 2 && slices.Equal(path[:2], prefix) {
		return path[2:]
	}
	return path
}

// isGraphQL finds the endpoint, also with a format that Rails would take off, and all below it.
func isGraphQL(path []string) bool {
	if len(path) > 1 && strings.EqualFold(path[0], "api") {
		path = path[1:]
	}
	if len(path) == 0 {
		return false
	}
	name, _, _ := strings.Cut(path[0], ".")
	return strings.EqualFold(name, "graphql")
}

// confinePath judges the path of a write.
func (rt *route) confinePath(path []string, look *lookup) *refusal {
	if len(path) > 0 && path[0] == "markdown" { // renders what it is sent
		return nil
	}
	if rt.Forge == sandbox.GitLab {
		if len(path) >= 2 && path[0] == "projects" {
			return rt.ownProject(path[1], look)
		}
		return rt.repoDenied("this endpoint")
	}
	switch {
	case len(path) >= 3 && path[0] == "repos":
		return rt.ownRepo(path[1] + "/" + path[2])
	case len(path) >= 2 && path[0] == "repositories" && isNumber(path[1]):
		name, ref := look.repository(path[1])
		if ref != nil {
			return ref
		}
		return rt.ownRepo(name)
	}
	return rt.repoDenied("this endpoint")
}

// ownRepo refuses the name of a repository that is none of the grant's.
func (rt *route) ownRepo(name string) *refusal {
	for _, own := range rt.Repos {
		if strings.EqualFold(own, name) {
			return nil
		}
	}
	return rt.repoDenied(text.Line(name, 100))
}

// ownProject refuses the path or number of a project of GitLab that is none of the grant's.
func (rt *route) ownProject(id string, look *lookup) *refusal {
	if !isNumber(id) {
		return rt.ownRepo(id)
	}
	name, ref := look.project(id)
	if ref != nil {
		return ref
	}
	return rt.ownRepo(name)
}

func (rt *route) repoDenied(what string) *refusal {
	mine := "this project has no repository there"
	if len(rt.Repos) > 0 {
		mine = "this task may write to " + strings.Join(rt.Repos, ", ") + " only"
	}
	return refuse(http.StatusForbidden, "repo_denied", "no writing to "+what+": "+mine+
		"; a person can open the other repositories of the account with vault.repos: all in project.yml")
}

func isNumber(s string) bool {
	return s != "" && len(s) <= 20 && strings.Trim(s, "0123456789") == ""
}
