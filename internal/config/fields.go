package config

import (
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/goccy/go-yaml/ast"

	"terok/internal/text"
)

// field is a struct field as a file sees it.
type field struct {
	name  string
	oneof string
	index []int
	typ   reflect.Type
}

// fieldsOf lists the keys of a struct in the order of its fields, embedded ones included.
func fieldsOf(t reflect.Type, at []int) []field {
	var out []field
	for i := range t.NumField() {
		sf := t.Field(i)
		index := append(append([]int(nil), at...), i)
		name, opts, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		switch {
		case name == "-" || !sf.IsExported():
		case opts == "inline" || sf.Anonymous && name == "" && sf.Type.Kind() == reflect.Struct:
			out = append(out, fieldsOf(sf.Type, index)...)
		default:
			if name == "" {
				name = strings.ToLower(sf.Name)
			}
			out = append(out, field{name, sf.Tag.Get("oneof"), index, sf.Type})
		}
	}
	return out
}

// learn notes where each key lives, so that a key in the wrong section can be sent to its place.
func (d *decoder) learn(t reflect.Type, path string, depth int) {
	if t.Kind() != reflect.Struct || depth > 4 {
		return
	}
	for _, f := range fieldsOf(t, nil) {
		full := join(path, f.name)
		d.known[f.name] = append(d.known[f.name], full)
		ft := f.typ
		if ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		if !reflect.PointerTo(ft).Implements(reflect.TypeFor[Unmarshaler]()) {
			d.learn(ft, full, depth+1)
		}
	}
}

// validate asks the validators and gives their findings a place. A path that already has an
// error is left alone: its value is not what the file says.
func (d *decoder) validate() {
	failed := map[string]bool{}
	for _, e := range d.errs {
		failed[e.Path] = true
	}
	for _, x := range d.validators {
		for _, fe := range x.v.Validate() {
			path := x.path
			switch {
			case fe.Path == "":
			case path == "" || strings.HasPrefix(fe.Path, "["):
				path += fe.Path
			default:
				path += "." + fe.Path
			}
			if failed[path] {
				continue
			}
			failed[path] = true
			near := path // a key that is missing is reported where it would stand
			for near != "" && d.at[near] == nil {
				near = near[:max(strings.LastIndexAny(near, ".["), 0)]
			}
			d.add(d.at[near], path, printable(fe.Message), fe.Suggestion)
		}
	}
}

// wrong notes a value of the wrong type.
func (d *decoder) wrong(n ast.Node, path, want string) { d.wrongHint(n, path, want, "") }

func (d *decoder) wrongHint(n ast.Node, path, want, hint string) {
	var got string
	switch n.Type() {
	case ast.MappingType, ast.MappingValueType:
		got = "a mapping"
	case ast.SequenceType:
		got = "a list"
	case ast.BoolType:
		got = "the boolean " + d.shown(path, n.GetToken().Value)
	case ast.IntegerType, ast.FloatType, ast.InfinityType, ast.NanType:
		got = "the number " + d.shown(path, n.GetToken().Value)
	default:
		s, _ := str(n)
		got = d.shown(path, s)
	}
	d.add(startOf(n), path, "expected "+want+", got "+got, hint)
}

// compiled makes an expression at its first use: at the start of the program most are not needed.
func compiled(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// secretKey matches keys whose values never appear in an error.
var secretKey = compiled(`(?i)pass|token|secret|key`)

// shown quotes a value for an error, unless its key says that it is a secret.
func (d *decoder) shown(path, value string) string {
	if secretKey().MatchString(path) {
		return "a value that is not shown"
	}
	return strconv.QuoteToASCII(text.Line(value, 80))
}

// printable makes a message safe for a terminal.
func printable(s string) string { return text.Line(s, 400) }

func scalar(n ast.Node) bool {
	switch n.(type) {
	case *ast.StringNode, *ast.LiteralNode, *ast.BoolNode, *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		return true
	}
	return false
}

// str returns the text of a string, plain, quoted or block.
func str(n ast.Node) (string, bool) {
	switch n := n.(type) {
	case *ast.StringNode:
		return n.Value, true
	case *ast.LiteralNode:
		return n.Value.Value, true
	}
	return "", false
}
