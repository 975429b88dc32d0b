package guest

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"encoding/pem"
	"testing"
)

// TestKeyStore reads the store the way Java does (sun.security.provider.JavaKeyStore).
func TestKeyStore(t *testing.T) {
	want := [][]byte{[]byte("first"), bytes.Repeat([]byte{0}, 70_000), []byte("last")}
	var bundle []byte
	for _, der := range want {
		bundle = append(bundle, "# a comment\n"...)
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
		bundle = append(bundle, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: []byte("no certificate")})...)
	}
	store := keyStore(append(bundle, "-----BEGIN CERTIFICATE-----\ncut"...))
	body, digest := store[:len(store)-sha1.Size], store[len(store)-sha1.Size:]
	sum := sha1.Sum(append([]byte("\x00c\x00h\x00a\x00n\x00g\x00e\x00i\x00tMighty Aphrodite"), body...))
	if !bytes.Equal(sum[:], digest) {
		t.Error("the digest is not of the password changeit")
	}
	in := bytes.NewBuffer(body)
	number := func(size int) int {
		var b [8]byte
		copy(b[8-size:], in.Next(size))
		return int(binary.BigEndian.Uint64(b[:]))
	}
	if number(4) != 0xfeedfeed || number(4) != 2 || number(4) != len(want) {
		t.Fatalf("% x", body[:12])
	}
	seen := map[string]bool{}
	for _, der := range want {
		if number(4) != 2 {
			t.Fatal("not a trusted certificate")
		}
		alias := string(in.Next(number(2)))
		number(8)
		if kind := string(in.Next(number(2))); kind != "X.509" || seen[alias] {
			t.Errorf("%s is a %s", alias, kind)
		}
		seen[alias] = true
		if got := in.Next(number(4)); !bytes.Equal(got, der) {
			t.Errorf("%s: %d bytes", alias, len(got))
		}
	}
	if in.Len() != 0 {
		t.Errorf("%d bytes after the last", in.Len())
	}
}

func TestJavaTrust(t *testing.T) {
	const ours = "-Djavax.net.ssl.trustStore=/run/terok/ca/java.jks"
	none, some, own := " ", "-Xmx1g", "-Djavax.net.ssl.trustStore=/x"
	for _, c := range []struct {
		task        *string
		image, want string
	}{
		{nil, "", ours},
		{nil, "-Xmx2g", "-Xmx2g " + ours},
		{&some, "-Xmx2g", "-Xmx1g " + ours},
		{&none, "-Xmx2g", ""},
		{&own, "", ""},
		{nil, own, ""},
	} {
		if got := javaTrust(c.task, c.image); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
