package supervisor

import (
	"os"
	"path"
	"strings"

	"terok/internal/control"
	"terok/internal/sandbox/landlock"
)

// placement is the part of the status that says where and how this supervisor runs.
func (s *service) placement(st *control.Status) {
	st.Adopted, st.Waiting = s.hand.Adopted, s.hand.Waiting
	st.Landlock, st.Degraded = s.hand.Landlock, landlock.Degraded(s.hand.Landlock)
	if data, err := os.ReadFile("/proc/self/cgroup"); err == nil {
		st.Scope = ownScope(data)
	}
}

// ownScope finds the scope of ours that a process is in (cgroups(7), /proc/<pid>/cgroup): the
// processes of a container's start are in one of podman's or of the session otherwise.
func ownScope(cgroup []byte) string {
	for line := range strings.Lines(string(cgroup)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) != 3 {
			continue
		}
		if name := path.Base(f[2]); strings.HasPrefix(name, scopePrefix) && strings.HasSuffix(name, ".scope") {
			return name
		}
	}
	return ""
}
