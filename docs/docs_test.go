// Package docs holds the user's pages; its tests hold them to the program: every configuration
// key is there and none that does not exist, every command line parses, every named test exists,
// every link leads somewhere.
package docs

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"terok/internal/cli"
	"terok/internal/config"
	"terok/internal/project"
	"terok/internal/roster"
	"terok/internal/state"
)

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// pages are the user's pages and the README.
func pages(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("*.md")
	if err != nil || len(found) < 5 {
		t.Fatalf("%v %v", found, err)
	}
	return append(found, "../README.md", "../SECURITY.md")
}

// TestConfigurationKeys: the tables have exactly the keys of the files.
func TestConfigurationKeys(t *testing.T) {
	page := read(t, "configuration.md")
	roster := map[string][]string{"providerFile": nil, "agentFile": nil}
	for name := range roster {
		for _, k := range sourceKeys(t, "../internal/roster", name, "") {
			// Three kinds of credentials have the same keys.
			if k = strings.Replace(k, "auth.api_key", "auth.KIND", 1); k != "auth.KIND" && !strings.HasPrefix(k, "auth.oauth") && !strings.HasPrefix(k, "auth.pat") {
				roster[name] = append(roster[name], k)
			}
		}
	}
	for section, want := range map[string][]string{
		"config.yml":         typeKeys(reflect.TypeFor[config.Global](), ""),
		"project.yml":        typeKeys(reflect.TypeFor[project.Config](), ""),
		"providers/NAME.yml": roster["providerFile"],
		"agents/NAME.yml":    roster["agentFile"],
	} {
		_, rest, ok := strings.Cut(page, "\n## "+section+"\n")
		if !ok {
			t.Errorf("no section %s", section)
			continue
		}
		text, _, _ := strings.Cut(rest, "\n## ")
		var got []string
		for _, m := range regexp.MustCompile("(?m)^\\| `([A-Za-z0-9_.\\[\\]-]+)` \\|").FindAllStringSubmatch(text, -1) {
			got = append(got, m[1])
		}
		if len(want) < 5 {
			t.Errorf("%s: only %v were found in the program", section, want)
		}
		for _, k := range want {
			if !slices.Contains(got, k) {
				t.Errorf("%s: key %s is not on the page", section, k)
			}
		}
		for _, k := range got {
			if !slices.Contains(want, k) {
				t.Errorf("%s: key %s does not exist", section, k)
			}
		}
	}
}

// typeKeys lists the dotted keys of a struct.
func typeKeys(t reflect.Type, at string) []string {
	var keys []string
	for i := range t.NumField() {
		f := t.Field(i)
		name, opts, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		switch {
		case name == "-":
		case opts == "inline":
			keys = append(keys, typeKeys(f.Type, at)...)
		case f.Type.Kind() == reflect.Struct && strings.HasPrefix(f.Type.PkgPath(), "terok/"), f.Type.Kind() == reflect.Struct && f.Type.Name() == "":
			keys = append(keys, typeKeys(f.Type, at+name+".")...)
		default:
			keys = append(keys, at+name)
		}
	}
	return keys
}

// sourceKeys does the same for a type that is not exported, from its source.
func sourceKeys(t *testing.T, dir, name, at string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]*ast.StructType{}
	for _, f := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			if spec, ok := n.(*ast.TypeSpec); ok {
				if s, ok := spec.Type.(*ast.StructType); ok {
					types[spec.Name.Name] = s
				}
			}
			return true
		})
	}
	var keys func(name, at string) []string
	keys = func(name, at string) []string {
		var out []string
		for _, f := range types[name].Fields.List {
			key, _, _ := strings.Cut(reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("yaml"), ",")
			list := ""
			typ := f.Type
			if p, ok := typ.(*ast.StarExpr); ok {
				typ = p.X
			}
			if array, ok := typ.(*ast.ArrayType); ok {
				typ, list = array.Elt, "[]"
			}
			if inner, ok := typ.(*ast.Ident); ok && types[inner.Name] != nil {
				if list != "" {
					out = append(out, at+key)
				}
				if key != "" {
					key += list + "."
				}
				out = append(out, keys(inner.Name, at+key)...)
				continue
			}
			out = append(out, at+key)
		}
		return out
	}
	if types[name] == nil {
		t.Fatalf("%s has no type %s", dir, name)
	}
	return keys(name, at)
}

