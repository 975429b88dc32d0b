package inspect

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/text"
)

var (
	modeText = regexp.MustCompile(`^[0-7]{6}$`)
	codeText = regexp.MustCompile(`^[a-z_]{2,30}$`)
)

// printable makes a string of the child printable; prose in it has been made so before.
func printable(s string) string { return text.Prose(s, 0) }

// answers is clean, for the answer to a request: it must be about what was asked.
func (r *Reply) answers(req Request) error {
	if err := r.clean(len(req.Branches)); err != nil {
		return err
	}
	for i, b := range r.Branches {
		if b.Tip != req.Branches[i] {
			return errors.New("about another commit than was asked for")
		}
	}
	return nil
}

// clean checks what the child said, as if git had taken it over: ids are ids, counts are counts,
// and every string is printable.
func (r *Reply) clean(branches int) error {
	if len(r.Branches) != branches || len(r.List) > MaxCommits {
		return errors.New("another number of branches or commits than was asked for")
	}
	for i := range r.Branches {
		if err := r.Branches[i].clean(); err != nil {
			return err
		}
	}
	for i := range r.List {
		if err := r.List[i].clean(); err != nil {
			return err
		}
	}
	r.Text = text.Block(r.Text, 100_000, maxLine)
	return nil
}

func (b *Range) clean() error {
	if b.Base != "" && !refname.IsID(b.Base) || !refname.IsID(b.Tip) || slices.ContainsFunc(b.IDs, notID) {
		return errors.New("a commit id that is none")
	}
	if b.Commits < 0 || b.LFSAbsent < 0 || b.Insertions < 0 || b.Deletions < 0 || b.FileCount < len(b.Files) || len(b.Files) > maxFiles {
		return errors.New("an impossible count")
	}
	if b.IDs == nil {
		b.IDs = []string{}
	}
	return errors.Join(cleanFiles(&b.Files), cleanFlags(&b.Flags), cleanLarge(b.LFS))
}

func notID(id string) bool { return !refname.IsID(id) }

func cleanFiles(files *[]File) error {
	if *files == nil {
		*files = []File{}
	}
	for i := range *files {
		f := &(*files)[i]
		if len(f.Status) != 1 || !strings.Contains("AMDTXU", f.Status) || !modeText.MatchString(f.OldMode) || !modeText.MatchString(f.NewMode) ||
			f.Insertions < 0 || f.Deletions < 0 || f.TooLarge < 0 {
			return fmt.Errorf("an impossible file entry")
		}
		f.Path = text.Show(f.Path)
		f.Patch = text.Block(f.Patch, 1<<20, maxLine)
		if err := f.LFS.clean(); err != nil {
			return err
		}
	}
	return nil
}

func cleanFlags(flags *[]Flag) error {
	if *flags == nil {
		*flags = []Flag{}
	}
	for i := range *flags {
		f := &(*flags)[i]
		if _, ok := gravity[f.Severity]; !ok || !codeText.MatchString(f.Code) || len(f.Where) > maxWhere || f.Count < 0 {
			return errors.New("an impossible flag")
		}
		for n := range f.Where {
			f.Where[n] = text.Show(f.Where[n])
		}
		if f.Where == nil {
			f.Where = []string{}
		}
	}
	return nil
}

func (c *Commit) clean() error {
	if notID(c.ID) || slices.ContainsFunc(c.Parents, notID) || c.PatchID != "" && notID(c.PatchID) {
		return errors.New("a commit id that is none")
	}
	if c.Signature != "none" && c.Signature != "not verified" {
		return errors.New("an impossible signature state")
	}
	if c.Parents == nil {
		c.Parents = []string{}
	}
	for _, s := range []*string{&c.Author, &c.Email, &c.Committer, &c.CommitterEmail} {
		*s = text.Show(*s)
	}
	c.Subject = text.Prose(c.Subject, 0)
	c.Body = text.ProseBlock(c.Body, maxBody, maxLine)
	return errors.Join(cleanFiles(&c.Files), cleanFlags(&c.Flags))
}
