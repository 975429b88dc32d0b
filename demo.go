package terok

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/audit"
	"terok/internal/demo"
	"terok/internal/demo/provider"
	"terok/internal/git"
	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/sandbox"
	"terok/internal/state"
	"terok/internal/task"
	"terok/internal/text"
)

// DemoOptions are the choices of terok demo.
type DemoOptions struct {
	Keep  bool     // leave the temporary directories and the task
	Agent string   // "claude" never falls back; "script" is the built-in small agent; "" prefers claude
	CA    []string // authorities that build containers trust, PEM files
}

// Demo shows the product end to end on a sample repository: a real agent in a real container, the
// model a script, the key a fake. It keeps out of the user's state: configuration, data and
// sockets are in a temporary directory. Only images (in podman's store) and downloaded agents (in
// the cache directory) stay, so that the next time is quick.
func (a *App) Demo(ctx context.Context, o DemoOptions, w io.Writer) (err error) {
	d := &demonstration{out: w, begin: a.Now(), now: a.Now}
	dir, err := os.MkdirTemp("", "terok-demo-")
	if err != nil {
		return err
	}
	d.dir = dir
	d.app = &App{
		Roots:   state.Roots{Config: dir + "/config/terok", Data: dir + "/data/terok", Runtime: dir + "/run/terok"},
		Self:    a.Self,
		Environ: a.Environ, Progress: a.Progress, Now: a.Now,
	}
	defer func() {
		if o.Keep {
			fmt.Fprintf(w, "\nkept: %s. To look around:\n\n  export XDG_CONFIG_HOME=%[1]s/config XDG_DATA_HOME=%[1]s/data\n  terok review show @last\n  terok project delete greet --yes && rm -r %[1]s\n", dir)
		}
		err = errors.Join(err, d.close(context.WithoutCancel(ctx), o.Keep))
	}()
	for _, step := range []func(context.Context, DemoOptions) error{
		d.prepare, d.upstream, d.provider, d.vault, d.work, d.refusals, d.key, d.review, d.promote} {
		if err := step(ctx, o); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nAll of it took %s. For your own repository:\n\n  terok vault init && terok auth claude\n  cd YOUR-REPOSITORY && terok run claude\n  terok review\n",
		text.Duration(d.now().Sub(d.begin)))
	return nil
}

// demonstration is one run of the demo.
type demonstration struct {
	app        *App
	out        io.Writer
	dir        string
	begin      time.Time
	now        func() time.Time
	agent      string
	clone      string
	secret     string
	model      *provider.Server
	task       *task.Task
	tip        string
	agentFacts string
}

func (d *demonstration) head(format string, args ...any) {
	fmt.Fprintf(d.out, "\n%s\n", fmt.Sprintf(format, args...))
}

func (d *demonstration) line(format string, args ...any) {
	fmt.Fprintf(d.out, "  "+format+"\n", args...)
}

// prepare makes base image, tools and agent; with everything there it takes a second.
func (d *demonstration) prepare(ctx context.Context, o DemoOptions) error {
	d.head("1. A container image and an agent")
	// Agents are big and the same for every demo: they are kept in the cache directory.
	cache := filepath.Join(firstOf(d.app.Environ("XDG_CACHE_HOME"), filepath.Join(d.app.Environ("HOME"), ".cache")), "terok", "demo", "agents")
	if err := errors.Join(state.MkdirAll(cache), state.MkdirAll(d.app.Roots.Data), os.Symlink(cache, d.app.Roots.BundlesDir())); err != nil {
		return err
	}
	begin := d.now()
	images := ImageOptions{CA: o.CA}
	d.agent = firstOf(o.Agent, "claude")
	if d.agent != "claude" && d.agent != "script" {
		return problem.New("usage", problem.Usage, "the demo's agent is claude or script, not %q", d.agent)
	}
	var agents []string
	if d.agent == "claude" {
		agents = []string{"claude"}
	}
	_, err := d.app.ImagePrepare(ctx, images, agents...)
	if err != nil && o.Agent == "" && d.agent == "claude" && ctx.Err() == nil {
		if _, lerr := d.app.ImagePrepare(ctx, images); lerr == nil {
			d.line("Claude Code could not be installed (%v).", err)
			d.line("A small built-in agent plays its part instead; everything else is the same.")
			d.agent, err = "script", nil
		}
	}
	if err != nil {
		return err
	}
	d.line("ready in %s", text.Duration(d.now().Sub(begin)))
	return nil
}

