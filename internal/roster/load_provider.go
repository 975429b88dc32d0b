package roster

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"terok/internal/config"
	"terok/internal/sandbox"
	"terok/internal/vault/endpoint"
	"terok/internal/vault/oauth"
	"terok/internal/vault/usage"
)

// providerFile is providers/NAME.yml. Keys that it does not set keep the built-in entry's values,
// so that three lines send a known provider to another endpoint:
//
//	upstream: https://llm.example.org:8443
//	ca_file: ca.pem          # further roots, PEM; relative to this file
//	allow_private: true      # the upstream may be in a private range or on this host
//
// The keys of a route stand at the top for the main host and below routes for further ones.
type providerFile struct {
	Title         string               `yaml:"title"`
	Host          string               `yaml:"host"`
	Main          routeFile            `yaml:",inline"`
	Routes        map[string]routeFile `yaml:"routes"` // by host
	Auth          authFiles            `yaml:"auth"`
	OAuthRefresh  *refreshFile         `yaml:"oauth_refresh"`
	SignIn        *signInFile          `yaml:"sign_in"`
	Serves        servesFile           `yaml:"serves"`
	AltHeaders    []string             `yaml:"alt_headers"`
	Query         []string             `yaml:"query"`
	Forge         string               `yaml:"forge" oneof:"github gitlab none"`
	SharedDomain  bool                 `yaml:"shared_domain"`
	DefaultModel  string               `yaml:"default_model"`
	FallbackModel string               `yaml:"fallback_model"`
	KeyURL        string               `yaml:"key_url"`
	// Prices are those of models, in dollars per million tokens; they are laid over the known ones.
	Prices map[string]sandbox.Price `yaml:"prices"`
}

// routeFile is one host.
type routeFile struct {
	Port         int      `yaml:"port"`
	Upstream     string   `yaml:"upstream"`
	CAFile       string   `yaml:"ca_file"`
	AllowPrivate bool     `yaml:"allow_private"`
	Policy       []string `yaml:"policy"`
	Default      string   `yaml:"default" oneof:"allow deny"`

	RedirectHosts []string      `yaml:"redirect_hosts"`
	Exchange      *exchangeFile `yaml:"exchange"`
}

// exchangeFile is the answer of the endpoints that "substitute" rules name.
type exchangeFile struct {
	Field   string   `yaml:"field"`
	Expires string   `yaml:"expires"`
	Hosts   []string `yaml:"hosts"`
}

type authFiles struct {
	APIKey *authFile `yaml:"api_key"`
	OAuth  *authFile `yaml:"oauth"`
	PAT    *authFile `yaml:"pat"`
}

// authFile is how one kind of credential is carried.
type authFile struct {
	Header    string            `yaml:"header"`
	Prefix    string            `yaml:"prefix"`
	BasicUser string            `yaml:"basic_user"`
	Query     string            `yaml:"query"`
	Set       map[string]string `yaml:"set_headers"`
	Add       map[string]string `yaml:"add_headers"`
	Env       map[string]string `yaml:"env"`
	Files     []phantomFile     `yaml:"files"`
	Claims    string            `yaml:"claims"`
	Probe     probeFile         `yaml:"probe"`
}

type phantomFile struct {
	Path    string `yaml:"path"` // relative to the home directory
	Content string `yaml:"content"`
}

type probeFile struct {
	Host   string `yaml:"host"`
	Method string `yaml:"method" oneof:"GET POST HEAD"`
	Path   string `yaml:"path"`
}

type refreshFile struct {
	TokenURL     string `yaml:"token_url"`
	ClientID     string `yaml:"client_id"`
	Scope        string `yaml:"scope"`
	Form         bool   `yaml:"form"`
	DeviceURL    string `yaml:"device_url"`
	AuthorizeURL string `yaml:"authorize_url"`
	RevokeURL    string `yaml:"revoke_url"`
	Issuer       string `yaml:"issuer"`
	CAFile       string `yaml:"ca_file"`
	AllowPrivate bool   `yaml:"allow_private"`
}

type signInFile struct {
	Agent   string   `yaml:"agent"`
	Command []string `yaml:"command"`
	Device  []string `yaml:"device"`
	Hosts   []string `yaml:"hosts"`
	File    string   `yaml:"file"`
	Format  string   `yaml:"format" oneof:"claude codex gh glab env key"`
	Name    string   `yaml:"name"`
	Hint    string   `yaml:"hint"`
}

type servesFile struct {
	AnthropicMessages string `yaml:"anthropic-messages"`
	OpenAIResponses   string `yaml:"openai-responses"`
	OpenAIChat        string `yaml:"openai-chat"`
}

