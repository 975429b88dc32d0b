// Package receipt is the signed record of a promotion: which commits of which task a person took,
// what they had approved, and where the ledgers of the work stood at that moment.
//
// A receipt is text: one JSON object and an SSH signature of exactly these bytes, so that
// `ssh-keygen -Y verify` says the same as terok. It is kept as a git note of the commit
// (refs/notes/terok) and in terok's own state.
//
// What a valid receipt proves: this host's key signed it after the promotion, and nothing in it was
// changed since. The commits' contents are bound by their ids. The ledgers are bound by the hash of
// their last line and its number: one byte that differs in any line up to there, and Check fails.
// It does not prove that the host was honest when it signed.
//
// It refuses receipts of other keys than those it is given, other namespaces, trailing bytes, JSON
// that says more than it knows, and JSON that two parsers may read differently.
package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/crypto/ssh"

	"terok/internal/audit"
	"terok/internal/problem"
	"terok/internal/state"
)

// Namespace separates these signatures from others of the same key (ssh-keygen(1), -n).
const Namespace = "terok-receipt"

// NotesRef is the ref of the notes that hold receipts.
const NotesRef = "refs/notes/terok"

const (
	schema   = 1
	maxSize  = 1 << 20 // bytes of a receipt
	maxDepth = 8       // of its JSON; it has three
)

// Receipt is the record. Times are RFC 3339 UTC, ids full commit ids.
type Receipt struct {
	Schema    int        `json:"schema"`
	Project   string     `json:"project"`
	Task      string     `json:"task"`
	Name      string     `json:"name"`
	Agent     string     `json:"agent"`
	Model     string     `json:"model"` // "" is the agent's own choice
	Branch    string     `json:"branch"`
	Base      string     `json:"base"`    // the range begins behind it
	Tip       string     `json:"tip"`     // what was reviewed
	Commit    string     `json:"commit"`  // what arrived: Tip, or one commit with its changes
	Commits   []string   `json:"commits"` // the range, newest first
	Target    string     `json:"target"`
	Ref       string     `json:"ref"`
	Upstream  string     `json:"upstream"` // URL, for that target
	Reviewer  string     `json:"reviewer"`
	Approvals []Approval `json:"approvals"`
	Flags     []Flag     `json:"flags"`
	Ledgers   []Ledger   `json:"ledgers"`
	At        time.Time  `json:"at"`
	Version   string     `json:"version"` // of terok
}

// Approval is one approval that covered a commit of the range.
type Approval struct {
	Commit string    `json:"commit"`
	Level  string    `json:"level"`
	By     string    `json:"by"`
	At     time.Time `json:"at"`
}

// Flag is what the reviewer was shown.
type Flag struct {
	Code     string `json:"code"`
	Severity string `json:"severity"`
	Count    int    `json:"count"`
}

// Ledger is where a ledger stood.
type Ledger struct {
	Of    string `json:"of"`    // task or host
	Head  string `json:"head"`  // hex SHA-256 of its last line
	Count uint64 `json:"count"` // number of that line
}

// Head reads where the ledger at path stands. A ledger that was never written has count 0; one
// whose chain is broken is the problem "ledger_broken".
func Head(of, path string) (Ledger, error) {
	r, err := audit.Verify(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Ledger{Of: of}, nil
	}
	if err != nil {
		return Ledger{}, err
	}
	if r.Break != nil {
		return Ledger{}, broken(of, r)
	}
	return Ledger{Of: of, Head: r.Head, Count: r.Last}, nil
}

func broken(of string, r audit.Report) error {
	return problem.New("ledger_broken", problem.Failed, "the ledger of the %s is not as it was written: %s:%d: %s", of, r.Break.File, r.Break.Line, r.Break.Reason).
		WithHint("terok audit verify")
}

