package roster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// Load returns the built-in entries with the user's files laid over them. A missing directory is
// an empty one; what is wrong with one file is that entry's error (see Problems). Load itself
// fails only when a directory exists and cannot be listed.
func Load(roots state.Roots) (*Roster, error) {
	r := &Roster{agents: builtinAgents(), providers: builtinProviders(), broken: map[string]error{}}
	err := files(roots.ProvidersDir(), func(name, path string) {
		p, err := loadProvider(name, path, r.providers[name])
		if err != nil {
			r.broken["providers/"+name] = err
			delete(r.providers, name)
			return
		}
		r.providers[name] = p
	})
	if err != nil {
		return nil, err
	}
	err = files(roots.AgentsConfigDir(), func(name, path string) {
		a, err := loadAgent(name, path, r.agents[name])
		if err != nil {
			r.broken["agents/"+name] = err
			delete(r.agents, name)
			return
		}
		r.agents[name] = a
	})
	if err != nil {
		return nil, err
	}
	for _, name := range keys(r.agents) {
		for _, p := range r.agents[name].Providers {
			if r.providers[p] == nil && r.broken["providers/"+p] == nil {
				r.broken["agents/"+name] = problem.New("provider_unknown", problem.Usage, "agent %s names provider %q, which does not exist", name, p).
					WithHint("write %s", filepath.Join(roots.ProvidersDir(), p+".yml"))
			}
		}
	}
	return r, nil
}

// files calls fn for every NAME.yml of a directory, in order.
func files(dir string, fn func(name, path string)) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return problem.New("config_unreadable", problem.Usage, "cannot list %s: %w", dir, err)
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".yml"); ok && !strings.HasPrefix(name, ".") {
			fn(name, filepath.Join(dir, e.Name()))
		}
	}
	return nil
}

