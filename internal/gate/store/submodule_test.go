package store_test

import (
	"path/filepath"
	"strings"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
)

// TestRelativeURL: as git resolves them (t/t0060-path-utils.sh of git has the same cases).
func TestRelativeURL(t *testing.T) {
	for _, c := range [][3]string{
		{"https://git.test/ada/shop.git", "../lib.git", "https://git.test/ada/lib.git"},
		{"https://git.test/ada/shop.git/", "../../bob/lib", "https://git.test/bob/lib"},
		{"https://git.test/ada/shop", "./sub", "https://git.test/ada/shop/sub"},
		{"git@git.test:ada/shop", "../lib", "git@git.test:ada/lib"},
		{"git@git.test:shop", "../lib", "git@git.test:lib"},
		{"/srv/git/shop.git", "../lib.git/", "/srv/git/lib.git"},
		{"http://10.0.2.2:9418/task.git", "../lib.git", "http://10.0.2.2:9418/lib.git"},
		{"git@git.test:shop", "../../../lib", ""},
		{"https://git.test/a/b", "../x/../../lib", ""},
	} {
		got, err := store.RelativeURL(c[0], c[1])
		if got != c[2] || (err != nil) != (c[2] == "") {
			t.Errorf("%s + %s = %q, %v; want %q", c[0], c[1], got, err, c[2])
		}
	}
}

// modules writes .gitmodules into upstream and returns what the gate makes of it.
func modules(t *testing.T, w *gatetest.World, allowed []string, urls ...string) []store.Submodule {
	t.Helper()
	var b strings.Builder
	for i, u := range urls {
		b.WriteString("[submodule \"m" + string(rune('a'+i)) + "\"]\n\tpath = m\n\turl = \"" + strings.ReplaceAll(u, `\`, `\\`) + "\"\n")
	}
	w.Write(".gitmodules", b.String())
	w.Commit(w.Upstream, "submodules")
	if _, err := w.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	list, err := w.Store.SyncSubmodules(t.Context(), gatetest.Project, allowed)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(urls) {
		t.Fatalf("%d submodules of %d: %+v", len(list), len(urls), list)
	}
	return list
}

// Spec/gate.md §20: 57. Odd addresses are no addresses, listed or not, and nothing is asked that is not
// listed.
func TestSubmodulesRefused(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	w.Gate("k3v9p")
	b := w.Serve(w.Dir)
	canary := filepath.Join(w.Dir, "canary")
	odd := []string{"ext::sh -c 'touch " + canary + "'", "file://" + w.Upstream, w.Upstream,
		"fd::7", "git://git.test/x", "http://git.test/x", "https://me:secret@git.test/x", "../../../../../../../../etc", "./../x/../../y", "ssh://-oProxyCommand=x/y", ""}
	for _, m := range modules(t, w, append(odd, b.URL+"/listed"), append(odd, b.URL+"/clone")...) {
		if m.Mirrored || m.Why == "" {
			t.Errorf("%s: %+v", m.Written, m)
		}
		if strings.Contains(m.Written, "secret") {
			t.Errorf("a password is shown: %s", m.Written)
		}
	}
	if n := b.Lists.Load() + b.Packs.Load(); n != 0 {
		t.Errorf("a server was asked %d times", n)
	}
	if left, _ := filepath.Glob(filepath.Join(w.Roots.Data, "gate", "*", "sub", "*")); len(left) > 0 {
		t.Errorf("mirrors: %v", left)
	}
	if _, err := filepath.Glob(canary); err != nil {
		t.Error(err)
	}
	if found, _ := filepath.Glob(canary); len(found) > 0 {
		t.Error("a program ran")
	}
}

// TestSubmodulesMirrored: a listed address is mirrored, follows its upstream, and serves on while that
// is away.
func TestSubmodulesMirrored(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	w.Gate("k3v9p")
	lib := filepath.Join(w.Dir, "lib")
	w.Git(w.Dir, "init", "-q", "-b", "main", lib)
	gatetest.WriteFile(t, lib, "lib.c", "int x;\n")
	first := w.Commit(lib, "lib")
	b := w.Serve(w.Dir)
	url := b.URL + "/lib"
	list := modules(t, w, []string{url}, url)
	if !list[0].Mirrored || list[0].Why != "" {
		t.Fatalf("%+v", list)
	}
	served, err := w.Store.ServeSubmodules(t.Context(), gatetest.Project, "http://10.0.2.2:9418/task.git", []string{url})
	if err != nil || len(served) != 1 || served[0].URLs[0] != url {
		t.Fatalf("%+v, %v", served, err)
	}
	if got := w.Git(served[0].Dir, "rev-parse", "main"); got != first {
		t.Errorf("mirror at %s", got)
	}
	gatetest.WriteFile(t, lib, "lib.c", "int y;\n")
	second := w.Commit(lib, "more")
	if _, err := w.Store.SyncSubmodules(t.Context(), gatetest.Project, []string{url}); err != nil {
		t.Fatal(err)
	}
	if got := w.Git(served[0].Dir, "rev-parse", "HEAD"); got != second {
		t.Errorf("mirror at %s after a sync", got)
	}
	packs := b.Packs.Load()
	if _, err := w.Store.SyncSubmodules(t.Context(), gatetest.Project, []string{url}); err != nil || b.Packs.Load() != packs {
		t.Errorf("a sync without news fetched: %v", err)
	}
	b.Password = "changed"
	list, err = w.Store.SyncSubmodules(t.Context(), gatetest.Project, []string{url})
	if err != nil || !list[0].Mirrored || list[0].Why == "" {
		t.Errorf("while upstream is away: %+v, %v", list, err)
	}
	// One that was changed is not served.
	gatetest.WriteFile(t, served[0].Dir, "config", "[core]\n\tbare = true\n\tfsmonitor = touch x\n")
	if served, err := w.Store.ServeSubmodules(t.Context(), gatetest.Project, "", []string{url}); err != nil || len(served) != 0 {
		t.Errorf("a changed mirror is served: %+v, %v", served, err)
	}
}

// FuzzRelativeURL: whatever a repository writes, no step upwards is left for a server to take.
func FuzzRelativeURL(f *testing.F) {
	for _, s := range []string{"../lib", "./x", "../../..//", "../:x", "../-x"} {
		f.Add("https://git.test/ada/shop", s)
		f.Add("git@git.test:ada/shop", s)
	}
	f.Fuzz(func(t *testing.T, base, relative string) {
		got, err := store.RelativeURL(base, relative)
		if err == nil && strings.Contains(got, "/../") && !strings.Contains(base, "/../") {
			t.Errorf("%q + %q = %q", base, relative, got)
		}
	})
}
