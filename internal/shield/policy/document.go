package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// DocumentSchema is the version of policy.json and session.json that this program writes.
const DocumentSchema = 1

// Bounds of a document.
const (
	maxDocument = 8 << 20 // bytes
	maxRules    = 20000
)

// Verify says what the proxy does with an SNI or Host that is not the connection's name.
type Verify string

// Values of Settings.Verify.
const (
	VerifyEnforce Verify = "enforce" // judged under the second name, refused unless allowed too
	VerifyLog     Verify = "log"
	VerifyOff     Verify = "off"
)

// Settings are what a policy file says beside rules.
type Settings struct {
	Ask         bool         `json:"ask"`          // hold unlisted connections for an answer
	HoldSeconds int          `json:"hold_seconds"` // how long, 0–300
	Verify      Verify       `json:"verify"`
	Synthetic   netip.Prefix `json:"synthetic"` // IPv4 range of the resolver's answers

	IPv6    bool     `json:"ipv6,omitempty"`    // names answer AAAA as well
	Budgets []Budget `json:"budgets,omitempty"` // of what leaves the container
}

// DefaultSettings are those of a project that sets nothing.
func DefaultSettings() Settings {
	return Settings{
		Ask: true, HoldSeconds: 30, Verify: VerifyEnforce,
		Synthetic: netip.MustParsePrefix("198.18.0.0/15"),
	}
}

// Document is policy.json of the bundle (and session.json, with the live verdicts).
type Document struct {
	Rules    []Rule
	Settings Settings
}

type documentJSON struct {
	Schema   int        `json:"schema"`
	Settings Settings   `json:"settings"`
	Rules    []ruleJSON `json:"rules"`
}

type ruleJSON struct {
	Tier    string `json:"tier"`
	Text    string `json:"text"`
	Source  string `json:"source"`
	Reason  string `json:"reason,omitempty"`
	Expires string `json:"expires,omitempty"` // RFC 3339
}

// ErrDocument is wrapped by every error of DecodeDocument. Callers go to quarantine on it: an
// unreadable policy is never an empty one.
var ErrDocument = errors.New("policy file is not usable")

// EncodeDocument returns the indented JSON form of a document, ending in a line break. The error
// says what DecodeDocument would refuse.
func EncodeDocument(d Document) ([]byte, error) {
	if err := d.check(); err != nil {
		return nil, err
	}
	j := documentJSON{Schema: DocumentSchema, Settings: d.Settings, Rules: []ruleJSON{}}
	for i := range d.Rules {
		r := &d.Rules[i]
		rj := ruleJSON{Tier: r.Tier.String(), Text: r.Text, Source: r.Source, Reason: r.Reason}
		if !r.Expires.IsZero() {
			rj.Expires = r.Expires.UTC().Format(time.RFC3339Nano)
		}
		j.Rules = append(j.Rules, rj)
	}
	b, err := json.MarshalIndent(j, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDocument, err)
	}
	b = append(b, '\n')
	// Rules can be put together by hand; what is written must be what will be read.
	if _, err := DecodeDocument(b); err != nil {
		return nil, err
	}
	return b, nil
}

// DecodeDocument reads what EncodeDocument wrote. It is strict: every rule is parsed and
// validated again, and anything torn, unknown, repeated or spelled in another way is an error
// that wraps ErrDocument. Two readings of one file must not be possible.
func DecodeDocument(b []byte) (Document, error) {
	var d Document
	fail := func(err error) (Document, error) { return Document{}, fmt.Errorf("%w: %w", ErrDocument, err) }
	if len(b) > maxDocument {
		return fail(fmt.Errorf("larger than %d bytes", maxDocument))
	}
	var v struct {
		Schema *int `json:"schema"`
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return fail(err)
	}
	if v.Schema == nil || *v.Schema != DocumentSchema {
		return fail(fmt.Errorf("schema is not %d", DocumentSchema))
	}
	var j documentJSON
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&j); err != nil {
		return fail(err)
	}
	if !sameJSON(b, j) {
		return fail(errors.New("not in the form that terok writes (a key is missing, repeated or misspelt)"))
	}
	d.Settings = j.Settings
	for i, rj := range j.Rules {
		r, err := rj.rule()
		if err != nil {
			return fail(fmt.Errorf("rule %d: %w", i+1, err))
		}
		d.Rules = append(d.Rules, r)
	}
	if err := d.check(); err != nil {
		return Document{}, err
	}
	return d, nil
}

// sameJSON tells whether b is the JSON of j but for blanks. encoding/json accepts keys in other
// case and lets the last of two equal keys win; this does not.
func sameJSON(b []byte, j documentJSON) bool {
	want, err := json.Marshal(j)
	if err != nil {
		return false
	}
	var got bytes.Buffer
	return json.Compact(&got, b) == nil && bytes.Equal(got.Bytes(), want)
}

func (j ruleJSON) rule() (Rule, error) {
	tier, ok := ParseTier(j.Tier)
	if !ok {
		return Rule{}, fmt.Errorf("unknown tier %q", j.Tier)
	}
	line := Rule{Text: j.Text, Reason: j.Reason}
	if j.Expires != "" {
		t, err := time.Parse(time.RFC3339Nano, j.Expires)
		if err != nil {
			return Rule{}, err
		}
		line.Expires = t
	}
	r, err := ParseRule(line.String(), tier, j.Source)
	if err != nil {
		return Rule{}, err
	}
	if r.Text != j.Text || r.Reason != j.Reason || !r.Expires.Equal(line.Expires) {
		return Rule{}, fmt.Errorf("not in canonical form, which is %q", r.Text)
	}
	return r, nil
}

func (d *Document) check() error {
	s := &d.Settings
	switch {
	case len(d.Rules) > maxRules:
		return fmt.Errorf("%w: more than %d rules", ErrDocument, maxRules)
	case s.Verify != VerifyEnforce && s.Verify != VerifyLog && s.Verify != VerifyOff:
		return fmt.Errorf("%w: verify is %q, not enforce, log or off", ErrDocument, s.Verify)
	case len(s.Budgets) > maxBudgets:
		return fmt.Errorf("%w: more than %d budgets", ErrDocument, maxBudgets)
	case s.HoldSeconds < 0 || s.HoldSeconds > 300:
		return fmt.Errorf("%w: hold_seconds is not 0 to 300", ErrDocument)
	case !s.Synthetic.IsValid() || !s.Synthetic.Addr().Is4() || s.Synthetic != s.Synthetic.Masked() ||
		s.Synthetic.Bits() < 8 || s.Synthetic.Bits() > 18:
		return fmt.Errorf("%w: synthetic is not an IPv4 range between /8 and /18", ErrDocument)
	}
	return nil
}
