package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"terok/internal/audit"
	"terok/internal/problem"
)

func keys(t *testing.T) (Keys, ssh.Signer) {
	t.Helper()
	k := Keys{Dir: filepath.Join(t.TempDir(), "receipts")}
	s, err := k.Signer()
	if err != nil {
		t.Fatal(err)
	}
	return k, s
}

func sample() Receipt {
	return Receipt{Project: "webshop", Task: "k3v9p", Commit: strings.Repeat("a", 40), Commits: []string{strings.Repeat("a", 40)}, Target: "clone",
		Approvals: []Approval{}, Flags: []Flag{}, Ledgers: []Ledger{{Of: "task", Head: strings.Repeat("0", 64), Count: 3}}, At: time.Unix(1700000000, 0)}
}

// TestSignAndOpen: what was signed is read back; one byte that differs anywhere is refused.
func TestSignAndOpen(t *testing.T) {
	k, signer := keys(t)
	text, err := Sign(sample(), signer)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := k.Trusted()
	if err != nil || len(trusted) != 1 {
		t.Fatal(trusted, err)
	}
	r, by, err := Open(text, trusted)
	if err != nil || r.Task != "k3v9p" || r.Ledgers[0].Count != 3 || !bytes.Equal(by.Marshal(), signer.PublicKey().Marshal()) {
		t.Fatalf("%+v %v", r, err)
	}
	for i := range text {
		spoiled := bytes.Clone(text)
		spoiled[i] ^= 1
		if _, _, err := Open(spoiled, trusted); err == nil {
			t.Fatalf("byte %d %q may differ", i, text[i])
		}
	}
	for _, spoiled := range [][]byte{append(bytes.Clone(text), '\n'), append([]byte(" "), text...), text[:len(text)-1], nil, append(bytes.Clone(text), text...)} {
		if _, _, err := Open(spoiled, trusted); err == nil {
			t.Errorf("%d bytes instead of %d passed", len(spoiled), len(text))
		}
	}
}

// TestOneReading: what a trusted key signed is refused all the same where two parsers may read two receipts.
func TestOneReading(t *testing.T) {
	k, signer := keys(t)
	trusted, err := k.Trusted()
	if err != nil {
		t.Fatal(err)
	}
	text, err := Sign(sample(), signer)
	if err != nil {
		t.Fatal(err)
	}
	payload, _, err := Split(text)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(payload string) error {
		sig, err := signature([]byte(payload), signer)
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = Open(append([]byte(payload), sig...), trusted)
		return err
	}
	if err := signed(string(payload)); err != nil {
		t.Fatal(err)
	}
	whole := strings.TrimSuffix(strings.TrimSpace(string(payload)), "}")
	for name, spoiled := range map[string]string{
		"a member twice":              whole + `, "task": "other"}` + "\n",
		"by an escape":                whole + `, "t\u0061sk": "other"}` + "\n",
		"in capitals":                 whole + `, "Task": "other"}` + "\n",
		"in a list":                   strings.Replace(string(payload), `"of": "task"`, `"of": "host", "of": "task"`, 1),
		"by a letter that folds to k": whole + `, "tas` + "\u212a" + `": "other"}` + "\n",
		"half a character":            strings.Replace(string(payload), `"webshop"`, `"webshop\ud800"`, 1),
		"no UTF-8":                    strings.Replace(string(payload), `"webshop"`, "\"webshop\xff\"", 1),
		"more than it knows":          whole + `, "more": 1}` + "\n",
		"something behind it":         string(payload) + "{}\n",
		"deep":                        whole + `, "more": ` + strings.Repeat("[", 20) + strings.Repeat("]", 20) + "}\n",
	} {
		if err := signed(spoiled); !problem.Is(err, "receipt_invalid") {
			t.Errorf("%s: %v", name, err)
		}
	}
	odd := sample()
	odd.Name, odd.Reviewer = "\xff\u2028 \\ud800", "Ada \"\U0001f9a6\" <a@b>"
	if text, err = Sign(odd, signer); err == nil {
		_, _, err = Open(text, trusted)
	}
	if err != nil {
		t.Errorf("odd words: %v", err)
	}
}

