package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// layers, from the bottom up. A package may import its own layer and those below; packages below
// a named one belong to its layer.
var layers = []struct {
	name     string
	packages []string
}{
	{"ground", []string{"sandbox", "control", "audit", "podman", "git", "config", "state", "text", "problem", "version", "peer", "child", "leak", "deps", "sessionbus"}},
	{"parts", []string{"shield", "clearance", "vault", "gate", "relay", "pager", "transcript", "killswitch", "verify"}},
	{"processes", []string{"launch", "supervisor", "guest"}},
	{"state of work", []string{"project", "task", "roster", "image", "demo"}},
	{"core", []string{"."}}, // the root package
	{"faces", []string{"cli", "tui", "web", "notify"}},
	{"programs", []string{"cmd"}},
	{"tests", []string{"test"}},
}

// guestMayImport: the guest runs inside the container, beside the workload. It knows the wire
// and nothing else.
var guestMayImport = []string{"sandbox", "control", "text", "problem", "version"}

// mayStart lists who starts programs on the host, and with what.
var mayStart = map[string][]string{
	"child":                     {"*"},               // the one way in which podman and git are run
	"podman":                    {"*"},               // podman
	"git":                       {"*"},               // git
	"supervisor":                {"*"},               // itself, as parent and worker
	"relay":                     {"*"},               // the podman command it is handed, on a pseudo-terminal
	"pager":                     {"*"},               // the person's own pager and delta, with sanitised text
	"guest":                     {"*"},               // the workload; this is inside the container
	"image":                     {"exec.LookPath"},   // looks whether mmdebstrap is there; podman unshare runs it
	"launch":                    {"exec.ExitError"},  // reads podman's exit code
	"vault/keyholder/holder":    {"*"},               // itself, as the keyholder
	"vault/keyring/keyringtest": {"*"},               // a bus and a keyring, for tests
	".":                         {"os.StartProcess"}, // itself, as the notifier
}

// starts are the ways to start a program in Go, by import path and identifier.
var starts = map[string]*regexp.Regexp{
	"os/exec":               regexp.MustCompile(`.`),
	"os":                    regexp.MustCompile(`^StartProcess$`),
	"syscall":               regexp.MustCompile(`^(ForkExec|Exec|StartProcess)$`),
	"golang.org/x/sys/unix": regexp.MustCompile(`^Exec$`),
}

const maxLines = 500

var noIdea = []string{"util", "utils", "common", "helpers", "misc", "base"}

// pkg is a package of the module, without its tests.
type pkg struct {
	dir     string // "." for the root, without "internal/"
	files   map[string]*ast.File
	imports map[string]token.Position // import path → a place
	doc     bool
}

