package ssh

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/ssh"
)

// Kinds of keys.
const (
	Ed25519 = "ed25519"
	RSA     = "rsa"
	ECDSA   = "ecdsa"
)

const (
	newRSABits = 3072
	minRSABits = 2048
)

// Key is a key pair. Private is secret: PKCS #8, DER.
type Key struct {
	Type        string // ed25519, rsa or ecdsa
	Private     []byte
	Public      []byte // wire format
	Fingerprint string // "SHA256:…" as ssh-keygen -l prints it
	Weak        string // why one should not use it any more, or ""
}

// ErrEncrypted says that a private key file needs its passphrase.
var ErrEncrypted = errors.New("the private key is protected by a passphrase")

// NewKey makes a key of kind Ed25519 or RSA (3072 bits).
func NewKey(kind string) (*Key, error) {
	switch kind {
	case Ed25519:
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return keyOf(private)
	case RSA:
		private, err := rsa.GenerateKey(rand.Reader, newRSABits)
		if err != nil {
			return nil, err
		}
		return keyOf(private)
	}
	return nil, fmt.Errorf("a key of type %.20q is not made here: ed25519 or rsa", kind)
}

// ParsePrivate reads a private key file: OpenSSH's own form, PKCS #1, PKCS #8 or SEC 1 in PEM. A
// protected one without a passphrase is ErrEncrypted. DSA, short RSA keys and hardware keys (sk-…,
// whose private half is in the device) are refused.
func ParsePrivate(data, passphrase []byte) (*Key, error) {
	if len(data) > 64<<10 {
		return nil, errors.New("not a private key: longer than 64 KiB")
	}
	if block, rest := pem.Decode(data); block == nil || len(bytes.TrimSpace(rest)) > 0 {
		return nil, errors.New("not a private key: one PEM block is expected")
	}
	var raw any
	var err error
	if len(passphrase) > 0 {
		raw, err = ssh.ParseRawPrivateKeyWithPassphrase(data, passphrase)
	} else {
		raw, err = ssh.ParseRawPrivateKey(data)
	}
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing):
		return nil, ErrEncrypted
	case errors.Is(err, x509.IncorrectPasswordError):
		return nil, errors.New("the passphrase does not open this private key")
	case err != nil:
		return nil, errors.New("not a private key of a supported type (ed25519, rsa, ecdsa)")
	}
	return keyOf(raw)
}

// FromPKCS8 reads a private key in DER, of the kinds that ParsePrivate takes.
func FromPKCS8(der []byte) (*Key, error) {
	raw, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("not a private key of a supported type (ed25519, rsa, ecdsa)")
	}
	return keyOf(raw)
}

func keyOf(raw any) (*Key, error) {
	k := &Key{}
	switch p := raw.(type) {
	case *ed25519.PrivateKey:
		return keyOf(*p)
	case ed25519.PrivateKey:
		k.Type = Ed25519
	case *rsa.PrivateKey:
		k.Type = RSA
		switch bits := p.N.BitLen(); {
		case bits < minRSABits:
			return nil, fmt.Errorf("an RSA key of %d bits is too short: %d are the least", bits, minRSABits)
		case bits < newRSABits:
			k.Weak = fmt.Sprintf("RSA with %d bits; ed25519 or 3072 bits are better", bits)
		}
	case *ecdsa.PrivateKey:
		k.Type = ECDSA
		if p.Curve != elliptic.P256() && p.Curve != elliptic.P384() && p.Curve != elliptic.P521() {
			return nil, errors.New("this elliptic curve is not used by SSH")
		}
	default:
		return nil, fmt.Errorf("keys of type %T are not supported", raw)
	}
	var err error
	if k.Private, err = x509.MarshalPKCS8PrivateKey(raw); err != nil {
		return nil, errors.New("the private key is inconsistent")
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return nil, errors.New("the private key is inconsistent")
	}
	k.Public = signer.PublicKey().Marshal()
	k.Fingerprint = FingerprintOf(k.Public)
	return k, nil
}

// ExportPrivate writes a private key (PKCS #8) in OpenSSH's own form, unprotected.
func ExportPrivate(pkcs8 []byte, comment string) ([]byte, error) {
	raw, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, errors.New("the stored key is damaged")
	}
	block, err := ssh.MarshalPrivateKey(raw, comment)
	if err != nil {
		return nil, errors.New("the stored key is damaged")
	}
	defer clear(block.Bytes)
	return pem.EncodeToMemory(block), nil
}

// PublicLine is a public key as authorized_keys and forges want it.
func PublicLine(public []byte, comment string) string {
	r := reader{rest: public}
	line := r.string() + " " + base64.StdEncoding.EncodeToString(public)
	if comment != "" {
		line += " " + comment
	}
	return line
}

// ParsePublicLine reads the first key of an authorized_keys line or a .pub file.
func ParsePublicLine(line []byte) (public []byte, comment string, err error) {
	key, comment, _, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return nil, "", errors.New("not a public key in OpenSSH's form")
	}
	return key.Marshal(), comment, nil
}

// FingerprintOf is the fingerprint of a public key in wire format, as OpenSSH shows it.
func FingerprintOf(public []byte) string {
	h := crypto.SHA256.New()
	h.Write(public)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(h.Sum(nil))
}

// TypeOf is the SSH name of a public key's type, "ssh-ed25519" and so on; "" when it has none.
func TypeOf(public []byte) string {
	r := reader{rest: public}
	if name := r.string(); r.err == nil && len(name) < 64 && !strings.ContainsFunc(name, func(c rune) bool { return c <= 0x20 || c >= 0x7f }) {
		return name
	}
	return ""
}

// algorithms lists the signature algorithms of a public key, the best first. SHA-1 is none.
func algorithms(public []byte) []string {
	switch t := TypeOf(public); t {
	case ssh.KeyAlgoRSA:
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return []string{t}
	}
	return nil
}

// Sign signs data with a private key (PKCS #8) and returns the signature in wire format. The
// algorithm is one that Judge returned.
func Sign(pkcs8 []byte, algorithm string, data []byte) ([]byte, error) {
	raw, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, errors.New("the stored key is damaged")
	}
	signer, err := ssh.NewSignerFromKey(raw)
	if err != nil {
		return nil, errors.New("the stored key is damaged")
	}
	if as, ok := signer.(ssh.AlgorithmSigner); ok {
		sig, err := as.SignWithAlgorithm(rand.Reader, data, algorithm)
		if err != nil {
			return nil, err
		}
		return ssh.Marshal(sig), nil
	}
	return nil, errors.New("this kind of key signs nothing")
}
