package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"terok/internal/control"
)

// The probe attacks the container's own walls from inside, with nothing that the workload does not
// have. Every attempt must be refused at once: silence is no refusal, since a packet that is on its
// way somewhere looks the same. Attempts are as harmless as they can be where a wall is missing.
const (
	refusalWait = 3 * time.Second // a refusal takes milliseconds; a machine may be busy
	maxPlan     = 1 << 20
)

// check is one row of the table: it returns what happened, and an error when the wall has a hole.
type check struct {
	row string
	run func(p *probe) (proof string, err error)
}

// checks, in the order in which they run. The words of the guarantees are internal/verify's.
var checks = []check{
	{"allowed-target", (*probe).allowedTarget},
	{"resolver", (*probe).resolverAnswers},
	{"links", (*probe).links},
	{"unlisted-name", (*probe).unlistedName},
	{"address-v4", (*probe).addressV4},
	{"address-v6", (*probe).addressV6},
	{"metadata", (*probe).metadata},
	{"host-loopback", (*probe).hostLoopback},
	{"private-range", (*probe).privateRange},
	{"udp", (*probe).udp},
	{"dns-over-tls", (*probe).dnsOverTLS},
	{"foreign-resolver", (*probe).foreignResolver},
	{"dns-tunnel", (*probe).dnsTunnel},
	{"raw-socket", (*probe).rawSockets},
	{"exotic-socket", (*probe).exoticSockets},
	{"foreign-calls", (*probe).foreignCalls},
	{"sni", (*probe).serverName},
	{"http-host", (*probe).httpHost},
	{"mptcp", (*probe).mptcp},
	{"tampering", (*probe).tampering},
	{"own-ports", (*probe).ownPorts},
	{"forged-destination", (*probe).forgedDestination},
	{"service-token", (*probe).serviceToken},
	{"vault-second-key", (*probe).secondKey},
	{"vault-names", (*probe).vaultNames},
	{"vault-endpoints", (*probe).vaultEndpoints},
	{"vault-fetch", (*probe).vaultFetch},
	{"vault-forge", (*probe).vaultForge},
	{"control-socket", (*probe).controlSocket},
	{"real-key", (*probe).realKey},
	{"processes", (*probe).processes},
}

// probe is one run.
type probe struct {
	ctx  context.Context
	plan control.VerifyPlan
}

// verifyMain runs the table; `verify foreign-abi` is its own child.
func verifyMain(args []string) int {
	if len(args) == 1 && args[0] == "foreign-abi" {
		return foreignABI()
	}
	if len(args) != 0 {
		return usage()
	}
	data, err := io.ReadAll(io.LimitReader(os.Stdin, maxPlan))
	p := &probe{ctx: context.Background()}
	if err == nil {
		err = json.Unmarshal(data, &p.plan)
	}
	if err != nil || p.plan.Nonce == "" {
		fmt.Fprintln(os.Stderr, "terok: guest verify reads a plan from stdin:", err)
		return exitUsage
	}
	out := json.NewEncoder(os.Stdout)
	for _, c := range checks {
		begin := time.Now()
		row := control.VerifyRow{Row: c.row, OK: true}
		if row.Proof, err = c.run(p); err != nil {
			row.OK, row.Proof = false, err.Error()
		}
		row.MS = time.Since(begin).Milliseconds()
		if err := out.Encode(row); err != nil {
			return exitPrepare
		}
	}
	return 0
}

// holes joins what should have failed and did not; nil when everything failed.
type holes []string

func (h *holes) add(format string, args ...any) { *h = append(*h, fmt.Sprintf(format, args...)) }

func (h holes) err() error {
	if len(h) == 0 {
		return nil
	}
	if len(h) > 4 {
		h = append(h[:4:4], fmt.Sprintf("and %d more", len(h)-4))
	}
	return errors.New(strings.Join(h, "; "))
}

// count says a number with its noun.
func counted(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
