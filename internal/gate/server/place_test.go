package server

import (
	"strings"
	"testing"
)

// TestFind: a path names the task's repository or a listed mirror, and never becomes a file's path.
func TestFind(t *testing.T) {
	h := New(Config{Repo: "/r", Base: "/b", Submodules: map[string]string{"abc": "/m"}})
	for path, want := range map[string]string{
		"/task.git": "/r", "/task.git/info/refs": "/r /info/refs", "/sub/abc.git/info/refs": "/m /info/refs", "/sub/abc.git/git-upload-pack": "/m /git-upload-pack",
		"/sub/abc.git": "/m /", "/sub/abc/info/refs": "", "/sub/other.git/info/refs": "", "/sub/../abc.git/info/refs": "", "/sub/.git/info/refs": "",
		"/sub/abc.git.git/info/refs": "", "/task.gitx": "", "/": "", "/sub//etc/passwd.git/info/refs": "",
	} {
		at, rest, ok := h.find(path)
		got := ""
		if ok {
			got = strings.TrimSpace(at.dir + " " + rest)
		}
		if got != want || ok && at.readOnly != (at.dir == "/m") {
			t.Errorf("%s: %q %v, want %q", path, got, at, want)
		}
	}
}
