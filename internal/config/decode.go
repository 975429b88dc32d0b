package config

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/token"

	"terok/internal/text"
)

// decoder fills one value from one file.
type decoder struct {
	name string
	root any
	errs Errors

	anchors map[string]ast.Node
	aliases map[*ast.AliasNode]ast.Node
	badKeys map[*ast.MappingValueNode]bool
	nodes   int // in the file
	visits  int // while decoding, aliases expanded
	newer   int // the schema of a file that is too new

	at         map[string]*token.Token // where each path is: its key, or its entry
	validators []validation
	known      map[string][]string // last word of a key → full paths, for suggestions
}

type validation struct {
	v    Validator
	path string
}

func (d *decoder) init() {
	d.anchors, d.aliases = map[string]ast.Node{}, map[*ast.AliasNode]ast.Node{}
	d.badKeys, d.at = map[*ast.MappingValueNode]bool{}, map[string]*token.Token{}
}

func (d *decoder) run(data []byte) {
	d.init()
	v := reflect.ValueOf(d.root)
	if v.Kind() != reflect.Pointer || v.IsNil() {
		panic("config: Decode needs a pointer") // a mistake of the program, not of the file
	}
	node, ok := d.parse(data)
	if !ok {
		return
	}
	if node != nil {
		d.survey(node, "")
		if d.newer = d.schema(node); d.newer > 0 {
			return
		}
		d.known = map[string][]string{}
		d.learn(v.Elem().Type(), "", 0)
		d.value(node, v.Elem(), "", "")
	}
	if r, ok := d.root.(Validator); ok && !slices.ContainsFunc(d.validators, func(x validation) bool { return x.path == "" }) {
		d.validators = append(d.validators, validation{r, ""})
	}
	d.validate()
}

// schema returns the number of a file that is newer than the program, or 0.
func (d *decoder) schema(n ast.Node) int {
	r, ok := d.root.(Versioned)
	if !ok {
		return 0
	}
	for _, kv := range entries(n) {
		if kv.Key.GetToken().Value != "schema" {
			continue
		}
		if i, ok := kv.Value.(*ast.IntegerNode); ok {
			if v, ok := i.Value.(uint64); ok && v > uint64(r.MaxSchema()) {
				return int(min(v, math.MaxInt32))
			}
		}
	}
	return 0
}

// add notes an error at a token.
func (d *decoder) add(tk *token.Token, path, message, suggestion string) {
	e := Error{File: d.name, Path: path, Message: message, Suggestion: suggestion}
	if tk != nil && tk.Position != nil {
		e.Line, e.Column = tk.Position.Line, tk.Position.Column
	}
	d.errs = append(d.errs, e)
}

// value decodes n into v. oneof is the tag of the field, "" outside of fields.
func (d *decoder) value(n ast.Node, v reflect.Value, path, oneof string) {
	n, ok := d.resolve(n, path)
	if !ok || n == nil || n.Type() == ast.NullType {
		return // null: not set
	}
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		d.value(n, v.Elem(), path, oneof)
		return
	}
	if path != "" && v.CanAddr() { // the root is asked once, by run
		if r, ok := v.Addr().Interface().(Validator); ok {
			d.validators = append(d.validators, validation{r, path})
		}
	}
	if v.CanAddr() {
		if l, ok := v.Addr().Interface().(Located); ok {
			if tk := startOf(n); tk != nil && tk.Position != nil {
				l.LocateConfig(tk.Position.Line)
			}
		}
		switch u := v.Addr().Interface().(type) {
		case Unmarshaler:
			p, ok := d.plain(n, path)
			if !ok {
				return
			}
			if err := u.UnmarshalConfig(p); err != nil {
				d.add(startOf(n), path, printable(err.Error()), "")
			}
			return
		case encoding.TextUnmarshaler:
			s, ok := n.(*ast.StringNode)
			if !ok {
				d.wrong(n, path, "a string")
			} else if err := u.UnmarshalText([]byte(s.Value)); err != nil {
				d.add(n.GetToken(), path, printable(err.Error()), "")
			}
			return
		case *time.Duration:
			d.duration(n, u, path)
			return
		case Switched:
			if on, ok := onOff(n); ok {
				u.Switch(on)
				return
			}
		}
	}
	switch v.Kind() {
	case reflect.Struct:
		d.structure(n, v, path)
	case reflect.Map:
		d.mapping(n, v, path)
	case reflect.Slice:
		d.sequence(n, v, path, oneof)
	case reflect.Interface:
		if p, ok := d.plain(n, path); ok && p != nil {
			v.Set(reflect.ValueOf(p))
		}
	case reflect.String:
		s, ok := str(n)
		switch {
		case !ok && scalar(n):
			d.wrong(n, path, "a string (put it in quotes)")
		case !ok:
			d.wrong(n, path, "a string")
		case oneof != "" && !slices.Contains(strings.Fields(oneof), s):
			words := strings.Fields(oneof)
			d.add(n.GetToken(), path, d.shown(path, s)+" is not one of: "+strings.Join(words, ", "), suggestion(s, words))
		default:
			v.SetString(s)
		}
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if !ok {
			s, _ := str(n)
			hint := map[string]string{"yes": `"true"`, "on": `"true"`, "no": `"false"`, "off": `"false"`}[strings.ToLower(s)]
			d.wrongHint(n, path, "true or false", strings.ReplaceAll(hint, `"`, ""))
			return
		}
		v.SetBool(b.Value)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64,
		reflect.Float32, reflect.Float64:
		d.number(n, v, path)
	default:
		panic(fmt.Sprintf("config: %s has the type %s, which no file can fill", path, v.Type()))
	}
}

