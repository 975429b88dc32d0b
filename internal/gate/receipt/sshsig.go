package receipt

import (
	"bytes"
	"crypto/rand"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"fmt"

	"golang.org/x/crypto/ssh"
)

// Signatures are SSHSIG version 1 (OpenSSH's PROTOCOL.sshsig): armored base64 of a blob that names
// the public key, the namespace and the hash, and holds a signature over these and the message's
// hash. ssh-keygen writes and reads the same.

const (
	magic      = "SSHSIG"
	armorType  = "SSH SIGNATURE"
	armorBegin = "-----BEGIN " + armorType + "-----"
	hashName   = "sha512"
)

// blob is the signature as it is armored, behind the magic.
type blob struct {
	Version   uint32
	PublicKey string
	Namespace string
	Reserved  string
	Hash      string
	Signature string
}

// signed is what the key signs, behind the magic.
type signed struct {
	Namespace string
	Reserved  string
	Hash      string
	Digest    string
}

func toSign(message []byte) []byte {
	sum := sha512.Sum512(message)
	return append([]byte(magic), ssh.Marshal(signed{Namespace, "", hashName, string(sum[:])})...)
}

func signature(message []byte, key ssh.Signer) ([]byte, error) {
	sig, err := key.Sign(rand.Reader, toSign(message))
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	data := append([]byte(magic), ssh.Marshal(blob{1, string(key.PublicKey().Marshal()), Namespace, "", hashName, string(ssh.Marshal(sig))})...)
	return pem.EncodeToMemory(&pem.Block{Type: armorType, Bytes: data}), nil
}

// verify checks an armored signature of message and returns whose it is. Only ed25519 keys, this
// namespace and this hash are accepted.
func verify(message, armored []byte) (ssh.PublicKey, error) {
	block, rest := pem.Decode(armored)
	if block == nil || block.Type != armorType || len(block.Headers) > 0 {
		return nil, errors.New("no SSH signature")
	}
	// A receipt has one form: whatever differs from it was added or changed.
	if len(rest) > 0 || !bytes.Equal(pem.EncodeToMemory(block), armored) {
		return nil, errors.New("something stands beside the signature")
	}
	data, ok := bytes.CutPrefix(block.Bytes, []byte(magic))
	if !ok {
		return nil, errors.New("not of the form SSHSIG")
	}
	var b blob
	if err := ssh.Unmarshal(data, &b); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if b.Version != 1 || b.Namespace != Namespace || b.Reserved != "" || b.Hash != hashName {
		return nil, errors.New("signed for another purpose, or in a form that is not known here")
	}
	key, err := ssh.ParsePublicKey([]byte(b.PublicKey))
	if err != nil {
		return nil, fmt.Errorf("public key: %w", err)
	}
	if key.Type() != ssh.KeyAlgoED25519 {
		return nil, fmt.Errorf("a key of type %s, not ed25519", key.Type())
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal([]byte(b.Signature), &sig); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	if sig.Format != ssh.KeyAlgoED25519 || len(sig.Rest) > 0 {
		return nil, errors.New("not an ed25519 signature")
	}
	return key, key.Verify(toSign(message), &sig)
}
