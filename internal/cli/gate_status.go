package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"terok"
	"terok/internal/child"
	"terok/internal/problem"
	"terok/internal/text"
)

func newGateStatusCmd(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "status [PROJECT]", Short: "Mirrors, what needs a decision, tasks with work in them", Args: atMost(1),
		Long: `Shows what is on this machine, without asking upstream, and what the project's mode protects:
gatekeeping projects work through the gate alone; the tasks of online ones reach the upstream themselves.`,
		Example: "  terok gate status\n  terok gate status webshop --json", ValidArgsFunction: e.completeProjects,
		RunE: func(cmd *cobra.Command, args []string) error {
			names, err := e.projectOrAll(args, true)
			if err != nil {
				return err
			}
			list := []terok.GateStatus{}
			for _, p := range names {
				s, err := e.app.GateStatus(cmd.Context(), p)
				if problem.Is(err, "gate_missing") && len(args) == 0 {
					continue // no task yet
				}
				if err != nil {
					return err
				}
				list = append(list, s)
			}
			return e.print("gate.status", list, func(w io.Writer) error {
				if len(list) == 0 {
					fmt.Fprintln(e.err, "no gates yet; a project's first task makes one, or: terok project gate-sync PROJECT")
				}
				for _, s := range list {
					if err := printGate(w, s); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

func printGate(w io.Writer, s terok.GateStatus) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(k, format string, args ...any) { fmt.Fprintf(tw, "%s\t%s\n", k, fmt.Sprintf(format, args...)) }
	if !s.Gated {
		row("gate", "%s  none (%s)", s.Project, s.Class)
		if s.Upstream != "" {
			row("upstream", "%s", text.Show(s.Upstream))
		}
		row("trust", "%s", s.Trust)
		return tw.Flush()
	}
	row("gate", "%s  %s, default %s, %s in %s", s.Project, branches(s.Branches), s.Head, text.Size(uint64(s.Size)), count(s.Packs, "pack"))
	if s.Upstream == "" {
		row("upstream", "none")
	} else {
		row("upstream", "%s", text.Show(s.Upstream))
	}
	mode := s.Class
	if s.External {
		mode += "; tasks know the upstream's address (remote external)"
	}
	row("mode", "%s", mode)
	synced := "never"
	if !s.LastSync.IsZero() {
		synced = age(s.LastSync) + " ago"
	}
	if s.Error != "" {
		synced += "; the last try failed: " + text.Show(s.Error)
	}
	row("last sync", "%s", synced)
	if c := s.Checked; c != nil {
		what := "in step"
		switch {
		case c.Error != "":
			what = "could not be asked: " + text.Show(c.Error)
		case c.Behind+c.Gone > 0:
			what = fmt.Sprintf("%s moved, %d deleted upstream", branches(c.Behind), c.Gone)
		}
		next := ""
		if wait := time.Until(c.Next); wait > 0 {
			next = "; next in " + wait.Round(time.Second).String()
		}
		row("last look", "%s ago: %s%s", age(c.At), what, next)
	}
	printReviews(row, s)
	for _, c := range s.Pending {
		row("decide", "%s  %s  terok gate resolve %s %s keep|take-upstream|rename", text.Show(c.Branch), c.Kind, s.Project, child.Quote(text.Show(c.Branch)))
	}
	for _, c := range s.Ahead {
		row("ahead", "%s  %d commits that upstream has not", text.Show(c.Branch), c.GateOnly)
	}
	for id, reason := range s.Frozen {
		if id == "" {
			id = "all tasks"
		}
		row("frozen", "%s: %s", id, text.Show(reason))
	}
	if s.Backups > 0 {
		row("backups", "%d", s.Backups)
	}
	for _, m := range s.Modules {
		what := "mirrored"
		if m.Why != "" {
			what = m.Why
		}
		row("submodule", "%s  %s  %s", text.Show(m.Name), text.Show(m.Written), text.Show(what))
	}
	switch {
	case s.LFSMode == "proxy" && s.Large == nil:
		row("lfs", "proxy, not synced yet")
	case s.LFSMode == "proxy" && s.Large.Missing > 0:
		row("lfs", "proxy, %s, %d missing: they stay pointers", count(s.Large.Objects, "object"), s.Large.Missing)
	case s.LFSMode == "proxy":
		row("lfs", "proxy, %s", count(s.Large.Objects, "object"))
	case s.LFS:
		row("lfs", "off: files of %s in Git LFS stay pointers", s.Head)
	}
	if s.Lock != "" {
		row("busy", "%s", text.Show(s.Lock))
	}
	for _, t := range s.Tasks {
		if t.Error != "" {
			row("task "+t.ID, "%s", text.Show(t.Error))
		} else {
			row("task "+t.ID, "%s of its own, %s", branches(t.Branches), text.Size(uint64(t.Size)))
		}
	}
	row("trust", "%s", s.Trust)
	return tw.Flush()
}

// printReviews says what is open at the forge, and which tasks are not level with it.
func printReviews(row func(k, format string, args ...any), s terok.GateStatus) {
	l := s.Reviews
	if l == nil {
		return
	}
	what := "never"
	if !l.At.IsZero() {
		what = fmt.Sprintf("%d open at %s, %s ago", len(l.Open), text.Show(l.Forge), age(l.At))
	}
	if l.Error != "" {
		what += "; the last try failed: " + text.Show(l.Error)
	}
	if l.Forge != "" {
		row("reviews", "%s", what)
	}
	ids := slices.AppendSeq(slices.Collect(maps.Keys(l.Tasks)), maps.Keys(l.Deleted))
	slices.Sort(ids)
	for _, id := range slices.Compact(ids) {
		for _, line := range l.Lines(id) {
			row("review", "%s  task %s", text.Show(line), text.Show(id))
		}
	}
}
