package holder

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"terok/internal/vault/keyholder"
)

// TestOAuthCredential: the list shows everything but the secrets; a supervisor gets the access
// token and the public facts, and no message to it holds refresh or ID token.
func TestOAuthCredential(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.unlock()
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	cred := keyholder.Credential{Scope: "shared", Provider: "openai", Kind: "oauth", State: "unverified", LastError: "slow answer",
		Public: map[string]string{"plan": "plus"}, ExpiresAt: expires}
	if _, err := c.Put(r.ctx, cred, keyholder.Secrets{Secret: []byte("access-" + secret), Refresh: []byte("refresh-" + secret), IDToken: []byte("idtoken-" + secret)}); err != nil {
		t.Fatal(err)
	}
	list, err := c.List(r.ctx)
	if err != nil || len(list) != 1 || strings.Contains(fmt.Sprintf("%+v", list), secret[:20]) {
		t.Fatal(list, err)
	}
	if g := list[0]; g.Account != "default" || g.State != "unverified" || g.LastError != "slow answer" || g.Public["plan"] != "plus" || !g.ExpiresAt.Equal(expires) {
		t.Errorf("%+v", g)
	}
	path, _ := r.container("t1", grant("openai", "shared"))
	conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, `{"v":1,"id":7,"op":"credential","provider":"openai"}`)
	buf := make([]byte, keyholder.MaxMessage)
	n, err := conn.Read(buf)
	if err != nil || bytes.Contains(buf[:n], []byte("cmVmcmVzaC")) || bytes.Contains(buf[:n], []byte("aWR0b2tlbi")) {
		t.Errorf("%q %v", buf[:n], err)
	}
	s := keyholder.NewSession(conn)
	defer s.Close()
	got, err := s.Credential(r.ctx, "openai")
	if err != nil || string(got.Value) != "access-"+secret || got.Kind != "oauth" || got.Public["plan"] != "plus" || !got.ExpiresAt.Equal(expires) || got.Also != nil {
		t.Errorf("%+v %v", got, err)
	}
}

// TestListLongerThanAMessage: the list comes in as many messages as it needs.
func TestListLongerThanAMessage(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.unlock()
	long := map[string]string{}
	for i := range 20 {
		long[fmt.Sprintf("fact_%d", i)] = strings.Repeat("x", 500)
	}
	for i := range 15 {
		cred := keyholder.Credential{Scope: "shared", Provider: "openai", Account: fmt.Sprintf("a%02d", i), Kind: "api_key", Public: long}
		if _, err := c.Put(r.ctx, cred, keyholder.Secrets{Secret: []byte(secret)}); err != nil {
			t.Fatal(err)
		}
	}
	list, err := c.List(r.ctx)
	if err != nil || len(list) != 15 {
		t.Fatal(len(list), err)
	}
	for i, c := range list {
		if c.Account != fmt.Sprintf("a%02d", i) {
			t.Errorf("%d: %s", i, c.Account)
		}
	}
}
