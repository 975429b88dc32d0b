package review

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"terok/internal/gate/inspect"
	"terok/internal/gate/refname"
)

// Head is the branch of a review that is open at the forge.
type Head struct {
	Number int
	Branch string // there
	Tip    string // full id
}

// Lag says how far a task's branch and an open review of it are apart.
type Lag struct {
	Number int    `json:"number"`
	Branch string `json:"branch"` // at the forge
	Own    string `json:"own"`    // the task's
	Ahead  int    `json:"ahead"`  // commits of the task that the review has not
	Behind int    `json:"behind"` // commits of the review that the task has not
	// Elsewhere: the review is at a commit that is not on this machine, so the numbers are not known.
	Elsewhere bool `json:"elsewhere"`
}

// Lag compares a task's branches with open reviews: a branch belongs to the review into whose
// branch it was promoted, or that has its name. Those that are level are left out.
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
			l, err := p.lag(ctx, own, tip)
			if err != nil {
				return list, err
			}
			if l.Number, l.Branch, l.Own = h.Number, h.Branch, own; l.Ahead+l.Behind > 0 || l.Elsewhere {
				list = append(list, l)
			}
		}
	}
	slices.SortFunc(list, func(a, b Lag) int { return a.Number - b.Number })
	return list, nil
}

// lag counts between a branch and a commit, which may not be here.
func (p *repo) lag(ctx context.Context, branch, head string) (Lag, error) {
	tip := p.refs.ids[refname.Heads+branch]
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

// LagLines are what a task is told, one line for each review: "#42 feat/x +3", "#42 feat/x +3 -1",
// or "#42 feat/x ?" where the review has moved to a commit that the gate has not. mark writes a
// number as the forge does.
func LagLines(list []Lag, mark func(int) string) string {
	var b strings.Builder
	for _, l := range list {
		b.WriteString(mark(l.Number) + " " + l.Branch)
		switch {
		case l.Elsewhere:
			b.WriteString(" ?")
		case l.Behind > 0 && l.Ahead > 0:
			b.WriteString(" +" + strconv.Itoa(l.Ahead) + " -" + strconv.Itoa(l.Behind))
		case l.Behind > 0:
			b.WriteString(" -" + strconv.Itoa(l.Behind))
		default:
			b.WriteString(" +" + strconv.Itoa(l.Ahead))
		}
		if l.Own != l.Branch {
			b.WriteString(" (" + l.Own + ")")
		}
		b.WriteString("\n")
	}
	return b.String()
}