// resolve follows anchors and aliases and keeps their expansion in bounds.
func (d *decoder) resolve(n ast.Node, path string) (ast.Node, bool) {
	for {
		d.visits++
		if d.visits > 2*d.nodes+maxExpand {
			if d.visits == 2*d.nodes+maxExpand+1 {
				d.add(n.GetToken(), path, fmt.Sprintf("aliases expand beyond %d nodes", maxExpand), "")
			}
			return nil, false
		}
		switch x := n.(type) {
		case *ast.AnchorNode:
			n = x.Value
		case *ast.AliasNode:
			target, ok := d.aliases[x]
			if !ok {
				return nil, false // reported by survey
			}
			n = target
		case *ast.TagNode:
			return nil, false
		default:
			return n, true
		}
	}
}

// entries returns the pairs of a mapping; a mapping of one pair may be a node of its own.
func entries(n ast.Node) []*ast.MappingValueNode {
	switch n := n.(type) {
	case *ast.MappingNode:
		return n.Values
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}
	}
	return nil
}

// startOf is where a value begins; the tree puts a mapping at its first colon.
func startOf(n ast.Node) *token.Token {
	if kv := entries(n); len(kv) > 0 && !isFlow(n) {
		return kv[0].Key.GetToken()
	}
	return n.GetToken()
}

func isMapping(n ast.Node) bool {
	return n.Type() == ast.MappingType || n.Type() == ast.MappingValueType
}

func (d *decoder) structure(n ast.Node, v reflect.Value, path string) {
	if !isMapping(n) {
		d.wrong(n, path, "a mapping of keys")
		return
	}
	fields := map[string]field{}
	var names []string
	for _, f := range fieldsOf(v.Type(), nil) {
		fields[f.name] = f
		names = append(names, f.name)
	}
	for _, kv := range entries(n) {
		key, ok := d.key(kv, path)
		if !ok {
			continue
		}
		full := join(path, key)
		d.at[full] = kv.Key.GetToken()
		f, ok := fields[key]
		if !ok {
			d.unknown(kv.Key.GetToken(), full, key, names)
			continue
		}
		d.value(kv.Value, v.FieldByIndex(f.index), full, f.oneof)
	}
}

// unknown says what may have been meant by a key that does not exist.
func (d *decoder) unknown(tk *token.Token, full, key string, names []string) {
	if m, ok := d.root.(Mover); ok {
		moved := m.Moved()
		section, _, _ := strings.Cut(full, ".")
		for _, old := range []string{full, section + ".*"} {
			if now := moved[old]; now != "" {
				d.add(tk, full, "this key is gone: "+now, "")
				return
			}
		}
	}
	message := fmt.Sprintf("unknown key %s", strconv.QuoteToASCII(text.Line(key, 64)))
	if s := suggestion(key, names); s != "" {
		d.add(tk, full, message, s)
		return
	}
	if elsewhere := d.known[key]; len(elsewhere) > 0 {
		if elsewhere[0] == key { // the same word would be no hint
			d.add(tk, full, message+"; it belongs to the top level", "")
			return
		}
		d.add(tk, full, message, strconv.Quote(elsewhere[0]))
		return
	}
	if len(names) > 0 {
		message += "; known here: " + strings.Join(names, ", ")
	}
	d.add(tk, full, message, "")
}

func (d *decoder) mapping(n ast.Node, v reflect.Value, path string) {
	if v.Type().Key().Kind() != reflect.String {
		panic(fmt.Sprintf("config: %s has the type %s, which no file can fill", path, v.Type()))
	}
	if !isMapping(n) {
		d.wrong(n, path, "a mapping")
		return
	}
	out := reflect.MakeMap(v.Type()) // what the file says replaces a default as a whole
	for _, kv := range entries(n) {
		key, ok := d.key(kv, path)
		if !ok {
			continue
		}
		full := join(path, key)
		d.at[full] = kv.Key.GetToken()
		elem := reflect.New(v.Type().Elem()).Elem()
		d.value(kv.Value, elem, full, "")
		out.SetMapIndex(reflect.ValueOf(key).Convert(v.Type().Key()), elem)
	}
	v.Set(out)
}

