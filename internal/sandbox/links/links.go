// Package links judges the network links of a container of ours. Hook, supervisor and guest ask
// the same question in the same words: are there exactly lo and our veth pair, and do both ends
// of the pair lie inside? Any other link would be a way out that nobody judges.
package links

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"

	"terok/internal/sandbox"
)

// CheckHere judges the links of the calling thread's network namespace.
func CheckHere() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list network links: %w", err)
	}
	return Check(links)
}

// Check fails unless links are exactly lo and the pair, each other's peer in one namespace.
func Check(links []netlink.Link) error {
	var eth, peer *netlink.LinkAttrs
	for _, l := range links {
		a := l.Attrs()
		switch {
		case a.Name == "lo" && a.Flags&net.FlagLoopback != 0:
		case a.Name == sandbox.Link && l.Type() == "veth":
			eth = a
		case a.Name == sandbox.PeerLink && l.Type() == "veth":
			peer = a
		default:
			return fmt.Errorf("network link %q is not one of terok's", a.Name)
		}
	}
	if eth == nil || peer == nil || len(links) != 3 {
		return errors.New("terok's network links are missing")
	}
	// A peer in another namespace has an id here; -1 means this namespace (IFLA_LINK_NETNSID).
	if eth.ParentIndex != peer.Index || peer.ParentIndex != eth.Index || eth.NetNsID >= 0 || peer.NetNsID >= 0 {
		return errors.New("the network links lead out of the container")
	}
	return nil
}
