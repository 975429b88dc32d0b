package review_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/inspect"
	"terok/internal/gate/review"
)

// fixture is one commit of a task, and the flag that it must get.
type fixture struct {
	path, content, code, severity string
}

var fixtures = map[string]fixture{
	"clean":          {"src/a.go", "package a\n", "", ""},
	"unicode":        {"src/ä.go", "grüße 日本 слово 👍\ufe0f\r\n", "", ""},
	"ci":             {".github/workflows/x.yml", "x\n", "ci", review.Warn},
	"gitlab":         {".gitlab-ci.yml", "x\n", "ci", review.Warn},
	"jenkins":        {"Jenkinsfile", "x\n", "ci", review.Warn},
	"circleci":       {".circleci/config.yml", "x\n", "ci", review.Warn},
	"azure":          {"azure-pipelines.yml", "x\n", "ci", review.Warn},
	"husky":          {"web/.husky/pre-commit", "x\n", "git_hooks", review.Warn},
	"pre-commit":     {".pre-commit-config.yaml", "x\n", "git_hooks", review.Warn},
	"attributes":     {"sub/.gitattributes", "*.py filter=evil\n", "gitattributes", review.Warn},
	"export-subst":   {".gitattributes", "version export-subst\n", "gitattributes", review.Warn},
	"plain-attr":     {"plain/.gitattributes", "*.sh text eol=lf\n", "gitattributes", review.Info},
	"modules":        {".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = https://h.test/x\n", "submodule", review.Warn},
	"claude":         {"CLAUDE.md", "x\n", "agent_instructions", review.Warn},
	"agents":         {"docs/AGENTS.md", "x\n", "agent_instructions", review.Warn},
	"settings":       {".claude/settings.json", "x\n", "agent_instructions", review.Warn},
	"cursor":         {".cursor/rules/x.mdc", "x\n", "agent_instructions", review.Warn},
	"mcp":            {".mcp.json", "x\n", "agent_instructions", review.Warn},
	"vscode":         {".vscode/tasks.json", "x\n", "editor_config", review.Warn},
	"devcontainer":   {".devcontainer/devcontainer.json", "x\n", "editor_config", review.Warn},
	"envrc":          {".envrc", "x\n", "editor_config", review.Warn},
	"make":           {"Makefile", "x\n", "build_script", review.Info},
	"docker":         {"Dockerfile.dev", "x\n", "build_script", review.Info},
	"package":        {"web/package.json", "{\n  \"name\": \"x\"\n}\n", "build_script", review.Info},
	"install":        {"lib/package.json", "{\n  \"scripts\": {\n    \"postinstall\": \"node x\"\n  }\n}\n", "install_script", review.Warn},
	"lock":           {"web/package-lock.json", "x\n", "lock_file", review.Info},
	"licence":        {"LICENSE", "all yours\n", "licence", review.Warn},
	"binary":         {"x.bin", "a\x00b", "binary", review.Info},
	"large":          {"large.bin", "\x00" + strings.Repeat("x", 1<<20), "large_file", review.Info},
	"bidi":           {"a.py", "if a:\u2066 # x\n", "hidden_characters", review.Warn},
	"zero-width":     {"b.py", "pass\u200bword\n", "hidden_characters", review.Warn},
	"tags":           {"a.md", "hi\U000E0041\n", "hidden_characters", review.Warn},
	"hidden-name":    {"na\u202eme", "x\n", "hidden_characters", review.Warn},
	"homoglyph":      {"c.py", "раssword = 1\n", "look_alike", review.Warn},
	"homoglyph-name": {"src/mаin.go", "x\n", "look_alike", review.Warn},
	"escape":         {"a.txt", "\x1b[31m\n", "control_characters", review.Warn},
	"return":         {"b.txt", "harmless\rrm -rf\n", "control_characters", review.Warn},
	"key":            {"id", "-----BEGIN OPENSSH " + "PRIVATE KEY-----\n", "secret", review.Warn},
	"phantom":        {"env", "X=terok-g-" + strings.Repeat("a", 32) + "\n", "secret", review.Warn},
	"anthropic":      {"env2", "X=sk-ant-" + strings.Repeat("a", 32) + "\n", "secret", review.Warn},
	"github":         {"env3", "X=ghp_" + strings.Repeat("a", 36) + "\n", "secret", review.Warn},
	"minified":       {"a.js", strings.Repeat("x", 6000) + "\n", "long_line", review.Info},
	"lfsconfig":      {".lfsconfig", "[lfs]\n", "lfs", review.Warn},
	"pointer":        {"video.mp4", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "lfs", review.Info},
	"conflict":       {"d.go", "<<<<<<< HEAD\n", "conflict_marker", review.Warn},
	"case":           {"readme.MD", "x\n", "case_collision", review.Warn},
	"option":         {"--upload-pack=x", "x\n", "odd_name", review.Warn},
	"device":         {"docs/aux.txt", "x\n", "odd_name", review.Warn},
}

