package graphql

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func names(t *testing.T, src string, variables map[string]any) []string {
	t.Helper()
	d, err := Parse(src)
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	calls, err := d.Mutations(variables)
	if err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	out := []string{}
	for _, c := range calls {
		out = append(out, c.Name)
	}
	return out
}

// TestNothingHides: spec/vault.md §10: 39.
func TestNothingHides(t *testing.T) {
	for src, want := range map[string][]string{
		`{viewer{login}}`: {},
		`query Q($a:Int=1,$b:[String!]!){a:viewer{login}}`:                                                 {},
		`mutation{createIssue(input:{a:1}){id}}`:                                                           {"createIssue"},
		`mutation{addComment:deleteRef(input:{}){x}}`:                                                      {"deleteRef"},
		`mutation{...F} fragment F on Mutation{deleteRef{x}}`:                                              {"deleteRef"},
		`fragment F on Mutation{...G} fragment G on Mutation{a:deleteRef{x}} mutation{...F}`:               {"deleteRef"},
		`mutation{...on Mutation{...{...@skip(if:true){deleteRef{x}}}}}`:                                   {"deleteRef"},
		"mutation#{addComment}\n{#addComment\ndeleteRef{x}}":                                               {"deleteRef"},
		"mutation # \r{deleteRef{x}}":                                                                      {"deleteRef"},
		"\ufeffmutation,,,{,deleteRef,{,x,},}":                                                             {"deleteRef"},
		`query A{a} mutation B{deleteRef{x}}`:                                                              {"deleteRef"},
		`query A{a(s:"mutation{x}")} query B{b}`:                                                           {},
		`mutation{a(s:"""} deleteRef{ \""" """){x} deleteRef{y}}`:                                          {"a", "deleteRef"},
		`mutation M($i:I!={repositoryId:"R"},$n:N){createPullRequest(input:$i) updateIssue(input:{i:$n})}`: {"createPullRequest", "updateIssue"},
	} {
		if diff := cmp.Diff(want, names(t, src, nil)); diff != "" {
			t.Errorf("%s: %s", src, diff)
		}
	}
}

func TestArguments(t *testing.T) {
	d, err := Parse(`mutation M($i:I,$d:X={k:["v",1,ENUM,null,true]}){a(input:$i,z:{y:[$i,"\u0041\u{42}\n"]},d:$d)}`)
	if err != nil {
		t.Fatal(err)
	}
	calls, err := d.Mutations(map[string]any{"i": map[string]any{"id": "x"}})
	if err != nil {
		t.Fatal(err)
	}
	want := []Call{{"a", map[string]any{"input": map[string]any{"id": "x"},
		"z": map[string]any{"y": []any{map[string]any{"id": "x"}, "AB\n"}},
		"d": map[string]any{"k": []any{"v", word("1"), word("ENUM"), nil, true}}}}}
	if diff := cmp.Diff(want, calls); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	nested := "{" + strings.Repeat("a{", 100) + "b" + strings.Repeat("}", 101)
	bomb := "mutation{...A}"
	for c := 'A'; c < 'T'; c++ {
		bomb += fmt.Sprintf("fragment %c on M{...%c ...%c}", c, c+1, c+1)
	}
	bomb += "fragment T on M{x}"
	for what, src := range map[string]string{
		"nothing":              "",
		"a comment":            "# mutation",
		"no end":               "mutation{a",
		"no selection":         "mutation{}",
		"a word after":         "mutation{a} extend",
		"a type":               "type A{b:C}",
		"an open string":       `mutation{a(b:"c)}`,
		"a line in a string":   "mutation{a(b:\"c\nd\")}",
		"a bad escape":         `mutation{a(b:"\x41")}`,
		"an argument twice":    `mutation{a(b:1,b:2)}`,
		"a member twice":       `mutation{a(b:{c:1,c:2})}`,
		"a fragment twice":     `mutation{...F} fragment F on M{a} fragment F on M{b}`,
		"a fragment of none":   `mutation{...F}`,
		"a fragment in itself": `mutation{...F} fragment F on M{...F}`,
		"a variable twice":     `mutation($a:A,$a:B){a}`,
		"a subscription":       `subscription{a}`,
		"two dots":             `mutation{..F}`,
		"a NUL":                "mutation{\x00a}",
		"other letters":        "mutation{ä}",
		"deep":                 nested,
		"deep values":          "{a(b:" + strings.Repeat("[", 100) + strings.Repeat("]", 100) + ")}",
		"deep types":           "query($a:" + strings.Repeat("[", 100) + "A" + strings.Repeat("]", 100) + "){a}",
		"long":                 "{a}" + strings.Repeat(" ", MaxBytes),
		"many words":           "{" + strings.Repeat("a ", maxWords) + "}",
		"many fragments":       bomb,
		"a number with a tail": `mutation{a(b:12x)}`,
	} {
		d, err := Parse(src)
		if err == nil {
			_, err = d.Mutations(nil)
		}
		if err == nil {
			t.Errorf("%s was taken: %.60s", what, src)
		}
	}
}

// FuzzParse: no document hangs or crashes, and every mutation that is named in a plain document is
// found whatever stands around it.
func FuzzParse(f *testing.F) {
	for _, s := range []string{`{a}`, `mutation{a:b(c:{d:"e"}){f}}`, `mutation{...F} fragment F on M{a}`, "mutation#\n{a}", `query($a:[B!]!={c:1}){...on D@e{f}}`, `"""`, `\u{`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, src string) {
		d, err := Parse(src)
		if err != nil {
			return
		}
		before, err := d.Mutations(nil)
		if err != nil {
			return
		}
		d, err = Parse(src + "\nmutation{x:deleteRef}")
		if err != nil {
			return // too long now
		}
		after, err := d.Mutations(nil)
		if err == nil && (len(after) != len(before)+1 || after[len(after)-1].Name != "deleteRef") {
			t.Fatalf("%q hides a mutation: %v, %v", src, before, after)
		}
	})
}
