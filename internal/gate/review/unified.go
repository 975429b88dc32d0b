package review

import (
	"slices"
	"strconv"
	"strings"

	"terok/internal/gate/inspect"
	"terok/internal/text"
)

// Wanted reports whether a path is among those that globs choose; no globs choose all.
func Wanted(globs []string, path string) bool {
	return len(globs) == 0 || slices.ContainsFunc(globs, func(g string) bool { return inspect.Glob(g, path) })
}

// Chosen are the files that globs choose.
func Chosen(files []File, globs []string) []File {
	if len(globs) == 0 {
		return files
	}
	var out []File
	for _, f := range files {
		if Wanted(globs, f.Path) {
			out = append(out, f)
		}
	}
	return out
}

// maxUnified bounds the files of a diff that are shown.
const maxUnified = 2000

// ParseUnified takes a unified diff of git apart (git-diff(1), "generating patch text") that was
// made inside a container: any bytes. What does not look like a diff is left out; every string in
// the result is printable. Content lines begin with one of " +-\", so they cannot be taken for
// headers.
func ParseUnified(raw string) []File {
	var files []File
	var hunks strings.Builder
	inHunk := false
	end := func() {
		if len(files) > 0 {
			files[len(files)-1].Patch = text.Block(hunks.String(), 100_000, 2000)
		}
		hunks.Reset()
		inHunk = false
	}
	for line := range strings.Lines(raw) {
		line = strings.TrimSuffix(line, "\n")
		if name, ok := strings.CutPrefix(line, "diff --git "); ok {
			end()
			if len(files) == maxUnified {
				return files
			}
			files = append(files, File{Path: text.Show(secondName(name)), Status: "M", OldMode: "100644", NewMode: "100644"})
			continue
		}
		if len(files) == 0 {
			continue
		}
		f := &files[len(files)-1]
		switch {
		case strings.HasPrefix(line, "@@"):
			inHunk = true
			hunks.WriteString(line + "\n")
		case inHunk && line != "" && strings.IndexByte(" +-\\", line[0]) >= 0:
			hunks.WriteString(line + "\n")
			if line[0] == '+' {
				f.Insertions++
			} else if line[0] == '-' {
				f.Deletions++
			}
		case inHunk:
		default:
			headerLine(f, line)
		}
	}
	end()
	return files
}

func headerLine(f *File, line string) {
	set := func(prefix string, modes ...*string) bool {
		mode, ok := strings.CutPrefix(line, prefix)
		if !ok || len(mode) != 6 || strings.Trim(mode, "01234567") != "" {
			return false
		}
		for _, m := range modes {
			*m = mode
		}
		return true
	}
	switch {
	case set("new file mode ", &f.NewMode):
		f.Status, f.OldMode = "A", "000000"
	case set("deleted file mode ", &f.OldMode):
		f.Status, f.NewMode = "D", "000000"
	case set("old mode ", &f.OldMode), set("new mode ", &f.NewMode):
	case strings.HasPrefix(line, "Binary files "):
		f.Binary = true
	}
}

// secondName is the second name of "a/NAME b/NAME", quoted or not.
func secondName(s string) string {
	if i := strings.LastIndex(s, ` "b/`); i >= 0 {
		if name, err := strconv.Unquote(s[i+1:]); err == nil {
			return strings.TrimPrefix(name, "b/")
		}
		return strings.Trim(s[i+3:], `"`)
	}
	// Both names are equal, so the middle is where " b/" stands in the middle of the line.
	if half := len(s) / 2; len(s)%2 == 1 && s[half] == ' ' {
		return strings.TrimPrefix(s[half+1:], "b/")
	}
	return s
}

// CheckGlob says why a pattern of paths is malformed.
func CheckGlob(pattern string) error { return inspect.CheckGlob(pattern) }
