// Package terok is the product's core: one App whose methods are what the faces (command line,
// TUI, web console) can do. Flags, colours and prompts never reach it; processes, files and
// sockets never reach the faces.
package terok

import (
	"io"
	"net/http"
	"time"

	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/state"
	"terok/internal/task"
)

// Task is the record of a task; ProjectSpec is what a project begins with.
type (
	Task        = task.Task
	ProjectSpec = project.Spec
)

// Problem is an error with a cure and an exit code; see package problem.
type Problem = problem.Problem

// App does terok's work. The zero value is not usable; fill in Roots and Progress.
type App struct {
	Roots    state.Roots
	Self     string                       // path of the running terok program
	Environ  func(string) string          // os.Getenv
	Progress io.Writer                    // progress lines and streamed tool output; io.Discard for none
	Now      func() time.Time             // wall clock
	Confirm  func(q string) (bool, error) // asks the person; nil when nobody can be asked

	// PersonalSSH reaches ssh upstreams with the person's own agent, keys and known hosts, as
	// ssh.use_personal of a project does.
	PersonalSSH bool

	// CredsSocket is where io.systemd.Credentials listens; "" is systemd's own place.
	CredsSocket string

	ForgeHTTP *http.Client // for the API of a forge, with the vault's token; nil is one of its own
}
