package supervisor

import (
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"terok/internal/sandbox"
)

// Places of terok inside a container. Nothing may lie over them but what the launcher put there:
// pid 1 takes the guest, the trust files and the tokens from the first tree, and the agents'
// programs come from the second.
const (
	guestTree = "/run/terok" // a tmpfs, new with every start
	guestBase = guestTree + "/base"
	agentTree = "/opt/terok"
)

// checkMounts refuses mounts over terok's own places: the order of mounts decides what a path
// shows, so a later one on /run would hide the guest from whoever looks, or show another.
func (s *ociSpec) checkMounts() error {
	var seen []string
	for _, m := range s.Mounts {
		dest := filepath.Clean(m.Destination)
		if err := checkPlace(dest, m, seen); err != nil {
			return err
		}
		seen = append(seen, dest)
	}
	if !slices.Contains(seen, guestTree) {
		return fmt.Errorf("the container has no %s of its own", guestTree)
	}
	return nil
}

// checkPlace judges one mount; seen are those before it.
func checkPlace(dest string, m ociMount, seen []string) error {
	refused := fmt.Errorf("the container mounts %.200s over terok's %s", m.Source, dest)
	readOnly := slices.Contains(m.Options, "ro")
	switch {
	case dest == guestTree:
		// The first thing in its place: what came before would be hidden, what holds it is ours.
		under := func(p string) bool { return strings.HasPrefix(p, guestTree+"/") || p == guestTree }
		if m.Type != "tmpfs" || slices.ContainsFunc(seen, under) {
			return refused
		}
	case dest == sandbox.GuestProgram: // checkGuest
	case strings.HasPrefix(dest, guestBase+"/") && readOnly && !slices.Contains(seen, dest): // the gate's objects
	case path.Dir(dest) == sandbox.BundleMount && readOnly && !slices.Contains(seen, dest): // an agent
	case covers(dest, guestTree), covers(dest, agentTree):
		return refused
	}
	return nil
}

// covers reports whether a mount on dest changes what tree shows: it holds the tree, is it, or
// lies in it.
func covers(dest, tree string) bool {
	return dest == "/" || strings.HasPrefix(tree+"/", dest+"/") || strings.HasPrefix(dest, tree+"/")
}
