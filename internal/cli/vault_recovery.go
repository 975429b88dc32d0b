package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/state"
)

// recoveryOptions say how a recovery code reaches a person.
type recoveryOptions struct {
	out   string // file
	typed string // "SAVED": acknowledged without retyping
}

func (o *recoveryOptions) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.out, "recovery-out", "", "write the recovery code to this new file (0600) instead of the terminal")
	c.Flags().StringVar(&o.typed, "ack-typed", "", "SAVED: confirm that the code is kept, for scripts")
}

func (o *recoveryOptions) check() error {
	if o.typed != "" && o.typed != "SAVED" {
		return problem.New("usage", problem.Usage, "--ack-typed takes the word SAVED")
	}
	return nil
}

// canShow reports whether a code has somewhere to go.
func (e *env) canShow(o recoveryOptions) bool { return o.out != "" || e.interactive() }

// keep writes a code into the file, if there is to be one, before it opens anything: whoever is
// killed in between has a code that is not used, and never a vault whose code nobody has. cancel
// removes the file again.
func (o recoveryOptions) keep(code terok.RecoveryCode) (cancel func(), err error) {
	if o.out == "" {
		return func() {}, nil
	}
	err = state.Create(o.out, fmt.Appendf(nil, "%s\n", code), 0o600)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil, problem.New("exists", problem.Conflict, "%s exists already", o.out).WithHint("choose another name")
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return nil, problem.New("usage", problem.Usage, "%w", err)
	case err != nil:
		return nil, fmt.Errorf("write the recovery code: %w", err)
	}
	return func() { os.Remove(o.out) }, nil
}

// handOver gives the code to the person: it is in the file, or is shown on the terminal, where one
// group is typed again. The vault has the code already; whoever does not confirm gets a warning until
// they do.
func (e *env) handOver(cmd *cobra.Command, code terok.RecoveryCode, o recoveryOptions) error {
	defer clear(code)
	confirmed := o.typed == "SAVED"
	if o.out != "" {
		fmt.Fprintf(e.err, "The recovery code is in %s: move it off this machine.\n", o.out)
	} else {
		ok, err := e.retype(code)
		if err != nil {
			return err
		}
		confirmed = confirmed || ok
	}
	if !confirmed {
		fmt.Fprintln(e.err, "Not confirmed yet; once the code is kept: terok vault passphrase acknowledge")
		return nil
	}
	_, err := e.app.VaultAcknowledge(cmd.Context())
	return err
}

// retype shows the code on the controlling terminal, never on stdout or stderr, which may be files,
// and asks for one group of it.
func (e *env) retype(code terok.RecoveryCode) (bool, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return false, problem.New("no_terminal", problem.Declined, "the recovery code can be shown nowhere: %w", err).
			WithHint("terok vault recovery rotate --recovery-out FILE")
	}
	defer tty.Close()
	fmt.Fprintf(tty, "\nRecovery code, shown this once. It opens the vault when everything else is lost.\n\n    %s\n\nWrite it down, off this machine.\n", code)
	n := rand.IntN(terok.RecoveryGroups()) + 1
	in := bufio.NewReader(tty)
	for range 3 {
		fmt.Fprintf(tty, "To confirm, type group %d of %d (or nothing, to do that later): ", n, terok.RecoveryGroups())
		line, err := in.ReadString('\n')
		if err != nil || strings.TrimSpace(line) == "" {
			return false, nil
		}
		if code.Retyped(n, []byte(line)) {
			return true, nil
		}
		fmt.Fprintln(tty, "That is not it.")
	}
	return false, nil
}

func newRecoveryCmd(e *env) *cobra.Command {
	return group("recovery", "The code that opens the vault when everything else is lost", newRecoveryRotateCmd(e))
}

func newRecoveryRotateCmd(e *env) *cobra.Command {
	var o recoveryOptions
	c := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new recovery code; the old one opens nothing any more",
		Long: `Makes a new recovery code and shows it once, on the terminal or into a file. No command shows it
again: the vault keeps only what the code opens.`,
		Example: "  terok vault recovery rotate\n  terok vault recovery rotate --recovery-out ~/recovery-code",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.newRecovery(cmd, o); err != nil {
				return err
			}
			return e.printVault(cmd, "vault.recovery.rotate")
		},
	}
	o.flags(c)
	return c
}

// newRecovery replaces the recovery code.
func (e *env) newRecovery(cmd *cobra.Command, o recoveryOptions) error {
	if err := o.check(); err != nil {
		return err
	}
	if !e.canShow(o) {
		return problem.New("no_terminal", problem.Declined, "a recovery code is shown on a terminal, and there is none").
			WithHint("terok vault recovery rotate --recovery-out FILE")
	}
	if err := e.app.VaultNeed(cmd.Context()); err != nil {
		return err
	}
	code := terok.NewRecoveryCode()
	cancel, err := o.keep(code)
	if err != nil {
		return err
	}
	return e.replaceRecovery(cmd, code, o, cancel)
}

// replaceRecovery makes a kept code the vault's and hands it over.
func (e *env) replaceRecovery(cmd *cobra.Command, code terok.RecoveryCode, o recoveryOptions, cancel func()) error {
	if err := e.app.VaultRecoveryRotate(cmd.Context(), code); err != nil {
		if problem.Is(err, "vault_locked") && o.out != "" { // it went away, perhaps after it was done
			fmt.Fprintf(e.err, "The recovery code in %s may be the one of the vault: try it before it is thrown away.\n", o.out)
		} else {
			cancel()
		}
		return err
	}
	return e.handOver(cmd, code, o)
}
