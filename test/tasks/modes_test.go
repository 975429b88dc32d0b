package tasks

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestModesRefused: spec/gate.md §20: 53. Combinations that cannot work are errors at load, with the
// place in the file and what to write instead.
func TestModesRefused(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	const https = "https://git.example.test/ada/shop.git"
	for name, c := range map[string]struct{ yml, where, cure string }{
		"closed":   {"git:\n  upstream_url: " + https + "\ngate:\n  enabled: false\n", ":5:", "security_class: online"},
		"nothing":  {"gate:\n  enabled: false\n", ":3:", "security_class: online"},
		"local":    {"project:\n  security_class: online\ngit:\n  upstream_url: " + repo + "\n", ":3:", "works with gatekeeping"},
		"external": {"git:\n  upstream_url: " + repo + "\ngatekeeping:\n  expose_external_remote: true\n", ":5:", "directory of this machine"},
		"origin":   {"project:\n  security_class: online\ngit:\n  upstream_url: " + https + "\ngatekeeping:\n  expose_external_remote: true\n", ":7:", "upstream is origin"},
		"ssh":      {"project:\n  security_class: online\ngit:\n  upstream_url: git@git.example.test:ada/shop.git\ngate:\n  enabled: false\n", ":7:", "ssh.in_container: true"},
		"word":     {"project:\n  security_class: open\n", ":3:", "gatekeeping"},
	} {
		tr.project(name, c.yml)
		_, stderr := tr.run(2, "", "task", "run", name, "true")
		if !strings.Contains(stderr, "project.yml"+c.where) || !strings.Contains(stderr, c.cure) {
			t.Errorf("%s: %s", name, stderr)
		}
		exec.Command("rm", "-r", filepath.Join(tr.dir, "config/terok/projects", name)).Run()
	}
}

