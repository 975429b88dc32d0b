package cli

import (
	"os"

	"github.com/spf13/cobra"

	"terok"
)

func newDemoCmd(e *env) *cobra.Command {
	var o terok.DemoOptions
	c := &cobra.Command{
		Use:   "demo",
		Short: "See all of it on a sample repository; needs no key and no configuration",
		Long: `Show terok at work on a sample repository: a real agent in a real container repairs a bug and
then tries to take the API key, to call hosts that nobody allowed and to reach the upstream. Only
the model is a script and the key is a fake. Nothing of your configuration is used or changed;
images and the downloaded agent are kept for the next time.

TEROK_DEMO_AGENT=claude insists on Claude Code; without it, and where npm cannot be reached, a
small built-in agent takes its place, and the demo says so.`,
		Example: "  terok demo\n  terok demo --keep",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Agent = os.Getenv("TEROK_DEMO_AGENT")
			return e.app.Demo(cmd.Context(), o, e.out)
		},
	}
	c.Flags().BoolVar(&o.Keep, "keep", false, "leave the temporary directory and the task")
	c.Flags().StringArrayVar(&o.CA, "ca", nil, "PEM file of an authority that build containers trust (repeatable)")
	return c
}
