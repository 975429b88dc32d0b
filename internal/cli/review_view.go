package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/term"

	"terok"
	"terok/internal/gate/review"
	"terok/internal/pager"
	"terok/internal/text"
)

// terminal reports whether w is one.
func (e *env) terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// painter draws for w.
func (e *env) painter(w io.Writer) painter {
	p := painter{color: e.styled(w), width: 80}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		if cols, _, err := term.GetSize(int(f.Fd())); err == nil && cols > 20 {
			p.width = min(cols, 200)
		}
	}
	return p
}

// page draws into the person's pager on a terminal, and plainly elsewhere. more is drawn behind it.
func (e *env) page(ctx context.Context, w io.Writer, draw func(p painter, b *strings.Builder), more string) error {
	var b strings.Builder
	p := e.painter(w)
	p.fancy = e.terminal(w)
	p.drawn = more != ""
	draw(p, &b)
	b.WriteString(more)
	if f, ok := w.(*os.File); ok && e.interactive() && p.fancy {
		return pager.Pager{Environ: os.Getenv, Out: f}.Show(ctx, b.String())
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// deltaOf draws a change's diff by the person's delta, "" where that is not to be.
func (e *env) deltaOf(ctx context.Context, w io.Writer, d terok.ChangeDetails, not bool) string {
	f, ok := w.(*os.File)
	if not || !ok || !e.styled(w) || !e.interactive() || d.Patch == "" {
		return ""
	}
	out, _ := pager.Pager{Environ: os.Getenv, Out: f}.Delta(ctx, d.Patch, strconv.Itoa(e.painter(w).width))
	return out
}

// details draws a change whole.
func (p painter) details(b *strings.Builder, d terok.ChangeDetails, o terok.ReviewOptions, word bool) {
	p.head(b, d)
	if d.Since != "" && d.Range != "" {
		b.WriteString("\n" + p.bold("rewritten since "+d.Since[:7]) + p.faint("  (= the same, ! changed, < gone, > new)") + "\n")
		p.rangeDiff(b, d.Range)
		return
	}
	if d.Since != "" {
		b.WriteString("\n" + p.bold("since "+d.Since[:7]) + "\n")
	}
	b.WriteByte('\n')
	for _, c := range d.List {
		p.commit(b, c)
		if o.PerCommit || o.View.Commit != "" {
			p.diff(b, review.Chosen(c.Files, o.Globs), word)
			b.WriteByte('\n')
		}
	}
	if o.View.Commit == "" && d.Since == "" && d.Commits > len(d.List) {
		fmt.Fprintf(b, "[%d older commits]\n", d.Commits-len(d.List))
	}
	if o.PerCommit || o.View.Commit != "" {
		return
	}
	b.WriteByte('\n')
	p.stat(b, d.Files, d.FileCount, d.Insertions, d.Deletions)
	if !p.drawn && !o.Stat {
		p.diff(b, review.Chosen(d.Files, o.Globs), word)
	}
	if d.Cut {
		b.WriteString(p.paint("33", "[the diff is too large to show whole]") + "\n")
	}
}

// head is whose work it is, and what to look at.
func (p painter) head(b *strings.Builder, d terok.ChangeDetails) {
	agent := ""
	if d.Agent != "" {
		agent = " · " + d.Agent
	}
	base := "nothing"
	if d.Base != "" {
		base = d.Base[:12]
	}
	when := ""
	if !d.PushedAt.IsZero() {
		when = p.faint(" · pushed " + ago(d.PushedAt))
	}
	state := d.State
	if s := p.state(d.State); s != "" {
		state = s
	}
	fmt.Fprintf(b, "%s%s  %s%s\n", p.bold(d.Project+"/"+d.Task+" "+d.Name), agent, state, when)
	fmt.Fprintf(b, "%s  %s..%s\n", d.Branch, base, d.Tip)
	p.flags(b, d.Flags)
	for i, f := range d.LFS {
		if i == 10 {
			fmt.Fprintf(b, "  [%d more files in LFS]\n", len(d.LFS)-10)
			break
		}
		more := map[string]string{review.LFSText: ", a text: its lines are shown below its pointer",
			review.LFSLong: ", a text that is too large to show: no diff here says what is in it", review.LFSUnread: ", too large to be read here"}[f.Content]
		if f.State == review.LFSMissing {
			more = ", not in the gate"
		}
		fmt.Fprintf(b, "  in LFS: %s, %s%s\n", f.Path, text.Size(f.Size), more)
	}
}

// flags draws one line for each flag.
func (p painter) flags(b *strings.Builder, flags []terok.ReviewFlag) {
	width := 0
	for _, f := range flags {
		width = max(width, len(flagName(f.Code)))
	}
	for _, f := range flags {
		mark := map[string]string{"deny": "!!", "warn": " !", "info": " ·"}[f.Severity]
		where := strings.Join(f.Where[:min(len(f.Where), 4)], ", ")
		if f.Count > 4 {
			where += fmt.Sprintf(" and %d more", f.Count-4)
		}
		fmt.Fprintf(b, "%s  %s\n", p.paint(flagColour(f.Severity), fmt.Sprintf("%s %-*s", mark, width, flagName(f.Code))), where)
	}
}

// commit draws what a commit says of itself, and what people said of it.
func (p painter) commit(b *strings.Builder, c terok.ReviewedCommit) {
	decided := map[string]string{review.Approved: p.paint("32", "  ✓ approved"), review.Rejected: p.paint("31", "  ✗ rejected")}[c.Decided]
	fmt.Fprintf(b, "%s %s%s\n", p.paint("33", c.ID[:12]), p.bold(c.Subject), decided)
	who := fmt.Sprintf("%s <%s>", c.Author, c.Email)
	if c.Committer != c.Author || c.CommitterEmail != c.Email {
		who += fmt.Sprintf(", committed by %s <%s>", c.Committer, c.CommitterEmail)
	}
	signature := "no signature"
	if c.Signature != "none" {
		signature = "signature not verified"
	}
	fmt.Fprintf(b, "  %s\n", p.faint(fmt.Sprintf("%s  %s  (%s)", who, c.Time.Format("2006-01-02 15:04"), signature)))
	if c.SameAs != "" {
		fmt.Fprintf(b, "  %s\n", p.paint("36", "same change as "+c.SameAs[:12]+", which was approved; this commit is not"))
	}
	for line := range strings.Lines(c.Body) {
		b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
	}
	for _, remark := range c.Comments {
		fmt.Fprintf(b, "  %s %s\n", p.paint("35", "»"), text.Prose(remark.Text, 300))
	}
}

// stat draws one line for each file with a bar of its size.
func (p painter) stat(b *strings.Builder, files []terok.ReviewFile, n, ins, del int) {
	width, most := 0, 1
	for _, f := range files {
		width, most = max(width, min(len(f.Path), 60)), max(most, f.Insertions+f.Deletions)
	}
	for _, f := range files {
		numbers := fmt.Sprintf("+%d −%d", f.Insertions, f.Deletions)
		if f.TooLarge > 0 {
			numbers = tooLarge(f)
		} else if f.Binary {
			numbers = "binary"
		}
		if f.LFS != nil {
			numbers += fmt.Sprintf(", in LFS +%d −%d", f.LFS.Insertions, f.LFS.Deletions)
		}
		bar := ""
		if p.fancy && !f.Binary {
			scale := func(v int) int { return (v*24 + most - 1) / most }
			bar = "  " + p.paint("32", strings.Repeat("+", scale(f.Insertions))) + p.paint("31", strings.Repeat("-", scale(f.Deletions)))
		}
		fmt.Fprintf(b, " %s %-*s  %s%s\n", p.paint(map[string]string{"A": "32", "D": "31"}[f.Status], f.Status), width, f.Path, numbers, bar)
	}
	if n > len(files) {
		fmt.Fprintf(b, " [%d more files]\n", n-len(files))
	}
	fmt.Fprintf(b, " %s, +%d −%d\n", count(n, "file"), ins, del)
}

// diff draws files on a terminal, and a plain unified diff elsewhere.
func (p painter) diff(b *strings.Builder, files []terok.ReviewFile, word bool) {
	if p.fancy || word {
		p.files(b, files, word)
		return
	}
	patch := review.Unified(files)
	if patch != "" {
		b.WriteByte('\n')
	}
	p.unified(b, patch)
}

// unified colours a plain diff, where colours are wanted though it is no terminal.
func (p painter) unified(b *strings.Builder, patch string) {
	for line := range strings.Lines(patch) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "diff ") || strings.HasPrefix(line, "+++ ") || strings.HasPrefix(line, "--- "):
			line = p.bold(line)
		case strings.HasPrefix(line, "+"):
			line = p.paint(addLine, line)
		case strings.HasPrefix(line, "-"):
			line = p.paint(delLine, line)
		case strings.HasPrefix(line, "@@"):
			line = p.paint("36", line)
		}
		b.WriteString(line + "\n")
	}
}

