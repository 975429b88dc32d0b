package forge

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"terok/internal/problem"
)

// TestComments speaks to a stub of each forge: which calls say what people wrote, what is too old or no
// comment, and that strangers' words come out printable and bounded.
func TestComments(t *testing.T) {
	since := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	const old, one, two, three = `"2026-11-30T12:00:00Z"`, `"2026-11-30T12:00:01Z"`, `"2026-11-30T14:00:02+02:00"`, `"2026-11-30T12:00:03.5Z"`
	for kind, answers := range map[string]map[string]string{
		GitHub: {
			"/repos/ada/shop/issues/7/comments": `[{"user":{"login":"eve"},"created_at":` + one + `,"body":"first \u001b]52;c;x\u0007 \u202e"},{"created_at":` + old + `,"body":"old"},{"created_at":7}]`,
			"/repos/ada/shop/pulls/7/comments":  `[{"user":{"login":"bob"},"created_at":` + two + `,"body":"second","path":"a\u001b.go","line":3,"position":4}]`,
			"/repos/ada/shop/pulls/7/reviews":   `[{"user":{"login":"bob"},"submitted_at":` + three + `,"body":"third","state":"CHANGES_REQUESTED"},{"submitted_at":` + three + `,"body":""}]`,
		},
		GitLab: {"/projects/ada%2Fshop/merge_requests/7/notes": `[{"author":{"username":"bob"},"created_at":` + three + `,"body":"third","system":false},
			{"author":{"username":"bob"},"created_at":` + two + `,"body":"second","position":{"new_path":"a\u001b.go","new_line":3}},
			{"author":{"username":"eve"},"created_at":` + one + `,"body":"first \u001b]52;c;x\u0007 \u202e"},{"created_at":` + three + `,"body":"added 1 commit","system":true},{"created_at":` + old + `,"body":"old"}]`},
		Gitea: {
			"/repos/ada/shop/issues/7/comments":          `[{"user":{"login":"eve"},"created_at":` + one + `,"body":"first \u001b]52;c;x\u0007 \u202e"}]`,
			"/repos/ada/shop/pulls/7/reviews":            `[{"id":1,"submitted_at":` + old + `,"body":"old","comments_count":9},{"id":5,"user":{"login":"bob"},"submitted_at":` + three + `,"body":"third","comments_count":1}]`,
			"/repos/ada/shop/pulls/7/reviews/5/comments": `[{"user":{"login":"bob"},"created_at":` + two + `,"body":"second","path":"a\u001b.go","line":3,"position":3}]`,
		},
		Bitbucket: {"/2.0/repositories/ada/shop/pullrequests/7/comments": `{"values":[{"user":{"display_name":"bob"},"created_on":` + three + `,"content":{"raw":"third"}},{"created_on":` + three + `,"deleted":true,"content":{"raw":"gone"}},
			{"user":{"display_name":"bob"},"created_on":` + two + `,"content":{"raw":"second"},"inline":{"path":"a\u001b.go","to":3,"from":null}},
			{"user":{"display_name":"eve"},"created_on":` + one + `,"content":{"raw":"first \u001b]52;c;x\u0007 \u202e"}},{"created_on":` + old + `,"content":{"raw":"old"}}]}`},
	} {
		status := http.StatusOK
		asked := map[string]bool{}
		stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			asked[r.URL.EscapedPath()] = true
			answer, ok := answers[r.URL.EscapedPath()]
			if !ok || r.Method != http.MethodGet {
				t.Errorf("%s: %s %s", kind, r.Method, r.URL)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, answer)
		}))
		defer stub.Close()
		c, repo := &Client{API: stub.URL}, Repo{kind, "forge.test", "ada/shop"}
		list, err := c.Comments(t.Context(), repo, 7, since, "s3cret")
		if err != nil || len(list) != 3 || len(asked) != len(answers) {
			t.Fatalf("%s: %+v %v, asked %v", kind, list, err, asked)
		}
		first, second, third := list[0], list[1], list[2]
		if first.Author != "eve" || !strings.HasPrefix(first.Body, "first ") || strings.ContainsAny(first.Body, "\x1b\x07\u202e") ||
			second.Author != "bob" || second.Body != "second" || second.Line != 3 || strings.Contains(second.Path, "\x1b") || !strings.HasSuffix(second.Path, ".go") ||
			third.Body != "third" || !second.At.Equal(since.Add(2*time.Second)) {
			t.Errorf("%s: %+v", kind, list)
		}
		status = http.StatusForbidden
		if _, err := c.Comments(t.Context(), repo, 7, since, "s3cret"); !problem.Is(err, "forge_refused") || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestState: each forge's words for what became of a review.
func TestState(t *testing.T) {
	for _, c := range []struct{ kind, path, answer, want string }{
		{GitHub, "/repos/ada/shop/pulls/7", `{"state":"closed","merged":true}`, StateMerged},
		{GitHub, "/repos/ada/shop/pulls/7", `{"state":"closed","merged":false}`, StateClosed},
		{GitLab, "/projects/ada%2Fshop/merge_requests/7", `{"state":"merged"}`, StateMerged},
		{GitLab, "/projects/ada%2Fshop/merge_requests/7", `{"state":"opened"}`, StateOpen},
		{Gitea, "/repos/ada/shop/pulls/7", `{"state":"closed","merged":true}`, StateMerged},
		{Bitbucket, "/2.0/repositories/ada/shop/pullrequests/7", `{"state":"MERGED"}`, StateMerged},
		{Bitbucket, "/2.0/repositories/ada/shop/pullrequests/7", `{"state":"DECLINED"}`, StateClosed},
		{Gitea, "/repos/ada/shop/pulls/7", `{"state":"\u001b"}`, ""},
	} {
		stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.EscapedPath() != c.path {
				t.Errorf("%s: %s", c.kind, r.URL)
			}
			_, _ = io.WriteString(w, c.answer)
		}))
		got, err := (&Client{API: stub.URL}).State(t.Context(), Repo{c.kind, "forge.test", "ada/shop"}, 7, "x")
		stub.Close()
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%s %s: %q %v", c.kind, c.answer, got, err)
		}
	}
}

// FuzzComments: whatever a forge answers, what comes out is printable and bounded.
func FuzzComments(f *testing.F) {
	f.Add([]byte(`[{"user":{"login":"a"},"created_at":"2026-11-30T12:00:01Z","body":"x","position":4}]`))
	f.Add([]byte(`{"values":[{"created_on":"2026-11-30T12:00:01Z","content":{"raw":"x"},"inline":{"path":"p","to":1}}]}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		var page comments
		_ = json.Unmarshal(answer, &page)
		for _, s := range page {
			k, ok := s.comment()
			if !ok {
				continue
			}
			if len(k.Author) > 1000 || len(k.Body) > 20*MaxBody || k.Line < 0 || strings.ContainsFunc(k.Author+k.Path, func(r rune) bool { return r < 0x20 || r == 0x7f }) ||
				strings.ContainsFunc(k.Body, func(r rune) bool { return r < 0x20 && r != '\n' && r != '\t' || r == 0x7f || r == 0x202e }) {
				t.Errorf("%+v", k)
			}
		}
	})
}
