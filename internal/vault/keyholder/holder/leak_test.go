package holder

import (
	"testing"
	"time"

	"terok/internal/vault/keyholder"
)

// A phantom that another container uses: its owner is told, and named to the other. Only the whole
// token says whose it is. spec/vault.md §10: 9.
func TestLeakedPhantom(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	r.unlock()
	session := func(name string) *keyholder.Session {
		path, _ := r.container(name, grant("anthropic", "shared"))
		conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
		if err != nil {
			t.Fatal(err)
		}
		s := keyholder.NewSession(conn)
		t.Cleanup(func() { s.Close() })
		return s
	}
	const token, handle = "terok-p-aaaaaaaaaa-whole", "terok-p-aaaaaaaaaa-other"
	type leak struct{ phantom, by string }
	told := make(chan leak, 10)
	owner, other := session("t1"), session("t2")
	owner.Guard([]string{token}, func(phantom, by string) { told <- leak{phantom, by} })
	other.Guard([]string{"terok-p-bbbbbbbbbb"}, func(string, string) { t.Error("who used it was told") })
	var whose string
	r.eventually("the owner is known", func() bool {
		var err error
		whose, err = other.Owner(r.ctx, token)
		return err == nil && whose != ""
	})
	if whose != "t1" && whose != "p/t1" {
		t.Errorf("%q", whose)
	}
	select {
	case got := <-told:
		if got.phantom != token || got.by != "t2" && got.by != "p/t2" {
			t.Errorf("%+v", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the owner was not told")
	}
	for _, wrong := range []string{handle, "", "terok-p-bbbbbbbbbb"} { // the last is its own
		if whose, err := other.Owner(r.ctx, wrong); whose != "" || err != nil {
			t.Errorf("%q: %q %v", wrong, whose, err)
		}
	}
	owner.Close()
	r.eventually("a container that has ended owns nothing", func() bool { whose, _ := other.Owner(r.ctx, token); return whose == "" })
}
