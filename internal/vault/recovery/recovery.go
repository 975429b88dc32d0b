// Package recovery is the recovery code of a vault: the way in that a person keeps on paper.
//
//	terok-rk-7M3KD-Q0VXA-92T1B-HFJ4N-C8RWE-5ZP6G
//
// Six groups of five Crockford base32 symbols: 140 random bits and two check symbols. The check
// symbols are a Reed-Solomon code over GF(32), so one or two wrong symbols are always noticed,
// and the place of a single one is known: whoever mistypes is told which group to look at, and
// nothing is corrected silently. Only what cannot be meant otherwise is read as what was meant:
// lower case, I and L as 1, O as 0, U as V, and any hyphens and spaces.
package recovery

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
)

// Prefix begins every code; a passphrase prompt tells a code by it.
const Prefix = "terok-rk-"

const (
	alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	groups   = 6
	perGroup = 5
	symbols  = groups * perGroup
	payload  = symbols - 2
)

// Code is a valid code in its one written form. The caller clears it after use.
type Code []byte

// New makes a code from the system's random source.
func New() Code {
	var s [symbols]byte
	rand.Read(s[:payload])
	for i := range payload {
		s[i] &= 31
	}
	sum, weighted := syndromes(s[:payload])
	// a + b = sum and x^28·a + x^29·b = weighted, solved for the two check symbols a and b.
	b := divide(weighted^multiply(power(payload), sum), power(payload)^power(payload+1))
	s[payload], s[payload+1] = sum^b, b
	defer clear(s[:])
	return write(s[:])
}

func write(s []byte) Code {
	c := append(make(Code, 0, len(Prefix)+symbols+groups), Prefix...)
	for i, v := range s {
		if i > 0 && i%perGroup == 0 {
			c = append(c, '-')
		}
		c = append(c, alphabet[v])
	}
	return c
}

// Looks reports whether what was typed is meant to be a code.
func Looks(typed []byte) bool {
	typed = bytes.TrimSpace(typed)
	return len(typed) >= len(Prefix) && bytes.EqualFold(typed[:len(Prefix)], []byte(Prefix))
}

// Parse reads a typed code, with or without its prefix. No error quotes it.
func Parse(typed []byte) (Code, error) {
	rest := bytes.TrimSpace(typed)
	if Looks(rest) {
		rest = rest[len(Prefix):]
	}
	s := make([]byte, 0, symbols)
	defer func() { clear(s[:cap(s)]) }()
	for _, c := range rest {
		if c == '-' || c == ' ' || c == '\t' {
			continue
		}
		v := strings.IndexByte(alphabet, normal(c))
		if v < 0 {
			return nil, fmt.Errorf("a recovery code has no %q (group %d)", printable(c), len(s)/perGroup+1)
		}
		if len(s) == symbols {
			return nil, fmt.Errorf("that is longer than a recovery code: it has %d groups of %d", groups, perGroup)
		}
		s = append(s, byte(v))
	}
	if len(s) < symbols {
		return nil, fmt.Errorf("a recovery code has %d groups of %d; this has %d symbols of %d", groups, perGroup, len(s), symbols)
	}
	if sum, weighted := syndromes(s); sum != 0 || weighted != 0 {
		if sum != 0 && weighted != 0 {
			if at := logarithm(divide(weighted, sum)); at < symbols {
				return nil, fmt.Errorf("the checksum is wrong; if only one symbol is, it is symbol %d of group %d", at%perGroup+1, at/perGroup+1)
			}
		}
		return nil, errors.New("the checksum is wrong: at least two symbols are")
	}
	return write(s), nil
}

func printable(c byte) string {
	if c < 0x20 || c >= 0x7f {
		return "?"
	}
	return string(rune(c))
}

// normal is the symbol that a typed character means.
func normal(c byte) byte {
	if c >= 'a' && c <= 'z' {
		c -= 'a' - 'A'
	}
	switch c {
	case 'I', 'L':
		return '1'
	case 'O':
		return '0'
	case 'U':
		return 'V'
	}
	return c
}

// Groups is how many groups a code has.
func Groups() int { return groups }

// Group returns group n of c, counted from 1.
func (c Code) Group(n int) string {
	at := len(Prefix) + (n-1)*(perGroup+1)
	return string(c[at : at+perGroup])
}

// Retyped reports whether typed is group n of c, counted from 1, with the same leniency as Parse.
func (c Code) Retyped(n int, typed []byte) bool {
	var got []byte
	for _, b := range bytes.TrimSpace(typed) {
		got = append(got, normal(b))
	}
	return string(got) == c.Group(n)
}

// Arithmetic in GF(32), the polynomials over GF(2) modulo x^5+x^2+1. x generates all of it.

func multiply(a, b byte) (p byte) {
	for ; b != 0; b >>= 1 {
		if b&1 != 0 {
			p ^= a
		}
		if a <<= 1; a&32 != 0 {
			a ^= 0b100101
		}
	}
	return p
}

// power is x^n.
func power(n int) byte {
	p := byte(1)
	for range n {
		p = multiply(p, 2)
	}
	return p
}

// logarithm is the n of x^n, 0 to 30; v is not 0.
func logarithm(v byte) (n int) {
	for p := byte(1); p != v; n++ {
		p = multiply(p, 2)
	}
	return n
}

// divide is a/b; b is not 0.
func divide(a, b byte) byte { return multiply(a, power(31-logarithm(b))) }

// syndromes are the plain and the weighted sum of s; both are 0 for a whole code.
func syndromes(s []byte) (sum, weighted byte) {
	for i, v := range s {
		sum ^= v
		weighted ^= multiply(power(i), v)
	}
	return sum, weighted
}
