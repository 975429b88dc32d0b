package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"terok/internal/audit"
	"terok/internal/gate/refname"
	"terok/internal/gate/refs"
	"terok/internal/gate/view"
	"terok/internal/text"
)

// Hidden refs of a task's repository.
const (
	backups      = "refs/terok/backup/"   // tips that a push replaced: BRANCH/<time>-<first 12 digits of the id>
	recordedRefs = "refs/terok/recorded/" // BRANCH as the ledger has it, see Recover
	startRef     = "refs/terok/start"     // the commit that the task began from
)

// receivePack answers a push: judge, back up, let git receive, report.
func (h *Server) receivePack(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Content-Type") != "application/x-git-receive-pack-request" {
		refuse(w, http.StatusUnsupportedMediaType, "not a push request")
		return
	}
	in, err := openBody(w, r, h.Limits.MaxPack+maxCommandSection, h.Limits.Idle)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	list, err := readCommands(in, h.Limits.MaxRefs)
	if err != nil {
		var reason errPush
		if !errors.As(err, &reason) {
			reason = "the push request ended early"
		}
		unread := in.drain()
		refuse(w, http.StatusBadRequest, string(reason))
		if unread != nil {
			panic(http.ErrAbortHandler)
		}
		return
	}
	w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
	if len(list.commands) == 0 {
		if in.drain() != nil { // git probes with an empty list before it sends much
			panic(http.ErrAbortHandler)
		}
		return
	}
	p := &push{h: h, list: list, out: newResponse(w, h.Limits.Idle)}
	defer p.out.done()
	defer h.sweep()
	if err := p.run(r.Context(), in); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// sweep removes the quarantine directories of git processes that were killed. No other push runs
// while the caller's does, so none of them is in use.
func (h *Server) sweep() {
	for _, pattern := range []string{"tmp_objdir-incoming-*", "incoming-*"} {
		stale, _ := filepath.Glob(filepath.Join(h.Repo, "objects", pattern)) // the pattern is valid
		for _, dir := range stale {
			_ = os.RemoveAll(dir) // the next push tries again
		}
	}
}

// push is one push under way.
type push struct {
	h      *Server
	list   *commandList
	out    *response
	before map[string]string // branch → id
	saved  map[string]string // backup ref → id
	landed []told
}

// run takes a push: refs are judged before the pack is read, the pack is checked apart from the
// repository, and only moving refs holds the task's lock.
func (p *push) run(ctx context.Context, in *body) error {
	start := p.h.Now()
	if err := p.judge(); err != nil {
		return err
	}
	var q *quarantine
	if p.brings() {
		var err error
		if q, err = p.take(ctx, in); q != nil {
			defer q.drop()
		}
		p.explain(ctx, err)
	}
	report, landed := p.apply(ctx, q)
	p.h.log("git-receive-pack", in.in, p.out.n, start, ctx.Err())
	if ctx.Err() != nil {
		return ctx.Err()
	}
	unread := in.drain()
	return errors.Join(p.answer(report, landed), unread)
}

// judge reads the branches and says which commands are refused by the rules.
func (p *push) judge() error {
	var err error
	if p.before, err = p.h.heads(); err != nil {
		return err
	}
	head, err := headBranch(p.h.Repo)
	if err != nil {
		return err
	}
	p.list.judge(p.h.Protected, p.before, head)
	return nil
}

// brings reports whether an accepted command needs objects.
func (p *push) brings() bool {
	return slices.ContainsFunc(p.list.commands, func(c *command) bool { return c.refused == "" && !c.isDelete() })
}

// take receives the pack into quarantine and looks into it.
func (p *push) take(ctx context.Context, in io.Reader) (*quarantine, error) {
	room, why, err := p.h.room()
	if err != nil {
		return nil, err
	}
	if room == 0 {
		return nil, errRefused(why)
	}
	q, err := p.h.receivePackFile(ctx, in, &band{p}, room)
	if err != nil {
		if errors.Is(err, errTooLarge) || err == errRefused(tooLarge(room)) {
			err = errRefused(why)
		}
		return q, err
	}
	var tips []string
	for _, c := range p.list.commands {
		if c.refused == "" && !c.isDelete() {
			tips = append(tips, c.new)
		}
	}
	return q, q.inspect(ctx, tips)
}

// explain turns what stopped a pack into the reply for its refs.
func (p *push) explain(ctx context.Context, err error) {
	var refused errRefused
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.As(err, &refused):
		p.fail(refused.Error())
	case errors.Is(err, errTooLarge) || errors.Is(err, errBomb):
		p.fail("terok: " + err.Error())
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		p.fail("terok: the disk of the gate is full; nothing was changed")
	default:
		p.fail("terok: the push was interrupted")
	}
}

