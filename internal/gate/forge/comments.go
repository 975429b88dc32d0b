package forge

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"terok/internal/text"
)

// Comment is what somebody said about a review. Everything but the time is a stranger's words: author
// and path are one printable line, the body is printable and bounded.
type Comment struct {
	Author string    `json:"author"`
	At     time.Time `json:"at"`
	Path   string    `json:"path,omitempty"` // file that it is about
	Line   int       `json:"line,omitempty"` // of the file, 0 for none
	Body   string    `json:"body"`
}

// Bounds of what is read of one review.
const (
	MaxComments   = 200
	MaxBody       = 8 << 10 // bytes of one comment
	maxReviewBits = 5       // of Gitea's reviews with remarks on lines, the newest
)

// said is a comment as any forge tells it.
type said struct {
	ID        int64     `json:"id"`
	Body      string    `json:"body"`
	Created   time.Time `json:"created_at"`
	Submitted time.Time `json:"submitted_at"` // of a review: GitHub, Gitea
	User      struct {
		Login       string `json:"login"`
		DisplayName string `json:"display_name"` // Bitbucket
	} `json:"user"`
	Path   string `json:"path"`
	Line   int    `json:"line"`
	Author struct {
		Username string `json:"username"`
	} `json:"author"` // GitLab, as what follows
	System   bool            `json:"system"`
	Position json.RawMessage `json:"position"`       // elsewhere a number
	Remarks  int             `json:"comments_count"` // Gitea

	On      time.Time `json:"created_on"` // Bitbucket, as what follows
	Deleted bool      `json:"deleted"`
	Content struct {
		Raw string `json:"raw"`
	} `json:"content"`
	Inline struct {
		Path string `json:"path"`
		To   int    `json:"to"`
	} `json:"inline"`
}

// comments is a page of any forge.
type comments []said

// UnmarshalJSON implements json.Unmarshaler.
func (l *comments) UnmarshalJSON(data []byte) error {
	type plain []json.RawMessage
	var items plain
	if err := unwrap(data, &items); err != nil {
		return err
	}
	for _, raw := range items {
		var s said
		if json.Unmarshal(raw, &s) == nil { // one that is odd does not hide the others
			*l = append(*l, s)
		}
	}
	return nil
}

// Comments returns what was said about a review after since, oldest first, at most MaxComments of the
// newest. Problems as List's.
func (c *Client) Comments(ctx context.Context, r Repo, number int, since time.Time, token string) ([]Comment, error) {
	review := r.collection(c.API) + "/" + strconv.Itoa(number)
	after := url.Values{"since": {since.UTC().Format(time.RFC3339)}}
	issue := r.root(c.API) + "/issues/" + strconv.Itoa(number) + "/comments"
	var list []said
	read := func(address string, q url.Values) error {
		for page := 1; page <= MaxComments/perPage; page++ {
			var answer comments
			if err := c.page(ctx, r, address, q, page, token, &answer); err != nil {
				return err
			}
			if list = append(list, answer...); len(answer) < perPage {
				break
			}
		}
		return nil
	}
	var err error
	switch r.Kind {
	case GitLab:
		err = read(review+"/notes", url.Values{"sort": {"desc"}, "order_by": {"created_at"}})
	case Bitbucket:
		err = read(review+"/comments", url.Values{"sort": {"-created_on"}})
	case Gitea:
		if err = read(issue, after); err == nil {
			err = c.remarks(ctx, r, review, since, token, &list)
		}
	default:
		if err = read(issue, after); err == nil {
			err = read(review+"/comments", after)
		}
		if err == nil {
			err = read(review+"/reviews", url.Values{})
		}
	}
	if err != nil {
		return nil, err
	}
	out := []Comment{}
	for _, s := range list {
		if k, ok := s.comment(); ok && k.At.After(since) {
			out = append(out, k)
		}
	}
	slices.SortStableFunc(out, func(a, b Comment) int { return a.At.Compare(b.At) })
	return out[max(0, len(out)-MaxComments):], nil
}

// remarks reads Gitea's reviews and what they say about lines.
func (c *Client) remarks(ctx context.Context, r Repo, review string, since time.Time, token string, list *[]said) error {
	var answer comments
	if err := c.page(ctx, r, review+"/reviews", url.Values{}, 1, token, &answer); err != nil {
		return err
	}
	asked := 0
	for _, s := range slices.Backward(answer) {
		*list = append(*list, s)
		if s.Remarks == 0 || !s.Submitted.After(since) || s.ID <= 0 || asked == maxReviewBits {
			continue
		}
		asked++
		var lines comments
		if err := c.get(ctx, r, review+"/reviews/"+strconv.FormatInt(s.ID, 10)+"/comments", token, &lines); err != nil {
			return err
		}
		*list = append(*list, lines...)
	}
	return nil
}

// comment makes one printable; false for what says nothing.
func (s said) comment() (Comment, bool) {
	first := func(words ...string) string {
		for _, w := range words {
			if w != "" {
				return w
			}
		}
		return ""
	}
	var at struct {
		Path string `json:"new_path"`
		Line int    `json:"new_line"`
	}
	_ = json.Unmarshal(s.Position, &at) // a number says nothing
	k := Comment{Author: text.Line(first(s.User.Login, s.User.DisplayName, s.Author.Username, "somebody"), 100),
		Path: text.Line(first(s.Path, at.Path, s.Inline.Path), 300)}
	for _, when := range []time.Time{s.Created, s.Submitted, s.On} {
		if k.At.IsZero() {
			k.At = when.UTC()
		}
	}
	for _, n := range []int{s.Line, at.Line, s.Inline.To} {
		if k.Line <= 0 {
			k.Line = max(0, n)
		}
	}
	body := first(s.Body, s.Content.Raw)
	if len(body) > MaxBody {
		body = strings.ToValidUTF8(body[:MaxBody], "") + "\n[cut]"
	}
	k.Body = strings.TrimSpace(text.ProseBlock(body, 200, 0))
	return k, k.Body != "" && !k.At.IsZero() && !s.System && !s.Deleted
}
