package front

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"terok/internal/sandbox"
	"terok/internal/text"
	"terok/internal/vault/graphql"
)

// mutations that tasks may use: pull requests, issues, comments, reviews, labels and refs. What
// reaches beyond a repository, or hands work or rights to somebody else, is not among them.
var mutations = map[string]map[string]bool{
	sandbox.GitHub: set(`createPullRequest updatePullRequest closePullRequest reopenPullRequest mergePullRequest revertPullRequest
		updatePullRequestBranch markPullRequestReadyForReview convertPullRequestToDraft enablePullRequestAutoMerge disablePullRequestAutoMerge
		requestReviews addPullRequestReview submitPullRequestReview updatePullRequestReview dismissPullRequestReview deletePullRequestReview
		addPullRequestReviewComment addPullRequestReviewThread addPullRequestReviewThreadReply updatePullRequestReviewComment
		deletePullRequestReviewComment resolveReviewThread unresolveReviewThread
		createIssue updateIssue closeIssue reopenIssue addComment updateIssueComment deleteIssueComment addReaction removeReaction
		addLabelsToLabelable removeLabelsFromLabelable clearLabelsFromLabelable createLabel updateLabel deleteLabel
		addAssigneesToAssignable removeAssigneesFromAssignable
		createRef updateRef updateRefs deleteRef createCommitOnBranch mergeBranch createLinkedBranch`),
	sandbox.GitLab: set(`mergeRequestCreate mergeRequestUpdate mergeRequestAccept mergeRequestSetAssignees mergeRequestSetDraft
		mergeRequestSetLabels mergeRequestSetLocked mergeRequestSetMilestone mergeRequestSetReviewers
		createIssue updateIssue issueSetAssignees issueSetConfidential issueSetDueDate issueSetLocked issueSetSeverity
		createNote updateNote destroyNote labelCreate createBranch commitCreate`),
}

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

// judgeGraphQL judges a body that is a GraphQL request.
func (rt *route) judgeGraphQL(body []byte, look *lookup) *refusal {
	query, variables, err := graphQLRequest(body)
	if err != nil {
		return refuse(http.StatusForbidden, "path_denied", "this GraphQL request is not relayed: "+err.Error())
	}
	doc, err := graphql.Parse(query)
	if err != nil {
		return refuse(http.StatusForbidden, "path_denied", "this GraphQL request cannot be judged: "+err.Error())
	}
	calls, err := doc.Mutations(variables)
	if err != nil {
		return refuse(http.StatusForbidden, "path_denied", "this GraphQL request is not relayed: "+err.Error())
	}
	for _, c := range calls {
		if !mutations[rt.Forge][c.Name] {
			return refuse(http.StatusForbidden, "path_denied", "the mutation "+text.Line(c.Name, 64)+" is not relayed: it reaches beyond pull requests, issues, comments, reviews, labels and refs")
		}
		if rt.AllRepos {
			continue
		}
		if ref := rt.confineCall(c, look); ref != nil {
			return ref
		}
	}
	return nil
}

// confineCall demands that everything that a mutation names is in the grant's repositories.
func (rt *route) confineCall(c graphql.Call, look *lookup) *refusal {
	t := targets{forge: rt.Forge}
	if err := t.collect("", c.Args, 0); err != nil {
		return refuse(http.StatusForbidden, "repo_denied", "the mutation "+c.Name+" is not relayed: "+err.Error())
	}
	for _, name := range t.names {
		if ref := rt.ownRepo(name); ref != nil {
			return ref
		}
	}
	found := len(t.names) > 0
	if len(t.ids) > 0 {
		names, ref := look.nodes(t.ids)
		if ref != nil {
			return ref
		}
		for _, name := range names { // "" is a person
			if name == "" {
				continue
			}
			if ref := rt.ownRepo(name); ref != nil {
				return ref
			}
			found = true
		}
	}
	if !found {
		return rt.repoDenied("a place that " + c.Name + " does not name")
	}
	return nil
}

// maxTargets bounds what one mutation can name; a label is one.
const maxTargets = 50

// targets is what the arguments of a mutation name.
type targets struct {
	forge string
	names []string // of repositories
	ids   []string // of nodes, GitHub
}

// collect goes through the arguments. Every member that can name a thing must be understood.
func (t *targets) collect(key string, v any, depth int) error {
	if depth > maxDepth || len(t.ids)+len(t.names) > maxTargets {
		return errors.New("its arguments name too much")
	}
	switch v := v.(type) {
	case nil:
	case map[string]any:
		for name, member := range v {
			if err := t.collect(name, member, depth+1); err != nil {
				return err
			}
		}
	case []any:
		for _, item := range v {
			if err := t.collect(key, item, depth+1); err != nil {
				return err
			}
		}
	case string:
		return t.name(key, v)
	default:
		if namesThing(key) {
			return fmt.Errorf("its argument %s is no string", text.Line(key, 40))
		}
	}
	return nil
}

func namesThing(key string) bool {
	return key != "clientMutationId" && (key == "id" || key == "ids" || strings.HasSuffix(key, "Id") || strings.HasSuffix(key, "Ids"))
}

func (t *targets) name(key, v string) error {
	switch {
	case key == "repositoryNameWithOwner", key == "projectPath", key == "targetProjectPath", key == "sourceProjectPath":
		t.names = append(t.names, v)
	case !namesThing(key):
	case t.forge == sandbox.GitHub:
		t.ids = append(t.ids, v)
	default:
		// GitLab's ids say what they are, and only for people and labels is that enough.
		for _, kind := range []string{"User", "ProjectLabel", "GroupLabel", "Label", "Milestone"} {
			if strings.HasPrefix(v, "gid://gitlab/"+kind+"/") {
				return nil
			}
		}
		return fmt.Errorf("where its %s is cannot be told", text.Line(key, 40))
	}
	return nil
}

// graphQLRequest reads the body of a request. A member that is there twice is refused, since
// parsers differ in which one counts, and so is one that is not known: a stored query has no text
// to judge.
func graphQLRequest(body []byte) (query string, variables map[string]any, err error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	v, err := strictValue(dec, 0)
	if err != nil {
		return "", nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return "", nil, errors.New("there is something after the JSON")
	}
	m, ok := v.(map[string]any)
	if !ok {
		return "", nil, errors.New("it is not one JSON object; batches are not relayed")
	}
	for name, member := range m {
		switch name {
		case "query":
			query, ok = member.(string)
		case "variables":
			variables, ok = member.(map[string]any)
			ok = ok || member == nil
		case "operationName":
			_, ok = member.(string)
			ok = ok || member == nil
		default:
			ok = false
		}
		if !ok {
			return "", nil, fmt.Errorf("its member %s is not understood", text.Line(name, 40))
		}
	}
	if query == "" {
		return "", nil, errors.New("it has no query")
	}
	return query, variables, nil
}

// strictValue decodes one JSON value and refuses members that are there twice.
func strictValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxDepth {
		return nil, errors.New("it is nested too deep")
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, errors.New("it is not JSON")
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return tok, nil
	}
	if delim == '[' {
		list := []any{}
		for dec.More() {
			v, err := strictValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err := dec.Token()
		return list, err
	}
	m := map[string]any{}
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return nil, errors.New("it is not JSON")
		}
		name, _ := tok.(string)
		if _, again := m[name]; again {
			return nil, fmt.Errorf("its member %s is there twice", text.Line(name, 40))
		}
		if m[name], err = strictValue(dec, depth+1); err != nil {
			return nil, err
		}
	}
	_, err = dec.Token()
	return m, err
}
