package roster

import (
	"cmp"
	"encoding/json"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"terok/internal/problem"
	"terok/internal/sandbox"
)

// Wire is how an agent is pointed to a provider. In all values "{provider}", "{title}", "{host}",
// "{base}" (the URL that the protocol stands below), "{key}" (the variable that holds the phantom)
// and "{model}" are replaced.
type Wire struct {
	Providers []string // roster names that it is for
	Protocol  string   // or whoever serves this protocol; with Providers too it only says what "{base}" is
	Kinds     []string // of credentials; nil is API keys, which every client can use

	Env  map[string]string
	Home []sandbox.HomeFile
	Fill string // takes the place of "{wire}" in the agent's variables and administrative settings
	// FillModel is added to Fill when a model is known; NeedModel refuses a start without one.
	FillModel string
	NeedModel bool
}

func (w *Wire) takes(kind string) bool {
	if w.Kinds == nil {
		return kind == sandbox.APIKey
	}
	return slices.Contains(w.Kinds, kind)
}

func (w *Wire) reaches(p *Provider) bool {
	if len(w.Providers) > 0 {
		return slices.Contains(w.Providers, p.Name)
	}
	return p.Serves[w.Protocol] != ""
}

// wire is the first that leads to a provider with a kind of credential; nil when a provider of the
// agent's own list needs none. ok is false when the agent cannot use the provider so.
func (a *Agent) wire(p *Provider, kind string) (w *Wire, ok bool) {
	known := false
	for i := range a.Wires {
		w := &a.Wires[i]
		if !w.reaches(p) {
			continue
		}
		if known = true; w.takes(kind) {
			return w, true
		}
	}
	return nil, !known && slices.Contains(a.Providers, p.Name)
}

// Uses reports whether the agent can use a provider at all.
func (a *Agent) Uses(p *Provider) bool {
	return slices.ContainsFunc(p.Kinds, func(kind string) bool { _, ok := a.wire(p, kind); return ok })
}

// ProvidersFor lists the providers that an agent can use: its own in their order, then the others
// by name.
func (r *Roster) ProvidersFor(a *Agent) []*Provider {
	var list []*Provider
	for _, name := range a.Providers {
		if p := r.providers[name]; p != nil {
			list = append(list, p)
		}
	}
	for _, p := range r.Providers() {
		if !slices.Contains(a.Providers, p.Name) && a.Uses(p) {
			list = append(list, p)
		}
	}
	return list
}

// Choose finds the provider of a start: the wanted one, else the first that a credential is stored
// for, else the first, for which the vault then asks. It is nil for an agent that needs none. A
// wanted provider that the agent cannot use is a Problem that lists those it can, and is never
// replaced by another.
func (r *Roster) Choose(a *Agent, want string, stored func(provider string) (bool, error)) (*Provider, error) {
	list := r.ProvidersFor(a)
	if want != "" {
		p, err := r.Provider(want)
		if err != nil {
			return nil, err
		}
		if slices.Contains(list, p) {
			return p, nil
		}
		var names []string
		for _, q := range list {
			names = append(names, q.Name)
		}
		if len(names) == 0 {
			return nil, problem.New("provider_unused", problem.Usage, "%s needs no provider", a.Name).WithHint("leave --provider out")
		}
		return nil, problem.New("provider_incompatible", problem.Usage, "%s cannot use %s; it can use: %s", a.Name, p.Name, strings.Join(names, ", ")).
			WithHint("terok run %s --provider %s", a.Name, names[0]).With("providers", names)
	}
	for _, p := range list {
		ok, err := stored(p.Name)
		if err != nil {
			return nil, err
		}
		if ok {
			return p, nil
		}
	}
	if len(list) > 0 {
		return list[0], nil
	}
	if len(a.Providers) > 0 {
		return r.Provider(a.Providers[0]) // says what is wrong with its file
	}
	return nil, nil
}

