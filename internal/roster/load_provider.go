package roster

import (
	"fmt"
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
)

// providerFile is providers/NAME.yml. Keys that it does not set keep the built-in entry's values,
// so that three lines send a known provider to another endpoint:
//
//	upstream: https://llm.example.org:8443
//	ca_file: ca.pem          # further roots, PEM; relative to this file
//	allow_private: true      # the upstream may be in a private range or on this host
type providerFile struct {
	Title        string            `yaml:"title"`
	Host         string            `yaml:"host"` // the name that the container connects to
	Port         int               `yaml:"port"`
	Upstream     string            `yaml:"upstream"`
	CAFile       string            `yaml:"ca_file"`
	AllowPrivate bool              `yaml:"allow_private"`
	Header       string            `yaml:"header"`
	Prefix       string            `yaml:"prefix"`
	AltHeaders   []string          `yaml:"alt_headers"`
	DenyPaths    []string          `yaml:"deny_paths"`
	AllowPaths   []string          `yaml:"allow_paths"`
	Env          map[string]string `yaml:"env"`
	KeyURL       string            `yaml:"key_url"`
}

var hostName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
})

// framing are headers that say where a request goes or ends; a credential in one would let the
// vault's front be talked into another request than the one it judged.
var framing = []string{"host", "connection", "content-length", "transfer-encoding", "upgrade", "te", "trailer", "content-type", "expect"}

// Validate implements config.Validator.
func (f *providerFile) Validate() []config.FieldError {
	var errs []config.FieldError
	bad := func(path, format string, args ...any) {
		errs = append(errs, config.FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	if _, err := netip.ParseAddr(f.Host); err == nil || len(f.Host) > 253 || !hostName().MatchString(f.Host) {
		bad("host", "must be a lower-case host name with a dot: the container's connections are judged by name")
	}
	if f.Port < 1 || f.Port > 65535 {
		bad("port", "must be from 1 to 65535")
	}
	if f.Upstream != "" {
		u, err := url.Parse(f.Upstream)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Opaque != "" {
			bad("upstream", "must be a URL https://HOST[:PORT][/PATH]: the credential is never sent in the clear")
		}
	}
	for path, h := range f.headers() {
		if !headerName.MatchString(h) || slices.Contains(framing, strings.ToLower(h)) {
			bad(path, "%q cannot carry a credential", h)
		}
	}
	if strings.ContainsAny(f.Prefix, "\r\n\x00") {
		bad("prefix", "must be one line")
	}
	for key, list := range map[string][]string{"deny_paths": f.DenyPaths, "allow_paths": f.AllowPaths} {
		for i, p := range list {
			if !strings.HasPrefix(p, "/") {
				bad(fmt.Sprintf("%s[%d]", key, i), "must begin with /")
			}
		}
	}
	for k := range f.Env {
		if !envName.MatchString(k) {
			bad("env", "%q is not a name of an environment variable", k)
		}
	}
	return errs
}

func (f *providerFile) headers() map[string]string {
	all := map[string]string{"header": f.Header}
	for i, h := range f.AltHeaders {
		all[fmt.Sprintf("alt_headers[%d]", i)] = h
	}
	return all
}

func loadProvider(name, path string, base *Provider) (*Provider, error) {
	if err := badName(name, path); err != nil {
		return nil, err
	}
	if base == nil {
		base = &Provider{Title: name, Route: sandbox.Route{Port: 443, Header: "Authorization", Prefix: "Bearer "}}
	}
	r := base.Route
	f := providerFile{
		Title: base.Title, Host: r.Host, Port: int(r.Port), Upstream: r.Upstream, CAFile: r.CAFile, AllowPrivate: r.AllowPrivate,
		Header: r.Header, Prefix: r.Prefix, AltHeaders: r.AltHeaders, DenyPaths: r.DenyPaths, AllowPaths: r.AllowPaths,
		Env: base.Env, KeyURL: base.KeyURL,
	}
	if err := config.Load(path, &f); err != nil {
		return nil, err
	}
	return &Provider{
		Name: name, Title: f.Title, Env: f.Env, KeyURL: f.KeyURL,
		Route: sandbox.Route{
			Host: f.Host, Port: uint16(f.Port), Upstream: f.Upstream, CAFile: beside(path, f.CAFile), AllowPrivate: f.AllowPrivate,
			Header: f.Header, Prefix: f.Prefix, AltHeaders: f.AltHeaders, DenyPaths: f.DenyPaths, AllowPaths: f.AllowPaths,
		},
	}, nil
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
