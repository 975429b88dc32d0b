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
const rules = 2

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
		Not, Paths []string
		Identities []inspect.Identity
	}{rules, tip, req.Start, req.Not, req.Paths, req.Identities})
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:16])
}

// numbers looks at branches, asking the inspector only for what it has not seen.
func (p *repo) numbers(ctx context.Context, names []string) ([]inspect.Range, error) {
	var known cache
	_ = state.ReadJSON(p.cachePath(), &known) // a broken one is made anew
	found := make([]inspect.Range, len(names))
	req := p.request(inspect.OpScan)
	var missing []int
	for i, name := range names {
		tip := p.refs.ids[refname.Heads+name]
		r, ok := known.Ranges[key(req, tip)]
		if found[i] = r; !ok || r.Tip != tip {
			missing = append(missing, i)
			req.Branches = append(req.Branches, tip)
		}
	}
	if len(missing) == 0 {
		return found, nil
	}
	reply, err := p.Inspect.Do(ctx, req)
	if problem.Is(err, "too_large") && len(missing) > 1 {
		reply, err = p.oneByOne(ctx, req)
	} else if problem.Is(err, "too_large") {
		reply, err = inspect.Reply{Branches: []inspect.Range{unseen(req.Branches[0])}}, nil
	}
	if err != nil {
		return nil, err
	}
	for n, i := range missing {
		found[i] = reply.Branches[n]
	}
	keep := cache{Ranges: map[string]inspect.Range{}}
	for i := range names {
		keep.Ranges[key(req, found[i].Tip)] = found[i]
	}
	return found, state.WriteCache(p.cachePath(), keep)
}

// oneByOne finds the branch that is too large, so that it does not hide the others.
func (p *repo) oneByOne(ctx context.Context, req inspect.Request) (inspect.Reply, error) {
	all := inspect.Reply{}
	for _, tip := range req.Branches {
		one := req
		one.Branches = []string{tip}
		reply, err := p.Inspect.Do(ctx, one)
		switch {
		case problem.Is(err, "too_large"):
			all.Branches = append(all.Branches, unseen(tip))
		case err != nil:
			return all, err
		default:
			all.Branches = append(all.Branches, reply.Branches...)
		}
	}
	return all, nil
}

// unseen stands for a branch that the inspector could not get through. Nobody promotes it.
func unseen(tip string) inspect.Range {
	return inspect.Range{Tip: tip, Commits: 1, IDs: []string{tip}, Files: []inspect.File{}, Cut: true,
		Flags: []inspect.Flag{{Code: "too_large", Severity: inspect.Deny, Where: []string{"too large to look at"}, Count: 1}}}
}
