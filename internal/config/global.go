package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Global is config.yml: what holds for every project of this user. Absent keys have the values
// of Defaults.
type Global struct {
	Schema      int         `yaml:"schema"` // 1
	Credentials Credentials `yaml:"credentials"`
	Image       Image       `yaml:"image"`
	Run         Run         `yaml:"run"`
	Clearance   Clearance   `yaml:"clearance"`
	Shield      Shield      `yaml:"shield"`
	Vault       GlobalVault `yaml:"vault"`
	Audit       Audit       `yaml:"audit"`
	Git         Git         `yaml:"git"`
}

// Credentials is the section of the vault.
type Credentials struct {
	// PassphraseCommand is split into words as a shell would, run without one; the first line of
	// its output unlocks the vault. "": not set.
	PassphraseCommand string `yaml:"passphrase_command"`
}

// GlobalVault is the section of what tasks may do with credentials.
type GlobalVault struct {
	Vault `yaml:",inline"`
	// AllowWiden lets vault.policy of a project open endpoints that the provider's own policy keeps
	// closed.
	AllowWiden bool `yaml:"allow_widen"`
}

// Image is the section of image builds.
type Image struct {
	Base   string `yaml:"base_image"` // image reference that L0 is built from
	Mirror string `yaml:"mirror"`     // package mirror for bootstrap, http or https URL; "": the distribution's own
	// CACertificates are PEM files of authorities that builds and containers trust besides the
	// usual ones; relative to config.yml in the file, absolute once loaded.
	CACertificates []string `yaml:"ca_certificates"`
}

// Run is the section of containers; projects have the same one, and theirs wins.
type Run struct {
	Privilege       string        `yaml:"privilege" oneof:"sudo none"` // "": sudo for unrestricted tasks, none for restricted ones
	PidsLimit       int           `yaml:"pids_limit"`                  // processes; at least 64
	Memory          Size          `yaml:"memory"`                      // "": no limit
	CPUs            CPUs          `yaml:"cpus"`                        // "": no limit
	ShmSize         Size          `yaml:"shm_size"`                    // of /dev/shm
	ShutdownTimeout time.Duration `yaml:"shutdown_timeout"`            // between SIGTERM and SIGKILL; whole seconds
}

// Clearance is the section of live questions. "clearance: off" is the whole section for whoever
// wants to be asked nothing.
type Clearance struct {
	Off  bool          `yaml:"-"`    // what no rule allows is refused, and nobody is asked
	Hold time.Duration `yaml:"hold"` // how long a connection waits for a verdict; 0: not at all
}

// Switch is "clearance: on" or "clearance: off".
func (c *Clearance) Switch(on bool) { c.Off = !on }

// Validate checks what types cannot.
func (c *Clearance) Validate() []FieldError {
	if c.Hold < 0 || c.Hold > 5*time.Minute || c.Hold%time.Second != 0 {
		return []FieldError{{Path: "hold", Message: "must be whole seconds, at most 5m"}}
	}
	return nil
}

// Shield is the section of egress.
type Shield struct {
	Range netip.Prefix `yaml:"range"` // synthetic addresses of names; IPv4, /8 to /24
	// RequireLandlock refuses to start containers on a kernel that cannot confine the files of
	// the supervisor's worker.
	RequireLandlock bool `yaml:"require_landlock"`
}

// Audit is the section of the ledgers.
type Audit struct {
	Required bool `yaml:"required"`  // a container whose ledger cannot be written is quarantined
	MaxTotal Size `yaml:"max_total"` // of all ledgers; the oldest compressed files go first
}

// Git is the section of authorship.
type Git struct {
	HumanName  string `yaml:"human_name"`  // "": git's own configuration on the host
	HumanEmail string `yaml:"human_email"` // "": git's own configuration on the host
	// Authorship says who is author and who committer of what an agent commits.
	Authorship string `yaml:"authorship" oneof:"agent-human human-agent agent human"`
}

// Defaults returns what config.yml means when it is empty.
func Defaults() Global {
	return Global{
		Schema: 1,
		Image:  Image{Base: "docker.io/library/debian:12"},
		Run: Run{PidsLimit: 4096, ShmSize: "1g",
			ShutdownTimeout: 10 * time.Second},
		Clearance: Clearance{Hold: 30 * time.Second},
		Shield:    Shield{Range: netip.MustParsePrefix("198.18.0.0/15"), RequireLandlock: true},
		Vault:     GlobalVault{Vault: Vault{Limits: VaultLimits{PerMinute: 600, Burst: 60, Concurrent: 64, Body: "128m"}}},
		Audit:     Audit{MaxTotal: "2g"},
		Git:       Git{Authorship: "agent-human"},
	}
}

// LoadGlobal reads config.yml at path; a file that does not exist means the defaults.
func LoadGlobal(path string) (Global, error) {
	g := Defaults()
	if err := Load(path, &g); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Global{}, err
	}
	for i, file := range g.Image.CACertificates {
		if !filepath.IsAbs(file) {
			g.Image.CACertificates[i] = filepath.Join(filepath.Dir(path), file)
		}
	}
	return g, nil
}

// MaxSchema is the newest config.yml that this program reads.
func (*Global) MaxSchema() int { return 1 }

// Moved names today's place of keys that people know from elsewhere.
func (*Global) Moved() map[string]string {
	return map[string]string{
		"credentials.passphrase": "a passphrase must not lie in a file; set credentials.passphrase_command",
		"vault.dir":              "the vault lies below XDG_DATA_HOME",
		"vault.transport":        "remove it, there is one transport",
		"services.mode":          "remove it, there is one transport",
		"image.base":             "write image.base_image",
		"docker.*":               "write image.*",
		"shield.security_class":  "write project.security_class in project.yml",
	}
}

