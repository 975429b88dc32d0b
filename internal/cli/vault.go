package cli

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/passphrase"
)

func newVaultCmd(e *env) *cobra.Command {
	return group("vault", "Keep real keys out of containers",
		newVaultInitCmd(e), newVaultUnlockCmd(e), newVaultLockCmd(e), newVaultStatusCmd(e),
		newVaultListCmd(e), newVaultShowCmd(e), newVaultExplainCmd(e),
		newSlotsCmd(e), newPassphraseCmd(e), newRecoveryCmd(e), newRotateKeyCmd(e),
		newVaultVerifyCmd(e), newVaultBackupCmd(e), newVaultRestoreCmd(e), newVaultImportCmd(e), newVaultWipeCmd(e),
		newVaultRoutesCmd(e), newVaultPolicyCmd(e))
}

// setupOptions are the flags of init.
type setupOptions struct {
	file, slot string
	generate   bool
	recovery   recoveryOptions
}

func newVaultInitCmd(e *env) *cobra.Command {
	var o setupOptions
	c := &cobra.Command{
		Use:   "init",
		Short: "Make the vault and unlock it",
		Long: `Makes the vault, one encrypted file, and unlocks it. What opens it from then on is a slot:

  systemd-creds    this machine, sealed to its TPM where there is one; nobody types anything
  secret-service   the desktop's keyring
  passphrase       typed, from --passphrase-file, or made by terok with --generate
  command          what credentials.passphrase_command of config.yml prints

On a terminal the first one that works is offered; without one, say which. A secret is never taken
from an argument or the environment. A recovery code is shown once, for when all else is lost.`,
		Example: "  terok vault init\n  terok vault init --passphrase-file ~/.config/terok/passphrase\n  terok vault init --slot systemd-creds --recovery-out ~/recovery-code",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := e.setUpVault(cmd, o); err != nil {
				return err
			}
			return e.printVault(cmd, "vault.init")
		},
	}
	passphraseFlag(c, &o.file)
	c.Flags().StringVar(&o.slot, "slot", "", "systemd-creds, secret-service, passphrase or command")
	c.Flags().StringVar(&o.slot, "passphrase-tier", "", "")
	_ = c.Flags().MarkHidden("passphrase-tier")
	c.Flags().BoolVar(&o.generate, "generate", false, "let terok make the passphrase; an open vault can show it")
	o.recovery.flags(c)
	c.MarkFlagsMutuallyExclusive("passphrase-file", "generate")
	return c
}

// setUpVault makes the vault. Nothing is made before it is sure that the person gets what they need
// to open it again.
func (e *env) setUpVault(cmd *cobra.Command, o setupOptions) error {
	if err := o.recovery.check(); err != nil {
		return err
	}
	st, err := e.app.VaultStatus(cmd.Context())
	if err != nil {
		return err
	}
	set, err := e.chooseSlot(cmd, o, st)
	if err != nil {
		return err
	}
	machine := set.Slot == "systemd-creds" || set.Slot == "secret-service" || set.Generated
	if machine && !e.canShow(o.recovery) {
		return problem.New("usage", problem.Usage, "the recovery code could be shown nowhere, and without it only this machine would open the vault").
			WithHint("terok vault init --slot %s --recovery-out FILE", set.Slot)
	}
	if st.State == terok.VaultUnprovisioned && set.Slot == "passphrase" && set.Passphrase == nil {
		if set.Passphrase, err = e.chosen("Passphrase of the vault: "); err != nil {
			return err
		}
	}
	defer clear(set.Passphrase)
	cancel := func() {}
	if e.canShow(o.recovery) && st.State == terok.VaultUnprovisioned {
		set.Recovery = terok.NewRecoveryCode()
		if cancel, err = o.recovery.keep(set.Recovery); err != nil {
			return err
		}
	}
	if err := e.app.VaultInit(cmd.Context(), set); err != nil {
		if now, serr := e.app.VaultStatus(cmd.Context()); set.Recovery != nil && serr == nil && st.State == terok.VaultUnprovisioned && now.State == terok.VaultLocked {
			return errors.Join(err, e.handOver(cmd, set.Recovery, o.recovery)) // it was made, and only not opened
		}
		cancel()
		return err
	}
	if set.Recovery == nil {
		fmt.Fprintln(e.err, "Nothing but this opens the vault. A recovery code: terok vault recovery rotate --recovery-out FILE")
		return nil
	}
	return e.handOver(cmd, set.Recovery, o.recovery)
}

