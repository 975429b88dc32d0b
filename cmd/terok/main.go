// Command terok: the first argument selects a face or one of the processes that terok starts
// itself. The processes never load the command line, so they stay small and start fast.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"terok"
	"terok/internal/cli"
	"terok/internal/gate/gitcred"
	"terok/internal/gate/inspect"
	"terok/internal/guest"
	"terok/internal/notify"
	"terok/internal/supervisor"
	"terok/internal/vault/keyholder/holder"
)

func init() {
	// The supervisor reads /proc/<pid>/ns/net of this process as "the host's": the main thread
	// must never be one that entered a container's namespace.
	runtime.LockOSThread()
}

func main() {
	if len(os.Args) > 1 {
		if process, ok := processes[os.Args[1]]; ok {
			os.Exit(process(os.Args[2:]))
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := cli.Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// processes are the programs inside the program; each takes its arguments and returns the exit code.
var processes = map[string]func(args []string) int{
	"oci-hook":         supervisor.HookMain,
	"supervise":        supervisor.ParentMain,
	"supervise-worker": supervisor.WorkerMain,
	"supervise-adopt":  supervisor.AdoptMain,
	"supervise-scope":  supervisor.ScopeMain,
	"supervise-table":  supervisor.TableMain,
	"guest":            guest.Main,
	"keyholder":        holder.Main,
	"keyholder-guard":  holder.GuardMain,
	terok.WakeCommand:  cli.WakeMain,
	"notify":           notify.Main,
	inspect.Command:    inspect.Main,
	"git-credential":   func(args []string) int { return gitcred.Main(args, os.Stdin, os.Stdout) },
}
