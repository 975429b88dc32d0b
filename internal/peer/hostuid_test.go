package peer

import "testing"

func TestHostUID(t *testing.T) {
	podman := []idRange{{0, 1000, 1}, {1, 100000, 65536}}
	for _, c := range []struct {
		m    []idRange
		uid  uint64
		want int
	}{
		{[]idRange{{0, 0, 4294967295}}, 1000, 1000},
		{podman, 0, 1000},
		{podman, 5, 100004},
	} {
		if got, err := hostUID(c.m, c.uid); err != nil || got != c.want {
			t.Errorf("%v %d: %d, %v", c.m, c.uid, got, err)
		}
	}
	if got, err := hostUID(podman, 1<<20); err == nil {
		t.Errorf("an unmapped uid is %d", got)
	}
}
