package server

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/git"
	"terok/internal/leak"
	"terok/internal/text"
)

// maxTree is the largest tree object that is looked at, in bytes: about a million entries.
const maxTree = 64 << 20

// bombRatio and bombFloor define a pack bomb: this many times larger when unpacked, and larger
// than the floor (an ordinary file of zeros has such a ratio too).
const (
	bombRatio = 1000
	bombFloor = 64 << 20
)

// inspection looks into every object that a push brings, after git's fsck.
type inspection struct {
	q       *quarantine
	modules []string         // blobs named .gitmodules
	leaks   map[string]found // object → credentials in it
	total   int64            // bytes of the objects so far, unpacked
}

// inspect refuses with an errRefused that names the object. tips are the new values of refs.
func (q *quarantine) inspect(ctx context.Context, tips []string) error {
	if q.empty {
		return nil
	}
	i := &inspection{q: q, leaks: map[string]found{}}
	if err := i.contents(ctx); err != nil {
		return err
	}
	for _, blob := range slices.Compact(slices.Sorted(slices.Values(i.modules))) {
		if err := i.submodules(ctx, blob); err != nil {
			return err
		}
	}
	return i.judgeLeaks(ctx, tips)
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// contents reads all new objects once.
func (i *inspection) contents(ctx context.Context) error {
	pr, pw := io.Pipe()
	result := make(chan error, 1)
	go func() {
		err := i.read(bufio.NewReaderSize(pr, bufferSize))
		pr.CloseWithError(err)
		result <- err
	}()
	err := i.q.h.Git.Stream(ctx, i.q.alone("cat-file", "--batch-all-objects", "--unordered", "--buffer", "--batch=%(objectname) %(objecttype) %(objectsize)"), pw)
	pw.Close()
	return firstOf(<-result, err)
}

// read parses the output of git cat-file --batch: a line of facts, the content, a line feed.
func (i *inspection) read(r *bufio.Reader) error {
	for {
		line, err := r.ReadString('\n')
		if err == io.EOF && line == "" {
			return nil
		}
		if err != nil {
			return err
		}
		f := strings.Fields(line)
		if len(f) != 3 || !refname.IsID(f[0]) {
			return fmt.Errorf("git cat-file: unexpected line %.80q", line)
		}
		size, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil || size < 0 {
			return fmt.Errorf("git cat-file: unexpected line %.80q", line)
		}
		if err := i.weigh(f[0], f[1], size); err != nil {
			return err
		}
		content := io.LimitReader(r, size)
		switch f[1] {
		case "tree":
			data := make([]byte, size)
			if _, err := io.ReadFull(content, data); err != nil {
				return err
			}
			if err := i.tree(f[0], data); err != nil {
				return err
			}
		default: // blobs, commits and tags hold text that may hold credentials
			list, err := leak.Scan(content)
			if err != nil {
				return err
			}
			if len(list) > 0 {
				i.leaks[f[0]] = found{f[1], list}
			}
		}
		if _, err := io.Copy(io.Discard, content); err != nil {
			return err
		}
		if _, err := r.Discard(1); err != nil {
			return err
		}
	}
}

// weigh judges the size of an object before its content is read.
func (i *inspection) weigh(id, kind string, size int64) error {
	limit := i.q.h.Limits.MaxFile
	switch i.total += size; {
	case i.total > bombFloor && i.total > bombRatio*i.q.packs:
		return errRefused("the pack unpacks to more than 1000 times its size")
	case kind == "blob" && size > limit:
		return errRefused(fmt.Sprintf("file %.12s is %d MiB, the limit is %d MiB", id, (size+1<<20-1)>>20, limit>>20))
	case kind == "tree" && size > maxTree:
		return errRefused(fmt.Sprintf("directory %.12s is larger than %d MiB", id, maxTree>>20))
	}
	return nil
}

// tree checks the names in one tree. Git's fsck refuses most of them as well; this does not depend
// on git's version, and it finds the .gitmodules.
func (i *inspection) tree(id string, data []byte) error {
	hash := len(id) / 2
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		mode, name, ok2 := strings.Cut(string(head), " ")
		if !ok || !ok2 || len(rest) < hash {
			return errRefused(fmt.Sprintf("tree %.12s is malformed", id))
		}
		blob := fmt.Sprintf("%x", rest[:hash])
		data = rest[hash:]
		if why := badName(name); why != "" {
			return errRefused(fmt.Sprintf("tree %.12s holds a file named %s, %s", id, text.Line(name, 60), why))
		}
		if strings.EqualFold(name, ".gitmodules") && strings.HasPrefix(mode, "100") {
			i.modules = append(i.modules, blob)
		}
	}
	return nil
}

