package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"terok"
	"terok/internal/gate/inspect"
	"terok/internal/vault/keyholder/holder"
)

// The scripts in testdata are what a person types. They need no podman and no network, and give
// the same as root and as an ordinary user.
//
//	exits N terok ARGS...      like exec, but the exit code must be N
//	json SCHEMA [KEY...]       stdout is one object of the published shape; data has these keys
//	problem CODE               stderr is one error object with this code and the last exit code

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == inspect.Command { // of Main inside a test
		os.Exit(inspect.Main(os.Args[2:]))
	}
	testscript.Main(m, map[string]func(){"terok": func() {
		if len(os.Args) > 1 && os.Args[1] == inspect.Command {
			os.Exit(inspect.Main(os.Args[2:]))
		}
		if len(os.Args) > 1 && os.Args[1] == "keyholder" { // as cmd/terok does
			os.Exit(holder.Main(os.Args[2:]))
		}
		if len(os.Args) > 1 && os.Args[1] == "keyholder-guard" {
			os.Exit(holder.GuardMain(os.Args[2:]))
		}
		if len(os.Args) > 1 && os.Args[1] == terok.WakeCommand {
			os.Exit(WakeMain(os.Args[2:]))
		}
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(Main(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireExplicitExec: true,
		Setup: func(e *testscript.Env) error {
			for key, dir := range map[string]string{"HOME": "home", "XDG_CONFIG_HOME": "c", "XDG_DATA_HOME": "d", "XDG_RUNTIME_DIR": "r"} {
				e.Setenv(key, filepath.Join(e.WorkDir, dir))
				if err := os.MkdirAll(filepath.Join(e.WorkDir, dir), 0o700); err != nil {
					return err
				}
			}
			e.Setenv("GIT_CONFIG_NOSYSTEM", "1")
			e.Setenv("TEROK_ONLY", filepath.SplitList(e.Getenv("PATH"))[0]) // a PATH that has nothing else
			return nil
		},
		Condition: func(cond string) (bool, error) {
			if cond == "userns" { // may we make a user namespace?
				return exec.Command("unshare", "--user", "--map-root-user", "--mount", "true").Run() == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": exits, "json": isJSON, "problem": isProblem,
		},
	})
}

// exitFile remembers the last exit code for problem.
const exitFile = ".exit"

func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits N COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		exit, ok := errors.AsType[*exec.ExitError](err)
		if !ok {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit %d, want %d", got, want)
	}
	ts.Check(os.WriteFile(ts.MkAbs(exitFile), []byte(args[0]), 0o600))
}

func isJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: json SCHEMA [KEY...]")
	}
	var got map[string]any
	one(ts, ts.ReadFile("stdout"), &got)
	if keys := slices.Sorted(maps.Keys(got)); !slices.Equal(keys, []string{"data", "schema", "warnings"}) {
		ts.Fatalf("keys %v", keys)
	}
	if want := "terok." + args[0] + "/1"; got["schema"] != want {
		ts.Fatalf("schema %v, want %s", got["schema"], want)
	}
	if _, ok := got["warnings"].([]any); !ok {
		ts.Fatalf("warnings are %v", got["warnings"])
	}
	if got["data"] == nil {
		ts.Fatalf("data is null: an empty list must be []")
	}
	for _, key := range args[1:] {
		data, _ := got["data"].(map[string]any)
		if list, ok := got["data"].([]any); ok && len(list) > 0 {
			data, _ = list[0].(map[string]any)
		}
		if _, ok := data[key]; !ok {
			ts.Fatalf("data has no %q: %v", key, got["data"])
		}
	}
	snake(ts, "", got)
}

// snake refuses keys that are not snake_case: a Go name that came through.
func snake(ts *testscript.TestScript, path string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			if k != strings.ToLower(k) || strings.ContainsAny(k, "- ") {
				ts.Fatalf("key %s%q is not snake_case", path, k)
			}
			snake(ts, path+k+".", x)
		}
	case []any:
		for _, x := range v {
			snake(ts, path, x)
		}
	}
}

func isProblem(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: problem CODE")
	}
	var got struct {
		Error map[string]any `json:"error"`
	}
	one(ts, ts.ReadFile("stderr"), &got)
	if keys := slices.Sorted(maps.Keys(got.Error)); !slices.Equal(keys, []string{"code", "details", "exit", "hint", "message"}) {
		ts.Fatalf("keys %v", keys)
	}
	if got.Error["code"] != args[0] {
		ts.Fatalf("code %v, want %s: %v", got.Error["code"], args[0], got.Error["message"])
	}
	if want := ts.ReadFile(exitFile); fmt.Sprint(got.Error["exit"]) != want {
		ts.Fatalf("exit %v in JSON, the process gave %s", got.Error["exit"], want)
	}
}

// one decodes text that must be one JSON object on one line.
func one(ts *testscript.TestScript, text string, into any) {
	if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") {
		ts.Fatalf("not one line: %q", text)
	}
	if err := json.Unmarshal([]byte(text), into); err != nil {
		ts.Fatalf("%v: %q", err, text)
	}
}
