package inspect

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"terok/internal/child"
	"terok/internal/sandbox/landlock"
	"terok/internal/state"
)

// Result is the answer to one of several requests.
type Result struct {
	Reply Reply
	Err   error
}

// DoAll asks many requests of OpScan, in few children; see many. A request that such a child did not
// answer is asked again by itself, so that what one task pushed cannot hide another.
func (i *Inspector) DoAll(ctx context.Context, reqs []Request) []Result {
	results, answered := make([]Result, len(reqs)), make([]bool, len(reqs))
	if len(reqs) > 1 && landlock.Missing(landlock.ABI()) == nil {
		for from := 0; from < len(reqs); from += maxMany {
			to := min(from+maxMany, len(reqs))
			i.askMany(ctx, reqs[from:to], func(n int, r Reply) {
				results[from+n].Reply, answered[from+n] = r, true
			})
		}
	}
	slots := make(chan struct{}, maxWorkers)
	var wait sync.WaitGroup
	for n, req := range reqs {
		if answered[n] {
			continue
		}
		wait.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if results[n].Err = ctx.Err(); results[n].Err == nil {
				results[n].Reply, results[n].Err = i.Do(ctx, req)
			}
		})
	}
	wait.Wait()
	return results
}

// askMany asks one child. Whatever goes wrong with it is a request without an answer.
func (i *Inspector) askMany(ctx context.Context, reqs []Request, answered func(int, Reply)) {
	dir, err := state.TempDir(cmp.Or(i.Memory, i.Scratch), ".look-")
	if err != nil {
		return
	}
	defer os.RemoveAll(dir)
	asked := make([]Request, len(reqs))
	for n, req := range reqs {
		req.Scratch = filepath.Join(dir, strconv.Itoa(n))
		if err := os.Mkdir(req.Scratch, 0o700); err != nil {
			return
		}
		asked[n] = req
	}
	data, err := json.Marshal(asked)
	if err != nil {
		return
	}
	out, _ := child.Run(ctx, child.Spec{Path: i.Self, Args: []string{Command, many}, Stdin: bytes.NewReader(data),
		Env: []string{"PATH=/usr/bin:/bin"}, Timeout: Timeout, MaxOutput: maxReply})
	dec := json.NewDecoder(bytes.NewReader(out))
	for range reqs {
		var a answer
		if dec.Decode(&a) != nil || a.N < 0 || a.N >= len(reqs) {
			return
		}
		if a.Reply.Error == "" && a.Reply.answers(reqs[a.N]) == nil {
			answered(a.N, a.Reply)
		}
	}
}
