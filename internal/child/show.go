package child

import (
	"path/filepath"
	"regexp"
	"strings"

	"terok/internal/text"
)

// maxShown is the length of a shown command line, in bytes.
const maxShown = 2048

// userinfo finds credentials in URLs, "scheme://user:secret@".
var userinfo = regexp.MustCompile(`(://)[^/@\s]+@`)

// valueFlags are flags of podman and git whose next argument may be secret.
var valueFlags = map[string]bool{"-e": true, "--env": true, "--creds": true, "--secret": true, "--build-arg": true, "--config-env": true}

// Show renders a command line for a person. Values of environment variables and build arguments,
// credentials in URLs and header values are masked; every argument is quoted where a shell would
// need it; the result is printable ASCII.
func Show(path string, args []string) string {
	var b strings.Builder
	b.WriteString(filepath.Base(path))
	masked := false
	for _, a := range args {
		b.WriteByte(' ')
		switch {
		case masked:
			a, masked = mask(a), false
		case valueFlags[a]:
			masked = true
		default:
			if flag, value, ok := strings.Cut(a, "="); ok && valueFlags[flag] {
				a = flag + "=" + mask(value)
			}
		}
		if i := strings.Index(strings.ToLower(a), "extraheader="); i >= 0 {
			a = a[:i+len("extraheader=")] + "***"
		}
		b.WriteString(Quote(userinfo.ReplaceAllString(a, "$1***@")))
	}
	return text.Line(b.String(), maxShown)
}

// mask keeps the name of NAME=value and hides the rest.
func mask(s string) string {
	if name, _, ok := strings.Cut(s, "="); ok {
		return name + "=***"
	}
	return s // "-e NAME" takes the value from the environment and shows nothing
}

// Quote renders a word for a POSIX shell: for commands that a person may copy, and for programs that
// want one line. Names of branches may hold anything but blanks.
func Quote(s string) string {
	if s != "" && !strings.ContainsAny(s, " \t\n\r'\"\\$`|&;<>()*?[]{}~#!") {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
