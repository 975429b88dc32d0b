package review

import (
	"bytes"
	"context"
	"errors"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"terok/internal/git"
	"terok/internal/text"
)

// Severities of flags.
const (
	Info = "info"
	Warn = "warn" // runs on the reader's or CI's machine, or hides something
	Deny = "deny" // never promoted
)

// Flag says why a change deserves a closer look.
type Flag struct {
	Code     string   `json:"code"`
	Severity string   `json:"severity"`
	Where    []string `json:"where"` // paths or commits, at most 20, printable
	Count    int      `json:"count"`
}

// flagSet collects flags by code.
type flagSet struct{ flags []*Flag }

func (s *flagSet) add(severity, code, where string) {
	i := slices.IndexFunc(s.flags, func(f *Flag) bool { return f.Code == code })
	if i < 0 {
		i = len(s.flags)
		s.flags = append(s.flags, &Flag{Code: code, Severity: severity, Where: []string{}})
	}
	f := s.flags[i]
	where = text.Show(where)
	if slices.Contains(f.Where, where) {
		return
	}
	f.Count++
	if len(f.Where) < 20 {
		f.Where = append(f.Where, where)
	}
}

// list returns the flags, the gravest first.
func (s *flagSet) list() []Flag {
	rank := map[string]int{Deny: 0, Warn: 1, Info: 2}
	out := []Flag{}
	for _, f := range s.flags {
		out = append(out, *f)
	}
	slices.SortStableFunc(out, func(a, b Flag) int { return rank[a.Severity] - rank[b.Severity] })
	return out
}

// watched are paths whose change means more than its text. Patterns are lower case, in the syntax
// of path.Match, matched against the base name, or against the whole path when they contain "/";
// a pattern that ends in "/" matches a directory of that name anywhere above the file.
var watched = []struct {
	code, severity string
	patterns       []string
}{
	{"ci", Warn, []string{".github/", ".gitlab/", ".circleci/", ".buildkite/", ".gitlab-ci.yml", "jenkinsfile*", "azure-pipelines*",
		".travis.yml", "bitbucket-pipelines.yml", ".woodpecker*", ".drone.yml", ".forgejo/", ".gitea/", ".ci/"}},
	{"git_hooks", Warn, []string{".husky/", ".githooks/", "githooks/", ".pre-commit-config.y*ml", ".pre-commit-hooks.y*ml", "lefthook.y*ml",
		".lefthook/", ".overcommit.yml"}},
	{"gitattributes", Warn, []string{".gitattributes"}},
	{"submodule", Warn, []string{".gitmodules"}},
	{"agent_instructions", Warn, []string{"claude.md", "claude.local.md", "agents.md", "gemini.md", ".mcp.json", ".claude/", ".codex/", ".cursor/",
		".cursorrules", ".windsurfrules", ".aider*", ".opencode/", "opencode.json*", "copilot-instructions.md", ".vibe/", ".pi/"}},
	{"editor_config", Warn, []string{".vscode/", ".idea/", ".devcontainer/", ".devcontainer.json", ".envrc", ".env", ".editorconfig", ".npmrc",
		".yarnrc*", ".pypirc", ".tool-versions", "mise.toml", ".mise.toml"}},
	{"build_script", Info, []string{"makefile", "gnumakefile", "*.mk", "dockerfile*", "containerfile*", "package.json", "setup.py", "setup.cfg",
		"pyproject.toml", "conftest.py", "build.rs", "build.gradle*", "pom.xml", "cmakelists.txt", "*.gemspec", "rakefile", "justfile", "tox.ini",
		"noxfile.py", "go.mod", "cargo.toml", "gemfile", "compose*.y*ml", "docker-compose*.y*ml"}},
	{"lock_file", Info, []string{"package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock*", "go.sum", "cargo.lock",
		"poetry.lock", "uv.lock", "pdm.lock", "pipfile.lock", "requirements*.txt", "gemfile.lock", "composer.lock", "flake.lock", "mix.lock"}},
}

func (s *flagSet) path(p, oldMode, newMode string) {
	lower := strings.ToLower(p)
	for _, w := range watched {
		if slices.ContainsFunc(w.patterns, func(pattern string) bool { return matches(pattern, lower) }) {
			s.add(w.severity, w.code, p)
		}
	}
	switch {
	case newMode == "160000" || oldMode == "160000":
		s.add(Warn, "submodule", p)
	case newMode == "120000":
		s.add(Warn, "symlink", p)
	case newMode == "100755" && oldMode != "100755":
		s.add(Warn, "executable", p)
	}
	if newMode == "000000" && strings.Contains(lower, "test") {
		s.add(Info, "test_deleted", p)
	}
	if !utf8.ValidString(p) || strings.ContainsFunc(p, func(r rune) bool { return hidden(r) || unicode.IsControl(r) }) {
		s.add(Warn, "hidden_characters", p)
	}
	for component := range strings.SplitSeq(lower, "/") {
		component = strings.TrimRight(strings.Map(func(r rune) rune {
			if hidden(r) {
				return -1 // file systems that ignore such characters see another name
			}
			return r
		}, component), ". ")
		if component == ".git" || component == "git~1" || component == ".." || strings.HasPrefix(component, ".git:") {
			s.add(Deny, "git_directory", p)
		}
	}
}

