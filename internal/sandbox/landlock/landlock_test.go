package landlock

import "testing"

func TestEachLackIsNamed(t *testing.T) {
	for abi, want := range map[int]int{0: 1, 1: 1, 2: 2, 3: 2, 4: 1, 5: 1, 6: 0, 9: 0} {
		if got := Degraded(abi); len(got) != want {
			t.Errorf("ABI %d: %q", abi, got)
		}
		if err := Missing(abi); (err == nil) != (abi >= Required) {
			t.Errorf("ABI %d: %v", abi, err)
		}
	}
}
