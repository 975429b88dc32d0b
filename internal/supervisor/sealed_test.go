package supervisor

import (
	"bytes"
	"os"
	"testing"

	"terok/internal/sandbox"
)

// TestBoxOfThisStartOnly: the guest brings the box back, so the workload can bring any; only one
// that a parent sealed for this very start opens.
func TestBoxOfThisStartOnly(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	f := &sandbox.File{Launch: "one"}
	about, err := boxContext(f, "id", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	in := secrets{Authority: []byte("ca"), Phantoms: map[string]string{"anthropic": "phantom"}, GateToken: "token"}
	sealed, err := seal(key, about, &in)
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"phantom", "token", "anthropic"} {
		if bytes.Contains(sealed, []byte(secret)) {
			t.Errorf("the box shows %q", secret)
		}
	}
	out, err := unseal(key, about, sealed)
	if err != nil || string(out.Authority) != "ca" || out.Phantoms["anthropic"] != "phantom" || out.GateToken != "token" {
		t.Fatalf("%+v, %v", out, err)
	}
	other, err := boxContext(&sandbox.File{Launch: "two"}, "id", os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	parent, err := boxContext(f, "id", os.Getppid())
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, c := range map[string]struct{ key, about, sealed []byte }{
		"another key":       {bytes.Repeat([]byte{8}, 32), about, sealed},
		"another launch":    {key, other, sealed},
		"another init":      {key, parent, sealed},
		"one bit":           {key, about, flipped},
		"a part":            {key, about, sealed[:len(sealed)-1]},
		"nothing":           {key, about, nil},
		"no key":            {nil, about, sealed},
		"the open contents": {key, about, []byte(`{"gate_token":"x"}`)},
	} {
		if out, err := unseal(c.key, c.about, c.sealed); err == nil {
			t.Errorf("%s: opened: %+v", name, out)
		}
	}
}

func FuzzUnseal(f *testing.F) {
	key, about := bytes.Repeat([]byte{7}, 32), []byte("about")
	sealed, err := seal(key, about, &secrets{GateToken: "x"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed)
	f.Add(sealed[:12])
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := unseal(key, about, data)
		if err == nil && s.GateToken != "x" {
			t.Errorf("%x gives %+v", data, s)
		}
	})
}