func matches(pattern, p string) bool {
	if dir, ok := strings.CutSuffix(pattern, "/"); ok {
		return strings.HasPrefix(p, dir+"/") || strings.Contains(p, "/"+dir+"/")
	}
	ok, _ := path.Match(pattern, path.Base(p)) // the patterns are constants
	return ok
}

// secrets are shapes of credentials. What they match is never repeated in a flag.
var secrets = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|\bAGE-SECRET-KEY-1|\bterok-[a-z]-[A-Za-z0-9_-]{20}|\bsk-ant-[A-Za-z0-9_-]{20}|` +
	`\bsk-(?:proj-)?[A-Za-z0-9_-]{40}|\bgh[pousr]_[A-Za-z0-9]{30}|\bgithub_pat_[A-Za-z0-9_]{30}|\bglpat-[A-Za-z0-9_-]{20}|\bAKIA[0-9A-Z]{16}\b|` +
	`\bxox[abprs]-[A-Za-z0-9-]{20}|\bnpm_[A-Za-z0-9]{36}|\bAIza[0-9A-Za-z_-]{35}`)

// content looks at text that an agent wrote; in a file, carriage returns at line ends are usual.
func (s *flagSet) content(where, content string, file bool) {
	if file {
		content = strings.TrimSuffix(content, "\r")
	}
	for _, r := range content {
		if r >= 0x20 && r < 0x7f || r == '\n' || r == '\t' {
			continue
		}
		switch {
		case hidden(r):
			s.add(Warn, "hidden_characters", where)
		case unicode.IsControl(r):
			s.add(Warn, "control_characters", where)
		}
	}
	if secrets.MatchString(content) {
		s.add(Warn, "secret", where)
	}
	if file && len(content) > 5000 {
		s.add(Info, "long_line", where)
	}
}

// hidden are characters that change what a reader sees without being seen: bidirectional
// controls, zero-width and other format characters, tags, line and paragraph separators.
func hidden(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector) && r != '\ufe0f' && r != '\u200d' || // emoji use these two
		r == '\u115f' || r == '\u1160' || r == '\u3164' || r == '\uffa0'
}

// patchScan is a writer that keeps the beginning of a patch and looks at every added line.
type patchScan struct {
	flags *flagSet
	keep  int
	shown []byte
	cut   bool
	read  int
	line  []byte
	file  string
}

var errScanned = errors.New("enough read")

func (s *patchScan) Write(p []byte) (int, error) {
	if room := s.keep - len(s.shown); room > 0 {
		s.shown = append(s.shown, p[:min(room, len(p))]...)
	}
	if s.read += len(p); s.read > s.keep {
		s.cut = true
	}
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte{'\n'})
		if len(s.line) < 64<<10 {
			s.line = append(s.line, line...)
		}
		if rest = after; whole {
			s.take()
		}
	}
	if s.read > maxScan {
		s.flags.add(Warn, "too_large", "only the first 64 MiB of the diff were looked at")
		return 0, errScanned
	}
	return len(p), nil
}

func (s *patchScan) take() {
	line := string(s.line)
	s.line = s.line[:0]
	if name, ok := strings.CutPrefix(line, "+++ "); ok {
		s.file = strings.TrimPrefix(strings.Trim(name, `"`), "b/")
		return
	}
	if added, ok := strings.CutPrefix(line, "+"); ok {
		s.flags.content(s.file, added, true)
	}
}

// patch streams the diff of a change through scan.
func (p *repo) patch(ctx context.Context, c Change, scan *patchScan) error {
	unified := "-U3"
	if scan.keep == 0 {
		unified = "-U0"
	}
	err := p.Git.Stream(ctx, p.cmd("diff-tree", "-r", "-p", unified, "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color",
		"--submodule=short", "--ignore-submodules=none", "--src-prefix=a/", "--dst-prefix=b/", c.from(), c.Tip), scan)
	if scan.read > maxScan {
		return nil // stopped by us; the flag says so
	}
	if git.IsExit(err, -1) && errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		scan.cut = true
		scan.flags.add(Warn, "too_large", "the diff takes longer than a minute")
		return nil
	}
	scan.take()
	return err
}
