package review

import (
	"slices"
	"strings"
	"time"

	"terok/internal/gate/refname"
	gaterefs "terok/internal/gate/refs"
)

// refs are the branches of a repository and terok's own refs, by full name.
type refs struct {
	ids    map[string]string
	pushed map[string]time.Time // of loose branches: when they were last moved, by the host's clock
}

func readRefs(dir string) (refs, error) {
	r, err := gaterefs.Read(dir, refname.Heads, "refs/terok/")
	if err != nil {
		return refs{}, err
	}
	return refs{r.IDs, r.Moved}, nil
}

// tips are the commits that refs in these namespaces point to, each once, sorted.
func (r *refs) tips(namespaces ...string) []string {
	ids := []string{}
	for ref, id := range r.ids {
		if slices.ContainsFunc(namespaces, func(ns string) bool { return strings.HasPrefix(ref, ns) }) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