var (
	entryName  = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`) })
	envName    = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	headerName = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")
)

// badName is the error of a file whose stem cannot be an entry's name, nil for a good one.
func badName(name, path string) error {
	if entryName().MatchString(name) {
		return nil
	}
	return problem.New("config_invalid", problem.Usage, "%s: the file's name must be an entry's name: a lower-case letter, then at most 31 letters, digits and hyphens, then .yml", path)
}

// agentFile is agents/NAME.yml. Keys that it does not set keep the built-in entry's values.
type agentFile struct {
	Title        string            `yaml:"title"`
	Install      installFile       `yaml:"install"`
	Command      string            `yaml:"command"`
	Providers    []string          `yaml:"providers"`
	Wires        []wireFile        `yaml:"wires"`
	Models       map[string]string `yaml:"models"`
	Egress       []string          `yaml:"egress"`
	Stream       string            `yaml:"stream" oneof:"claude codex copilot opencode pi plain"`
	Args         []string          `yaml:"args"`
	Interactive  []string          `yaml:"interactive"`
	Headless     []string          `yaml:"headless"`
	Opening      []string          `yaml:"opening"`
	Model        []string          `yaml:"model"`
	Permission   []string          `yaml:"permission"`
	Unrestricted map[string]string `yaml:"unrestricted_env"`
	Restricted   map[string]string `yaml:"restricted_env"`
	CannotAsk    bool              `yaml:"cannot_ask"`
	Managed      []managedFile     `yaml:"managed"`
	Instructions []string          `yaml:"instructions"`
	NewSession   []string          `yaml:"new_session"`
	Resume       []string          `yaml:"resume"`
	SessionFile  string            `yaml:"session_file"`
	Env          map[string]string `yaml:"env"`
	Home         []homeFile        `yaml:"home"`
	Author       identityFile      `yaml:"author"`
}

type installFile struct {
	Package string `yaml:"package"`
	Version string `yaml:"version"`
	Suffix  string `yaml:"suffix"`
	Bin     string `yaml:"bin"`
	Runtime string `yaml:"runtime" oneof:"node none"`
	Unpack  bool   `yaml:"unpack"`
}

// over lays the file's words over an entry.
func (f installFile) over(in Install) Install {
	in.Package, in.Version, in.Suffix, in.Bin, in.Unpack = f.Package, f.Version, f.Suffix, f.Bin, f.Unpack
	if in.Runtime = f.Runtime; in.Runtime == "none" {
		in.Runtime = ""
	}
	return in
}

func (i Install) file() installFile {
	return installFile{Package: i.Package, Version: i.Version, Suffix: i.Suffix, Bin: i.Bin, Runtime: i.Runtime, Unpack: i.Unpack}
}

type wireFile struct {
	Providers []string          `yaml:"providers"`
	Protocol  string            `yaml:"protocol" oneof:"anthropic-messages openai-responses openai-chat"`
	Kinds     []string          `yaml:"kinds"`
	Env       map[string]string `yaml:"env"`
	Home      []homeFile        `yaml:"home"`
	Fill      string            `yaml:"fill"`
	FillModel string            `yaml:"fill_model"`
	NeedModel bool              `yaml:"need_model"`
}

func (f wireFile) wire(known []sandbox.HomeFile) Wire {
	return Wire{Providers: f.Providers, Protocol: f.Protocol, Kinds: f.Kinds, Env: f.Env, Home: homeFiles(f.Home, known), Fill: f.Fill, FillModel: f.FillModel, NeedModel: f.NeedModel}
}

func (w Wire) file() wireFile {
	return wireFile{Providers: w.Providers, Protocol: w.Protocol, Kinds: w.Kinds, Env: w.Env, Home: filesOf(w.Home), Fill: w.Fill, FillModel: w.FillModel, NeedModel: w.NeedModel}
}

type homeFile struct {
	Path    string `yaml:"path"`
	Content string `yaml:"content"`
	Merge   bool   `yaml:"merge"`

	Directory bool `yaml:"directory"` // read-only
}

// homeFiles are the file's words; a path that the built-in entry has keeps its mode.
func homeFiles(list []homeFile, known []sandbox.HomeFile) []sandbox.HomeFile {
	var out []sandbox.HomeFile
	for _, h := range list {
		f := sandbox.HomeFile{Path: h.Path, Mode: 0o600, Content: h.Content, Merge: h.Merge, Directory: h.Directory}
		if h.Directory {
			f.Mode = 0o555
		}
		for _, k := range known {
			if k.Path == h.Path {
				f.Mode = k.Mode
			}
		}
		out = append(out, f)
	}
	return out
}

func filesOf(list []sandbox.HomeFile) []homeFile {
	var out []homeFile
	for _, h := range list {
		out = append(out, homeFile{Path: h.Path, Content: h.Content, Merge: h.Merge, Directory: h.Directory})
	}
	return out
}

type managedFile struct {
	Path         string `yaml:"path"`
	Unrestricted string `yaml:"unrestricted"`
	Restricted   string `yaml:"restricted"`
}

// managedPath is a file of settings in a directory below /etc, never a file of /etc itself, nor
// one that a ".." leads to.
var managedPath = regexp.MustCompile(`^/etc/[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_.-]*)+$`)

type identityFile struct {
	Name  string `yaml:"name"`
	Email string `yaml:"email"`
}

var npmPackage = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(@[a-z0-9._-]+/)?[a-z0-9._-]+(\{arch\}[a-z0-9._-]*)?$`)
})
var npmSuffix = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(-([a-z0-9]+|\{arch\}))*$`) })
var exactVersion = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`) })

