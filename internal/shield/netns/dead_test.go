package netns

import (
	"errors"
	"net"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDeadSupervisorRefuses: with nobody behind the redirect, connections and queries fail at
// once; a program that waits for a timeout each time looks hung.
func TestDeadSupervisorRefuses(t *testing.T) {
	if !inside(t) {
		return
	}
	s := enter(t)
	in, err := s.Setup()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range in.Files() {
		f.Close()
	}
	targets := []string{"tcp 203.0.113.5:443", "udp 10.0.2.3:53"}
	if in.Ports.V6 {
		targets = append(targets, "tcp [2001:db8::5]:443", "udp [2001:db8::53]:53")
	}
	for _, target := range targets {
		c, err := net.DialTimeout(target[:3], target[4:], 20*time.Second)
		if err == nil {
			c.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err = c.Write([]byte("query")); err == nil {
				_, err = c.Read(make([]byte, 16))
			}
			c.Close()
		}
		if !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s: %v", target, err)
		}
	}
}
