package profile

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"terok/internal/shield/idn"
	"terok/internal/shield/policy"
)

// Bounds of a profile.
const (
	maxFile    = 1 << 20 // bytes
	maxEntries = 5000
	maxErrors  = 50 // that are reported
)

// Error is one thing that is wrong in a profile.
type Error struct {
	File    string // "" for a bundled one
	Line    int    // from 1; 0: the whole file
	Column  int    // in bytes, from 1
	Message string
}

func (e Error) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.File, e.Message)
	}
	return fmt.Sprintf("%s:%d:%d: %s", e.File, e.Line, e.Column, e.Message)
}

// Errors is everything that is wrong in a profile, in order.
type Errors []Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// parse reads a profile; file is "" for a bundled one.
func parse(name, file string, data []byte) (*Profile, error) {
	p := &Profile{Name: name}
	if len(data) > maxFile {
		return nil, Errors{{File: file, Message: fmt.Sprintf("larger than %d bytes", maxFile)}}
	}
	var errs Errors
	n := 0
	for line := range strings.Lines(string(data)) {
		n++
		line = strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")
		body, comment := cutComment(line)
		if strings.TrimSpace(body) == "" {
			if p.Title == "" {
				p.Title = title(comment)
			}
			continue
		}
		if strings.TrimSpace(body) == "suffix: true" && len(p.Entries) == 0 {
			p.Suffix = true
			continue
		}
		source := fmt.Sprintf("%s:%d", file, n)
		if file == "" {
			source = "profile " + name
		}
		e, err := parseEntry(body, source, p.Suffix)
		if err != nil {
			err.File, err.Line = file, n
			errs = append(errs, *err)
		} else {
			p.Entries = append(p.Entries, e)
		}
		if len(errs) >= maxErrors || len(p.Entries) > maxEntries {
			errs = append(errs, Error{File: file, Line: n, Column: 1, Message: "too much: the rest was not read"})
			break
		}
	}
	if len(errs) > 0 {
		return nil, errs
	}
	entries := p.Entries
	p.Entries = nil
	p.add(entries)
	return p, nil
}

// cutComment separates what follows a "#" at the start of the line or after a blank, outside of
// quotes.
func cutComment(line string) (body, comment string) {
	quoted := false
	for i := 0; i < len(line); i++ {
		switch {
		case line[i] == '"':
			quoted = !quoted
		case line[i] == '#' && !quoted && (i == 0 || line[i-1] == ' ' || line[i-1] == '\t'):
			return line[:i], line[i+1:]
		}
	}
	return line, ""
}

// title keeps what a terminal can show.
func title(comment string) string {
	s := strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.TrimSpace(comment))
	return s[:min(len(s), 200)]
}

func parseEntry(body, source string, suffix bool) (Entry, *Error) {
	var e Entry
	text, risk, ferr := cutRisk(body)
	if ferr != nil {
		return e, ferr
	}
	ascii, err := idn.Rule(text)
	if err != nil {
		return e, &Error{Column: 1 + len(body) - len(strings.TrimLeft(body, " \t")), Message: err.Error()}
	}
	r, err := policy.ParseRule(ascii, policy.Project, source)
	if err == nil && suffix && r.Plain() {
		if suffixed, e := policy.ParseRule(asSuffix(ascii), policy.Project, source); e != nil {
			err = e
		} else {
			r = suffixed
		}
	}
	if err != nil {
		re, ok := errors.AsType[*policy.RuleError](err)
		if !ok {
			return e, &Error{Column: 1, Message: err.Error()}
		}
		return e, &Error{Column: min(re.Column, len(body)+1), Message: re.Message}
	}
	e.Rule, e.Risk = r, risk
	return e, nil
}

// asSuffix puts a dot before the name of a rule.
func asSuffix(text string) string {
	text = strings.TrimLeft(text, " \t")
	if text[0] == '+' || text[0] == '-' {
		return text[:1] + "." + text[1:]
	}
	return "." + text
}

// cutRisk takes the marker %risk out of a line and leaves blanks in its place, so that columns
// stay what they are.
func cutRisk(body string) (rest string, risk []string, _ *Error) {
	const marker = "%risk="
	i := strings.Index(body, marker)
	if i < 0 || strings.Count(body[:i], `"`)%2 == 1 {
		return body, nil, nil
	}
	end := len(body)
	if n := strings.IndexAny(body[i:], " \t"); n >= 0 {
		end = i + n
	}
	at := i + len(marker)
	for word := range strings.SplitSeq(body[at:end], ",") {
		if word != WriteCapable && word != AnyoneHosts {
			return "", nil, &Error{Column: at + 1, Message: fmt.Sprintf("%+q is not a risk; known are %s and %s", word, WriteCapable, AnyoneHosts)}
		}
		if !slices.Contains(risk, word) {
			risk = append(risk, word)
		}
		at += len(word) + 1
	}
	return body[:i] + strings.Repeat(" ", end-i) + body[end:], risk, nil
}
