package podman

import (
	"context"
	"path/filepath"

	"terok/internal/state"
)

// New makes the Runner of one terok tree: its own CONTAINERS_CONF and a remembered Check. The
// environment comes from environ (nil is os.Getenv).
func New(roots state.Roots, environ func(string) string) *Runner {
	return &Runner{Conf: roots.ContainersConf(), Hooks: roots.HooksDir(), Cache: filepath.Join(roots.Data, "podman.json"), Environ: environ}
}

// Ready makes sure that podman can do what terok needs and that its configuration is written,
// with hooksDir as the only directory of OCI hooks. Every command that makes or starts a
// container calls it first; a warm call costs a few file reads and no process.
func (r *Runner) Ready(ctx context.Context, hooksDir string) (Capabilities, error) {
	if err := r.WriteContainersConf(hooksDir); err != nil {
		return Capabilities{}, err
	}
	return r.Check(ctx)
}