// upstream makes the sample repository, which plays the person's clone.
func (d *demonstration) upstream(ctx context.Context, _ DemoOptions) error {
	d.clone = filepath.Join(d.dir, "greet")
	if err := demo.Sample(ctx, &git.Runner{}, d.clone); err != nil {
		return err
	}
	d.head("2. A repository with a bug: %s", d.clone)
	_, err := d.app.CreateProject(ctx, project.Spec{Name: "greet", Upstream: d.clone, Agent: d.agent})
	return err
}

// provider starts the scripted model and points the vault's route at it, with a provider file as
// any user can write one.
func (d *demonstration) provider(_ context.Context, _ DemoOptions) error {
	var b [24]byte
	_, _ = rand.Read(b[:])
	d.secret = "sk-ant-api03-demo-" + hex.EncodeToString(b[:])
	dir := filepath.Join(d.dir, "model")
	if err := state.MkdirAll(dir); err != nil {
		return err
	}
	var err error
	if d.model, err = provider.Start(provider.Config{Key: d.secret, Script: demo.Script(), Dir: dir}); err != nil {
		return err
	}
	file := filepath.Join(d.app.Roots.ProvidersDir(), "anthropic.yml")
	content := fmt.Sprintf("# The demo's scripted model instead of Anthropic.\nupstream: %s\nca_file: %s\nallow_private: true\n", d.model.URL(), d.model.CAFile())
	return state.WriteFile(file, []byte(content))
}

// vault stores the fake key as a person would store a real one.
func (d *demonstration) vault(ctx context.Context, _ DemoOptions) error {
	var pass [16]byte
	_, _ = rand.Read(pass[:])
	if err := d.app.VaultInit(ctx, VaultSetup{Passphrase: []byte(hex.EncodeToString(pass[:]))}); err != nil {
		return err
	}
	if _, err := d.app.AuthKey(ctx, AuthRequest{Name: "anthropic", NoVerify: true}, []byte(d.secret)); err != nil {
		return err
	}
	d.head("3. An API key (a fake one) goes into the vault: %s…%s", d.secret[:18], d.secret[len(d.secret)-4:])
	return nil
}

// work runs the agent and shows what it does.
func (d *demonstration) work(ctx context.Context, _ DemoOptions) error {
	d.head("4. The agent works, unattended: terok run %s -p \"Repair the greeting\"", d.agent)
	v, err := d.app.Run(ctx, RunRequest{Project: "greet", Agent: d.agent, Headless: true, Carry: "no",
		Prompt: "The greeting is wrong: sh test.sh fails. Repair it, commit, and push your branch."})
	if err != nil {
		return err
	}
	if d.task, err = d.app.FindTask(v.Project, v.ID); err != nil {
		return err
	}
	for _, l := range d.app.Headline(d.task, false) {
		d.line("%s", l)
	}
	sum, err := d.app.FollowTask(ctx, d.task, true, &indent{w: d.out, bol: true}, false)
	if err != nil {
		return err
	}
	end, err := d.app.FinishTask(ctx, d.task, sum)
	if err != nil {
		return err
	}
	d.line("%s", end.Line())
	if end.ExitCode != 0 || !d.model.Finished() {
		return problem.New("demo_failed", problem.AgentFailed, "the agent ended with exit code %d before its work was done", end.ExitCode).
			WithHint("terok demo --keep, then look into the logs")
	}
	for _, r := range d.model.Requests() {
		if ua := r.Header.Get("User-Agent"); ua != "" && r.Kind == "step" {
			d.agentFacts = text.Line(ua, 100)
		}
	}
	d.line("the model's side saw the client: %s", d.agentFacts)
	return nil
}

