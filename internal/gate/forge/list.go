package forge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

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
	// Updated is when anything was last said or done there; zero when the forge does not tell.
	Updated time.Time `json:"updated,omitzero"`
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
		q := url.Values{"state": {"open"}}
		switch r.Kind {
		case GitLab:
			q.Set("state", "opened")
		case Bitbucket:
			q.Set("state", "OPEN")
		}
		var answer reviews
		if err := c.page(ctx, r, r.collection(c.API), q, page, token, &answer); err != nil {
			return nil, err
		}
		list = append(list, r.usable(answer)...)
		if len(answer) < perPage {
			break
		}
	}
	if r.Kind == Bitbucket {
		return c.complete(ctx, r, list, token)
	}
	return list, nil
}

// page reads one page of a list into out.
func (c *Client) page(ctx context.Context, r Repo, address string, q url.Values, page int, token string, out any) error {
	size := map[string]string{GitHub: "per_page", GitLab: "per_page", Gitea: "limit", Bitbucket: "pagelen"}[r.Kind]
	q.Set(size, strconv.Itoa(perPage))
	q.Set("page", strconv.Itoa(page))
	return c.get(ctx, r, address+"?"+q.Encode(), token, out)
}

// get makes one call that changes nothing and decodes its answer.
func (c *Client) get(ctx context.Context, r Repo, address, token string, out any) error {
	status, answer, err := c.send(ctx, r, http.MethodGet, address, nil, token, listLimit)
	if err != nil {
		return err
	}
	switch {
	case status == http.StatusUnauthorized || status == http.StatusForbidden || status == http.StatusNotFound:
		return problem.New("forge_refused", problem.Failed, "%s refuses the token (%d %s)", r.Host, status, http.StatusText(status))
	case status != http.StatusOK:
		return problem.New("forge_failed", problem.Failed, "%s did not answer about its reviews (%d %s)", r.Host, status, http.StatusText(status))
	}
	if json.Unmarshal(answer, out) != nil {
		return problem.New("forge_failed", problem.Failed, "%s answered something else than was asked for", r.Host)
	}
	return nil
}

// reviews is a page of any forge: a list, or at Bitbucket an object around one.
type reviews []struct {
	Number int    `json:"number"`
	URL    string `json:"html_url"`
	Head   struct {
		Ref  string `json:"ref"`
		SHA  string `json:"sha"`
		Repo *struct {
			Name string `json:"full_name"`
		} `json:"repo"`
	} `json:"head"`
	Updated time.Time `json:"updated_at"`

	IID     int             `json:"iid"` // GitLab
	WebURL  string          `json:"web_url"`
	Branch  string          `json:"source_branch"`
	SHA     string          `json:"sha"`
	SrcID   int64           `json:"source_project_id"`
	Target  int64           `json:"target_project_id"`
	ID      int             `json:"id"` // Bitbucket, as what follows
	Source  json.RawMessage `json:"source"`
	Changed time.Time       `json:"updated_on"`
	Links   struct {
		HTML struct {
			Href string `json:"href"`
		} `json:"html"`
	} `json:"links"`
}

// bitbucketSource is where a review at Bitbucket comes from.
type bitbucketSource struct {
	Branch struct {
		Name string `json:"name"`
	} `json:"branch"`
	Commit struct {
		Hash string `json:"hash"` // its first twelve digits
	} `json:"commit"`
	Repository *struct {
		Name string `json:"full_name"`
	} `json:"repository"`
}

// UnmarshalJSON takes both forms of a page.
func (l *reviews) UnmarshalJSON(data []byte) error {
	type plain reviews
	return unwrap(data, (*plain)(l))
}

// unwrap decodes a list, or the object in which Bitbucket has it as "values".
func unwrap(data []byte, list any) error {
	if trimmed := bytes.TrimSpace(data); len(trimmed) > 0 && trimmed[0] == '{' {
		var outer struct {
			Values json.RawMessage `json:"values"`
		}
		if err := json.Unmarshal(data, &outer); err != nil {
			return err
		}
		if outer.Values == nil {
			return errors.New("no list")
		}
		data = outer.Values
	}
	return json.Unmarshal(data, list)
}

