package server

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"terok/internal/gate/refname"
)

// maxCommandSection bounds what is read before git is asked, in bytes.
const maxCommandSection = 64 << 10

// command is one line of a push: move ref from old to new; the null id means "does not exist".
type command struct {
	old, new, ref string
	refused       string // reason, "" when git may see it
	forwarded     bool   // git saw it
}

func (c *command) isCreate() bool { return refname.IsZero(c.old) }
func (c *command) isDelete() bool { return refname.IsZero(c.new) }

// commandList is what a client sends before the pack (gitprotocol-pack(5), "Reference Update
// Request").
type commandList struct {
	shallow  []string
	commands []*command
	caps     []string
}

func (l *commandList) has(capability string) bool { return slices.Contains(l.caps, capability) }

// sideband is the largest payload of a side-band packet, 0 when the client wants no side band.
func (l *commandList) sideband() int {
	switch {
	case l.has("side-band-64k"):
		return 65515
	case l.has("side-band"):
		return 995
	}
	return 0
}

func (l *commandList) reports() bool { return l.has("report-status") || l.has("report-status-v2") }

// errPush is a push that cannot even be judged; the client gets 400 with the text.
type errPush string

func (e errPush) Error() string { return string(e) }

// readCommands reads up to and including the flush packet that ends the list. It refuses
// certificates and push options, which were never advertised, more than maxRefs commands and
// lists over 64 KiB, and it never reads a byte of what follows. An empty list is the probe that
// git sends before a large push.
func readCommands(r io.Reader, maxRefs int) (*commandList, error) {
	l := &commandList{}
	buf := make([]byte, maxPktLength)
	seen := map[string]bool{}
	for total := 0; ; {
		kind, line, err := readPkt(r, buf)
		if err != nil {
			if errors.Is(err, errPkt) {
				return nil, errPush("malformed push request")
			}
			return nil, err
		}
		if kind == pktFlush {
			return l, nil
		}
		if kind != pktData {
			return nil, errPush("malformed push request")
		}
		if total += len(line) + 4; total > maxCommandSection {
			return nil, errPush("the list of refs is longer than 64 KiB; push fewer at a time")
		}
		if len(l.commands) == 0 {
			if before, caps, ok := bytes.Cut(line, []byte{0}); ok {
				line, l.caps = before, strings.Fields(string(caps))
				if slices.ContainsFunc(l.caps, func(c string) bool { return c == "push-options" }) {
					return nil, errPush("push options are not supported")
				}
			}
		}
		text := strings.TrimSuffix(string(line), "\n")
		switch {
		case strings.HasPrefix(text, "shallow "):
			id := strings.TrimPrefix(text, "shallow ")
			if !refname.IsID(id) || len(l.commands) > 0 {
				return nil, errPush("malformed push request")
			}
			l.shallow = append(l.shallow, id)
			continue
		case strings.HasPrefix(text, "push-cert"):
			return nil, errPush("signed pushes are not supported")
		}
		c, err := parseCommand(text)
		if err != nil {
			return nil, err
		}
		if seen[c.ref] {
			return nil, errPush("one ref is named twice")
		}
		seen[c.ref] = true
		if l.commands = append(l.commands, c); len(l.commands) > maxRefs {
			return nil, errPush(fmt.Sprintf("more than %d refs in one push; push fewer at a time", maxRefs))
		}
	}
}

func parseCommand(text string) (*command, error) {
	parts := strings.SplitN(text, " ", 3)
	if len(parts) != 3 || !refname.IsID(parts[0]) || !refname.IsID(parts[1]) || len(parts[0]) != len(parts[1]) ||
		parts[2] == "" || strings.ContainsAny(parts[2], "\x00\n") {
		return nil, errPush("malformed push request")
	}
	if parts[0] == parts[1] && refname.IsZero(parts[0]) {
		return nil, errPush("malformed push request")
	}
	return &command{old: parts[0], new: parts[1], ref: parts[2]}, nil
}

// encode renders the commands that were not refused, as git receive-pack expects them.
func (l *commandList) encode() []byte {
	var out []byte
	for _, id := range l.shallow {
		out = appendPkt(out, "shallow "+id)
	}
	first := true
	for _, c := range l.commands {
		if c.refused != "" {
			continue
		}
		line := c.old + " " + c.new + " " + c.ref
		if first {
			line += "\x00 " + strings.Join(l.caps, " ")
			first = false
		}
		out = appendPkt(out, line)
	}
	return append(out, flushPkt...)
}

// judge fills in why a command is refused that was not refused yet. heads are the branches that exist in the task's
// repository, head is the one HEAD names.
func (l *commandList) judge(protected []string, heads map[string]string, head string) {
	folded := map[string]string{}
	for name := range heads {
		folded[refname.Fold(name)] = name
	}
	for _, c := range l.commands {
		if c.refused == "" {
			c.refused = judge(c, protected, heads, folded, head)
		}
		if c.refused == "" && !c.isDelete() {
			branch := strings.TrimPrefix(c.ref, refname.Heads)
			folded[refname.Fold(branch)] = branch
		}
	}
	if !l.has("atomic") || !slices.ContainsFunc(l.commands, func(c *command) bool { return c.refused != "" }) {
		return
	}
	for _, c := range l.commands {
		if c.refused == "" {
			c.refused = "terok: another ref of this atomic push was refused"
		}
	}
}

func judge(c *command, protected []string, heads, folded map[string]string, head string) string {
	branch, ok := strings.CutPrefix(c.ref, refname.Heads)
	switch {
	case strings.HasPrefix(c.ref, "refs/tags/"):
		return "terok: tags are not accepted; push a branch"
	case !ok:
		return "terok: only refs/heads/* is accepted"
	}
	if err := refname.Check(branch); err != nil {
		return "terok: invalid branch name: " + err.Error()
	}
	_, exists := heads[branch]
	switch {
	case refname.Protected(branch, protected):
		return "terok: protected branch; push to another branch"
	case c.isDelete() && branch == head:
		return "terok: the task's own branch cannot be deleted"
	case !exists && !c.isDelete():
		if other, taken := folded[refname.Fold(branch)]; taken && other != branch {
			return "terok: differs only in letter case from an existing branch"
		}
	}
	return ""
}