// refusals shows what the agent was denied: its own view, and the ledger's.
func (d *demonstration) refusals(_ context.Context, _ DemoOptions) error {
	d.head("5. What it tried that it should not, and what it got")
	for i, try := range demo.Tries() {
		if !try.Forbidden {
			continue
		}
		got, ok := d.model.Result(i)
		if !ok {
			return problem.New("demo_failed", problem.Failed, "no result came back for the step %q", try.Title)
		}
		d.line("%s:", try.Title)
		for _, l := range strings.Split(strings.TrimRight(text.Block(strings.TrimSpace(got.Text), 6, 160), "\n"), "\n") {
			d.line("    %s", l)
		}
		if try.Note != "" {
			d.line("    (%s)", try.Note)
		}
		if try.Refusal != "" && !strings.Contains(got.Text, try.Refusal) {
			return problem.New("demo_failed", problem.Failed, "the step %q was not refused as it must be", try.Title)
		}
	}
	d.line("in the ledger of the task (terok shield logs):")
	denied := 0
	err := audit.Read(sandbox.LedgerPath(d.task.Dir(d.app.Roots)), audit.Filter{}, func(e audit.Event) error {
		if e.Verdict != "deny" {
			return nil
		}
		denied++
		if denied <= 8 {
			d.line("    %s %s:%d refused: %s", e.Ev, text.Line(firstOf(e.Name, e.IP), 60), e.Port, text.Line(e.Reason, 80))
		}
		return nil
	})
	if err == nil && denied == 0 {
		err = problem.New("demo_failed", problem.Failed, "the ledger shows no refusal")
	}
	return err
}

// key looks for the real key everywhere the container or its remains could hold it.
func (d *demonstration) key(ctx context.Context, _ DemoOptions) error {
	d.head("6. Where is the real key?")
	c, err := d.app.taskContainer(ctx, d.task)
	if err != nil {
		return err
	}
	if c == nil {
		return problem.New("demo_failed", problem.Failed, "the container vanished")
	}
	var log bytes.Buffer
	if err := d.app.TaskLogs(ctx, d.task, false, &log); err != nil {
		return err
	}
	dirs := []string{d.app.Roots.Data, d.app.Roots.Config, d.clone}
	pod := d.app.pod()
	details, err := pod.Inspect(ctx, c.ID)
	if err != nil {
		return err
	}
	// The container's own layer: what it wrote outside the workspace.
	var storage struct {
		GraphDriver struct{ Data struct{ UpperDir string } }
	}
	if err := json.Unmarshal(details.Raw, &storage); err != nil {
		return err
	}
	if layer := storage.GraphDriver.Data.UpperDir; layer != "" {
		dirs = append(dirs, layer)
	}
	// The search must be able to find something: the repaired line is there.
	control, err := d.search(ctx, pod, `echo "Hello, $1!"`, dirs)
	if err != nil {
		return err
	}
	found, err := d.search(ctx, pod, d.secret, dirs)
	if err != nil {
		return err
	}
	if bytes.Contains(details.Raw, []byte(d.secret)) || bytes.Contains(log.Bytes(), []byte(d.secret)) || len(found) > 0 || len(control) == 0 {
		return problem.New("demo_failed", problem.Failed, "the search for the key failed: found in %v, control in %d files", found, len(control))
	}
	d.line("not in podman inspect, the container's log, its files, its repository, nor in terok's own files")
	d.line("(the same search finds the repaired line in %s)", count(len(control), "file"))
	right, wrong := 0, len(d.model.WrongKeys())
	for _, r := range d.model.Requests() {
		if r.KeyOK {
			right++
		}
	}
	d.line("the model's side got it in %s, and another key in %d", count(right, "request"), wrong)
	if right == 0 || wrong > 0 {
		return problem.New("demo_failed", problem.Failed, "the vault did not exchange the phantom")
	}
	return nil
}

// review shows what waits, and that the clone is untouched.
func (d *demonstration) review(ctx context.Context, _ DemoOptions) error {
	d.head("7. What waits for you: terok review show %s", d.task.ID)
	change, err := d.app.ReviewShow(ctx, d.task, ReviewOptions{})
	if err != nil {
		return err
	}
	d.tip = change.Tip
	for _, c := range change.List {
		d.line("commit %.12s by %s: %s", c.ID, c.Author, c.Subject)
	}
	for _, f := range change.Flags {
		d.line("%s %s: %s", map[string]string{"deny": "!!", "warn": "!", "info": "·"}[f.Severity], strings.ReplaceAll(f.Code, "_", " "), strings.Join(f.Where, ", "))
	}
	if len(change.Flags) == 0 {
		return problem.New("demo_failed", problem.Failed, "the script that became executable has no flag")
	}
	for _, l := range strings.Split(strings.TrimRight(change.Patch, "\n"), "\n") {
		d.line("    %s", l)
	}
	return nil
}

