// Package forge opens a review (pull request, merge request) for a branch that was promoted, lists
// those that are open, says what became of one and what was said there, at GitHub, GitLab, Gitea and its
// kin (Forgejo, Codeberg), or Bitbucket Cloud.
//
// It works from the upstream's address alone: host, owner and repository. Where the vault has no
// token for the host, CompareURL is the page on which a person opens the review themselves. It
// sends the token to that host over https only, follows no redirect, reads a bounded answer, and what
// the forge answers passes package text before anybody sees it.
package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"

	"terok/internal/child"
	"terok/internal/problem"
	"terok/internal/text"
)

// Kinds of forges.
const (
	GitHub    = "github"
	GitLab    = "gitlab"
	Gitea     = "gitea"
	Bitbucket = "bitbucket" // the one at bitbucket.org; the one that people run themselves has another API
)

// Repo is a repository at a forge.
type Repo struct {
	Kind string
	Host string // with port where it is not the usual one
	Path string // "owner/name"; at GitLab groups may nest
}

// known are hosts whose kind needs no setting.
var known = map[string]string{"github.com": GitHub, "gitlab.com": GitLab, "codeberg.org": Gitea, "gitea.com": Gitea, bitbucketHost: Bitbucket}

const bitbucketHost = "bitbucket.org"

// Parse finds the repository behind an upstream: https://host/owner/name.git,
// ssh://git@host/owner/name, or git@host:owner/name. kind is the project's git.forge, "" to go by
// the host's name. An upstream that is at no known forge is the problem "no_forge".
func Parse(upstream, kind string) (Repo, error) {
	host, p := "", ""
	if u, err := url.Parse(upstream); err == nil && (u.Scheme == "https" || u.Scheme == "ssh") {
		if host, p = u.Host, u.Path; u.Scheme == "ssh" {
			host = u.Hostname() // its port is not the web's
		}
	} else if before, after, ok := strings.Cut(upstream, ":"); ok && !strings.Contains(before, "/") {
		_, host, _ = strings.Cut(before, "@")
		if host == "" {
			host = before
		}
		p = after
	}
	p = strings.TrimSuffix(strings.Trim(p, "/"), ".git")
	r := Repo{Kind: kind, Host: strings.ToLower(host), Path: p}
	if r.Kind == "" {
		r.Kind = known[strings.TrimPrefix(r.Host, "ssh.")]
	}
	if r.Kind == "" && strings.HasPrefix(r.Host, "gitlab.") {
		r.Kind = GitLab
	}
	if r.Host == "" || r.Kind == "" || r.Kind == Bitbucket && r.Host != bitbucketHost || strings.Count(p, "/") < 1 || path.Clean("/"+p) != "/"+p || r.Kind != GitLab && strings.Count(p, "/") != 1 {
		return r, problem.New("no_forge", problem.Usage, "the upstream is at no forge that terok knows").
			WithHint("set git.forge to github, gitlab or gitea in project.yml; Bitbucket is known at bitbucket.org")
	}
	return r, nil
}

// Review is what is opened.
type Review struct {
	Branch string // that was promoted
	Into   string // branch that it shall go into
	Title  string
	Body   string
}

// CompareURL is the page on which a person opens the review.
func (r Repo) CompareURL(v Review) string {
	base, head := url.PathEscape(v.Into), url.PathEscape(v.Branch)
	root := "https://" + r.Host + "/" + r.Path
	switch r.Kind {
	case GitLab:
		q := url.Values{"merge_request[source_branch]": {v.Branch}, "merge_request[target_branch]": {v.Into}}
		return root + "/-/merge_requests/new?" + q.Encode()
	case Gitea:
		return root + "/compare/" + base + "..." + head
	case Bitbucket:
		return root + "/pull-requests/new?" + url.Values{"source": {v.Branch}, "dest": {v.Into}}.Encode()
	}
	return root + "/compare/" + base + "..." + head + "?expand=1"
}

// Client opens and lists reviews. Zero HTTP is a client of its own.
type Client struct {
	HTTP *http.Client
	API  string // root of the API instead of the forge's own, for tests
}

const (
	timeout   = 30 * time.Second
	maxAnswer = 1 << 20
)

// request is the call that opens v.
func (r Repo) request(v Review, api string) (address string, body map[string]any) {
	body = map[string]any{"title": v.Title, "body": v.Body, "head": v.Branch, "base": v.Into}
	switch r.Kind {
	case Bitbucket:
		branch := func(name string) any { return map[string]any{"branch": map[string]string{"name": name}} }
		body = map[string]any{"title": v.Title, "description": v.Body, "source": branch(v.Branch), "destination": branch(v.Into)}
	case GitLab:
		body = map[string]any{"title": v.Title, "description": v.Body, "source_branch": v.Branch, "target_branch": v.Into}
	}
	return r.collection(api), body
}

// APIHost is the host, with port where it is not the usual one, to which calls go.
func (r Repo) APIHost() string {
	switch r.Host {
	case "github.com", bitbucketHost:
		return "api." + r.Host
	}
	return r.Host
}

