package roster

import (
	"fmt"
	"strings"

	"terok/internal/sandbox"
)

// instructions is what the agent is told about the place it works in. It goes into the agent's
// system prompt, in addition to the vendor's own.
func instructions(l Launch) string {
	ws := l.Facts.Workspace
	if ws == "" {
		ws = "/workspace"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `# Where you are

You work in a container made by terok. The repository is %s, your home is /home/dev. You may do
whatever you like in here: nothing outside can be harmed, so work without asking for permission.
`, ws)
	if !l.Restricted {
		b.WriteString("You can become root with sudo and install packages where the network policy permits it.\n")
	}
	b.WriteString(`
# Network

There is no network but an allow-list judged by name. A refused connection is the policy at work,
not a fault: do not retry it in a loop and do not look for a way around.
`)
	if len(l.Facts.Hosts) > 0 {
		fmt.Fprintf(&b, "Open: %s.\n", strings.Join(l.Facts.Hosts, ", "))
	}
	b.WriteString("`" + sandbox.GuestProgram + " guest why HOST[:PORT]` says why a host is open or closed.\n" +
		"`" + sandbox.GuestProgram + " guest ask HOST[:PORT] --reason \"what for\"` asks the operator to open it and waits up to 2 minutes; do not repeat it when denied, say in your answer what you could not do.\n" +
		"API keys in your environment are placeholders that work only from here; they are not secrets.\n")
	if l.Facts.Remote != "" {
		gitInstructions(&b, l.Facts)
	}
	if notes := strings.TrimSpace(l.Notes); notes != "" {
		fmt.Fprintf(&b, "\n# From the operator\n\n%s\n", notes)
	}
	return b.String()
}

// gitInstructions tell which remote is what, and where work goes.
func gitInstructions(b *strings.Builder, f Facts) {
	fmt.Fprintf(b, "\n# Git\n\nRemote %s is ", f.Remote)
	to := f.Remote
	switch {
	case !f.Online:
		b.WriteString("a gate on the operator's machine, not the real upstream; you cannot reach that one.\n")
	case f.Gate == "":
		b.WriteString("the real upstream: others see at once what you push there.\n")
	default:
		to = f.Gate
		fmt.Fprintf(b, "the real upstream: others see at once what you push there, so push only what you\nwere asked to publish. Remote %s is a gate on the operator's machine, for everything else.\n", f.Gate)
	}
	b.WriteString("Commit your work in small commits with good messages and push your branch")
	if f.Branch != "" {
		fmt.Fprintf(b, ":\n\n    git push %s HEAD:refs/heads/%s\n", to, f.Branch)
	} else {
		b.WriteString(".\n")
	}
	if f.Gate != "" {
		fmt.Fprintf(b, "\nA person reviews what you pushed to %s and brings it upstream. Unpushed work is not seen by anybody.\n", f.Gate)
		b.WriteString("What they said about it is in " + sandbox.FeedbackFile + "; read it when it exists, and before you push again.\n" +
			"Reviews of your branch that are open upstream and not level with it are in " + sandbox.ReviewStatus + ".\n" +
			"Tags are refused there. ")
	} else {
		b.WriteString("\nUnpushed work is not seen by anybody. ")
	}
	b.WriteString("Your git identity is set already.\n")
}

// tmuxConf is for the container's session. Its prefix is C-a, so that C-b stays with a tmux on
// the host; the clipboard is off because a container must not write the operator's.
const tmuxConf = `set -g prefix C-a
unbind C-b
bind C-a send-prefix
set -g mouse on
set -g history-limit 20000
set -g set-clipboard off
set -g set-titles off
set -g escape-time 10
set -g default-terminal tmux-256color
set -g status-style bg=colour22,fg=colour255
set -g status-left ' #{?TEROK_AGENT,#{TEROK_AGENT},terok} '
set -g status-right ' terok container '
set -g focus-events on
`
