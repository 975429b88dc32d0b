package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/cli"
)

func TestWrite(t *testing.T) {
	t.Setenv("TEROK_DATE", "2026-01-02T03:04:05Z")
	read := func() map[string]string {
		dir := t.TempDir()
		if err := write(cli.Command(), dir); err != nil {
			t.Fatal(err)
		}
		files := map[string]string{}
		found, _ := filepath.Glob(filepath.Join(dir, "*", "*"))
		for _, f := range found {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			files[filepath.Base(f)] = string(data)
		}
		return files
	}
	files := read()
	for name, want := range map[string]string{
		"terok.1": "terok-sandbox(1)", "terok-sandbox-run.1": "\\fB--allow", "terok-completion.1": ".SH EXAMPLE",
		"terok.bash": "__start_terok", "_terok": "#compdef terok", "terok.fish": "complete -c terok",
	} {
		if !strings.Contains(files[name], want) {
			t.Errorf("%s has no %q: %.300s", name, want, files[name])
		}
	}
	if strings.Contains(files["terok.1"], "oci-hook") {
		t.Error("a process is shown as a command")
	}
	again := read()
	for name := range files {
		if files[name] != again[name] {
			t.Errorf("%s is different the second time", name)
		}
	}
}
