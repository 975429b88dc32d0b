package inspect

import (
	"path"
	"strings"
	"sync"

	"golang.org/x/text/unicode/norm"
)

// watched are paths whose change means more than its text. Patterns are lower case, in the syntax
// of path.Match, for the base name; one that ends in "/" is the name of a directory anywhere above
// the file.
var watched = []struct {
	code, severity string
	patterns       []string
}{
	{"ci", Warn, []string{".github/", ".gitlab/", ".circleci/", ".buildkite/", ".gitlab-ci*.y*ml", "*.gitlab-ci.y*ml", "jenkinsfile*", "azure-pipelines*", ".azure-pipelines/", ".azuredevops/",
		".travis.yml", "bitbucket-pipelines.yml", ".woodpecker*", ".woodpecker/", ".drone.*", ".forgejo/", ".gitea/", ".ci/", ".cirrus*", ".appveyor.y*ml", "appveyor.y*ml",
		".semaphore/", ".builds/", ".build.yml", "buildspec*.y*ml", "cloudbuild*.y*ml", ".tekton/", ".teamcity/", ".zuul.y*ml", "zuul.y*ml", ".zuul.d/", "zuul.d/", "bitrise.yml", "codefresh.y*ml",
		"wercker.yml", ".harness/", ".gocd.y*ml", "codemagic.y*ml", ".onedev-buildspec.yml", "codeowners", "renovate.json*", ".renovaterc*", ".mergify.yml", ".readthedocs.y*ml", "netlify.toml", "vercel.json"}},
	{"git_hooks", Warn, []string{".husky/", ".huskyrc*", "husky.config.*", ".githooks/", "githooks/", ".git-hooks/", ".pre-commit-config.y*ml", ".pre-commit-hooks.y*ml", "lefthook*.y*ml", ".lefthook*.y*ml",
		"lefthook*.toml", ".lefthook*.toml", "lefthook*.json", ".lefthook*.json", ".lefthook/", ".overcommit.yml", ".lintstagedrc*", "lint-staged.config.*", "simple-git-hooks.*", ".simple-git-hooks.*", "captainhook.json",
		".gitconfig"}},
	{"submodule", Warn, []string{".gitmodules"}},
	{"lfs", Warn, []string{".lfsconfig"}},
	{"agent_instructions", Warn, []string{"claude.md", "claude.*.md", ".claude/", ".claude-plugin/", "agents.md", "agents.*.md", "agent.md", ".agents/", ".agent/", "gemini.md", ".gemini/", ".mcp.json", "mcp.json", ".mcp/",
		".codex/", ".cursor/", ".cursorrules", ".windsurfrules", ".windsurf/", ".aider*", "conventions.md", ".opencode/", "opencode.json*", "copilot-instructions.md", ".copilot/", ".vibe/", ".pi/", "skill.md",
		".clinerules*", ".clinerules/", ".cline/", ".roo/", ".roorules*", ".roomodes", ".continue/", ".continuerules", ".kilocode/", ".kilocodemodes", ".augment/", ".augment-guidelines", ".junie/", ".kiro/", ".trae/",
		".amazonq/", ".qwen/", "qwen.md", ".crush/", "crush.json", ".crush.json", "crush.md", ".goosehints", ".goose/", ".openhands/", ".openhands_instructions", ".factory/", ".rules", "warp.md", "jules.md", ".amp/", ".cody/",
		".sourcegraph/", ".tabnine/", ".zencoder/", ".grok/"}},
	{"editor_config", Warn, []string{".vscode/", "*.code-workspace", ".idea/", ".devcontainer/", ".devcontainer.json", ".envrc*", ".env", ".env.local*", ".env.*.local", ".env.development", ".env.production", ".env.test", ".editorconfig", ".npmrc", ".yarnrc*", ".pypirc", ".tool-versions",
		"mise.toml", ".mise.toml", "mise.*.toml", ".mise/", ".vimrc", ".exrc", ".nvim.lua", ".nvimrc", ".lvimrc", ".vim/", ".gdbinit", ".lldbinit", ".dir-locals*.el", ".zed/", ".helix/", ".fleet/", ".vs/", ".settings/",
		"*.sublime-project", ".replit", ".gitpod.y*ml", ".autoenv*"}},
	// Nothing of these needs to be named by anybody to run: installing, or starting the tool, does.
	{"install_script", Warn, []string{"binding.gyp", ".pnpmfile.*", "pnpmfile.*", ".yarn/", "sitecustomize.py", "usercustomize.py", "*.pth", ".cargo/", "rust-toolchain*", ".mvn/", ".bundle/", ".bazelrc*"}},
	{"build_script", Info, []string{"makefile*", "gnumakefile", "bsdmakefile", "*.mk", "*.mak", "dockerfile*", "containerfile*", "package.json", "setup.py", "setup.cfg",
		"pyproject.toml", "conftest.py", "build.rs", "build.gradle*", "settings.gradle*", "init.gradle*", "gradlew*", "gradle-wrapper.*", "gradle.properties", "buildsrc/", "pom.xml", "mvnw*", "cmakelists.txt", "*.cmake",
		"cmakepresets.json", "cmakeuserpresets.json", "*.gemspec", "rakefile", "*.rake", "justfile", ".justfile", "tox.ini", "noxfile.py", "pytest.ini", ".pylintrc", ".flake8", "mypy.ini", "go.mod", "go.work", "cargo.toml", "gemfile",
		"compose*.y*ml", "docker-compose*.y*ml", "taskfile*.y*ml", "earthfile", "tiltfile", "vagrantfile", "meson.build", "meson_options.txt", "configure", "configure.ac", "configure.in", "autogen.sh", "*.am", "*.m4", "sconstruct",
		"sconscript", "wscript", "build", "build.bazel", "workspace", "workspace.bazel", "module.bazel", "*.bzl", "directory.*.props", "directory.*.targets", "*.targets", "*.props", "*.csproj", "*.fsproj", "*.vbproj", "*.vcxproj", "nuget.config",
		"flake.nix", "shell.nix", "default.nix", "package.swift", "build.zig", "build.zig.zon", "dune", "dune-project", "mix.exs", "rebar.config", "build.sbt", "plugins.sbt", "project.clj", "deps.edn", "composer.json", "podfile", "pubspec.yaml",
		"deno.json*", "bunfig.toml", "*.config.js", "*.config.cjs", "*.config.mjs", "*.config.ts", "*.config.cts", "*.config.mts", ".babelrc*", ".eslintrc*", ".prettierrc*", ".stylelintrc*", ".mocharc*", ".swcrc", "gulpfile*", "gruntfile*",
		".rspec", ".rubocop.yml", ".irbrc", ".pryrc", "nx.json", "turbo.json", "lerna.json", "pnpm-workspace.yaml", "procfile*", "skaffold.y*ml"}},
	{"lock_file", Info, []string{"package-lock.json", "npm-shrinkwrap.json", "yarn.lock", "pnpm-lock.yaml", "bun.lock*", "deno.lock", "go.sum", "go.work.sum", "cargo.lock",
		"poetry.lock", "uv.lock", "pdm.lock", "pixi.lock", "pipfile.lock", "requirements*.txt", "constraints*.txt", "conda-lock.y*ml", "gemfile.lock", "composer.lock", "flake.lock", "mix.lock", "package.resolved", "packages.lock.json",
		"gradle.lockfile", "verification-metadata.xml", "podfile.lock", "pubspec.lock", "cabal.project.freeze", "module.bazel.lock", "npins/"}},
	{"licence", Warn, []string{"license*", "licence*", "unlicense*", "copying*", "notice", "notice.*", "patents"}},
}