// home is the home directory of the container's user.
const home = "/home/dev/"

var hostName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
})

// framing are headers that say where a request goes or ends; a credential in one would let the
// vault's front be talked into another request than the one it judged.
var framing = []string{"host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "content-type", "expect",
	"content-encoding", "keep-alive", "proxy-connection"}

// faults gathers what is wrong in a file.
type faults []config.FieldError

func (f *faults) add(path, format string, args ...any) {
	*f = append(*f, config.FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
}

// Validate implements config.Validator.
func (f *providerFile) Validate() []config.FieldError {
	var bad faults
	bad.host("host", f.Host)
	f.Main.check(&bad, "")
	for _, host := range slices.Sorted(maps.Keys(f.Routes)) {
		bad.host("routes."+host, host)
		if host == f.Host {
			bad.add("routes."+host, "is the main host, whose keys stand at the top")
		}
		r := f.Routes[host]
		r.check(&bad, "routes."+host+".")
	}
	for kind, a := range f.Auth.all() {
		a.check(&bad, "auth."+kind+".")
	}
	if len(f.Auth.all()) == 0 {
		bad.add("auth", "at least one kind of credential is needed: api_key, oauth or pat")
	}
	if r := f.OAuthRefresh; r != nil {
		if r.TokenURL == "" {
			bad.add("oauth_refresh", "needs token_url")
		}
		for key, u := range map[string]string{"token_url": r.TokenURL, "device_url": r.DeviceURL, "authorize_url": r.AuthorizeURL, "revoke_url": r.RevokeURL} {
			bad.url("oauth_refresh."+key, u)
		}
	}
	if s := f.SignIn; s != nil {
		if len(s.Command) == 0 || len(s.Hosts) == 0 || s.Format == "" {
			bad.add("sign_in", "needs command, hosts, file and format")
		}
		if dir := filepath.Dir(s.File); !filepath.IsLocal(s.File) || dir == "." {
			bad.add("sign_in.file", "must be below a directory of the home directory, such as .demo/auth.json")
		}
	}
	for key, path := range f.Serves.paths() {
		if !strings.HasPrefix(path, "/") {
			bad.add("serves."+key, "must begin with /")
		}
	}
	for i, h := range f.AltHeaders {
		bad.header(fmt.Sprintf("alt_headers[%d]", i), h)
	}
	for i, q := range f.Query {
		bad.param(fmt.Sprintf("query[%d]", i), q)
	}
	for _, model := range slices.Sorted(maps.Keys(f.Prices)) {
		if err := usage.CheckPrice(f.Prices[model]); err != nil {
			bad.add("prices."+model, "%v", err)
		}
	}
	return bad
}

// Moved implements config.Mover.
func (*providerFile) Moved() map[string]string {
	return map[string]string{
		"header":      "write auth: {api_key: {header: …}}",
		"prefix":      "write auth: {api_key: {prefix: …}}",
		"env":         "write auth: {api_key: {env: …}}",
		"deny_paths":  "write policy: [deny /path/**]",
		"allow_paths": "write policy: [allow /path/**] and default: deny",
	}
}

func (bad *faults) host(path, host string) {
	if _, err := netip.ParseAddr(host); err == nil || len(host) > 253 || !hostName().MatchString(host) {
		bad.add(path, "must be a lower-case host name with a dot: the container's connections are judged by name")
	}
}

func (bad *faults) url(path, s string) {
	if s == "" {
		return
	}
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
		bad.add(path, "must be a URL https://HOST[:PORT][/PATH]: the credential is never sent in the clear")
	}
}

func (bad *faults) header(path, h string) {
	if !headerName.MatchString(h) || slices.Contains(framing, strings.ToLower(h)) {
		bad.add(path, "%q cannot carry a credential", h)
	}
}

