package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

var synthetic = netip.MustParsePrefix("198.18.0.0/15")

func TestTableStable(t *testing.T) {
	a, b := NewTable(synthetic), NewTable(synthetic)
	for i := range 500 {
		name := fmt.Sprintf("h%d.example.org", i)
		x, ok := a.Addr(name, i%2 == 0)
		if !ok || !synthetic.Contains(x) {
			t.Fatalf("%s: %v", name, x)
		}
		if got, ok := a.Name(x); !ok || got != name {
			t.Fatalf("%v is %q, want %q", x, got, name)
		}
		if again, _ := a.Addr(name, false); again != x {
			t.Fatalf("%s moved from %v to %v", name, x, again)
		}
	}
	// Another table, another order: all but the few that probing moved are where they were.
	moved := 0
	for i := 499; i >= 0; i-- {
		name := fmt.Sprintf("h%d.example.org", i)
		x, _ := a.Addr(name, false)
		if y, _ := b.Addr(name, false); x != y {
			moved++
		}
	}
	if moved > 10 {
		t.Errorf("%d of 500 names moved", moved)
	}
}

// TestTableFlood is the attack with a million random names: allowed ones stay, memory is bounded.
func TestTableFlood(t *testing.T) {
	tab := NewTable(synthetic)
	want := map[string]netip.Addr{}
	for i := range 100 {
		name := fmt.Sprintf("allowed%d.test", i)
		want[name], _ = tab.Addr(name, true)
	}
	for i := range 1_000_000 {
		if _, ok := tab.Addr(fmt.Sprintf("r%d.evil.test", i), false); !ok {
			t.Fatal("no address")
		}
	}
	for name, a := range want {
		if got, ok := tab.Name(a); !ok || got != name {
			t.Fatalf("%s lost its address: %q", name, got)
		}
	}
	if n := len(tab.byName); n > maxLoose+100 || len(tab.byAddr) != n {
		t.Errorf("%d names, %d addresses", n, len(tab.byAddr))
	}
	if a, ok := tab.Addr("r0.evil.test", false); !ok || !synthetic.Contains(a) {
		t.Error("the name system has ended")
	}
}

// TestTablePinnedBound: allowed names without end (below a wildcard) are bounded as well.
func TestTablePinnedBound(t *testing.T) {
	tab := NewTable(netip.MustParsePrefix("198.18.0.0/24"))
	for i := range 10_000 {
		tab.Addr(fmt.Sprintf("p%d.test", i), true)
		tab.Addr(fmt.Sprintf("l%d.test", i), false)
	}
	if n := len(tab.byName); n != 128+64 {
		t.Errorf("%d names in a table of 256", n)
	}
}

func TestTableNeverReserved(t *testing.T) {
	tab := NewTable(netip.MustParsePrefix("198.18.5.0/24"))
	for i := range 2000 {
		a, _ := tab.Addr(fmt.Sprintf("n%d.test", i), false)
		if b := a.As4(); b[3] == 0 || b[3] == 255 {
			t.Fatalf("%v handed out", a)
		}
	}
}

func TestTableUnknown(t *testing.T) {
	tab := NewTable(synthetic)
	a, _ := tab.Addr("a.test", true)
	for _, s := range []string{"198.18.0.0", "198.17.255.255", "198.20.0.0", "::1", "203.0.113.1", a.Next().String()} {
		if name, ok := tab.Name(netip.MustParseAddr(s)); ok {
			t.Errorf("%s is %q", s, name)
		}
	}
	if _, ok := tab.Addr("", true); ok {
		t.Error("the empty name has an address")
	}
	if !tab.Contains(netip.MustParseAddr("198.19.255.255")) || tab.Contains(netip.MustParseAddr("198.20.0.0")) {
		t.Error("range")
	}
}

func TestTableSnapshot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := NewTable(netip.MustParsePrefix("198.18.0.0/23"))
		names := rapid.SliceOfN(rapid.StringMatching(`[a-h]{1,2}\.test`), 1, 60).Draw(t, "names")
		for i, name := range names {
			tab.Addr(name, i%3 > 0)
		}
		gen := tab.Generation()
		pins := tab.Snapshot()
		again := NewTable(netip.MustParsePrefix("198.18.0.0/23"))
		again.Restore(pins)
		if !slices.Equal(again.Snapshot(), pins) {
			t.Fatalf("%v became %v", pins, again.Snapshot())
		}
		for _, p := range pins {
			if name, ok := again.Name(p.Addr); !ok || name != p.Name {
				t.Fatalf("%v is %q after the restart", p, name)
			}
		}
		if tab.Generation() != gen {
			t.Fatal("reading changed the generation")
		}
		tab.Addr("new.example", true)
		if tab.Generation() == gen {
			t.Fatal("a new pin did not change the generation")
		}
	})
}

// TestTableRestoreHostile: a file that contradicts itself or the setting adds nothing wrong.
func TestTableRestoreHostile(t *testing.T) {
	tab := NewTable(synthetic)
	a := netip.MustParseAddr
	tab.Restore([]Pin{
		{"a.test", a("198.18.0.9")}, {"b.test", a("198.18.0.9")}, {"a.test", a("198.18.0.10")},
		{"", a("198.18.0.11")}, {"c.test", a("203.0.113.1")}, {"d.test", netip.Addr{}}, {"e.test", a("198.18.0.0")},
	})
	if got := tab.Snapshot(); len(got) != 1 || got[0].Name != "a.test" {
		t.Errorf("%v", got)
	}
}

func TestTableConcurrent(t *testing.T) {
	tab := NewTable(synthetic)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 3000 {
				name := fmt.Sprintf("n%d.test", i*(g%2+1))
				if a, ok := tab.Addr(name, i%7 == 0); ok {
					tab.Name(a)
				}
			}
		})
	}
	wg.Wait()
	for name, e := range tab.byName {
		if s := e.Value.(*slot); s.name != name || tab.byAddr[s.offset] != e {
			t.Fatalf("%s is torn", name)
		}
	}
}
