package front

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// nameLife is how long the name of a repository with a number is believed: repositories can be
// renamed, and another can take the name.
const nameLife = 10 * time.Minute

// maxNames bounds the names that are kept; when there are more, all are forgotten.
const maxNames = 1024

// maxLookup bounds an answer of a forge to a question of ours, in bytes.
const maxLookup = 1 << 20

// names remembers which repository a number or node id belongs to.
type names struct {
	mu   sync.Mutex
	from map[string]named
}

type named struct {
	name string // "" is a person
	at   time.Time
}

func (n *names) get(id string, now time.Time) (string, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	x, ok := n.from[id]
	return x.name, ok && now.Sub(x.at) < nameLife
}

func (n *names) put(id, name string, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.from == nil || len(n.from) >= maxNames {
		n.from = map[string]named{}
	}
	n.from[id] = named{name, now}
}

// lookup asks a forge, with the credential, what an id of a request means.
type lookup struct {
	ctx   context.Context
	route *route
	key   *armed
	path  string // of the request, escaped: GraphQL is asked where the client asks
	now   time.Time
}

// lookupFailed refuses what could not be found out.
var lookupFailed = refuse(http.StatusForbidden, "repo_denied", "which repository the request writes to could not be found out")

// repository is the name of a repository of GitHub by its number.
func (l *lookup) repository(id string) (string, *refusal) {
	var answer struct {
		Name string `json:"full_name"`
	}
	base := ""
	if strings.HasPrefix(l.path, "/api/v3/") {
		base = "/api/v3"
	}
	return l.byNumber(base+"/repositories/"+id, "r"+id, &answer, &answer.Name)
}

// project is the path of a project of GitLab by its number.
func (l *lookup) project(id string) (string, *refusal) {
	var answer struct {
		Name string `json:"path_with_namespace"`
	}
	return l.byNumber("/api/v4/projects/"+id, "p"+id, &answer, &answer.Name)
}

func (l *lookup) byNumber(path, id string, answer any, name *string) (string, *refusal) {
	if known, ok := l.route.names.get(id, l.now); ok {
		return known, nil
	}
	if !l.ask(http.MethodGet, path, nil, answer) || *name == "" {
		return "", lookupFailed
	}
	l.route.names.put(id, *name, l.now)
	return *name, nil
}

// nodesQuery asks where nodes are. RepositoryNode covers issues, pull requests, comments and reviews.
const nodesQuery = `query($ids:[ID!]!){nodes(ids:$ids){__typename id ...on Repository{nameWithOwner} ` +
	`...on RepositoryNode{repository{nameWithOwner}} ...on Label{repository{nameWithOwner}} ...on Milestone{repository{nameWithOwner}} ` +
	`...on Ref{repository{nameWithOwner}} ...on PullRequestReviewThread{repository{nameWithOwner}}}}`

// nodes are the repositories of nodes of GitHub, "" for people.
func (l *lookup) nodes(ids []string) ([]string, *refusal) {
	found := make([]string, len(ids))
	var ask []string
	for i, id := range ids {
		var ok bool
		if found[i], ok = l.route.names.get("n"+id, l.now); !ok {
			ask = append(ask, id)
		}
	}
	if len(ask) == 0 {
		return found, nil
	}
	question, err := json.Marshal(map[string]any{"query": nodesQuery, "variables": map[string]any{"ids": ask}})
	if err != nil { // strings always encode
		return nil, lookupFailed
	}
	type repository struct {
		Name string `json:"nameWithOwner"`
	}
	var answer struct {
		Data struct {
			Nodes []*struct {
				Type       string      `json:"__typename"`
				ID         string      `json:"id"`
				Name       string      `json:"nameWithOwner"`
				Repository *repository `json:"repository"`
			} `json:"nodes"`
		} `json:"data"`
	}
	if !l.ask(http.MethodPost, "", question, &answer) || len(answer.Data.Nodes) != len(ask) {
		return nil, lookupFailed
	}
	at := map[string]string{}
	for i, n := range answer.Data.Nodes {
		switch {
		case n == nil || n.ID == "":
			return nil, lookupFailed
		case n.Name != "":
			at[ask[i]] = n.Name
		case n.Repository != nil && n.Repository.Name != "":
			at[ask[i]] = n.Repository.Name
		case n.Type == "User" || n.Type == "Bot":
			at[ask[i]] = ""
		default:
			return nil, lookupFailed
		}
		l.route.names.put("n"+ask[i], at[ask[i]], l.now)
	}
	for i, id := range ids {
		if name, ok := at[id]; ok {
			found[i] = name
		}
	}
	return found, nil
}

// ask sends a request of our own to the forge; path "" is that of the client's request.
func (l *lookup) ask(method, path string, body []byte, answer any) bool {
	ctx, cancel := context.WithTimeout(l.ctx, 10*time.Second)
	defer cancel()
	if path == "" {
		path = l.path
	}
	req := (&http.Request{
		Method: method, URL: l.route.target(path, l.route.outQuery("", l.key)), Host: l.route.upstream.Host,
		Header: http.Header{"Accept": {"application/json"}, "User-Agent": {"terok"}, "Accept-Encoding": identityEncoding},
	}).WithContext(ctx)
	if body != nil {
		req.Header["Content-Type"] = []string{"application/json"}
		req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	if l.key.auth.header != "" {
		req.Header[l.key.auth.header] = l.key.header
	}
	resp, err := l.route.transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return false
	}
	return json.NewDecoder(io.LimitReader(resp.Body, maxLookup)).Decode(answer) == nil
}
