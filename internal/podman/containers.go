package podman

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Container is one line of PS.
type Container struct {
	ID       string            `json:"Id"`
	Names    []string          `json:"Names"`
	Image    string            `json:"Image"`
	ImageID  string            `json:"ImageID"`
	State    string            `json:"State"` // created, configured, initialized, running, paused, stopping, stopped, exited, removing
	Labels   map[string]string `json:"Labels"`
	Pid      int               `json:"Pid"` // of the container's init on the host; 0 when not running
	ExitCode int               `json:"ExitCode"`
	Created  int64             `json:"Created"`   // Unix seconds
	Started  int64             `json:"StartedAt"` // Unix seconds; negative or 0 when never
	Exited   int64             `json:"ExitedAt"`  // Unix seconds; negative or 0 when it has not
}

// Name is the first name, or the short id.
func (c Container) Name() string {
	if len(c.Names) > 0 {
		return c.Names[0]
	}
	if len(c.ID) > 12 {
		return c.ID[:12]
	}
	return c.ID
}

// Running reports whether the container has processes.
func (c Container) Running() bool {
	return c.State == "running" || c.State == "paused" || c.State == "stopping"
}

// Alive reports whether a container in this state has processes or may be about to get them; an
// unknown state counts as alive. Who cleans up asks this one.
func Alive(state string) bool {
	switch state {
	case "exited", "stopped", "removing", "dead":
		return false
	}
	return true
}

// PS lists all containers, running or not, that have every one of the labels, each "key" or
// "key=value". The result is complete or an error.
func (r *Runner) PS(ctx context.Context, labels ...string) ([]Container, error) {
	args := []string{"ps", "--all", "--no-trunc", "--format", "json"}
	for _, l := range labels {
		args = append(args, "--filter", "label="+l)
	}
	out, err := r.query(ctx, "containers", args...)
	if err != nil {
		return nil, queryFailed("containers", err)
	}
	list, err := parsePS(out)
	if err != nil {
		return nil, queryFailed("containers", err)
	}
	return list, nil
}

func parsePS(out []byte) ([]Container, error) {
	var list []Container
	if len(strings.TrimSpace(string(out))) == 0 {
		return nil, nil // podman 4.x prints nothing at all in some empty cases
	}
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("podman ps printed: %w", err)
	}
	for _, c := range list {
		if c.ID == "" || c.State == "" {
			return nil, errors.New("podman ps printed a container without id or state")
		}
	}
	return list, nil
}

// Details is what Inspect tells of one container.
type Details struct {
	ID    string `json:"Id"`
	Name  string `json:"Name"`
	Image string `json:"Image"` // image id
	State struct {
		Status     string    `json:"Status"`
		Running    bool      `json:"Running"`
		Pid        int       `json:"Pid"`
		ConmonPid  int       `json:"ConmonPid"`
		ExitCode   int       `json:"ExitCode"`
		OOMKilled  bool      `json:"OOMKilled"`
		Error      string    `json:"Error"`
		StartedAt  time.Time `json:"StartedAt"`
		FinishedAt time.Time `json:"FinishedAt"`
	} `json:"State"`
	Config struct {
		Labels      map[string]string `json:"Labels"`
		Annotations map[string]string `json:"Annotations"`
		Env         []string          `json:"Env"`
		Cmd         []string          `json:"Cmd"`
	} `json:"Config"`
	HostConfig struct {
		NetworkMode string `json:"NetworkMode"`
		Privileged  bool   `json:"Privileged"`
		LogConfig   struct {
			Path string `json:"Path"`
		} `json:"LogConfig"`
	} `json:"HostConfig"`
	Raw json.RawMessage `json:"-"` // the whole object as podman printed it
}

// Inspect asks about one container by id or name; the error is ErrAbsent when there is none.
func (r *Runner) Inspect(ctx context.Context, idOrName string) (*Details, error) {
	out, err := r.query(ctx, "container "+idOrName, "container", "inspect", "--", idOrName)
	if err != nil {
		return nil, err
	}
	raw, err := one(out)
	if err != nil {
		return nil, queryFailed("container "+idOrName, err)
	}
	d := &Details{Raw: raw}
	if err := json.Unmarshal(raw, d); err != nil {
		return nil, queryFailed("container "+idOrName, err)
	}
	return d, nil
}

// one takes the only element of an inspect answer.
func one(out []byte) (json.RawMessage, error) {
	var list []json.RawMessage
	if err := json.Unmarshal(out, &list); err != nil {
		return nil, fmt.Errorf("podman inspect printed: %w", err)
	}
	if len(list) != 1 {
		return nil, fmt.Errorf("podman inspect printed %d objects", len(list))
	}
	return list[0], nil
}

// Run is "podman run ARGS" for a detached container; args begin after "run" and must hold
// "--detach". It returns the container id.
func (r *Runner) Run(ctx context.Context, args []string) (id string, err error) {
	out, err := r.Do(ctx, Call{Args: append([]string{"run"}, args...)})
	if err != nil {
		return strings.TrimSpace(string(out)), err
	}
	return lastLine(out), nil
}

