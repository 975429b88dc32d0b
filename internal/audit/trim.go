package audit

import (
	"cmp"
	"os"
	"slices"
	"time"

	"terok/internal/state"
)

// Trim removes rotated files, the oldest first, until the ledgers at paths and what was rotated of
// them have at most limit bytes in all. Ledgers that somebody writes, and the file in use of every
// ledger, stay. What is left of a chain still verifies. It returns how many bytes went.
func Trim(paths []string, limit int64) (removed int64, err error) {
	type old struct {
		source
		ledger string
		at     time.Time
		age    int // from 0, the oldest of its ledger
	}
	var total int64
	var all []old
	for _, p := range paths {
		files, err := sources(p)
		if err != nil {
			return 0, err
		}
		for i, f := range files {
			total += f.info.Size()
			if f.gz {
				all = append(all, old{f, p, f.info.ModTime(), i})
			}
		}
	}
	slices.SortFunc(all, func(a, b old) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.age, b.age)) })
	kept := map[string]bool{} // ledgers of which nothing newer may go
	for _, f := range all {
		if total-removed <= limit {
			break
		}
		if kept[f.ledger] {
			continue
		}
		// A rotation under our hands would give the name to another file.
		unlock, err := state.TryLock(f.ledger)
		if err != nil {
			kept[f.ledger] = true
			continue
		}
		now, err := os.Lstat(f.name)
		if err != nil || !os.SameFile(now, f.info) || os.Remove(f.name) != nil {
			kept[f.ledger] = true
		} else {
			removed += f.info.Size()
		}
		unlock()
	}
	return removed, nil
}
