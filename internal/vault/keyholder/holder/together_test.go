package holder

import (
	"fmt"
	"sync"
	"testing"

	"terok/internal/vault/keyholder"
	"terok/internal/vault/store"
)

// spec/vault.md §10: 59, fewer rounds. Eight operators store, list and delete at the same time: no
// update is lost, in memory or on disk.
func TestEightOperatorsAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.serve(Config{})
	r.unlock()
	const operators, each = 8, 12
	var wg sync.WaitGroup
	for o := range operators {
		c := r.client()
		wg.Go(func() {
			for i := range each {
				cred := keyholder.Credential{Scope: "shared", Provider: "openai", Account: fmt.Sprintf("o%d-%d", o, i), Kind: "api_key"}
				if _, err := c.Put(r.ctx, cred, keyholder.Secrets{Secret: fmt.Appendf(nil, "secret-of-%d-%d", o, i)}); err != nil {
					t.Error(err)
				}
				if i%3 == 2 { // the one before goes again
					if err := c.Delete(r.ctx, "shared", "openai", fmt.Sprintf("o%d-%d", o, i-1)); err != nil {
						t.Error(err)
					}
				}
				if _, err := c.List(r.ctx); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	want := operators * (each - each/3)
	list, err := r.client().List(r.ctx)
	if err != nil || len(list) != want {
		t.Errorf("%d of %d in memory (%v)", len(list), want, err)
	}
	v, err := store.Open(r.roots.VaultDir(), []byte(pass))
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	for o := range operators {
		for i := range each {
			c, ok, err := v.Get(store.Key{Scope: "shared", Provider: "openai", Account: fmt.Sprintf("o%d-%d", o, i)})
			if err != nil || ok == (i%3 == 1) || ok && string(c.Secret) != fmt.Sprintf("secret-of-%d-%d", o, i) {
				t.Errorf("o%d-%d: %v %q %v", o, i, ok, c.Secret, err)
			}
		}
	}
}
