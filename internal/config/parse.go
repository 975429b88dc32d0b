package config

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/lexer"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/token"
)

// Limits that keep the parser, whose time grows with the square of some of them, quick.
const (
	maxTokens = 40_000
	maxWidth  = 64 << 10 // bytes of a line
	maxDepth  = 64       // of flow collections
	maxIndent = 512      // column of a block entry, which bounds the depth of block collections
	maxExpand = 10_000   // nodes beyond the file's own that aliases may add
)

// parse makes the tree of a file with at most one document; nil for an empty one. On failure it
// adds an error and returns false.
func (d *decoder) parse(data []byte) (node ast.Node, ok bool) {
	// The parser is a foreign one and the bytes may be anybody's: whatever it does with them, the
	// answer is an error.
	defer func() {
		if r := recover(); r != nil {
			d.add(nil, "", "cannot be parsed as YAML", "")
			node, ok = nil, false
		}
	}()
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	switch {
	case len(data) > MaxSize:
		d.add(nil, "", fmt.Sprintf("larger than %d bytes", MaxSize), "")
		return nil, false
	case !utf8.Valid(data):
		d.add(nil, "", "not UTF-8", "")
		return nil, false
	case bytes.IndexByte(data, 0) >= 0:
		d.add(nil, "", "contains a NUL byte", "")
		return nil, false
	}
	for line, rest := 1, data; len(rest) > 0; line++ {
		var l []byte
		if l, rest, _ = bytes.Cut(rest, []byte("\n")); len(l) > maxWidth {
			d.add(nil, "", fmt.Sprintf("line %d is longer than %d bytes", line, maxWidth), "")
			return nil, false
		}
	}
	tokens := lexer.Tokenize(string(data))
	if tk, why := tooBig(tokens); why != "" {
		d.add(tk, "", why, "")
		return nil, false
	}
	f, err := parser.Parse(tokens, parser.ParseComments, parser.AllowDuplicateMapKey())
	if err != nil {
		at, what := syntaxError(err)
		d.add(at, "", what, "")
		return nil, false
	}
	for i, doc := range f.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if node != nil {
			d.add(startOf(f.Docs[i].Body), "", "only one YAML document is allowed in a file", "")
			return nil, false
		}
		node = doc.Body
	}
	return node, true
}

// tooBig finds what would make the parser slow or deep.
func tooBig(tokens token.Tokens) (*token.Token, string) {
	if len(tokens) > maxTokens {
		return tokens[maxTokens], fmt.Sprintf("more than %d words", maxTokens)
	}
	flow := 0
	for _, tk := range tokens {
		switch tk.Type {
		case token.SequenceStartType, token.MappingStartType:
			if flow++; flow > maxDepth {
				return tk, fmt.Sprintf("nested deeper than %d levels", maxDepth)
			}
		case token.SequenceEndType, token.MappingEndType:
			flow = max(flow-1, 0)
		case token.SequenceEntryType, token.MappingValueType, token.MappingKeyType:
			if flow == 0 && tk.Position.Column > maxIndent {
				return tk, fmt.Sprintf("a key or entry beyond column %d", maxIndent)
			}
		}
	}
	return nil, ""
}

// syntaxError takes the parser's error apart.
func syntaxError(err error) (*token.Token, string) {
	if e, ok := err.(interface {
		GetMessage() string
		GetToken() *token.Token
	}); ok {
		return e.GetToken(), printable(e.GetMessage())
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return nil, printable(line)
}

// survey walks the tree once, in the order of the file: it finds what is refused everywhere
// (repeated keys, merge keys, tags, keys that are not plain), counts nodes and binds aliases to
// the anchors before them. An anchor counts from its end on, so nothing can contain itself.
func (d *decoder) survey(n ast.Node, path string) {
	d.nodes++
	switch n := n.(type) {
	case *ast.MappingNode:
		seen := map[string]*token.Token{}
		for _, kv := range n.Values {
			key, ok := d.key(kv, path)
			if !ok {
				continue
			}
			if first := seen[key]; first != nil {
				d.add(kv.Key.GetToken(), join(path, key), fmt.Sprintf("this key is already set in line %d", first.Position.Line), "")
			} else {
				seen[key] = kv.Key.GetToken()
			}
			d.survey(kv.Value, join(path, key))
		}
	case *ast.MappingValueNode:
		if key, ok := d.key(n, path); ok {
			d.survey(n.Value, join(path, key))
		}
	case *ast.SequenceNode:
		for i, v := range n.Values {
			d.survey(v, index(path, i))
		}
	case *ast.TagNode:
		d.add(n.GetToken(), path, "YAML tags are not supported", "")
	case *ast.AnchorNode:
		d.survey(n.Value, path)
		d.anchors[n.Name.GetToken().Value] = n.Value
	case *ast.AliasNode:
		target := d.anchors[n.Value.GetToken().Value]
		if target == nil {
			d.add(n.GetToken(), path, "an alias without an anchor before it", "")
			return
		}
		d.aliases[n] = target
	}
}

// key returns the text of a key, or false (and an error, the first time) for one that is no
// plain word.
func (d *decoder) key(kv *ast.MappingValueNode, path string) (string, bool) {
	var why string
	switch k := kv.Key.(type) {
	case *ast.StringNode:
		return k.Value, true
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode:
		return k.GetToken().Value, true
	case *ast.MergeKeyNode:
		why = "merge keys (<<) are not supported; write the keys out"
	default:
		why = "a key must be a plain word"
	}
	if !d.badKeys[kv] {
		d.badKeys[kv] = true
		d.add(kv.Key.GetToken(), path, why, "")
	}
	return "", false
}

func join(path, key string) string {
	if path == "" {
		return printable(key)
	}
	return path + "." + printable(key)
}

func index(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
