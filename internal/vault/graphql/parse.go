package graphql

import (
	"errors"
	"fmt"
	"slices"
)

// Parse reads a document.
func Parse(src string) (*Document, error) {
	if len(src) > MaxBytes {
		return nil, fmt.Errorf("the query is longer than %d bytes", MaxBytes)
	}
	p := &parser{lexer: lexer{src: src}}
	if err := p.next(); err != nil {
		return nil, err
	}
	d := &Document{fragments: map[string][]selection{}}
	for p.tok.kind != end {
		if err := p.definition(d); err != nil {
			return nil, err
		}
	}
	if len(d.operations) == 0 {
		return nil, errors.New("the document has no operation")
	}
	return d, nil
}

type parser struct {
	lexer
	tok   token
	depth int
	words int
}

func (p *parser) next() error {
	if p.words++; p.words > maxWords {
		return fmt.Errorf("the document has more than %d words", maxWords)
	}
	var err error
	p.tok, err = p.scan()
	return err
}

func (p *parser) is(punctuator string) bool { return p.tok.kind == punct && p.tok.text == punctuator }

// take moves on when the punctuator is next.
func (p *parser) take(punctuator string) (bool, error) {
	if !p.is(punctuator) {
		return false, nil
	}
	return true, p.next()
}

func (p *parser) want(punctuator string) error {
	ok, err := p.take(punctuator)
	if err == nil && !ok {
		err = p.unexpected("\"" + punctuator + "\"")
	}
	return err
}

func (p *parser) name() (string, error) {
	if p.tok.kind != name {
		return "", p.unexpected("a name")
	}
	s := p.tok.text
	return s, p.next()
}

func (p *parser) unexpected(wanted string) error {
	return fmt.Errorf("byte %d of the document: %s is expected", p.tok.at, wanted)
}

// enter counts the nesting; the caller calls leave.
func (p *parser) enter() error {
	if p.depth++; p.depth > maxDepth {
		return fmt.Errorf("the document is nested deeper than %d", maxDepth)
	}
	return nil
}

func (p *parser) leave() { p.depth-- }

func (p *parser) definition(d *Document) error {
	if p.is("{") {
		root, err := p.selections()
		d.operations = append(d.operations, operation{kind: "query", root: root})
		return err
	}
	kind, err := p.name()
	if err != nil {
		return err
	}
	if kind == "fragment" {
		return p.fragment(d)
	}
	if !slices.Contains([]string{"query", "mutation", "subscription"}, kind) {
		return fmt.Errorf("%q is no operation", clip(kind))
	}
	op := operation{kind: kind, defaults: map[string]any{}}
	if p.tok.kind == name {
		if _, err := p.name(); err != nil {
			return err
		}
	}
	if p.is("(") {
		if err := p.variables(op.defaults); err != nil {
			return err
		}
	}
	if err := p.directives(); err != nil {
		return err
	}
	op.root, err = p.selections()
	d.operations = append(d.operations, op)
	return err
}

func (p *parser) fragment(d *Document) error {
	called, err := p.name()
	if err != nil {
		return err
	}
	if called == "on" || d.fragments[called] != nil {
		return fmt.Errorf("a fragment cannot be named %q, or is there twice", clip(called))
	}
	if on, err := p.name(); err != nil || on != "on" {
		return errors.Join(err, errors.New("a fragment needs a type"))
	}
	if _, err := p.name(); err != nil {
		return err
	}
	if err := p.directives(); err != nil {
		return err
	}
	d.fragments[called], err = p.selections()
	return err
}

// variables reads the definitions of an operation's variables, for their defaults.
func (p *parser) variables(defaults map[string]any) error {
	if err := p.want("("); err != nil {
		return err
	}
	for {
		if err := p.want("$"); err != nil {
			return err
		}
		called, err := p.name()
		if err != nil {
			return err
		}
		if _, again := defaults[called]; again {
			return fmt.Errorf("the variable %q is there twice", clip(called))
		}
		defaults[called] = nil
		if err := p.want(":"); err != nil {
			return err
		}
		if err := p.typeRef(); err != nil {
			return err
		}
		if ok, err := p.take("="); err != nil {
			return err
		} else if ok {
			v, err := p.value()
			if err != nil {
				return err
			}
			defaults[called] = (&expander{}).resolve(v) // the grammar has no variables here; one is nil
		}
		if err := p.directives(); err != nil {
			return err
		}
		if ok, err := p.take(")"); ok || err != nil {
			return err
		}
	}
}

