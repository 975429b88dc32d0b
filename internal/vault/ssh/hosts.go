package ssh

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// HostPin is a known host key of a server.
type HostPin struct {
	Server
	Type   string // ssh-ed25519, …
	Key    []byte // wire format
	Source string // builtin, user or tofu
}

// forges are the published ed25519 host keys of large forges. Their fingerprints, which the
// forges document, are held by a test.
var forges = map[string]string{
	"github.com":    "AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
	"gitlab.com":    "AAAAC3NzaC1lZDI1NTE5AAAAIAfuCHKVTjquxvt6CM6tdG4SLp1Btn/nOeHHE5UOzRdf",
	"bitbucket.org": "AAAAC3NzaC1lZDI1NTE5AAAAIIazEu89wgQZ4bqs3d63QSMzYVa0MuJ2e2gKTKqu+UUO",
	"codeberg.org":  "AAAAC3NzaC1lZDI1NTE5AAAAIIVIC02vnjFyL+I4RHfvIGNtOgJMe769VTF1VR4EB3ZB",
}

// BuiltinPins are the host keys that terok ships for a server; nil for one it does not know.
func BuiltinPins(s Server) []HostPin {
	text, ok := forges[s.Host]
	if !ok || s.Port != 22 {
		return nil
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		return nil
	}
	return []HostPin{{Server: s, Type: TypeOf(key), Key: key, Source: "builtin"}}
}

// Forges are the servers that BuiltinPins knows, by name.
func Forges() []Server {
	var list []Server
	for _, host := range slices.Sorted(maps.Keys(forges)) {
		list = append(list, Server{host, 22})
	}
	return list
}

// KnownName is how known_hosts calls a server.
func KnownName(s Server) string {
	if s.Port == 22 {
		return s.Host
	}
	return "[" + s.Host + "]:" + strconv.Itoa(s.Port)
}

// KnownHosts writes pins as a known_hosts file (sshd(8)).
func KnownHosts(pins []HostPin) string {
	var b strings.Builder
	for _, p := range pins {
		fmt.Fprintf(&b, "%s %s\n", KnownName(p.Server), PublicLine(p.Key, ""))
	}
	return b.String()
}

// ServerOfURL is the server and login name of an ssh upstream: ssh://user@host:port/path or
// user@host:path. ok is false for every other upstream.
func ServerOfURL(upstream string) (s Server, user string, ok bool) {
	rest, isURL := strings.CutPrefix(upstream, "ssh://")
	var authority string
	switch {
	case isURL:
		authority, _, _ = strings.Cut(rest, "/")
	case strings.Contains(upstream, "://"):
		return Server{}, "", false
	default:
		if strings.HasPrefix(upstream, "/") {
			return Server{}, "", false
		}
		at := strings.Index(upstream, ":")
		if end := strings.Index(upstream, "]:"); end > 0 {
			at = end + 1
		}
		if at < 0 {
			return Server{}, "", false
		}
		authority = upstream[:at]
	}
	if u, host, has := strings.Cut(authority, "@"); has {
		user, authority = u, host
	}
	s = Server{Host: strings.ToLower(strings.Trim(authority, "[]")), Port: 22}
	if host, port, err := net.SplitHostPort(authority); err == nil && isURL {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return Server{}, "", false
		}
		s = Server{strings.ToLower(host), int(n)}
	}
	return s, user, plainHost(s.Host)
}
