package front

import (
	"crypto/rand"
	"encoding/base32"
	"hash/crc32"
	"strings"
)

// PhantomPrefix starts every phantom token, so that one pattern finds it anywhere.
const PhantomPrefix = "terok-p-"

var phantomAlphabet = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// NewPhantom makes a phantom token: "terok-p-", 10 symbols that are its public handle, "-", 32
// symbols that are its secret (160 bits), and 6 symbols of checksum; 57 characters of a–z, 2–7
// and "-". It is worth nothing but in the one container whose front was given it.
func NewPhantom() string {
	var b [27]byte // 56 bits for the handle (50 used), 160 for the secret
	rand.Read(b[:])
	t := PhantomPrefix + phantomAlphabet.EncodeToString(b[:7])[:10] + "-" + phantomAlphabet.EncodeToString(b[7:])
	return t + phantomCheck(t)
}

// ValidPhantom reports whether t has the shape and checksum of a phantom token. It says nothing
// about whether any front accepts it: scanners use it to reject false hits.
func ValidPhantom(t string) bool {
	const head = len(PhantomPrefix)
	if len(t) != 57 || !strings.HasPrefix(t, PhantomPrefix) || t[head+10] != '-' {
		return false
	}
	return t[51:] == phantomCheck(t[:51])
}

// phantomCheck is the CRC-32 (IEEE) of the token before it, big-endian, 30 of its bits.
func phantomCheck(t string) string {
	sum := crc32.ChecksumIEEE([]byte(t))
	return phantomAlphabet.EncodeToString([]byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})[:6]
}
