package legacy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"terok/internal/vault/legacy/sqlite"
	"terok/internal/vault/oauth"
	"terok/internal/vault/ssh"
)

// newest is the last schema version that the predecessor had.
const newest = 3

// Store is what an old store holds. Close overwrites the secrets.
type Store struct {
	Version     int // PRAGMA user_version
	Credentials []Credential
	Keys        []SSHKey
	Bad         []Bad // records that cannot be used
}

// Credential is one record of the table credentials.
type Credential struct {
	Set      string // "default", or the name of the project whose own it is
	Provider string // by its newest name
	Type     string // oauth, api_key, oauth_token or pat
	Host     string // of a forge, "" when the record has none
	Token    oauth.Token
	Public   map[string]string // plan, tier, scopes, account_id, …: no secrets
}

// SSHKey is one key with the scopes that may use it: projects, or "%…" for terok's own.
type SSHKey struct {
	ssh.Key
	Comment   string
	CreatedAt time.Time // zero when the record does not say
	Scopes    []string
}

// Bad is a record that cannot be used, and why. Neither quotes a secret.
type Bad struct{ Name, Why string }

// Close overwrites the secrets.
func (s *Store) Close() {
	for i := range s.Credentials {
		s.Credentials[i].Token.Wipe()
	}
	for i := range s.Keys {
		clear(s.Keys[i].Private)
	}
}

// Store reads everything but the phantom tokens. ignoreUnfinished leaves out what follows the last
// whole transaction of the log; without it that is sqlite.ErrUnfinished. A store that does not fit
// together is a *sqlite.Damage, one without the tables of the old program ErrForeign.
func (s *Source) Store(ignoreUnfinished bool) (*Store, error) {
	db, err := s.open(ignoreUnfinished)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	out := &Store{Version: db.UserVersion}
	if out.Version > newest {
		return nil, fmt.Errorf("%w: version %d, and %d is the newest that is known", ErrForeign, out.Version, newest)
	}
	if err := errors.Join(out.credentials(db), out.keys(db)); err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

// ErrForeign is a database that is whole but not the predecessor's store.
var ErrForeign = errors.New("this is not a credential store of terok's predecessor")

// renamed are the providers that schema version 3 renamed.
var renamed = map[string]string{"claude": "anthropic", "codex": "openai", "vibe": "mistral", "gh": "github", "glab": "gitlab", "sonar": "sonarcloud"}

// rows reads some columns of a table as text or bytes, by name.
func rows(db *sqlite.DB, table string, visit func(rowid int64, row [][]byte) error, columns ...string) error {
	t, ok, err := db.Table(table)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%w: it has no table %s", ErrForeign, table)
	}
	place := make([]int, len(columns))
	for i, c := range columns {
		if place[i] = t.Column(c); place[i] < 0 {
			return fmt.Errorf("%w: its table %s has no column %s", ErrForeign, table, c)
		}
	}
	return db.Rows(t, func(rowid int64, values []sqlite.Value) error {
		row := make([][]byte, len(columns))
		for i, p := range place {
			if p >= len(values) {
				continue
			}
			switch v := values[p]; v.Kind {
			case sqlite.Text, sqlite.Blob:
				row[i] = v.Bytes
			case sqlite.Integer:
				row[i] = fmt.Append(nil, v.Int)
			}
		}
		return visit(rowid, row)
	})
}

func (s *Store) credentials(db *sqlite.DB) error {
	type key struct{ set, provider string }
	seen := map[key]bool{}
	var old []Credential // under a name that was given up
	err := rows(db, "credentials", func(_ int64, row [][]byte) error {
		c, err := credential(string(row[0]), string(row[1]), row[2])
		if err != nil {
			s.Bad = append(s.Bad, Bad{"credential " + string(row[0]) + "/" + string(row[1]), err.Error()})
			return nil
		}
		if now, ok := renamed[c.Provider]; ok && s.Version < newest {
			c.Provider = now
			old = append(old, *c)
			return nil
		}
		seen[key{c.Set, c.Provider}] = true
		s.Credentials = append(s.Credentials, *c)
		return nil
	}, "credential_set", "provider", "data")
	for _, c := range old { // as the old program's own migration: what has the new name stays
		if k := (key{c.Set, c.Provider}); !seen[k] {
			seen[k] = true
			s.Credentials = append(s.Credentials, c)
			continue
		}
		c.Token.Wipe()
	}
	slices.SortFunc(s.Credentials, func(a, b Credential) int {
		return strings.Compare(a.Set+"/"+a.Provider, b.Set+"/"+b.Provider)
	})
	return err
}

