// Package clearancetest has supervisors for tests of what people see: real control sockets whose
// requests a test opens, and verdicts by the rules of spec/shield.md §8.3, without a container.
// It decides nothing about egress and is no part of the program.
package clearancetest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// TB is what this package needs of a test; a program that shows a face may give its own.
type TB interface {
	Helper()
	Fatalf(format string, args ...any)
	Cleanup(func())
}

// Supervisor is one task's.
type Supervisor struct {
	control.Backend // calls that no face of requests makes

	t     TB
	roots state.Roots
	Key   string
	proj  string
	task  string

	mu       sync.Mutex
	feed     *control.Feed
	server   *http.Server
	gone     chan struct{}
	requests []control.Request
	next     int
	posture  control.Posture
	readers  map[bool]int // by answers
	refuse   error        // what the next verdict is refused with
	verdicts []control.VerdictChange
}

// New starts the supervisor of a task; it ends with the test.
func New(t TB, roots state.Roots, project, task string) *Supervisor {
	t.Helper()
	s := &Supervisor{t: t, roots: roots, Key: project + "-" + task, proj: project, task: task,
		posture: control.Up, readers: map[bool]int{}}
	s.Start()
	t.Cleanup(s.Stop)
	return s
}

// Start opens the socket; after Stop the same task is there again, with nothing open.
func (s *Supervisor) Start() {
	s.t.Helper()
	l, err := control.Listen(sandbox.ControlPath(s.roots.RunDir(s.Key)))
	if err != nil {
		s.t.Fatalf("%v", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.readers = nil, map[bool]int{}
	s.feed = control.NewFeed(time.Now())
	s.server = &http.Server{Handler: control.Handler(s), BaseContext: func(net.Listener) context.Context { return context.Background() }}
	s.gone = make(chan struct{})
	server, gone := s.server, s.gone
	go func() {
		defer close(gone)
		_ = server.Serve(l)
	}()
}

// Stop ends it as a stopped container does: the socket goes, streams end.
func (s *Supervisor) Stop() {
	s.mu.Lock()
	server, feed, gone := s.server, s.feed, s.gone
	s.server = nil
	s.mu.Unlock()
	if server == nil {
		return
	}
	feed.Close()
	_ = server.Close()
	<-gone
	_ = os.RemoveAll(s.roots.RunDir(s.Key))
}

// Cut ends the streams only, as the death of a worker does.
func (s *Supervisor) Cut() {
	s.mu.Lock()
	old := s.feed
	s.feed = control.NewFeed(time.Now())
	s.requests = nil
	s.mu.Unlock()
	old.Close()
}

// Open makes a request, or counts one that is open already; change edits it before it is shown.
func (s *Supervisor) Open(host string, port uint16, change ...func(*control.Request)) control.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for i := range s.requests {
		if r := &s.requests[i]; r.Host == host && r.Port == port && r.State == control.RequestOpen {
			r.Count++
			r.LastSeen = now
			return s.publish(i)
		}
	}
	s.next++
	r := control.Request{ID: fmt.Sprintf("r%d", s.next), Key: s.Key, Project: s.proj, Task: s.task, Kind: control.NameBlocked,
		State: control.RequestOpen, Host: host, Port: port, Proto: "tcp", NameSource: "dns", Tier: "default", Held: 1, Count: 1,
		FirstSeen: now, LastSeen: now, ExpiresAt: now.Add(10 * time.Minute),
		Choices: []control.Choice{control.ChoiceTask, control.ChoiceOnce, control.ChoiceProject, control.ChoiceDomain, control.ChoiceDeny, control.ChoiceDenyAlways}}
	for _, f := range change {
		f(&r)
	}
	sum := sha256.Sum256(fmt.Append(nil, r.ID, r.Host, r.Port, r.Proto))
	r.Hash = hex.EncodeToString(sum[:8])
	s.requests = append(s.requests, r)
	return s.publish(len(s.requests) - 1)
}

// publish sends a request's state; s.mu is held.
func (s *Supervisor) publish(i int) control.Request {
	r := s.requests[i]
	s.requests[i].Seq = s.feed.Publish(control.StreamItem{Request: &r})
	return s.requests[i]
}

// End gives an open request another end than a verdict.
func (s *Supervisor) End(id string, how control.RequestState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.requests {
		if s.requests[i].ID == id {
			s.requests[i].State = how
			s.publish(i)
		}
	}
}

// Say publishes a line of the ledger.
func (s *Supervisor) Say(ev audit.Event) { s.feed.Publish(control.StreamItem{Event: &ev}) }

// SetPostureNow changes the posture and tells the readers; requests are left to the face.
func (s *Supervisor) SetPostureNow(p control.Posture) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posture = p
	s.feed.Publish(control.StreamItem{Event: &audit.Event{Ev: "posture_changed", Verdict: string(p), TS: time.Now().UTC()}})
}

