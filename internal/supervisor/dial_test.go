package supervisor

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"testing"

	"terok/internal/shield/policy"
)

// TestUpstreamNameFlips: a provider's name that was public at the first look-up and then says that it
// is this host, or a private address, is refused when it is dialled: what was judged is what is
// connected to, with one look-up for both, and what listens there sees nothing.
// spec/vault.md §10: 27.
func TestUpstreamNameFlips(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	reached := make(chan struct{}, 8)
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
			reached <- struct{}{}
		}
	}()
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	answers := [][]string{{"203.0.113.10"}, {"127.0.0.1"}, {"127.0.0.1", "10.0.0.7", "::ffff:127.0.0.1"}, {"127.0.0.1"}}
	lookups := 0
	d := &upstreamDialer{rules: &rules{}, lookup: func(context.Context, string) ([]netip.Addr, error) {
		var list []netip.Addr
		for _, a := range answers[lookups] {
			list = append(list, netip.MustParseAddr(a))
		}
		lookups++
		return list, nil
	}}
	d.rules.current.Store(policy.New(nil, policy.Options{Posture: policy.Up}))

	gone, cancel := context.WithCancel(t.Context())
	cancel() // nothing is sent to the public address
	if _, err := d.dial(gone, "api.provider.test", port, false); err == nil || !strings.Contains(err.Error(), "203.0.113.10") {
		t.Errorf("the public address was not dialled: %v", err)
	}
	for i := range 2 {
		if c, err := d.dial(t.Context(), "api.provider.test", port, false); err == nil {
			c.Close()
			t.Errorf("answer %v was dialled", answers[i+1])
		}
	}
	select {
	case <-reached:
		t.Error("this host was reached")
	default:
	}
	// The same name may be this host where the operator's file says so.
	c, err := d.dial(t.Context(), "api.provider.test", port, true)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	<-reached
	if lookups != len(answers) {
		t.Errorf("%d look-ups for %d connections", lookups, len(answers))
	}
	l.Close()
	<-accepting
}
