package legacy

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"terok/internal/vault/legacy/sqlite"
)

// The parameters of SQLCipher 4 (https://www.zetetic.net/sqlcipher/design/, cipher_compatibility
// = 4). A page is its ciphertext, the IV, and an HMAC over both and the page's number. In place of
// the first 16 bytes of page 1, which are the same in every database, stands the salt.
const (
	pageSize  = 4096
	saltSize  = 16
	ivSize    = aes.BlockSize
	macSize   = sha512.Size
	reserved  = ivSize + macSize
	keySize   = 32
	kdfRounds = 256_000
	macRounds = 2
	macMask   = 0x3a // the salt of the HMAC key is the other one with every byte XOR this
)

// pageKey opens the pages of one database.
type pageKey struct {
	block cipher.Block
	mac   []byte
}

// deriveKey is slow by design.
func deriveKey(passphrase, salt []byte) (*pageKey, error) {
	key, err := pbkdf2.Key(sha512.New, string(passphrase), salt, kdfRounds, keySize)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	other := make([]byte, len(salt))
	for i, b := range salt {
		other[i] = b ^ macMask
	}
	k := &pageKey{}
	if k.mac, err = pbkdf2.Key(sha512.New, string(key), other, macRounds, keySize); err != nil {
		return nil, err
	}
	k.block, err = aes.NewCipher(key)
	return k, err
}

// start is where the ciphertext of a page begins.
func start(number uint32) int {
	if number == 1 {
		return saltSize
	}
	return 0
}

// genuine checks a page's HMAC, which covers everything but the salt.
func (k *pageKey) genuine(number uint32, stored []byte) bool {
	if len(stored) != pageSize {
		return false
	}
	h := hmac.New(sha512.New, k.mac)
	h.Write(stored[start(number) : pageSize-macSize])
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], number)
	h.Write(n[:])
	return hmac.Equal(h.Sum(nil), stored[pageSize-macSize:])
}

// decode is the sqlite.Options.Decode of a key.
func (k *pageKey) decode(number uint32, stored []byte) ([]byte, error) {
	if !k.genuine(number, stored) {
		return nil, &sqlite.Damage{What: fmt.Sprintf("page %d was changed: its checksum is wrong", number)}
	}
	from, to := start(number), pageSize-reserved
	page := make([]byte, pageSize)
	cipher.NewCBCDecrypter(k.block, stored[to:to+ivSize]).CryptBlocks(page[from:to], stored[from:to])
	copy(page[:from], sqlite.Magic)
	return page, nil
}

// ErrWrong says that a passphrase opens no page of the database.
var ErrWrong = errors.New("wrong passphrase")

// fits reports whether k opens anything of a database: its first pages, or those of its log. Not
// only page 1 is tried, so that a damaged one is not taken for a wrong passphrase.
func (k *pageKey) fits(file, wal []byte) bool {
	const tries = 8
	for n := 1; n <= tries && n*pageSize <= len(file); n++ {
		if k.genuine(uint32(n), file[(n-1)*pageSize:n*pageSize]) {
			return true
		}
	}
	const head, frame = 32, 24 + pageSize
	for i := range tries {
		at := head + i*frame
		if at+frame > len(wal) {
			break
		}
		if k.genuine(binary.BigEndian.Uint32(wal[at:]), wal[at+24:at+frame]) {
			return true
		}
	}
	return false
}
