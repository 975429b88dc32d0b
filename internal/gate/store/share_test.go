package store_test

import (
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/store"
)

// TestSharedSync: syncs that wait for one that began after them take over what it found; one that upstream
// was asked for before they came is not enough.
func TestSharedSync(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	bare := filepath.Join(w.Dir, "up.git")
	w.Git(w.Dir, "clone", "-q", "--bare", w.Upstream, bare)
	w.Git(bare, "update-server-info")
	srv := w.Serve(w.Dir)
	url := srv.URL + "/up.git"
	if _, err := w.Store.Init(t.Context(), gatetest.Project, url); err != nil {
		t.Fatal(err)
	}
	tip := w.Git(bare, "commit-tree", "-p", "main", "-m", "news", "main^{tree}")
	w.Git(bare, "update-ref", "refs/heads/main", tip)
	release, err := w.Store.Lock(t.Context(), gatetest.Project)
	if err != nil {
		t.Fatal(err)
	}
	lists := srv.Lists.Load()
	var asked atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		var once sync.Once
		s := *w.Store
		s.Now = func() time.Time { once.Do(func() { asked.Add(1) }); return time.Now() }
		wg.Go(func() {
			rep, err := s.SyncWith(t.Context(), gatetest.Project, url, store.Options{Wait: true})
			if err != nil || rep.Branches != 1 || rep.Head != "main" || len(rep.Pending) > 0 || rep.DryRun {
				t.Errorf("%+v %v", rep, err)
			}
		})
	}
	for asked.Load() < 8 {
		time.Sleep(time.Millisecond)
	}
	release()
	wg.Wait()
	if n := srv.Lists.Load() - lists; n != 2 { // what it has, and for it
		t.Errorf("upstream was asked %d times", n)
	}
	if got := w.Git(w.Roots.GateBase(gatetest.Project), "rev-parse", "refs/heads/main"); got != tip {
		t.Errorf("main is %s", got)
	}
	// A later one asks again, and what it must not take from others is its own.
	for _, o := range []store.Options{{}, {DryRun: true}, {Destructive: true, Backups: store.DefaultBackups}} {
		lists = srv.Lists.Load()
		if _, err := w.Store.SyncWith(t.Context(), gatetest.Project, url, o); err != nil || srv.Lists.Load() == lists {
			t.Errorf("%+v: %v, %d questions", o, err, srv.Lists.Load()-lists)
		}
	}
}

// TestSyncWithoutNews moves nothing, so that no task's server looks at the base again; what a killed sync
// left unpacked is packed.
func TestSyncWithoutNews(t *testing.T) {
	t.Parallel()
	w := gatetest.New(t)
	task := w.Gate("k3v9p")
	packed := filepath.Join(task.Base, "packed-refs")
	before, err := os.Stat(packed)
	if err != nil {
		t.Fatal(err)
	}
	if rep, err := w.Store.Sync(t.Context(), gatetest.Project); err != nil || rep.Branches != 1 || rep.Head != "main" {
		t.Errorf("%+v %v", rep, err)
	}
	if after, err := os.Stat(packed); err != nil || !os.SameFile(before, after) {
		t.Errorf("the refs were packed again: %v", err)
	}
	w.Git(task.Base, "update-ref", "refs/heads/left", "main")
	if _, err := w.Store.Sync(t.Context(), gatetest.Project); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(packed); err != nil || os.SameFile(before, after) {
		t.Errorf("the loose ref stayed: %v", err)
	}
	if got := w.Git(task.Repo, "rev-parse", "refs/upstream/heads/left"); got != task.Start {
		t.Errorf("the task does not see it: %s", got)
	}
}
