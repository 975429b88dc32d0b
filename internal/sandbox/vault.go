package sandbox

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// Kinds of credentials.
const (
	APIKey = "api_key" // made by a person on the provider's site
	OAuth  = "oauth"   // of a subscription; refreshed on the host
	PAT    = "pat"     // personal access token of a forge
)

// Protocols that providers serve.
const (
	AnthropicMessages = "anthropic-messages"
	OpenAIResponses   = "openai-responses"
	OpenAIChat        = "openai-chat"
)

// Forges that can be confined to repositories.
const (
	GitHub = "github"
	GitLab = "gitlab"
)

// PhantomMark stands for the phantom token in a value of Auth.Env and Auth.Files.
const PhantomMark = "{phantom}"

// JWTMark stands for the unsigned token of Auth.Claims in Auth.Files.
const JWTMark = "{jwt}"

// Vault says which credentials the task may use.
type Vault struct {
	Grants []Grant `json:"grants"`

	Limits  VaultLimits `json:"limits"`
	Budgets []string    `json:"budgets,omitempty"` // of package usage: "5 USD/task"
	Usage   string      `json:"usage,omitempty"`   // directory of the project's books; "": beside the rules
}

// VaultLimits bound what a task may ask of the vault. Zero fields are the front's defaults.
type VaultLimits struct {
	PerMinute  int   `json:"requests_per_minute,omitempty"` // to one provider; 0: any number
	Burst      int   `json:"burst,omitempty"`               // of them at once
	Concurrent int   `json:"concurrent,omitempty"`          // requests at a time
	Body       int64 `json:"body,omitempty"`                // bytes of a request
}

// Grant lets a task use one provider's credential through the transparent front. It is the
// provider as the roster had it when the container was made, with what the project says.
type Grant struct {
	Provider string            `json:"provider"` // roster name, e.g. "anthropic"
	Scope    string            `json:"scope"`    // credential scope, "shared" or "project:<name>"
	Kind     string            `json:"kind"`     // of the credential at launch; the first of the provider when there was none
	Public   map[string]string `json:"public,omitempty"`
	Waiting  bool              `json:"waiting,omitempty"` // at launch there was no credential: programs are told of none
	Auth     map[string]Auth   `json:"auth"`              // by kind of credential
	Routes   []Route           `json:"routes"`
	Serves   map[string]string `json:"serves,omitempty"` // protocol → path that it stands below
	Prices   map[string]Price  `json:"prices,omitempty"` // by model

	AltHeaders []string `json:"alt_headers,omitempty"` // further headers in which the phantom is accepted
	Query      []string `json:"query,omitempty"`       // query parameters in which the phantom is accepted

	ServerFetch bool `json:"server_fetch,omitempty"` // requests may make the provider fetch URLs

	Forge    string   `json:"forge,omitempty"`     // "github" or "gitlab": API of a forge
	Repos    []string `json:"repos,omitempty"`     // "owner/name" that may be written to
	AllRepos bool     `json:"all_repos,omitempty"` // every repository may be written to

	// Project are rules of the project (package endpoint). They can only take away from what the
	// routes' own policies allow, unless Widen.
	Project []string `json:"project,omitempty"`
	Widen   bool     `json:"widen,omitempty"`
}

// Auth is how one kind of credential of a provider is carried.
type Auth struct {
	Header string `json:"header,omitempty"`     // header that carries it; "" with InQuery
	Prefix string `json:"prefix,omitempty"`     // e.g. "Bearer "
	User   string `json:"basic_user,omitempty"` // user name of HTTP Basic; the credential is the password
	Query  string `json:"query,omitempty"`      // query parameter that carries it instead of a header

	// Set are further headers of every request and Add are words of comma lists that a request
	// has besides its own. "{public.NAME}" is replaced; a header that needs a missing one is left out.
	Set map[string]string `json:"set_headers,omitempty"`
	Add map[string]string `json:"add_headers,omitempty"`

	// Env and Files carry the phantom to programs in the container. Marks are replaced in values
	// and contents.
	Env    map[string]string `json:"env,omitempty"`
	Files  []StartFile       `json:"files,omitempty"`
	Claims string            `json:"claims,omitempty"` // JSON, payload of the unsigned token of JWTMark

	Probe Probe `json:"-"` // is only of use on the host
}

// Probe is a cheap request that only a good credential is let through. Host "" is the provider's
// first.
type Probe struct {
	Host   string
	Method string
	Path   string
}

// Route is one host through which a provider is reached. A host can belong to several providers:
// the phantom of a request says which is meant.
type Route struct {
	Host         string `json:"host"`                    // the name that the container connects to
	Port         uint16 `json:"port"`                    // usually 443
	Upstream     string `json:"upstream,omitempty"`      // URL to send to instead of https://host:port
	CAFile       string `json:"ca_file,omitempty"`       // further roots for the upstream, PEM
	AllowPrivate bool   `json:"allow_private,omitempty"` // upstream may resolve into private ranges

	Policy  []string `json:"policy"`            // rules of package endpoint
	Default string   `json:"default,omitempty"` // "allow" or "deny", which is also ""

	Git *GitHost `json:"git,omitempty"` // it serves repositories too, under the same rules

	RedirectHosts []string  `json:"redirect_hosts,omitempty"` // redirects to these hosts are shown to the container
	Exchange      *Exchange `json:"exchange,omitempty"`       // what "substitute" endpoints of this host answer
}