// RefuseNext makes the next verdict fail.
func (s *Supervisor) RefuseNext(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = err
}

// Readers counts who follows the stream; answering are those who can give verdicts.
func (s *Supervisor) Readers() (all, answering int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.readers[true] + s.readers[false], s.readers[true]
}

// Get returns a request as it is now.
func (s *Supervisor) Get(id string) control.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if r.ID == id {
			return r
		}
	}
	return control.Request{}
}

// Verdicts are all verdicts that arrived, also refused ones.
func (s *Supervisor) Verdicts() []control.VerdictChange {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.verdicts)
}

// Status implements control.Backend, as the following do.
func (s *Supervisor) Status(context.Context) (control.Status, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.status(), nil
}

func (s *Supervisor) status() control.Status {
	return control.Status{Key: s.Key, Project: s.proj, Task: s.task, Posture: s.posture, Desired: s.posture, Verified: true, Ready: true}
}

// Requests lists open ones first.
func (s *Supervisor) Requests(context.Context) ([]control.Request, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sorted(), nil
}

func (s *Supervisor) sorted() []control.Request {
	out := slices.Clone(s.requests)
	slices.SortStableFunc(out, func(a, b control.Request) int {
		rank := func(r control.Request) int {
			if r.State == control.RequestOpen {
				return 0
			}
			return 1
		}
		return cmp.Compare(rank(a), rank(b))
	})
	return out
}

// Verdict takes the first valid one.
func (s *Supervisor) Verdict(_ context.Context, v control.VerdictChange) (control.Request, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.verdicts = append(s.verdicts, v)
	for i := range s.requests {
		r := &s.requests[i]
		if r.ID != v.ID {
			continue
		}
		refused := s.refuse
		s.refuse = nil
		switch {
		case r.Host != v.Host || r.Port != v.Port || r.Proto != v.Proto:
			return *r, &control.Error{Code: control.CodeMismatch, Message: "the request is about " + r.Host}
		case r.Hash != v.Hash:
			return *r, &control.Error{Code: control.CodeStale, Message: "the request has changed since it was shown"}
		case r.State != control.RequestOpen:
			return *r, &control.Error{Code: control.CodeAlreadyDecided, Message: fmt.Sprintf("already decided: %s by %s", r.Decision.Choice, r.Decision.Actor)}
		case !slices.Contains(r.Choices, v.Choice):
			return *r, &control.Error{Code: control.CodeInvalidChoice, Message: "no such choice"}
		case refused != nil:
			r.Decision = &control.Decision{Choice: v.Choice, Actor: v.Actor, Via: v.Via, At: time.Now(), Error: refused.Error()}
			s.publish(i)
			return *r, refused
		}
		r.State, r.Held = control.RequestApplied, 0
		r.Decision = &control.Decision{Choice: v.Choice, Actor: v.Actor, Via: v.Via, At: time.Now()}
		return s.publish(i), nil
	}
	return control.Request{}, &control.Error{Code: control.CodeUnknownRequest, Message: "no request " + v.ID}
}

// Undo opens a decided request again.
func (s *Supervisor) Undo(_ context.Context, v control.UndoChange) (control.Request, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.requests {
		if r := &s.requests[i]; r.ID == v.ID && r.State == control.RequestApplied {
			r.State, r.Decision = control.RequestOpen, nil
			return s.publish(i), nil
		}
	}
	return control.Request{}, &control.Error{Code: control.CodeNotDecided, Message: "nothing to undo"}
}

// Events subscribes to the feed.
func (s *Supervisor) Events(_ context.Context, answers bool, since uint64) (control.Snapshot, <-chan control.StreamItem, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		return control.Snapshot{}, nil, nil, errors.New("stopped")
	}
	items, seq, replayed, stop := s.feed.Subscribe(since)
	readers := s.readers
	readers[answers]++
	var once sync.Once
	return control.Snapshot{Status: s.status(), Requests: s.sorted(), Seq: seq, Replayed: replayed}, items, func() {
		stop()
		once.Do(func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			readers[answers]--
		})
	}, nil
}