// chooseSlot decides what opens the new vault first.
func (e *env) chooseSlot(cmd *cobra.Command, o setupOptions, st terok.VaultStatus) (terok.VaultSetup, error) {
	set := terok.VaultSetup{Slot: o.slot, Generated: o.generate}
	switch {
	case !slices.Contains([]string{"", "systemd-creds", "secret-service", "passphrase", "command"}, o.slot):
		return set, problem.New("usage", problem.Usage, "--slot takes systemd-creds, secret-service, passphrase or command, not %q", text.Line(o.slot, 40))
	case o.slot != "" && o.slot != "passphrase" && (o.file != "" || o.generate):
		return set, problem.New("usage", problem.Usage, "a passphrase is for --slot passphrase")
	case o.file != "":
		set.Slot = "passphrase"
		var err error
		set.Passphrase, err = passphrase.File(o.file)
		return set, err
	case o.generate:
		set.Slot, set.Passphrase = "passphrase", terok.MintPassphrase()
		return set, nil
	case o.slot == "passphrase" && !e.interactive():
		return set, problem.New("passphrase_needed", problem.Declined, "a passphrase is needed and nobody can be asked").
			WithHint("terok vault init --passphrase-file FILE")
	case o.slot != "" || st.State != terok.VaultUnprovisioned: // the core says what is wrong
		return set, nil
	case st.Command:
		set.Slot = "command"
		return set, nil
	case !e.interactive():
		return set, problem.New("usage", problem.Usage, "nobody can be asked what shall open the vault").
			WithHint("terok vault init --passphrase-file FILE, or: terok vault init --slot systemd-creds --recovery-out FILE")
	}
	creds, ring := e.app.VaultKeepers(cmd.Context())
	set.Slot = "passphrase"
	switch {
	case creds:
		set.Slot = "systemd-creds"
		fmt.Fprintln(e.err, "This machine will open the vault by itself (systemd-creds); nobody types a passphrase.")
	case ring:
		ok, err := e.confirm("Shall the desktop's keyring open the vault, so that nobody types a passphrase?")
		if err != nil {
			return set, err
		}
		if ok {
			set.Slot = "secret-service"
		}
	}
	return set, nil
}

func newVaultUnlockCmd(e *env) *cobra.Command {
	var file string
	var stdin, recovery, force bool
	c := &cobra.Command{
		Use:   "unlock",
		Short: "Unlock the vault for every task and face",
		Long: `Unlocks the vault until "terok vault lock", logout or panic. Running tasks can use it at once.

What opens the vault without anybody is tried first (systemd-creds, the keyring, the command in
credentials.passphrase_command); then the passphrase or the recovery code is typed, or comes from
--passphrase-file or --stdin; never from an argument or the environment.`,
		Example: "  terok vault unlock\n  terok vault unlock --recovery\n  terok vault unlock --passphrase-file ~/.config/terok/passphrase",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			opened, err := e.unlock(cmd, file, stdin, recovery, force)
			if err != nil {
				return err
			}
			if opened && e.interactive() {
				if err := e.afterRecovery(cmd); err != nil {
					return err
				}
			}
			return e.printVault(cmd, "vault.unlock")
		},
	}
	passphraseFlag(c, &file)
	c.Flags().BoolVar(&stdin, "stdin", false, "read the passphrase or recovery code from stdin, one line")
	c.Flags().BoolVar(&recovery, "recovery", false, "type the recovery code")
	c.Flags().BoolVar(&force, "force", false, "ask for the passphrase even when the vault opens without")
	c.MarkFlagsMutuallyExclusive("passphrase-file", "stdin", "recovery")
	return c
}