// load reads every Go file of the module. Rules that need names are told by their key.
func load(t *testing.T) (map[string]*pkg, *token.FileSet) {
	t.Helper()
	root := "../.."
	fset := token.NewFileSet()
	pkgs := map[string]*pkg{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		dir = strings.TrimPrefix(filepath.ToSlash(dir), "internal/")
		if pkgs[dir] == nil {
			pkgs[dir] = &pkg{dir: dir, files: map[string]*ast.File{}, imports: map[string]token.Position{}}
		}
		pkgs[dir].files[p] = f
		pkgs[dir].doc = pkgs[dir].doc || f.Doc != nil && len(f.Doc.Text()) > 40
		for _, spec := range f.Imports {
			pkgs[dir].imports[strings.Trim(spec.Path.Value, `"`)] = fset.Position(spec.Pos())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pkgs) < 10 || pkgs["."] == nil || pkgs["cmd/terok"] == nil {
		t.Fatalf("only %d packages were found: this test looks in the wrong place", len(pkgs))
	}
	return pkgs, fset
}

// ours turns an import path of this module into a key, or returns false.
func ours(importPath string) (string, bool) {
	if importPath == "terok" {
		return ".", true
	}
	rest, ok := strings.CutPrefix(importPath, "terok/")
	return strings.TrimPrefix(rest, "internal/"), ok
}

// layer is the number of a package's layer, or -1.
func layer(dir string) int {
	first, _, _ := strings.Cut(dir, "/")
	return slices.IndexFunc(layers, func(l struct {
		name     string
		packages []string
	}) bool {
		return slices.Contains(l.packages, first)
	})
}

// reach is everything of ours that a package imports, directly or not, with the way to it.
func reach(pkgs map[string]*pkg, from string) map[string]string {
	seen := map[string]string{from: from}
	for todo := []string{from}; len(todo) > 0; todo = todo[1:] {
		p := pkgs[todo[0]]
		if p == nil {
			continue
		}
		for imp := range p.imports {
			if dir, ok := ours(imp); ok && seen[dir] == "" {
				seen[dir] = seen[todo[0]] + " → " + dir
				todo = append(todo, dir)
			}
		}
	}
	delete(seen, from)
	return seen
}

func TestImportsPointDown(t *testing.T) {
	pkgs, _ := load(t)
	for dir, p := range pkgs {
		own := layer(dir)
		if own < 0 {
			t.Errorf("package %s has no layer: put it into layers in this test and into docs/dev/architecture.md", dir)
			continue
		}
		for imp, at := range p.imports {
			if to, ok := ours(imp); ok && layer(to) > own {
				t.Errorf("%s: %s (%s) imports %s (%s): imports point down", at, dir, layers[own].name, to, layers[layer(to)].name)
			}
		}
	}
}

// TestSupervisorNeverSeesTheStore: what parses hostile bytes must not be able to hold every key.
func TestSupervisorNeverSeesTheStore(t *testing.T) {
	pkgs, _ := load(t)
	if way, ok := reach(pkgs, "supervisor")["vault/store"]; ok {
		t.Errorf("the supervisor imports the vault: %s", way)
	}
}

// TestGuestIsSmall: the guest is mounted into every container.
func TestGuestIsSmall(t *testing.T) {
	pkgs, _ := load(t)
	for dir, p := range pkgs {
		if dir != "guest" && !strings.HasPrefix(dir, "guest/") {
			continue
		}
		for imp, at := range p.imports {
			first, _, _ := strings.Cut(imp, "/")
			if to, ok := ours(imp); ok {
				to, _, _ = strings.Cut(to, "/")
				if to != "guest" && !slices.Contains(guestMayImport, to) {
					t.Errorf("%s: the guest imports %s", at, imp)
				}
			} else if strings.Contains(first, ".") && !strings.HasPrefix(imp, "golang.org/x/sys/") && imp != "golang.org/x/term" {
				t.Errorf("%s: the guest imports %s", at, imp)
			}
		}
		for to, way := range reach(pkgs, dir) {
			if layer(to) > 0 && to != "guest" && !strings.HasPrefix(to, "guest/") {
				t.Errorf("the guest reaches a part: %s", way)
			}
		}
	}
}

// TestPolicyIsPure: what decides has no input but its arguments.
func TestPolicyIsPure(t *testing.T) {
	pkgs, _ := load(t)
	p := pkgs["shield/policy"]
	if p == nil {
		t.Fatal("there is no shield/policy")
	}
	for imp, at := range p.imports {
		first, _, _ := strings.Cut(imp, "/")
		if _, ok := ours(imp); ok || strings.Contains(first, ".") {
			t.Errorf("%s: policy imports %s; it uses the standard library only", at, imp)
		}
		if slices.Contains([]string{"os", "io", "net", "net/http", "os/exec", "syscall", "log", "unsafe"}, imp) {
			t.Errorf("%s: policy imports %s; it is pure", at, imp)
		}
	}
}

// TestWhoStartsPrograms: podman and git are the only programs that terok runs on the host, and
// each has one place that runs it.
func TestWhoStartsPrograms(t *testing.T) {
	pkgs, fset := load(t)
	used := map[string]bool{}
	for dir, p := range pkgs {
		if layers[max(layer(dir), 0)].name == "tests" {
			continue
		}
		allowed := mayStart[dir]
		for _, f := range p.files {
			names := map[string]string{} // local name → import path
			for _, spec := range f.Imports {
				imp := strings.Trim(spec.Path.Value, `"`)
				if starts[imp] == nil {
					continue
				}
				names[path.Base(imp)] = imp
				if spec.Name != nil {
					names[spec.Name.Name] = imp
					if spec.Name.Name == "." {
						t.Errorf("%s: a dot import hides what it uses", fset.Position(spec.Pos()))
					}
				}
			}
			ast.Inspect(f, func(n ast.Node) bool {
				sel, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				x, ok := sel.X.(*ast.Ident)
				if !ok {
					return true
				}
				imp := names[x.Name]
				if imp == "" || !starts[imp].MatchString(sel.Sel.Name) {
					return true
				}
				used[dir] = true
				what := path.Base(imp) + "." + sel.Sel.Name
				if !slices.Contains(allowed, "*") && !slices.Contains(allowed, what) {
					t.Errorf("%s: %s uses %s; programs are started by packages podman and git", fset.Position(sel.Pos()), dir, what)
				}
				return true
			})
		}
	}
	for dir := range mayStart {
		if !used[dir] {
			t.Errorf("the exception for %s is out of date", dir)
		}
	}
}

func TestPackagesHaveOneIdea(t *testing.T) {
	pkgs, _ := load(t)
	for _, dir := range slices.Sorted(maps.Keys(pkgs)) {
		if name := path.Base(dir); slices.Contains(noIdea, name) {
			t.Errorf("package %s: %q is no idea", dir, name)
		}
		if !pkgs[dir].doc {
			t.Errorf("package %s has no doc comment that says what it guarantees and refuses", dir)
		}
	}
}

var unfinished = regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)

func TestFiles(t *testing.T) {
	pkgs, _ := load(t)
	for _, p := range pkgs {
		for name := range p.files {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for line := range strings.Lines(string(data)) {
				n++
				if m := unfinished.FindString(line); m != "" && p.dir != "test/layout" {
					t.Errorf("%s:%d: %s", name, n, m)
				}
			}
			if n > maxLines {
				t.Errorf("%s has %d lines; a file over %d is two ideas", name, n, maxLines)
			}
		}
	}
}
