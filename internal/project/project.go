// Package project reads and writes projects: a directory with a project.yml that a person may
// edit, and everything that is derived from it. It validates strictly and never guesses: an
// unknown key, a bad rule or a bad branch name is an error with file and line.
package project

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"time"

	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/state"
)

// Name is what a project may be called; it becomes part of paths, container and branch names.
var Name = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,39}$`)

// Config is project.yml.
type Config struct {
	Project struct {
		Name        string `yaml:"name"`
		Description string `yaml:"description"`
		Class       string `yaml:"security_class" oneof:"gatekeeping online"`
	} `yaml:"project"`
	Git struct {
		UpstreamURL   string `yaml:"upstream_url"`   // path of a clone, or a URL; "" for a project without repository
		DefaultBranch string `yaml:"default_branch"` // "" means the upstream's HEAD
		HumanName     string `yaml:"human_name"`
		HumanEmail    string `yaml:"human_email"`
		Authorship    string `yaml:"authorship" oneof:"agent-human human-agent agent human"`
		Forge         string `yaml:"forge" oneof:"github gitlab gitea bitbucket"` // of the upstream's host; "" goes by its name
	} `yaml:"git"`
	Gate        Gate        `yaml:"gate"`
	Gatekeeping Gatekeeping `yaml:"gatekeeping"`
	Review      struct {
		Paths []string `yaml:"paths"` // globs of where changes are expected; others are flagged
	} `yaml:"review"`
	Shield    Shield           `yaml:"shield"`
	Clearance config.Clearance `yaml:"clearance"`
	Vault     Vault            `yaml:"vault"`
	Run       struct {
		config.Run `yaml:",inline"`
		Mounts     []string `yaml:"mounts"` // SRC:DST[:ro]
	} `yaml:"run"`
	Image struct {
		BaseImage string `yaml:"base_image"`
	} `yaml:"image"`
	SSH struct {
		InContainer        bool `yaml:"in_container"`         // tasks get an SSH agent with the project's keys
		RequireSessionBind bool `yaml:"require_session_bind"` // false: sign also for clients that do not name their server
		UsePersonal        bool `yaml:"use_personal"`         // the gate reaches an ssh upstream with your own agent and keys
	} `yaml:"ssh"`
	Credentials struct {
		Scope string `yaml:"scope"` // shared or project
	} `yaml:"credentials"`
	DefaultAgent    string `yaml:"default_agent"`
	DefaultProvider string `yaml:"default_provider"` // for agents that can use it; "" is the agent's own choice
}

// Defaults is what project.yml means when it is empty: the user's config.yml.
func Defaults(g config.Global) Config {
	var c Config
	c.Project.Class = ClassGatekeeping
	c.gateDefaults()
	c.Run.Run = g.Run
	c.Clearance = g.Clearance
	c.SSH.RequireSessionBind = true
	c.Vault.Vault = g.Vault.Vault
	c.Image.BaseImage = g.Image.Base
	c.Gate.RequireReview, c.Gate.Promote.BranchTemplate = "branch", "{branch}"
	c.Git.HumanName, c.Git.HumanEmail, c.Git.Authorship = g.Git.HumanName, g.Git.HumanEmail, g.Git.Authorship
	return c
}

// Project is a loaded project.
type Project struct {
	Name string
	File string // path of project.yml
	Config

	store Store // where it came from
}

// UpstreamPath is the upstream as a directory of this machine, or "".
func (p *Project) UpstreamPath() string {
	u := strings.TrimPrefix(p.Git.UpstreamURL, "file://")
	if filepath.IsAbs(u) {
		return filepath.Clean(u)
	}
	return ""
}

// Scope is the credential scope of the project's tasks.
func (p *Project) Scope() string {
	if p.Credentials.Scope == "project" {
		return "project:" + p.Name
	}
	return "shared"
}

// Validate reports what the YAML types cannot; the loader turns it into file:line:column.
func (c *Config) Validate() []config.FieldError {
	var bad []config.FieldError
	fail := func(at, format string, args ...any) {
		bad = append(bad, config.FieldError{Path: at, Message: fmt.Sprintf(format, args...)})
	}
	if c.Project.Name != "" && (!Name.MatchString(c.Project.Name) || c.Project.Name == "default") {
		fail("project.name", "must match %s and not be \"default\"", Name)
	}
	if err := CheckUpstream(c.Git.UpstreamURL); err != nil {
		fail("git.upstream_url", "%v", err)
	}
	for at, text := range map[string]string{
		"project.description": c.Project.Description, "git.human_name": c.Git.HumanName, "git.human_email": c.Git.HumanEmail} {
		if strings.ContainsFunc(text, func(r rune) bool { return r < 0x20 || r == 0x7f }) {
			fail(at, "must not hold control characters")
		}
	}
	for i, glob := range c.Review.Paths {
		if _, err := path.Match(glob, ""); err != nil || glob == "" {
			fail(fmt.Sprintf("review.paths[%d]", i), "is no pattern: * ? [a-z] and ** are known")
		}
	}
	if t := c.Gate.Promote.BranchTemplate; strings.ContainsAny(strings.NewReplacer("{task}", "", "{name}", "", "{branch}", "").Replace(t), "{}") {
		fail("gate.promote.branch_template", "knows {task}, {name} and {branch}")
	}
	bad = append(bad, c.Shield.validate()...)
	bad = append(bad, c.validateGate()...)
	bad = append(bad, c.validateMode()...)
	switch c.Credentials.Scope {
	case "", "shared", "project":
	default:
		fail("credentials.scope", "must be shared or project, not %q", c.Credentials.Scope)
	}
	return bad
}

// CheckUpstream refuses upstreams that git would read as an option, a program to run or a
// transport that this product does not offer. Credentials inside a URL are refused as well:
// they would end up in logs.
func CheckUpstream(u string) error {
	switch {
	case u == "":
		return nil
	case strings.ContainsFunc(u, func(r rune) bool { return r < 0x20 || r == 0x7f }):
		return errors.New("must not hold control characters")
	case strings.HasPrefix(u, "-"):
		return errors.New("must not begin with -")
	case strings.Contains(u, "::"):
		return errors.New("must not name a remote helper (::)")
	case filepath.IsAbs(u):
		return nil
	}
	if scheme, rest, ok := strings.Cut(u, "://"); ok {
		switch scheme {
		case "https", "ssh":
			host, _, _ := strings.Cut(rest, "/")
			i := strings.LastIndexByte(host, '@')
			if i >= 0 && (scheme == "https" || strings.Contains(host[:i], ":")) { // the user of ssh is no secret
				return errors.New("must not hold credentials; store them with terok auth, or terok ssh add")
			}
			return nil
		case "file":
			return nil
		}
		return fmt.Errorf("scheme %q is not https, ssh or file", scheme)
	}
	if host, _, ok := strings.Cut(u, ":"); ok && len(host) >= 2 && !strings.Contains(host, "/") {
		return nil // scp form
	}
	return errors.New("must be an absolute path, https://, ssh://, file:// or host:path")
}

// Store finds projects below the roots.
type Store struct {
	Roots state.Roots
	Now   func() time.Time // nil: time.Now
}

// Get loads one project by its exact name.
func (s Store) Get(name string) (*Project, error) {
	file := s.Roots.ProjectFile(name)
	if !Name.MatchString(name) {
		return nil, problem.New("bad_project_name", problem.Usage, "%q is not a project name", name)
	}
	p := &Project{Name: name, File: file, store: s}
	if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
		e := problem.New("project_not_found", problem.NotFound, "there is no project %s", name)
		names, _ := s.Names()
		if near := config.Suggest(name, names); near != "" {
			return nil, e.WithHint("did you mean %s? All: terok project list", near)
		}
		return nil, e.WithHint("terok project create %s --upstream DIR", name)
	}
	global, err := config.LoadGlobal(s.Roots.ConfigFile())
	if err != nil {
		return nil, err
	}
	d := s.document()
	d.Config = Defaults(global)
	if err := config.Load(file, d); err != nil {
		return nil, err
	}
	p.Config = d.Config
	if p.Project.Name != "" && p.Project.Name != name {
		return nil, problem.New("config_invalid", problem.Usage, "%s says project.name %s but lies in the directory of %s", file, p.Project.Name, name).
			WithHint("edit %s", file)
	}
	return p, nil
}

// Names lists the projects that have a directory, sorted.
func (s Store) Names() ([]string, error) {
	dirs, err := os.ReadDir(s.Roots.ProjectsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, d := range dirs {
		if _, err := os.Lstat(s.Roots.ProjectFile(d.Name())); err == nil && Name.MatchString(d.Name()) {
			names = append(names, d.Name())
		}
	}
	sort.Strings(names)
	return names, nil
}

// ForDir finds the project whose upstream is the repository at top, an absolute path without
// symbolic links. It returns nil when there is none; broken projects are passed over.
func (s Store) ForDir(top string) (*Project, error) {
	names, err := s.Names()
	if err != nil {
		return nil, err
	}
	for _, n := range names {
		p, err := s.Get(n)
		if err != nil {
			continue
		}
		if u := p.UpstreamPath(); u != "" && sameDir(u, top) {
			return p, nil
		}
	}
	return nil, nil
}

func sameDir(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// Spec is what a new project begins with.
type Spec struct {
	Name     string
	Upstream string // absolute path or URL, "" for none
	Branch   string
	Agent    string
	Allow    []string
	Profiles []string
	Class    string // ClassGatekeeping, which is also "", or ClassOnline
}

// Create writes a project.yml that its owner can edit. It fails when the name is taken.
func (s Store) Create(spec Spec) (*Project, error) {
	if !Name.MatchString(spec.Name) || spec.Name == "default" {
		return nil, problem.New("bad_project_name", problem.Usage, "%q cannot be a project name: use a-z, 0-9, - and _, at most 40", spec.Name)
	}
	if err := CheckUpstream(spec.Upstream); err != nil {
		return nil, problem.New("bad_upstream", problem.Usage, "upstream %w", err)
	}
	unlock, err := state.Lock(filepath.Join(s.Roots.ProjectsDir(), "create"))
	if err != nil {
		return nil, err
	}
	defer unlock()
	file := s.Roots.ProjectFile(spec.Name)
	if _, err := os.Lstat(file); err == nil {
		return nil, problem.New("project_exists", problem.Conflict, "project %s exists already", spec.Name).
			WithHint("terok project show %s", spec.Name)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# terok project; terok project show %s prints what it means\n", spec.Name)
	fmt.Fprintf(&b, "project:\n  name: %s\n", spec.Name)
	if spec.Class != "" && spec.Class != ClassGatekeeping {
		fmt.Fprintf(&b, "  security_class: %s\n", quote(spec.Class))
	}
	if spec.Upstream != "" || spec.Branch != "" {
		b.WriteString("git:\n")
		if spec.Upstream != "" {
			fmt.Fprintf(&b, "  upstream_url: %s\n", quote(spec.Upstream))
		}
		if spec.Branch != "" {
			fmt.Fprintf(&b, "  default_branch: %s\n", quote(spec.Branch))
		}
	}
	if spec.Agent != "" {
		fmt.Fprintf(&b, "default_agent: %s\n", quote(spec.Agent))
	}
	if len(spec.Allow)+len(spec.Profiles) > 0 {
		b.WriteString("shield:\n")
	}
	if len(spec.Profiles) > 0 {
		b.WriteString("  profiles:\n")
		for _, p := range spec.Profiles {
			fmt.Fprintf(&b, "    - %s\n", quote(p))
		}
	}
	if len(spec.Allow) > 0 {
		b.WriteString("  allow:\n")
		for _, a := range spec.Allow {
			fmt.Fprintf(&b, "    - %s\n", quote(a))
		}
	}
	if err := config.Decode(file, []byte(b.String()), s.document()); err != nil {
		return nil, err
	}
	if err := state.WriteFile(file, []byte(b.String())); err != nil {
		return nil, err
	}
	return s.Get(spec.Name)
}

// quote writes s as a YAML double-quoted scalar: JSON strings are that.
func quote(s string) string { return strconv.QuoteToASCII(s) }

// NameFor proposes a project name for a repository directory.
func (s Store) NameFor(dir string) string {
	var b strings.Builder
	for _, r := range strings.ToLower(filepath.Base(dir)) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_', r == '-':
			b.WriteRune(r)
		case r == ' ' || r == '.':
			b.WriteByte('-')
		}
	}
	name := strings.Trim(b.String(), "-_")
	if len(name) > 36 {
		name = name[:36]
	}
	if name == "" || name == "default" {
		name = "project"
	}
	for try, n := name, 2; ; n++ {
		if _, err := os.Lstat(s.Roots.ProjectFile(try)); errors.Is(err, fs.ErrNotExist) {
			return try
		}
		try = fmt.Sprintf("%s-%d", name, n)
	}
}

// RemoveConfig deletes the project's configuration directory: the last step of a deletion.
func (s Store) RemoveConfig(name string) error { return os.RemoveAll(s.Roots.ProjectDir(name)) }
