package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"terok/internal/problem"
	"terok/internal/state"
)

// SetPath sets one key of a YAML file, e.g. SetPath(f, "run.memory", "4g", nil), and leaves every
// other byte, comments and order included, as it is. The value is a string, a boolean, a number,
// nil, or a list or map of those; missing sections are made, and so is a missing file (mode 0600).
// check, when not nil, sees the new text first, and its error leaves the file alone. A symbolic
// link stays one and its target is changed. Concurrent edits wait for each other.
func SetPath(file, path string, value any, check func(data []byte) error) error {
	return rewrite(file, check, func(name string, data []byte) ([]byte, error) { return Edit(name, data, path, value) })
}

// rewrite replaces a file by what edit makes of it, under its lock.
func rewrite(file string, check func(data []byte) error, edit func(name string, data []byte) ([]byte, error)) error {
	target, err := filepath.EvalSymlinks(file)
	if errors.Is(err, fs.ErrNotExist) {
		target, err = file, nil
	}
	if err != nil {
		return err
	}
	unlock, err := state.LockFor(target, 5*time.Second)
	if err != nil {
		return err
	}
	defer unlock()
	mode := fs.FileMode(0o600)
	data, err := ReadFile(target)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if fi, err := os.Stat(target); err == nil {
		mode = fi.Mode().Perm()
	}
	edited, err := edit(target, data)
	if err != nil {
		return err
	}
	if check != nil {
		if err := check(edited); err != nil {
			return err
		}
	}
	if bytes.Equal(data, edited) {
		return nil
	}
	return state.WriteFileMode(target, edited, mode)
}

// Edit is SetPath on bytes; name stands for the file in errors. It works on the text, guided by
// the positions in the tree, and reads the result again: unless exactly the one key has changed,
// it fails with code config_edit and nothing is returned.
func Edit(name string, data []byte, path string, value any) ([]byte, error) {
	keys := strings.Split(path, ".")
	for _, k := range keys {
		if !keyForm().MatchString(k) {
			return nil, fmt.Errorf("config: %q is not a path of plain keys", path)
		}
	}
	lit, err := literal(value)
	if err != nil {
		return nil, err
	}
	before, root, err := plainTree(name, data)
	if err != nil {
		return nil, err
	}
	if root != nil && !isMapping(root) {
		return nil, editError(name, path)
	}
	edited := splice(data, root, keys, lit)
	after, _, err := plainTree(name, edited)
	if err != nil {
		return nil, editError(name, path)
	}
	want, _, err := plainTree(name, []byte("value: "+lit+"\n"))
	if err != nil {
		return nil, editError(name, path)
	}
	if !put(before, keys, want["value"]) || !reflect.DeepEqual(before, after) {
		return nil, editError(name, path)
	}
	return edited, nil
}

func editError(name, path string) error {
	return problem.New("config_edit", problem.Failed, "%s is written in a way in which %s cannot be set by a program", name, path).
		WithHint("edit %s", name)
}

var (
	keyForm   = compiled(`^[A-Za-z_][A-Za-z0-9_-]*$`)
	plainForm = compiled(`^([A-Za-z/][A-Za-z0-9_./@+-]*(:[A-Za-z0-9_./@+-]+)*|[0-9]+[kmgsh])$`)
)

