package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"terok"
	"terok/internal/problem"
	"terok/internal/state"
)

// WakeMain is the process `terok keyholder-wake CONFIG DATA RUNTIME`, which the guard of a keyholder
// that crashed runs: it opens the vault by what opens it without a person, unless somebody locked it.
func WakeMain(args []string) int {
	if len(args) != 3 {
		fmt.Fprintln(os.Stderr, "terok keyholder-wake is run when a keyholder crashed; you mean: terok vault unlock")
		return problem.Usage
	}
	self, err := os.Executable()
	if err != nil {
		return problem.Failed
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	app := &terok.App{Roots: state.Roots{Config: args[0], Data: args[1], Runtime: args[2]}, Self: self, Environ: os.Getenv,
		Progress: io.Discard, Now: time.Now}
	if err := app.VaultNeed(ctx); err != nil {
		return problem.Of(err).Exit
	}
	return problem.OK
}