// Spec/gate.md §20: 35, 57. Every flag of §11.3 has a fixture, in the severity that it must have, and
// clean changes have none. All are branches of one task, read by one inspector.
func TestFlags(t *testing.T) {
	r := newRig(t)
	start := r.repo.Start
	for name, f := range fixtures {
		r.Git(r.work, "checkout", "-q", "-B", "f/"+name, start)
		r.write(f.path, f.content)
		r.Commit(r.work, "change")
	}
	branch := func(name string, prepare func()) {
		r.Git(r.work, "checkout", "-q", "-B", "f/"+name, start)
		prepare()
		r.Git(r.work, "add", "-A")
	}
	commit := func(args ...string) { r.Git(r.work, append([]string{"commit", "-q", "--allow-empty"}, args...)...) }
	more := map[string]struct{ code, severity string }{
		"executable": {"executable", review.Warn}, "link-in": {"symlink", review.Info}, "link-out": {"symlink", review.Warn}, "link-abs": {"symlink", review.Warn},
		"gitlink": {"submodule", review.Warn}, "test-gone": {"test_deleted", review.Warn}, "author": {"identity", review.Warn}, "committer": {"identity", review.Warn},
		"future": {"date_future", review.Warn}, "past": {"date_before_parent", review.Warn}, "signed-off": {"signed_off_by", review.Warn}, "reviewed-by": {"signed_off_by", review.Warn},
		"outside": {"outside_paths", review.Warn}, "message": {"control_characters", review.Warn}, "message-key": {"secret", review.Warn}, "unrelated": {"unrelated_history", review.Warn},
		"brought-and-gone": {"secret", review.Warn}, "merge": {"merge", review.Info}, "octopus": {"octopus_merge", review.Warn},
	}
	branch("executable", func() { r.write("run.sh", "x\n"); chmod(t, r.work, "run.sh") })
	commit("-m", "x")
	for name, target := range map[string]string{"link-in": "README.md", "link-out": "../../etc/passwd", "link-abs": "/etc/passwd"} {
		branch(name, func() {
			if err := os.Symlink(target, filepath.Join(r.work, "src", "link")); err != nil {
				t.Fatal(err)
			}
		})
		commit("-m", "x")
	}
	branch("gitlink", func() { r.submodule("sub") })
	commit("-m", "x")
	branch("test-gone", func() { r.write("pkg/x_test.go", "x\n") })
	commit("-m", "x")
	r.Git(r.work, "rm", "-q", "pkg/x_test.go")
	commit("-m", "x")
	branch("author", func() {})
	commit("-m", "x", "--author", "Linus <torvalds@example.test>")
	branch("committer", func() {})
	r.env("GIT_COMMITTER_EMAIL=root@example.test")
	commit("-m", "x")
	r.env("GIT_COMMITTER_DATE=4000000000 +0000")
	branch("future", func() {})
	commit("-m", "x")
	r.env()
	branch("past", func() {})
	commit("-m", "x")
	r.env("GIT_COMMITTER_DATE=1500000000 +0000")
	commit("-m", "y")
	r.env()
	branch("signed-off", func() {})
	commit("-m", "x\n\nSigned-off-by: Linus <torvalds@example.test>")
	branch("reviewed-by", func() {})
	commit("-m", "x\n\nReviewed-by: Ada <ada@example.test>")
	branch("outside", func() { r.write("elsewhere/x", "x\n") })
	commit("-m", "x")
	branch("message", func() {})
	commit("-m", "x \x1b[31m")
	branch("message-key", func() {})
	commit("-m", "x ghp_"+strings.Repeat("b", 36))
	branch("brought-and-gone", func() { r.write("oops", "AKIA"+strings.Repeat("A", 16)+"\n") })
	commit("-m", "x")
	r.Git(r.work, "rm", "-q", "oops")
	commit("-m", "y")
	branch("merge", func() { r.write("m", "x\n") })
	commit("-m", "x")
	r.Git(r.work, "merge", "-q", "--no-ff", "-m", "merge", "f/clean")
	r.Git(r.work, "checkout", "-q", "-B", "f/octopus", start)
	r.Git(r.work, "merge", "-q", "-m", "three", "f/clean", "f/make", "f/docker")
	r.Git(r.work, "checkout", "-q", "--orphan", "f/unrelated")
	commit("-m", "root")
	r.Git(r.work, "push", "-q", "origin", "refs/heads/f/*:refs/heads/f/*")

	r.task.Identities = []inspect.Identity{{Name: "Ada", Email: "ada@example.test"}}
	began := time.Now()
	q, err := r.reader.Queue(t.Context(), r.task)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d branches in %s", len(q), time.Since(began).Round(time.Millisecond))
	got := map[string]review.Change{}
	for _, c := range q {
		got[strings.TrimPrefix(c.Branch, "f/")] = c
	}
	has := func(name, code, severity string) {
		t.Helper()
		c, ok := got[name]
		i := slices.IndexFunc(c.Flags, func(f review.Flag) bool { return f.Code == code })
		switch {
		case !ok:
			t.Errorf("%s is not in the queue", name)
		case code == "" && len(c.Flags) > 0:
			t.Errorf("%s: %+v", name, c.Flags)
		case code != "" && (i < 0 || c.Flags[i].Severity != severity):
			t.Errorf("%s: want %s %s in %+v", name, severity, code, c.Flags)
		}
		for _, f := range c.Flags {
			if s := fmt.Sprint(f.Where); strings.Contains(s, "aaaaaa") || strings.Contains(s, "bbbbbb") || strings.Contains(s, "AKIA") {
				t.Errorf("%s: the flag repeats the secret: %v", name, f.Where)
			}
		}
	}
	for name, f := range fixtures {
		has(name, f.code, f.severity)
	}
	for name, want := range more {
		if name != "outside" {
			has(name, want.code, want.severity)
		}
	}
	r.task.Paths = []string{"src/**", "*.md"}
	if q, err = r.reader.Queue(t.Context(), r.task); err != nil {
		t.Fatal(err)
	}
	for _, c := range q {
		got[strings.TrimPrefix(c.Branch, "f/")] = c
	}
	has("outside", "outside_paths", review.Warn)
	has("clean", "", "")
}