// unlock opens the vault and reports whether a recovery code did it.
func (e *env) unlock(cmd *cobra.Command, file string, stdin, recovery, force bool) (byCode bool, err error) {
	ctx := cmd.Context()
	switch {
	case file != "" || stdin:
		var pass []byte
		if stdin {
			var line string
			line, err = readLine(e.in)
			pass = []byte(line)
		} else {
			pass, err = passphrase.File(file)
		}
		if err != nil {
			return false, err
		}
		defer clear(pass)
		if len(pass) == 0 {
			return false, problem.New("empty_passphrase", problem.Usage, "nothing came on stdin")
		}
		return terok.IsRecoveryCode(pass), e.app.VaultUnlock(ctx, pass)
	case !recovery && !force:
		err := e.app.VaultUnlock(ctx, nil)
		if err == nil || !problem.Is(err, "vault_locked") && !problem.Is(err, "passphrase_command") {
			return false, err
		}
		if !e.interactive() {
			if p := problem.Of(err); p.Hint == cmd.CommandPath() { // which is what was just tried
				return false, p.WithHint("%s --passphrase-file FILE, or --stdin", cmd.CommandPath())
			}
			return false, err
		}
		if p := problem.Of(err); p.Details["lock_reason"] != terok.LockNoSource {
			fmt.Fprintln(e.err, p.Message)
		}
	}
	prompt := "Passphrase of the vault, or its recovery code: "
	if recovery {
		prompt = "Recovery code of the vault: "
	}
	for attempt := 1; ; attempt++ {
		pass, err := e.secret(prompt)
		if err != nil {
			return false, err
		}
		if recovery && !terok.IsRecoveryCode(pass) {
			pass = append([]byte(terok.RecoveryPrefix), pass...)
		}
		code := terok.IsRecoveryCode(pass)
		err = e.app.VaultUnlock(ctx, pass)
		clear(pass)
		if (problem.Is(err, "wrong_passphrase") || problem.Is(err, "wrong_recovery_code")) && attempt < 3 {
			fmt.Fprintln(e.err, problem.Of(err).Message)
			continue
		}
		return code, err
	}
}

// afterRecovery makes sure that there is another way in than a code on paper.
func (e *env) afterRecovery(cmd *cobra.Command) error {
	st, err := e.app.VaultStatus(cmd.Context())
	if err != nil || st.Source != "recovery" {
		return err
	}
	fmt.Fprintln(e.err, "The recovery code opened the vault. Choose a new passphrase, for the next time.")
	pass, err := e.chosen("New passphrase of the vault: ")
	if err != nil {
		return err
	}
	defer clear(pass)
	return e.app.VaultPassphraseChange(cmd.Context(), pass, false)
}

func newVaultLockCmd(e *env) *cobra.Command {
	var destroy, force bool
	var typed string
	c := &cobra.Command{
		Use:   "lock",
		Short: "Forget every key; tasks get 503 until the vault is unlocked",
		Long: `Locks the vault for every task and face, and keeps it locked: neither a sealed copy nor the keyring
opens it again until somebody runs "terok vault unlock". With --destroy the sealed copies, what the
keyring keeps and the command's way in are taken away for good.`,
		Example: "  terok vault lock\n  terok vault lock --destroy",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if typed != "" && typed != "SAVED" {
				return problem.New("usage", problem.Usage, "--ack-typed takes the word SAVED")
			}
			if !destroy {
				if err := e.app.VaultLock(cmd.Context()); err != nil {
					return err
				}
				return e.printVault(cmd, "vault.lock")
			}
			return e.destroyCopies(cmd, typed == "SAVED", force)
		},
	}
	c.Flags().BoolVar(&destroy, "destroy", false, "also take away what opens the vault without a person")
	c.Flags().BoolVar(&force, "force", false, "ask no questions")
	c.Flags().StringVar(&typed, "ack-typed", "", "SAVED: the recovery code is kept, for scripts")
	return c
}