// apply moves refs under the task's lock. Rules are judged again: the host may have moved the
// task's view while the pack came.
func (p *push) apply(ctx context.Context, q *quarantine) (report []byte, landed map[string]bool) {
	after := context.WithoutCancel(ctx) // what happened is recorded also when the client has gone
	unlock, err := view.Lock(p.h.Repo)
	if err != nil {
		p.fail("terok: the task's repository is busy; push again in a moment")
		p.settle(after)
		return nil, nil
	}
	defer unlock()
	if err := p.judge(); err != nil {
		p.fail("terok: the task's repository cannot be read")
	}
	if err := p.backup(ctx); err != nil {
		p.fail("terok: the replaced commits could not be kept; nothing was changed")
	}
	undo := func() {}
	if q != nil && p.brings() {
		if undo, err = q.keep(); err != nil {
			p.fail("terok: the pack could not be stored; nothing was changed")
		}
	}
	accepted := 0
	for _, c := range p.list.commands {
		if c.refused == "" {
			accepted++
			c.forwarded = true
		}
	}
	if accepted > 0 && ctx.Err() == nil {
		if report, err = p.receive(ctx, q); err != nil && len(report) == 0 {
			p.fail("terok: the push was interrupted")
		}
	}
	landed = p.settle(after)
	if len(landed) == 0 {
		undo()
	}
	return report, landed
}

// band is what goes to the person at the other end while the push runs.
type band struct{ p *push }

func (b *band) Write(data []byte) (int, error) {
	limit := b.p.list.sideband()
	switch {
	case limit == 0 || len(data) > 0 && b.p.list.has("quiet"):
		return len(data), nil
	case len(data) == 0:
		_, err := b.p.out.Write([]byte("0005\x02"))
		return 0, err
	}
	_, err := b.p.out.Write(appendBand(nil, 2, data, limit))
	return len(data), err
}

// fail marks every command that has not been refused yet.
func (p *push) fail(reason string) {
	for _, c := range p.list.commands {
		if c.refused == "" {
			c.refused = reason
		}
	}
}

// heads reads the branches of the task's repository.
func (h *Server) heads() (map[string]string, error) {
	r, err := refs.Read(h.Repo, refname.Heads)
	if err != nil {
		return nil, err
	}
	return view.Below(r.IDs, refname.Heads), nil
}

// headBranch reads the branch that HEAD names.
func headBranch(repo string) (string, error) {
	data, err := os.ReadFile(filepath.Join(repo, "HEAD"))
	if err != nil {
		return "", err
	}
	branch, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "ref: "+refname.Heads)
	if !ok {
		return "", errors.New("HEAD of the task's repository names no branch")
	}
	return branch, nil
}

// backup keeps the tips that the accepted commands replace, before git is asked: whether the new
// tip contains the old one is known only when the pack is here.
func (p *push) backup(ctx context.Context) error {
	p.saved = map[string]string{}
	var script bytes.Buffer
	stamp := p.h.Now().UTC().Format("20060102T150405Z")
	for _, c := range p.list.commands {
		branch := strings.TrimPrefix(c.ref, refname.Heads)
		// A wrong old value is refused by receive-pack, so there is nothing to keep.
		if c.refused != "" || c.isCreate() || p.before[branch] != c.old {
			continue
		}
		ref := backups + branch + "/" + stamp + "-" + c.old[:12]
		p.saved[ref] = c.old
		fmt.Fprintf(&script, "update %s %s\n", ref, c.old)
	}
	if script.Len() == 0 {
		return nil
	}
	return p.h.updateRefs(ctx, &script)
}

// receive lets git move the refs of the accepted commands, whose objects are in place, and returns
// its report; messages of git go to the client as they come.
func (p *push) receive(ctx context.Context, q *quarantine) (report []byte, err error) {
	input := p.list.encode()
	if q != nil {
		input = append(input, emptyPack(len(p.list.commands[0].new))...)
	}
	pr, pw := io.Pipe()
	parsed := make(chan error, 1)
	go func() {
		var err error
		report, err = p.demultiplex(pr)
		pr.CloseWithError(err)
		parsed <- err
	}()
	err = p.h.stream(ctx, p.h.cmd("receive-pack", "--stateless-rpc", p.h.Repo), bytes.NewReader(input), pw)
	pw.Close()
	if perr := <-parsed; err == nil && perr != nil {
		err = perr
	}
	return report, err
}

// maxReport bounds git's report, in bytes: 500 refs with their reasons are far below.
const maxReport = 1 << 20

// demultiplex reads git's answer to the end: what is for the person goes on at once, the report
// is collected.
func (p *push) demultiplex(r io.Reader) (report []byte, err error) {
	if p.list.sideband() == 0 {
		report, err = io.ReadAll(io.LimitReader(r, maxReport))
		return report, err
	}
	buf := make([]byte, maxPktLength)
	for {
		kind, payload, err := readPkt(r, buf)
		if err == io.EOF {
			return report, nil
		}
		if err != nil {
			return report, err
		}
		if kind != pktData || len(payload) == 0 {
			continue
		}
		switch payload[0] {
		case 1:
			if len(report)+len(payload) > maxReport {
				return report, errPkt
			}
			report = append(report, payload[1:]...)
		case 2, 3:
			if _, err := p.out.Write(appendBand(nil, 2, payload[1:], p.list.sideband())); err != nil {
				return report, err
			}
		}
	}
}