// Create is "podman create ARGS"; it returns the container id.
func (r *Runner) Create(ctx context.Context, args []string) (id string, err error) {
	out, err := r.Do(ctx, Call{Args: append([]string{"create"}, args...)})
	if err != nil {
		return "", err
	}
	return lastLine(out), nil
}

func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// Start starts a stopped container. A hook that refuses gives an *ExitError.
func (r *Runner) Start(ctx context.Context, id string) error {
	_, err := r.named(ctx, Call{Args: []string{"start", "--", id}, Timeout: ActionTimeout})
	return err
}

// Stop asks the container's init to end and kills it after grace, in whole seconds.
// A container that is not there is down: no error.
func (r *Runner) Stop(ctx context.Context, id string, grace time.Duration) error {
	secs := strconv.Itoa(int((grace + time.Second - 1) / time.Second))
	return unlessAbsent(r.ending(ctx, Call{Args: []string{"stop", "--time", secs, "--", id}, Timeout: grace + 75*time.Second}))
}

// Kill sends a signal, e.g. "KILL". A container that is not there gives no error.
func (r *Runner) Kill(ctx context.Context, id, signal string) error {
	_, err := r.named(ctx, Call{Args: []string{"kill", "--signal", signal, "--", id}, Timeout: QueryTimeout})
	return unlessAbsent(err)
}

// Remove removes the container, killing it if need be. One that is not there gives no error.
func (r *Runner) Remove(ctx context.Context, id string) error {
	return unlessAbsent(r.ending(ctx, Call{Args: []string{"rm", "--force", "--time", "0", "--volumes", "--", id}, Timeout: ActionTimeout}))
}

// endingTries bounds ending; the pauses between the tries add up to 1.5 s.
const endingTries = 6

// endedMeanwhile matches podman 4.3's refusal to stop or remove a container whose init ended
// while it was about to be killed. The next try finds it stopped.
var endedMeanwhile = regexp.MustCompile(`open pidfd: No such process|container state improper`)

// ending runs a call that ends a container, again when the container ended by itself meanwhile.
func (r *Runner) ending(ctx context.Context, c Call) error {
	for n := 1; ; n++ {
		_, err := r.named(ctx, c)
		exit, ok := errors.AsType[*ExitError](err)
		if !ok || n == endingTries || !endedMeanwhile.MatchString(exit.Stderr) {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(time.Duration(n) * 100 * time.Millisecond):
		}
	}
}

func unlessAbsent(err error) error {
	if errors.Is(err, ErrAbsent) {
		return nil
	}
	return err
}

// Wait waits until the container has stopped and returns its exit code.
func (r *Runner) Wait(ctx context.Context, id string) (int, error) {
	out, err := r.named(ctx, Call{Args: []string{"wait", "--", id}})
	if err != nil {
		return -1, err
	}
	code, err := strconv.Atoi(lastLine(out))
	if err != nil {
		return -1, fmt.Errorf("podman wait printed %.60q", out)
	}
	return code, nil
}

// ExecOptions say how a command runs inside a container.
type ExecOptions struct {
	User    string   // "" is the container's
	Workdir string   // "" is the container's
	Env     []string // "K=V"; visible in podman's argument list, so never secrets
	Stdin   io.Reader
	Stdout  io.Writer // nil captures
	Stderr  io.Writer
	Timeout time.Duration
}

func (o ExecOptions) args(id string, argv []string, flags ...string) []string {
	args := append([]string{"exec"}, flags...)
	if o.User != "" {
		args = append(args, "--user", o.User)
	}
	if o.Workdir != "" {
		args = append(args, "--workdir", o.Workdir)
	}
	for _, kv := range o.Env {
		args = append(args, "--env", kv)
	}
	return append(append(args, id), argv...)
}

// Exec runs argv in a running container. The command's own failure is an *ExitError with its
// code. There is no way to ask for more privilege than the container has.
func (r *Runner) Exec(ctx context.Context, id string, argv []string, o ExecOptions) ([]byte, error) {
	var flags []string
	if o.Stdin != nil {
		flags = append(flags, "--interactive")
	}
	return r.Do(ctx, Call{Args: o.args(id, argv, flags...), Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Timeout: o.Timeout})
}

// Attach runs argv in a running container on the caller's own terminal and returns the command's
// exit code. Signals of the terminal reach podman directly: it shares our process group.
func (r *Runner) Attach(ctx context.Context, id string, argv []string, o ExecOptions) (int, error) {
	cmd, err := r.Command(ctx, o.args(id, argv, "--interactive", "--tty")...)
	if err != nil {
		return -1, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if cmd.ProcessState != nil && cmd.ProcessState.Exited() && ctx.Err() == nil {
		return cmd.ProcessState.ExitCode(), nil
	}
	return -1, err
}

// Logs writes the container's output to w; both its streams. With follow it goes on until the
// container stops or ctx ends.
func (r *Runner) Logs(ctx context.Context, id string, follow bool, w io.Writer) error {
	args := []string{"logs"}
	if follow {
		args = append(args, "--follow")
	}
	c := Call{Args: append(args, "--", id), Stdout: w, Stderr: w}
	if !follow {
		c.Timeout = QueryTimeout
	}
	_, err := r.Do(ctx, c)
	return err
}
