package supervisor

import (
	"strings"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/vault/front"
)

// phantomWatch is the ledger of whatever records names that a container chose. A phantom in one is
// a leak: the agent tries to carry it out, by a lookup or in the name of a connection. It is said
// once in a while, and the token's secret half is not written down.
type phantomWatch struct {
	audit.Recorder
	mu   sync.Mutex
	last time.Time
}

// leakEvery is how often a phantom in a name is said.
const leakEvery = 10 * time.Minute

// Record implements audit.Recorder.
func (p *phantomWatch) Record(e audit.Event) {
	if token := front.FindPhantom(e.Name); token != "" {
		p.mu.Lock()
		now := time.Now()
		fresh := p.last.IsZero() || now.Sub(p.last) >= leakEvery
		if fresh {
			p.last = now
		}
		p.mu.Unlock()
		name := strings.ToLower(e.Name)
		for ; token != ""; token = front.FindPhantom(name) {
			name = strings.ReplaceAll(name, token, front.PhantomPrefix+front.Handle(token)+"-masked")
		}
		e.Name = name
		if fresh {
			p.Recorder.Record(audit.Event{Ev: "vault_leak", Actor: "workload", Name: name, Port: e.Port, Reason: front.LeakInName})
		}
	}
	p.Recorder.Record(e)
}
