package store

import (
	"context"
	"strings"

	"terok/internal/git"
)

// usesLFS reports whether the default branch of a base keeps files in Git LFS: its .gitattributes
// name the filter (gitattributes(5)). Only the file at the top is read, as text: status says what
// this gate leaves out, nothing depends on it.
func (s *Store) usesLFS(ctx context.Context, base string) bool {
	out, err := s.Git.Run(ctx, git.Cmd{GitDir: base, MaxOutput: 1 << 20, Args: []string{"cat-file", "blob", "HEAD:.gitattributes"}})
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(out)) {
		if words := strings.Fields(line); len(words) > 1 && words[0][0] != '#' {
			for _, attribute := range words[1:] {
				if attribute == "filter=lfs" {
					return true
				}
			}
		}
	}
	return false
}
