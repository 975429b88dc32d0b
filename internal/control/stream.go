package control

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"terok/internal/audit"
)

// The event stream is server-sent events (WHATWG HTML §9.2); ids are numbers of the stream, which
// grow also over a restart of the worker.
//
//	event: snapshot   Snapshot, once, first
//	event: event      the line of the ledger
//	event: request    {"request": Request}, for every change of a request
//	event: gap        {"gap": n}: n elements were dropped because the reader was too slow
//
// A comment keeps the stream alive every 15 seconds. A reader that comes back asks with since_seq
// (or since), the last id that it saw: what it missed follows the snapshot, if Replayed says so.
// Elements of a kind that a reader does not know are to be passed over.
//
// A reader with answers=1 says that somebody is there to give verdicts. Connections wait for one
// only while there is such a reader.

// Snapshot opens an event stream: everything up to Seq is already in Status and Requests.
type Snapshot struct {
	Status   Status    `json:"status"`
	Requests []Request `json:"requests"` // open ones first, then some that were decided
	Seq      uint64    `json:"seq"`
	Replayed bool      `json:"replayed,omitempty"` // nothing since the asked number is missing
}

// StreamItem is one element of an event stream: exactly one of Snapshot, Event, Request and Gap
// is set.
type StreamItem struct {
	Snapshot *Snapshot
	Event    *audit.Event
	Request  *Request
	Gap      uint64 // elements that were dropped
	Seq      uint64 // number in the stream, 0 for a gap; what since takes
}

const (
	keepAlive    = 15 * time.Second
	streamWrite  = 10 * time.Second // a reader that takes nothing for so long is dropped
	maxEventLine = 1 << 20
)

// Subscribe opens the event stream and calls fn for each element, a Snapshot first. answers says
// that verdicts can be given here as long as the stream is open; since (0: nothing) is the Seq of
// the last element that was seen on an earlier stream. It returns the error of fn, the context's,
// or ErrNoSupervisor when the supervisor has ended.
func (c *Client) Subscribe(ctx context.Context, answers bool, since uint64, fn func(StreamItem) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	q := url.Values{"since_seq": {strconv.FormatUint(since, 10)}}
	if answers {
		q.Set("answers", "1")
	}
	res, err := c.send(ctx, http.MethodGet, "/v1/events?"+q.Encode(), nil)
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
	var id uint64
	for sc.Scan() {
		watchdog.Reset(3 * keepAlive)
		field, value, _ := bytes.Cut(sc.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			name = string(value)
		case "id":
			id, _ = strconv.ParseUint(string(value), 10, 64)
		case "data":
			item, known, err := decodeItem(name, value)
			if err != nil {
				return fmt.Errorf("control events: %w", err)
			}
			if item.Seq = id; !known {
				continue
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

// Events is Subscribe for a reader who gives no verdicts.
func (c *Client) Events(ctx context.Context, since uint64, fn func(StreamItem) error) error {
	return c.Subscribe(ctx, false, since, fn)
}

// decodeItem reads one element; known is false for a kind of a newer version.
func decodeItem(name string, data []byte) (item StreamItem, known bool, err error) {
	switch name {
	case "snapshot":
		err = json.Unmarshal(data, &item.Snapshot)
	case "event":
		err = json.Unmarshal(data, &item.Event)
	case "request", "gap":
		var v struct {
			Request *Request `json:"request"`
			Gap     uint64   `json:"gap"`
		}
		err = json.Unmarshal(data, &v)
		item.Request, item.Gap = v.Request, v.Gap
	default:
		return item, false, nil
	}
	if err == nil && item == (StreamItem{}) {
		err = errors.New("an empty item")
	}
	return item, true, err
}

// encode returns the name and the data of an element.
func (i *StreamItem) encode() (name string, data []byte, err error) {
	switch {
	case i.Snapshot != nil:
		data, err = json.Marshal(i.Snapshot)
		return "snapshot", data, err
	case i.Request != nil:
		data, err = json.Marshal(map[string]*Request{"request": i.Request})
		return "request", data, err
	case i.Event != nil:
		data, err = json.Marshal(i.Event)
		return "event", data, err
	}
	data, err = json.Marshal(map[string]uint64{"gap": i.Gap})
	return "gap", data, err
}

// serveEvents writes the stream until the client goes or the backend closes the channel.
func serveEvents(w http.ResponseWriter, r *http.Request, b Backend) {
	q := r.URL.Query()
	var since uint64
	for _, key := range []string{"since", "since_seq"} {
		v := q.Get(key)
		if v == "" {
			continue
		}
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			refuse(w, &Error{Code: "bad_request", Message: key + " must be a sequence number"})
			return
		}
		since = n
	}
	answers := q.Get("answers")
	if answers != "" && answers != "0" && answers != "1" {
		refuse(w, &Error{Code: "bad_request", Message: "answers must be 0 or 1"})
		return
	}
	snapshot, items, stop, err := b.Events(r.Context(), answers == "1", since)
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
	item := func(i StreamItem) bool {
		name, data, err := i.encode() // JSON has no raw newline, so one data line is enough
		return err == nil && send("event: %s\nid: %d\ndata: %s\n\n", name, i.Seq, data)
	}
	if snapshot.Requests == nil {
		snapshot.Requests = []Request{}
	}
	if !item(StreamItem{Snapshot: &snapshot, Seq: snapshot.Seq}) {
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
		case i, ok := <-items:
			if !ok || !item(i) {
				return
			}
		}
	}
}