// root is the address of the repository in the API; api is "" for the forge's own.
func (r Repo) root(api string) string {
	if api == "" {
		api = "https://" + r.APIHost()
		if r.APIHost() == r.Host {
			api += map[string]string{GitHub: "/api/v3", GitLab: "/api/v4", Gitea: "/api/v1"}[r.Kind]
		}
	}
	switch r.Kind {
	case GitLab:
		return api + "/projects/" + url.PathEscape(r.Path)
	case Bitbucket:
		return api + "/2.0/repositories/" + r.Path
	}
	return api + "/repos/" + r.Path
}

// collection is the address of the repository's reviews.
func (r Repo) collection(api string) string {
	return r.root(api) + map[string]string{GitHub: "/pulls", GitLab: "/merge_requests", Gitea: "/pulls", Bitbucket: "/pullrequests"}[r.Kind]
}

// Open opens the review and returns its page. A review that is open already is no error: its page
// cannot be told, so the compare page is returned.
func (c *Client) Open(ctx context.Context, r Repo, v Review, token string) (string, error) {
	address, body := r.request(v, c.API)
	data, err := json.Marshal(body)
	if err != nil {
		return "", err
	}
	status, answer, err := c.send(ctx, r, http.MethodPost, address, data, token, maxAnswer)
	if err != nil {
		return "", err
	}
	return outcome(r, v, status, answer)
}

// send makes one call with the token and reads at most limit bytes of the answer.
func (c *Client) send(ctx context.Context, r Repo, method, address string, body []byte, token string, limit int64) (status int, answer []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	switch r.Kind {
	case GitHub:
		req.Header.Set("Accept", "application/vnd.github+json")
		req.Header.Set("X-GitHub-Api-Version", "2022-11-28")
		req.Header.Set("Authorization", "Bearer "+token)
	case GitLab:
		req.Header.Set("Private-Token", token)
	case Gitea:
		req.Header.Set("Authorization", "token "+token)
	default:
		req.Header.Set("Authorization", "Bearer "+token)
	}
	client := http.Client{Timeout: timeout}
	if c.HTTP != nil {
		client = *c.HTTP
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // the token stays with its host
	resp, err := client.Do(req)
	if err != nil {
		return 0, nil, problem.New("forge_unreachable", problem.Failed, "%s cannot be reached: %w", r.Host, unwrapURL(err))
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, limit))
	if err != nil {
		return 0, nil, problem.New("forge_unreachable", problem.Failed, "%s broke off: %w", r.Host, err)
	}
	return resp.StatusCode, answer, nil
}

// unwrapURL leaves the address out of an error: it is ours and long.
func unwrapURL(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// outcome reads a forge's answer.
func outcome(r Repo, v Review, status int, answer []byte) (string, error) {
	var reply struct {
		HTMLURL string `json:"html_url"`
		WebURL  string `json:"web_url"`
		Links   struct {
			HTML struct {
				Href string `json:"href"`
			} `json:"html"`
		} `json:"links"` // Bitbucket
		Error struct {
			Message json.RawMessage `json:"message"`
		} `json:"error"` // Bitbucket
		Message json.RawMessage `json:"message"`
		Errors  json.RawMessage `json:"errors"`
	}
	_ = json.Unmarshal(answer, &reply) // an answer that is no JSON says nothing
	words := strings.TrimSpace(strings.Trim(string(reply.Message)+string(reply.Error.Message), `"`) + " " + string(reply.Errors))
	switch {
	case status == http.StatusCreated || status == http.StatusOK:
		page := reply.HTMLURL + reply.WebURL
		if r.Kind == Bitbucket {
			page = reply.Links.HTML.Href
		}
		if u, err := url.Parse(page); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
			return r.CompareURL(v), nil
		}
		return text.Line(page, 1000), nil
	case status == http.StatusConflict, status == http.StatusUnprocessableEntity && strings.Contains(words, "already exists"):
		return r.CompareURL(v), nil // it is open already
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound:
		return "", problem.New("forge_refused", problem.Failed, "%s refuses the token (%d %s): %s", r.Host, status, http.StatusText(status), text.Line(words, 300)).
			WithHint("open it yourself: %s", r.CompareURL(v))
	}
	return "", problem.New("forge_failed", problem.Failed, "%s did not open a review (%d %s): %s", r.Host, status, http.StatusText(status), text.Line(words, 300)).
		WithHint("open it yourself: %s", r.CompareURL(v))
}

// Command is what opens the review by the forge's own program, for people who have it. Every word is
// quoted: an agent may have named the branch.
func (r Repo) Command(v Review) string {
	words := []string{"tea", "pulls", "create", "--repo", r.Path, "--head", v.Branch, "--base", v.Into}
	switch r.Kind {
	case GitHub:
		words = []string{"gh", "pr", "create", "--repo", r.Path, "--head", v.Branch, "--base", v.Into}
	case GitLab:
		words = []string{"glab", "mr", "create", "--repo", r.Path, "--source-branch", v.Branch, "--target-branch", v.Into}
	}
	if r.Kind == Bitbucket { // it has no program
		words = []string{"xdg-open", r.CompareURL(v)}
	}
	for i := range words {
		words[i] = child.Quote(words[i])
	}
	return strings.Join(words, " ")
}
