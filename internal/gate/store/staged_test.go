package store_test

import (
	"strings"
	"testing"

	"terok/internal/gate/store"
)

// TestOnlyNewsIsStaged: a sync fetches the branches and tags that differ from the last one, not all of them,
// and takes what upstream has by then where that changed since it was asked.
func TestOnlyNewsIsStaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for _, b := range []string{"one", "two", "three", "four"} {
		w.Git(w.Upstream, "branch", b)
		w.Git(w.Upstream, "tag", "v-"+b)
	}
	w.sync(store.Options{})
	staged := ""
	w.Store.Fault = func(step string) {
		if step == "fetched" {
			staged = w.Git(w.base(), "for-each-ref", "--format=%(refname)", "refs/terok/fetched", "refs/terok/fetched-tags")
		}
	}
	commit := func(branches ...string) {
		w.Commit(w.Upstream, strings.Join(branches, " "))
		for _, b := range branches {
			w.Git(w.Upstream, "branch", "-f", b)
		}
	}
	commit("one")
	w.Git(w.Upstream, "tag", "v-new")
	w.sync(store.Options{})
	if want := "refs/terok/fetched-tags/v-new\nrefs/terok/fetched/main\nrefs/terok/fetched/one"; staged != want {
		t.Errorf("staged:\n%s\nwant:\n%s", staged, want)
	}
	// A branch goes, and another one moves on, between question and fetch.
	commit("one", "two")
	listed := false
	w.Store.Fault = func(step string) {
		if step == "listed" && !listed {
			listed = true
			w.Git(w.Upstream, "branch", "-D", "two")
			commit("one")
		}
	}
	rep := w.sync(store.Options{})
	if got := kinds(rep.Pending); got != "two:delete" {
		t.Errorf("pending: %s", got)
	}
	if got, want := w.tip("refs/heads/one"), w.Git(w.Upstream, "rev-parse", "one"); got != want {
		t.Errorf("one is at %s, want %s", got, want)
	}
	// Only a deletion: nothing is fetched, the decision is asked for.
	w.Store.Fault = nil
	w.Git(w.Upstream, "branch", "-D", "three")
	if got := kinds(w.sync(store.Options{}).Pending); got != "three:delete two:delete" {
		t.Errorf("pending: %s", got)
	}
	if left, _ := w.TryGit(w.base(), "for-each-ref", "refs/terok/fetched", "refs/terok/fetched-tags"); left != "" {
		t.Errorf("left behind: %s", left)
	}
	// Refs that a killed sync left do not stand in the way of others.
	w.Git(w.base(), "update-ref", "refs/terok/fetched/side", "main")
	w.Git(w.Upstream, "branch", "side/way")
	w.sync(store.Options{})
	if w.tip("refs/heads/side/way") == "" {
		t.Error("a staged ref of before is in the way")
	}
}