// settle compares the refs with the commands, drops backups that were not needed and records
// what happened. It returns the refs that landed.
func (p *push) settle(ctx context.Context) map[string]bool {
	landed := map[string]bool{}
	all, err := view.Refs(p.h.Repo)
	if err != nil {
		return landed // backups stay; the next reader of the refs sees the truth
	}
	after := view.Below(all, refname.Heads)
	var script bytes.Buffer
	p.landed = nil
	for _, c := range p.list.commands {
		branch := strings.TrimPrefix(c.ref, refname.Heads)
		id := after[branch]
		done := c.forwarded && p.before[branch] != id && (id == c.new || c.isDelete() && id == "")
		forced := done && !c.isCreate() && (c.isDelete() || !p.h.contains(ctx, c.new, c.old))
		for ref, old := range p.saved {
			if old == c.old && strings.HasPrefix(ref, backups+branch+"/2") && !forced {
				fmt.Fprintf(&script, "delete %s %s\n", ref, old)
			}
		}
		e := audit.Event{Ev: "push_received", Actor: "workload", Ref: text.Line(c.ref, 0), Old: c.old, New: c.new}
		if done {
			landed[c.ref] = true
			e.Detail = map[string]string{}
			if forced {
				e.Detail["forced"] = "true"
			}
			if !c.isDelete() && len(p.landed) < maxTold {
				e.Detail["commits"] = p.h.commits(ctx, c.new, c.old)
			}
			p.landed = append(p.landed, told{branch, e.Detail["commits"], c.isDelete()})
			fmt.Fprintln(&script, view.Move(recordedRefs+branch, all[recordedRefs+branch], id))
		} else {
			e.Ev, e.Reason = "push_refused", text.Line(c.refused, 0)
			if c.refused == "" {
				e.Reason = "git refused it"
			}
		}
		p.h.Record.Record(e)
	}
	p.h.flush(ctx)
	if script.Len() > 0 {
		_ = p.h.updateRefs(ctx, &script) // a backup too many harms nobody, a missing record is recovered
	}
	return landed
}

// maxTold is how many refs of one push are described one by one.
const maxTold = 10

// told is what the agent reads about one ref that landed.
type told struct {
	branch, commits string
	deleted         bool
}

func (t told) String() string {
	switch {
	case t.deleted:
		return fmt.Sprintf("terok: %s deleted\n", t.branch)
	case t.commits == "" || t.commits == "0":
		return fmt.Sprintf("terok: %s received\n", t.branch)
	case t.commits == "1":
		return fmt.Sprintf("terok: %s received, 1 commit, waiting for review\n", t.branch)
	}
	return fmt.Sprintf("terok: %s received, %s commits, waiting for review\n", t.branch, t.commits)
}

// contains reports whether commit tip has ancestor old.
func (h *Server) contains(ctx context.Context, tip, old string) bool {
	_, err := h.Git.Run(ctx, h.cmd("merge-base", "--is-ancestor", old, tip))
	return err == nil
}

// answer sends the report: git's own lines, and one for each command that git never saw.
func (p *push) answer(report []byte, landed map[string]bool) error {
	var message []byte
	for _, t := range p.landed[:min(len(p.landed), maxTold)] {
		message = append(message, t.String()...)
	}
	if more := len(p.landed) - maxTold; more > 0 {
		message = fmt.Appendf(message, "terok: and %d more\n", more)
	}
	if !p.list.reports() {
		return nil
	}
	merged, err := p.merge(report, landed)
	if err != nil {
		return err
	}
	if limit := p.list.sideband(); limit > 0 {
		out := appendBand(nil, 2, message, limit)
		out = appendBand(out, 1, merged, limit)
		merged = append(out, flushPkt...)
	}
	_, err = p.out.Write(merged)
	return err
}

func (p *push) merge(report []byte, landed map[string]bool) ([]byte, error) {
	var out []byte
	reported := map[string]bool{}
	buf := make([]byte, maxPktLength)
	for r := bytes.NewReader(report); ; {
		kind, line, err := readPkt(r, buf)
		if err != nil || kind != pktData {
			break // a cut report is completed below
		}
		out = appendPkt(out, string(line))
		verb, rest, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		if verb == "ok" || verb == "ng" {
			ref, _, _ := strings.Cut(rest, " ")
			reported[ref] = true
		}
	}
	if len(out) == 0 {
		out = appendPkt(out, "unpack ok\n")
	}
	for _, c := range p.list.commands {
		switch {
		case reported[c.ref]:
		case landed[c.ref]:
			out = appendPkt(out, "ok "+c.ref+"\n")
		default:
			reason := c.refused
			if reason == "" {
				reason = "terok: the push was interrupted"
			}
			out = appendPkt(out, "ng "+c.ref+" "+reason+"\n")
		}
	}
	return append(out, flushPkt...), nil
}
