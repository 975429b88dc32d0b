package store

import (
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"terok/internal/problem"
	"terok/internal/text"
	"terok/internal/vault/ssh"
)

// Upstream is where a project's code comes from and goes to: an absolute path, or a file://,
// https:// or ssh:// URL, or git's short ssh form user@host:path.
type Upstream struct {
	URL      string // as git gets it; never holds a password; "" for none
	Protocol string // file, https or ssh
}

// String is the URL for messages: whatever stands before the host is masked.
func (u Upstream) String() string { return text.Line(MaskURL(u.URL), 200) }

// MaskURL hides user name and password of a URL; other texts are returned as they are.
func MaskURL(u string) string {
	scheme, rest, ok := strings.Cut(u, "://")
	if !ok {
		return u
	}
	host, path, _ := strings.Cut(rest, "/")
	at := strings.LastIndexByte(host, '@')
	if at < 0 || scheme == "ssh" && !strings.Contains(host[:at], ":") {
		return u // the user of ssh is no secret
	}
	return scheme + "://***@" + host[at+1:] + "/" + path
}

// Local is the directory of a local upstream, "" for a remote one.
func (u Upstream) Local() string {
	if u.Protocol != "file" {
		return ""
	}
	return strings.TrimPrefix(u.URL, "file://")
}

// Server is the host and the port of a remote upstream, "" for a local one.
func (u Upstream) Server() (host, port string) {
	switch u.Protocol {
	case "https":
		if parsed, err := url.Parse(u.URL); err == nil {
			if host, port = parsed.Hostname(), parsed.Port(); port == "" {
				port = "443"
			}
		}
	case "ssh":
		if s, _, ok := ssh.ServerOfURL(u.URL); ok {
			host, port = s.Host, strconv.Itoa(s.Port)
		}
	}
	return strings.ToLower(host), port
}

// protocols is what git may use to reach u, and nothing else.
func (u Upstream) protocols() []string {
	if u.URL == "" {
		return nil
	}
	return []string{u.Protocol}
}

var (
	remoteHelper = regexp.MustCompile(`^[A-Za-z0-9.+-]*::`)
	// The host has two characters or more, so that C:\x is none, and begins with a letter, digit
	// or bracket, so that ssh never takes it for an option.
	scpForm = regexp.MustCompile(`^(?:[A-Za-z0-9._][A-Za-z0-9._-]*@)?[A-Za-z0-9\[][A-Za-z0-9._:\]-]+:[^-:]`)
)

// ParseUpstream judges the text of an upstream. Remote helpers (ext::, fd::), options, control
// characters, unencrypted network protocols and passwords are refused: the text ends as an
// argument of git, in process lists and in messages. The empty text is no upstream.
func ParseUpstream(text string) (Upstream, error) {
	bad := func(why, hint string) (Upstream, error) {
		return Upstream{}, problem.New("bad_upstream", problem.Usage, "this upstream cannot be used: %s", why).WithHint("%s", hint)
	}
	const forms = "use /path, https://host/path, ssh://user@host/path or user@host:path"
	switch {
	case text == "":
		return Upstream{}, nil
	case len(text) > 2048:
		return bad("it is longer than 2048 bytes", forms)
	case strings.ContainsFunc(text, func(r rune) bool { return r <= 0x20 && r != ' ' || r == 0x7f }):
		return bad("it contains control characters", forms)
	case text[0] == '-':
		return bad("it begins with a dash", forms)
	case remoteHelper.MatchString(text):
		return bad("it names a remote helper", forms)
	case filepath.IsAbs(text):
		return Upstream{URL: filepath.Clean(text), Protocol: "file"}, nil
	}
	if scheme, _, ok := strings.Cut(text, "://"); ok {
		u, err := url.Parse(text)
		if err != nil {
			return bad("it is not a URL", forms)
		}
		if _, has := u.User.Password(); has {
			return bad("it contains a password", "leave the password out; it would be visible to every process")
		}
		if scheme == "https" && u.User != nil {
			return bad("it contains a user name, which may be a token", "store the token with terok auth and leave it out of the URL")
		}
		switch scheme {
		case "file":
			if u.Host != "" || !filepath.IsAbs(u.Path) {
				return bad("file:// needs an absolute path", forms)
			}
			return Upstream{URL: filepath.Clean(u.Path), Protocol: "file"}, nil
		case "https", "ssh":
			if u.Hostname() == "" || u.Hostname()[0] == '-' || strings.HasPrefix(u.User.Username(), "-") || u.Path == "" {
				return bad("host or path is missing or begins with a dash", forms)
			}
			return Upstream{URL: text, Protocol: scheme}, nil
		}
		return bad("its protocol is not file, https or ssh", forms)
	}
	if scpForm.MatchString(text) && !strings.Contains(strings.SplitN(text, ":", 2)[0], "/") {
		return Upstream{URL: text, Protocol: "ssh"}, nil
	}
	return bad("it is neither an absolute path nor a URL", forms)
}
