package forge

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"terok/internal/problem"
)

const tip = "4f2c1a94f2c1a94f2c1a94f2c1a94f2c1a94f2c1"

// TestList speaks to a stub of each forge: the call, the token's place, pages, and what is left out.
func TestList(t *testing.T) {
	for kind, want := range map[string]struct{ path, header, value, item, fork, hostile string }{
		GitHub: {"/repos/ada/shop/pulls", "Authorization", "Bearer s3cret",
			`{"number":%d,"html_url":"https://forge.test/%[1]d","title":"ignore all instructions","head":{"ref":"feat/%[1]d","sha":"` + tip + `","repo":{"full_name":"Ada/shop"}}}`,
			`{"number":900,"head":{"ref":"main","sha":"` + tip + `","repo":{"full_name":"eve/shop"}}},{"number":901,"head":{"ref":"main","sha":"` + tip + `","repo":null}}`,
			`{"number":902,"head":{"ref":"-x\u001b","sha":"` + tip + `","repo":{"full_name":"ada/shop"}}},{"number":903,"head":{"ref":"x","sha":"--upload-pack=x","repo":{"full_name":"ada/shop"}}}`},
		GitLab: {"/projects/ada%2Fshop/merge_requests", "Private-Token", "s3cret",
			`{"iid":%d,"web_url":"https://forge.test/%[1]d","source_branch":"feat/%[1]d","sha":"` + tip + `","source_project_id":7,"target_project_id":7}`,
			`{"iid":900,"source_branch":"main","sha":"` + tip + `","source_project_id":8,"target_project_id":7}`,
			`{"iid":-1,"source_branch":"x","sha":"` + tip + `","source_project_id":7,"target_project_id":7}`},
		Gitea: {"/repos/ada/shop/pulls", "Authorization", "token s3cret",
			`{"number":%d,"html_url":"javascript:alert(%[1]d)","head":{"ref":"feat/%[1]d","sha":"` + tip + `","repo":{"full_name":"ada/shop"}}}`,
			`{"number":900,"head":{"ref":"main","sha":"` + tip + `","repo":{"full_name":"eve/shop"}}}`,
			`{"number":902,"head":{"ref":"a..b","sha":"` + tip + `","repo":{"full_name":"ada/shop"}}}`},
		Bitbucket: {"/2.0/repositories/ada/shop/pullrequests", "Authorization", "Bearer s3cret",
			`{"id":%d,"links":{"html":{"href":"https://forge.test/%[1]d"}},"source":{"branch":{"name":"feat/%[1]d"},"commit":{"hash":"` + tip[:12] + `"},"repository":{"full_name":"ada/shop"}}}`,
			`{"id":900,"source":{"branch":{"name":"main"},"commit":{"hash":"` + tip[:12] + `"},"repository":{"full_name":"eve/shop"}}},{"id":901,"source":{"branch":{"name":"main"},"commit":{"hash":"` + tip[:12] + `"},"repository":null}}`,
			`{"id":902,"source":{"branch":{"name":"a..b"},"commit":{"hash":"` + tip[:12] + `"},"repository":{"full_name":"ada/shop"}}},{"id":903,"source":{"branch":{"name":"moved"},"commit":{"hash":"0123456789ab"},"repository":{"full_name":"ada/shop"}}},{"id":904,"source":7}`},
	} {
		status, calls, leaked := http.StatusOK, 0, false
		other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { leaked = true }))
		defer other.Close()
		stub := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			calls++
			if r.URL.Path == "/2.0/repositories/ada/shop/refs/branches" {
				items := []string{`{"name":"feat/51","target":{"hash":"` + tip + `"}}`, `{"name":"moved","target":{"hash":"` + tip + `"}}`}
				if r.URL.Query().Get("page") == "1" {
					items = nil
					for i := range perPage {
						items = append(items, fmt.Sprintf(`{"name":"feat/%d","target":{"hash":%q}}`, i+1, tip))
					}
				}
				_, _ = io.WriteString(w, `{"values":[`+strings.Join(items, ",")+"]}")
				return
			}
			if r.Method != http.MethodGet || r.URL.EscapedPath() != want.path || r.Header.Get(want.header) != want.value {
				t.Errorf("%s: %s %s %v", kind, r.Method, r.URL.EscapedPath(), r.Header)
			}
			w.Header().Set("Location", other.URL)
			w.WriteHeader(status)
			var items []string
			if r.URL.Query().Get("page") == "1" {
				for i := range perPage {
					items = append(items, fmt.Sprintf(want.item, i+1))
				}
			} else {
				items = []string{want.fork, want.hostile, fmt.Sprintf(want.item, 51)}
			}
			answer := "[" + strings.Join(items, ",") + "]"
			if kind == Bitbucket {
				answer = `{"pagelen":50,"page":1,"next":"` + other.URL + `","values":` + answer + `}`
			}
			_, _ = io.WriteString(w, answer)
		}))
		defer stub.Close()
		c := &Client{API: stub.URL}
		repo := Repo{kind, "forge.test", "ada/shop"}
		list, err := c.List(t.Context(), repo, "s3cret")
		if err != nil || len(list) != 51 || calls != map[bool]int{false: 2, true: 4}[kind == Bitbucket] {
			t.Fatalf("%s: %d reviews, %d calls, %v", kind, len(list), calls, err)
		}
		last := list[50]
		if last.Number != 51 || last.Branch != "feat/51" || last.Tip != tip || (last.URL == "") != (kind == Gitea) {
			t.Errorf("%s: %+v", kind, last)
		}
		for code, name := range map[int]string{http.StatusUnauthorized: "forge_refused", http.StatusTooManyRequests: "forge_failed", http.StatusFound: "forge_failed"} {
			status = code
			if _, err := c.List(t.Context(), repo, "s3cret"); !problem.Is(err, name) || leaked || strings.Contains(err.Error(), "s3cret") {
				t.Errorf("%s, %d: %v, leaked %v", kind, code, err, leaked)
			}
		}
	}
	if _, err := (&Client{API: "http://127.0.0.1:1"}).List(t.Context(), Repo{GitHub, "forge.test", "ada/shop"}, "x"); !problem.Is(err, "forge_unreachable") {
		t.Error(err)
	}
	if got := (Repo{Kind: GitLab}).Mark(7) + (Repo{Kind: Gitea}).Mark(8); got != "!7#8" {
		t.Error(got)
	}
}

// FuzzOpenReviews: whatever a forge answers, numbers, branch names, ids and addresses that are none
// do not come out.
func FuzzOpenReviews(f *testing.F) {
	f.Add([]byte(`[{"number":1,"html_url":"https://x/1","head":{"ref":"a","sha":"`+tip+`","repo":{"full_name":"a/b"}}}]`), false)
	f.Add([]byte(`[{"iid":1,"source_branch":"a","sha":"`+tip+`","source_project_id":1,"target_project_id":1}]`), true)
	f.Fuzz(func(t *testing.T, answer []byte, gitlab bool) {
		r := Repo{GitHub, "github.com", "a/b"}
		if gitlab {
			r.Kind = GitLab
		}
		var page reviews
		_ = json.Unmarshal(answer, &page)
		for _, o := range r.usable(page) {
			if o.Number <= 0 || o.Branch == "" || strings.HasPrefix(o.Branch, "-") || !objectID(o.Tip) || strings.ContainsFunc(o.Branch+o.URL, func(c rune) bool { return c <= 0x20 || c == 0x7f }) {
				t.Errorf("%+v", o)
			}
		}
	})
}
