// Package guest is terok inside the container: pid 1, the helper of later logins, and the few
// programs that an agent uses there.
//
//	terok guest init --key KEY -- CMD…   pid 1
//	terok guest exec -- CMD…             a login with the environment of the start, and today's tokens
//	terok guest agent NAME               an agent (agent.go)
//	terok guest idle                     the command of an interactive task: waits to be stopped
//	terok guest why HOST[:PORT]          is this reachable, and if not, why
//	terok guest ask HOST[:PORT]          asks the operator to open it, and waits (ask.go)
//	terok guest verify                   the probe of terok verify, which runs it
//	terok guest feedback                 writes what reviewers said, from stdin (feedback.go)
//	terok guest review-status            the same for how far the task is from open reviews
//	terok guest git-credential ACTION    git's credential helper for the gate
//
// What it guarantees: the command runs only in a network namespace whose links are lo and our
// pair, after a supervisor proved with the key of this container's sandbox file that it answers
// there, and once it has handed out this start's files. Otherwise pid 1 ends with ExitRefused and
// nothing of the image ever runs: a copy of the container (clone, commit, generate kube) has no
// such supervisor, and nothing in its stored configuration is secret.
//
// It uses no shell and no program of the image but git.
package guest

import (
	"fmt"
	"os"

	"terok/internal/sandbox"
)

// Exit codes of the guest itself; otherwise the command's own code is the container's.
const (
	ExitRefused  = 78  // no supervisor of ours, or links that are not ours
	exitPrepare  = 69  // the workspace could not be prepared
	exitUsage    = 2   //
	exitNotExec  = 126 // as shells have them
	exitNotFound = 127
)

// Main runs one of the guest's programs and returns its exit code.
func Main(args []string) int {
	if len(args) == 0 {
		return usage()
	}
	switch name, rest := args[0], args[1:]; name {
	case "init":
		return initMain(rest)
	case "exec":
		return execMain(rest)
	case "agent":
		if err := loadStart(); err != nil {
			fmt.Fprintln(os.Stderr, "terok:", err)
			return exitPrepare
		}
		return AgentMain(rest)
	case "idle":
		return idleMain()
	case "verify":
		return verifyMain(rest)
	case "why":
		return whyMain(rest, os.Stdout)
	case "ask":
		return askMain(rest, os.Stdout)
	case "feedback":
		return feedbackMain(os.Stdin, sandbox.FeedbackFile)
	case "review-status":
		return feedbackMain(os.Stdin, sandbox.ReviewStatus)
	case "git-credential":
		return credentialMain(rest, os.Stdin, os.Stdout)
	}
	return usage()
}

func usage() int {
	fmt.Fprintln(os.Stderr, "usage: terok guest init|exec|agent|why|ask|git-credential")
	return exitUsage
}

// command takes "-- CMD…" or "CMD…" and returns CMD….
func command(args []string) []string {
	if len(args) > 0 && args[0] == "--" {
		return args[1:]
	}
	return args
}
