package server

import (
	"net/http"
	"strings"
)

// place is a repository that is served: the task's own, or a submodule's mirror.
type place struct {
	dir        string
	alternates []string // object directories that it may borrow from
	readOnly   bool
}

func (h *Server) task() place { return place{dir: h.Repo, alternates: []string{h.objects}} }

// subPath begins the path of a submodule's mirror, which is a name of Config.Submodules and ".git".
const subPath = "/sub/"

// find is the repository that a path begins with, and the rest of the path. A name is looked up in a
// list: nothing of a path ever becomes part of a file's.
func (h *Server) find(path string) (at place, rest string, ok bool) {
	if rest, ok := strings.CutPrefix(path, Path); ok && (rest == "" || rest[0] == '/') {
		return h.task(), rest, true
	}
	name, isSub := strings.CutPrefix(path, subPath)
	if !isSub {
		return place{}, "", false
	}
	name, rest, _ = strings.Cut(name, "/")
	dir := ""
	if name, ok = strings.CutSuffix(name, ".git"); ok {
		dir = h.Submodules[name]
	}
	return place{dir: dir, readOnly: true}, "/" + rest, dir != ""
}

// refuseWrite answers 403 for a repository that takes no pushes.
func (p place) refuseWrite(w http.ResponseWriter) bool {
	if p.readOnly {
		refuse(w, http.StatusForbidden, "this is a mirror of a submodule's upstream, for reading only")
	}
	return p.readOnly
}
