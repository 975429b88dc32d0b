package policy

import (
	"net/netip"
	"strings"
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

// floorRanges are never reachable, in any posture. Beside "this network", link-local, multicast
// and reserved ranges they hold every IPv6 form that carries an IPv4 address (mapped, NAT64,
// Teredo, 6to4), which would otherwise walk around the IPv4 ranges, and the metadata services
// that sit in public or private space.
var floorRanges = prefixes(
	"0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4",
	"::/128", "::ffff:0:0/96", "fe80::/10", "fec0::/10", "ff00::/8",
	"64:ff9b::/96", "64:ff9b:1::/48", "2001::/32", "2002::/16",
	"fd00:ec2::254/128",  // AWS
	"fd20:ce::254/128",   // Google
	"100.100.100.200/32", // Alibaba
	"192.0.0.192/32",     // Oracle
	"168.63.129.16/32",   // Azure
)

var privateRanges = prefixes(
	"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "192.0.0.0/24", "fc00::/7",
)

var loopbackRanges = prefixes("127.0.0.0/8", "::1/128")

// in tells whether a lies in one of the ranges. An IPv4-mapped address is compared as the IPv6
// address that it is (netip.Prefix.Contains), so the floor catches it.
func in(a netip.Addr, ranges []netip.Prefix) bool {
	a = a.WithZone("")
	for _, r := range ranges {
		if r.Contains(a) {
			return true
		}
	}
	return false
}

// within tells whether p lies wholly inside one of the ranges.
func within(p netip.Prefix, ranges []netip.Prefix) bool {
	for _, r := range ranges {
		if r.Bits() <= p.Bits() && r.Contains(p.Addr()) {
			return true
		}
	}
	return false
}

// localSuffixes and metadataNames are NXDOMAIN without a prompt: they mean something on the
// operator's network or machine and nothing on the internet, and asking upstream for them would
// tell the container about the host.
var localSuffixes = []string{"local", "internal", "home.arpa", "invalid", "onion", "localhost"}

var metadataNames = map[string]bool{
	"metadata.goog":                true,
	"metadata.packet.net":          true,
	"metadata.platformequinix.com": true,
	"metadata.tencentyun.com":      true,
}

// localName tells whether a name is dotless, under a local domain, or a metadata service.
func localName(name string) bool {
	dot := strings.LastIndexByte(name, '.')
	if dot < 0 || metadataNames[name] {
		return true
	}
	for _, s := range localSuffixes {
		if rest, ok := strings.CutSuffix(name, s); ok && (rest == "" || rest[len(rest)-1] == '.') {
			return true
		}
	}
	return false
}

// hostingSuffixes are registrable by anybody although they have more than one label. The full
// public suffix list is not in the standard library; this holds the rules of thumb that matter
// for a warning, and a wildcard below a missing one is only as wide as its author wrote it.
var hostingSuffixes = map[string]bool{
	"github.io": true, "gitlab.io": true, "pages.dev": true, "workers.dev": true, "r2.dev": true,
	"vercel.app": true, "netlify.app": true, "herokuapp.com": true, "web.app": true,
	"firebaseapp.com": true, "appspot.com": true, "run.app": true, "a.run.app": true,
	"googleusercontent.com": true, "storage.googleapis.com": true, "cloudfront.net": true,
	"amazonaws.com": true, "s3.amazonaws.com": true, "elasticbeanstalk.com": true,
	"azurewebsites.net": true, "blob.core.windows.net": true, "cloudapp.net": true,
	"azureedge.net": true, "fly.dev": true, "onrender.com": true, "deno.dev": true,
	"supabase.co": true, "glitch.me": true, "replit.dev": true, "repl.co": true, "surge.sh": true,
	"ngrok.io": true, "ngrok.app": true, "ngrok-free.app": true, "trycloudflare.com": true,
	"loca.lt": true, "nip.io": true, "sslip.io": true, "duckdns.org": true, "blogspot.com": true,
	"readthedocs.io": true, "hf.space": true, "streamlit.app": true, "codeberg.page": true,
}

// secondLevel are the labels under which country domains sell names.
var secondLevel = map[string]bool{
	"ac": true, "co": true, "com": true, "edu": true, "gob": true, "gov": true, "govt": true,
	"go": true, "ltd": true, "me": true, "mil": true, "ne": true, "net": true, "nom": true,
	"or": true, "org": true, "plc": true, "sch": true,
}

// publicSuffix tells whether names directly below s belong to different owners.
func publicSuffix(s string) bool {
	first, rest, ok := strings.Cut(s, ".")
	if !ok || hostingSuffixes[s] {
		return true
	}
	return len(rest) == 2 && secondLevel[first]
}

// Hosted tells whether a name lies below a suffix under which anybody can publish, such as
// "x.github.io": what an allow of it reaches is not the suffix's owner's content.
func Hosted(name string) bool {
	for ok := true; ok; {
		if hostingSuffixes[name] {
			return true
		}
		_, name, ok = strings.Cut(name, ".")
	}
	return false
}

// PrivateAddr tells whether an address is in a private range or on the host's loopback.
func PrivateAddr(a netip.Addr) bool { return in(a, privateRanges) || in(a, loopbackRanges) }

// FloorAddr tells whether an address is one that no rule and no setting opens.
func FloorAddr(a netip.Addr) bool { return in(a, floorRanges) }
