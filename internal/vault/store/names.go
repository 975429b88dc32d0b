package store

import (
	"strings"
	"unicode"
)

const (
	lower = "abcdefghijklmnopqrstuvwxyz"
	digit = "0123456789"
	alnum = lower + "ABCDEFGHIJKLMNOPQRSTUVWXYZ" + digit
)

// word reports whether s has 1 to limit bytes, the first of them in first and all in first or rest.
// (Regular expressions would cost every start of terok a millisecond.)
func word(s, first, rest string, limit int) bool {
	if s == "" || len(s) > limit || !strings.Contains(first, s[:1]) {
		return false
	}
	return strings.Trim(s, first+rest) == ""
}

func isProject(s string) bool { return word(s, alnum, "._-", 64) }

func isScope(s string) bool {
	project, ok := strings.CutPrefix(s, "project:")
	return s == "shared" || ok && isProject(project)
}

func isProvider(s string) bool { return word(s, lower+digit, "_-", 64) }
func isAccount(s string) bool  { return word(s, alnum, "._@+-", 64) }
func isFact(s string) bool     { return word(s, lower, digit+"_", 32) }
func isKeyID(s string) bool    { return word(s, lower+digit, "", 64) }
func isKeyType(s string) bool  { return word(s, lower+digit, "@.-", 64) }
func isHost(s string) bool     { return word(s, lower+digit+":", ".-_", 253) }

func isSSHScope(s string) bool {
	infra, ok := strings.CutPrefix(s, "%")
	return isProject(s) || ok && word(infra, lower, "", 63)
}

func isFingerprint(s string) bool {
	sum, ok := strings.CutPrefix(s, "SHA256:")
	return ok && len(sum) == 43 && word(sum, alnum+"+/", "", 43)
}

func notPrintable(r rune) bool { return !unicode.IsPrint(r) }
