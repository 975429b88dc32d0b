package policy

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func sample(t testing.TB) Document {
	return Document{
		Settings: DefaultSettings(),
		Rules: []Rule{
			mustRule(t, `192.168.77.7:8080 %reason="the <printer>" %expires=2026-12-31`, Override),
			mustRule(t, "-api.test", Denied),
			mustRule(t, "*.a.test:443,8000-8100 raw", Project),
			mustRule(t, "host:9999", Project),
		},
	}
}

func TestDocumentRoundTrip(t *testing.T) {
	d := sample(t)
	b, err := EncodeDocument(d)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeDocument(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, got, cmpopts.IgnoreUnexported(Rule{}), cmpopts.EquateComparable(d.Settings.Synthetic)); diff != "" {
		t.Fatal(diff)
	}
	for i := range d.Rules {
		if got.Rules[i].String() != d.Rules[i].String() {
			t.Errorf("%s became %s", d.Rules[i], got.Rules[i])
		}
	}
}

// TestDocumentStrict is spec shield.md test 23: torn or unknown is an error, never an empty policy.
func TestDocumentStrict(t *testing.T) {
	b, err := EncodeDocument(sample(t))
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(b) - 1 { // without the last line break it is whole
		if _, err := DecodeDocument(b[:n]); !errors.Is(err, ErrDocument) {
			t.Fatalf("torn at %d: %v", n, err)
		}
	}
	for _, c := range [][2]string{
		{`"schema": 1`, `"schema": 2`},
		{`"schema": 1`, `"schema": 0`},
		{`"schema": 1`, `"Schema": 1`},
		{`"schema": 1`, `"schema": 1, "schema": 1`},
		{`"schema": 1`, `"schema": 1, "more": 1`},
		{`"tier": "deny"`, `"tier": "floor"`},
		{`"tier": "deny"`, `"tier": "default"`},
		{`"tier": "override"`, `"tier": "project"`},
		{`"text": "-api.test"`, `"text": "-API.test"`},
		{`"text": "-api.test"`, `"text": "api.test"`},
		{`"text": "-api.test"`, `"TEXT": "-api.test"`},
		{`"text": "-api.test"`, `"text": "-api.test", "text": "-x.test"`},
		{`"text": "-api.test"`, `"text": "-api.test %reason=x"`},
		{`"reason": "the`, `"reason": "\" %expires=2030-01-01 the`},
		{`"expires": "2027-01-01T00:00:00Z"`, `"expires": "2027-01-01"`},
		{`"verify": "enforce"`, `"verify": "maybe"`},
		{`"hold_seconds": 30`, `"hold_seconds": 301`},
		{`"hold_seconds": 30`, `"hold_seconds": null`},
		{`198.18.0.0/15`, `198.18.0.1/15`},
		{`198.18.0.0/15`, `198.18.0.0/24`},
		{`198.18.0.0/15`, `fd00::/16`},
		{"}\n", "}\n{}"},
	} {
		bad := bytes.Replace(b, []byte(c[0]), []byte(c[1]), 1)
		if c[0] == "}\n" {
			bad = append(bytes.Clone(b), "{}"...)
		}
		if bytes.Equal(bad, b) {
			t.Fatalf("%q is not in the document", c[0])
		}
		if _, err := DecodeDocument(bad); !errors.Is(err, ErrDocument) {
			t.Errorf("%s → %s: %v", c[0], c[1], err)
		}
	}
	if _, err := DecodeDocument([]byte(strings.Repeat(" ", maxDocument+1))); !errors.Is(err, ErrDocument) {
		t.Errorf("too large: %v", err)
	}
	if _, err := EncodeDocument(Document{}); !errors.Is(err, ErrDocument) {
		t.Errorf("zero settings: %v", err)
	}
}

func FuzzDecodeDocument(f *testing.F) {
	b, err := EncodeDocument(sample(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"schema":1,"settings":{"ask":true,"hold_seconds":30,"verify":"enforce","synthetic":"198.18.0.0/15"},"rules":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := DecodeDocument(b)
		if err != nil {
			return
		}
		again, err := EncodeDocument(d)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := DecodeDocument(again); err != nil {
			t.Fatal(err)
		}
	})
}
