package profile

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"terok/internal/shield/policy"
)

func own(t *testing.T, files map[string]string) Library {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Library{Dir: dir}
}

// TestBundled: every profile of the specification is there, whole, with a title and with notes.
func TestBundled(t *testing.T) {
	l := Library{}
	names, err := l.Names()
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"base", "containers", "dev-node", "dev-python", "dev-standard", "gists", "git-hosting", "go", "krun_guest",
		"node", "nvidia-hpc", "os-packages", "python", "recommended", "rust"}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Fatal(diff)
	}
	for _, n := range names {
		p, err := l.Get(n)
		if err != nil {
			t.Fatal(err)
		}
		if p.Title == "" || len(p.Entries) == 0 || p.File != "" || p.Hides {
			t.Errorf("%s: %+v", n, p)
		}
		for _, e := range p.Entries {
			if e.Rule.Reason == "" || !e.Rule.Allows() || e.Rule.Tier != policy.Project {
				t.Errorf("%s: %s has no note, or is not an allow", n, e.Rule.Text)
			}
		}
	}
	if _, err := parse("risks", "", riskFile); err != nil {
		t.Error(err)
	}
}

// TestNoDefaultHasOpenDoors: what is recommended or suggested holds neither gists, nor everybody's
// buckets, nor time servers.
func TestNoDefaultHasOpenDoors(t *testing.T) {
	p, err := Library{}.Get(Recommended)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range p.Entries {
		if slices.Contains([]string{"storage.googleapis.com", "gist.github.com", "pool.ntp.org", "time.google.com"}, e.Rule.Target()) || strings.Contains(e.Rule.Text, "/udp") {
			t.Errorf("recommended has %s", e.Rule.Text)
		}
	}
	for _, n := range curated {
		c, err := Library{}.Get(n)
		if err != nil || !c.Curated {
			t.Fatalf("%s: %v", n, err)
		}
		for _, e := range c.Entries {
			if !slices.ContainsFunc(p.Entries, func(x Entry) bool { return x.Rule.Text == e.Rule.Text }) {
				t.Errorf("recommended lacks %s of %s", e.Rule.Text, n)
			}
		}
	}
}

func TestOSPackagesByFamily(t *testing.T) {
	for image, want := range map[string][2]string{
		"docker.io/library/debian:12":        {"deb", "deb.debian.org"},
		"ubuntu@sha256:0000":                 {"deb", "archive.ubuntu.com"},
		"quay.io:443/fedora/fedora:44":       {"rpm", "dl.fedoraproject.org"},
		"registry.access.redhat.com/ubi9":    {"rpm", "cdn-ubi.redhat.com"},
		"alpine":                             {"apk", "dl-cdn.alpinelinux.org"},
		"localhost:5000/somebody/own:latest": {"", "dl-cdn.alpinelinux.org"},
	} {
		f := Family(image)
		rules, err := Library{Family: f}.Rules([]string{OSPackages})
		if err != nil || f != want[0] {
			t.Fatalf("%s is %q, %v", image, f, err)
		}
		var targets []string
		for _, r := range rules {
			targets = append(targets, r.Target())
		}
		if !slices.Contains(targets, want[1]) || f == "deb" && slices.Contains(targets, "dl.fedoraproject.org") {
			t.Errorf("%s: %v", image, targets)
		}
	}
}

