package oauth

import (
	"strings"
	"unicode/utf8"
)

// block is a mapping of the small YAML that gh and glab write: nested mappings in block style with
// plain or quoted words for values. Sequences and everything else are skipped, since no token
// stands in them. A file of this kind comes out of a container, so this reader, which can neither
// expand nor recurse, stands in for a whole YAML parser.
type block struct {
	keys     []string
	values   []string
	children []*block // nil where the value is a word
	indent   int      // column of the keys, -1 while unknown
}

const (
	maxBlockDepth = 16
	maxBlockKeys  = 500
)

// parseBlocks reads a file; what it cannot read as a key it skips.
func parseBlocks(data []byte) (*block, error) {
	if !utf8.Valid(data) {
		return nil, &Drift{"it is not UTF-8"}
	}
	root := &block{indent: -1}
	open := []*block{root}
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, " \t\r\n")
		word := strings.TrimLeft(line, " ")
		if word == "" || word[0] == '#' || word[0] == '-' || strings.ContainsRune(word, '\t') {
			continue
		}
		key, value, ok := keyValue(word)
		if !ok {
			continue
		}
		indent := len(line) - len(word)
		for len(open) > 1 && indent <= open[len(open)-2].indent {
			open = open[:len(open)-1]
		}
		at := open[len(open)-1]
		if at.indent < 0 {
			at.indent = indent
		}
		if indent != at.indent {
			continue // a continued line or a sequence's entry
		}
		if len(at.keys) == maxBlockKeys {
			return nil, &Drift{"it has more keys than such a file has"}
		}
		if at.has(key) {
			return nil, &Drift{"a key stands in it twice"} // which one a reader takes would be chance
		}
		var child *block
		if value == "" && len(open) < maxBlockDepth {
			child = &block{indent: -1}
			open = append(open, child)
		}
		at.keys, at.values, at.children = append(at.keys, key), append(at.values, value), append(at.children, child)
	}
	return root, nil
}

// keyValue splits "key: value"; comments and tags are dropped, quotes removed.
func keyValue(line string) (key, value string, ok bool) {
	i := strings.Index(line, ": ")
	if i < 0 {
		if key, ok = strings.CutSuffix(line, ":"); !ok {
			return "", "", false
		}
		return unquote(key), "", key != ""
	}
	key, value = unquote(line[:i]), strings.TrimSpace(line[i+2:])
	if strings.HasPrefix(value, "!!") { // glab writes "!!null glpat-…"
		_, value, _ = strings.Cut(value, " ")
		value = strings.TrimSpace(value)
	}
	if strings.HasPrefix(value, "#") {
		value = ""
	} else if j := strings.Index(value, " #"); j >= 0 {
		value = strings.TrimSpace(value[:j])
	}
	return key, unquote(value), key != ""
}

func (b *block) index(key string) int {
	if b != nil {
		for i, k := range b.keys {
			if k == key {
				return i
			}
		}
	}
	return -1
}

func (b *block) has(key string) bool { return b.index(key) >= 0 }

// value is the word of a key, "" when there is none.
func (b *block) value(key string) string {
	if i := b.index(key); i >= 0 {
		return b.values[i]
	}
	return ""
}

// child is the mapping of a key, nil when there is none.
func (b *block) child(key string) *block {
	if i := b.index(key); i >= 0 {
		return b.children[i]
	}
	return nil
}

// with keeps the mappings that have a word for key.
func (b *block) with(key string) *block {
	out := &block{}
	if b == nil {
		return out
	}
	for i, c := range b.children {
		if c.value(key) != "" {
			out.keys, out.values, out.children = append(out.keys, b.keys[i]), append(out.values, ""), append(out.children, c)
		}
	}
	return out
}
