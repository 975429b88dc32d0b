#!/bin/sh
# Writes the stores that the tests of package legacy read, with the real SQLCipher 4 (Zetetic's, in
# github.com/mutecomm/go-sqlcipher) and the real SQLite below it, and in expected.json what was
# stored last. It needs Go and a C compiler, and works in a module of its own, so that terok depends
# on neither.
#
#   sh internal/vault/legacy/testdata/make.sh
set -eu
out=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat >main.go <<'GO'
// This leaves cipher/credentials.db with a log that was never checkpointed, as after a crash, and
// plain/credentials.db of an older schema. All secrets are made up.
package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	_ "github.com/mutecomm/go-sqlcipher/v4"
	"golang.org/x/crypto/ssh"
)

// passphrase has a quote, as generated ones never do but chosen ones may.
const passphrase = "old vault's passphrase"

const schema = `
CREATE TABLE credentials (
    credential_set TEXT NOT NULL,
    provider TEXT NOT NULL, -- by roster
    data TEXT NOT NULL CHECK (length(data) > 0),
    PRIMARY KEY (credential_set, provider)
);
CREATE TABLE ssh_keys (
    "id" INTEGER PRIMARY KEY AUTOINCREMENT,
    key_type TEXT NOT NULL CHECK (key_type IN ('ed25519', 'rsa')),
    private_der BLOB NOT NULL,
    public_blob BLOB NOT NULL,
    comment TEXT NOT NULL DEFAULT '',
    fingerprint TEXT NOT NULL UNIQUE,
    created_at TEXT NOT NULL DEFAULT (datetime('now'))
);
CREATE TABLE ssh_key_assignments (
    scope TEXT NOT NULL,
    key_id INTEGER NOT NULL REFERENCES ssh_keys(id) ON DELETE CASCADE,
    assigned_at TEXT NOT NULL DEFAULT (datetime('now')),
    PRIMARY KEY (scope, key_id)
);
CREATE TABLE proxy_tokens (
    token TEXT PRIMARY KEY,
    scope TEXT NOT NULL,
    %s TEXT NOT NULL,
    credential_set TEXT NOT NULL,
    provider TEXT NOT NULL
);`

type key struct {
	Type        string   `json:"type"`
	Private     []byte   `json:"private"`
	Public      []byte   `json:"public"`
	Fingerprint string   `json:"fingerprint"`
	Comment     string   `json:"comment"`
	Scopes      []string `json:"scopes"`
}

type expected struct {
	Passphrase  string                     `json:"passphrase,omitempty"`
	Credentials map[string]json.RawMessage `json:"credentials"` // set/provider → data
	Keys        []key                      `json:"keys"`
	Never       []string                   `json:"never"` // what must not come out
}