// Check compares the ledger at path with what a receipt says: every line up to the head, and the
// links of those behind it.
func (l Ledger) Check(path string) error {
	if l.Count == 0 {
		return nil
	}
	r, head, err := audit.VerifyAt(path, l.Count)
	if errors.Is(err, fs.ErrNotExist) {
		return problem.New("ledger_not_found", problem.NotFound, "the ledger of the %s is not here: %s", l.Of, path).WithHint("--ledger FILE names a copy of it")
	}
	if err != nil {
		return err
	}
	switch {
	case r.Break != nil:
		return broken(l.Of, r)
	case head == l.Head:
		return nil
	case head == "" && r.First > l.Count:
		return problem.New("ledger_trimmed", problem.NotFound, "the ledger of the %s begins at line %d; line %d, which the receipt binds, is gone", l.Of, r.First, l.Count).
			WithHint("raise audit.max_total in config.yml for the next time")
	case head == "":
		return problem.New("ledger_broken", problem.Failed, "the ledger of the %s ends at line %d, the receipt binds line %d: lines are missing", l.Of, r.Last, l.Count)
	}
	return problem.New("ledger_broken", problem.Failed, "line %d of the ledger of the %s is not the one that the receipt binds", l.Count, l.Of)
}

// Sign makes the text of a receipt.
func Sign(r Receipt, key ssh.Signer) ([]byte, error) {
	r.Schema, r.At = schema, r.At.UTC().Truncate(time.Second)
	payload, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, err
	}
	payload = append(payload, '\n')
	if err := oneReading(payload); err != nil {
		return nil, fmt.Errorf("make the receipt: %w", err)
	}
	sig, err := signature(payload, key)
	if err != nil {
		return nil, err
	}
	return append(payload, sig...), nil
}

// Split takes a receipt's text apart: the signed bytes and the armored signature.
func Split(text []byte) (payload, sig []byte, err error) {
	i := bytes.Index(text, []byte("\n"+armorBegin))
	if len(text) > maxSize || i < 0 {
		return nil, nil, problem.New("no_receipt", problem.Failed, "this is no receipt")
	}
	return text[:i+1], text[i+1:], nil
}

