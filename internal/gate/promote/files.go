package promote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"unicode"

	"golang.org/x/sys/unix"

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
	_, err := written(j, func() bool { return isBundle(j.done) })
	return err
}

// written reports whether a killed promotion wrote the target already. What is there otherwise is a
// person's and stays.
func written(j *job, ours func() bool) (bool, error) {
	if !filepath.IsAbs(j.dst.Dir) {
		return false, problem.New("usage", problem.Usage, "%s is not an absolute path", text.Show(j.dst.Dir))
	}
	_, err := os.Lstat(j.dst.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case j.again && ours():
		return true, nil
	}
	return false, fileExists(j.dst.Dir)
}

func fileExists(path string) error {
	return problem.New("file_exists", problem.Conflict, "%s is there already", text.Show(path)).WithHint("choose another name, or remove it")
}

// part is where a target is written before it gets its name; a killed promotion's is found again.
func part(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".terok-part")
}

// appear gives what was written beside path its name, if nothing has that name meanwhile.
func appear(path string) error {
	err := unix.Renameat2(unix.AT_FDCWD, part(path), unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system that does not know this
		if _, err := os.Lstat(path); err == nil {
			return fileExists(path)
		}
		return os.Rename(part(path), path)
	}
	if errors.Is(err, unix.EEXIST) {
		return fileExists(path)
	}
	return err
}

func (p toBundle) act(ctx context.Context, j *job) error {
	if done, err := written(j, func() bool { return isBundle(j.done) }); err != nil || done {
		return err
	}
	edge, err := p.boundary(ctx, j)
	if err != nil {
		return err
	}
	if err := state.MkdirAll(filepath.Dir(j.dst.Dir)); err != nil {
		return err
	}
	f, err := os.OpenFile(part(j.dst.Dir), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone when all went well
	head := "# v2 git bundle\n"
	if len(j.done.As) == 64 {
		head = "# v3 git bundle\n@object-format=sha256\n"
	}
	revs := j.done.As + "\n--not\n"
	for _, id := range edge {
		head += "-" + id + " \n"
		revs += id + "\n"
	}
	_, err = io.WriteString(f, head+j.done.As+" "+j.done.Ref+"\n\n")
	if err == nil {
		c := p.base(j.src.Task, "pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "--quiet")
		c.Stdin = strings.NewReader(revs)
		err = p.Git.Stream(ctx, c, f)
	}
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return appear(j.dst.Dir)
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

// isBundle reports whether the bundle at a promotion's place is the one that it wrote.
func isBundle(q review.Promotion) bool {
	f, err := os.Open(q.Place)
	if err != nil {
		return false
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 1<<16))
	return err == nil && bytes.HasPrefix(head, []byte("# v")) && bytes.Contains(head, []byte("\n"+q.As+" "+q.Ref+"\n"))
}

func (p toBundle) undo(_ context.Context, _ review.Task, q review.Promotion) error {
	if _, err := os.Lstat(q.Place); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !isBundle(q) {
		return moved("the file", q.Place)
	}
	return os.Remove(q.Place)
}

// toPatches writes the commits as mail for git-am(1), one file each, in a new directory.
type toPatches struct{ *Promoter }

func (p toPatches) name(j *job) (string, string) { return j.dst.Dir, "" }
func (p toPatches) notes(*job) string            { return "" }

func (p toPatches) at(context.Context, *job) (string, error) { return "", nil }

func (p toPatches) look(ctx context.Context, j *job) error {
	j.done.Place, j.done.Ref = p.name(j)
	_, err := written(j, func() bool { return p.isOurs(ctx, j.src.Task, j.done) })
	return err
}

// mailed are the commits that become mails, oldest first.
func mailed(q review.Promotion) []string {
	if q.As != q.Commit {
		return []string{q.As}
	}
	ids := slices.Clone(q.Commits)
	slices.Reverse(ids)
	return ids
}

func (p toPatches) act(ctx context.Context, j *job) error {
	if done, err := written(j, func() bool { return p.isOurs(ctx, j.src.Task, j.done) }); err != nil || done {
		return err
	}
	// Whole or not at all: written beside and renamed.
	tmp := part(j.dst.Dir)
	if err := errors.Join(os.RemoveAll(tmp), state.MkdirAll(tmp)); err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // gone when all went well
	ids := mailed(j.done)
	for i, id := range ids {
		mail, name, err := p.mail(ctx, j.src.Task, id, i+1, len(ids))
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
	return appear(j.dst.Dir)
}

// mail is one commit as a mail: headers of one line each, without control characters, and encoded
// where they are not ASCII (RFC 2047). The patch is as it is, since git-am must apply it.
func (p *Promoter) mail(ctx context.Context, t review.Task, id string, n, of int) (mail []byte, name string, err error) {
	body, err := p.Git.Run(ctx, p.base(t, "cat-file", "commit", id))
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
		line = strings.ToValidUTF8(strings.Map(plainRune, strings.TrimRight(line, "\r\n")), "?")
		if magic().MatchString(line) {
			line = " " + line
		}
		b.WriteString(line + "\n")
	}
	b.WriteString("---\n")
	args := []string{"diff-tree", "-p", "--root", "--no-commit-id", "--binary", "--full-index", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color",
		"--src-prefix=a/", "--dst-prefix=b/", id}
	if err := p.Git.Stream(ctx, p.base(t, args...), &b); err != nil {
		return nil, "", err
	}
	b.WriteString("-- \nterok\n\n")
	return b.Bytes(), fmt.Sprintf("%04d-%s.patch", n, fileName(subject)), nil
}

// magic are beginnings of lines that git-am(1) would take for the beginning of the patch, of the next
// mail, or for another author, date or subject than the mail's.
var magic = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(---|diff -|Index: |From |(?i:from|date|subject):|\[PATCH)`)
})

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

// isOurs reports whether the directory at a promotion's place holds what it wrote and nothing else.
func (p toPatches) isOurs(ctx context.Context, t review.Task, q review.Promotion) bool {
	ids := mailed(q)
	entries, err := os.ReadDir(q.Place)
	if err != nil || len(entries) != len(ids) {
		return false
	}
	for i, id := range ids {
		want, name, err := p.mail(ctx, t, id, i+1, len(ids))
		if err != nil {
			return false
		}
		if got, err := os.ReadFile(filepath.Join(q.Place, name)); err != nil || !bytes.Equal(got, want) {
			return false
		}
	}
	return true
}

func (p toPatches) undo(ctx context.Context, t review.Task, q review.Promotion) error {
	if _, err := os.Lstat(q.Place); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !p.isOurs(ctx, t, q) {
		return moved("the directory", q.Place)
	}
	return os.RemoveAll(q.Place)
}