// promote takes exactly the commit that was shown, and runs the repaired program from the clone.
func (d *demonstration) promote(ctx context.Context, _ DemoOptions) error {
	d.head("8. You take exactly that commit: terok promote %s", d.task.ID)
	before, err := branches(ctx, d.clone)
	if err != nil {
		return err
	}
	p, err := d.app.Promote(ctx, PromoteRequest{Task: d.task, Commit: d.tip, Approve: true})
	if err != nil {
		return err
	}
	after, err := branches(ctx, d.clone)
	if err != nil {
		return err
	}
	d.line("branches of your clone before: %s", strings.Join(before, ", "))
	d.line("and after:                     %s", strings.Join(after, ", "))
	if len(after) != len(before)+1 || p.Commit != d.tip {
		return problem.New("demo_failed", problem.Failed, "the promotion did not arrive in the clone")
	}
	d.line("taken back with: terok promote --undo %s", d.task.ID)
	d.head("9. What is left of it: terok receipt verify %s %.12s", "greet", d.tip)
	v, err := d.app.ReceiptVerify(ctx, ReceiptQuery{Repo: d.clone, Commit: d.tip})
	if err != nil {
		return err
	}
	d.line("signed by %s, with the ledgers it binds:", v.Key)
	for _, l := range v.Ledgers {
		d.line("    of the %s, %d lines: %s", l.Of, l.Count, l.Verdict)
	}
	return d.tampered(ctx, v)
}

// tampered changes one byte of a copy of the task's ledger: the receipt must not hold any more.
func (d *demonstration) tampered(ctx context.Context, v ReceiptView) error {
	ledger, err := os.ReadFile(sandbox.LedgerPath(d.task.Dir(d.app.Roots)))
	if err != nil {
		return err
	}
	copied := filepath.Join(d.dir, "tampered", "audit.jsonl")
	ledger[len(ledger)/3] ^= 1
	if err := state.WriteFile(copied, ledger); err != nil {
		return err
	}
	_, err = d.app.ReceiptVerify(ctx, ReceiptQuery{Repo: d.clone, Commit: d.tip, Ledger: copied})
	if !problem.Is(err, "ledger_broken") {
		return problem.New("demo_failed", problem.Failed, "a ledger with a changed byte passed: %v", err)
	}
	d.line("and with one byte of a copy changed: %s", text.Line(problem.Of(err).Message[max(0, strings.LastIndex(problem.Of(err).Message, "/")):], 160))
	return nil
}

// branches lists a clone's branches with their tips.
func branches(ctx context.Context, clone string) ([]string, error) {
	out, err := (&git.Runner{}).Run(ctx, git.Cmd{GitDir: filepath.Join(clone, ".git"),
		Args: []string{"for-each-ref", "--format=%(refname:short)@%(objectname:short)", "refs/heads"}})
	return strings.Fields(string(out)), err
}

// search lists the files below dirs that hold the text. It runs in podman's user namespace, where
// files of the container's root can be read as well.
func (d *demonstration) search(ctx context.Context, pod *podman.Runner, needle string, dirs []string) ([]string, error) {
	f, err := os.CreateTemp("", "terok-demo-needle-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(needle)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = pod.Unshare(ctx, append([]string{"grep", "-rlaF", "-f", f.Name(), "--"}, dirs...), &out, io.Discard)
	if exit, ok := errors.AsType[*podman.ExitError](err); err != nil && (!ok || exit.Code != 1) { // 1: nothing found
		return nil, fmt.Errorf("search: %w", err)
	}
	return strings.Fields(out.String()), nil
}

// close removes everything the demonstration made.
func (d *demonstration) close(ctx context.Context, keep bool) error {
	var errs []error
	if d.model != nil {
		errs = append(errs, d.model.Close())
	}
	if keep {
		if d.task != nil {
			_ = d.app.StopTask(ctx, d.task, time.Second)
		}
		return errors.Join(append(errs, d.app.VaultLock(ctx))...)
	}
	if _, err := os.Lstat(d.app.Roots.ProjectFile("greet")); err == nil {
		quiet := *d.app
		quiet.Progress = io.Discard
		_, err := quiet.DeleteProject(ctx, "greet")
		errs = append(errs, err)
	}
	errs = append(errs, d.app.VaultLock(ctx), d.app.removeTree(ctx, d.dir))
	return errors.Join(errs...)
}

// indent writes lines two columns to the right.
type indent struct {
	w   io.Writer
	bol bool
}

func (i *indent) Write(p []byte) (int, error) {
	var b bytes.Buffer
	for _, c := range p {
		if i.bol {
			b.WriteString("  ")
		}
		b.WriteByte(c)
		i.bol = c == '\n'
	}
	_, err := i.w.Write(b.Bytes())
	return len(p), err
}
