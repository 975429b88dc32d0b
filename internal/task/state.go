package task

import (
	"os"
	"strconv"
	"strings"
)

// Container is what podman said of a task's container.
type Container struct {
	Queried bool   // false: the query failed, which is never the same as absent
	Present bool   // podman knows it
	Status  string // podman's word: created, running, paused, exited, …
	Code    int    // exit code when exited
}

// States of a task (spec: tasks.md §5).
const (
	Unknown     = "unknown"
	Gone        = "deleting"
	Running     = "running"
	Init        = "init"
	Paused      = "paused"
	Completed   = "completed"
	Failed      = "failed"
	Stopped     = "stopped"
	Starting    = "starting"
	Interrupted = "interrupted"
	Created     = "created"
	NotFound    = "not found"
	Broken      = "broken"
)

// State derives a task's state from its record and its container; the first rule that fits wins.
func State(t *Task, c Container) string {
	done := func(code int) string {
		if code == 0 {
			return Completed
		}
		return Failed
	}
	switch {
	case !c.Queried:
		return Unknown
	case t.Phase == Deleting:
		return Gone
	case c.Present && c.Status == "paused":
		return Paused
	case c.Present && (c.Status == "running" || c.Status == "stopping") && !t.ReadyAt.IsZero():
		return Running
	case c.Present && (c.Status == "running" || c.Status == "stopping"):
		return Init
	case c.Present && (c.Status == "exited" || c.Status == "stopped") && t.Mode == Headless:
		return done(c.Code)
	case c.Present && (c.Status == "exited" || c.Status == "stopped"):
		return Stopped
	case t.Phase == Launching && t.Launch.Alive():
		return Starting
	case t.Phase == Launching:
		return Interrupted
	case t.Launch.ID == "":
		return Created
	case t.Exit != nil && t.Mode == Headless:
		return done(t.Exit.Code)
	default:
		return NotFound
	}
}

// Alive reports whether the process that owns the launch still runs. The start time keeps a
// reused pid apart.
func (l Launch) Alive() bool { return l.PID > 0 && ProcessStart(l.PID) == l.PIDStart }

// ProcessStart is the start time of a process in clock ticks since boot (field 22 of
// /proc/<pid>/stat, proc(5)), 0 when there is no such process.
func ProcessStart(pid int) uint64 {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0
	}
	// The command may hold spaces and parentheses: fields count from behind the last ")".
	i := strings.LastIndexByte(string(data), ')')
	f := strings.Fields(string(data)[i+1:])
	if len(f) < 20 {
		return 0
	}
	n, _ := strconv.ParseUint(f[19], 10, 64)
	return n
}
