package terok

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"

	"terok/internal/control"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/shield/netns"
	"terok/internal/text"
)

// ShieldTable is the packet filter in a running container, read back from the kernel.
type ShieldTable struct {
	Target  string          `json:"target"`
	Posture control.Posture `json:"posture"`
	netns.Reading
}

// ShieldCounters reads the packet filter of a running container and compares it with what a
// supervisor makes. The supervisor has no privilege left to do that, so a process enters the
// container's network namespace for it, as the owner of podman's user namespace may. A filter that was
// changed is returned with a problem: code table_altered, exit 11.
func (a *App) ShieldCounters(ctx context.Context, target string) (ShieldTable, error) {
	v := ShieldTable{Target: target}
	s, err := a.shielded(target)
	if err != nil {
		return v, err
	}
	st, err := s.client().Status(ctx)
	if err != nil {
		return v, s.explain(err)
	}
	v.Posture = st.Posture
	var out, said bytes.Buffer
	err = podman.New(a.Roots, a.Environ).Unshare(ctx, []string{a.Self, "supervise-table", sandbox.Path(s.file.Dir)}, &out, &said)
	if _, ended := errors.AsType[*podman.ExitError](err); ended {
		return v, problem.New("table_unreadable", problem.Failed, "the packet filter of %s could not be read: %s", target,
			text.Line(strings.TrimSpace(said.String()), 1000)).WithHint("terok shield status %s", target)
	}
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(out.Bytes(), &v.Reading); err != nil {
		return v, err
	}
	if !v.Generated {
		return v, problem.New("table_altered", problem.Attention, "links or packet filter of %s were changed from outside; no link leads out, and it stays in quarantine", target).
			WithHint("%s", s.restartHint())
	}
	return v, nil
}
