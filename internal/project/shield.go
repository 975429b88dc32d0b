package project

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"terok/internal/config"
	"terok/internal/problem"
	"terok/internal/shield/idn"
	"terok/internal/shield/policy"
	"terok/internal/shield/profile"
	"terok/internal/state"
)

// Shield is the section of egress.
type Shield struct {
	Profiles []string       `yaml:"profiles"` // names of package profile; unset and [] mean none
	Allow    []Line         `yaml:"allow"`    // rules of the project tier
	Deny     []Line         `yaml:"deny"`     // rules of the deny tier
	Override []Override     `yaml:"override"` // break-glass rules above the deny tier
	Budget   policy.Budgets `yaml:"budget"`   // of what leaves a task's container
	Verify   string         `yaml:"verify" oneof:"enforce log off"`
	IPv6     bool           `yaml:"ipv6"` // names answer AAAA as well
}

// Line is a rule with the line of the file that it stands in.
type Line struct {
	Text string
	Line int // 0: not from a file
}

// UnmarshalConfig takes a string.
func (l *Line) UnmarshalConfig(v any) error {
	s, ok := v.(string)
	if !ok {
		return errors.New("expected a rule such as example.org:443 (put it in quotes)")
	}
	l.Text = s
	return nil
}

// LocateConfig remembers the line.
func (l *Line) LocateConfig(line int) { l.Line = line }

// Texts are the rules as they are written.
func Texts(list []Line) []string {
	out := make([]string, len(list))
	for i := range list {
		out[i] = list[i].Text
	}
	return out
}

// Override is a rule that opens what the deny tier, or a private range, closes. It ends.
type Override struct {
	Host    string `yaml:"host"`    // target[:ports][/proto], without sign
	Reason  string `yaml:"reason"`  // mandatory
	Expires string `yaml:"expires"` // date (to its end, UTC) or RFC 3339; "": OverrideDefault after it is first used

	line int
}

// LocateConfig remembers the line.
func (o *Override) LocateConfig(line int) { o.line = line }

// How long overrides hold.
const (
	OverrideDefault = 7 * 24 * time.Hour
	OverrideMax     = 30 * 24 * time.Hour
)

// rule parses a line of shield.allow (sign "+") or shield.deny ("-").
func (l Line) rule(tier policy.Tier, sign, source string) (policy.Rule, error) {
	text := strings.TrimLeft(l.Text, " \t")
	if other := strings.Trim("+-", sign); strings.HasPrefix(text, other) {
		key := map[string]string{"+": "shield.allow", "-": "shield.deny"}[other]
		return policy.Rule{}, fmt.Errorf("rules with %q belong in %s", other, key)
	}
	if !strings.HasPrefix(text, sign) {
		text = sign + text
	}
	return parseRule(text, tier, source)
}

func parseRule(text string, tier policy.Tier, source string) (policy.Rule, error) {
	ascii, err := idn.Rule(text)
	if err != nil {
		return policy.Rule{}, err
	}
	r, err := policy.ParseRule(ascii, tier, source)
	if e, ok := errors.AsType[*policy.RuleError](err); ok {
		return r, errors.New(e.Message)
	}
	return r, err
}

