package review

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"path/filepath"

	"terok/internal/gate/inspect"
	"terok/internal/gate/refname"
	"terok/internal/problem"
	"terok/internal/state"
)

// rules counts the versions of what the inspector looks for: what an older one found is looked for
// again.
const rules = 5

// cache is gate/P/review/cache/ID.json: what the inspector found, by everything that it depends on.
type cache struct {
	Ranges map[string]inspect.Range `json:"ranges"`
}

func (p *repo) cachePath() string {
	return filepath.Join(p.Roots.GateDir(p.task.Project), "review", "cache", p.task.ID+".json")
}

// key names the look at one tip.
func key(req inspect.Request, tip string) string {
	req.Branches, req.Scratch, req.Now = []string{tip}, "", req.Now.Truncate(0)
	data, _ := json.Marshal(struct { // strings and lists always encode
		Rules      int
		Tip, Start string
		Trunk      string
		Not, Paths []string
		Identities []inspect.Identity
		LFS        bool
	}{rules, tip, req.Start, req.Trunk, req.Not, req.Paths, req.Identities, req.LFS})
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// lookup is what is known of branches, and the question for the rest.
type lookup struct {
	*repo
	names   []string
	found   []inspect.Range
	missing []int // indexes into names
	req     inspect.Request
}

// known finds what was found of branches before.
func (p *repo) known(names []string) *lookup {
	var known cache
	_ = state.ReadJSON(p.cachePath(), &known) // a broken one is made anew
	l := &lookup{repo: p, names: names, found: make([]inspect.Range, len(names)), req: p.request(inspect.OpScan)}
	for i, name := range names {
		tip := p.refs.ids[refname.Heads+name]
		r, ok := known.Ranges[key(l.req, tip)]
		if l.found[i] = r; !ok || r.Tip != tip {
			l.missing = append(l.missing, i)
			l.req.Branches = append(l.req.Branches, tip)
		}
	}
	return l
}

// learn takes the inspector's answer to the question.
func (l *lookup) learn(ctx context.Context, a inspect.Result) ([]inspect.Range, error) {
	if inspect.TooMuch(a.Err) {
		a.Reply, a.Err = l.oneByOne(ctx, l.req, a.Err)
	}
	if a.Err != nil {
		return nil, a.Err
	}
	for n, i := range l.missing {
		l.found[i] = a.Reply.Branches[n]
	}
	return l.found, l.keep(l.req, l.found)
}

// numbers looks at branches, asking the inspector only for what it has not seen.
func (p *repo) numbers(ctx context.Context, names []string) ([]inspect.Range, error) {
	l := p.known(names)
	if len(l.missing) == 0 {
		return l.found, nil
	}
	reply, err := p.Inspect.Do(ctx, l.req)
	return l.learn(ctx, inspect.Result{Reply: reply, Err: err})
}

// keep writes down what was found. What only says that there was no time is not kept: it would deny a
// branch for ever that was looked at in a bad moment. Nor is what was found without a file in LFS, which can
// come later.
func (p *repo) keep(req inspect.Request, found []inspect.Range) error {
	keep := cache{Ranges: map[string]inspect.Range{}}
	for _, r := range found {
		if !r.Slow && r.LFSAbsent == 0 {
			keep.Ranges[key(req, r.Tip)] = r
		}
	}
	return state.WriteCache(p.cachePath(), keep)
}

// maxSlow is how many branches of a task may take their whole time in one queue; the others behind
// them are not looked at then.
const maxSlow = 3

// oneByOne finds the branch that is too large, so that it does not hide the others. why is the answer
// for all of them together.
func (p *repo) oneByOne(ctx context.Context, req inspect.Request, why error) (inspect.Reply, error) {
	all, slow := inspect.Reply{}, 0
	for _, tip := range req.Branches {
		one := req
		one.Branches = []string{tip}
		var reply inspect.Reply
		err := why
		if len(req.Branches) > 1 && slow < maxSlow {
			reply, err = p.Inspect.Do(ctx, one)
		}
		switch {
		case problem.Is(err, "too_slow"):
			slow++
			all.Branches = append(all.Branches, unseen(tip, true))
		case inspect.TooMuch(err):
			all.Branches = append(all.Branches, unseen(tip, slow >= maxSlow))
		case err != nil:
			return all, err
		default:
			all.Branches = append(all.Branches, reply.Branches...)
		}
	}
	return all, nil
}

// unseen stands for a branch that the inspector could not get through. Nobody promotes it.
func unseen(tip string, slow bool) inspect.Range {
	return inspect.Range{Tip: tip, Commits: 1, IDs: []string{tip}, Files: []inspect.File{}, Cut: true, Slow: slow,
		Flags: []inspect.Flag{{Code: "too_large", Severity: inspect.Deny, Where: []string{"too large to look at"}, Count: 1}}}
}
