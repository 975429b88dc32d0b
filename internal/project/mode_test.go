package project

import (
	"strings"
	"testing"

	"terok/internal/shield/policy"
	"terok/internal/state"
)

// loadText loads a project.yml.
func loadText(t *testing.T, yml string) (*Project, error) {
	t.Helper()
	s := newStore(t)
	if err := state.WriteFile(s.Roots.ProjectFile("p"), []byte(yml)); err != nil {
		t.Fatal(err)
	}
	return s.Get("p")
}

// Spec/gate.md §1: a gatekeeping project has no rule for its upstream, an online one exactly its git
// server's name and port, in the tier that every deny outranks; neither is ever without what it says.
func TestModes(t *testing.T) {
	const online = "project:\n  security_class: online\n"
	for yml, want := range map[string]string{
		"git:\n  upstream_url: https://git.example.test/a/b\n": "gated",
		"":     "gated",
		online: "",
		online + "git:\n  upstream_url: https://Git.example.test/a/b\n":                                                             "gated +git.example.test:443",
		online + "git:\n  upstream_url: https://git.example.test:8443/a/b\ngate:\n  enabled: false\n":                               "+git.example.test:8443",
		online + "git:\n  upstream_url: git@git.example.test:a/b\n":                                                                 "gated +git.example.test:22",
		online + "git:\n  upstream_url: ssh://git@git.example.test:2222/a/b\nssh:\n  in_container: true\ngate:\n  enabled: false\n": "+git.example.test:2222",
		online + "git:\n  upstream_url: https://host.terok.internal:8443/a/b\n":                                                     "gated +host:8443",
		"git:\n  upstream_url: https://git.example.test/a/b\ngatekeeping:\n  expose_external_remote: true\n":                        "gated external",
	} {
		p, err := loadText(t, yml)
		if err != nil {
			t.Errorf("%q: %v", yml, err)
			continue
		}
		var got []string
		if p.Gated() {
			got = append(got, "gated")
		}
		if p.External() != "" {
			got = append(got, "external")
		}
		rules, err := p.Rules()
		if err != nil {
			t.Errorf("%q: %v", yml, err)
		}
		for _, r := range rules {
			if r.Tier != policy.Project {
				t.Errorf("%q: %s in tier %s", yml, r.Text, r.Tier)
			}
			got = append(got, r.Text)
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%q: %q, want %q", yml, got, want)
		}
	}
}

// TestModesThatCannotWork: without its gate a gatekeeping project would hand tasks the upstream or
// nothing; each refusal says what to write.
func TestModesThatCannotWork(t *testing.T) {
	for yml, cure := range map[string]string{
		"gate:\n  enabled: false\n": "security_class: online",
		"project:\n  security_class: online\ngit:\n  upstream_url: /srv/a.git\n":                              "gatekeeping",
		"project:\n  security_class: online\ngit:\n  upstream_url: file:///srv/a.git\n":                       "gatekeeping",
		"project:\n  security_class: online\ngit:\n  upstream_url: git@x.test:a/b\ngate:\n  enabled: false\n": "ssh.in_container",
		"git:\n  upstream_url: /srv/a.git\ngatekeeping:\n  expose_external_remote: true\n":                    "directory",
		"gatekeeping:\n  expose_external_remote: true\n":                                                      "no git.upstream_url",
		"project:\n  security_class: Online\n":                                                                "online",
	} {
		if _, err := loadText(t, yml); err == nil || !strings.Contains(err.Error(), cure) {
			t.Errorf("%q: %v, want %q", yml, err, cure)
		}
	}
}
