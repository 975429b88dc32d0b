package supervisor

import (
	"context"

	"terok/internal/audit"
	"terok/internal/control"
)

// Requests lists the requests for a verdict; it implements control.Backend, as the following.
func (s *service) Requests(context.Context) ([]control.Request, error) { return nil, nil }

// Verdict answers a request.
func (s *service) Verdict(_ context.Context, v control.VerdictChange) (control.Request, error) {
	return control.Request{}, &control.Error{Code: control.CodeUnknownRequest, Message: "no such request"}
}

// Undo takes a verdict back.
func (s *service) Undo(_ context.Context, v control.UndoChange) (control.Request, error) {
	return control.Request{}, &control.Error{Code: control.CodeUnknownRequest, Message: "no such request"}
}

// Events subscribes to what happens.
func (s *service) Events(ctx context.Context, answers bool, since uint64) (control.Snapshot, <-chan control.StreamItem, func(), error) {
	items, seq, replayed, stop := s.feed.Subscribe(since)
	st, err := s.Status(ctx)
	if err != nil {
		stop()
		return control.Snapshot{}, nil, nil, err
	}
	return control.Snapshot{Status: st, Seq: seq, Replayed: replayed}, items, stop, nil
}

// feedLedger hands the ledger's lines on to the event stream until the ledger is closed.
func (s *service) feedLedger(events <-chan audit.Event) {
	for e := range events {
		if e.Ev == audit.EvGap {
			s.feed.Publish(control.StreamItem{Gap: e.Count})
			continue
		}
		s.feed.Publish(control.StreamItem{Event: &e})
	}
}
