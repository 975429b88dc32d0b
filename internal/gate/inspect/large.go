package inspect

import (
	"errors"

	"terok/internal/gate/lfs"
	"terok/internal/text"
)

// LargeFile is a pointer to a file in Git LFS that a branch adds or changes.
type LargeFile struct {
	Path string `json:"path"` // printable
	lfs.Object
	// State is LFSHere or LFSMissing where the gate has files in LFS (gate.lfs: proxy); the inspector does not know it.
	State string `json:"state,omitempty"`
}

// States of large files.
const (
	LFSHere    = "here"
	LFSMissing = "missing"
)

const (
	maxLarge     = 200 // pointers that are listed
	pointerLines = 12  // that a change of a pointer file adds at most
)

// large finds the pointers to files in LFS among what a branch leaves changed.
func (p *repo) large(objects *objects, w *work) {
	for i := range w.net.entries {
		e := &w.net.entries[i]
		if len(w.lfs) == maxLarge {
			return
		}
		if e.binary || e.ins == 0 || e.ins > pointerLines || e.newMode != "100644" && e.newMode != "100755" {
			continue
		}
		data, whole, err := objects.get(e.newID, "blob", lfs.MaxPointer)
		if err != nil || !whole {
			continue
		}
		if o, ok := lfs.Parse(data); ok {
			w.flags.add(Info, "lfs", e.path)
			w.lfs = append(w.lfs, LargeFile{Path: text.Show(e.path), Object: o})
		}
	}
}

func cleanLarge(list []LargeFile) error {
	if len(list) > maxLarge {
		return errors.New("an impossible count")
	}
	for i := range list {
		f := &list[i]
		if !lfs.ValidOID(f.OID) || f.Size < 0 {
			return errors.New("an impossible file in LFS")
		}
		f.Path, f.State = text.Show(f.Path), ""
	}
	return nil
}
