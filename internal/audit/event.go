// Package audit is the one ledger: hash-chained JSON Lines, one file per task written by its
// supervisor and one per user for host actions. Logs, events and receipts are filters of it.
//
// Each line carries the SHA-256 of the line before it, so a line that was changed, removed or
// slipped in shows (Verify). What a chain alone cannot show is that lines are missing at its end:
// whoever needs that keeps the head and the count elsewhere, as receipts do.
//
// A ledger has one writer, held by a lock. A line is at most 4 KiB; longer values are cut, never
// the line. The file is rotated at 10 MiB into path.1.gz … path.5.gz and the chain goes on.
// A torn last line, left by kill -9 or a power cut, is cut off at the next Open and that is
// recorded. Recording never blocks the caller and never fails it: what does not fit into the
// queue or onto the disk is counted, and the count becomes an event as soon as one can be written.
package audit

import "time"

// Event is one line of the ledger, schema 1. Zero fields are left out. URL paths, headers,
// payload and secrets never appear.
type Event struct {
	V       int       `json:"v"`
	Seq     uint64    `json:"seq"` // from 1, without gaps, across rotated files
	TS      time.Time `json:"ts"`  // UTC, microseconds
	Project string    `json:"project,omitempty"`
	Task    string    `json:"task,omitempty"`
	Sandbox string    `json:"sandbox,omitempty"` // sandbox key
	Ev      string    `json:"ev"`                // e.g. "flow_allowed"
	Actor   string    `json:"actor,omitempty"`   // workload, operator or auto
	UID     int       `json:"uid,omitempty"`     // of the operator
	Via     string    `json:"via,omitempty"`     // face of the operator: cli, tui, web, menu, notify

	Name       string `json:"name,omitempty"`
	IP         string `json:"ip,omitempty"`
	Port       uint16 `json:"port,omitempty"`
	Proto      string `json:"proto,omitempty"`
	NameSource string `json:"name_source,omitempty"` // dns, sni, host or none
	Tier       string `json:"tier,omitempty"`
	Rule       string `json:"rule,omitempty"` // text of the rule that decided
	Verdict    string `json:"verdict,omitempty"`
	Scope      string `json:"scope,omitempty"`
	Expires    string `json:"expires,omitempty"`
	Reason     string `json:"reason,omitempty"`
	RequestID  string `json:"request_id,omitempty"`
	Count      uint64 `json:"count,omitempty"`
	BytesUp    uint64 `json:"bytes_up,omitempty"`
	BytesDown  uint64 `json:"bytes_down,omitempty"`

	Provider string            `json:"provider,omitempty"`
	Method   string            `json:"method,omitempty"`
	Status   int               `json:"status,omitempty"`
	Ref      string            `json:"ref,omitempty"` // git ref
	Old      string            `json:"old,omitempty"` // object ids
	New      string            `json:"new,omitempty"`
	Detail   map[string]string `json:"detail,omitempty"`

	Prev string `json:"prev"` // hex SHA-256 of the previous line without its newline; 64 zeros for the first
}

// Schema is the version of the lines that this program writes.
const Schema = 1

// Events of the ledger about itself.
const (
	EvRepaired  = "ledger_repaired"  // a torn last line was cut off; Detail: bytes
	EvRestarted = "ledger_restarted" // the chain could not be continued; Detail: kept, the damaged file
	EvLost      = "events_lost"      // Count events could not be written
	EvFailed    = "ledger_failed"    // critical, to subscribers only: from here on events are lost; Reason says why
	EvGap       = "gap"              // never written: Count events were dropped for a slow subscriber
)

// Recorder takes events; the ledger fills in V, Seq, TS and Prev. It never blocks for long and
// never fails the caller: what cannot be written is counted and reported by the ledger's owner.
type Recorder interface {
	Record(Event)
}

// Discard is a Recorder that keeps nothing.
var Discard Recorder = discard{}

type discard struct{}

func (discard) Record(Event) {}
