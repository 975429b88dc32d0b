package front

import (
	"net/http"
	"regexp"
	"strconv"
	"time"

	"terok/internal/audit"
	"terok/internal/text"
	"terok/internal/vault/usage"
)

// maxPath bounds the path of a refused request in the ledger, in bytes.
const maxPath = 512

// phantoms are tokens in a path.
var phantoms = regexp.MustCompile(PhantomPrefix + "[a-z2-7-]*")

// record writes the ledger's line: who, how much and how long, and of requests that were refused
// by their path, that path, for a person who wants a rule for it; never a query or a header.
func (f *Front) record(r *http.Request, x *exchange, started time.Time) {
	rt := x.route
	method := r.Method
	if len(method) > 8 {
		method = "OTHER"
	}
	detail := map[string]string{"duration_ms": milliseconds(f.cfg.Now().Sub(started))}
	if x.first > 0 {
		detail["ttfb_ms"] = milliseconds(x.first)
	}
	if x.retries > 0 {
		detail["retries"] = strconv.Itoa(x.retries)
	}
	if x.close > 0 {
		detail["close"] = strconv.Itoa(x.close)
	}
	if x.tokens != (usage.Tokens{}) {
		detail["model"] = text.Line(x.model, 64)
		detail["tokens_in"] = strconv.FormatInt(x.tokens.Input+x.tokens.CacheRead+x.tokens.CacheWrite, 10)
		detail["tokens_out"] = strconv.FormatInt(x.tokens.Output, 10)
		if x.microUSD > 0 {
			detail["micro_usd"] = strconv.FormatInt(x.microUSD, 10)
		}
	}
	ev := audit.Event{Ev: "vault_request", Actor: "workload", Name: rt.Host, Port: rt.Port, Provider: rt.Provider,
		Method: text.Line(method, 8), Status: x.status, Reason: x.reason, BytesUp: uint64(x.up), BytesDown: uint64(x.down),
		Detail: detail}
	if x.status >= 400 && x.reason != "" {
		ev.Verdict = "deny"
	}
	if x.reason == "path_denied" || x.reason == "repo_denied" {
		detail["path"] = text.Line(phantoms.ReplaceAllString(r.URL.EscapedPath(), PhantomPrefix+"…"), maxPath)
	}
	f.cfg.Record.Record(ev)
	if x.scrubbed {
		f.cfg.Record.Record(audit.Event{Ev: "vault_secret_echoed", Actor: "workload", Name: rt.Host, Port: rt.Port, Provider: rt.Provider})
	}
}

func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// meterFor makes the meter of an answer; nil when nothing is counted.
func (f *Front) meterFor(contentType string) *usage.Meter {
	if f.cfg.Used == nil {
		return nil
	}
	return usage.NewMeter(contentType)
}

// used tells what an answer used.
func (f *Front) used(rt *route, x *exchange, m *usage.Meter, requestBytes int64) {
	t, estimated := m.Tokens(requestBytes)
	if t == (usage.Tokens{}) {
		return
	}
	if x.model = m.Model(); x.model == "" {
		estimated = true
	}
	x.tokens.Add(t)
	x.microUSD += f.cfg.Used(rt.Provider, text.Line(x.model, 64), t, estimated)
}
