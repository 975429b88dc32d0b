package layout

import "testing"

// TestToolsStayOut: what only the build needs must not make the program bigger.
func TestToolsStayOut(t *testing.T) {
	pkgs, _ := load(t)
	for dir, p := range pkgs {
		if dir == "cmd/terok-man" || dir == "deps" {
			continue
		}
		for _, tool := range []string{"github.com/spf13/cobra/doc", "github.com/rogpeppe/go-internal/testscript"} {
			if at, ok := p.imports[tool]; ok {
				t.Errorf("%s: %s imports %s; only cmd/terok-man and tests may", at, dir, tool)
			}
		}
	}
}
