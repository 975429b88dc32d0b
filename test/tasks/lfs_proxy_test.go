package tasks

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"terok/internal/gate/gatetest"
	"terok/internal/gate/lfs"
)

// lfsCanary is an LFS server that nobody may ask, in a .lfsconfig.
func lfsCanary(t *testing.T) (config string, asked *atomic.Int64) {
	t.Helper()
	asked = &atomic.Int64{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusTeapot)
	}))
	t.Cleanup(srv.Close)
	return fmt.Sprintf("[lfs]\n\turl = %[1]s/x\n\tpushurl = %[1]s/x\n[remote \"origin\"]\n\tlfsurl = %[1]s/x\n", srv.URL), asked
}

// TestLFSProxy: spec/gate.md §20: 56, gate.lfs: proxy. The host fetches the files of upstream's branches from
// its LFS server, whatever .lfsconfig says; git-lfs in the container checks them out, and sends the agent's
// own to the gate; promotion brings these to upstream's LFS server before the commits.
func TestLFSProxy(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	forge := tr.serveForge(tr.repo("greet"), "shop")
	server := gatetest.NewLFS(t)
	config, canary := lfsCanary(t)
	block, _ := pem.Decode(server.CA)
	ca := tr.file("lfs.pem", string(pem.EncodeToMemory(block)))
	tr.file("config/terok/config.yml", "image:\n  ca_certificates: ["+forge.ca+", "+ca+"]\n")
	tr.project("shop", "git:\n  upstream_url: "+forge.url+"/shop.git\ngate:\n  lfs: proxy\n  lfs_url: "+server.URL+"\n")
	content := strings.Repeat("large ", 200_000)
	there, gone := server.Add(content), gatetest.LFSObject("gone")
	shop := filepath.Join(tr.dir, "shop")
	for _, args := range [][]string{{"clone", "-q", filepath.Join(forge.dir, "shop.git"), shop}} {
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	tr.file("shop/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
	tr.file("shop/.lfsconfig", config)
	tr.file("shop/big.bin", gatetest.Pointer(there))
	tr.file("shop/gone.bin", gatetest.Pointer(gone))
	gitOut(t, shop, "-c", "filter.lfs.clean=cat", "add", "-A")
	gitOut(t, shop, "-c", "filter.lfs.clean=cat", "-c", "user.name=A", "-c", "user.email=a@example.test", "commit", "-qm", "large files")
	gitOut(t, shop, "push", "-q", "origin", "HEAD:main")
	out, _ := tr.run(0, "", "task", "run", "shop", say+`say skip printenv GIT_LFS_SKIP_SMUDGE
say big sha256sum big.bin
say gone cat gone.bin
say clean git status --porcelain
printf '[lfs]\n\turl = https://198.51.100.7/x\n' >.lfsconfig
seq 1 30000 >new.bin
git add -A; git commit -qm "A new large file"
say push git push -q origin HEAD
say new sha256sum new.bin
say kept git cat-file blob HEAD:new.bin
rm -rf .git/lfs/objects new.bin
say again sh -c 'git checkout -q new.bin && sha256sum new.bin'
echo ghp_a8Bq2kX91mZpL0vR7tYw3uNc5dJeFsGh4iQo >key.bin
git add -A; git commit -qm "A key"
say secret git push -q origin HEAD
git reset -q --hard HEAD~1
say end true
`)
	section := sections(t, out)
	if s := section("big"); s != there.OID+"  big.bin\nexit 0" {
		t.Errorf("big.bin: %s", s)
	}
	if s := section("gone"); s != strings.TrimSpace(gatetest.Pointer(gone))+"\nexit 0" {
		t.Errorf("gone.bin: %s", s)
	}
	if s := section("clean"); s != "exit 0" {
		t.Errorf("status: %s", s)
	}
	if s := section("secret"); !strings.Contains(s, "holds a secret: GitHub token") || strings.HasSuffix(s, "exit 0") {
		t.Errorf("push of a key: %s", s)
	}
	if s := section("skip"); s != "exit 1" {
		t.Errorf("GIT_LFS_SKIP_SMUDGE: %s", s)
	}
	if s := section("push"); !strings.HasSuffix(s, "exit 0") {
		t.Errorf("push: %s", s)
	}
	var lines strings.Builder
	for i := 1; i <= 30000; i++ {
		fmt.Fprintln(&lines, i)
	}
	fresh := gatetest.LFSObject(lines.String())
	for _, name := range []string{"new", "again"} {
		if s := section(name); s != fresh.OID+"  new.bin\nexit 0" {
			t.Errorf("%s: %s", name, s)
		}
	}
	if s := section("kept"); s != strings.TrimSpace(gatetest.Pointer(fresh))+"\nexit 0" {
		t.Errorf("committed: %s", s)
	}
	task := tr.tasks()[0]
	if !lfs.Of(filepath.Join(tr.data(), "gate", "shop", "tasks", task.ID+".git")).Has(fresh) {
		t.Error("the gate has not what was pushed")
	}
	if shown, _ := tr.run(0, "", "review", "show", "shop/"+task.ID); !strings.Contains(shown, "in LFS: new.bin, ") || !strings.Contains(shown, "new.bin (text in Git LFS)\n@@ -0,0 +1,30000 @@\n+1\n") || strings.Contains(shown, "not in the gate") {
		t.Errorf("review: %s", shown)
	}
	tr.run(0, "", "promote", "shop/"+task.ID, "--to", "upstream", "--as", "large", "--sha", tr.tip(task), "--approve", "--yes")
	if string(server.Objects()[fresh.OID]) != lines.String() || !server.Verified(fresh.OID) {
		t.Error("upstream's LFS server has not what was promoted")
	}
	if got := gitOut(t, filepath.Join(forge.dir, "shop.git"), "cat-file", "blob", "large:new.bin"); got+"\n" != gatetest.Pointer(fresh) {
		t.Errorf("upstream has %q", got)
	}
	if status, _ := tr.run(0, "", "gate", "status", "shop"); !strings.Contains(status, "proxy, 2 objects, 1 missing") {
		t.Errorf("status: %s", status)
	}
	if n := canary.Load(); n != 0 {
		t.Errorf("the server of .lfsconfig was asked %d times", n)
	}
}

// TestLFSProxyClone: spec/gate.md §13. Where upstream is a clone of this machine, the files come from its .git/lfs,
// those of its unpushed commits too, and promoted ones go there; a push past git-lfs's hook is not promoted.
func TestLFSProxyClone(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	repo := tr.repo("greet")
	config, canary := lfsCanary(t)
	mine := lfs.Of(filepath.Join(repo, ".git"))
	add := func(name, content string) lfs.Object {
		t.Helper()
		o := gatetest.LFSObject(content)
		if err := mine.Put(t.Context(), o, "test", strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		tr.file("greet/"+name, gatetest.Pointer(o))
		return o
	}
	tr.file("greet/.gitattributes", "*.bin filter=lfs diff=lfs merge=lfs -text\n")
	tr.file("greet/.lfsconfig", config)
	there := add("big.bin", "content of the clone\n")
	gitOut(t, repo, "-c", "filter.lfs.clean=cat", "add", "-A")
	gitOut(t, repo, "-c", "filter.lfs.clean=cat", "-c", "user.name=A", "-c", "user.email=a@example.test", "commit", "-qm", "large files")
	tr.file("config/terok/projects/greet/project.yml", "git:\n  upstream_url: "+repo+"\ngate:\n  lfs: proxy\n")
	out, _ := tr.run(0, repo, "run", "shell", "-p", say+`say big cat big.bin
echo fresh >new.bin
git add -A; git commit -qm "A new large file"
say push git push -q origin HEAD
say end true
`)
	section := sections(t, out)
	if s := section("big"); s != "content of the clone\nexit 0" {
		t.Errorf("big.bin: %s", s)
	}
	if s := section("push"); !strings.HasSuffix(s, "exit 0") {
		t.Errorf("push: %s", s)
	}
	task, fresh := tr.tasks()[0], gatetest.LFSObject("fresh\n")
	tr.run(0, repo, "promote", task.ID, "--sha", tr.tip(task), "--approve", "--yes", "--as", "large")
	if !mine.Has(fresh) || !mine.Has(there) {
		t.Error("the clone has not what was promoted")
	}
	tr.run(0, repo, "task", "delete", task.ID, "--yes")
	tr.run(0, repo, "run", "shell", "-p", `cd /workspace; echo nowhere >lost.bin; git add -A; git commit -qm Lost; git push -q --no-verify origin HEAD`)
	task = tr.tasks()[0]
	if shown, _ := tr.run(0, repo, "review", "show", task.ID); !strings.Contains(shown, "lost.bin, 8 B, not in the gate") || !strings.Contains(shown, "lfs missing") {
		t.Errorf("review: %s", shown)
	}
	if _, stderr := tr.run(7, repo, "promote", task.ID, "--sha", tr.tip(task), "--approve", "--yes", "--as", "lost"); !strings.Contains(stderr, "nowhere") || !strings.Contains(stderr, "git lfs push") {
		t.Errorf("promoted without its file: %s", stderr)
	}
	if n := canary.Load(); n != 0 {
		t.Errorf("the server of .lfsconfig was asked %d times", n)
	}
}
