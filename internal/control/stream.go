package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"terok/internal/audit"
)

// The event stream is server-sent events (WHATWG HTML §9.2). The first is "snapshot", every other
// one is "event" with the line of the ledger; ids are the ledger's sequence numbers. A comment
// keeps the stream alive every 15 seconds. An event with Ev "gap" says that Count events were
// dropped because the reader was too slow; the ledger has them.

// Snapshot opens an event stream: everything up to Seq is already in Status.
type Snapshot struct {
	Status Status `json:"status"`
	Seq    uint64 `json:"seq"`
}

// StreamItem is one element of an event stream: exactly one field is set.
type StreamItem struct {
	Snapshot *Snapshot
	Event    *audit.Event
}

const (
	keepAlive    = 15 * time.Second
	streamWrite  = 10 * time.Second // a reader that takes nothing for so long is dropped
	maxEventLine = 1 << 20
)

// Events follows the supervisor's events after sequence number since (0: from now on) and calls
// fn for the snapshot and for each event. It returns the error of fn, the context's, or
// ErrNoSupervisor when the supervisor has ended.
func (c *Client) Events(ctx context.Context, since uint64, fn func(StreamItem) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	res, err := c.send(ctx, http.MethodGet, "/v1/events?since="+strconv.FormatUint(since, 10), nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	// A supervisor that hangs or whose machine slept sends no comment either.
	watchdog := time.AfterFunc(3*keepAlive, cancel)
	defer watchdog.Stop()
	sc := bufio.NewScanner(res.Body)
	sc.Buffer(make([]byte, 0, 8<<10), maxEventLine)
	var name string
	for sc.Scan() {
		watchdog.Reset(3 * keepAlive)
		field, value, _ := bytes.Cut(sc.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = string(value)
		case "data":
			var item StreamItem
			var err error
			switch name {
			case "snapshot":
				err = json.Unmarshal(value, &item.Snapshot)
			case "event":
				err = json.Unmarshal(value, &item.Event)
			default:
				continue // a kind of a newer version
			}
			if err == nil && item == (StreamItem{}) {
				err = errors.New("an empty item")
			}
			if err != nil {
				return fmt.Errorf("control events: %w", err)
			}
			if err := fn(item); err != nil {
				return err
			}
		}
	}
	switch {
	case context.Cause(ctx) != nil:
		return context.Cause(ctx)
	case errors.Is(sc.Err(), bufio.ErrTooLong):
		return fmt.Errorf("control events: %w", sc.Err())
	}
	return fmt.Errorf("%w: the event stream on %s ended", ErrNoSupervisor, c.socket)
}

// serveEvents writes the stream until the client goes or the backend closes the channel.
func serveEvents(w http.ResponseWriter, r *http.Request, b Backend) {
	var since uint64
	if v := r.URL.Query().Get("since"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			refuse(w, &Error{Code: "bad_request", Message: "since must be a sequence number"})
			return
		}
		since = n
	}
	snapshot, events, stop, err := b.Events(r.Context(), since)
	if err != nil {
		refuse(w, err)
		return
	}
	defer stop()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	rc := http.NewResponseController(w)
	send := func(format string, args ...any) bool {
		_ = rc.SetWriteDeadline(time.Now().Add(streamWrite))
		if _, err := fmt.Fprintf(w, format, args...); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	item := func(name string, seq uint64, v any) bool {
		data, err := json.Marshal(v) // JSON has no raw newline, so one data line is enough
		return err == nil && send("event: %s\nid: %d\ndata: %s\n\n", name, seq, data)
	}
	if !item("snapshot", snapshot.Seq, snapshot) {
		return
	}
	tick := time.NewTicker(keepAlive)
	defer tick.Stop()
	for {
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
			if !send(": alive\n\n") {
				return
			}
		case ev, ok := <-events:
			if !ok || !item("event", ev.Seq, ev) {
				return
			}
		}
	}
}
