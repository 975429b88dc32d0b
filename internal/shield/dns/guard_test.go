package dns

import (
	"fmt"
	"strings"
	"testing"

	mdns "github.com/miekg/dns"

	"terok/internal/shield/policy"
)

// TestTextIsBounded: TXT is the widest way into a container; more than a kilobyte of it does not
// come in, not even in part.
func TestTextIsBounded(t *testing.T) {
	r := newRig(t, policy.Up, Limits{})
	for i := range 4 {
		r.world.add(fmt.Sprintf("nodata.test. 30 TXT %d%s", i, strings.Repeat("x", 199))) // 800 bytes
	}
	if m := r.ask("tcp", question("nodata.test", mdns.TypeTXT)); len(m.Answer) != 4 {
		t.Errorf("800 bytes of text: %d records", len(m.Answer))
	}
	if m := r.ask("tcp", question("big.test", mdns.TypeTXT)); m.Rcode != mdns.RcodeSuccess || len(m.Answer) != 0 { // 1214 bytes
		t.Errorf("1214 bytes of text: %d records, rcode %d", len(m.Answer), m.Rcode)
	}
}
