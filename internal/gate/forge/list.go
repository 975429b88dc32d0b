package forge

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/problem"
	"terok/internal/text"
)

// Open is a review that waits at the forge. Everything in it is checked: a positive number, a
// branch name, an object id, an address that can be shown. Titles and words are not read, since
// what strangers write there must not reach an agent unasked.
type Open struct {
	Number int    `json:"number"`
	Branch string `json:"branch"` // that it would merge
	Tip    string `json:"tip"`    // commit id
	URL    string `json:"url"`    // its page; "" when the forge names none
}

// Mark is a review as people of that forge write it: #42, at GitLab !42.
func (r Repo) Mark(number int) string {
	if r.Kind == GitLab {
		return "!" + strconv.Itoa(number)
	}
	return "#" + strconv.Itoa(number)
}

const (
	perPage   = 50 // the most that Gitea gives by default
	maxPages  = 6
	listLimit = 8 << 20 // bytes of a page
)

// List returns the open reviews of the repository's own branches, at most 300; those of forks are
// left out. Problems: forge_unreachable, forge_refused, forge_failed.
func (c *Client) List(ctx context.Context, r Repo, token string) ([]Open, error) {
	list := []Open{}
	for page := 1; page <= maxPages; page++ {
		q := url.Values{"state": {"open"}, "page": {strconv.Itoa(page)}, "per_page": {strconv.Itoa(perPage)}}
		var header map[string]string
		switch r.Kind {
		case GitHub:
			header = githubHeader()
		case GitLab:
			q.Set("state", "opened")
		default:
			q.Del("per_page")
			q.Set("limit", strconv.Itoa(perPage))
		}
		status, answer, err := c.send(ctx, r, http.MethodGet, r.collection(c.API)+"?"+q.Encode(), header, nil, token, listLimit)
		if err != nil {
			return nil, err
		}
		switch {
		case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound:
			return nil, problem.New("forge_refused", problem.Failed, "%s refuses the token (%d %s)", r.Host, status, http.StatusText(status))
		case status != http.StatusOK:
			return nil, problem.New("forge_failed", problem.Failed, "%s did not list its reviews (%d %s)", r.Host, status, http.StatusText(status))
		}
		found, n, err := r.open(answer)
		if err != nil {
			return nil, err
		}
		if list = append(list, found...); n < perPage {
			break
		}
	}
	return list, nil
}

// open reads one page of a forge's answer; n is the number of reviews on it, usable or not.
func (r Repo) open(answer []byte) (list []Open, n int, err error) {
	var page []struct {
		Number int    `json:"number"`
		URL    string `json:"html_url"`
		Head   struct {
			Ref  string `json:"ref"`
			SHA  string `json:"sha"`
			Repo *struct {
				Name string `json:"full_name"`
			} `json:"repo"`
		} `json:"head"`

		IID    int    `json:"iid"` // GitLab
		WebURL string `json:"web_url"`
		Branch string `json:"source_branch"`
		SHA    string `json:"sha"`
		Source int64  `json:"source_project_id"`
		Target int64  `json:"target_project_id"`
	}
	if err := json.Unmarshal(answer, &page); err != nil {
		return nil, 0, problem.New("forge_failed", problem.Failed, "%s answered something else than a list of reviews", r.Host)
	}
	for _, p := range page {
		o := Open{p.Number, p.Head.Ref, p.Head.SHA, p.URL}
		own := p.Head.Repo != nil && strings.EqualFold(p.Head.Repo.Name, r.Path)
		if r.Kind == GitLab {
			o, own = Open{p.IID, p.Branch, p.SHA, p.WebURL}, p.Source == p.Target
		}
		if !own || o.Number <= 0 || refname.Check(o.Branch) != nil || !objectID(o.Tip) {
			continue
		}
		if u, err := url.Parse(o.URL); err != nil || u.Scheme != "https" || text.Line(o.URL, 1000) != o.URL {
			o.URL = ""
		}
		list = append(list, o)
	}
	return list, len(page), nil
}

func objectID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}