// Open checks the signature of a receipt and reads it. The keys are those that may have signed; a
// receipt of another key is the problem "receipt_untrusted", a changed one "receipt_invalid".
func Open(text []byte, keys []ssh.PublicKey) (Receipt, ssh.PublicKey, error) {
	var r Receipt
	payload, armored, err := Split(text)
	if err != nil {
		return r, nil, err
	}
	signer, err := verify(payload, armored)
	if err != nil {
		return r, nil, problem.New("receipt_invalid", problem.Failed, "the receipt's signature does not hold: %w", err)
	}
	trusted := false
	for _, k := range keys {
		trusted = trusted || bytes.Equal(k.Marshal(), signer.Marshal())
	}
	if !trusted {
		return r, signer, problem.New("receipt_untrusted", problem.Failed, "the receipt is signed by %s, which is not a key you trust", ssh.FingerprintSHA256(signer)).
			WithHint("if it is another machine of yours: --key FILE with its public key")
	}
	if err := oneReading(payload); err != nil {
		return r, signer, problem.New("receipt_invalid", problem.Failed, "the receipt can be read in more than one way: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&r); err != nil {
		return r, signer, problem.New("receipt_invalid", problem.Failed, "the receipt cannot be read: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return r, signer, problem.New("receipt_invalid", problem.Failed, "the receipt has something behind its end")
	}
	if r.Schema > schema {
		return r, signer, problem.New("newer_state", problem.Newer, "the receipt was written by a newer terok")
	}
	return r, signer, nil
}

// keyText is how a receipt's members are called. Package json takes "COMMIT" for "commit"; others do not.
var keyText = regexp.MustCompile(`^[a-z_]+$`)

// halfText is an escape of one half of a UTF-16 pair. What signs never writes one.
var halfText = regexp.MustCompile(`(^|[^\\])(\\\\)*\\u[dD][89a-fA-F]`)

// oneReading refuses JSON of which two parsers may read two receipts: a member that is there twice, of
// which one takes the first and another the last, or that differs from ours by letter case; bytes that
// are no UTF-8, and halves of characters, for which each parser puts something of its own.
func oneReading(payload []byte) error {
	if !utf8.Valid(payload) || halfText.Match(payload) {
		return errors.New("it is not UTF-8, or has characters in halves")
	}
	dec := json.NewDecoder(bytes.NewReader(payload))
	type level struct {
		keys  map[string]bool // nil in a list
		value bool            // a member's value comes next
	}
	var open []level
	for {
		token, err := dec.Token()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		top := &level{value: true}
		if len(open) > 0 {
			top = &open[len(open)-1]
		}
		key, isText := token.(string)
		switch {
		case token == json.Delim('}') || token == json.Delim(']'):
			open = open[:len(open)-1]
			continue
		case isText && top.keys != nil && !top.value:
			if !keyText.MatchString(key) || top.keys[key] {
				return fmt.Errorf("the member %.60q is there twice, or is none", key)
			}
			top.keys[key], top.value = true, true
			continue
		}
		top.value = false
		switch token {
		case json.Delim('{'):
			open = append(open, level{keys: map[string]bool{}})
		case json.Delim('['):
			open = append(open, level{})
		}
		if len(open) > maxDepth {
			return errors.New("it is nested too deep")
		}
	}
}

// Keys are the host's own.
type Keys struct{ Dir string }

// PublicFile is the host's public key in the form of authorized_keys; SignersFile is for
// ssh-keygen -Y verify -f.
func (k Keys) PublicFile() string  { return filepath.Join(k.Dir, "key.pub") }
func (k Keys) SignersFile() string { return filepath.Join(k.Dir, "allowed_signers") }
func (k Keys) file() string        { return filepath.Join(k.Dir, "key") }

// Signer reads the host's key (ed25519, OpenSSH's format, 0600), making it the first time.
func (k Keys) Signer() (ssh.Signer, error) {
	if err := state.MkdirAll(k.Dir); err != nil {
		return nil, err
	}
	unlock, err := state.Lock(k.file())
	if err != nil {
		return nil, err
	}
	defer unlock()
	data, err := os.ReadFile(k.file())
	if errors.Is(err, fs.ErrNotExist) {
		if data, err = k.make(); err != nil {
			return nil, err
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := os.Lstat(k.file())
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return nil, problem.New("key_unsafe", problem.Usage, "%s can be read by others", k.file()).WithHint("chmod 600 %s", k.file())
	}
	return ssh.ParsePrivateKey(data)
}

func (k Keys) make() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "terok receipts")
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	public := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	// The key last: where it is, the others are.
	data := pem.EncodeToMemory(block)
	return data, errors.Join(
		state.WriteFile(k.SignersFile(), fmt.Appendf(nil, "terok namespaces=\"%s\" %s\n", Namespace, public)),
		state.WriteFile(k.PublicFile(), []byte(public+" terok receipts\n")),
		state.WriteFile(k.file(), data))
}

// Trusted are the host's public key and those of further files (authorized_keys form, one a line).
func (k Keys) Trusted(files ...string) ([]ssh.PublicKey, error) {
	var keys []ssh.PublicKey
	if data, err := os.ReadFile(k.PublicFile()); err == nil {
		files, keys = append([]string{}, files...), appendKeys(nil, data)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			return nil, problem.New("key_unreadable", problem.Usage, "read the key: %w", err)
		}
		more := appendKeys(nil, data)
		if len(more) == 0 {
			return nil, problem.New("key_unreadable", problem.Usage, "%s holds no public key", f).WithHint("use the key.pub of the machine that promoted")
		}
		keys = append(keys, more...)
	}
	return keys, nil
}

func appendKeys(keys []ssh.PublicKey, data []byte) []ssh.PublicKey {
	for len(data) > 0 {
		key, _, _, rest, err := ssh.ParseAuthorizedKey(data)
		if err != nil {
			return keys
		}
		keys, data = append(keys, key), rest
	}
	return keys
}
