package task

import (
	"crypto/rand"
	"fmt"
	"regexp"
	"strings"

	"terok/internal/problem"
)

const (
	head     = "ghjkmnpqrstvwxyz"                 // no hex digits, none of i l o u
	digits   = "0123456789"                       // position two keeps ids apart from words
	alphabet = "0123456789abcdefghjkmnpqrstvwxyz" // Crockford base 32
)

// idShape matches a whole id; idPrefix the beginning of one.
var (
	idShape  = regexp.MustCompile(`^[ghjkmnp-tv-z][0-9][0-9a-hjkmnp-tv-z]{3}$`)
	idPrefix = regexp.MustCompile(`^[ghjkmnp-tv-z]([0-9][0-9a-hjkmnp-tv-z]{0,3})?$`)
)

// newID draws an id from the operating system's generator: 5 characters, 5 242 880 ids.
func newID() string {
	var b [5]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return string([]byte{
		head[int(b[0])%len(head)],
		digits[int(b[1])%10], // 256 is no multiple of 10: the small bias costs no uniqueness
		alphabet[b[2]&31], alphabet[b[3]&31], alphabet[b[4]&31],
	})
}

// ValidID reports whether id has the shape of a task id.
func ValidID(id string) bool { return idShape.MatchString(id) }

// NormalizePrefix turns what a person typed into a prefix of an id: case, dashes and the
// look-alikes i, l, o behind the first character are forgiven.
func NormalizePrefix(s string) (string, error) {
	t := strings.ToLower(strings.ReplaceAll(strings.TrimSpace(s), "-", ""))
	if t != "" && strings.ContainsRune("ilo", rune(t[0])) {
		return "", problem.New("bad_task_id", problem.Usage, "no task id begins with %q", t[:1])
	}
	if len(t) > 1 {
		t = t[:1] + strings.NewReplacer("i", "1", "l", "1", "o", "0").Replace(t[1:])
	}
	if !idPrefix.MatchString(t) {
		return "", problem.New("bad_task_id", problem.Usage, "%q is not a task id or the beginning of one", s).
			WithHint("terok task list")
	}
	return t, nil
}

// Slug makes a name fit for a branch: lower case, [a-z0-9_-], at most 60 characters. It fails
// when nothing is left.
func Slug(s string) (string, error) {
	var b strings.Builder
	dash := false
	for _, r := range strings.ToLower(strings.TrimSpace(s)) {
		switch {
		case r == ' ' || r == '-':
			dash = b.Len() > 0
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '_':
			if dash {
				b.WriteByte('-')
				dash = false
			}
			b.WriteRune(r)
		}
	}
	out := b.String()
	if len(out) > 60 {
		out = strings.TrimRight(out[:60], "-")
	}
	if out == "" {
		return "", problem.New("bad_name", problem.Usage, "%q has no letter or digit to make a task name of", s)
	}
	return out, nil
}

var adjectives = strings.Fields(`able agile amber brave bright brisk calm clear clever cosy crisp
	deft eager early easy fair fast fine firm fleet fond frank fresh gentle glad gold good grand green
	handy happy hardy honest jolly keen kind lively lucky mellow merry mild neat nimble noble plain
	plucky prime proud quick quiet rapid ready round sharp silver sleek smart snug solid sound spry
	steady still stout sunny sure swift tidy true trusty vivid warm wise witty young zesty`)

var nouns = strings.Fields(`acorn alder arrow aspen badger basil beacon birch bison brook cedar
	cliff clover comet coral crane creek cricket daisy delta dune eagle elm ember falcon fern finch
	fjord fox glade grove gull harbor hare hawk hazel heron hill ibis iris ivy jay kite lark laurel
	linden lotus lynx maple marten meadow mole moss moth newt oak orchid otter owl panda pebble pine
	plover pond poppy quail raven reed ridge robin rowan sage seal shore sparrow spruce stork swan
	thistle thrush tulip vale walnut willow wren yarrow`)

// randomSlug draws a name such as "brave-otter".
func randomSlug() string {
	var b [2]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%s-%s", adjectives[int(b[0])%len(adjectives)], nouns[int(b[1])%len(nouns)])
}
