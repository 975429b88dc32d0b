// Package config is the one strict loader of YAML files that a person writes: config.yml,
// project.yml, provider and agent files. It guarantees that a file means what it says: unknown
// and repeated keys, wrong types and values out of range are errors, never ignored; all of them
// are reported at once, each with file, line, column, key and, where one is near, the word that
// was meant.
//
//	var p struct {
//		Name  string   `yaml:"name"`
//		Class string   `yaml:"class" oneof:"gatekeeping online"`
//		Hosts []string `yaml:"hosts"`
//	}
//	err := config.Load("project.yml", &p) // fields keep their values where the file is silent
//
// It refuses files over 1 MiB, more than one document, tags, merge keys, nesting beyond 64 levels
// and aliases that expand beyond 10 000 nodes, and a file that somebody else could have written,
// since configuration names programs that run on the host.
//
// YAML 1.2 core schema: true and false are the only booleans; null, and a key without a value,
// mean "not set". A value of a key that holds a secret is never shown in an error.
package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/problem"
)

// MaxSize is the largest file that is read, in bytes.
const MaxSize = 1 << 20

// Validator is implemented by types that check their values once they are filled in, through a
// pointer. The root is always asked, nested structs when the file mentions them.
type Validator interface{ Validate() []FieldError }

// FieldError is what a Validator finds. Path is relative to the validated value, e.g. "run.memory"
// or "shield.allow[2]"; "" means the value itself.
type FieldError struct {
	Path       string
	Message    string
	Suggestion string // `"word"`, or ""; shown as (did you mean …?)
}

// Unmarshaler is implemented by types with a form of their own in YAML. UnmarshalConfig gets
// nil-free plain values: string, bool, int64, uint64, float64, []any or map[string]any.
type Unmarshaler interface{ UnmarshalConfig(value any) error }

// Located is implemented by types that remember where in the file they stand: LocateConfig gets
// the line, from 1, before the value is filled in.
type Located interface{ LocateConfig(line int) }

// Mover is implemented by root types whose keys have had other names: it maps the old dotted path
// to what to write now. "ui.*" covers a whole section.
type Mover interface{ Moved() map[string]string }

// Switched is implemented by sections that can be written as one word as well: "off" or "on", or
// false or true.
type Switched interface{ Switch(on bool) }

// Versioned is implemented by root types with a "schema" key: a file with a higher number is
// refused as written by a newer version.
type Versioned interface{ MaxSchema() int }

// Error is one thing that is wrong in a file.
type Error struct {
	File       string `json:"file"`
	Line       int    `json:"line"`   // from 1; 0: the whole file
	Column     int    `json:"column"` // from 1, in characters
	Path       string `json:"path"`   // e.g. "shield.allow[1]"; "" for the file
	Message    string `json:"message"`
	Suggestion string `json:"suggestion"`
}

// Error writes "file:line:column: path: message (did you mean …?)".
func (e Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	b.WriteString(": ")
	if e.Path != "" {
		b.WriteString(e.Path + ": ")
	}
	b.WriteString(e.Message)
	if e.Suggestion != "" {
		fmt.Fprintf(&b, " (did you mean %s?)", e.Suggestion)
	}
	return b.String()
}

// Errors is everything that is wrong in a file, sorted by line.
type Errors []Error

func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i := range e {
		lines[i] = e[i].Error()
	}
	return strings.Join(lines, "\n")
}

// Problem makes the error that a person reads: code config_invalid, exit 2.
func (e Errors) Problem() *problem.Problem {
	return problem.New("config_invalid", problem.Usage, "%w", e).With("errors", []Error(e))
}

// Load reads the file at path into a pointer to a struct. A missing file is an error that is
// fs.ErrNotExist; what is wrong inside is a *problem.Problem around Errors.
func Load(path string, into any) error {
	data, err := ReadFile(path)
	if err != nil {
		return err
	}
	return Decode(path, data, into)
}

// ReadFile reads a configuration file, following symbolic links, and refuses one that another
// user or a group could write: it may name commands that run on the host.
func ReadFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, problem.New("config_unreadable", problem.Usage, "cannot read %s: %w", path, errors.Unwrap(err))
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, problem.New("config_unreadable", problem.Usage, "%s is not a regular file", path)
	case int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return nil, problem.New("config_unsafe", problem.Usage, "%s belongs to another user (uid %d)", path, st.Uid).
			WithHint("copy it, and put the copy in its place")
	case st.Mode&0o022 != 0:
		return nil, problem.New("config_unsafe", problem.Usage, "%s can be written by others (mode %04o); it can name commands that run on this host", path, st.Mode&0o777).
			WithHint("chmod go-w %s", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, problem.New("config_unreadable", problem.Usage, "cannot read %s: %w", path, err)
	}
	return data, nil
}

// Decode decodes data into a pointer to a struct; name stands for the file in errors. Fields keep
// their values where data is silent, so defaults are filled in before. On error the struct is
// half-filled and must not be used.
func Decode(name string, data []byte, into any) error {
	d := &decoder{name: name, root: into}
	d.run(data)
	if d.newer > 0 {
		return problem.New("config_newer", problem.Newer, "%s has schema %d, and this terok knows up to %d: it was written by a newer version",
			name, d.newer, into.(Versioned).MaxSchema()).WithHint("update terok")
	}
	if len(d.errs) == 0 {
		return nil
	}
	slices.SortStableFunc(d.errs, func(a, b Error) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	if len(d.errs) > maxErrors {
		more := len(d.errs) - maxErrors
		d.errs = append(d.errs[:maxErrors:maxErrors], Error{File: name, Message: fmt.Sprintf("and %d more", more)})
	}
	p := d.errs.Problem()
	if filepath.IsAbs(name) {
		p.WithHint("edit %s", name)
	}
	return p
}

// maxErrors bounds what a person has to read.
const maxErrors = 50
