// Package idn turns names as people write them into names as the network has them: A-labels
// (RFC 5891). It is used where a person's words come in (command line, project.yml, profiles), so
// that the policy below has to know one form only.
//
// It guarantees that text which is plain ASCII comes back unchanged, that a name with other
// characters becomes a valid A-label name or an error, and that no mapping adds characters with a
// meaning in the grammar of rules: a full-width colon is an error, not a port.
package idn

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// Name returns the A-label form of a host name; an address or an ASCII name is returned as it is.
func Name(s string) (string, error) {
	if ascii(s) {
		return s, nil
	}
	if !utf8.ValidString(s) {
		return "", fmt.Errorf("%+q is not valid UTF-8", s)
	}
	// Lookup is strict about letters, digits and hyphens and checks right-to-left text.
	a, err := idna.Lookup.ToASCII(s)
	if err != nil {
		return "", fmt.Errorf("%+q is not an internationalised name: %w", s, err)
	}
	if a == "" {
		// Characters that map to nothing: the next word of a rule must not become its target.
		return "", fmt.Errorf("%+q is not a name", s)
	}
	return a, nil
}

// Rule returns a rule (package policy's grammar) with the name in its target as A-labels. Markers
// such as %reason stay as they are.
func Rule(rule string) (string, error) {
	lead := len(rule) - len(strings.TrimLeft(rule, " \t"))
	end := len(rule)
	if i := strings.IndexAny(rule[lead:], " \t"); i >= 0 {
		end = lead + i
	}
	target := rule[lead:end]
	if ascii(target) {
		return rule, nil
	}
	start := 0
	for _, sign := range []string{"+", "-"} {
		if strings.HasPrefix(target, sign) {
			start = 1
		}
	}
	for _, wild := range []string{"*.", "."} {
		if strings.HasPrefix(target[start:], wild) {
			start += len(wild)
			break
		}
	}
	stop := len(target)
	if i := strings.IndexAny(target[start:], ":/"); i >= 0 {
		stop = start + i
	}
	name, err := Name(target[start:stop])
	if err != nil {
		return "", err
	}
	return rule[:lead] + target[:start] + name + target[stop:] + rule[end:], nil
}

func ascii(s string) bool {
	for i := 0; i < len(s); i++ {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