// rangeDiff colours git range-diff: which commits stayed, changed, went and came.
func (p painter) rangeDiff(b *strings.Builder, out string) {
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		f := strings.Fields(line)
		inner := strings.TrimPrefix(line, "    ")
		switch {
		case len(f) > 3 && strings.HasSuffix(f[0], ":") && strings.HasPrefix(line, f[0]) || len(f) > 3 && len(f[2]) == 1 && strings.Contains("=!<>", f[2]):
			line = p.bold(line)
		case inner == line:
		case strings.HasPrefix(inner, "++") || strings.HasPrefix(inner, "+ ") || inner == "+":
			line = p.paint(addLine, line)
		case strings.HasPrefix(inner, "--") || strings.HasPrefix(inner, "- ") || inner == "-":
			line = p.paint(delLine, line)
		case strings.HasPrefix(inner, "@@"):
			line = p.paint("36", line)
		}
		b.WriteString(line + "\n")
	}
}

// summary draws what a decision is about: commits and flags, no diff.
func (p painter) summary(b *strings.Builder, d terok.ChangeDetails) {
	for _, c := range d.List[:min(10, len(d.List))] {
		decided := map[string]string{review.Approved: p.paint("32", "  ✓"), review.Rejected: p.paint("31", "  ✗")}[c.Decided]
		fmt.Fprintf(b, "  %s %s%s\n", p.paint("33", c.ID[:7]), c.Subject, decided)
	}
	if d.Commits > 10 {
		fmt.Fprintf(b, "  [%d more]\n", d.Commits-10)
	}
	p.flags(b, d.Flags)
}
