package front

import (
	"net/http"
	"strconv"
	"time"

	"terok/internal/audit"
	"terok/internal/text"
)

// record writes the ledger's line: who, how much and how long, never a path or a header.
func (f *Front) record(r *http.Request, x *exchange, started time.Time) {
	rt := x.route
	method := r.Method
	if len(method) > 8 {
		method = "OTHER"
	}
	ev := audit.Event{Ev: "vault_request", Actor: "workload", Name: rt.Host, Port: rt.Port, Provider: rt.Provider,
		Method: text.Line(method, 8), Status: x.status, Reason: x.reason, BytesUp: uint64(x.up), BytesDown: uint64(x.down),
		Detail: map[string]string{"duration_ms": strconv.FormatInt(f.cfg.Now().Sub(started).Milliseconds(), 10)}}
	if x.status >= 400 && x.reason != "" {
		ev.Verdict = "deny"
	}
	f.cfg.Record.Record(ev)
	if x.scrubbed {
		f.cfg.Record.Record(audit.Event{Ev: "vault_secret_echoed", Actor: "workload", Name: rt.Host, Port: rt.Port, Provider: rt.Provider})
	}
}
