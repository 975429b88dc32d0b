package store_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
)

// TestSecretsInNoArgument: what reaching an upstream needs is in no argument of git or of anything that git
// starts, while it runs; every process of the machine can read those. spec/gate.md §20: 12 (ps).
func TestSecretsInNoArgument(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	w.Git(w.Dir, "clone", "-q", "--bare", w.Upstream, "up.git")
	srv := w.Serve(w.Dir)
	srv.Password = "hunter2-0123456789"
	answer := filepath.Join(w.Dir, "answer")
	if err := os.WriteFile(answer, []byte("username=ada\npassword="+srv.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.Store.Access = func(context.Context, string, store.Upstream) (store.Access, error) {
		return store.Access{Config: []string{"http.sslCAInfo=" + srv.CA, "http.extraHeader=X-Secret: " + srv.Password,
			"credential." + srv.URL + ".helper=!cat '" + answer + "'"}}, nil
	}
	stop, seen := make(chan struct{}), make(chan map[string]bool)
	go func() {
		lines := map[string]bool{}
		for {
			select {
			case <-stop:
				seen <- lines
				return
			case <-time.After(time.Millisecond):
			}
			files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
			for _, f := range files {
				if data, err := os.ReadFile(f); err == nil && strings.Contains(string(data), "git") {
					lines[strings.ReplaceAll(string(data), "\x00", " ")] = true
				}
			}
		}
	}()
	_, err := w.Store.Init(t.Context(), gatetest.Project, srv.URL+"/up.git")
	close(stop)
	lines := <-seen
	if err != nil {
		t.Fatal(err)
	}
	remote := false
	for line := range lines {
		remote = remote || strings.Contains(line, srv.URL)
		if strings.Contains(line, srv.Password) {
			t.Errorf("in an argument: %s", strings.ReplaceAll(line, srv.Password, "***"))
		}
	}
	if !remote {
		t.Error("no git that talked to upstream was seen")
	}
	var words strings.Builder
	for _, e := range w.Ledger.Events("gate_synced") {
		words.WriteString(e.Reason + e.Name)
	}
	state, err := os.ReadFile(filepath.Join(w.Roots.GateDir(gatetest.Project), "state.json"))
	if err != nil || strings.Contains(string(state)+words.String(), srv.Password) {
		t.Errorf("state or ledger hold it: %v", err)
	}
}
