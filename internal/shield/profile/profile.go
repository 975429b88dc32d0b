// Package profile holds lists of rules under a name: the curated ones that come with terok, and
// the user's own in $XDG_CONFIG_HOME/terok/profiles/NAME.txt. A project chooses them with
// shield.profiles; nothing is chosen by itself.
//
// One format: one rule per line in the grammar of package policy, "#" begins a comment, and the
// first comment of a file is its title. A note is the rule's %reason. %risk names what allowing
// the host can mean (WriteCapable, AnyoneHosts). A line "suffix: true" before the first rule reads
// every plain name as the name and all below it, for lists made for other programs.
//
//	# our build hosts
//	artifacts.example.org:443   %reason="maven" %risk=write-capable
//	.cache.example.org          # and everything below
//
// What it guarantees: a profile is whole or an error with file, line and column, all errors at
// once; an own profile hides the bundled one of the same name; an unknown name is an error that
// lists the known ones.
package profile

import (
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"terok/internal/config"
	"terok/internal/shield/policy"
)

// Risks of a host, beside carrying data to whoever runs it.
const (
	WriteCapable = "write-capable" // whoever has an account there can publish through it
	AnyoneHosts  = "anyone-hosts"  // anybody's content is served under the same name
	Private      = "private"       // an address of a private network
)

// Recommended is the profile that stands for every curated one.
const Recommended = "recommended"

// curated are the profiles that Recommended stands for.
var curated = []string{"git-hosting", "python", "node", "rust", "go", "containers", OSPackages}

// OSPackages is the profile whose rules depend on the family of the image.
const OSPackages = "os-packages"

//go:embed bundled
var bundled embed.FS

// Entry is one rule of a profile.
type Entry struct {
	Rule policy.Rule // of tier Project
	Risk []string    // see the risks; empty for none that is known
}

// Profile is a named list of rules.
type Profile struct {
	Name    string
	Title   string
	File    string // path of an own profile, "" for a bundled one
	Hides   bool   // an own profile with the name of a bundled one
	Curated bool   // part of Recommended
	Suffix  bool   // plain names were read as suffixes
	Entries []Entry
}

// Library finds profiles.
type Library struct {
	Dir    string // own profiles; "" for none
	Family string // of the image, for os-packages: deb, rpm, apk, or "" for all
}

// UnknownError is a name that no profile has.
type UnknownError struct {
	Name  string
	Known []string
	Near  string // the name that was likely meant, or ""
}

func (e *UnknownError) Error() string {
	s := fmt.Sprintf("unknown profile %+q", e.Name)
	if e.Near != "" {
		s += fmt.Sprintf(" (did you mean %q?)", e.Near)
	}
	return s + "; known: " + strings.Join(e.Known, ", ")
}

// ValidName tells whether s can be the name of a profile: letters, digits, '.', '_', '-', no
// separator, and not hidden.
func ValidName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i] | 0x20
		switch {
		case 'a' <= c && c <= 'z' || '0' <= s[i] && s[i] <= '9':
		case i > 0 && strings.IndexByte("._-", s[i]) >= 0:
		default:
			return false
		}
	}
	return 0 < len(s) && len(s) <= 64
}

