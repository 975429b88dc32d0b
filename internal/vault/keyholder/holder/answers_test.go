package holder

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/vault/keyholder"
	"terok/internal/vault/oauth"
	"terok/internal/vault/store"
)

// TestRevokedWhileReplaced: a sign-in that is stored while the one before it is being taken back
// stays.
func TestRevokedWhileReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve(Config{})
	c, other := r.unlock(), r.client()
	r.put(c, "shared", "gitlab", secret)
	provider := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		r.put(other, "shared", "gitlab", secret+"-new")
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(provider.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: provider.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	how := &keyholder.Revocation{Method: "DELETE", URL: provider.URL, Header: "PRIVATE-TOKEN", CAFile: ca, AllowPrivate: true}
	if err := c.Revoke(r.ctx, "shared", "gitlab", "", how); code(err) != "credential_replaced" {
		t.Error(err)
	}
	if list, err := c.List(r.ctx); err != nil || len(list) != 1 || list[0].Hint != "-new" {
		t.Error(list, err)
	}
}

// TestRenewedIsStorable: whatever a provider says beside a new token, it can be stored.
func TestRenewedIsStorable(t *testing.T) {
	h := &Holder{cfg: Config{Now: time.Now}}
	tok := &oauth.Token{Access: []byte("access-0123456789"), Refresh: []byte("refresh-0123456789"), ExpiresAt: time.Now().Add(time.Hour),
		Scopes: []string{"a", "access-0123456789"}}
	c := &store.Credential{Scope: "shared", Provider: "openai", Kind: store.KindOAuth, Public: map[string]string{"scopes": "a refresh-0123456789", "plan": "pro"}}
	h.renew(&pace{}, c, tok)
	if c.Public["plan"] != "pro" || strings.Contains(fmt.Sprint(c.Public, c.LastError), "0123456789") || string(c.Secret) != "access-0123456789" {
		t.Errorf("%+v %q", c.Public, c.LastError)
	}
}
