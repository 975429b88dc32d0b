// Package graphql reads GraphQL documents far enough to say what they would change: the mutations
// of every operation, by their real names, with their arguments. It is strict, bounded in length,
// depth and number of words, and pure.
//
// What could hide a mutation does not: aliases are dropped, fragments and inline fragments at the
// root are followed, every operation counts whichever operationName is asked for, comments and
// strings are what the grammar says (GraphQL, October 2021). A document that does not follow the
// grammar is an error, so that nothing depends on how a server repairs it.
//
//	doc, err := graphql.Parse(query)
//	calls, err := doc.Mutations(variables)
package graphql

import (
	"errors"
	"fmt"
)

// Bounds of a document.
const (
	MaxBytes = 64 << 10
	maxDepth = 64
	maxWords = 20_000
	maxCalls = 100 // mutations of one document
)

// Document is a parsed document.
type Document struct {
	operations []operation
	fragments  map[string][]selection
}

type operation struct {
	kind     string // query, mutation or subscription
	defaults map[string]any
	root     []selection
}

// selection is a field, or a fragment: by name, or with its own selections.
type selection struct {
	field    string
	args     map[string]value
	fragment string
	inline   []selection
}

// value is a literal, or a variable, or holds some.
type value struct {
	variable string
	literal  any // string, bool, nil; numbers and names of enums as word
	list     []value
	object   map[string]value
}

type word string

// Call is one mutation: the name of the field and its arguments with variables filled in. In
// them objects are map[string]any, lists []any, strings string; all else is a bool, nil or
// something that is none of those.
type Call struct {
	Name string
	Args map[string]any
}

// ErrSubscription says that a document subscribes to something.
var ErrSubscription = errors.New("subscriptions are not relayed")

// Mutations lists what every operation of the document would change.
func (d *Document) Mutations(variables map[string]any) ([]Call, error) {
	var calls []Call
	for _, op := range d.operations {
		switch op.kind {
		case "query":
			continue
		case "subscription":
			return nil, ErrSubscription
		}
		x := expander{doc: d, variables: variables, defaults: op.defaults, open: map[string]bool{}}
		if err := x.walk(op.root); err != nil {
			return nil, err
		}
		calls = append(calls, x.calls...)
		if len(calls) > maxCalls {
			return nil, fmt.Errorf("more than %d mutations", maxCalls)
		}
	}
	return calls, nil
}

type expander struct {
	doc       *Document
	variables map[string]any
	defaults  map[string]any
	open      map[string]bool // fragments that are being followed
	calls     []Call
	steps     int
}

func (x *expander) walk(list []selection) error {
	for _, s := range list {
		if x.steps++; x.steps > maxWords || len(x.calls) > maxCalls {
			return errors.New("the fragments of the document expand too far")
		}
		switch {
		case s.field != "":
			call := Call{Name: s.field, Args: make(map[string]any, len(s.args))}
			for name, v := range s.args {
				call.Args[name] = x.resolve(v)
			}
			x.calls = append(x.calls, call)
		case s.fragment != "":
			body, ok := x.doc.fragments[s.fragment]
			if !ok || x.open[s.fragment] {
				return fmt.Errorf("the fragment %s is not there, or contains itself", s.fragment)
			}
			x.open[s.fragment] = true
			if err := x.walk(body); err != nil {
				return err
			}
			delete(x.open, s.fragment)
		default:
			if err := x.walk(s.inline); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *expander) resolve(v value) any {
	switch {
	case v.variable != "":
		if got, ok := x.variables[v.variable]; ok {
			return got
		}
		return x.defaults[v.variable]
	case v.list != nil:
		out := make([]any, len(v.list))
		for i := range v.list {
			out[i] = x.resolve(v.list[i])
		}
		return out
	case v.object != nil:
		out := make(map[string]any, len(v.object))
		for name, member := range v.object {
			out[name] = x.resolve(member)
		}
		return out
	}
	return v.literal
}