func main() {
	out := os.Args[1]
	all := map[string]expected{"cipher": cipher(filepath.Join(out, "cipher")), "plain": plain(filepath.Join(out, "plain"))}
	b, err := json.MarshalIndent(all, "", " ")
	must(err)
	must(os.WriteFile(filepath.Join(out, "expected.json"), append(b, '\n'), 0o644))
	must(os.Remove(filepath.Join(out, "cipher", "credentials.db-shm"))) // an index of the log, which no reader has to believe
	os.Exit(0)                                                          // the databases are not closed: nothing is checkpointed
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

// store is a database that is being written.
type store struct {
	db *sql.DB
	e  expected
	n  int64
}

func create(dir, pragma, column string) *store {
	must(os.RemoveAll(dir))
	must(os.MkdirAll(dir, 0o755))
	db, err := sql.Open("sqlite3", filepath.Join(dir, "credentials.db"))
	must(err)
	db.SetMaxOpenConns(1)
	s := &store{db: db, e: expected{Credentials: map[string]json.RawMessage{}}}
	for p := range strings.SplitSeq(pragma, ";") {
		s.exec(p)
	}
	s.exec(fmt.Sprintf(schema, column))
	return s
}

func (s *store) exec(q string, args ...any) {
	if _, err := s.db.Exec(q, args...); err != nil {
		panic(fmt.Sprintf("%s: %v", q, err))
	}
}

func (s *store) put(set, provider string, data map[string]any) {
	if old := s.e.Credentials[set+"/"+provider]; old != nil {
		var o map[string]any
		must(json.Unmarshal(old, &o))
		for _, f := range []string{"access_token", "refresh_token", "key", "token"} {
			if v, ok := o[f].(string); ok {
				s.e.Never = append(s.e.Never, v)
			}
		}
	}
	b, err := json.Marshal(data)
	must(err)
	s.exec("INSERT INTO credentials VALUES (?, ?, ?) ON CONFLICT (credential_set, provider) DO UPDATE SET data = excluded.data", set, provider, string(b))
	s.e.Credentials[set+"/"+provider] = b
}

func (s *store) delete(set, provider, secret string) {
	s.exec("DELETE FROM credentials WHERE credential_set = ? AND provider = ?", set, provider)
	delete(s.e.Credentials, set+"/"+provider)
	s.e.Never = append(s.e.Never, secret)
}

func (s *store) key(kind, comment string, scopes ...string) {
	var private any
	if kind == "rsa" {
		k, err := rsa.GenerateKey(rand.Reader, 3072)
		must(err)
		private = k
	} else {
		_, k, err := ed25519.GenerateKey(rand.Reader)
		must(err)
		private = k
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	must(err)
	signer, err := ssh.NewSignerFromKey(private)
	must(err)
	public := signer.PublicKey().Marshal()
	sum := sha256.Sum256(public)
	print := "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
	s.n++
	s.exec("INSERT INTO ssh_keys (key_type, private_der, public_blob, comment, fingerprint) VALUES (?, ?, ?, ?, ?)", kind, der, public, comment, print)
	for _, scope := range scopes {
		s.exec("INSERT INTO ssh_key_assignments (scope, key_id) VALUES (?, ?)", scope, s.n)
	}
	s.e.Keys = append(s.e.Keys, key{kind, der, public, print, comment, scopes})
}

func (s *store) token(column, token string) {
	s.exec("INSERT INTO proxy_tokens (token, scope, "+column+", credential_set, provider) VALUES (?, 'webshop', 'k3v9p', 'default', 'anthropic')", token)
	s.e.Never = append(s.e.Never, token)
}

// text is n random characters.
func text(prefix string, n int) string {
	b := make([]byte, n)
	_, err := io.ReadFull(rand.Reader, b)
	must(err)
	return prefix + base64.RawURLEncoding.EncodeToString(b)[:n]
}

func jwt(claims string, n int) string {
	enc := base64.RawURLEncoding.EncodeToString
	return enc([]byte(`{"alg":"RS256"}`)) + "." + enc([]byte(claims)) + "." + text("", n)
}

func cipher(dir string) expected {
	s := create(dir, "PRAGMA key = '"+strings.ReplaceAll(passphrase, "'", "''")+"';PRAGMA cipher_compatibility = 4;PRAGMA foreign_keys = ON;"+
		"PRAGMA journal_mode = WAL;PRAGMA wal_autocheckpoint = 0;PRAGMA secure_delete = OFF", "subject")
	s.e.Passphrase = passphrase
	s.put("default", "anthropic", map[string]any{"type": "oauth", "access_token": text("sk-ant-oat01-REAL-old-", 60), "refresh_token": text("sk-ant-ort01-REAL-old-", 60),
		"expires_at": 1900000000, "scopes": []string{"user:profile", "user:inference"}, "subscription_type": "max", "rate_limit_tier": "default_claude_max_20x"})
	s.put("default", "openrouter", map[string]any{"type": "api_key", "key": "sk-or-v1-REAL-deleted-0123456789"})
	s.put("default", "github", map[string]any{"type": "oauth_token", "token": text("gho_REAL", 32), "host": "github.com"})
	s.put("default", "gitlab", map[string]any{"type": "pat", "token": text("glpat-REAL-", 20), "host": "gitlab.com"})
	s.put("webshop", "anthropic", map[string]any{"type": "api_key", "key": text("sk-ant-api03-REAL-", 80)})
	s.key("ed25519", "tk-main:webshop", "webshop")
	s.key("rsa", "tk-side:webshop:1", "webshop", "blog")
	s.token("subject", "terok-p-0123456789abcdef0123456789abcdef")
	s.exec("PRAGMA user_version = 3")
	if _, err := s.db.Exec("PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		panic(err)
	}
	// From here on everything is in the log only.
	s.put("default", "anthropic", map[string]any{"type": "oauth", "access_token": text("sk-ant-oat01-REAL-new-", 60), "refresh_token": text("sk-ant-ort01-REAL-new-", 60),
		"expires_at": 1900028800, "scopes": []string{"user:profile", "user:inference"}, "subscription_type": "max", "rate_limit_tier": "default_claude_max_20x"})
	s.put("default", "openai", map[string]any{"type": "oauth", "access_token": jwt(`{"exp":1900000000}`, 5200), "refresh_token": text("rt_REAL-", 80),
		"id_token":   jwt(`{"email":"dev@example.org","https://api.openai.com/auth":{"chatgpt_plan_type":"pro","chatgpt_user_id":"user-1","chatgpt_account_id":"acc-1"}}`, 900),
		"account_id": "acc-1", "scopes": nil, "expires_at": nil})
	s.delete("default", "openrouter", "sk-or-v1-REAL-deleted-0123456789")
	s.put("default", "mistral", map[string]any{"type": "api_key", "key": text("REALmistral", 21)})
	s.key("ed25519", "tk-main:blog", "blog")
	s.key("rsa", "of terok's own", "%images")
	s.token("subject", "terok-p-fedcba9876543210fedcba9876543210")
	return s.e
}

// plain is a store from before it was encrypted, in pages of 512 bytes, so that its trees are deep.
func plain(dir string) expected {
	s := create(dir, "PRAGMA page_size = 512;PRAGMA journal_mode = WAL", "subject")
	s.put("default", "claude", map[string]any{"type": "api_key", "key": text("sk-ant-api03-REAL-plain-", 70)})
	s.put("default", "gh", map[string]any{"type": "oauth_token", "token": "gho_REAL-stays-behind-0000000000", "host": "github.com"})
	s.put("default", "github", map[string]any{"type": "oauth_token", "token": text("gho_REAL", 32), "host": "github.com"})
	s.e.Never = append(s.e.Never, "gho_REAL-stays-behind-0000000000")
	delete(s.e.Credentials, "default/gh")
	s.e.Credentials["default/anthropic"] = s.e.Credentials["default/claude"]
	delete(s.e.Credentials, "default/claude")
	for i := range 40 {
		s.put(fmt.Sprintf("project-%02d", i), "mistral", map[string]any{"type": "api_key", "key": text("REALmistral", 21), "padding": strings.Repeat("x", i*20)})
	}
	s.key("rsa", "tk-main:webshop", "webshop")
	s.token("subject", "terok-p-0123456789abcdef0123456789abcdef")
	s.exec("PRAGMA user_version = 2")
	s.exec("PRAGMA journal_mode = DELETE")
	return s.e
}
GO
export CGO_ENABLED=1 GOFLAGS=-mod=mod
go mod init make
go get github.com/mutecomm/go-sqlcipher/v4@v4.4.2 golang.org/x/crypto@v0.58.0
go run . "$out"
