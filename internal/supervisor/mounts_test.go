package supervisor

import (
	"slices"
	"testing"

	"terok/internal/sandbox"
)

// TestHookRefusesMountsOverItsPlaces: whatever lies over the guest's tree or the agents' decides
// what the container runs and where its tokens are written.
func TestHookRefusesMountsOverItsPlaces(t *testing.T) {
	bind := func(dest string, options ...string) ociMount {
		return ociMount{Destination: dest, Type: "bind", Source: "/tmp", Options: options}
	}
	agent := sandbox.BundleMount + "/claude"
	for _, m := range []ociMount{bind("/workspace"), bind("/runner"), bind("/opt/other"), bind("/run.d"), bind("/opt/terokx"),
		bind(agent, "ro"), bind("/run/terok/base/objects", "ro")} {
		f, s := ours(t)
		s.Mounts = append(s.Mounts, m)
		if err := s.check(f); err != nil {
			t.Errorf("%s: %v", m.Destination, err)
		}
	}
	for name, m := range map[string]ociMount{
		"the root":                  bind("/", "ro"),
		"/run":                      bind("/run", "ro"),
		"/run by another name":      bind("/run/../run/.", "ro"),
		"/run/terok":                bind("/run/terok", "ro"),
		"/run/terok as a tmpfs":     {Destination: "/run/terok", Type: "tmpfs", Source: "tmpfs"},
		"the guest's directory":     bind("/run/terok/bin", "ro"),
		"another file beside":       bind("/run/terok/bin/other", "ro"),
		"the trust files":           bind("/run/terok/ca", "ro"),
		"the token":                 bind("/run/terok/gate-token", "ro"),
		"writable objects":          bind("/run/terok/base/objects"),
		"/opt":                      bind("/opt", "ro"),
		"/opt/terok":                bind("/opt/terok", "ro"),
		"every agent":               bind(sandbox.BundleMount, "ro"),
		"an agent's directory":      bind(agent+"/bin", "ro"),
		"a writable agent":          bind(agent),
		"something beside an agent": bind("/opt/terok/other", "ro"),
	} {
		for at, insert := range map[string]func([]ociMount) []ociMount{
			"last":  func(l []ociMount) []ociMount { return append(l, m) },
			"first": func(l []ociMount) []ociMount { return slices.Insert(l, 0, m) },
		} {
			f, s := ours(t)
			s.Mounts = insert(s.Mounts)
			if s.check(f) == nil {
				t.Errorf("%s, mounted %s: accepted", name, at)
			}
		}
	}
	f, s := ours(t)
	s.Mounts = append(s.Mounts, bind(agent, "ro"), bind(agent, "ro"))
	if s.check(f) == nil {
		t.Error("an agent twice: accepted")
	}
	f, s = ours(t)
	s.Mounts = slices.DeleteFunc(s.Mounts, func(m ociMount) bool { return m.Destination == guestTree })
	if s.check(f) == nil {
		t.Error("no tmpfs: accepted")
	}
}
