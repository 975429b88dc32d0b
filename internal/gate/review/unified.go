package review

import (
	"fmt"
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

// mebibytes rounds a size up.
func mebibytes(n int64) int64 { return (n + 1<<20 - 1) >> 20 }

// InLFS stands behind the name of a file where its own text is compared and not its pointer, and WholeLFS
// says why all lines of it are new ones.
const (
	InLFS    = " (text in Git LFS)"
	WholeLFS = "what it said before is not known here: all of it is shown"
)

// Unified joins the hunks of files to one unified diff. The text of a file in Git LFS has a part of its own
// behind the part of its pointer.
func Unified(files []File) string {
	var b strings.Builder
	for _, f := range files {
		if f.Patch == "" && !f.Binary && f.OldMode == f.NewMode && f.LFS == nil {
			continue
		}
		fmt.Fprintf(&b, "diff --git a/%s b/%s\n", f.Path, f.Path)
		switch {
		case f.OldMode == "000000":
			fmt.Fprintf(&b, "new file mode %s\n", f.NewMode)
		case f.NewMode == "000000":
			fmt.Fprintf(&b, "deleted file mode %s\n", f.OldMode)
		case f.OldMode != f.NewMode:
			fmt.Fprintf(&b, "old mode %s\nnew mode %s\n", f.OldMode, f.NewMode)
		}
		if f.TooLarge > 0 {
			fmt.Fprintf(&b, "[too large to show (%d MiB)]\n", mebibytes(f.TooLarge))
		} else if f.Binary {
			fmt.Fprintf(&b, "Binary files differ\n")
		}
		hunks(&b, f, f.Path, f.Patch, f.Cut)
		if t := f.LFS; t.Shown() {
			name := f.Path + InLFS
			fmt.Fprintf(&b, "diff --git a/%s b/%s\n", name, name)
			if t.Whole {
				b.WriteString("[" + WholeLFS + "]\n")
			}
			hunks(&b, f, name, t.Patch, t.Cut)
		}
	}
	return b.String()
}

func hunks(b *strings.Builder, f File, name, patch string, cut bool) {
	if patch != "" {
		from, to := "a/"+name, "b/"+name
		if f.OldMode == "000000" {
			from = "/dev/null"
		}
		if f.NewMode == "000000" {
			to = "/dev/null"
		}
		fmt.Fprintf(b, "--- %s\n+++ %s\n%s", from, to, patch)
	}
	if cut {
		b.WriteString("[the rest of this file's diff is not shown]\n")
	}
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
