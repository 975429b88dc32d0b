package server

import (
	"bytes"
	"errors"
	"io"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// TestFsck: what only git's own checks notice is refused before it is part of the repository, with
// the object's name. Faults that programs made in good faith are let through where the operator says
// so (gate.push.fsck: warn), and no others.
//
// spec/gate.md §20: 22.
func TestFsck(t *testing.T) {
	const person = "A <a@example.test> 1700000000 +0000"
	for name, lenient := range map[string]bool{"strict": false, "warn": true} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, func(c *Config) { c.Lenient = lenient })
			tree, blob := s.Git(s.work, "rev-parse", "HEAD^{tree}"), raw(s.Git(s.work, "rev-parse", "HEAD:README.md"))
			twice := s.object("tree", "100644 a\x00"+blob+"100644 a\x00"+blob)
			unsorted := s.object("tree", "100644 b\x00"+blob+"100644 a\x00"+blob)
			padded := s.object("tree", "040000 d\x00"+raw(tree))
			commit := func(tree, author string) string {
				return s.object("commit", "tree "+tree+"\nauthor "+author+"\ncommitter "+person+"\n\nwork\n")
			}
			for _, c := range []struct{ what, id, says string }{
				{"a commit without an address", commit(tree, "A 1700000000 +0000"), "missingEmail"},
				{"an author of two lines", s.object("commit", "tree "+tree+"\nauthor "+person+"\nauthor "+person+"\ncommitter "+person+"\n\nwork\n"), "multipleAuthors"},
				{"a name twice in a tree", commit(twice, person), "duplicateEntries"},
				{"a tree that is not sorted", commit(unsorted, person), "treeNotSorted"},
				{"a padded mode", commit(padded, person), "zeroPaddedFilemode"},
			} {
				_, err := s.TryGit(s.work, "push", "-q", "origin", c.id+":refs/heads/made")
				if lenient && c.says == "zeroPaddedFilemode" {
					if err != nil || s.ref("refs/heads/made") != c.id {
						t.Errorf("lenient, %s: %v", c.what, err)
					}
					s.Git(s.work, "push", "-q", "origin", ":refs/heads/made")
					continue
				}
				if err == nil || s.ref("refs/heads/made") != "" || !strings.Contains(err.Error(), "malformed content: object ") || !strings.Contains(err.Error(), c.says) {
					t.Errorf("lenient %v, %s: %v", lenient, c.what, err)
				}
			}
		})
	}
}

// TestBodyIsBounded: what follows a pack, and what comes where no pack is read, ends at the limit.
func TestBodyIsBounded(t *testing.T) {
	endless := io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), neverEnding{})
	b, err := openBody(httptest.NewRecorder(), httptest.NewRequest("POST", "/", endless), 1<<20, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	n, err := io.Copy(io.Discard, io.LimitReader(b, 8<<20))
	if !errors.Is(err, errTooLarge) || n > 1<<20 {
		t.Errorf("%d bytes of a body of at most 1 MiB: %v", n, err)
	}
	if err := b.drain(); !errors.Is(err, errUnread) {
		t.Errorf("draining a body without end: %v", err)
	}
}

type neverEnding struct{}

func (neverEnding) Read(p []byte) (int, error) { return len(p), nil }