// literal writes a value in one line; JSON is YAML.
func literal(v any) (string, error) {
	if s, ok := v.(string); ok && plainForm().MatchString(s) {
		switch strings.ToLower(s) {
		case "true", "false", "null", "yes", "no", "on", "off", "y", "n":
		default:
			return s, nil
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return "", fmt.Errorf("config: %w", err)
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

// plainTree parses data into plain values, with the tree they come from.
func plainTree(name string, data []byte) (map[string]any, ast.Node, error) {
	d := &decoder{name: name}
	d.init()
	n, ok := d.parse(data)
	m := map[string]any{}
	if ok && n != nil {
		d.survey(n, "")
		v, _ := d.plain(n, "")
		if got, isMap := v.(map[string]any); isMap {
			m = got
		}
	}
	if len(d.errs) > 0 {
		return nil, nil, d.errs.Problem()
	}
	return m, n, nil
}

// put sets a value in plain values; false when something else than a mapping is in the way.
func put(m map[string]any, keys []string, v any) bool {
	for _, k := range keys[:len(keys)-1] {
		next, ok := m[k].(map[string]any)
		if !ok {
			if m[k] != nil {
				return false
			}
			next = map[string]any{}
			m[k] = next
		}
		m = next
	}
	m[keys[len(keys)-1]] = v
	return true
}

// splice makes the new text. It may be wrong for strange files; Edit looks at the result.
func splice(data []byte, root ast.Node, keys []string, lit string) []byte {
	src := newLines(data)
	var section *ast.MappingValueNode // the deepest one that exists
	for node := root; node != nil && len(keys) > 0; {
		var hit *ast.MappingValueNode
		for _, kv := range entries(node) {
			if kv.Key.GetToken().Value == keys[0] {
				hit = kv
			}
		}
		if hit == nil {
			break
		}
		section, node, keys = hit, hit.Value, keys[1:]
	}
	switch {
	case len(keys) == 0:
		return src.replaceValue(section, lit)
	case section == nil && (root == nil || !isFlow(root)):
		return append(src.terminated(), lay("", keys, lit)...)
	case section == nil:
		return src.insert(src.offset(root.(*ast.MappingNode).Start)+1, inFlow(root, keys, lit))
	case isFlow(section.Value):
		return src.insert(src.offset(section.Value.(*ast.MappingNode).Start)+1, inFlow(section.Value, keys, lit))
	}
	indent := strings.Repeat(" ", section.Key.GetToken().Position.Column+1)
	if kv := entries(section.Value); len(kv) > 0 {
		indent = strings.Repeat(" ", kv[0].Key.GetToken().Position.Column-1)
	}
	at := src.lineStart(section.Key.GetToken().Position.Line + 1)
	text := lay(indent, keys, lit)
	if at == len(data) {
		return append(src.terminated(), text...)
	}
	return src.insert(at, text)
}

// lay writes nested keys in block form.
func lay(indent string, keys []string, lit string) string {
	var b strings.Builder
	for i, k := range keys {
		b.WriteString(indent + strings.Repeat("  ", i) + k + ":")
		if i == len(keys)-1 {
			b.WriteString(" " + lit)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// inFlow writes nested keys as the first entry of a flow mapping.
func inFlow(n ast.Node, keys []string, lit string) string {
	s := strings.Join(keys, ": {") + ": " + lit + strings.Repeat("}", len(keys)-1)
	if len(entries(n)) > 0 {
		s += ", "
	}
	return s
}

func isFlow(n ast.Node) bool {
	m, ok := n.(*ast.MappingNode)
	return ok && m.IsFlowStyle && m.Start != nil
}

// lines finds bytes by line and column (in characters), as tokens name them.
type lines struct {
	data   []byte
	starts []int
}

func newLines(data []byte) lines {
	l := lines{data: data, starts: []int{0}}
	for i, c := range data {
		if c == '\n' {
			l.starts = append(l.starts, i+1)
		}
	}
	return l
}

func (l lines) lineStart(line int) int {
	if line-1 >= len(l.starts) {
		return len(l.data)
	}
	return l.starts[max(line-1, 0)]
}

func (l lines) offset(tk *token.Token) int {
	at := l.lineStart(tk.Position.Line)
	for range tk.Position.Column - 1 {
		_, n := utf8.DecodeRune(l.data[at:])
		at += n
	}
	return at
}

func (l lines) insert(at int, s string) []byte {
	return append(append(append([]byte(nil), l.data[:at]...), s...), l.data[at:]...)
}

// terminated is the text with a newline at its end.
func (l lines) terminated() []byte {
	out := append([]byte(nil), l.data...)
	if len(out) > 0 && out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return out
}

// replaceValue puts lit in the place of what follows the key's colon, up to the next token.
func (l lines) replaceValue(kv *ast.MappingValueNode, lit string) []byte {
	start := l.offset(kv.Start) + 1
	end, comment := start, ""
	if last := lastToken(kv.Value); last != nil {
		end = len(l.data)
		if next := nextToken(last); next != nil {
			end = l.offset(next)
		}
		end = start + len(bytes.TrimRight(l.data[start:end], " \t\r\n"))
		// A comment beside the key of a block value stays beside the key.
		if c := kv.Start.Next; c != nil && c.Type == token.CommentType && c.Position.Line == kv.Start.Position.Line {
			comment = " #" + strings.TrimRight(c.Value, "\r\n")
		}
	}
	out := append([]byte(nil), l.data[:start]...)
	out = append(out, " "+lit+comment...)
	return append(out, l.data[end:]...)
}

// lastToken is the last token of a value; nil for one that is not written.
func lastToken(n ast.Node) *token.Token {
	switch n := n.(type) {
	case *ast.NullNode:
		if n.Token.Type == token.ImplicitNullType {
			return nil
		}
	case *ast.LiteralNode:
		return n.Value.Token
	case *ast.MappingNode:
		if n.IsFlowStyle {
			return n.End
		}
		if len(n.Values) > 0 {
			return lastToken(n.Values[len(n.Values)-1])
		}
	case *ast.MappingValueNode:
		if last := lastToken(n.Value); last != nil {
			return last
		}
		return n.Start
	case *ast.SequenceNode:
		if n.IsFlowStyle {
			return n.End
		}
		if len(n.Values) > 0 {
			return lastToken(n.Values[len(n.Values)-1])
		}
	case *ast.AnchorNode:
		return lastToken(n.Value)
	case *ast.AliasNode:
		return n.Value.GetToken()
	}
	return n.GetToken()
}

// nextToken is the next token that stands in the text.
func nextToken(tk *token.Token) *token.Token {
	for tk = tk.Next; tk != nil && tk.Type == token.ImplicitNullType; tk = tk.Next {
	}
	return tk
}
