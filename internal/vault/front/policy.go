package front

import (
	"net/http"
	"net/url"
	"strings"

	"terok/internal/sandbox"
	"terok/internal/text"
	"terok/internal/vault/endpoint"
)

// verdict is what the policy says about a request before its body is read.
type verdict struct {
	route   *route
	child   *childKey // the phantom was this child's; nil: the grant's own
	path    endpoint.Path
	methods []string // its own, and those that it says it means
	action  endpoint.Action
	git     bool // one of git's requests for a repository (git.go)
}

// judge applies every rule that needs no body.
func (f *Front) judge(r *http.Request, s *site) (verdict, *refusal) {
	if !s.named(r.Host) || len(r.Header["Host"]) > 0 {
		return verdict{}, refuse(http.StatusMisdirectedRequest, "misdirected", "this connection is for "+s.host+" only")
	}
	asked, ref := methodsOf(r)
	if ref != nil {
		return verdict{}, ref
	}
	if r.URL.Scheme != "" || r.URL.Host != "" || r.URL.Opaque != "" {
		return verdict{}, refuse(http.StatusBadRequest, "bad_target", "the request target must be a path")
	}
	rt, child, ref := f.identify(r.Context(), s, r.Header, r.URL.RawQuery)
	if ref != nil {
		return verdict{}, ref
	}
	path, ok := endpoint.Parse(r.URL, rt.Forge != "")
	if !ok {
		return verdict{route: rt}, refuse(http.StatusBadRequest, "bad_target", "the path can be read in more than one way")
	}
	v := verdict{route: rt, child: child, path: path, methods: asked}
	v.git = rt.forGit(v)
	for i, method := range asked {
		a := rt.decide(method, path)
		if i > 0 && a != v.action {
			a = endpoint.Deny // an override and the method itself have two answers
		}
		v.action = a
		if a == endpoint.Deny {
			break
		}
	}
	return v, nil
}

// named reports whether Host or :authority is exactly the site's name, with or without its port.
func (s *site) named(host string) bool {
	if strings.EqualFold(host, s.host) {
		return true
	}
	name, port, ok := strings.Cut(host, ":")
	return ok && strings.EqualFold(name, s.host) && port == portString(s.port)
}

// methodsOf are the method of a request and those that it says it really means. Servers differ in
// whether they obey an override, so the policy must allow all of them.
func methodsOf(r *http.Request) ([]string, *refusal) {
	asked := []string{r.Method}
	for name, values := range r.Header {
		if strings.HasSuffix(name, "Method-Override") || name == "X-Http-Method" || name == "X-Method" {
			asked = append(asked, values...)
		}
	}
	for _, pair := range strings.Split(r.URL.RawQuery, "&") {
		if name, value, _ := strings.Cut(pair, "="); strings.Contains(strings.ToLower(name), "method") || strings.Contains(name, "%") {
			if foldName(unescape(name)) == "method" { // _method
				asked = append(asked, unescape(value))
			}
		}
	}
	for i, m := range asked {
		if i > 0 {
			m = strings.ToUpper(strings.TrimSpace(m))
			asked[i] = m
		}
		switch m {
		case "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS":
		default:
			return nil, refuse(http.StatusMethodNotAllowed, "method_denied", "the vault does not relay the method "+text.Line(m, 16))
		}
	}
	return asked, nil
}

func unescape(s string) string {
	if v, err := url.QueryUnescape(s); err == nil {
		return v
	}
	return s
}

// extra adds the further headers of a kind of credential. Those that are set replace what the
// client sent, since they are the credential's; those that are added join the client's own list.
func (a *auth) extra(h http.Header, public map[string]string) {
	for name, value := range a.set {
		delete(h, name)
		if v, ok := sandbox.Expand(value, public); ok {
			h[name] = []string{v}
		}
	}
	for name, value := range a.add {
		has := false
		for _, line := range h[name] {
			for _, word := range strings.Split(line, ",") {
				has = has || strings.TrimSpace(word) == value
			}
		}
		if !has {
			h[name] = append(h[name][:len(h[name]):len(h[name])], value)
		}
	}
}