var paramName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]{0,63}$`) })

func (bad *faults) param(path, q string) {
	if !paramName().MatchString(q) {
		bad.add(path, "%q is not the name of a query parameter", q)
	}
}

func (r *routeFile) check(bad *faults, at string) {
	if r.Port < 0 || r.Port > 65535 {
		bad.add(at+"port", "must be from 1 to 65535")
	}
	bad.url(at+"upstream", r.Upstream)
	for i, line := range r.Policy {
		if _, err := endpoint.ParseRule(line); err != nil {
			bad.add(fmt.Sprintf("%spolicy[%d]", at, i), "%v", err)
		}
	}
	for i, h := range r.RedirectHosts {
		bad.host(fmt.Sprintf("%sredirect_hosts[%d]", at, i), h)
	}
	if e := r.Exchange; e != nil {
		if e.Field == "" || len(e.Hosts) == 0 {
			bad.add(at+"exchange", "needs field and hosts")
		}
		for i, h := range e.Hosts {
			bad.host(fmt.Sprintf("%sexchange.hosts[%d]", at, i), strings.TrimPrefix(h, "*."))
		}
	}
	if len(r.Policy) > endpoint.MaxRules {
		bad.add(at+"policy", "at most %d rules are taken", endpoint.MaxRules)
	}
}

func (a *authFile) check(bad *faults, at string) {
	switch {
	case a.Query != "" && (a.Header != "" || a.Prefix != "" || a.BasicUser != ""):
		bad.add(at+"query", "is instead of header, prefix and basic_user")
	case a.Query != "":
		bad.param(at+"query", a.Query)
	case a.Header != "":
		bad.header(at+"header", a.Header)
	}
	if a.BasicUser != "" && (a.Prefix != "" || strings.ContainsAny(a.BasicUser, ":\r\n\x00")) {
		bad.add(at+"basic_user", "must be without a colon, and without prefix")
	}
	if strings.ContainsAny(a.Prefix, "\r\n\x00") {
		bad.add(at+"prefix", "must be one line")
	}
	for key, list := range map[string]map[string]string{"set_headers": a.Set, "add_headers": a.Add} {
		for h, v := range list {
			bad.header(at+key, h)
			if strings.ContainsAny(v, "\r\n\x00") {
				bad.add(at+key, "%s must be one line", h)
			}
		}
	}
	for k := range a.Env {
		if !envName.MatchString(k) {
			bad.add(at+"env", "%q is not a name of an environment variable", k)
		}
	}
	for i, f := range a.Files {
		if !filepath.IsLocal(f.Path) {
			bad.add(fmt.Sprintf("%sfiles[%d].path", at, i), "must be relative to the home directory and stay in it")
		}
	}
	if p := a.Probe; p != (probeFile{}) && !strings.HasPrefix(p.Path, "/") {
		bad.add(at+"probe.path", "must begin with /")
	}
}

func (a *authFiles) all() map[string]*authFile {
	m := map[string]*authFile{}
	for kind, f := range map[string]*authFile{sandbox.APIKey: a.APIKey, sandbox.OAuth: a.OAuth, sandbox.PAT: a.PAT} {
		if f != nil {
			m[kind] = f
		}
	}
	return m
}

func (s *servesFile) paths() map[string]string {
	m := map[string]string{}
	for protocol, path := range map[string]string{sandbox.AnthropicMessages: s.AnthropicMessages,
		sandbox.OpenAIResponses: s.OpenAIResponses, sandbox.OpenAIChat: s.OpenAIChat} {
		if path != "" {
			m[protocol] = path
		}
	}
	return m
}

func loadProvider(name, path string, base *Provider) (*Provider, error) {
	if err := badName(name, path); err != nil {
		return nil, err
	}
	if base == nil {
		base = &Provider{Title: name, Routes: []sandbox.Route{{Port: 443, Default: "allow"}}, Kinds: []string{sandbox.APIKey},
			Auth: map[string]sandbox.Auth{sandbox.APIKey: {}}}
	}
	f := base.file()
	if err := config.Load(path, f); err != nil {
		return nil, err
	}
	return f.provider(name, path, base), nil
}

// file is the entry as a file would say it.
func (p *Provider) file() *providerFile {
	main := p.Routes[0]
	f := &providerFile{
		Title: p.Title, Host: main.Host,
		Main: routeFile{Port: int(main.Port), Upstream: main.Upstream, CAFile: main.CAFile, AllowPrivate: main.AllowPrivate,
			Policy: main.Policy, Default: main.Default, RedirectHosts: main.RedirectHosts, Exchange: (*exchangeFile)(main.Exchange)},
		Serves:     servesFile{p.Serves[sandbox.AnthropicMessages], p.Serves[sandbox.OpenAIResponses], p.Serves[sandbox.OpenAIChat]},
		AltHeaders: p.AltHeaders, Query: p.Query, Forge: p.Forge, SharedDomain: p.SharedDomain,
		DefaultModel: p.DefaultModel, FallbackModel: p.FallbackModel, KeyURL: p.KeyURL,
	}
	for kind, into := range map[string]**authFile{sandbox.APIKey: &f.Auth.APIKey, sandbox.OAuth: &f.Auth.OAuth, sandbox.PAT: &f.Auth.PAT} {
		a, ok := p.Auth[kind]
		if !ok {
			continue
		}
		*into = &authFile{Header: a.Header, Prefix: a.Prefix, BasicUser: a.User, Query: a.Query, Set: a.Set, Add: a.Add, Env: a.Env,
			Claims: a.Claims, Probe: probeFile(a.Probe)}
		for _, file := range a.Files {
			(*into).Files = append((*into).Files, phantomFile{strings.TrimPrefix(file.Path, home), file.Content})
		}
	}
	if r := p.Refresh; r != nil {
		rf := refreshFile(*r)
		f.OAuthRefresh = &rf
	}
	if s := p.SignIn; s != nil {
		sf := signInFile(*s)
		f.SignIn = &sf
	}
	return f
}

// provider turns a file that was laid over base into the entry.
func (f *providerFile) provider(name, path string, base *Provider) *Provider {
	p := &Provider{
		Name: name, Title: f.Title, Auth: map[string]sandbox.Auth{}, Serves: f.Serves.paths(), KeyURL: f.KeyURL,
		AltHeaders: f.AltHeaders, Query: f.Query, Forge: f.Forge, SharedDomain: f.SharedDomain,
		DefaultModel: f.DefaultModel, FallbackModel: f.FallbackModel,
	}
	if p.Forge == "none" {
		p.Forge = ""
	}
	p.Prices = maps.Clone(base.Prices)
	if p.Prices == nil {
		p.Prices = usage.Prices{}
	}
	maps.Copy(p.Prices, f.Prices)
	p.Routes = append(p.Routes, f.Main.over(sandbox.Route{Host: f.Host, Port: 443}, path))
	p.Routes[0].AllowPrivate = f.Main.AllowPrivate
	for _, r := range base.Routes[1:] {
		if over, ok := f.Routes[r.Host]; ok {
			r = over.over(r, path)
		}
		p.Routes = append(p.Routes, r)
	}
	for _, host := range slices.Sorted(maps.Keys(f.Routes)) {
		if !slices.Contains(p.Hosts(), host) {
			r := f.Routes[host]
			p.Routes = append(p.Routes, r.over(sandbox.Route{Host: host, Port: 443}, path))
		}
	}
	for kind, a := range f.Auth.all() {
		if a.Header == "" && a.Query == "" {
			a.Header = "Authorization"
			if a.Prefix == "" && a.BasicUser == "" {
				a.Prefix = "Bearer "
			}
		}
		auth := sandbox.Auth{Header: a.Header, Prefix: a.Prefix, User: a.BasicUser, Query: a.Query, Set: a.Set, Add: a.Add, Env: a.Env,
			Claims: a.Claims, Probe: sandbox.Probe(a.Probe)}
		for _, file := range a.Files {
			auth.Files = append(auth.Files, sandbox.StartFile{Path: home + file.Path, Mode: 0o400, Content: file.Content})
		}
		p.Auth[kind] = auth
	}
	for _, kind := range append(slices.Clone(base.Kinds), sandbox.APIKey, sandbox.PAT, sandbox.OAuth) {
		if _, ok := p.Auth[kind]; ok && !slices.Contains(p.Kinds, kind) {
			p.Kinds = append(p.Kinds, kind)
		}
	}
	if f.OAuthRefresh != nil {
		r := oauth.Endpoint(*f.OAuthRefresh)
		r.CAFile = beside(path, r.CAFile)
		p.Refresh = &r
	}
	if f.SignIn != nil {
		s := SignIn(*f.SignIn)
		p.SignIn = &s
	}
	if base != nil {
		p.Prefixes = base.Prefixes
	}
	return p
}

// over lays what the file says of a route over it.
func (r routeFile) over(base sandbox.Route, path string) sandbox.Route {
	if r.Port != 0 {
		base.Port = uint16(r.Port)
	}
	if r.Upstream != "" {
		base.Upstream = r.Upstream
	}
	if r.CAFile != "" {
		base.CAFile = beside(path, r.CAFile)
	}
	base.AllowPrivate = base.AllowPrivate || r.AllowPrivate
	if r.Policy != nil {
		base.Policy = r.Policy
	}
	if r.Default != "" {
		base.Default = r.Default
	}
	if r.RedirectHosts != nil {
		base.RedirectHosts = r.RedirectHosts
	}
	if r.Exchange != nil {
		base.Exchange = (*sandbox.Exchange)(r.Exchange)
	}
	return base
}

// beside makes a path of a configuration file absolute: "~/" is the home directory, a relative
// one begins at the file. "" stays "".
func beside(file, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	if rest, ok := strings.CutPrefix(path, "~/"); ok {
		if home, err := os.UserHomeDir(); err == nil {
			return filepath.Join(home, rest)
		}
	}
	return filepath.Join(filepath.Dir(file), path)
}
