package endpoint

import (
	"net/url"
	"slices"
	"strings"
	"testing"
)

func path(t *testing.T, raw string, slashes bool) Path {
	t.Helper()
	u, err := url.ParseRequestURI(raw)
	if err != nil {
		t.Fatal(err)
	}
	p, ok := Parse(u, slashes)
	if !ok {
		t.Fatalf("%s is not a path", raw)
	}
	return p
}

func TestDecide(t *testing.T) {
	p, err := New([]string{
		"deny /v1/models/secret/**",
		"allow POST /v1/messages",
		"allow GET /v1/models/**",
		"allow POST,PUT /v1/batches*",
		"local /api/event_logging/**",
		"deny /**/hooks/**",
		"allow /repos/*/*/pulls/**",
	}, "deny")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		method, path string
		want         Action
	}{
		{"POST", "/v1/messages", Allow},
		{"POST", "/v1/messages/", Allow},
		{"GET", "/v1/messages", Deny},
		{"POST", "/V1/messages", Deny},
		{"POST", "/v1/messages/x", Deny},
		{"POST", "/v1/messagesx", Deny},
		{"GET", "/v1/models", Allow},
		{"HEAD", "/v1/models/a/b", Allow},
		{"GET", "/v1/models/secret", Deny},
		{"GET", "/v1/models/SECRET/x", Deny},
		{"PUT", "/v1/batches_x", Allow},
		{"PUT", "/v1/batches/x", Deny},
		{"POST", "/api/event_logging/v2/batch", Local},
		{"GET", "/repos/o/r/pulls/1", Allow},
		{"GET", "/repos/o/r/hooks", Deny},
		{"GET", "/repos/o/r/pulls/Hooks", Deny},
		{"GET", "/", Deny},
	} {
		if got, _ := p.Decide(c.method, path(t, c.path, false)); got != c.want {
			t.Errorf("%s %s: %s, want %s", c.method, c.path, got, c.want)
		}
	}
}

// TestTwoReadings: what only one reading of an encoded slash allows is denied.
func TestTwoReadings(t *testing.T) {
	p, err := New([]string{"deny /projects/*/hooks/**", "deny /projects/*/*/hooks", "allow /projects/*/files/**"}, "deny")
	if err != nil {
		t.Fatal(err)
	}
	for raw, want := range map[string]Action{
		"/projects/g%2fn/files/a":       Deny, // flat: /projects/g/n/files/a
		"/projects/1/files/a%2Fb":       Allow,
		"/projects/1/files%2Fa":         Deny,
		"/projects/1/x%2f..":            "",
		"/projects%2F1/hooks":           Deny,
		"/projects/1/files/a%252fb":     "",
		"/projects/1/files/a%2f%2fb":    "",
		"/projects/1/files/%2e%2e/b":    "",
		"/projects/1/files/README%2Emd": Allow,
		"/projects/1/files/x.json":      Allow,
		"/projects/1/hooks.json":        Deny,
		"/projects/1/files.json":        Deny,
		"/files/x/hooks.JSON":           Deny,
	} {
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			t.Fatal(err)
		}
		got := Action("")
		if q, ok := Parse(u, true); ok {
			got, _ = p.Decide("GET", q)
		}
		if got != want {
			t.Errorf("%s: %q, want %q", raw, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, raw := range []string{"/a//b", "//a", "/a/./b", "/a/../b", "/a/%2e%2e/b", "/a/%2E/b", "/a%2fb", "/a%5cb", `/a\b`,
		"/a;x", "/a%3bx", "/a%00", "/a%0a", "/a%252e", "/a%3fb", "/a%23b", "/a/b//", "/" + strings.Repeat("a/", 70), "/%ff"} {
		u := &url.URL{}
		if v, err := url.ParseRequestURI(raw); err == nil {
			u = v
		} else {
			continue // net/http refuses it before us
		}
		if p, ok := Parse(u, false); ok {
			t.Errorf("%q is %v", raw, p)
		}
	}
}

func TestParseRuleRefuses(t *testing.T) {
	for _, line := range []string{"", "allow", "allow v1", "permit /v1", "allow get /v1", "allow TRACE /v1", "allow GET /a b", "deny /a/../b",
		"deny /a//b", "deny /a**b", "deny /a%2fb", "deny /" + strings.Repeat("a", 300)} {
		if r, err := ParseRule(line); err == nil {
			t.Errorf("%q is %v", line, r)
		}
	}
	for _, line := range []string{"allow /", "deny POST,DELETE /a/*/b/**", "local /**"} {
		r, err := ParseRule(line)
		if err != nil || r.String() != line {
			t.Errorf("%q: %v %v", line, r, err)
		}
	}
}

// FuzzParse: a path that is taken has no second reading: written again and read again it is the
// same, and so is what is decided.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"/v1/messages", "/a%2fb", "/a/%2e%2e/b", "/ä", "/a;b", "//", "/a/"} {
		f.Add(s, true)
		f.Add(s, false)
	}
	policy, err := New([]string{"deny /**/hooks/**", "allow /a/*/b*/**", "allow GET /v1/**"}, "deny")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string, slashes bool) {
		u, err := url.ParseRequestURI(raw)
		if err != nil || u.Host != "" || u.Opaque != "" {
			return
		}
		p, ok := Parse(u, slashes)
		if !ok {
			return
		}
		policy.Decide("GET", p)
		if !slashes && len(p.Readings()) != 1 {
			t.Fatalf("%q has two readings", raw)
		}
		if !slashes {
			again, ok := Parse(&url.URL{Path: p.String()}, false)
			if !ok || !slices.Equal(again.Segments, p.Segments) {
				t.Fatalf("%q is %v, then %v", raw, p, again)
			}
		}
		for _, r := range p.Readings() {
			for _, seg := range r {
				if seg == "" || seg == "." || seg == ".." || strings.ContainsAny(seg, "%\\;?#\x00\r\n") {
					t.Fatalf("%q has the segment %q", raw, seg)
				}
			}
		}
	})
}

// TestLayers: a project takes away, and adds only where it may.
func TestLayers(t *testing.T) {
	made := func(rest string, rules ...string) *Policy {
		p, err := New(rules, rest)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	base := made("deny", "deny /v1/keys/**", "allow /v1/**")
	project := made("allow", "allow POST /v1/keys", "allow GET /v1/models", "deny /v1/models/**", "allow /v2/**")
	for _, c := range []struct {
		method, path string
		narrow, wide Action
	}{
		{"POST", "/v1/messages", Allow, Allow},
		{"GET", "/v1/models", Allow, Allow},
		{"POST", "/v1/models", Deny, Deny},
		{"POST", "/v1/keys", Deny, Allow},
		{"GET", "/v1/keys", Deny, Deny},
		{"GET", "/v2/x", Deny, Allow},
		{"GET", "/v3", Deny, Deny},
	} {
		for widen, want := range map[bool]Action{false: c.narrow, true: c.wide} {
			if got, _, _ := (Layers{base, project, widen}).Decide(c.method, path(t, c.path, false)); got != want {
				t.Errorf("%s %s, widen %v: %s, want %s", c.method, c.path, widen, got, want)
			}
		}
		if got, _, _ := (Layers{Base: base}).Decide(c.method, path(t, c.path, false)); got == Allow && c.narrow == Deny && c.path != "/v1/models" {
			t.Errorf("%s %s", c.method, c.path)
		}
	}
}
