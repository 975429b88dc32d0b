package launch

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"terok/internal/problem"
	"terok/internal/state"
)

// reservedTargets are paths inside the container that only terok fills.
var reservedTargets = []string{"/run/terok", "/opt/terok", "/proc", "/sys", "/dev", "/etc/resolv.conf", "/etc/hosts",
	"/etc/hostname", "/etc/passwd", "/etc/group"}

// forbiddenTrees of the host are never mounted, nor is anything that holds one of them.
var forbiddenTrees = []string{"/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/etc/shadow", "/root",
	"/var/lib/containers", "/var/lib/docker"}

// forbiddenInHome are those of the person's home: keys, tokens, and what runs on the host by
// itself at the next login.
var forbiddenInHome = []string{".ssh", ".gnupg", ".aws", ".azure", ".kube", ".docker", ".netrc", ".git-credentials",
	".config/gcloud", ".config/gh", ".config/containers", ".config/systemd", ".config/autostart", ".config/git",
	".password-store", ".mozilla", ".local/share/keyrings", ".local/share/containers", ".gitconfig",
	".bashrc", ".bash_profile", ".profile", ".zshrc", ".zprofile", ".claude", ".claude.json", ".codex"}

// checkMount judges a mount that a person asked for and returns it with its source resolved. It
// defends against handing the container a power over the host: sockets, devices, keys, our own
// state, and files that the host executes.
func checkMount(m Mount, roots state.Roots, home string) (Mount, error) {
	bad := func(format string, args ...any) (Mount, error) {
		return Mount{}, problem.New("mount_refused", problem.Usage, "mount %s: "+format,
			append([]any{m.Source + ":" + m.Target}, args...)...).WithHint("terok sandbox run --help")
	}
	for what, p := range map[string]string{"source": m.Source, "target": m.Target} {
		if !filepath.IsAbs(p) || strings.ContainsAny(p, ":\n\r\x00") {
			return bad("the %s must be an absolute path without colons and line breaks", what)
		}
	}
	target := filepath.Clean(m.Target)
	if target == "/" {
		return bad("the target is the container's root")
	}
	for _, r := range reservedTargets {
		if overlaps(target, r) {
			return bad("the target lies in terok's own %s", r)
		}
	}
	source, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return bad("the source cannot be used: %w", err)
	}
	fi, err := os.Stat(source)
	if err != nil {
		return bad("the source cannot be used: %w", err)
	}
	if t := fi.Mode().Type(); t != 0 && t != fs.ModeDir {
		return bad("the source is a socket, pipe or device")
	}
	forbidden := slices.Clone(forbiddenTrees)
	forbidden = append(forbidden, roots.Config, roots.Data, roots.Runtime)
	for _, f := range forbiddenInHome {
		forbidden = append(forbidden, filepath.Join(home, f))
	}
	for _, f := range forbidden {
		if f == "" || !filepath.IsAbs(f) {
			continue
		}
		if overlaps(source, f) || overlaps(source, resolved(f)) {
			return bad("the source would show %s to the container", f)
		}
	}
	m.Source, m.Target = source, target
	return m, nil
}

// overlaps reports whether one path is the other or lies in it.
func overlaps(a, b string) bool { return under(a, b) || under(b, a) }

func under(path, dir string) bool {
	return path == dir || dir == "/" || strings.HasPrefix(path, dir+"/")
}

func resolved(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return path
}
