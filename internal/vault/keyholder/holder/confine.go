package holder

import (
	"fmt"

	"github.com/landlock-lsm/go-landlock/landlock"

	"terok/internal/state"
)

// confine leaves the keyholder the vault, its socket's directory, and reading of what it judges
// its callers by (sandbox files, /proc) and of what TLS needs. It defends the person's other files
// against a keyholder that was taken over by what it parses. It comes before anything is read and
// cannot be undone.
//
// The network is left alone: the keyholder asks providers for tokens, and Landlock would not see
// MPTCP. Landlock is best effort
// here: without it, or with less of it, the rest of what protects the keyholder stands.
func confine(roots state.Roots) error {
	for _, dir := range []string{roots.VaultDir(), roots.Runtime} {
		if err := state.MkdirAll(dir); err != nil {
			return err
		}
	}
	all := landlock.V6
	all.HandledAccessNet = 0
	err := all.BestEffort().Restrict(
		landlock.RWDirs(roots.VaultDir(), roots.Runtime),
		landlock.RODirs(roots.Data, "/proc"),
		landlock.RODirs("/etc", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates", "/var/lib/ca-certificates",
			"/usr/share/zoneinfo", "/run/systemd/resolve").IgnoreIfMissing(),
		landlock.ROFiles("/dev/urandom", "/dev/random").IgnoreIfMissing(),
		landlock.RWFiles("/dev/null"))
	if err != nil {
		return fmt.Errorf("restrict files (Landlock): %w", err)
	}
	return nil
}
