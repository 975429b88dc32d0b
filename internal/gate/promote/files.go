package promote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"mime"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"terok/internal/gate/inspect"
	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// toBundle writes the commits as one file that git fetches from (gitformat-bundle(5)).
type toBundle struct{ *Promoter }

func (p toBundle) name(j *job) (string, string) { return j.dst.Dir, refname.Heads + j.dst.Branch }
func (p toBundle) notes(*job) string            { return "" }

// at: a file that is there is not looked into; writing over it is refused either way.
func (p toBundle) at(context.Context, *job) (string, error) { return "", nil }

func (p toBundle) look(_ context.Context, j *job) error {
	j.done.Place, j.done.Ref = p.name(j)
	return mustBeNew(j)
}

// mustBeNew refuses to write over what is there, unless a killed promotion wrote it.
func mustBeNew(j *job) error {
	if !filepath.IsAbs(j.dst.Dir) {
		return problem.New("usage", problem.Usage, "%s is not an absolute path", text.Show(j.dst.Dir))
	}
	if _, err := os.Lstat(j.dst.Dir); err == nil && !j.again {
		return problem.New("file_exists", problem.Conflict, "%s is there already", text.Show(j.dst.Dir)).WithHint("choose another name, or remove it")
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (p toBundle) act(ctx context.Context, j *job) error {
	var b bytes.Buffer
	b.WriteString("# v2 git bundle\n")
	if len(j.done.As) == 64 {
		b.Reset()
		b.WriteString("# v3 git bundle\n@object-format=sha256\n")
	}
	edge, err := p.boundary(ctx, j)
	if err != nil {
		return err
	}
	revs := j.done.As + "\n--not\n"
	for _, id := range edge {
		b.WriteString("-" + id + " \n")
		revs += id + "\n"
	}
	b.WriteString(j.done.As + " " + j.done.Ref + "\n\n")
	c := p.base(j.src.Task, "pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "--quiet")
	c.Stdin = strings.NewReader(revs)
	if err := p.Git.Stream(ctx, c, &b); err != nil {
		return err
	}
	return state.WriteFile(j.dst.Dir, b.Bytes())
}

// boundary are the commits that the range rests on.
func (p *Promoter) boundary(ctx context.Context, j *job) ([]string, error) {
	if j.done.As != j.done.Commit {
		return []string{j.change.Base}, nil
	}
	in := map[string]bool{}
	for _, id := range j.change.IDs {
		in[id] = true
	}
	c := p.base(j.src.Task, "rev-list", "--parents", "--no-walk=unsorted", "--stdin")
	c.Stdin = strings.NewReader(strings.Join(j.change.IDs, "\n") + "\n")
	out, err := p.Git.Run(ctx, c)
	if err != nil {
		return nil, err
	}
	var edge []string
	for line := range strings.Lines(string(out)) {
		for i, id := range strings.Fields(line) {
			if i > 0 && !in[id] && !slices.Contains(edge, id) {
				edge = append(edge, id)
			}
		}
	}
	return edge, nil
}

func (p toBundle) undo(_ context.Context, _ review.Task, q review.Promotion) error {
	data, err := os.ReadFile(q.Place)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(data, []byte("# v")) || !bytes.Contains(data[:min(len(data), 1<<16)], []byte("\n"+q.As+" "+q.Ref+"\n")) {
		return moved("the file", q.Place)
	}
	return os.Remove(q.Place)
}

// toPatches writes the commits as mail for git-am(1), one file each, in a new directory.
type toPatches struct{ *Promoter }

func (p toPatches) name(j *job) (string, string) { return j.dst.Dir, "" }
func (p toPatches) notes(*job) string            { return "" }

func (p toPatches) at(context.Context, *job) (string, error) { return "", nil }

func (p toPatches) look(_ context.Context, j *job) error {
	j.done.Place, j.done.Ref = p.name(j)
	return mustBeNew(j)
}

func (p toPatches) act(ctx context.Context, j *job) error {
	ids := slices.Clone(j.change.IDs)
	slices.Reverse(ids)
	if j.done.As != j.done.Commit {
		ids = []string{j.done.As}
	}
	// Whole or not at all: written beside and renamed.
	if err := state.MkdirAll(filepath.Dir(j.dst.Dir)); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Dir(j.dst.Dir), ".terok-patches-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for i, id := range ids {
		mail, name, err := p.mail(ctx, j, id, i+1, len(ids))
		if err != nil {
			return err
		}
		if mail == nil {
			return problem.New("merge_in_patches", problem.Usage, "%.12s is a merge, which is no patch", id).WithHint("use bundle:FILE, or --squash")
		}
		if err := state.WriteFile(filepath.Join(tmp, name), mail); err != nil {
			return err
		}
	}
	if j.again {
		if err := os.RemoveAll(j.dst.Dir); err != nil {
			return err
		}
	}
	return os.Rename(tmp, j.dst.Dir)
}

// mail is one commit as a mail: headers of one line each, without control characters, and encoded
// where they are not ASCII (RFC 2047). The patch is as it is, since git-am must apply it.
func (p *Promoter) mail(ctx context.Context, j *job, id string, n, of int) (mail []byte, name string, err error) {
	body, err := p.Git.Run(ctx, p.base(j.src.Task, "cat-file", "commit", id))
	if err != nil {
		return nil, "", err
	}
	c := inspect.ParseCommit(id, body)
	if len(c.Parents) > 1 {
		return nil, "", nil
	}
	subject, rest, _ := strings.Cut(strings.TrimSpace(c.Message), "\n")
	var b bytes.Buffer
	fmt.Fprintf(&b, "From %s Mon Sep 17 00:00:00 2001\n", id)
	fmt.Fprintf(&b, "From: %s <%s>\nDate: %s\n", header(c.Author), strings.Map(plainRune, c.Email), c.Time.Format("Mon, 2 Jan 2006 15:04:05 -0700"))
	fmt.Fprintf(&b, "Subject: %s\n", header(fmt.Sprintf("[PATCH %d/%d] %s", n, of, subject)))
	b.WriteString("MIME-Version: 1.0\nContent-Type: text/plain; charset=UTF-8\nContent-Transfer-Encoding: 8bit\n\n")
	for line := range strings.Lines(strings.TrimSpace(rest)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "---") || strings.HasPrefix(line, "diff -") || strings.HasPrefix(line, "Index: ") || strings.HasPrefix(line, "From ") {
			line = " " + line // git-am would take it for the beginning of the patch, or of the next mail
		}
		b.WriteString(strings.ToValidUTF8(strings.Map(plainRune, line), "?") + "\n")
	}
	b.WriteString("---\n")
	args := []string{"diff-tree", "-p", "--root", "--no-commit-id", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color",
		"--src-prefix=a/", "--dst-prefix=b/", id}
	if err := p.Git.Stream(ctx, p.base(j.src.Task, args...), &b); err != nil {
		return nil, "", err
	}
	b.WriteString("-- \nterok\n\n")
	return b.Bytes(), fmt.Sprintf("%04d-%s.patch", n, fileName(subject)), nil
}

func plainRune(r rune) rune {
	if unicode.IsControl(r) && r != '\t' || unicode.Is(unicode.Cf, r) {
		return -1
	}
	return r
}

func header(s string) string {
	s = strings.ToValidUTF8(strings.Map(func(r rune) rune {
		if r == '\t' || r == '\n' || r == '\r' {
			return ' '
		}
		return plainRune(r)
	}, s), "?")
	return mime.QEncoding.Encode("utf-8", s)
}

// fileName is a subject as part of a file's name.
func fileName(subject string) string {
	name := strings.Map(func(r rune) rune {
		if r < 0x80 && (unicode.IsLetter(r) || unicode.IsDigit(r) || r == '_' || r == '.') {
			return r
		}
		return '-'
	}, subject)
	name = strings.Trim(strings.Join(strings.FieldsFunc(name, func(r rune) bool { return r == '-' }), "-"), ".-")
	return name[:min(len(name), 50)]
}

func (p toPatches) undo(ctx context.Context, t review.Task, q review.Promotion) error {
	if _, err := os.Lstat(q.Place); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	// Only what we wrote, as we wrote it, goes away again.
	j := &job{src: Source{Task: t}, done: q}
	ids := slices.Clone(q.Commits)
	slices.Reverse(ids)
	if q.As != q.Commit {
		ids = []string{q.As}
	}
	entries, err := os.ReadDir(q.Place)
	if err != nil {
		return err
	}
	if len(entries) != len(ids) {
		return moved("the directory", q.Place)
	}
	for i, id := range ids {
		want, name, err := p.mail(ctx, j, id, i+1, len(ids))
		if err != nil {
			return err
		}
		got, err := os.ReadFile(filepath.Join(q.Place, name))
		if err != nil || !bytes.Equal(got, want) {
			return moved("the directory", q.Place)
		}
	}
	return os.RemoveAll(q.Place)
}