func (p *parser) typeRef() error {
	if err := p.enter(); err != nil {
		return err
	}
	defer p.leave()
	if ok, err := p.take("["); err != nil {
		return err
	} else if ok {
		if err := p.typeRef(); err != nil {
			return err
		}
		if err := p.want("]"); err != nil {
			return err
		}
	} else if _, err := p.name(); err != nil {
		return err
	}
	_, err := p.take("!")
	return err
}

func (p *parser) directives() error {
	for {
		ok, err := p.take("@")
		if !ok || err != nil {
			return err
		}
		if _, err := p.name(); err != nil {
			return err
		}
		if _, err := p.arguments(); err != nil {
			return err
		}
	}
}

// selections reads a selection set. Only what can stand at the root of an operation is kept: fields
// lose what is selected of their result.
func (p *parser) selections() ([]selection, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer p.leave()
	if err := p.want("{"); err != nil {
		return nil, err
	}
	list := []selection{}
	for {
		s, err := p.selection()
		if err != nil {
			return nil, err
		}
		list = append(list, s)
		if ok, err := p.take("}"); ok || err != nil {
			return list, err
		}
	}
}

func (p *parser) selection() (selection, error) {
	if ok, err := p.take("..."); err != nil {
		return selection{}, err
	} else if ok {
		return p.spread()
	}
	called, err := p.name()
	if err != nil {
		return selection{}, err
	}
	if ok, err := p.take(":"); err != nil {
		return selection{}, err
	} else if ok { // that was an alias
		if called, err = p.name(); err != nil {
			return selection{}, err
		}
	}
	s := selection{field: called}
	if s.args, err = p.arguments(); err != nil {
		return selection{}, err
	}
	if err := p.directives(); err != nil {
		return selection{}, err
	}
	if p.is("{") {
		_, err = p.selections()
	}
	return s, err
}

func (p *parser) spread() (selection, error) {
	if p.tok.kind == name && p.tok.text != "on" {
		called, err := p.name()
		if err != nil {
			return selection{}, err
		}
		return selection{fragment: called}, p.directives()
	}
	if p.tok.kind == name { // on TYPE
		if err := p.next(); err != nil {
			return selection{}, err
		}
		if _, err := p.name(); err != nil {
			return selection{}, err
		}
	}
	if err := p.directives(); err != nil {
		return selection{}, err
	}
	inline, err := p.selections()
	return selection{inline: inline}, err
}

func (p *parser) arguments() (map[string]value, error) {
	if ok, err := p.take("("); !ok || err != nil {
		return nil, err
	}
	return p.members(")")
}

// members reads "name: value" until the closing word; a name that is there twice is refused, since
// servers differ in which one counts.
func (p *parser) members(closing string) (map[string]value, error) {
	out := map[string]value{}
	for {
		called, err := p.name()
		if err != nil {
			return nil, err
		}
		if _, again := out[called]; again {
			return nil, fmt.Errorf("%q is there twice", clip(called))
		}
		if err := p.want(":"); err != nil {
			return nil, err
		}
		if out[called], err = p.value(); err != nil {
			return nil, err
		}
		if ok, err := p.take(closing); ok || err != nil {
			return out, err
		}
	}
}

func (p *parser) value() (value, error) {
	if err := p.enter(); err != nil {
		return value{}, err
	}
	defer p.leave()
	t := p.tok
	if err := p.next(); err != nil {
		return value{}, err
	}
	switch {
	case t.kind == text:
		return value{literal: t.text}, nil
	case t.kind == number:
		return value{literal: word(t.text)}, nil
	case t.kind == name:
		switch t.text {
		case "true", "false":
			return value{literal: t.text == "true"}, nil
		case "null":
			return value{}, nil
		}
		return value{literal: word(t.text)}, nil
	case t.kind == punct && t.text == "$":
		called, err := p.name()
		return value{variable: called}, err
	case t.kind == punct && t.text == "[":
		list := []value{}
		for {
			if ok, err := p.take("]"); ok || err != nil {
				return value{list: list}, err
			}
			v, err := p.value()
			if err != nil {
				return value{}, err
			}
			list = append(list, v)
		}
	case t.kind == punct && t.text == "{":
		if ok, err := p.take("}"); ok || err != nil {
			return value{object: map[string]value{}}, err
		}
		object, err := p.members("}")
		return value{object: object}, err
	}
	p.tok = t
	return value{}, p.unexpected("a value")
}

func clip(s string) string {
	if len(s) > 40 {
		return s[:40] + "…"
	}
	return s
}