// GitHost says how a forge's git server takes the credential of its API: as the password of HTTP
// Basic.
type GitHost struct {
	User string `json:"user"` // the name beside it, e.g. "oauth2"
}

// Price is what a million tokens of a model cost, in US dollars.
type Price struct {
	Input      float64 `json:"input" yaml:"input"`
	Output     float64 `json:"output" yaml:"output"`
	CacheRead  float64 `json:"cache_read,omitempty" yaml:"cache_read"`   // input from a cache; 0: like Input
	CacheWrite float64 `json:"cache_write,omitempty" yaml:"cache_write"` // input into a cache; 0: like Input
	CacheLong  float64 `json:"cache_long,omitempty" yaml:"cache_long"`   // into one that holds for an hour; 0: like CacheWrite
}

// Exchange is the answer of an endpoint that trades the credential for another one: a JSON object
// with the secret in a member. The container gets a phantom in its place.
type Exchange struct {
	Field   string   `json:"field"`             // member that holds the secret
	Expires string   `json:"expires,omitempty"` // member that holds its end in seconds since 1970; "": none
	Hosts   []string `json:"hosts"`             // routed hosts where the new phantom is good; "*.example.com" is any below
}

// Held says that the vault has a credential for a provider of the task, as far as the container may
// know.
type Held struct {
	Provider string            `json:"provider"`
	Kind     string            `json:"kind"`
	Public   map[string]string `json:"public,omitempty"`
}

// Held is what the launch knew of the grant's credential; false when there was none.
func (g *Grant) Held() (Held, bool) {
	return Held{g.Provider, g.Kind, g.Public}, !g.Waiting
}

// Token is the phantom of one provider and where programs in the container look for it.
type Token struct {
	Provider string          `json:"provider"`
	Phantom  string          `json:"phantom"`
	Auth     map[string]Auth `json:"auth"` // by kind of credential: Env, Files and Claims only
}

// Token is what the guest gets of a grant.
func (g *Grant) Token(phantom string) Token {
	t := Token{Provider: g.Provider, Phantom: phantom, Auth: make(map[string]Auth, len(g.Auth))}
	for kind, a := range g.Auth {
		t.Auth[kind] = Auth{Env: a.Env, Files: a.Files, Claims: a.Claims}
	}
	return t
}

// Place returns what programs get of a token while the vault has such a credential: variables and
// files. A kind that the token does not know gets nothing.
func (t *Token) Place(h Held) (env map[string]string, files []StartFile) {
	a := t.Auth[h.Kind]
	env = make(map[string]string, len(a.Env))
	for k, v := range a.Env {
		env[k] = strings.ReplaceAll(v, PhantomMark, t.Phantom)
	}
	if len(a.Files) == 0 {
		return env, nil
	}
	marks := []string{PhantomMark, t.Phantom}
	for _, name := range slices.Sorted(maps.Keys(h.Public)) {
		marks = append(marks, "{public."+name+"}", quoted(h.Public[name]))
	}
	claims := strings.NewReplacer(marks...).Replace(a.Claims)
	marks = append(marks, JWTMark, unsigned(dropMarks(claims)))
	r := strings.NewReplacer(marks...)
	for _, f := range a.Files {
		f.Content = dropMarks(r.Replace(f.Content))
		files = append(files, f)
	}
	return env, files
}

// dropMarks removes the marks of public data that the credential does not have.
func dropMarks(s string) string {
	for {
		i := strings.Index(s, "{public.")
		if i < 0 {
			return s
		}
		n := strings.IndexByte(s[i:], '}')
		if n < 0 {
			return s
		}
		s = s[:i] + s[i+n+1:]
	}
}

// quoted writes s as the inside of a JSON string.
func quoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil { // strings always encode
		return ""
	}
	return string(b[1 : len(b)-1])
}

// unsigned makes a token in the shape of a JWT that nobody signed (RFC 7515, "alg": "none"), for
// programs that read claims from theirs.
func unsigned(claims string) string {
	e := base64.RawURLEncoding
	return e.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`)) + "." + e.EncodeToString([]byte(claims)) + "." + e.EncodeToString([]byte("terok"))
}

// Expand replaces the marks of public data in the value of a header. It is false when the value
// needs one that there is not.
func Expand(value string, public map[string]string) (string, bool) {
	for {
		i := strings.Index(value, "{public.")
		if i < 0 {
			return value, true
		}
		n := strings.IndexByte(value[i:], '}')
		if n < 0 {
			return "", false
		}
		v := public[value[i+len("{public."):i+n]]
		if v == "" || strings.Contains(v, "{public.") {
			return "", false
		}
		value = value[:i] + v + value[i+n+1:]
	}
}