// badName says why a name must not be in a tree: on one file system or another it is the .git
// directory itself, or leads out of its directory (CVE-2014-9390 and those that followed).
func badName(name string) string {
	switch {
	case name == "" || name == "." || name == "..":
		return "which no directory can hold"
	case strings.Contains(name, "/"):
		return "which holds a slash"
	}
	// NTFS: a backslash separates, a colon begins a stream, dots and blanks at the end vanish,
	// git~1 is the short name.
	first, _, _ := strings.Cut(name, "\\")
	first, _, _ = strings.Cut(first, ":")
	first = strings.TrimRight(first, ". ")
	if strings.EqualFold(first, ".git") || strings.EqualFold(first, "git~1") || strings.EqualFold(stripIgnored(name), ".git") {
		return "which some file systems take for .git"
	}
	return ""
}

// stripIgnored removes the characters that HFS+ ignores in names (git's utf8.c, next_hfs_char).
func stripIgnored(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 0x200c && r <= 0x200f, r >= 0x202a && r <= 0x202e, r >= 0x206a && r <= 0x206f, r == 0xfeff:
			return -1
		}
		return r
	}, name)
}

// submodules checks a .gitmodules: paths that leave the tree and URLs that run programs. Git reads
// it as text; nothing in it is followed.
func (i *inspection) submodules(ctx context.Context, blob string) error {
	out, err := i.q.h.Git.Run(ctx, i.q.cmd("config", "-z", "--no-includes", "--blob="+blob, "--list"))
	if err != nil {
		if exit, ok := errors.AsType[*git.ExitError](err); ok && exit.Code > 0 {
			// Not in this push (an unchanged one is in the base), or no configuration at all.
			if _, err := i.q.h.Git.Run(ctx, i.q.alone("cat-file", "-e", blob)); err != nil {
				return nil
			}
			return errRefused(fmt.Sprintf("%.12s: .gitmodules cannot be parsed", blob))
		}
		return err
	}
	for entry := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		key, value, _ := strings.Cut(entry, "\n")
		if !strings.HasPrefix(key, "submodule.") {
			continue
		}
		why := ""
		switch {
		case strings.HasSuffix(key, ".path"):
			clean := path.Clean(strings.ReplaceAll(value, "\\", "/"))
			if value == "" || value[0] == '-' || path.IsAbs(clean) ||
				slices.ContainsFunc(strings.Split(clean, "/"), func(c string) bool { return badName(c) != "" && c != "." }) {
				why = "a submodule's path leaves the tree"
			}
		case strings.HasSuffix(key, ".url"):
			if value == "" || value[0] == '-' || strings.Contains(value, "::") || strings.ContainsFunc(value, func(r rune) bool { return r < 0x20 }) {
				why = "a submodule's URL is an option or names a helper"
			}
		case strings.HasSuffix(key, ".update") && strings.HasPrefix(value, "!"):
			why = "a submodule's update mode is a command"
		}
		if why != "" {
			return errRefused(fmt.Sprintf("%.12s: .gitmodules: %s", blob, why))
		}
	}
	return nil
}

// paths names the objects that tips reach and the repository did not: object → path, "" for commits.
func (q *quarantine) paths(ctx context.Context, tips []string) (map[string]string, error) {
	c := q.cmd(append(append([]string{"rev-list", "--objects"}, tips...), "--not", "--all")...)
	c.MaxOutput = 256 << 20
	out, err := q.h.Git.Run(ctx, c)
	if err != nil {
		if exit, ok := errors.AsType[*git.ExitError](err); ok && exit.Code > 0 {
			return nil, errRefused("objects are missing from the push")
		}
		return nil, err
	}
	paths := map[string]string{}
	for line := range strings.Lines(string(out)) {
		id, p, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		paths[id] = p
	}
	return paths, nil
}