// FuzzOneReading: a receipt that passes has each member once, whatever its JSON looks like.
func FuzzOneReading(f *testing.F) {
	f.Add([]byte(`{"task":"a","ledgers":[{"of":"host"}]}`))
	f.Add([]byte(`{"a":{"a":[{},"a"]},"b":"a"}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte(`"\ud800"`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if oneReading(in) != nil {
			return
		}
		var first, again any
		dec := json.NewDecoder(bytes.NewReader(in))
		if dec.Decode(&first) != nil {
			return
		}
		out, err := json.Marshal(first)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out, &again); err != nil || !reflect.DeepEqual(first, again) {
			t.Fatalf("%q: %v", in, err)
		}
		// A repeated member would be lost on the way: as many colons' worth of keys stay.
		if n, m := members(t, in), members(t, out); n < m {
			t.Fatalf("%q has %d members, read %d", in, n, m)
		} else if dec.InputOffset() == int64(len(in)) && n != m {
			t.Fatalf("%q has %d members, read %d", in, n, m)
		}
	})
}

// members counts the members of all objects of the text.
func members(t *testing.T, in []byte) (n int) {
	t.Helper()
	dec := json.NewDecoder(bytes.NewReader(in))
	var lists []bool
	atKey := false
	for {
		token, err := dec.Token()
		if err != nil {
			return n
		}
		switch token {
		case json.Delim('{'):
			lists, atKey = append(lists, false), true
			continue
		case json.Delim('['):
			lists, atKey = append(lists, true), false
			continue
		case json.Delim('}'), json.Delim(']'):
			lists = lists[:len(lists)-1]
			atKey = len(lists) > 0 && !lists[len(lists)-1]
			continue
		}
		if len(lists) == 0 || lists[len(lists)-1] {
			continue
		}
		if atKey {
			n++
		}
		atKey = !atKey
	}
}

// TestOtherKeys: a key that is not trusted, another namespace, another kind of key.
func TestOtherKeys(t *testing.T) {
	k, _ := keys(t)
	k2, other := keys(t)
	text, err := Sign(sample(), other)
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := k.Trusted()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(text, trusted); !problem.Is(err, "receipt_untrusted") {
		t.Errorf("another host's key: %v", err)
	}
	more := filepath.Join(t.TempDir(), "laptop.pub")
	if err := os.WriteFile(more, ssh.MarshalAuthorizedKey(other.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	if trusted, err = k.Trusted(more); err != nil || len(trusted) != 2 {
		t.Fatal(trusted, err)
	}
	if _, _, err := Open(text, trusted); err != nil {
		t.Errorf("--key: %v", err)
	}
	payload, _, err := Split(text)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(append(bytes.Clone(payload), sshKeygenSign(t, k2, payload, Namespace)...), trusted); err != nil {
		t.Errorf("a signature that ssh-keygen made: %v", err)
	}
	// The same key may sign git commits: those signatures are no receipts.
	if _, _, err := Open(append(bytes.Clone(payload), sshKeygenSign(t, k2, payload, "git")...), trusted); !problem.Is(err, "receipt_invalid") {
		t.Errorf("another namespace: %v", err)
	}
}

// sshKeygenSign signs by OpenSSH's tool, and armors as we do.
func sshKeygenSign(t *testing.T, k Keys, payload []byte, namespace string) []byte {
	t.Helper()
	message := filepath.Join(t.TempDir(), "message")
	if err := os.WriteFile(message, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("ssh-keygen", "-Y", "sign", "-f", k.file(), "-n", namespace, message).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(message + ".sig")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("%s", data)
	}
	return pem.EncodeToMemory(block)
}

// TestSSHKeygen: OpenSSH's own tool says the same as we do.
func TestSSHKeygen(t *testing.T) {
	keygen, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Fatal("ssh-keygen is needed: apt install openssh-client")
	}
	k, signer := keys(t)
	text, err := Sign(sample(), signer)
	if err != nil {
		t.Fatal(err)
	}
	payload, sig, err := Split(text)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "sig")
	if err := os.WriteFile(file, sig, 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(payload []byte) error {
		cmd := exec.Command(keygen, "-Y", "verify", "-f", k.SignersFile(), "-I", "terok", "-n", Namespace, "-s", file)
		cmd.Stdin = bytes.NewReader(payload)
		out, err := cmd.CombinedOutput()
		t.Logf("%s", out)
		return err
	}
	if err := verify(payload); err != nil {
		t.Errorf("ssh-keygen refuses our signature: %v", err)
	}
	if verify(append(payload, ' ')) == nil {
		t.Error("ssh-keygen accepts another text")
	}
}

// TestKeyIsPrivate: 0600, made once, and refused when others can read it.
func TestKeyIsPrivate(t *testing.T) {
	k, first := keys(t)
	info, err := os.Stat(k.file())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info.Mode(), err)
	}
	again, err := k.Signer()
	if err != nil || !bytes.Equal(first.PublicKey().Marshal(), again.PublicKey().Marshal()) {
		t.Error("another key the second time", err)
	}
	if err := os.Chmod(k.file(), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := k.Signer(); !problem.Is(err, "key_unsafe") {
		t.Errorf("a key that all can read: %v", err)
	}
}

// TestLedgers: one byte that differs in any line up to the head fails the check, and so does a
// ledger that ends before it; what was written later does not disturb.
func TestLedgers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	write := func(n int) {
		for range n {
			if err := audit.AppendOne(path, audit.Event{Ev: "flow_allowed", Name: "example.org"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if l, err := Head("task", path); err != nil || l.Count != 0 || l.Check(path) != nil {
		t.Errorf("no ledger: %+v %v", l, err)
	}
	write(3)
	l, err := Head("task", path)
	if err != nil || l.Count != 3 {
		t.Fatal(l, err)
	}
	short, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(2)
	if err := l.Check(path); err != nil {
		t.Errorf("grown: %v", err)
	}
	for i := range short {
		spoiled := bytes.Clone(short)
		spoiled[i] ^= 2
		if err := os.WriteFile(path, spoiled, 0o600); err != nil {
			t.Fatal(err)
		}
		if l.Check(path) == nil {
			t.Fatalf("byte %d of the ledger may differ", i)
		}
	}
	lines := bytes.SplitAfter(short, []byte{'\n'})
	if err := os.WriteFile(path, bytes.Join(lines[:2], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(path); !problem.Is(err, "ledger_broken") {
		t.Errorf("lines are missing at the end: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := l.Check(path); !problem.Is(err, "ledger_not_found") {
		t.Errorf("no ledger: %v", err)
	}
}

// FuzzOpen: no text but one that the key signed opens.
func FuzzOpen(f *testing.F) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		f.Fatal(err)
	}
	text, err := Sign(sample(), signer)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte("{}\n-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if _, _, err := Open(in, []ssh.PublicKey{signer.PublicKey()}); err == nil && !bytes.Equal(in, text) {
			t.Errorf("%q opened", in)
		}
	})
}
