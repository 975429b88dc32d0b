package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// Report is the result of a verification.
type Report struct {
	Path  string   `json:"path"`
	Files []string `json:"files"` // from the oldest to the newest
	Lines uint64   `json:"lines"` // verified
	First uint64   `json:"first"` // sequence number of the first line at hand; above 1 when older files are gone
	Last  uint64   `json:"last"`
	Head  string   `json:"head"` // hash of the last verified line
	Torn  bool     `json:"torn"` // the last line is unfinished: it is being written, or its writer died
	Break *Break   `json:"break"`
}

// Break is the first place where the chain does not hold.
type Break struct {
	File   string `json:"file"`
	Line   int    `json:"line"` // from 1
	Seq    uint64 `json:"seq"`  // the sequence number expected there
	Reason string `json:"reason"`
}

// Verify checks every link of the ledger at path, rotated files included, while it may be
// written. A chain that does not hold is not an error but Report.Break; the error says that the
// ledger could not be read (fs.ErrNotExist: there is none).
func Verify(path string) (Report, error) {
	r, _, err := VerifyAt(path, 0)
	return r, err
}

// VerifyAt is Verify that also returns the hash of the line with number seq, "" when that line is
// not at hand: what a receipt says of a ledger's head is compared with it.
func VerifyAt(path string, seq uint64) (r Report, head string, err error) {
	for {
		before, err := sources(path)
		if err != nil {
			return Report{}, "", err
		}
		if len(before) == 0 {
			return Report{}, "", fmt.Errorf("%s: %w", path, fs.ErrNotExist)
		}
		r, head, err := verify(path, before, seq)
		if err == nil && r.Break == nil {
			return r, head, nil
		}
		if err == errMoved {
			continue
		}
		// A rotation in between moves files under our hands: look again if it did.
		after, listErr := sources(path)
		if listErr != nil {
			return Report{}, "", listErr
		}
		if sameFiles(before, after) {
			return r, head, err
		}
	}
}

func sameFiles(a, b []source) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].name != b[i].name || !os.SameFile(a[i].info, b[i].info) {
			return false
		}
	}
	return true
}

// errBroken ends a scan at the first break.
var errBroken = errors.New("broken")

func verify(path string, files []source, wanted uint64) (r Report, at string, err error) {
	r = Report{Path: path, Head: zeroHash}
	for _, src := range files {
		r.Files = append(r.Files, src.name)
	}
	for _, src := range files {
		number := 0
		broken := func(reason string) error {
			r.Break = &Break{File: src.name, Line: number, Seq: r.Last + 1, Reason: reason}
			return errBroken
		}
		err := src.lines(func(line []byte, n int, whole bool) error {
			number = n
			if !whole && src.name == path {
				r.Torn = true
				return nil
			}
			if !whole {
				return broken("the file ends in the middle of a line")
			}
			seq, prev, err := parseHead(line)
			switch {
			case err != nil:
				return broken(err.Error())
			case r.Lines == 0 && seq > 1 && prev == zeroHash:
				return broken("the chain was started again after damage")
			case r.Lines == 0 && seq > 1:
				r.Head = prev // older files are gone: the chain begins here
			case seq != r.Last+1:
				if prev == zeroHash {
					return broken("the chain was started again after damage")
				}
				return broken(fmt.Sprintf("line %d of the chain stands where %d belongs", seq, r.Last+1))
			}
			if prev != r.Head {
				return broken("the line before this one is not the one that was written: it was changed, removed or slipped in")
			}
			if r.Lines == 0 {
				r.First = seq
			}
			r.Lines++
			r.Last, r.Head = seq, hash(line)
			if seq == wanted {
				at = r.Head
			}
			return nil
		})
		if d, ok := errors.AsType[*DamagedError](err); ok {
			number = d.Line
			err = broken(d.Reason)
		}
		if err == errBroken {
			return r, at, nil
		}
		if err != nil {
			return r, at, err
		}
	}
	return r, at, nil
}
