package store

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"terok/internal/problem"
	"terok/internal/state"
)

var noon = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

func oauthCred() Credential {
	return Credential{Scope: "shared", Provider: "openai", Account: "work", Kind: KindOAuth, Secret: []byte("access-" + secret),
		Refresh: []byte("refresh-" + secret), IDToken: []byte("id-" + secret), ExpiresAt: noon.Add(time.Hour), State: StateOK,
		Public: map[string]string{"plan": "plus", "account_id": "acc-1"}, VerifiedAt: noon}
}

// TestDocumentHoldsEverything: every part of the document survives the disk, lists show no
// secrets, and deleting something secret takes it out of every generation.
func TestDocumentHoldsEverything(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	k := Key{"shared", "openai", "work"}
	sshKey := SSHKey{ID: "abcd", Type: "ed25519", Private: []byte("PRIVATE-" + secret), Public: []byte("blob"),
		Fingerprint: "SHA256:" + strings.Repeat("a", 43), Comment: "tk-main:p", AllowHosts: []string{"forge.example:2222"}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(v.Update(noon, func(tx *Tx) error {
		_, err := tx.Put(oauthCred())
		return errors.Join(err,
			tx.Bind(Binding{Project: "p", Provider: "openai", Scope: "shared", Account: "work"}),
			tx.SetJournal(Journal{Key: k, StartedAt: noon, Phase: PhaseIntent, OldDigest: "ab", Attempts: 1}),
			tx.PutSSHKey(sshKey), tx.AssignSSHKey("p", "abcd", RoleMain),
			tx.PutHostKey(HostKey{Host: "forge.example", Port: 22, Type: "ssh-ed25519", Blob: []byte("hk"), Source: "user"}))
	}))
	v = open(t, dir)
	must(v.View(func(tx *Tx) error {
		c, ok := tx.Get(k)
		want := oauthCred()
		want.Hint, want.CreatedAt, want.UpdatedAt, want.Revision = "6789", noon, noon, 2
		if !ok || !reflect.DeepEqual(c, want) {
			t.Errorf("got  %+v\nwant %+v", c, want)
		}
		if j, ok := tx.Journal(k); !ok || j.Phase != PhaseIntent || !j.StartedAt.Equal(noon) {
			t.Errorf("%+v", j)
		}
		if got, ok := tx.SSHKey("abcd"); !ok || string(got.Private) != string(sshKey.Private) || got.AllowHosts[0] != "forge.example:2222" {
			t.Errorf("%+v", got)
		}
		if l := tx.SSHKeys(); len(l) != 1 || l[0].Private != nil {
			t.Errorf("%+v", l)
		}
		if a := tx.SSHAssignments(); len(a) != 1 || a[0].Role != RoleMain || a[0].KeyID != "abcd" {
			t.Errorf("%+v", a)
		}
		if h := tx.HostKeys(); len(h) != 1 || string(h[0].Blob) != "hk" {
			t.Errorf("%+v", h)
		}
		if l := tx.List(); len(l) != 1 || l[0].Secret != nil || l[0].Refresh != nil || l[0].IDToken != nil {
			t.Errorf("%+v", l)
		}
		return nil
	}))
	must(v.Update(noon, func(tx *Tx) error {
		if !tx.Delete(k) || !tx.Unbind("p", "openai") || !tx.DeleteSSHKey("abcd") || tx.DeleteHostKeys("forge.example", 22) != 1 {
			t.Error("not found")
		}
		return nil
	}))
	plain, before := string(v.plain.bytes()), decryptGeneration(t, dir, "vault.age.1")
	for name, doc := range map[string]string{"now": plain, "before": before} {
		for _, s := range []string{"openai", "abcd", "tk-main", "refresh_journal", `"private"`} {
			if strings.Contains(doc, s) {
				t.Errorf("%s still holds %s", name, s)
			}
		}
	}
}

func decryptGeneration(t *testing.T, dir, name string) string {
	t.Helper()
	c := copyVault(t, dir)
	data, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vaultFile(c), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return string(open(t, c).plain.bytes())
}

// TestUpdateIsAllOrNothing: a change that fails half way leaves disk and memory as they were.
func TestUpdateIsAllOrNothing(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	before, _ := os.ReadFile(vaultFile(dir))
	err := v.Update(noon, func(tx *Tx) error {
		if _, err := tx.Put(oauthCred()); err != nil {
			return err
		}
		return tx.Bind(Binding{Project: "p", Provider: "none", Scope: "shared"})
	})
	wantCode(t, err, "credential_missing", problem.NotFound)
	if after, _ := os.ReadFile(vaultFile(dir)); !bytes.Equal(before, after) {
		t.Error("the disk changed")
	}
	if l, err := v.List(); err != nil || len(l) != 0 {
		t.Error(l, err)
	}
}

// spec/vault.md §2.5: binding, then the project's scope, then shared unless the project keeps to
// itself; a binding whose credential is gone falls back to nothing.
func TestResolve(t *testing.T) {
	v := open(t, newVault(t))
	err := v.Update(noon, func(tx *Tx) error {
		for _, k := range []Key{{"shared", "github", ""}, {"project:p", "github", ""}, {"shared", "github", "bot"}, {"shared", "openai", ""}} {
			if _, err := tx.Put(Credential{Scope: k.Scope, Provider: k.Provider, Account: k.Account, Kind: KindPAT, Secret: []byte(secret)}); err != nil {
				return err
			}
		}
		if err := tx.Bind(Binding{Project: "q", Provider: "github", Scope: "shared", Account: "bot"}); err != nil {
			return err
		}
		for _, tt := range []struct {
			project, provider string
			own               bool
			want              string
		}{
			{"p", "github", false, "project:p/default"}, {"r", "github", false, "shared/default"}, {"", "github", false, "shared/default"},
			{"r", "github", true, ""}, {"p", "github", true, "project:p/default"}, {"q", "github", false, "shared/bot"},
			{"q", "github", true, "shared/bot"}, {"p", "openai", true, ""}, {"p", "none", false, ""},
		} {
			k, steps, ok := tx.Resolve(tt.project, tt.provider, tt.own)
			got := ""
			if ok {
				got = k.Scope + "/" + k.Account
			}
			if got != tt.want || ok != steps[len(steps)-1].Found {
				t.Errorf("%+v: %s (%+v)", tt, got, steps)
			}
		}
		bot := Key{"shared", "github", "bot"}
		if !tx.Delete(bot) {
			t.Error("the bot is not there")
		}
		if k, _, ok := tx.Resolve("q", "github", false); ok {
			t.Errorf("a dead binding fell back to %v", k)
		}
		if _, err := tx.Put(Credential{Scope: bot.Scope, Provider: bot.Provider, Account: bot.Account, Kind: KindPAT, Secret: []byte(secret)}); err != nil {
			return err
		}
		if k, _, ok := tx.Resolve("q", "github", false); !ok || k != bot {
			t.Errorf("stored anew, the binding leads to %v", k)
		}
		return errUnchanged
	})
	if err != errUnchanged {
		t.Fatal(err)
	}
}

func TestNoSecretInPublicFacts(t *testing.T) {
	v := open(t, newVault(t))
	c := oauthCred()
	c.Public["login"] = "x" + string(c.Refresh)
	_, err := v.Put(c, noon)
	if p := problem.Of(err); err == nil || p.Exit != problem.Usage || strings.Contains(p.Message, secret) {
		t.Error(err)
	}
}

// schema1 makes the vault in dir one of the first version that holds one key.
func schema1(t *testing.T, dir string) {
	t.Helper()
	v := open(t, dir)
	plain := fmt.Appendf(nil, `{"schema":1,"vault_id":%q,"generation":7,"created_at":"2026-01-01T00:00:00Z","credentials":[`+
		`{"scope":"shared","provider":"anthropic","kind":"api_key","secret":"c2stYW50LWFwaTAzLVJFQUw=","hint":"REAL","created_at":"2026-01-01T00:00:00Z","updated_at":"2026-01-01T00:00:00Z","revision":3}]}`, v.id)
	data, err := encrypt(plain, v.recipient)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vaultFile(dir), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestMigration(t *testing.T) {
	dir := newVault(t)
	schema1(t, dir)
	old, _ := os.ReadFile(vaultFile(dir))
	for range 2 { // the second time there is nothing to do
		v := open(t, dir)
		c, ok, err := v.Get(Key{Scope: "shared", Provider: "anthropic"})
		if err != nil || !ok || string(c.Secret) != "sk-ant-api03-REAL" || c.Account != DefaultAccount || c.State != StateUnverified || c.Revision != 3 {
			t.Fatalf("%+v %v %v", c, ok, err)
		}
		if doc, err := v.document(); err != nil || doc.Schema != Schema || doc.Generation != 8 {
			t.Fatalf("%+v %v", doc, err)
		}
		v.Close()
	}
	copied := vaultFile(dir) + fmt.Sprintf(".pre-%d", Schema)
	if data, err := os.ReadFile(copied); err != nil || !bytes.Equal(data, old) {
		t.Errorf("no copy of the file before: %v", err)
	}
	v := open(t, dir)
	if _, err := v.Put(oauthCred(), noon); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(copied); err != nil {
		t.Errorf("the copy is gone before its time: %v", err)
	}
	// What is deleted is in no copy either.
	if _, err := v.Delete(Key{Scope: "shared", Provider: "anthropic"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(copied); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the copy stays after a deletion: %v", err)
	}
}

func TestMigrationThatCannotWrite(t *testing.T) {
	dir := newVault(t)
	schema1(t, dir)
	old, _ := os.ReadFile(vaultFile(dir))
	if err := state.MkdirAll(filepath.Join(vaultFile(dir)+fmt.Sprintf(".pre-%d", Schema), "x")); err != nil { // no copy can be made
		t.Fatal(err)
	}
	if v, err := Open(dir, []byte(pass)); err == nil {
		v.Close()
		t.Fatal("migrated without a copy")
	}
	if data, _ := os.ReadFile(vaultFile(dir)); !bytes.Equal(data, old) {
		t.Error("the vault was written without a copy")
	}
}