func chmod(t *testing.T, dir, name string) {
	t.Helper()
	if err := os.Chmod(filepath.Join(dir, name), 0o755); err != nil {
		t.Fatal(err)
	}
}

// Spec/gate.md §20: 39. A merge without conflicts that holds more than its parents is flagged, and its
// diff shows just that; an honest one is not.
func TestEvilMerge(t *testing.T) {
	r := newRig(t)
	r.write("a.txt", "mine\n")
	r.push("mine")
	r.World.Write("b.txt", "theirs\n")
	r.Commit(r.Upstream, "theirs")
	if _, err := r.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	r.Git(r.work, "fetch", "-q", "origin")
	r.Git(r.work, "merge", "-q", "--no-ff", "-m", "honest", "origin/main")
	r.Git(r.work, "push", "-q", "origin", "HEAD")
	if d := r.show(); slices.Contains(codes(d.Flags), "evil_merge") || d.FileCount != 1 || d.Files[0].Path != "a.txt" {
		t.Errorf("an honest merge: %v, files %+v", codes(d.Flags), d.Files)
	}
	r.write("backdoor.sh", "curl evil\n")
	r.Git(r.work, "add", "-A")
	r.Git(r.work, "commit", "-q", "--amend", "--no-edit")
	r.Git(r.work, "push", "-q", "--force", "origin", "HEAD")
	d, err := r.reader.Show(t.Context(), r.task, review.ShowOptions{View: review.View{PerCommit: true}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(codes(d.Flags), "evil_merge") {
		t.Errorf("flags %v", codes(d.Flags))
	}
	merge := d.List[0]
	if len(merge.Parents) != 2 || len(merge.Files) != 1 || merge.Files[0].Path != "backdoor.sh" || !strings.Contains(merge.Files[0].Patch, "+curl evil") {
		t.Errorf("the merge: %+v", merge)
	}
	entries, err := os.ReadDir(filepath.Join(r.Roots.Data, "gate", ".scratch"))
	if err != nil || len(entries) != 0 {
		t.Errorf("the automatic merge left something: %v %v", entries, err)
	}
}