// Validate checks what types cannot.
func (g *Global) Validate() []FieldError {
	var errs []FieldError
	bad := func(path, format string, args ...any) {
		errs = append(errs, FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	if g.Schema < 1 {
		bad("schema", "must be 1")
	}
	if g.Image.Base == "" || strings.ContainsFunc(g.Image.Base, notGraphic) || strings.HasPrefix(g.Image.Base, "-") {
		bad("image.base_image", "must be an image reference such as docker.io/library/debian:12")
	}
	if m := g.Image.Mirror; m != "" && (!strings.HasPrefix(m, "http://") && !strings.HasPrefix(m, "https://") || strings.ContainsFunc(m, notGraphic)) {
		bad("image.mirror", "must be a URL that begins with http:// or https://")
	}
	for i, file := range g.Image.CACertificates {
		if file == "" || strings.ContainsFunc(file, unicode.IsControl) {
			bad(fmt.Sprintf("image.ca_certificates[%d]", i), "must be the path of a PEM file")
		}
	}
	if r := g.Shield.Range; !r.IsValid() || !r.Addr().Is4() || r.Bits() < 8 || r.Bits() > 24 || r.Masked() != r {
		bad("shield.range", "must be an IPv4 range from /8 to /24 such as 198.18.0.0/15, without host bits")
	}
	for _, f := range []struct{ path, value string }{{"git.human_name", g.Git.HumanName}, {"git.human_email", g.Git.HumanEmail}} {
		if strings.ContainsFunc(f.value, unicode.IsControl) || strings.ContainsAny(f.value, "<>") {
			bad(f.path, "must not contain control characters, < or >")
		}
	}
	if strings.ContainsFunc(g.Credentials.PassphraseCommand, unicode.IsControl) {
		bad("credentials.passphrase_command", "must be one line")
	}
	for _, e := range g.Run.Validate() {
		e.Path = "run." + e.Path
		errs = append(errs, e)
	}
	return errs
}

func notGraphic(r rune) bool { return r <= ' ' || r > '~' }

// Validate checks the run section; paths are relative to it.
func (r *Run) Validate() []FieldError {
	var errs []FieldError
	if r.PidsLimit < 64 || r.PidsLimit > 4<<20 {
		errs = append(errs, FieldError{Path: "pids_limit", Message: "must be from 64 to 4194304"})
	}
	if r.ShutdownTimeout > time.Hour || r.ShutdownTimeout%time.Second != 0 {
		errs = append(errs, FieldError{Path: "shutdown_timeout", Message: "must be whole seconds, at most 1h"})
	}
	if r.ShmSize == "" {
		errs = append(errs, FieldError{Path: "shm_size", Message: "must be a size such as 1g"})
	}
	return errs
}

// Size is an amount of memory as Podman takes it: digits and an optional b, k, m, g or t (powers
// of 1024). In a file "512m", "4 GiB", "1.5g" and a plain number of bytes are accepted.
type Size string

var sizeForm = compiled(`^(\d{1,15}(?:\.\d{1,6})?) ?([kmgt]?)i?b?$`)

// UnmarshalConfig accepts a string or a number of bytes.
func (s *Size) UnmarshalConfig(value any) error {
	raw, ok := numberOrString(value)
	if !ok {
		return errors.New("expected a size such as 512m, 4g or 1.5GiB")
	}
	if raw == "" {
		*s = ""
		return nil
	}
	n, err := parseSize(raw)
	if err != nil {
		return err
	}
	*s = Size(strconv.FormatInt(n, 10) + "b")
	for _, unit := range []string{"k", "m", "g", "t"} {
		if n%1024 != 0 {
			break
		}
		n /= 1024
		*s = Size(strconv.FormatInt(n, 10) + unit)
	}
	return nil
}

// Bytes is the amount in bytes; 0 for "".
func (s Size) Bytes() int64 {
	n, _ := parseSize(string(s))
	return n
}

func parseSize(raw string) (int64, error) {
	m := sizeForm().FindStringSubmatch(strings.ToLower(raw))
	if m == nil {
		return 0, fmt.Errorf("%q is not a size; examples: 512m, 4g, 1.5GiB", printable(raw))
	}
	f, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, err
	}
	f *= map[string]float64{"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}[m[2]]
	if f < 1 || f > 1<<50 {
		return 0, fmt.Errorf("%q is not a size; it must be from 1 byte to 1024t", printable(raw))
	}
	return int64(f), nil
}

// CPUs is a number of processors as Podman takes it, such as "2" or "0.5".
type CPUs string

var cpusForm = compiled(`^\d{1,5}(\.\d{1,6})?$`)

// UnmarshalConfig accepts a string or a number.
func (c *CPUs) UnmarshalConfig(value any) error {
	raw, ok := numberOrString(value)
	if ok && raw == "" {
		*c = ""
		return nil
	}
	if f, _ := strconv.ParseFloat(raw, 64); !ok || !cpusForm().MatchString(raw) || f <= 0 {
		return errors.New("cpus must be a positive number such as 2 or 0.5")
	}
	*c = CPUs(raw)
	return nil
}

func numberOrString(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return strings.TrimSpace(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case uint64:
		return strconv.FormatUint(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64), true
	}
	return "", false
}