func (d *decoder) sequence(n ast.Node, v reflect.Value, path, oneof string) {
	seq, ok := n.(*ast.SequenceNode)
	if !ok {
		d.wrong(n, path, "a list")
		return
	}
	out := reflect.MakeSlice(v.Type(), len(seq.Values), len(seq.Values))
	for i, item := range seq.Values {
		p := index(path, i)
		d.at[p] = startOf(item)
		if r, ok := d.resolve(item, p); ok && (r == nil || r.Type() == ast.NullType) {
			d.add(item.GetToken(), p, "an empty entry", "")
			continue
		}
		d.value(item, out.Index(i), p, oneof)
	}
	v.Set(out)
}

// duration takes "1m30s" or a number of seconds.
func (d *decoder) duration(n ast.Node, into *time.Duration, path string) {
	const want = `a span of time such as 30s, 5m or 1h30m, or a number of seconds`
	switch n := n.(type) {
	case *ast.StringNode:
		v, err := time.ParseDuration(n.Value)
		if err != nil || v < 0 {
			d.wrong(n, path, want)
			return
		}
		*into = v
	case *ast.IntegerNode:
		s, ok := n.Value.(uint64)
		if !ok || s > uint64(math.MaxInt64/time.Second) {
			d.wrong(n, path, want)
			return
		}
		*into = time.Duration(s) * time.Second
	default:
		d.wrong(n, path, want)
	}
}

func (d *decoder) number(n ast.Node, v reflect.Value, path string) {
	var want string
	switch i, isInt := n.(*ast.IntegerNode); {
	case v.CanInt():
		want = fmt.Sprintf("a whole number of at most %d", int64(1)<<(v.Type().Bits()-1)-1)
		if !isInt {
			break
		}
		switch x := i.Value.(type) {
		case int64:
			if !v.OverflowInt(x) {
				v.SetInt(x)
				return
			}
		case uint64:
			if x <= math.MaxInt64 && !v.OverflowInt(int64(x)) {
				v.SetInt(int64(x))
				return
			}
		}
	case v.CanUint():
		want = fmt.Sprintf("a whole number from 0 to %d", uint64(math.MaxUint64)>>(64-v.Type().Bits()))
		if !isInt {
			break
		}
		if x, ok := i.Value.(uint64); ok && !v.OverflowUint(x) {
			v.SetUint(x)
			return
		}
	default:
		want = "a number"
		if isInt {
			switch x := i.Value.(type) {
			case int64:
				v.SetFloat(float64(x))
			case uint64:
				v.SetFloat(float64(x))
			}
			return
		}
		if f, ok := n.(*ast.FloatNode); ok {
			v.SetFloat(f.Value)
			return
		}
	}
	d.wrong(n, path, want)
}

// plain makes the Go value of a node; false when something in it was refused.
func (d *decoder) plain(n ast.Node, path string) (any, bool) {
	n, ok := d.resolve(n, path)
	if !ok {
		return nil, false
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
		return nil, true
	case *ast.BoolNode:
		return n.Value, true
	case *ast.IntegerNode:
		if u, ok := n.Value.(uint64); ok && u <= math.MaxInt64 {
			return int64(u), true
		}
		return n.Value, true
	case *ast.FloatNode:
		return n.Value, true
	case *ast.SequenceNode:
		list := make([]any, len(n.Values))
		for i, item := range n.Values {
			d.at[index(path, i)] = startOf(item)
			if list[i], ok = d.plain(item, index(path, i)); !ok {
				return nil, false
			}
		}
		return list, true
	case *ast.MappingNode, *ast.MappingValueNode:
		m := map[string]any{}
		for _, kv := range entries(n) {
			key, ok := d.key(kv, path)
			if !ok {
				return nil, false
			}
			d.at[join(path, key)] = kv.Key.GetToken()
			if m[key], ok = d.plain(kv.Value, join(path, key)); !ok {
				return nil, false
			}
		}
		return m, true
	}
	if s, ok := str(n); ok {
		return s, true
	}
	d.wrong(n, path, "a plain value")
	return nil, false
}

// onOff reads the one word of a section that is Switched.
func onOff(n ast.Node) (on, ok bool) {
	if b, ok := n.(*ast.BoolNode); ok {
		return b.Value, true
	}
	s, _ := str(n)
	return s == "on", s == "on" || s == "off"
}
