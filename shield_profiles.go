package terok

import (
	"context"
	"errors"
	"slices"
	"strings"

	"terok/internal/problem"
	"terok/internal/project"
	"terok/internal/shield/profile"
)

// ProfileView is a profile as faces show it.
type ProfileView struct {
	Name    string        `json:"name"`
	Title   string        `json:"title"`
	Origin  string        `json:"origin"` // "bundled", or the path of an own one
	Curated bool          `json:"curated"`
	Hides   bool          `json:"hides"` // an own one with the name of a bundled one
	Suffix  bool          `json:"suffix"`
	Risk    []string      `json:"risk"` // of any of its rules
	Rules   []ProfileRule `json:"rules"`
	Used    []string      `json:"projects"` // that name it
	Error   *string       `json:"error"`    // why it cannot be used
}

// ProfileRule is one rule of a profile.
type ProfileRule struct {
	Rule    string   `json:"rule"`
	Note    string   `json:"note"`
	Risk    []string `json:"risk"`
	Expires *string  `json:"expires"`
}

// ShieldProfiles lists every profile; a broken one carries its error.
func (a *App) ShieldProfiles() ([]ProfileView, error) {
	lib := a.projects().Library("")
	names, err := lib.Names()
	if err != nil {
		return nil, err
	}
	used, err := a.profileUses()
	if err != nil {
		return nil, err
	}
	out := []ProfileView{}
	for _, n := range names {
		p, err := lib.Get(n)
		if err != nil {
			out = append(out, ProfileView{Name: n, Origin: lib.Dir, Risk: []string{}, Rules: []ProfileRule{}, Used: append([]string{}, used[n]...), Error: opt(err.Error())})
			continue
		}
		out = append(out, profileView(p, used[n]))
	}
	return out, nil
}

// profileUses tells which projects name a profile; broken projects are passed over.
func (a *App) profileUses() (map[string][]string, error) {
	names, err := a.projects().Names()
	if err != nil {
		return nil, err
	}
	used := map[string][]string{}
	for _, n := range names {
		if p, err := a.projects().Get(n); err == nil {
			for _, profile := range p.Shield.Profiles {
				used[profile] = append(used[profile], n)
			}
		}
	}
	return used, nil
}

func profileView(p *profile.Profile, used []string) ProfileView {
	v := ProfileView{Name: p.Name, Title: p.Title, Origin: "bundled", Curated: p.Curated, Hides: p.Hides, Suffix: p.Suffix,
		Risk: []string{}, Rules: []ProfileRule{}, Used: append([]string{}, used...)}
	if p.File != "" {
		v.Origin = p.File
	}
	for _, e := range p.Entries {
		r := ProfileRule{Rule: e.Rule.Text, Note: e.Rule.Reason, Risk: append([]string{}, e.Risk...)}
		if !e.Rule.Expires.IsZero() {
			r.Expires = opt(e.Rule.Expires.UTC().Format("2006-01-02T15:04:05Z07:00"))
		}
		for _, risk := range e.Risk {
			if !slices.Contains(v.Risk, risk) {
				v.Risk = append(v.Risk, risk)
			}
		}
		v.Rules = append(v.Rules, r)
	}
	slices.SortFunc(v.Risk, func(a, b string) int { // as the flags are documented
		order := []string{profile.WriteCapable, profile.AnyoneHosts}
		return slices.Index(order, a) - slices.Index(order, b)
	})
	return v
}

// ShieldProfile shows one profile as tasks on an image of a project would have it; without a
// project os-packages is that of every distribution.
func (a *App) ShieldProfile(name, project string) (ProfileView, error) {
	image := ""
	if project != "" {
		p, err := a.projects().Get(project)
		if err != nil {
			return ProfileView{}, err
		}
		image = p.Image.BaseImage
	}
	p, err := a.projects().Library(image).Get(name)
	if err != nil {
		return ProfileView{}, profileProblem(err)
	}
	used, err := a.profileUses()
	if err != nil {
		return ProfileView{}, err
	}
	return profileView(p, used[name]), nil
}

func profileProblem(err error) error {
	if unknown, ok := errors.AsType[*profile.UnknownError](err); ok {
		return problem.New("profile_not_found", problem.NotFound, "%w", unknown).WithHint("terok shield profiles")
	}
	if _, ok := errors.AsType[profile.Errors](err); ok {
		return problem.New("profile_invalid", problem.Usage, "%w", err)
	}
	return err
}

// ProfileChoice is what a project chose.
type ProfileChoice struct {
	Project  string     `json:"project"`
	File     string     `json:"file"`
	Profiles []string   `json:"profiles"`
	Tasks    []Reloaded `json:"tasks"` // that use it now
}

// SetShieldProfiles writes shield.profiles of a project; with now its tasks use the choice at once,
// else from their next start. An empty list chooses none.
func (a *App) SetShieldProfiles(ctx context.Context, name string, profiles []string, now bool) (ProfileChoice, error) {
	v := ProfileChoice{Project: name, Profiles: append([]string{}, profiles...), Tasks: []Reloaded{}}
	p, err := a.projects().Get(name)
	if err != nil {
		return v, err
	}
	v.File = p.File
	for _, n := range profiles {
		if _, err := a.projects().Library(p.Image.BaseImage).Get(n); err != nil {
			return v, profileProblem(err)
		}
	}
	if err := a.projects().SetProfiles(name, profiles); err != nil {
		return v, err
	}
	a.note("project_profiles", map[string]string{"project": name, "profiles": strings.Join(profiles, " ")})
	if now {
		v.Tasks, err = a.ShieldReloadProject(ctx, name)
	}
	return v, err
}

// suggestProfiles names profiles that files in a new project's clone speak for. It chooses none:
// what a repository holds must not open the network.
func (a *App) suggestProfiles(p *project.Project) {
	dir := p.UpstreamPath()
	if dir == "" || len(p.Shield.Profiles) > 0 {
		return
	}
	if names := profile.Suggest(dir); len(names) > 0 {
		a.say("its files speak for network profiles; to allow them: terok shield profiles set %s %s", p.Name, strings.Join(names, " "))
	}
}
