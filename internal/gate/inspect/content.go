package inspect

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// secrets are shapes of credentials. What they match is never repeated in a flag.
var secrets = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|\bAGE-SECRET-KEY-1|\bterok-[a-z]-[A-Za-z0-9_-]{20}|\bsk-ant-[A-Za-z0-9_-]{20}|` +
	`\bsk-(?:proj-)?[A-Za-z0-9_-]{40}|\bgh[pousr]_[A-Za-z0-9]{30}|\bgithub_pat_[A-Za-z0-9_]{30}|\bglpat-[A-Za-z0-9_-]{20}|\bAKIA[0-9A-Z]{16}\b|` +
	`\bxox[abprs]-[A-Za-z0-9-]{20}|\bnpm_[A-Za-z0-9]{36}|\bAIza[0-9A-Za-z_-]{35}|\bhf_[A-Za-z0-9]{30}|\bpypi-[A-Za-z0-9_-]{50}|\bdckr_pat_[A-Za-z0-9_-]{20}`)

// secretHints are what a line must hold before it is worth the regular expression.
var secretHints = [][]byte{[]byte("-----BEGIN"), []byte("AGE-SECRET"), []byte("terok-"), []byte("sk-"), []byte("ghp_"), []byte("gho_"), []byte("ghu_"),
	[]byte("ghs_"), []byte("ghr_"), []byte("github_pat_"), []byte("glpat-"), []byte("AKIA"), []byte("xox"), []byte("npm_"), []byte("AIza"), []byte("hf_"),
	[]byte("pypi-"), []byte("dckr_pat_")}

func hasSecret(b []byte) bool {
	return slices.ContainsFunc(secretHints, func(h []byte) bool { return bytes.Contains(b, h) }) && secrets.Match(b)
}

const longLine = maxLine // bytes; of what is longer the end is not shown

// farBlanks is how many blanks in a row, behind other text, push what follows off a reader's screen.
const farBlanks = 80

// pushedAway reports whether a line has text behind so many blanks that many viewers do not show it.
func pushedAway(line []byte) bool {
	blanks, text := 0, false
	for _, c := range line {
		switch {
		case c == ' ':
			blanks++
		case c == '\t':
			blanks += 8
		case blanks >= farBlanks && text:
			return true
		default:
			blanks, text = 0, true
		}
	}
	return false
}

// installs are keys of package.json and composer.json whose commands run when somebody installs the
// package. They may stand anywhere in a line: nothing makes JSON have lines.
var installs = regexp.MustCompile(`"((pre|post)?install|(pre|post)?prepare|prepublish|dependencies|(pre|post)-[a-z-]+-(cmd|uninstall))"\s*:\s*"|"(pre|post)-[a-z-]+-cmd"\s*:`)

// unescape writes the letters of JSON as letters: "post\u0069nstall" is a key as well.
func unescape(line []byte) []byte {
	if !bytes.Contains(line, []byte(`\u00`)) {
		return line
	}
	return escapes4.ReplaceAllFunc(line, func(e []byte) []byte {
		n, err := strconv.ParseUint(string(e[4:]), 16, 8)
		if err != nil || n < 0x20 || n > 0x7e || n == '"' {
			return e
		}
		return []byte{byte(n)}
	})
}

var escapes4 = regexp.MustCompile(`\\u00[0-9a-fA-F]{2}`)

// added looks at a line that a change adds to a file.
func (s *flagSet) added(e *entry, line []byte) {
	line = bytes.TrimSuffix(line, []byte{'\r'}) // usual at line ends
	s.text(e.path, line)
	if hasSecret(line) {
		s.add(Warn, "secret", e.path)
	}
	if len(line) > longLine {
		s.add(Info, "long_line", e.path)
	}
	if pushedAway(line) {
		s.add(Warn, "far_right", e.path)
	}
	if bytes.HasPrefix(line, []byte("<<<<<<< ")) || bytes.HasPrefix(line, []byte(">>>>>>> ")) {
		s.add(Warn, "conflict_marker", e.path)
	}
	switch base := path.Base(strings.ToLower(e.path)); {
	case e.newMode == "120000":
		if escapes(e.path, string(line)) {
			s.add(Warn, "symlink", e.path)
		}
	case base == ".gitattributes":
		for word := range strings.FieldsSeq(string(line)) {
			if name, _, _ := strings.Cut(strings.TrimLeft(word, "-!"), "="); slices.Contains([]string{"filter", "diff", "merge", "export-subst", "export-ignore", "working-tree-encoding", "text", "eol", "binary"}, name) && name != "text" && name != "eol" {
				s.add(Warn, "gitattributes", e.path)
			}
		}
	case (base == "package.json" || base == "composer.json") && installs.Match(unescape(line)):
		s.add(Warn, "install_script", e.path)
	case bytes.HasPrefix(line, []byte("//go:generate ")):
		s.add(Info, "generate_command", e.path)
	case bytes.HasPrefix(line, []byte("version https://git-lfs.github.com/spec/")):
		s.add(Info, "lfs", e.path)
	}
}

