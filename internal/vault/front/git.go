package front

import (
	"encoding/base64"
	"io"
	"net/http"
	"slices"
	"strings"

	"terok/internal/vault/endpoint"
)

// A forge's git server speaks smart HTTP (gitprotocol-http(5)) with the same credential as its API:
// three requests, whose bodies are packs and not JSON. Which repositories they may be for is said by
// the route's rules; here is what is different about them: the phantom comes, and the credential goes
// out, as the password of HTTP Basic, and the body passes unread, to that repository only.

// gitService reports whether a request is one of git's three.
func gitService(method string, path endpoint.Path) bool {
	s := path.Segments
	switch n := len(s); {
	case path.Flat != nil || n < 2:
		return false
	case method == http.MethodGet:
		return n > 2 && s[n-2] == "info" && s[n-1] == "refs"
	case method == http.MethodPost:
		return s[n-1] == "git-upload-pack" || s[n-1] == "git-receive-pack"
	}
	return false
}

// forGit reports whether the route serves repositories and the request is git's for one of them. An
// address of the API never is, whatever its last word: its body would pass unread, and where it writes
// unconfined.
func (rt *route) forGit(v verdict) bool {
	if rt.Git == nil || len(v.methods) != 1 || !gitService(v.methods[0], v.path) {
		return false
	}
	repo, _, _ := strings.Cut(v.path.String(), "/info/refs")
	repo = strings.TrimSuffix(strings.TrimSuffix(repo, "/git-upload-pack"), "/git-receive-pack")
	own := strings.TrimSuffix(strings.Trim(repo, "/"), ".git")
	isAPI := slices.ContainsFunc(v.path.Segments, func(s string) bool { return strings.EqualFold(s, "api") })
	return !isAPI || slices.Contains(rt.Repos, own)
}

// header is what goes upstream in place of the request's own.
func (v verdict) header(in http.Header, key *armed) http.Header {
	h := v.route.outHeader(in, key)
	if v.git {
		delete(h, key.auth.header)
		h["Authorization"] = []string{"Basic " + base64.StdEncoding.EncodeToString([]byte(v.route.Git.User+":"+string(key.secret.Value)))}
	}
	return h
}

// gitBody is the body of one of git's requests, bounded and otherwise as it comes. Its type is exact:
// a server that took it for a form or a document would be asked for something else.
func (f *Front) gitBody(r *http.Request) (io.ReadCloser, int64, error) {
	if r.Method == http.MethodGet {
		if r.ContentLength != 0 {
			return nil, 0, refuse(http.StatusBadRequest, "bad_body", "git asks for refs without a body")
		}
		return nil, 0, nil
	}
	service := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	if types := r.Header["Content-Type"]; len(types) != 1 || types[0] != "application/x-"+service+"-request" || r.URL.RawQuery != "" {
		return nil, 0, refuse(http.StatusUnsupportedMediaType, "bad_body", "this is no request of git's")
	}
	if r.ContentLength > f.cfg.Limits.Body {
		return nil, 0, errTooLarge
	}
	return http.MaxBytesReader(nil, r.Body, f.cfg.Limits.Body), r.ContentLength, nil
}

// asksLogin makes git ask its credential helper, which has the phantom: it sends none unasked.
func (s *site) asksLogin(h http.Header, r *http.Request, ref *refusal) {
	if ref.status != http.StatusUnauthorized {
		return
	}
	for _, rt := range s.routes {
		if path, ok := endpoint.Parse(r.URL, true); ok && rt.Git != nil && gitService(r.Method, path) {
			h.Set("WWW-Authenticate", `Basic realm="terok"`)
		}
	}
}