// TestCommands: what stands on the pages can be typed.
func TestCommands(t *testing.T) {
	root := cli.Command()
	count := 0
	command := regexp.MustCompile("terok [a-z][^`\n]*")
	for _, page := range pages(t) {
		fenced := false
		for n, line := range strings.Split(read(t, page), "\n") {
			var commands []string
			switch {
			case strings.HasPrefix(line, "```"):
				fenced = !fenced
			case fenced && (strings.HasPrefix(line, "$ ") || page == "../README.md" && strings.HasPrefix(line, "terok ")):
				commands = command.FindAllString(line, -1)
			case !fenced:
				for _, span := range regexp.MustCompile("`terok [a-z][^`]*`").FindAllString(line, -1) {
					commands = append(commands, strings.Trim(span, "`"))
				}
			}
			for _, c := range commands {
				count++
				if err := checkCommand(root, c); err != "" {
					t.Errorf("%s:%d: %s: %s", page, n+1, c, err)
				}
			}
		}
	}
	if count < 40 {
		t.Errorf("only %d commands were found", count)
	}
}

func checkCommand(root *cobra.Command, line string) string {
	words := strings.Fields(line)[1:]
	if words[0] == "guest" { // inside a container, no face
		return ""
	}
	c, rest, err := root.Find(words)
	if err != nil || c == root {
		return "no such command"
	}
	if len(rest) > 0 && !c.Runnable() || len(c.Commands()) > 0 && len(rest) > 0 && c.Name() != "review" && !strings.HasPrefix(rest[0], "-") {
		return "no such verb"
	}
	for _, w := range words {
		if w == "--" || w == "#" || w == "|" || w == "<" {
			break
		}
		name, ok := strings.CutPrefix(w, "--")
		name, _, _ = strings.Cut(strings.TrimRight(name, "`,.)"), "=")
		if ok && c.Flag(name) == nil && root.PersistentFlags().Lookup(name) == nil {
			return "no flag --" + name
		}
	}
	return ""
}

// TestAttacks: every test that the tables of guarantees and of acceptance name exists.
func TestAttacks(t *testing.T) {
	count := 0
	all := read(t, "attacks.md") + read(t, "dev/shield-acceptance.md") + read(t, "dev/vault-acceptance.md") + read(t, "dev/gate-acceptance.md")
	for _, m := range regexp.MustCompile("`([a-z0-9/]+)` ((?:Test|Fuzz)[A-Za-z0-9_, ]+)").FindAllStringSubmatch(all, -1) {
		source := ""
		files, _ := filepath.Glob(filepath.Join("..", m[1], "*_test.go"))
		for _, f := range files {
			source += read(t, f)
		}
		for _, name := range strings.FieldsFunc(m[2], func(r rune) bool { return r == ',' || r == ' ' }) {
			count++
			if !strings.Contains(source, "\nfunc "+name+"(") {
				t.Errorf("attacks.md or an acceptance page: %s has no %s", m[1], name)
			}
		}
	}
	if count < 40 {
		t.Errorf("only %d tests are named", count)
	}
}

// TestLinks: relative links and their headings exist.
func TestLinks(t *testing.T) {
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(read(t, page), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			file, heading, _ := strings.Cut(m[1], "#")
			path := filepath.Join(filepath.Dir(page), file)
			if file == "" {
				path = page
			}
			data, err := os.ReadFile(path)
			if err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if heading != "" && !slices.Contains(headings(string(data)), heading) {
				t.Errorf("%s: %s has no heading #%s", page, path, heading)
			}
		}
	}
}

// headings are a page's anchors as forges make them.
func headings(page string) []string {
	var out []string
	for line := range strings.Lines(page) {
		if title, ok := strings.CutPrefix(line, "#"); ok {
			title = strings.ToLower(strings.TrimSpace(strings.TrimLeft(title, "#")))
			title = regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(title, "")
			out = append(out, strings.ReplaceAll(title, " ", "-"))
		}
	}
	return out
}

// TestExamples: the YAML on the pages is accepted by the loaders.
func TestExamples(t *testing.T) {
	count := 0
	for _, page := range pages(t) {
		for _, m := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(read(t, page), -1) {
			count++
			global := config.Defaults()
			probe := project.Defaults(global)
			var err error
			switch {
			case strings.Contains(m[1], "/terok/providers/"):
				roots := state.Roots{Config: t.TempDir()}
				if err := os.MkdirAll(roots.ProvidersDir(), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(roots.ProvidersDir(), "anthropic.yml"), []byte(m[1]), 0o600); err != nil {
					t.Fatal(err)
				}
				var r *roster.Roster
				if r, err = roster.Load(roots); err == nil {
					err = errors.Join(r.Problems()...)
				}
			case strings.Contains(m[1], "project:"), strings.Contains(m[1], "profiles:"), strings.Contains(m[1], "override:"):
				err = config.Decode(page, []byte(m[1]), &probe)
			default:
				err = config.Decode(page, []byte(m[1]), &global)
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", page, err, m[1])
			}
		}
	}
	if count < 3 {
		t.Errorf("only %d examples were found", count)
	}
}