// rule parses an override. end is used where it names none.
func (o Override) rule(source string, end time.Time) (policy.Rule, *config.FieldError) {
	bad := func(key, format string, args ...any) (policy.Rule, *config.FieldError) {
		return policy.Rule{}, &config.FieldError{Path: key, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case o.Host == "":
		return bad("host", "is required: a name, an address or host:PORT, with :ports")
	case strings.ContainsAny(o.Host, " \t\"%") || strings.HasPrefix(o.Host, "+") || strings.HasPrefix(o.Host, "-"):
		return bad("host", "must be one target without sign, such as printer.example:631")
	case strings.TrimSpace(o.Reason) == "":
		return bad("reason", "is required: an override says why")
	case strings.Contains(o.Reason, `"`):
		return bad("reason", "must not hold double quotes")
	}
	text := "+" + o.Host + ` %reason="` + strings.TrimSpace(o.Reason) + `"`
	if o.Expires != "" {
		if r, err := policy.ParseRule("x.test %expires="+o.Expires, policy.Project, ""); err != nil || strings.ContainsAny(o.Expires, " \t") {
			return bad("expires", "must be a date such as 2026-12-31 or a time such as 2026-12-31T18:00:00Z")
		} else {
			end = r.Expires
		}
	}
	r, err := parseRule(text, policy.Override, source)
	if err != nil {
		return bad("host", "%v", err)
	}
	r.Expires = end
	return r, nil
}

// validate checks rules and overrides; what needs a clock or other files is the Store's.
func (s *Shield) validate() []config.FieldError {
	var bad []config.FieldError
	lines := func(key string, list []Line, tier policy.Tier, sign string) {
		for i, l := range list {
			if _, err := l.rule(tier, sign, ""); err != nil {
				bad = append(bad, config.FieldError{Path: fmt.Sprintf("shield.%s[%d]", key, i), Message: err.Error()})
			}
		}
	}
	lines("allow", s.Allow, policy.Project, "+")
	lines("deny", s.Deny, policy.Denied, "-")
	for i, o := range s.Override {
		if _, err := o.rule("", time.Time{}); err != nil {
			err.Path = fmt.Sprintf("shield.override[%d].%s", i, err.Path)
			bad = append(bad, *err)
		}
	}
	return bad
}

// document is project.yml with what its validation needs beside the file.
type document struct {
	Config  `yaml:",inline"`
	library profile.Library
	now     time.Time
}

// Validate checks what the file says alone, then profiles and the life of overrides.
func (d *document) Validate() []config.FieldError {
	bad := d.Config.Validate()
	fail := func(at int, key, format string, args ...any) {
		bad = append(bad, config.FieldError{Path: fmt.Sprintf("shield."+key, at), Message: fmt.Sprintf(format, args...)})
	}
	for i, name := range d.Shield.Profiles {
		_, err := d.library.Get(name)
		if unknown, ok := errors.AsType[*profile.UnknownError](err); ok {
			e := config.FieldError{Path: fmt.Sprintf("shield.profiles[%d]", i),
				Message: fmt.Sprintf("unknown profile %+q; known: %s", name, strings.Join(unknown.Known, ", "))}
			if unknown.Near != "" {
				e.Suggestion = fmt.Sprintf("%q", unknown.Near)
			}
			bad = append(bad, e)
			continue
		}
		if err != nil {
			first, more, _ := strings.Cut(err.Error(), "\n")
			if more != "" {
				first += "; all: terok shield profiles show " + name
			}
			fail(i, "profiles[%d]", "%s", first)
		}
		if slices.Index(d.Shield.Profiles, name) < i {
			fail(i, "profiles[%d]", "%s is given twice", name)
		}
	}
	for i, o := range d.Shield.Override {
		if r, err := o.rule("", time.Time{}); err == nil && r.Expires.After(d.now.Add(OverrideMax+24*time.Hour)) {
			fail(i, "override[%d].expires", "an override lasts at most 30 days: until %s", d.now.Add(OverrideMax).UTC().Format(time.DateOnly))
		}
	}
	return bad
}

// Moved names today's place of keys that people know from elsewhere.
func (*Config) Moved() map[string]string {
	return map[string]string{
		"shield.sets":             "write shield.profiles, with the same names",
		"shield.set":              "write shield.profiles, with the same names",
		"shield.presets":          "write shield.profiles",
		"shield.overrides":        "write shield.override",
		"shield.drop_on_task_run": "remove it: a task starts with its shield up; terok shield down P/T --for 30m lowers it",
		"project.id":              "write project.name",
		"gate.isolation":          "remove it: each task has a repository of its own; terok task run --from hands work over",
		"gate.seed":               "remove it: a task borrows the objects of the base",
		"gate.push.protected":     "write gate.protected",
		"gate.push.tags":          "remove it: tasks push no tags",
	}
}

// Rules are the project's own rules with their sources, as they are to be used now: shield.deny,
// shield.override, the profiles, shield.allow. Expired ones are among them; they match nothing.
// Nothing is written: an override without an end that was never used ends OverrideDefault from now.
func (p *Project) Rules() ([]policy.Rule, error) {
	var rules []policy.Rule
	add := func(key string, list []Line, tier policy.Tier, sign string) error {
		for _, l := range list {
			r, err := l.rule(tier, sign, p.place(l.Line))
			if err != nil {
				return fmt.Errorf("%s: shield.%s: %w", p.place(l.Line), key, err)
			}
			rules = append(rules, r)
		}
		return nil
	}
	if err := add("deny", p.Shield.Deny, policy.Denied, "-"); err != nil {
		return nil, err
	}
	began, err := p.began()
	if err != nil {
		return nil, err
	}
	for _, o := range p.Shield.Override {
		r, bad := o.rule(p.place(o.line), time.Time{})
		if bad != nil {
			return nil, fmt.Errorf("%s: shield.override: %s %s", p.place(o.line), bad.Path, bad.Message)
		}
		if r.Expires.IsZero() {
			since, known := began[r.Text]
			if !known {
				since = p.store.now()
			}
			r.Expires = since.Add(OverrideDefault).UTC().Truncate(time.Second)
		}
		rules = append(rules, r)
	}
	listed, err := p.store.Library(p.Image.BaseImage).Rules(p.Shield.Profiles)
	if err != nil {
		return nil, problem.New("profile_invalid", problem.Usage, "%w", err).WithHint("terok shield profiles")
	}
	rules = append(rules, listed...)
	if p.Online() && p.Git.UpstreamURL != "" {
		r, err := p.upstreamRule(p.File + ": git.upstream_url (online)")
		if err != nil {
			return nil, err
		}
		rules = append(rules, r)
	}
	return rules, add("allow", p.Shield.Allow, policy.Project, "+")
}

// place is file:line for explanations.
func (p *Project) place(line int) string {
	if line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, line)
}

