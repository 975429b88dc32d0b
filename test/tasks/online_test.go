package tasks

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestOnlineForge: spec/gate.md §1, §20: 53. An https upstream at a forge whose token is in the vault:
// the task uses it through the vault's front, which has the token and hands out a phantom.
// It can push to the project's repository and to no other of the forge; the token is nowhere inside.
func TestOnlineForge(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	forge := tr.serveForge(repo, "ada/shop", "ada/other")
	forge.secret = "glpat-REAL-" + random()
	tr.file("config/terok/providers/corp.yml", fmt.Sprintf(`title: Corp
host: git.example.test
upstream: https://127.0.0.1:%s
ca_file: %s
allow_private: true
forge: gitlab
shared_domain: true
policy: ["allow /api/**"]
default: deny
auth:
  pat:
    header: PRIVATE-TOKEN
    env: {CORP_TOKEN: "{phantom}"}
`, forge.port, forge.ca))
	tr.run(0, "", "vault", "init", "--passphrase-file", tr.file("passphrase", pass+"\n"))
	if _, _, err := tr.try(0, forge.secret+"\n", "", "auth", "corp", "--api-key-stdin", "--no-verify"); err != nil {
		t.Fatal(err)
	}
	const server = "https://git.example.test"
	// No machine has that name: the host cannot mirror it, and the task takes upstream itself.
	for _, project := range []string{"free", "mirrored"} {
		yml := "project:\n  security_class: online\ngit:\n  upstream_url: " + server + "/ada/shop.git\n"
		if project == "free" {
			yml += "gate:\n  enabled: false\n"
		}
		tr.project(project, yml)
		out, _ := tr.run(0, "", "task", "run", project, say+fmt.Sprintf(`say log git log -1 --format=%%H origin/main
echo work >work-%[2]s; git add -A; git commit -qm work
say push git push -q origin HEAD:refs/heads/from-%[2]s
say read git ls-remote %[1]s/ada/other.git main
say other git push -q %[1]s/ada/other.git HEAD:refs/heads/evil
say bare curl -sS -o /dev/null -w '%%{http_code}' "%[1]s/ada/shop.git/info/refs?service=git-upload-pack"
say own curl -sS -o /dev/null -w '%%{http_code}' -u oauth2:glpat-mine-0123456789abcdefghij "%[1]s/ada/shop.git/info/refs?service=git-upload-pack"
say secret grep -rlE 'glpat-REAL-[0-9a-f]{8}' /workspace /home/dev /run/terok /tmp
say env sh -c 'env | grep -cE "glpat-REAL-[0-9a-f]{8}"'
say end true
`, server, project))
		section := sections(t, out)
		if got, want := section("log"), gitOut(t, filepath.Join(forge.dir, "ada/shop.git"), "rev-parse", "main")+"\nexit 0"; got != want {
			t.Errorf("%s: cloned %s, want %s", project, got, want)
		}
		for _, name := range []string{"push", "read"} {
			if s := section(name); !strings.HasSuffix(s, "exit 0") {
				t.Errorf("%s: %s: %s", project, name, s)
			}
		}
		if got := gitOut(t, filepath.Join(forge.dir, "ada/shop.git"), "for-each-ref", "--format=%(refname:short)", "refs/heads/from-"+project); got == "" {
			t.Errorf("%s: the push did not arrive", project)
		}
		if s := section("other"); strings.HasSuffix(s, "exit 0") || gitOut(t, filepath.Join(forge.dir, "ada/other.git"), "for-each-ref", "refs/heads/evil") != "" {
			t.Errorf("%s: a push to another repository: %s", project, s)
		}
		for name, want := range map[string]string{"bare": "401", "own": "403"} {
			if s := section(name); !strings.HasPrefix(s, want) {
				t.Errorf("%s: %s answers %s, want %s", project, name, s, want)
			}
		}
		for _, name := range []string{"secret", "env"} {
			if s := section(name); strings.HasSuffix(s, "exit 0") {
				t.Errorf("%s: the token is inside: %s", project, s)
			}
		}
	}
}
