package review

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"terok/internal/gate/inspect"
	"terok/internal/gate/refname"
)

// Head is the branch of a review at the forge.
type Head struct {
	Number int
	Branch string // there
	Tip    string // full id
	Merged bool
}

// Lag says how far a branch and a review of it are apart.
type Lag struct {
	Number int    `json:"number"`
	Branch string `json:"branch"` // at the forge
	Own    string `json:"own"`    // the task's, "" for a branch of the gate
	Ahead  int    `json:"ahead"`  // commits of the task that the review has not
	Behind int    `json:"behind"` // commits of the review that the task has not
	// Elsewhere: the review is at a commit that is not on this machine, so the numbers are not known.
	Elsewhere bool `json:"elsewhere"`
	// Merged: the review is over and what it holds has arrived.
	Merged bool `json:"merged,omitempty"`
	// Tip is the branch's commit, PushedAt when it came, by the host's clock; zero when that is not known.
	Tip      string    `json:"tip,omitempty"`
	PushedAt time.Time `json:"pushed_at,omitzero"`
	// Comments is how many were made at the forge since then, and have not been brought to the task;
	// URL is where they stand.
	Comments int    `json:"comments,omitempty"`
	URL      string `json:"url,omitempty"`
}

// Level reports whether there is nothing to say.
func (l Lag) Level() bool { return l.Ahead+l.Behind+l.Comments == 0 && !l.Elsewhere && !l.Merged }

// Lag compares a task's branches with reviews: a branch belongs to the review into whose branch it
// was promoted, or that has its name; those of the gate itself to the one that has their name, where
// they are ahead of it. What is level is there as well. Nothing is counted for a merged review.
func (r *Reader) Lag(ctx context.Context, t Task, heads []Head) ([]Lag, error) {
	p, err := r.open(t)
	if err != nil {
		return nil, err
	}
	rec, err := LoadRecord(r.Roots, t.Project, t.ID)
	if err != nil {
		return nil, err
	}
	var list []Lag
	taken := map[int]bool{}
	for _, own := range p.branches() {
		for _, h := range heads {
			tip := h.Tip
			match := own == h.Branch
			for _, done := range rec.History(own).Promotions {
				if done.Target == ToUpstream && !done.Undone && done.Ref == refname.Heads+h.Branch {
					match = true
					if done.As == h.Tip {
						tip = done.Commit // squashed: these are the commits that arrived
					}
				}
			}
			if !match {
				continue
			}
			taken[h.Number] = true
			l := Lag{Merged: true}
			if !h.Merged {
				if l, err = p.lag(ctx, p.refs.ids[refname.Heads+own], tip); err != nil {
					return list, err
				}
			}
			l.Number, l.Branch, l.Own = h.Number, h.Branch, own
			l.Tip, l.PushedAt = p.refs.ids[refname.Heads+own], p.refs.pushed[refname.Heads+own]
			list = append(list, l)
		}
	}
	for _, h := range heads {
		tip := p.base[refname.Heads+h.Branch]
		if h.Merged || taken[h.Number] || tip == "" || tip == h.Tip {
			continue
		}
		l, err := p.lag(ctx, tip, h.Tip)
		if err != nil {
			return list, err
		}
		if l.Number, l.Branch, l.Tip = h.Number, h.Branch, tip; l.Ahead > 0 {
			list = append(list, l)
		}
	}
	slices.SortFunc(list, func(a, b Lag) int { return a.Number - b.Number })
	return list, nil
}

// lag counts between a branch's commit and another one, which may not be here.
func (p *repo) lag(ctx context.Context, tip, head string) (Lag, error) {
	if tip == head {
		return Lag{}, nil
	}
	ahead, err := p.between(ctx, head, tip)
	if err != nil {
		if ctx.Err() != nil {
			return Lag{}, ctx.Err()
		}
		return Lag{Elsewhere: true}, nil
	}
	behind, err := p.between(ctx, tip, head)
	return Lag{Ahead: ahead, Behind: behind}, err
}

// between counts the commits of to that from has not.
func (p *repo) between(ctx context.Context, from, to string) (int, error) {
	req := p.request(inspect.OpScan, to)
	req.Have = append([]string{}, req.Not...)
	req.Start, req.Not, req.NumbersOnly = "", []string{from}, true
	reply, err := p.Inspect.Do(ctx, req)
	if err != nil {
		return 0, err
	}
	return reply.Branches[0].Commits, nil
}

// LagLines are what a task is told, one line for each review that is not level: "#42 feat/x +3",
// "#42 feat/x +3 -1", "#42 feat/x ?" where the review has moved to a commit that the gate has not,
// "#42 feat/x merged". How many comments are new, and where, follows. mark writes a number as the forge
// does.
func LagLines(list []Lag, mark func(int) string) string {
	var b strings.Builder
	for _, l := range list {
		if l.Level() {
			continue
		}
		b.WriteString(mark(l.Number) + " " + l.Branch)
		switch {
		case l.Merged:
			b.WriteString(" merged: the branch can be cleaned up")
		case l.Elsewhere:
			b.WriteString(" ?")
		case l.Behind > 0 && l.Ahead > 0:
			b.WriteString(" +" + strconv.Itoa(l.Ahead) + " -" + strconv.Itoa(l.Behind))
		case l.Behind > 0:
			b.WriteString(" -" + strconv.Itoa(l.Behind))
		case l.Ahead > 0:
			b.WriteString(" +" + strconv.Itoa(l.Ahead))
		}
		if l.Own == "" {
			b.WriteString(" (the gate's)")
		} else if l.Own != l.Branch {
			b.WriteString(" (" + l.Own + ")")
		}
		if l.Comments > 0 {
			b.WriteString(", " + strconv.Itoa(l.Comments) + " new comment" + map[bool]string{true: "s"}[l.Comments > 1])
			if l.URL != "" {
				b.WriteString(": " + l.URL)
			}
		}
		b.WriteString("\n")
	}
	return b.String()
}