// record is the JSON of a credential.
type record struct {
	Type    string       `json:"type"`
	Access  string       `json:"access_token"`
	Refresh string       `json:"refresh_token"`
	Expires *json.Number `json:"expires_at"`
	Scopes  any          `json:"scopes"`
	Plan    string       `json:"subscription_type"`
	Tier    string       `json:"rate_limit_tier"`
	ID      string       `json:"id_token"`
	Account string       `json:"account_id"`
	Key     string       `json:"key"`
	Token   string       `json:"token"`
	Host    string       `json:"host"`
}

// credential reads one record. No error quotes it.
func credential(set, provider string, data []byte) (*Credential, error) {
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, errors.New("its record is not what the old program writes")
	}
	c := &Credential{Set: set, Provider: provider, Type: r.Type, Host: strings.ToLower(r.Host), Public: map[string]string{}}
	secret := ""
	switch r.Type {
	case "oauth":
		secret = r.Access
		c.Token.Refresh, c.Token.ID = optional(r.Refresh), optional(r.ID)
		c.Token.ExpiresAt = when(r.Expires)
		c.Token.Scopes = scopes(r.Scopes)
		maps.Copy(c.Public, map[string]string{"plan": r.Plan, "tier": r.Tier, "account_id": r.Account, "scopes": strings.Join(c.Token.Scopes, " ")})
	case "api_key":
		secret = r.Key
	case "oauth_token", "pat":
		secret = r.Token
	default:
		return nil, errors.New("it is of a kind that is not known")
	}
	if secret == "" {
		return nil, errors.New("it has no secret")
	}
	c.Token.Access = []byte(secret)
	return c, nil
}

func optional(s string) []byte {
	if s == "" {
		return nil
	}
	return []byte(s)
}

// when reads Unix seconds, whole or not.
func when(n *json.Number) time.Time {
	if n == nil {
		return time.Time{}
	}
	f, err := n.Float64()
	if err != nil || f <= 0 || f >= 253402300800 || math.IsNaN(f) { // year 10000
		return time.Time{}
	}
	return time.Unix(int64(f), 0).UTC()
}

// scopes reads a list, or one text with spaces.
func scopes(v any) []string {
	switch v := v.(type) {
	case string:
		return strings.Fields(v)
	case []any:
		var out []string
		for _, e := range v {
			if s, ok := e.(string); ok && len(strings.Fields(s)) == 1 {
				out = append(out, s)
			}
		}
		return out
	}
	return nil
}

func (s *Store) keys(db *sqlite.DB) error {
	byID := map[string]int{}
	err := rows(db, "ssh_keys", func(rowid int64, row [][]byte) error {
		id, kind, private, public, comment, print, created := row[0], string(row[1]), row[2], row[3], string(row[4]), string(row[5]), string(row[6])
		if id == nil { // an INTEGER PRIMARY KEY is the row id, and stored as NULL
			id = fmt.Append(nil, rowid)
		}
		k, err := ssh.FromPKCS8(private)
		switch {
		case err != nil:
		case string(k.Public) != string(public) || k.Fingerprint != print || k.Type != kind:
			clear(k.Private)
			err = errors.New("its private and its public half do not belong together")
		}
		if err != nil {
			s.Bad = append(s.Bad, Bad{"SSH key " + print, err.Error()})
			return nil
		}
		byID[string(id)] = len(s.Keys)
		s.Keys = append(s.Keys, SSHKey{Key: *k, Comment: comment, CreatedAt: stamp(created)})
		return nil
	}, "id", "key_type", "private_der", "public_blob", "comment", "fingerprint", "created_at")
	if err != nil {
		return err
	}
	return rows(db, "ssh_key_assignments", func(_ int64, row [][]byte) error {
		if i, ok := byID[string(row[1])]; ok {
			s.Keys[i].Scopes = append(s.Keys[i].Scopes, string(row[0]))
		}
		return nil
	}, "scope", "key_id")
}

// stamp reads a time as SQLite and Python write it; zero for anything else.
func stamp(s string) time.Time {
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02 15:04:05", "2006-01-02T15:04:05.999999"} {
		if t, err := time.Parse(layout, s); err == nil {
			return t.UTC()
		}
	}
	return time.Time{}
}