// escapes reports whether a link at p leads out of the repository, or into .git, or may: where a
// target goes up again behind a name, that name may be a link itself.
func escapes(p, target string) bool {
	parts := strings.Split(strings.ReplaceAll(target, `\`, "/"), "/")
	up := 0
	for up < len(parts) && (parts[up] == ".." || parts[up] == ".") {
		up++
	}
	if path.IsAbs(target) || len(target) > 1 && target[1] == ':' || slices.Contains(parts[up:], "..") {
		return true
	}
	to := path.Join(path.Dir(p), strings.Join(parts, "/"))
	return to == ".." || strings.HasPrefix(to, "../") || slices.ContainsFunc(parts, func(c string) bool { return spelling(c) == ".git" })
}

// disguised reports whether a file that git takes for binary, for a null byte in it, is a text that
// an interpreter would read: its diff is not shown.
func disguised(data []byte) bool {
	odd := 0
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r < 0x20 && r != '\t' && r != '\n' && r != '\r' && r != '\f' || r == 0x7f || r == utf8.RuneError && n == 1 {
			odd++
		}
		i += n
	}
	return len(data) > 0 && odd*20 < len(data)
}

// text looks at the characters of text that an agent wrote.
func (s *flagSet) text(where string, line []byte) {
	ascii := true
	for _, c := range line {
		if c >= 0x80 {
			ascii = false
		} else if c < 0x20 && c != '\t' && c != '\n' && c != '\f' || c == 0x7f {
			s.add(Warn, "control_characters", where)
		}
	}
	if ascii {
		return
	}
	for _, r := range string(line) {
		switch {
		case r < 0x80:
		case hidden(r):
			s.add(Warn, "hidden_characters", where)
		case unicode.IsControl(r):
			s.add(Warn, "control_characters", where)
		}
	}
	if mixedScripts(string(line)) {
		s.add(Warn, "look_alike", where)
	}
}

// hidden are characters that change what a reader sees without being seen: bidirectional
// controls, zero-width and other format characters, tags, line and paragraph separators.
func hidden(r rune) bool {
	return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Variation_Selector) && r != '\ufe0f' && r != '\u200d' || // emoji use these two
		r == '\u115f' || r == '\u1160' || r == '\u3164' || r == '\uffa0'
}

// confusable are letters of other scripts that look like Latin ones (Unicode TR 39, the part that
// identifiers can be made of).
const confusable = "асԁеһіјӏорԛѕԝхуѵАВЕЅІЈКМНОРСТХҮΑΒΕΖΗΙΚΜΝΟΡΤΥΧονορυᎪᎬᎻᎷᏆᏴᏟ" + "օոսցհ"

// mixedScripts reports whether a word of s mixes Latin letters with letters that look like Latin
// ones and are not: an identifier that reads as another.
func mixedScripts(s string) bool {
	latin, other := false, false
	for _, r := range s + " " {
		switch {
		case unicode.Is(unicode.Latin, r):
			latin = true
		case r >= 0x80 && strings.ContainsRune(confusable, r):
			other = true
		case unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r) || r == '_':
		default:
			latin, other = false, false
		}
		if latin && other {
			return true
		}
	}
	return false
}

// encodings are those in which commit messages are read as they are meant.
var encodings = []string{"", "utf-8", "utf8", "iso-8859-1", "latin1", "us-ascii", "ascii"}

// clockSkew is how far clocks may be apart.
const clockSkew = 10 * time.Minute

// commit looks at a commit's own words: names, dates, message. parent is when the youngest parent
// was committed, the zero time when that is not known.
func (s *flagSet) commit(c *Object, identities []Identity, now, parent time.Time) {
	where := "commit " + short(c.ID)
	for _, part := range []string{c.Author, c.Email, c.Committer, c.CommitterEmail, c.Message} {
		s.text(where, []byte(part))
		if !utf8.ValidString(part) {
			s.add(Info, "encoding", where)
		}
		if hasSecret([]byte(part)) {
			s.add(Warn, "secret", where)
		}
	}
	if !slices.Contains(encodings, strings.ToLower(c.Encoding)) {
		s.add(Warn, "encoding", where+" in "+c.Encoding) // other programs may read other words than are shown
	}
	if c.Extra {
		s.add(Warn, "extra_header", where)
	}
	if hasSecret([]byte(c.Head)) {
		s.add(Warn, "secret", where)
	}
	known := func(name, email string) bool {
		return slices.ContainsFunc(identities, func(i Identity) bool { return strings.EqualFold(i.Email, email) && i.Name == name })
	}
	if len(identities) > 0 {
		for _, who := range []Identity{{c.Author, c.Email}, {c.Committer, c.CommitterEmail}} {
			if !known(who.Name, who.Email) {
				s.add(Warn, "identity", fmt.Sprintf("%s by %s <%s>", where, who.Name, who.Email))
			}
		}
	}
	for line := range strings.Lines(c.Message) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || !strings.EqualFold(key, "Signed-off-by") && !strings.EqualFold(key, "Reviewed-by") && !strings.EqualFold(key, "Acked-by") {
			continue
		}
		name, email, _ := parsePerson(strings.TrimSpace(value))
		// Nobody signs for somebody else, and agents do not review.
		if !strings.EqualFold(key, "Signed-off-by") || !(email == c.Email && name == c.Author || email == c.CommitterEmail && name == c.Committer) {
			s.add(Warn, "signed_off_by", where+" for "+name)
		}
	}
	if c.CommitTime.After(now.Add(clockSkew)) || c.Time.After(now.Add(clockSkew)) {
		s.add(Warn, "date_future", where)
	}
	if !parent.IsZero() && c.CommitTime.Before(parent.Add(-clockSkew)) {
		s.add(Warn, "date_before_parent", where)
	}
}

func short(id string) string { return id[:min(len(id), 7)] }
