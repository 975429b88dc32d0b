// Package legacy reads the credential store of terok's predecessor: an SQLite database that
// SQLCipher 4 has encrypted, or a plain one, with its write-ahead log. Nothing is written anywhere;
// what was decrypted is in memory only, until Close.
//
//	src, err := legacy.Read(dir)
//	err = src.Unlock(passphrase) // when src.Encrypted
//	old, err := src.Store(false)
//
// Every page of an encrypted store is authenticated before a byte of it is used, so a damaged one
// is an error and never another secret. A plain one has no checksum; only its form is checked, and
// that the two halves of an SSH key belong together. Phantom tokens of the old store are not read.
package legacy
