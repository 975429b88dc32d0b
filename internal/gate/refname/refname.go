// Package refname is the one rule for the names of branches that come out of a container.
//
// It is stricter than git-check-ref-format(1): a name that passes can be printed, compared,
// passed as an argument and stored as a file without surprise. Refused beyond git's own rules:
// names over 200 bytes, bytes that are not UTF-8, control, invisible and right-to-left
// characters, components that begin with "-", names that look like an object id or like HEAD.
// Two names that differ only in letter case collide (Fold).
package refname

import (
	"errors"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Heads is the namespace of branches.
const Heads = "refs/heads/"

// MaxLen is the longest accepted branch name in bytes, without "refs/heads/".
const MaxLen = 200

// Check says why branch, a name without "refs/heads/", is not acceptable; nil when it is.
// The error never repeats the name.
func Check(branch string) error {
	switch {
	case branch == "":
		return errors.New("empty name")
	case len(branch) > MaxLen:
		return errors.New("name longer than 200 bytes")
	case !utf8.ValidString(branch):
		return errors.New("name is not UTF-8")
	case branch == "@" || strings.EqualFold(branch, "HEAD"):
		return errors.New("reserved name")
	case strings.HasPrefix(branch, "refs/"):
		return errors.New("name begins with refs/") // refs/heads/refs/… is ambiguous everywhere
	case hexID(branch):
		return errors.New("name looks like an object id")
	case strings.Contains(branch, "..") || strings.Contains(branch, "@{"):
		return errors.New("name contains .. or @{")
	}
	for _, r := range branch {
		if r <= 0x20 || r == 0x7f || strings.ContainsRune("~^:?*[\\", r) {
			return errors.New("name contains a blank, a control character or one of ~^:?*[\\")
		}
		if r > 0x7f && !visible(r) {
			return errors.New("name contains an invisible or right-to-left control character")
		}
	}
	for component := range strings.SplitSeq(branch, "/") {
		switch {
		case component == "":
			return errors.New("empty component")
		case component[0] == '.' || component[0] == '-':
			return errors.New("component begins with . or -")
		case strings.HasSuffix(component, ".") || strings.HasSuffix(component, ".lock"):
			return errors.New("component ends with . or .lock")
		}
	}
	return nil
}

// Fold is the key under which two names collide on file systems that ignore letter case.
func Fold(branch string) string { return strings.ToLower(branch) }

// Protected reports whether branch is one of patterns: exact names, or patterns in the syntax of
// path.Match, compared without regard to letter case. A malformed pattern protects everything:
// a mistake must not open a branch.
func Protected(branch string, patterns []string) bool {
	for _, p := range patterns {
		if strings.EqualFold(p, branch) {
			return true
		}
		if ok, err := path.Match(strings.ToLower(p), strings.ToLower(branch)); ok || err != nil {
			return true
		}
	}
	return false
}

// hexID reports whether s could be taken for a full object id (SHA-1 or SHA-256).
func hexID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(strings.ToLower(s), "0123456789abcdef") == ""
}

// IsID reports whether s is a full object id in lower-case hexadecimal digits.
func IsID(s string) bool {
	return (len(s) == 40 || len(s) == 64) && strings.Trim(s, "0123456789abcdef") == ""
}

// IsZero reports whether id is the null object id, which stands for "no such ref".
func IsZero(id string) bool { return id != "" && strings.Trim(id, "0") == "" }

// visible keeps letters, digits, marks, punctuation and symbols; format characters (bidirectional
// controls, zero-width joiners, tags), separators, surrogates and private use are out.
func visible(r rune) bool {
	return unicode.In(r, unicode.L, unicode.N, unicode.M, unicode.P, unicode.S) &&
		r != '\u115f' && r != '\u1160' && r != '\u3164' && r != '\uffa0' && // Hangul fillers
		!unicode.Is(unicode.Variation_Selector, r) && r != '\ufffd'
}