func TestOwn(t *testing.T) {
	l := own(t, map[string]string{
		"build.txt": "# Our build hosts\n\nartifacts.example.org:8443 raw %reason=\"maven # really\" %risk=write-capable,anyone-hosts # note\n" +
			".cache.example.org\t# everything below\n-ads.cache.example.org\n203.0.113.0/24:22\nartifacts.example.org:8443 raw\nbücher.example\r\n",
		"go.txt":     "proxy.example.org\n",
		"legacy.txt": "# old list\nsuffix: true\nexample.org\nx.example.net:8443\n.other.example\n203.0.113.7\n",
		".hid.txt":   "x",
		"notes.md":   "x",
	})
	p, err := l.Get("build")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range p.Entries {
		got = append(got, e.Rule.Text+"|"+e.Rule.Reason+"|"+strings.Join(e.Risk, ",")+"|"+strings.TrimPrefix(e.Rule.Source, p.File))
	}
	want := []string{"+artifacts.example.org:8443 raw|maven # really|write-capable,anyone-hosts|:3", "+.cache.example.org|||:4",
		"-ads.cache.example.org|||:5", "+203.0.113.0/24:22|||:6", "+xn--bcher-kva.example|||:8"}
	if diff := cmp.Diff(want, got); diff != "" || p.Title != "Our build hosts" {
		t.Errorf("%s %s", p.Title, diff)
	}
	g, err := l.Get("go")
	if err != nil || !g.Hides || len(g.Entries) != 1 || g.Entries[0].Rule.Text != "+proxy.example.org" {
		t.Errorf("an own profile does not hide the bundled one: %+v %v", g, err)
	}
	s, err := l.Rules([]string{"legacy"})
	if err != nil || len(s) != 4 || s[0].Text != "+.example.org" || s[1].Text != "+.x.example.net:8443" || s[2].Text != "+.other.example" || s[3].Text != "+203.0.113.7" {
		t.Errorf("%+v %v", s, err)
	}
	both, err := l.Rules([]string{"python", "dev-python", "python"})
	if err != nil || len(both) != 7 || both[0].Source != "profile python" {
		t.Errorf("%d rules of two profiles: %v", len(both), err)
	}
	names, err := l.Names()
	if err != nil || !slices.Contains(names, "build") || slices.Contains(names, ".hid") || slices.Contains(names, "notes") {
		t.Errorf("%v %v", names, err)
	}
}