// ShieldSettings returns the settings of a task of this project; s are the user's.
func (p *Project) ShieldSettings(s policy.Settings) policy.Settings {
	if p.Shield.Verify != "" {
		s.Verify = policy.Verify(p.Shield.Verify)
	}
	s.Ask, s.HoldSeconds = !p.Clearance.Off, int(p.Clearance.Hold.Seconds())
	s.IPv6 = s.IPv6 || p.Shield.IPv6
	s.Budgets = append(slices.Clone(s.Budgets), p.Shield.Budget...)
	return s
}

// overridesFile remembers when overrides without an end were first used.
func (s Store) overridesFile(name string) string {
	return filepath.Join(s.Roots.ProjectData(name), "overrides.json")
}

func (p *Project) began() (map[string]time.Time, error) {
	began := map[string]time.Time{}
	err := state.ReadJSON(p.store.overridesFile(p.Name), &began)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("when overrides began: %w", err)
	}
	return began, nil
}

// Begin writes down that the project's overrides are used from now on, so that those without an
// end get one; what the file does not have any more is forgotten.
func (p *Project) Begin() error {
	var open []string
	for _, o := range p.Shield.Override {
		if r, bad := o.rule("", time.Time{}); bad == nil && r.Expires.IsZero() {
			open = append(open, r.Text)
		}
	}
	file := p.store.overridesFile(p.Name)
	if was, err := p.began(); err != nil || len(open) == 0 && len(was) == 0 {
		return err
	}
	unlock, err := state.Lock(file)
	if err != nil {
		return err
	}
	defer unlock()
	was, err := p.began() // another command may have been faster
	if err != nil {
		return err
	}
	began := map[string]time.Time{}
	for _, text := range open {
		if since, known := was[text]; known {
			began[text] = since
		} else {
			began[text] = p.store.now().UTC().Truncate(time.Second)
		}
	}
	if maps.Equal(was, began) {
		return nil
	}
	return state.WriteJSON(file, began)
}

// now is the Store's clock.
func (s Store) now() time.Time {
	if s.Now == nil {
		return time.Now()
	}
	return s.Now()
}

// Library finds profiles for tasks on an image.
func (s Store) Library(image string) profile.Library {
	return profile.Library{Dir: s.Roots.ProfilesDir(), Family: profile.Family(image)}
}

// AddRule writes a rule into shield.allow or, when it begins with "-", into shield.deny, and keeps
// everything else of the file, comments included. The same rule as a refusal's opposite is taken
// out of the other list, so that the last word holds. It reports whether the file has changed.
func (s Store) AddRule(name, rule string) (changed bool, err error) {
	return s.editRule(name, rule, true)
}

// RemoveRule takes a rule (with its sign) out of shield.allow or shield.deny.
func (s Store) RemoveRule(name, rule string) (changed bool, err error) {
	return s.editRule(name, rule, false)
}

func (s Store) editRule(name, text string, add bool) (bool, error) {
	p, err := s.Get(name)
	if err != nil {
		return false, err
	}
	sign, other := "+", "-"
	if strings.HasPrefix(text, "-") {
		sign, other = "-", "+"
	}
	rule, err := Line{Text: text}.rule(tierOf(sign), sign, "")
	if err != nil {
		return false, problem.New("rule_invalid", problem.Usage, "%s: %w", text, err).WithHint("terok shield allow --help")
	}
	check := func(data []byte) error { return config.Decode(p.File, data, s.document()) }
	changed := false
	for _, l := range p.list(sign) {
		// The same target and ports, whatever its markers: the new one takes its place.
		if r, err := l.rule(tierOf(sign), sign, ""); err == nil && r.Text == rule.Text && (!add || r.String() != rule.String()) {
			if err := config.RemoveFromList(p.File, keyOf(sign), l.Text, check); err != nil {
				return false, err
			}
			changed = true
		} else if add && err == nil && r.String() == rule.String() {
			add = false // it is there
		}
	}
	if !add {
		return changed, nil
	}
	for _, l := range p.list(other) {
		if r, err := l.rule(tierOf(other), other, ""); err == nil && r.Text[1:] == rule.Text[1:] {
			if err := config.RemoveFromList(p.File, keyOf(other), l.Text, check); err != nil {
				return false, err
			}
		}
	}
	return true, config.AddToList(p.File, keyOf(sign), strings.TrimPrefix(rule.String(), sign), check)
}

func tierOf(sign string) policy.Tier {
	if sign == "-" {
		return policy.Denied
	}
	return policy.Project
}

func keyOf(sign string) string {
	if sign == "-" {
		return "shield.deny"
	}
	return "shield.allow"
}

func (p *Project) list(sign string) []Line {
	if sign == "-" {
		return p.Shield.Deny
	}
	return p.Shield.Allow
}

// SetProfiles writes shield.profiles; an empty list means none.
func (s Store) SetProfiles(name string, profiles []string) error {
	p, err := s.Get(name)
	if err != nil {
		return err
	}
	if profiles == nil {
		profiles = []string{}
	}
	return config.SetPath(p.File, "shield.profiles", profiles, func(data []byte) error {
		return config.Decode(p.File, data, s.document())
	})
}

// document is an empty project.yml with today's profiles and clock.
func (s Store) document() *document {
	return &document{Config: Defaults(config.Defaults()), library: s.Library(""), now: s.now()}
}
