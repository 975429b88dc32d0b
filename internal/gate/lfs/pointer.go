// Package lfs is what the gate knows of Git LFS: pointer files, a directory of objects, and the
// batch API with its basic transfer, as a client of upstream's LFS server and as what a task's gate
// serves (https://github.com/git-lfs/git-lfs/blob/main/docs: spec.md, api/batch.md).
//
// It guarantees: an object in a directory has the digest of its name and was written whole; a server
// gets credentials only when it is the one that they are for; what a server's answer names is reached
// over https, in no network that the server itself is not in, with the headers that the answer gives
// for it and nothing else; every body has a size that was agreed before, and a transfer in which
// nothing comes ends.
//
// It reads no configuration of a repository: who is asked says the caller, .lfsconfig says nothing.
package lfs

import (
	"bytes"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Object is one file that is kept in LFS.
type Object struct {
	OID  string `json:"oid"`  // SHA-256 of its content, 64 lower-case digits
	Size int64  `json:"size"` // bytes
}

// MaxPointer is one more than the bytes that a pointer file may have.
const MaxPointer = 1024

// versions are what the first line of a pointer may name; the second one is of the time before the
// first release, and git-lfs still reads it.
var versions = []string{"version https://git-lfs.github.com/spec/v1", "version https://hawser.github.com/spec/v1"}

// Parse reads a pointer file, strictly: lines "key value" that end with a newline, version first, the
// others sorted and none twice, one SHA-256 and one size. Anything else is an ordinary file.
func Parse(data []byte) (Object, bool) {
	var o Object
	if len(data) >= MaxPointer || !utf8.Valid(data) || !bytes.HasSuffix(data, []byte("\n")) {
		return o, false
	}
	first, rest, _ := strings.Cut(string(data), "\n")
	if first != versions[0] && first != versions[1] {
		return o, false
	}
	last, sized := "", false
	for line := range strings.SplitSeq(strings.TrimSuffix(rest, "\n"), "\n") {
		key, value, ok := strings.Cut(line, " ")
		if !ok || key <= last || key == "version" || strings.Trim(key, "abcdefghijklmnopqrstuvwxyz0123456789.-") != "" || strings.ContainsAny(value, "\r\x00") {
			return Object{}, false
		}
		last = key
		switch key {
		case "oid":
			if o.OID, ok = strings.CutPrefix(value, "sha256:"); !ok || !ValidOID(o.OID) {
				return Object{}, false
			}
		case "size":
			n, err := strconv.ParseInt(value, 10, 64)
			if err != nil || n < 0 || strconv.FormatInt(n, 10) != value {
				return Object{}, false
			}
			o.Size, sized = n, true
		}
	}
	return o, o.OID != "" && sized
}

// ValidOID reports whether s is the name of an object; only such a text ever becomes part of a path.
func ValidOID(s string) bool {
	return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}