// filler replaces the marks of a wire and of a launch.
type filler struct {
	marks *strings.Replacer
	wire  *Wire
	model string
}

// filler makes the replacer of one launch. It fails when the stored credential or the lack of a
// model rules the provider out.
func (a *Agent) filler(p *Provider, l Launch) (*filler, error) {
	f := &filler{wire: &Wire{}, model: l.Model}
	bundle := sandbox.BundleMount + "/" + a.Name
	marks := []string{"{bundle}", bundle, "{version}", l.Version, "{instructions}", quote(instructions(l))}
	if arch, _, ok := machine(runtime.GOARCH); ok {
		marks = append(marks, "{arch}", arch)
	}
	if p != nil {
		kind := l.Kind
		if _, ok := p.Auth[kind]; !ok {
			kind = p.Kinds[0]
		}
		w, ok := a.wire(p, kind)
		if !ok {
			return nil, problem.New("credential_unusable", problem.Usage, "%s cannot use what is stored for %s (%s)", a.Name, p.Name, kind).
				WithHint("terok auth %s --api-key-stdin", p.Name).With("provider", p.Name)
		}
		if w != nil {
			f.wire = w
		}
		if f.model == "" {
			f.model = cmp.Or(p.DefaultModel, a.Models[p.Name])
		}
		if f.model == "" && f.wire.NeedModel {
			return nil, problem.New("model_missing", problem.Usage, "%s with %s needs the name of a model", a.Name, p.Name).
				WithHint("terok run %s --provider %s --model NAME", a.Name, p.Name)
		}
		marks = append(marks, "{provider}", p.Name, "{title}", plain(p.Title), "{host}", p.Host(), "{base}", base(p, f.wire.Protocol), "{key}", keyVariable(p, kind))
	}
	fill := f.wire.Fill
	if f.model != "" {
		fill += f.wire.FillModel
	}
	qualified := f.model
	if p != nil && !strings.HasPrefix(f.model, p.Name+"/") {
		qualified = p.Name + "/" + f.model
	}
	marks = append(marks, "{model}", f.model, "{qualified}", qualified)
	fill = strings.NewReplacer(marks...).Replace(fill)
	f.marks = strings.NewReplacer(append(marks, "{wire}", fill)...)
	return f, nil
}

// env fills the variables of the agent, of its mode and of the wire. Marks of the container
// ("{env:NAME}") stay for the wrapper.
func (f *filler) env(sets ...map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range sets {
		for k, v := range m {
			out[k] = f.marks.Replace(v)
		}
	}
	return out
}

func (f *filler) home(lists ...[]sandbox.HomeFile) []sandbox.HomeFile {
	var out []sandbox.HomeFile
	for _, list := range lists {
		for _, h := range list {
			h.Content = f.marks.Replace(h.Content)
			out = append(out, h)
		}
	}
	return out
}

// base is the URL below which a provider serves a protocol.
func base(p *Provider, protocol string) string {
	r := p.Routes[0]
	u := "https://" + r.Host
	if r.Port != 443 {
		u += ":" + strconv.Itoa(int(r.Port))
	}
	return u + strings.TrimSuffix(p.Serves[protocol], "/")
}

// keyVariable is the variable that holds the bare phantom of a provider.
func keyVariable(p *Provider, kind string) string {
	env := p.Auth[kind].Env
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if env[k] == sandbox.PhantomMark {
			return k
		}
	}
	return ""
}

// quote writes a text as a JSON string, which TOML reads as a basic string as well.
func quote(s string) string {
	data, err := json.Marshal(s)
	if err != nil { // strings always encode
		return `""`
	}
	return strings.ReplaceAll(string(data), "\x7f", `\u007f`) // which JSON allows and TOML does not
}

// plain drops what would end a quoted string.
func plain(s string) string {
	return strings.Map(func(c rune) rune {
		if c == '"' || c == '\\' || c < ' ' {
			return -1
		}
		return c
	}, s)
}
