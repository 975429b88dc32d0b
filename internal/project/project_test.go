package project

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/problem"
	"terok/internal/shield/policy"
	"terok/internal/state"
)

func newStore(t *testing.T) Store {
	d := t.TempDir()
	return Store{Roots: state.Roots{Config: d + "/config", Data: d + "/data", Runtime: d + "/run"}}
}

func TestCreateAndGet(t *testing.T) {
	s := newStore(t)
	// What a path may hold must come back as it was.
	up := filepath.Join(t.TempDir(), `a "quoted" \ dir: #1 ä`)
	if err := os.Mkdir(up, 0o755); err != nil {
		t.Fatal(err)
	}
	p, err := s.Create(Spec{Name: "webshop", Upstream: up, Branch: "main", Agent: "claude", Allow: []string{"registry.npmjs.org:443"}})
	if err != nil {
		t.Fatal(err)
	}
	if p.UpstreamPath() != up || p.DefaultAgent != "claude" || p.Scope() != "shared" || p.Run.PidsLimit != 4096 {
		t.Errorf("%+v", p.Config)
	}
	rules, err := p.Rules()
	if err != nil || len(rules) != 1 || rules[0].Tier != policy.Project || rules[0].Text != "+registry.npmjs.org:443" {
		t.Errorf("Rules = %+v, %v", rules, err)
	}
	if _, err := s.Create(Spec{Name: "webshop"}); problem.Of(err) == nil || problem.Of(err).Exit != problem.Conflict {
		t.Errorf("second Create = %v, want exit 7", err)
	}
	found, err := s.ForDir(up)
	if err != nil || found == nil || found.Name != "webshop" {
		t.Errorf("ForDir = %v, %v", found, err)
	}
	if n := s.NameFor("/x/webshop"); n != "webshop-2" {
		t.Errorf("NameFor a taken name = %s", n)
	}
	if n := s.NameFor("/x/My Great.Repo!"); n != "my-great-repo" {
		t.Errorf("NameFor = %s", n)
	}
}

func TestEveryMistakeIsNamedWithItsPlace(t *testing.T) {
	s := newStore(t)
	file := s.Roots.ProjectFile("p")
	err := state.WriteFile(file, []byte(`project:
  name: p
git:
  upstream_url: "ext::sh -c id"
shield:
  alow: [x.test]
  allow:
    - example.org
    - "bad host!"
run:
  privilege: root
`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Get("p")
	p := problem.Of(err)
	if p == nil || p.Exit != problem.Usage {
		t.Fatalf("Get = %v, want exit 2", err)
	}
	for _, want := range []string{file + ":4:", file + ":6:", "allow", file + ":9:", file + ":11:"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
}

func TestNotFoundSuggests(t *testing.T) {
	s := newStore(t)
	if _, err := s.Create(Spec{Name: "webshop"}); err != nil {
		t.Fatal(err)
	}
	_, err := s.Get("webshp")
	if p := problem.Of(err); p.Exit != problem.NotFound || !strings.Contains(p.Hint, "webshop") {
		t.Errorf("Get = %+v", p)
	}
	if _, err := s.Get("../x"); problem.Of(err).Exit != problem.Usage {
		t.Errorf("Get(../x) = %v", err)
	}
}

// TestUpstreamsThatRunPrograms defends the host against an upstream that git would execute.
func TestUpstreamsThatRunPrograms(t *testing.T) {
	for _, bad := range []string{"ext::sh -c id", "-uid", "--upload-pack=id", "fd::3", "http://x.test/r", "git://x.test/r",
		"https://user:pw@x.test/r", "relative/path", "x\nhttps://a.test", "a:b", "C:\\x"} {
		if CheckUpstream(bad) == nil {
			t.Errorf("CheckUpstream(%q) accepts it", bad)
		}
	}
	for _, good := range []string{"", "/srv/x.git", "https://x.test/r.git", "ssh://git@x.test/r", "git@x.test:r.git", "file:///srv/x"} {
		if err := CheckUpstream(good); err != nil {
			t.Errorf("CheckUpstream(%q) = %v", good, err)
		}
	}
}

func TestForDirFollowsTheRealDirectory(t *testing.T) {
	s := newStore(t)
	d := t.TempDir()
	if out, err := exec.Command("git", "init", "-q", d+"/r").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, out)
	}
	if err := os.Symlink(d+"/r", d+"/link"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(Spec{Name: "r", Upstream: d + "/link"}); err != nil {
		t.Fatal(err)
	}
	if p, err := s.ForDir(d + "/r"); err != nil || p == nil {
		t.Errorf("ForDir = %v, %v", p, err)
	}
}
