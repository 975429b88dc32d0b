package links

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"

	"terok/internal/sandbox"
)

func TestCheckRefusesWaysOut(t *testing.T) {
	attrs := func(name string, index, parent, ns int) netlink.Link {
		return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name, Index: index, ParentIndex: parent, NetNsID: ns}}
	}
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Name: "lo", Index: 1, Flags: net.FlagLoopback, NetNsID: -1}}
	for name, links := range map[string][]netlink.Link{
		"no pair":      {lo},
		"slirp":        {lo, &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tap0", Index: 2}}},
		"podman veth":  {lo, attrs(sandbox.Link, 2, 9, 0)},
		"peer outside": {lo, attrs(sandbox.Link, 2, 3, 0), attrs(sandbox.PeerLink, 3, 2, -1)},
		"other peer":   {lo, attrs(sandbox.Link, 2, 7, -1), attrs(sandbox.PeerLink, 3, 2, -1)},
		"one more":     {lo, attrs(sandbox.Link, 2, 3, -1), attrs(sandbox.PeerLink, 3, 2, -1), attrs("x", 4, 5, -1)},
	} {
		if Check(links) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := Check([]netlink.Link{lo, attrs(sandbox.Link, 3, 2, -1), attrs(sandbox.PeerLink, 2, 3, -1)}); err != nil {
		t.Error(err)
	}
}