// Validate implements config.Validator.
func (f *agentFile) Validate() []config.FieldError {
	var errs []config.FieldError
	bad := func(path, format string, args ...any) {
		errs = append(errs, config.FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	if f.Install.Package != "" {
		if !npmPackage().MatchString(f.Install.Package) {
			bad("install.package", "must be the name of an npm package")
		}
		if !exactVersion().MatchString(f.Install.Version) {
			bad("install.version", "must be one exact version, e.g. 1.2.3")
		}
		if !npmSuffix().MatchString(f.Install.Suffix) {
			bad("install.suffix", "must be words with hyphens in front, e.g. -linux-{arch}")
		}
		if !filepath.IsLocal(f.Install.Bin) {
			bad("install.bin", "must be a relative path inside the bundle")
		}
	} else if f.Command == "" {
		bad("command", "the program to run, or install, is needed")
	}
	env := func(path string, env map[string]string) {
		for k := range env {
			if !envName.MatchString(k) {
				bad(path, "%q is not a name of an environment variable", k)
			}
		}
	}
	home := func(path string, list []homeFile) {
		for i, h := range list {
			if !filepath.IsLocal(h.Path) {
				bad(fmt.Sprintf("%s[%d].path", path, i), "must be relative to the home directory and stay in it")
			}
		}
	}
	env("env", f.Env)
	env("unrestricted_env", f.Unrestricted)
	env("restricted_env", f.Restricted)
	home("home", f.Home)
	for i, w := range f.Wires {
		at := fmt.Sprintf("wires[%d]", i)
		env(at+".env", w.Env)
		home(at+".home", w.Home)
		if len(w.Providers) == 0 && w.Protocol == "" {
			bad(at, "needs providers or a protocol")
		}
		for _, k := range w.Kinds {
			if !slices.Contains(allKinds, k) {
				bad(at+".kinds", "%q is not a kind of credential; there are %s", k, strings.Join(allKinds, ", "))
			}
		}
	}
	for i, m := range f.Managed {
		if !managedPath.MatchString(m.Path) {
			bad(fmt.Sprintf("managed[%d].path", i), "must be a file in the agent's own directory below /etc, such as /etc/demo/settings.json")
		}
	}
	for i, p := range f.Providers {
		if !entryName().MatchString(p) {
			bad(fmt.Sprintf("providers[%d]", i), "%q is not a provider's name", p)
		}
	}
	return errs
}

func loadAgent(name, path string, base *Agent) (*Agent, error) {
	if err := badName(name, path); err != nil {
		return nil, err
	}
	if base == nil {
		base = &Agent{Title: name, Stream: "plain", Spec: sandbox.Agent{Author: sandbox.Identity{Name: "AI Agent", Email: "ai-agent@localhost"}}}
	}
	s := base.Spec
	f := agentFile{
		Title: base.Title, Install: base.Install.file(), Command: base.Command, Providers: base.Providers, Models: base.Models,
		Egress: base.Egress, Stream: base.Stream, Args: s.Args, Interactive: s.Interactive, Headless: s.Headless,
		Opening: s.Opening, Model: s.Model, Permission: s.Permission, Instructions: s.Instructions, NewSession: s.NewSession, Resume: s.Resume,
		Unrestricted: base.Unrestricted, Restricted: base.Restricted, CannotAsk: base.CannotAsk,
		SessionFile: s.SessionFile, Env: s.Env, Home: filesOf(s.Home), Author: identityFile(s.Author),
	}
	for _, m := range base.Managed {
		f.Managed = append(f.Managed, managedFile(m))
	}
	for _, w := range base.Wires {
		f.Wires = append(f.Wires, w.file())
	}
	if err := config.Load(path, &f); err != nil {
		return nil, err
	}
	a := &Agent{
		Name: name, Title: f.Title, Install: f.Install.over(base.Install), Command: f.Command, Providers: f.Providers, Models: f.Models,
		Egress: f.Egress, Stream: f.Stream, Unrestricted: f.Unrestricted, Restricted: f.Restricted, CannotAsk: f.CannotAsk, Guide: base.Guide,
		Spec: sandbox.Agent{
			Args: f.Args, Interactive: f.Interactive, Headless: f.Headless, Permission: f.Permission,
			Opening: f.Opening, Model: f.Model,
			Instructions: f.Instructions, NewSession: f.NewSession, Resume: f.Resume, SessionFile: f.SessionFile,
			Refuse: s.Refuse, Env: f.Env, Home: homeFiles(f.Home, s.Home), Author: sandbox.Identity(f.Author),
		},
	}
	for _, m := range f.Managed {
		a.Managed = append(a.Managed, Managed(m))
	}
	var known []sandbox.HomeFile
	for _, w := range base.Wires {
		known = append(known, w.Home...)
	}
	for _, w := range f.Wires {
		a.Wires = append(a.Wires, w.wire(known))
	}
	return a, nil
}

// suggest names the nearest known word, or the command that lists them.
func suggest(word string, known []string, list string) string {
	if s := config.Suggest(word, known); s != "" && slices.Contains(known, s) {
		return "did you mean " + s + "?"
	}
	return list
}