// TestModes: spec/gate.md §20: 53. What a task finds as origin and as further remotes, what it reaches
// and what reaches upstream, in each combination that works; and a launch without a mirror.
func TestModes(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	forge := tr.serveForge(repo, "shop")
	upstream, bare := forge.url+"/shop.git", filepath.Join(forge.dir, "shop.git")
	tr.file("config/terok/config.yml", "image:\n  ca_certificates: ["+forge.ca+"]\n")
	const gateURL = "http://10.0.2.2:9418/task.git"
	look := say + `say remotes git remote -v
say branch git rev-parse --abbrev-ref HEAD
say seeded git rev-parse refs/remotes/origin/main
say fetch git fetch -q origin
say curl curl -sS -o /dev/null ` + upstream + `/info/refs?service=git-upload-pack
echo work >>work; git add work; git commit -qm work
say push git push -q origin HEAD
say gate git push -q gate HEAD:refs/heads/for-review
say end true
`
	run := func(project, script string) (func(string) string, taskView) {
		t.Helper()
		out, _ := tr.run(0, "", "task", "run", project, script)
		for _, task := range tr.tasks() {
			if task.Project == project {
				return sections(t, out), task
			}
		}
		t.Fatalf("no task of %s", project)
		return nil, taskView{}
	}
	expect := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s:\n%s\nwant\n%s", what, got, want)
		}
	}
	remote := func(name, url string) string {
		return fmt.Sprintf("%[1]s\t%[2]s (fetch)\n%[1]s\t%[2]s (push)\n", name, url)
	}
	good := func(what, got string) {
		t.Helper()
		if !strings.HasSuffix(got, "exit 0") {
			t.Errorf("%s: %s", what, got)
		}
	}
	fails := func(what, got string) {
		t.Helper()
		if strings.HasSuffix(got, "exit 0") {
			t.Errorf("%s works: %s", what, got)
		}
	}
	branches := func() string { return gitOut(t, bare, "for-each-ref", "--format=%(refname)", "refs/heads/") }
	status := func(project, want string) {
		t.Helper()
		if out, _ := tr.run(0, "", "gate", "status", project); !strings.Contains(out, want) {
			t.Errorf("gate status %s lacks %q:\n%s", project, want, out)
		}
	}
	before := branches()

	// Gatekeeping with upstream: the gate, and nothing else; with external its address, and no way to it.
	tr.project("keep", "git:\n  upstream_url: "+upstream+"\n")
	got, task := run("keep", look)
	expect("gatekeeping", got("remotes"), remote("origin", gateURL)+"exit 0")
	good("push to the gate", got("push"))
	fails("reaching upstream", got("curl"))
	if len(tr.tip(task)) != 40 {
		t.Error("nothing to review")
	}
	status("keep", "it does not make what agents push safe")
	tr.project("shown", "git:\n  upstream_url: "+upstream+"\ngatekeeping:\n  expose_external_remote: true\n")
	got, _ = run("shown", look+"say external git fetch -q external\nsay end true\n")
	expect("external", got("remotes"), remote("external", upstream)+remote("origin", gateURL)+"exit 0")
	fails("fetching external", got("external"))
	status("shown", "remote external")
	expect("upstream after gatekeeping", branches(), before)

	// Gatekeeping without upstream: a gate of its own work.
	tr.project("own", "")
	got, task = run("own", look)
	expect("own gate", got("remotes"), remote("origin", gateURL)+"exit 0")
	good("first push", got("push"))
	tr.run(0, "", "project", "gate-sync", "own")
	tr.run(0, "", "promote", "own/"+task.ID, "--to", "gate", "--as", "main", "--sha", tr.tip(task), "--approve", "--yes")
	out, _ := tr.run(0, "", "task", "run", "own", say+"cat work")
	if !strings.Contains(out, "work\n") {
		t.Errorf("the second task begins without the first one's accepted work: %s", out)
	}

	// Online with a gate: upstream is origin, the gate a further remote; both take pushes.
	tr.project("online", "project:\n  security_class: online\ngit:\n  upstream_url: "+upstream+"\n")
	got, task = run("online", look)
	expect("online", got("remotes"), remote("gate", gateURL)+remote("origin", upstream)+"exit 0")
	expect("origin is seeded from the gate", got("seeded"), gitOut(t, bare, "rev-parse", "main")+"\nexit 0")
	good("fetch from upstream", got("fetch"))
	good("push to upstream", got("push"))
	good("push to the gate", got("gate"))
	if !strings.Contains(branches(), "refs/heads/"+strings.TrimSuffix(got("branch"), "\nexit 0")) {
		t.Errorf("upstream has %s", branches())
	}
	var queue []change
	tr.decode(&queue, "", "review", "online/"+task.ID)
	if len(queue) != 1 || queue[0].Branch != "for-review" {
		t.Errorf("queue: %+v", queue)
	}
	status("online", "nobody has reviewed")
	// A deny wins over the mode: nothing goes to upstream, work goes on from the gate.
	tr.run(0, "", "shield", "deny", "--project", "online", "host:"+forge.port)
	got, _ = run("online", look)
	fails("fetch past a deny", got("fetch"))
	fails("push past a deny", got("push"))
	good("push to the gate under a deny", got("gate"))

	// Without a mirror: gatekeeping stops with the command, online takes upstream itself.
	tr.project("keep2", "git:\n  upstream_url: "+upstream+"\n")
	forge.fail.Store(1)
	if _, stderr := tr.run(1, "", "task", "run", "keep2", "true"); !strings.Contains(stderr, "terok project gate-sync keep2") {
		t.Errorf("gatekeeping without a mirror: %s", stderr)
	}
	tr.project("online2", "project:\n  security_class: online\ngit:\n  upstream_url: "+upstream+"\n")
	forge.fail.Store(1)
	got, _ = run("online2", look)
	expect("online without a mirror", got("remotes"), remote("origin", upstream)+"exit 0")
	good("push", got("push"))

	// Online without a gate.
	tr.project("free", "project:\n  security_class: online\ngit:\n  upstream_url: "+upstream+"\ngate:\n  enabled: false\n")
	got, task = run("free", look)
	expect("no gate", got("remotes"), remote("origin", upstream)+"exit 0")
	good("push", got("push"))
	if _, stderr := tr.run(2, "", "project", "gate-sync", "free"); !strings.Contains(stderr, "gate.enabled") {
		t.Errorf("gate-sync without a gate: %s", stderr)
	}
	status("free", "nothing is reviewed")
	tr.run(0, "", "review", "free")

	// Online without upstream: an empty workspace, with or without gate.
	for name, gate := range map[string]string{"none": "", "none2": "gate:\n  enabled: false\n"} {
		tr.project(name, "project:\n  security_class: online\n"+gate)
		got, _ = run(name, "cd /workspace; echo '== files'; ls -A | wc -l; echo '== end'")
		expect(name, got("files"), "0")
		status(name, "no repository")
	}
}
