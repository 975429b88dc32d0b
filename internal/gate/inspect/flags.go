package inspect

import (
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"terok/internal/text"
)

// Severities of flags.
const (
	Info = "info"
	Warn = "warn" // runs on the reader's or CI's machine, or hides something
	Deny = "deny" // never promoted
)

var gravity = map[string]int{Deny: 0, Warn: 1, Info: 2}

const maxWhere = 20

// Flag says why a change deserves a closer look.
type Flag struct {
	Code     string   `json:"code"`
	Severity string   `json:"severity"`
	Where    []string `json:"where"` // paths or commits, at most 20, printable
	Count    int      `json:"count"`
}

// flagSet collects flags by code.
type flagSet struct{ flags []*Flag }

func (s *flagSet) add(severity, code, where string) {
	i := slices.IndexFunc(s.flags, func(f *Flag) bool { return f.Code == code })
	if i < 0 {
		i = len(s.flags)
		s.flags = append(s.flags, &Flag{Code: code, Severity: severity, Where: []string{}})
	}
	f := s.flags[i]
	if gravity[severity] < gravity[f.Severity] {
		f.Severity = severity
	}
	where = text.Show(where)
	if slices.Contains(f.Where, where) {
		return
	}
	f.Count++
	if len(f.Where) < maxWhere {
		f.Where = append(f.Where, where)
	}
}

// join adds the flags of a part.
func (s *flagSet) join(part *flagSet) {
	for _, f := range part.flags {
		for _, w := range f.Where {
			s.add(f.Severity, f.Code, w)
		}
	}
}

// list returns the flags, the gravest first.
func (s *flagSet) list() []Flag {
	out := []Flag{}
	for _, f := range s.flags {
		out = append(out, *f)
	}
	slices.SortStableFunc(out, func(a, b Flag) int { return gravity[a.Severity] - gravity[b.Severity] })
	return out
}

// entry looks at what a changed path is, not at what is in it.
func (s *flagSet) entry(e *entry, paths []string) {
	p, lower := e.path, strings.ToLower(e.path)
	spelt := spelling(p)
	for _, m := range watches().of(spelt) {
		s.add(m.severity, m.code, p)
	}
	if path.Base(spelt) == ".gitattributes" {
		s.add(Info, "gitattributes", p) // what is in it may make this graver
	}
	switch {
	case e.newMode == "160000" || e.oldMode == "160000":
		s.add(Warn, "submodule", p)
	case e.newMode == "120000":
		s.add(Info, "symlink", p) // where it leads may make this graver
	case e.newMode == "100755" && e.oldMode != "100755":
		s.add(Warn, "executable", p)
	}
	if e.status == 'D' && isTest(lower) {
		s.add(Warn, "test_deleted", p)
	}
	if e.huge > 0 {
		s.add(Warn, "unread_file", p)
	} else if e.binary {
		s.add(Info, "binary", p)
	}
	if len(paths) > 0 && !slices.ContainsFunc(paths, func(glob string) bool { return Glob(glob, p) }) {
		s.add(Warn, "outside_paths", p)
	}
	s.name(p, lower)
}

// name looks at the characters of a path.
func (s *flagSet) name(p, lower string) {
	if !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return hidden(r) || unicode.IsControl(r) }) {
		s.add(Warn, "hidden_characters", p)
	}
	if mixedScripts(p) {
		s.add(Warn, "look_alike", p)
	}
	for component := range strings.SplitSeq(lower, "/") {
		component = strings.Map(func(r rune) rune {
			if hidden(r) {
				return -1 // file systems that ignore such characters see another name
			}
			return r
		}, component)
		trimmed := strings.TrimRight(component, ". ")
		stem, _, _ := strings.Cut(trimmed, ".")
		switch {
		case trimmed == ".git", trimmed == "git~1", component == "..", component == ".", strings.HasPrefix(trimmed, ".git:"):
			s.add(Deny, "git_directory", p)
		case trimmed != component, strings.HasPrefix(component, "-"), strings.ContainsAny(component, `\:*?"<>|`), slices.Contains(devices, stem):
			s.add(Warn, "odd_name", p) // an option, or another file, to some program or system
		}
	}
}

// devices are names that Windows takes for devices, whatever follows a dot.
var devices = []string{"con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "lpt1", "lpt2", "lpt3"}

func isTest(lower string) bool {
	base := path.Base(lower)
	return strings.Contains(base, "test") || strings.Contains(base, "spec.") || strings.Contains(base, "_spec") ||
		strings.HasPrefix(lower, "test/") || strings.HasPrefix(lower, "tests/") || strings.Contains(lower, "/test/") || strings.Contains(lower, "/tests/") ||
		strings.Contains(lower, "__tests__/") || strings.HasPrefix(lower, "spec/") || strings.Contains(lower, "/spec/")
}

// Glob matches a path against a pattern of path.Match, in which "**" stands for any number of
// directories; a pattern without "/" is matched against the base name, and one that names a
// directory matches everything in it. A malformed pattern matches nothing (CheckGlob finds it).
func Glob(pattern, p string) bool {
	pattern = strings.TrimSuffix(pattern, "/")
	if !strings.Contains(pattern, "/") {
		if ok, _ := path.Match(pattern, path.Base(p)); ok {
			return true
		}
	}
	return globParts(strings.Split(strings.TrimPrefix(pattern, "/"), "/"), strings.Split(p, "/"), 0)
}

// CheckGlob says why a pattern of Glob is malformed.
func CheckGlob(pattern string) error {
	_, err := path.Match(pattern, "")
	return err
}

func globParts(pattern, p []string, depth int) bool {
	if depth > 64 {
		return false
	}
	switch {
	case len(pattern) == 0:
		return true // what is left of p is inside
	case pattern[0] == "**":
		for i := range len(p) + 1 {
			if globParts(pattern[1:], p[i:], depth+1) {
				return true
			}
		}
		return false
	case len(p) == 0:
		return false
	}
	ok, _ := path.Match(pattern[0], p[0])
	return ok && globParts(pattern[1:], p[1:], depth+1)
}