// usable keeps what is whole, printable and of the repository's own branches.
func (r Repo) usable(page reviews) (list []Open) {
	for _, p := range page {
		o := Open{Number: p.Number, Branch: p.Head.Ref, Tip: p.Head.SHA, URL: p.URL, Updated: p.Updated}
		own, whole := p.Head.Repo != nil && strings.EqualFold(p.Head.Repo.Name, r.Path), objectID
		switch r.Kind {
		case GitLab:
			o, own = Open{p.IID, p.Branch, p.SHA, p.WebURL, p.Updated}, p.SrcID == p.Target
		case Bitbucket:
			var src bitbucketSource
			if json.Unmarshal(p.Source, &src) != nil {
				continue
			}
			o, own = Open{p.ID, src.Branch.Name, src.Commit.Hash, p.Links.HTML.Href, p.Changed}, src.Repository != nil && strings.EqualFold(src.Repository.Name, r.Path)
			whole = abbreviated // complete finds the rest
		}
		if !own || o.Number <= 0 || refname.Check(o.Branch) != nil || !whole(o.Tip) {
			continue
		}
		o.URL = shown(o.URL)
		list = append(list, o)
	}
	return list
}

// shown is an address of a page that can be shown, "" for any other.
func shown(address string) string {
	if u, err := url.Parse(address); err != nil || u.Scheme != "https" || u.Host == "" || text.Line(address, 1000) != address || strings.ContainsAny(address, " \t") {
		return ""
	}
	return address
}

// complete replaces the abbreviated ids that Bitbucket gives by those of the branches; a review whose
// branch is at another commit by now is left out until the next look.
func (c *Client) complete(ctx context.Context, r Repo, list []Open, token string) ([]Open, error) {
	if !slices.ContainsFunc(list, func(o Open) bool { return !objectID(o.Tip) }) {
		return list, nil
	}
	tips := map[string]string{}
	for page := 1; page <= maxPages; page++ {
		var answer branches
		if err := c.page(ctx, r, r.root(c.API)+"/refs/branches", url.Values{}, page, token, &answer); err != nil {
			return nil, err
		}
		for _, b := range answer {
			tips[b.Name] = b.Target.Hash
		}
		if len(answer) < perPage {
			break
		}
	}
	whole := []Open{}
	for _, o := range list {
		if tip := tips[o.Branch]; !objectID(o.Tip) && objectID(tip) && strings.HasPrefix(tip, o.Tip) {
			o.Tip = tip
		}
		if objectID(o.Tip) {
			whole = append(whole, o)
		}
	}
	return whole, nil
}

// branches is a page of Bitbucket's branches.
type branches []struct {
	Name   string `json:"name"`
	Target struct {
		Hash string `json:"hash"`
	} `json:"target"`
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *branches) UnmarshalJSON(data []byte) error {
	type plain branches
	return unwrap(data, (*plain)(l))
}

// What became of a review.
const (
	StateOpen   = "open"
	StateMerged = "merged"
	StateClosed = "closed" // without being merged
)

// State asks what became of one review. Problems as List's.
func (c *Client) State(ctx context.Context, r Repo, number int, token string) (string, error) {
	var answer struct {
		State  string `json:"state"`
		Merged bool   `json:"merged"` // GitHub, Gitea
	}
	if err := c.get(ctx, r, r.collection(c.API)+"/"+strconv.Itoa(number), token, &answer); err != nil {
		return "", err
	}
	switch state := strings.ToLower(answer.State); {
	case answer.Merged || state == "merged":
		return StateMerged, nil
	case state == "open" || state == "opened" || state == "locked": // GitLab locks while it merges
		return StateOpen, nil
	case state == "closed" || state == "declined" || state == "superseded":
		return StateClosed, nil
	}
	return "", problem.New("forge_failed", problem.Failed, "%s does not say what became of its review %d", r.Host, number)
}

func objectID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// abbreviated accepts a commit id and its beginning.
func abbreviated(s string) bool {
	return len(s) >= 12 && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}