// TestEveryMistakeIsNamed: all that is wrong with a profile is reported at once, with line and
// column, and nothing of it is used (spec shield.md, test 50).
func TestEveryMistakeIsNamed(t *testing.T) {
	l := own(t, map[string]string{"bad.txt": "ok.example.org\nexample.org:0\n*.com\n-f/x\n  @1.1.1.1\n203.0.113.1/24\n192.168.1.1\n169.254.169.254\n" +
		strings.Repeat("a234567890.", 30) + "org\nexample.org %risk=nice\nexample.org\x00\nexample.org\u202e\nsuffix: true\nhost %reason=x\n"})
	_, err := l.Get("bad")
	var errs Errors
	if !errors.As(err, &errs) {
		t.Fatal(err)
	}
	want := []string{":2:13:", ":3:1:", ":4:2:", ":5:3:", ":6:1:", ":7:1:", ":8:1:", ":9:1:", ":10:19:", ":11:12:", ":12:1:", ":13:", ":14:1:"}
	if len(errs) != len(want) {
		t.Fatalf("%d errors:\n%v", len(errs), err)
	}
	for i, w := range want {
		if !strings.HasPrefix(errs[i].Error(), filepath.Join(l.Dir, "bad.txt")+w) {
			t.Errorf("%v; want %s", errs[i], w)
		}
	}
	if _, err := l.Rules([]string{"bad", "go", "pyhton"}); err == nil || !strings.Contains(err.Error(), `"pyhton" (did you mean "python"?)`) || !strings.Contains(err.Error(), "bad.txt:2:13") {
		t.Errorf("%v", err)
	}
	// A file that others can write is refused, not read.
	if err := os.Chmod(filepath.Join(l.Dir, "bad.txt"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Get("bad"); err == nil || !strings.Contains(err.Error(), "can be written by others") {
		t.Errorf("%v", err)
	}
}

func TestNamesOfProfiles(t *testing.T) {
	l := own(t, map[string]string{"x.txt": "example.org", ".hid.txt": "example.org"})
	if err := os.WriteFile(filepath.Join(filepath.Dir(l.Dir), "x.txt"), []byte("example.org"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", ".hid", "../x", "a/b", "-x", "_x", "a b", "x\x00", "é", "os-packages/deb", strings.Repeat("x", 65)} {
		_, err := l.Get(bad)
		var unknown *UnknownError
		if !errors.As(err, &unknown) || len(unknown.Known) < 10 {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestRisk(t *testing.T) {
	for host, want := range map[string]string{
		"github.com": "write-capable", "GIST.github.com.": "write-capable,anyone-hosts", "storage.googleapis.com": "write-capable,anyone-hosts",
		"raw.githubusercontent.com": "anyone-hosts", "ghcr.io": "write-capable,anyone-hosts", "cdn.jsdelivr.net": "anyone-hosts",
		"unpkg.com": "anyone-hosts", "x.readthedocs.io": "anyone-hosts", "readthedocs.io": "anyone-hosts", "me.github.io": "anyone-hosts",
		"deb.debian.org": "", "example.org": "", "notgithub.com": "", "webhook.site": "write-capable,anyone-hosts", "a.b.oast.fun": "write-capable,anyone-hosts",
		"192.168.1.1": "private", "127.0.0.1": "private", "203.0.113.1": "", "fd00::1": "private", "": "",
	} {
		if got := strings.Join(Risk(host), ","); got != want {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
	}
}

func TestSuggest(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []string{"go.mod", "package.json", "setup.py", "requirements.txt"} {
		if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "Cargo.toml")); err != nil {
		t.Fatal(err)
	}
	if got := Suggest(dir); !slices.Equal(got, []string{"go", "node", "python"}) {
		t.Error(got)
	}
}

// TestFormatRoundTrip: what a profile means does not depend on blanks, comments and line ends.
func TestFormatRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.StringMatching(`[+-]?(\*\.|\.)?[a-z]{1,8}\.[a-z]{1,8}\.test(:[1-9][0-9]{0,3})?( raw)?( %reason="[a-z #]{0,8}x")?`), 1, 8).Draw(t, "rules")
		plain, err1 := parse("a", "f", []byte(strings.Join(rules, "\n")))
		var b strings.Builder
		for _, r := range rules {
			b.WriteString(rapid.SampledFrom([]string{"", "# a \"comment\n", "\n", " \t\n"}).Draw(t, "before"))
			b.WriteString(rapid.SampledFrom([]string{"", " ", "\t"}).Draw(t, "indent") + strings.ReplaceAll(r, " raw", "\t  raw"))
			b.WriteString(rapid.SampledFrom([]string{"\n", "\r\n", " # said \"why\n", " \n"}).Draw(t, "after"))
		}
		dressed, err2 := parse("a", "f", []byte(b.String()))
		if (err1 == nil) != (err2 == nil) {
			t.Fatalf("%v, %v\n%s", err1, err2, b.String())
		}
		if err1 != nil {
			return
		}
		text := func(p *Profile) (out []string) {
			for _, e := range p.Entries {
				out = append(out, e.Rule.Text+e.Rule.Reason)
			}
			return out
		}
		if diff := cmp.Diff(text(plain), text(dressed)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("# title\nexample.org:443 raw %reason=\"a # b\" %risk=write-capable # c\n-x.test\nsuffix: true"))
	f.Add([]byte("suffix: true\nexample.org\n+bücher.example:80\n203.0.113.0/24 \"#\"\r\n%risk=%risk="))
	f.Add([]byte("\x00\xff\n\"\n#\n%risk=anyone-hosts"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := parse("f", "f.txt", data)
		if err != nil {
			var errs Errors
			if !errors.As(err, &errs) || len(errs) == 0 {
				t.Fatalf("%v", err)
			}
			for _, e := range errs {
				if e.Line > 0 && e.Column < 1 {
					t.Fatalf("%+v", e)
				}
			}
			return
		}
		for _, e := range p.Entries {
			again, err := policy.ParseRule(e.Rule.String(), policy.Project, "x")
			if err != nil || again.Text != e.Rule.Text {
				t.Fatalf("%q: %v", e.Rule.String(), err)
			}
		}
	})
}
