package config

import (
	"bytes"
	"reflect"
	"slices"
	"strings"

	"github.com/goccy/go-yaml/ast"
)

// AddToList appends an item to a list of strings in a YAML file and leaves every other byte,
// comments between the items included, as it is; a list that is not there is made. An item that is
// in the list already changes nothing. Otherwise it is as SetPath.
func AddToList(file, path, item string, check func(data []byte) error) error {
	return rewrite(file, check, func(name string, data []byte) ([]byte, error) { return editList(name, data, path, item, true) })
}

// RemoveFromList takes an item, as it is written, out of a list of strings; one that is not there
// changes nothing.
func RemoveFromList(file, path, item string, check func(data []byte) error) error {
	return rewrite(file, check, func(name string, data []byte) ([]byte, error) { return editList(name, data, path, item, false) })
}

// editList works on the text of block lists, where people put comments, and sets other lists as a
// whole. Like Edit it reads the result again and fails unless exactly the one list has changed.
func editList(name string, data []byte, path, item string, add bool) ([]byte, error) {
	keys := strings.Split(path, ".")
	before, root, err := plainTree(name, data)
	if err != nil {
		return nil, err
	}
	have, ok := listAt(before, keys)
	if !ok {
		return nil, editError(name, path)
	}
	at := slices.Index(have, any(item))
	if (at >= 0) == add {
		return data, nil
	}
	want := slices.Clone(have)
	if add {
		want = append(want, item)
	} else {
		want = slices.Delete(want, at, at+1)
	}
	if want == nil {
		want = []any{}
	}
	if seq := blockList(root, keys); seq != nil && len(want) > 0 {
		edited, ok := spliceList(data, seq, at, item, add)
		if after, _, err := plainTree(name, edited); ok && err == nil && put(before, keys, want) && reflect.DeepEqual(before, after) {
			return edited, nil
		}
	}
	return Edit(name, data, path, want)
}

// listAt returns the plain list at a path; what is not set is an empty one.
func listAt(m map[string]any, keys []string) ([]any, bool) {
	for _, k := range keys[:len(keys)-1] {
		next, ok := m[k].(map[string]any)
		if !ok {
			return nil, m[k] == nil
		}
		m = next
	}
	v := m[keys[len(keys)-1]]
	list, ok := v.([]any)
	return list, ok || v == nil
}

// blockList finds a list in block form, or nil.
func blockList(node ast.Node, keys []string) *ast.SequenceNode {
	for _, k := range keys {
		var hit ast.Node
		for _, kv := range entries(node) {
			if kv.Key.GetToken().Value == k {
				hit = kv.Value
			}
		}
		node = hit
	}
	if seq, ok := node.(*ast.SequenceNode); ok && !seq.IsFlowStyle && len(seq.Values) > 0 {
		return seq
	}
	return nil
}

// spliceList adds a line behind the last item, or removes the line of the item at an index. It may
// be wrong for strange files; editList looks at the result.
func spliceList(data []byte, seq *ast.SequenceNode, at int, item string, add bool) ([]byte, bool) {
	src := newLines(data)
	if !add {
		line := seq.Values[at].GetToken().Position.Line
		start, end := src.lineStart(line), src.lineStart(line+1)
		return append(append([]byte(nil), data[:start]...), data[end:]...), true
	}
	last := lastToken(seq.Values[len(seq.Values)-1])
	lit, err := literal(item)
	if last == nil || err != nil {
		return nil, false
	}
	first := data[src.lineStart(seq.Values[0].GetToken().Position.Line):]
	indent := first[:len(first)-len(bytes.TrimLeft(first, " "))]
	line := string(indent) + "- " + lit + "\n"
	end := src.lineStart(last.Position.Line + 1)
	if end == len(data) {
		return append(src.terminated(), line...), true
	}
	return src.insert(end, line), true
}