// Names lists every profile, sorted.
func (l Library) Names() ([]string, error) {
	names := append(bundledNames(), Recommended)
	own, err := l.own()
	if err != nil {
		return nil, err
	}
	for _, n := range own {
		if !slices.Contains(names, n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, nil
}

func (l Library) own() ([]string, error) {
	if l.Dir == "" {
		return nil, nil
	}
	files, err := os.ReadDir(l.Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("profiles: %w", err)
	}
	var names []string
	for _, f := range files {
		if name, ok := strings.CutSuffix(f.Name(), ".txt"); ok && ValidName(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

func bundledNames() []string {
	files, err := bundled.ReadDir("bundled")
	if err != nil {
		panic("profile: " + err.Error()) // compiled in
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".txt"))
	}
	return names
}

// Get reads one profile. The error is an *UnknownError, Errors, or what reading the file gave.
func (l Library) Get(name string) (*Profile, error) {
	if !ValidName(name) {
		return nil, l.unknown(name)
	}
	isBundled := slices.Contains(bundledNames(), name) || name == Recommended
	if l.Dir != "" {
		file := filepath.Join(l.Dir, name+".txt")
		data, err := config.ReadFile(file)
		switch {
		case err == nil:
			p, err := parse(name, file, data)
			if err != nil {
				return nil, err
			}
			p.File, p.Hides = file, isBundled
			return p, nil
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	if !isBundled {
		return nil, l.unknown(name)
	}
	return l.bundled(name)
}

func (l Library) unknown(name string) error {
	known, err := l.Names()
	if err != nil {
		return err
	}
	return &UnknownError{Name: name, Known: known, Near: config.Suggest(name, known)}
}

func (l Library) bundled(name string) (*Profile, error) {
	p := &Profile{Name: name, Curated: slices.Contains(curated, name)}
	var files []string
	switch name {
	case Recommended:
		p.Title = "Every curated profile: " + strings.Join(curated, ", ")
		for _, n := range curated {
			part, err := l.bundled(n)
			if err != nil {
				return nil, err
			}
			p.add(part.Entries)
		}
		return p, nil
	case OSPackages:
		for _, family := range []string{"deb", "rpm", "apk"} {
			if l.Family == family || l.Family == "" {
				files = append(files, OSPackages+"/"+family+".txt")
			}
		}
	default:
		files = []string{name + ".txt"}
	}
	for _, f := range files {
		data, err := bundled.ReadFile(path.Join("bundled", f))
		if err != nil {
			return nil, err
		}
		part, err := parse(name, "", data)
		if err != nil {
			return nil, fmt.Errorf("bundled profile %s: %w", name, err)
		}
		if p.Title != "" {
			part.Title = "Packages of the distribution: Debian, Ubuntu, Fedora, CentOS, Alpine"
		}
		p.Title = part.Title
		p.add(part.Entries)
	}
	return p, nil
}

// add appends entries; of two rules with the same text the first holds.
func (p *Profile) add(entries []Entry) {
	for _, e := range entries {
		if !slices.ContainsFunc(p.Entries, func(x Entry) bool { return x.Rule.Text == e.Rule.Text }) {
			p.Entries = append(p.Entries, e)
		}
	}
}

// Rules returns the rules of several profiles in the order given; of two with the same text the
// first holds. Every error is reported, joined.
func (l Library) Rules(names []string) ([]policy.Rule, error) {
	var all Profile
	var errs []error
	for _, n := range names {
		p, err := l.Get(n)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all.add(p.Entries)
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var rules []policy.Rule
	for _, e := range all.Entries {
		rules = append(rules, e.Rule)
	}
	return rules, nil
}

// Family tells which package manager an image has, from its reference: deb, rpm, apk, or "" when
// the name does not say.
func Family(image string) string {
	name := strings.ToLower(image)
	if i := strings.IndexByte(name, '@'); i >= 0 {
		name = name[:i]
	}
	name = path.Base(name)
	name, _, _ = strings.Cut(name, ":")
	for family, words := range map[string][]string{
		"deb": {"debian", "ubuntu", "mint", "raspbian"},
		"rpm": {"fedora", "centos", "ubi", "rhel", "rocky", "alma", "oraclelinux", "amazonlinux"},
		"apk": {"alpine"},
	} {
		for _, w := range words {
			if strings.HasPrefix(name, w) {
				return family
			}
		}
	}
	return ""
}

// marks are the files at the top of a tree that speak for a profile.
var marks = []struct{ profile, file string }{
	{"go", "go.mod"},
	{"node", "package.json"},
	{"python", "pyproject.toml"}, {"python", "requirements.txt"}, {"python", "setup.py"}, {"python", "Pipfile"},
	{"rust", "Cargo.toml"},
	{"containers", "Containerfile"}, {"containers", "Dockerfile"},
	{"git-hosting", ".gitmodules"},
}

// Suggest names the profiles that files at the top of a tree speak for. Nothing is read but names.
func Suggest(dir string) []string {
	var out []string
	for _, m := range marks {
		if slices.Contains(out, m.profile) {
			continue
		}
		if fi, err := os.Lstat(filepath.Join(dir, m.file)); err == nil && fi.Mode().IsRegular() {
			out = append(out, m.profile)
		}
	}
	return out
}