// spelling is a path as file systems see it that ignore letter case, invisible characters, the
// way in which a character is composed, or dots and blanks at the end of a name.
func spelling(p string) string {
	p = strings.ToLower(norm.NFKC.String(strings.Map(func(r rune) rune {
		if hidden(r) {
			return -1
		}
		return r
	}, p)))
	parts := strings.Split(p, "/")
	for i, c := range parts {
		if t := strings.TrimRight(c, ". "); t != "" {
			parts[i] = t
		}
	}
	return strings.Join(parts, "/")
}

// meaning is what the change of a path means.
type meaning struct{ code, severity string }

// lookup is watched, by what a path is compared with.
type lookup struct {
	names, dirs map[string][]meaning
	globs       []struct {
		pattern string
		meaning
	}
}

var watches = sync.OnceValue(func() *lookup {
	l := &lookup{names: map[string][]meaning{}, dirs: map[string][]meaning{}}
	for _, w := range watched {
		m := meaning{w.code, w.severity}
		for _, p := range w.patterns {
			if dir, ok := strings.CutSuffix(p, "/"); ok {
				l.dirs[dir] = append(l.dirs[dir], m)
			} else if !strings.ContainsAny(p, "*?[") {
				l.names[p] = append(l.names[p], m)
			} else {
				l.globs = append(l.globs, struct {
					pattern string
					meaning
				}{p, m})
			}
		}
	}
	return l
})

// of finds what a path, as spelling gives it, means.
func (l *lookup) of(p string) (found []meaning) {
	parts := strings.Split(p, "/")
	for _, dir := range parts[:len(parts)-1] {
		found = append(found, l.dirs[dir]...)
	}
	base := parts[len(parts)-1]
	found = append(found, l.names[base]...)
	for _, g := range l.globs {
		if ok, _ := path.Match(g.pattern, base); ok { // the patterns are constants
			found = append(found, g.meaning)
		}
	}
	return found
}
