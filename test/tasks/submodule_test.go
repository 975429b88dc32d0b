package tasks

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestSubmodules: spec/gate.md §20: 57. A submodule that the operator listed comes from its mirror, by an
// absolute and by a relative URL, with no network inside; one that an agent's branch adds is a flag, and
// nobody contacts its server, not at push, sync, review or promotion.
func TestSubmodules(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	forge, head := tr.withSubmodules()
	tr.file("config/terok/config.yml", "image:\n  ca_certificates: ["+forge.ca+"]\n")
	tr.project("shop", "git:\n  upstream_url: "+forge.url+"/shop.git\ngate:\n  submodules: ["+forge.url+"/lib.git]\n")
	out, _ := tr.run(0, "", "task", "run", "shop", say+fmt.Sprintf(`say update git submodule update -q --init abs rel
say abs git -C abs rev-parse HEAD
say rel git -C rel rev-parse HEAD
say readme ls abs rel
say unlisted git submodule update -q --init other
say write git -C abs push -q origin HEAD:refs/heads/x
git config -f .gitmodules submodule.new.path new; git config -f .gitmodules submodule.new.url %s/evil.git
git update-index --add --cacheinfo 160000,$(git rev-parse HEAD),new; git add .gitmodules; git commit -qm "A new submodule"
say push git push -q origin HEAD
say end true
`, forge.url))
	section := sections(t, out)
	for _, name := range []string{"abs", "rel"} {
		if s := section(name); s != head+"\nexit 0" {
			t.Errorf("%s: %s (update: %s)", name, s, section("update"))
		}
	}
	for _, name := range []string{"unlisted", "write"} {
		if s := section(name); strings.HasSuffix(s, "exit 0") {
			t.Errorf("%s works: %s", name, s)
		}
	}
	if s := section("push"); !strings.HasSuffix(s, "exit 0") {
		t.Errorf("push: %s", s)
	}
	task := tr.tasks()[0]
	var shown struct{ Flags []struct{ Code string } }
	tr.decode(&shown, "", "review", "show", "shop/"+task.ID)
	if !strings.Contains(fmt.Sprint(shown.Flags), "submodule") {
		t.Errorf("no flag: %+v", shown.Flags)
	}
	tr.run(0, "", "project", "gate-sync", "shop")
	tr.run(0, "", "promote", "shop/"+task.ID, "--to", "upstream", "--as", "from-task", "--sha", tr.tip(task), "--approve", "--yes")
	if n := forge.asked("/evil"); n != 0 {
		t.Errorf("the unlisted submodule's server was asked %d times", n)
	}
	status, _ := tr.run(0, "", "gate", "status", "shop")
	if strings.Count(status, "mirrored") < 2 || !strings.Contains(status, "not listed in gate.submodules") {
		t.Errorf("status: %s", status)
	}
}

// withSubmodules serves a repository "shop" with submodules abs, rel and other.
func (tr *tree) withSubmodules() (served *forge, head string) {
	t := tr.t
	t.Helper()
	repo := tr.repo("greet")
	served = tr.serveForge(repo, "shop", "lib", "evil")
	shop := filepath.Join(tr.dir, "shop")
	// The pinned commit is what the mirrors have: everything here is a clone of the same repository.
	for _, args := range [][]string{{"clone", "-q", filepath.Join(served.dir, "shop.git"), shop},
		{"-C", shop, "config", "-f", ".gitmodules", "submodule.abs.path", "abs"}, {"-C", shop, "config", "-f", ".gitmodules", "submodule.abs.url", served.url + "/lib.git"},
		{"-C", shop, "config", "-f", ".gitmodules", "submodule.rel.path", "rel"}, {"-C", shop, "config", "-f", ".gitmodules", "submodule.rel.url", "../lib.git"},
		{"-C", shop, "config", "-f", ".gitmodules", "submodule.other.path", "other"}, {"-C", shop, "config", "-f", ".gitmodules", "submodule.other.url", "../evil.git"},
		{"-C", shop, "add", ".gitmodules"}} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	head = gitOut(t, shop, "rev-parse", "HEAD")
	for _, path := range []string{"abs", "rel", "other"} {
		gitOut(t, shop, "update-index", "--add", "--cacheinfo", "160000,"+head+","+path)
	}
	gitOut(t, shop, "-c", "user.name=A", "-c", "user.email=a@example.test", "commit", "-qm", "submodules")
	gitOut(t, shop, "push", "-q", "origin", "HEAD:main")
	return served, head
}

// TestSubmoduleLater: a submodule that was mirrored after a task began is there after the task's restart, as
// the status says.
func TestSubmoduleLater(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	forge, head := tr.withSubmodules()
	tr.file("config/terok/config.yml", "image:\n  ca_certificates: ["+forge.ca+"]\n")
	yml := "git:\n  upstream_url: " + forge.url + "/shop.git\n"
	tr.project("greet", yml)
	var task taskView
	tr.decode(&task, "", "task", "run", "greet", "sleep infinity & wait", "-d")
	tr.ready(task)
	update := "cd /workspace && git submodule update -q --init abs 2>&1 && git -C abs rev-parse HEAD; true"
	if got := inside(t, task, update); strings.Contains(got, head) {
		t.Fatalf("before: %s", got)
	}
	tr.project("greet", yml+"gate:\n  submodules: ["+forge.url+"/lib.git]\n")
	tr.run(0, "", "project", "gate-sync", "greet")
	tr.run(0, "", "task", "restart", "greet/"+task.ID)
	if got := tr.inside(task, update); !strings.HasSuffix(strings.TrimSpace(got), head) {
		t.Errorf("after the restart: %s", got)
	}
}