func (e *env) destroyCopies(cmd *cobra.Command, sure, force bool) error {
	if !force && !e.yes && e.interactive() {
		if ok, err := e.confirm("Only the passphrase and the recovery code will open the vault then. Go on?"); err != nil || !ok {
			return problem.New("declined", problem.Declined, "nothing was changed")
		}
	}
	gone, err := e.app.VaultDestroyCopies(cmd.Context(), sure)
	if problem.Is(err, "recovery_unconfirmed") && e.interactive() {
		if terr := e.typed("SAVED", "Nobody has confirmed to have the recovery code, and nothing else will open the vault."); terr != nil {
			return terr
		}
		gone, err = e.app.VaultDestroyCopies(cmd.Context(), true)
	}
	if err != nil {
		return err
	}
	for _, s := range gone {
		fmt.Fprintf(e.err, "taken away: %s (%.8s)\n", s.Kind, s.ID)
	}
	return e.printVault(cmd, "vault.lock")
}

func newVaultStatusCmd(e *env) *cobra.Command {
	var check bool
	c := &cobra.Command{
		Use:   "status",
		Short: "Say whether the vault is locked, and what opens it",
		Long: `Says how the vault is, what would open it, and what somebody should do about it. It never opens the
vault and never asks. With --check the exit code tells: 0 open or opened by the next command, 8 locked
or not there, 1 damaged.`,
		Example: "  terok vault status\n  terok vault status --json\n  terok vault status --check",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !check {
				return e.printVault(cmd, "vault.status")
			}
			st, err := e.app.VaultStatus(cmd.Context())
			if err != nil {
				return err
			}
			if err := e.printStatus(st, "vault.status"); err != nil {
				return err
			}
			switch {
			case st.State == terok.VaultError:
				return exitCode(problem.Failed)
			case st.State != terok.VaultUnlocked && st.LockReason != terok.LockNotStarted:
				return exitCode(problem.Locked)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&check, "check", false, "let the exit code tell")
	return c
}

func (e *env) printVault(cmd *cobra.Command, schema string) error {
	st, err := e.app.VaultStatus(cmd.Context())
	if err != nil {
		return err
	}
	return e.printStatus(st, schema)
}

// reasons are the lock reasons in words.
var lockReasons = map[string]string{
	terok.LockUser:       " by you",
	terok.LockPanic:      " by panic",
	terok.LockNotStarted: ", opened by the next command that needs it",
	terok.LockUnreadable: ": what should open it cannot be read now",
}

func (e *env) printStatus(st terok.VaultStatus, schema string) error {
	return e.print(schema, st, func(w io.Writer) error {
		fmt.Fprintf(w, "vault %s", st.State)
		if st.State == terok.VaultUnlocked {
			fmt.Fprintf(w, " · %s · keyholder %d, %s", count(st.Credentials, "credential"), st.PID, count(st.Sessions, "task"))
		}
		fmt.Fprint(w, lockReasons[st.LockReason])
		if st.Error != "" {
			fmt.Fprintf(w, ": %s", text.Line(st.Error, 400))
		}
		fmt.Fprintln(w)
		if schema != "vault.status" {
			return nil
		}
		for _, c := range st.Chain {
			if c.Detail != "" {
				fmt.Fprintf(w, "  %s: %s\n", c.Source, text.Line(c.Detail, 200))
			}
		}
		for _, x := range st.Warnings {
			fmt.Fprintf(e.err, "%s: %s\n  → %s\n", x.Severity, x.Message, x.Hint)
		}
		if st.Hint != "" {
			fmt.Fprintf(e.err, "  → %s\n", st.Hint)
		}
		return nil
	})
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
