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
	"strings"

	"terok/internal/audit"
	"terok/internal/gate/refname"
	"terok/internal/text"
)

// backups is where tips that a push replaced are kept: BRANCH/<time>-<first 12 digits of the id>.
const backups = "refs/terok/backup/"

// receivePack answers a push: judge, back up, let git receive, report.
func (h *handler) receivePack(w http.ResponseWriter, r *http.Request) {
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
func (h *handler) sweep() {
	for _, pattern := range []string{"tmp_objdir-incoming-*", "incoming-*"} {
		stale, _ := filepath.Glob(filepath.Join(h.Repo, "objects", pattern)) // the pattern is valid
		for _, dir := range stale {
			_ = os.RemoveAll(dir) // the next push tries again
		}
	}
}

// push is one push under way.
type push struct {
	h      *handler
	list   *commandList
	out    *response
	before map[string]string // branch → id
	saved  map[string]string // backup ref → id
}

func (p *push) run(ctx context.Context, in *body) error {
	var err error
	if p.before, err = p.h.heads(ctx); err != nil {
		return err
	}
	head, err := headBranch(p.h.Repo)
	if err != nil {
		return err
	}
	p.list.judge(p.h.Protected, p.before, head)
	if err := p.backup(ctx); err != nil {
		for _, c := range p.list.commands {
			if c.refused == "" {
				c.refused = "terok: the replaced commits could not be kept; nothing was changed"
			}
		}
	}
	accepted, pack := 0, false
	for _, c := range p.list.commands {
		if c.refused == "" {
			accepted++
			c.forwarded = true
			pack = pack || !c.isDelete()
		}
	}
	var report []byte
	if accepted > 0 {
		report, err = p.receive(ctx, in, pack)
	}
	switch {
	case errors.Is(err, errTooLarge) || errors.Is(err, errBomb):
		p.fail(fmt.Sprintf("terok: pack exceeds %d MiB", p.h.Limits.MaxPack>>20))
		report = nil // git only knows that its input ended
	case ctx.Err() != nil:
	case err != nil && len(report) == 0:
		p.fail("terok: the push was interrupted")
	}
	// What happened is what the refs say, also when the client has gone or git was killed.
	landed := p.settle(context.WithoutCancel(ctx))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	unread := in.drain()
	return errors.Join(p.answer(report, landed), unread)
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
func (h *handler) heads(ctx context.Context) (map[string]string, error) {
	out, err := h.Git.Run(ctx, h.cmd("for-each-ref", "--format=%(objectname) %(refname)", "refs/heads/"))
	if err != nil {
		return nil, err
	}
	heads := map[string]string{}
	for line := range strings.Lines(string(out)) {
		id, ref, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		heads[strings.TrimPrefix(ref, refname.Heads)] = id
	}
	return heads, nil
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
	return p.updateRefs(ctx, &script)
}

func (p *push) updateRefs(ctx context.Context, script io.Reader) error {
	c := p.h.cmd("update-ref", "--no-deref", "--stdin")
	c.Stdin = script
	_, err := p.h.Git.Run(ctx, c)
	return err
}

// receive lets git take the accepted commands and returns its report; progress and messages of
// git go to the client as they come.
func (p *push) receive(ctx context.Context, in io.Reader, pack bool) (report []byte, err error) {
	input := io.Reader(bytes.NewReader(p.list.encode()))
	if pack {
		input = io.MultiReader(input, in)
	}
	pr, pw := io.Pipe()
	parsed := make(chan error, 1)
	go func() {
		var err error
		report, err = p.demultiplex(pr)
		pr.CloseWithError(err)
		parsed <- err
	}()
	err = p.h.stream(ctx, p.h.cmd("receive-pack", "--stateless-rpc", p.h.Repo), input, pw)
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
	after, err := p.h.heads(ctx)
	if err != nil {
		return landed // backups stay; the next reader of the refs sees the truth
	}
	var drop bytes.Buffer
	for _, c := range p.list.commands {
		branch := strings.TrimPrefix(c.ref, refname.Heads)
		id := after[branch]
		done := c.forwarded && p.before[branch] != id && (id == c.new || c.isDelete() && id == "")
		forced := done && !c.isCreate() && (c.isDelete() || !p.h.contains(ctx, c.new, c.old))
		for ref, old := range p.saved {
			if old == c.old && strings.HasPrefix(ref, backups+branch+"/2") && !forced {
				fmt.Fprintf(&drop, "delete %s %s\n", ref, old)
			}
		}
		e := audit.Event{Ev: "push_received", Actor: "workload", Ref: text.Line(c.ref, 0), Old: c.old, New: c.new}
		if done {
			landed[c.ref] = true
			if forced {
				e.Detail = map[string]string{"forced": "true"}
			}
		} else {
			e.Ev, e.Reason = "push_refused", text.Line(c.refused, 0)
			if c.refused == "" {
				e.Reason = "git refused it"
			}
		}
		p.h.Record.Record(e)
	}
	if drop.Len() > 0 {
		_ = p.updateRefs(ctx, &drop) // a backup too many harms nobody
	}
	return landed
}

// contains reports whether commit tip has ancestor old.
func (h *handler) contains(ctx context.Context, tip, old string) bool {
	_, err := h.Git.Run(ctx, h.cmd("merge-base", "--is-ancestor", old, tip))
	return err == nil
}

// answer sends the report: git's own lines, and one for each command that git never saw.
func (p *push) answer(report []byte, landed map[string]bool) error {
	var message []byte
	if len(landed) > 0 {
		message = fmt.Appendf(nil, "terok: %d of %d refs received, waiting for review\n", len(landed), len(p.list.commands))
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
