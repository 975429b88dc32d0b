package cli

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/control"
	"terok/internal/text"
)

const adoptLong = `When both processes of a supervisor have died, the container goes on without any network and its
status is "error". This starts a new supervisor for it, after checking that the running container
is still the one that was launched. What runs inside goes on: rules, live verdicts, posture, names,
certificates and tokens are as before; connections that were open are not.

It is refused while a supervisor lives and while a panic holds. If the network inside cannot be
made again, the container is stopped. A restart is the clean way: it ends what runs inside.`

func newShieldAdoptCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "adopt TARGET", Short: "Give a running container, whose supervisor died, a new one", Args: exactly(1, "a sandbox or a task"),
		Long:    adoptLong + "\n\n" + targetHelp,
		Example: "  terok shield adopt webshop/k3v9p\n  terok shield adopt web --json",
		RunE:    func(cmd *cobra.Command, args []string) error { return e.adopt(cmd, "shield.adopt", args[0]) },
	}
}

func newSandboxAdoptCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "adopt NAME", Short: "Give a running sandbox, whose supervisor died, a new one", Args: exactly(1, "the name of a sandbox"),
		Long:    adoptLong,
		Example: "  terok sandbox adopt web",
		RunE:    func(cmd *cobra.Command, args []string) error { return e.adopt(cmd, "sandbox.adopt", args[0]) },
	}
}

func (e *env) adopt(cmd *cobra.Command, schema, target string) error {
	got, err := e.app.ShieldAdopt(cmd.Context(), target)
	if err != nil {
		return err
	}
	return e.print(schema, got, func(w io.Writer) error { return printAdoption(w, got) })
}

// printAdoption says what works again and, if something does not, how to get it.
func printAdoption(w io.Writer, a *terok.Adoption) error {
	fmt.Fprintf(w, "%s has a supervisor again; posture %s\n", text.Show(a.Name), a.Status.Posture)
	switch {
	case a.Complete:
		fmt.Fprintln(w, "everything is as it was; only connections that were open are gone")
	case a.Status.Waiting:
		fmt.Fprintln(w, "the network works; vault and gate stay closed until a restart: the guest has not come back with their keys")
	default:
		fmt.Fprintln(w, "the network works; the guest has not come back")
	}
	return nil
}

// withoutSupervisor is the note on a container that runs without one.
func withoutSupervisor(st control.Status) string {
	name, restart := text.Show(st.Key), "sandbox restart "
	if st.Project != "" {
		name, restart = text.Show(st.Project+"/"+st.Task), "task restart "
	}
	return fmt.Sprintf(" (no supervisor: the container has no network; terok shield adopt %s keeps what runs, terok %s%s starts it clean)", name, restart, name)
}

// placementLines show what is out of the ordinary about a supervisor.
func placementLines(w io.Writer, st control.Status) {
	if st.Adopted {
		note := "it took over the running container"
		if st.Waiting {
			note += "; vault and gate are closed until the guest comes back or the container is restarted"
		}
		fmt.Fprintf(w, "adopted\t%s\n", note)
	}
	if st.Scope != "" {
		fmt.Fprintf(w, "scope\t%s\n", text.Show(st.Scope))
	}
	for _, d := range st.Degraded {
		fmt.Fprintf(w, "degraded\t%s\n", text.Show(d))
	}
}
