package terok

import (
	"terok/internal/config"
	"terok/internal/launch"
	"terok/internal/sandbox/landlock"
)

// confinement lets a launch go on without Landlock where config.yml says so, and says it each
// time: a layer that is missing must not become what one is used to.
func (a *App) confinement(spec *launch.Spec, g config.Global) {
	spec.AuditRequired = g.Audit.Required
	spec.WithoutLandlock = !g.Shield.RequireLandlock
	if landlock.Missing(landlock.ABI()) != nil && spec.WithoutLandlock {
		a.say("warning: no Landlock in this kernel: the supervisor's worker can read your files if it is taken over (shield.require_landlock: false)")
	}
}
