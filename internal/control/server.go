package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"terok/internal/problem"
)

// maxRequest is the largest body of a request, in bytes.
const maxRequest = 64 << 10

// Backend does what the control socket asks for. A method's error becomes the answer: *Error and
// *problem.Problem as they are, anything else as "internal" with status 500.
type Backend interface {
	Status(ctx context.Context) (Status, error)
	Rules(ctx context.Context) ([]RuleView, error)
	ChangeRule(ctx context.Context, change RuleChange) (RuleView, error)
	Explain(ctx context.Context, t Target) (Explanation, error)
	SetPosture(ctx context.Context, change PostureChange) (Status, error)
	Reload(ctx context.Context) (Status, error)
	RevokeCredentials(ctx context.Context, r Revocation) (Revoked, error)
	RotateGateToken(ctx context.Context, r Rotation) (Rotated, error)
	// Requests lists the requests for a verdict, open ones first.
	Requests(ctx context.Context) ([]Request, error)
	Verdict(ctx context.Context, v VerdictChange) (Request, error)
	Undo(ctx context.Context, v UndoChange) (Request, error)
	// Events returns the state now and a channel of what happens after it (after since where
	// that is still at hand). answers: somebody who can give verdicts reads. stop ends it; a
	// closed channel ends the stream.
	Events(ctx context.Context, answers bool, since uint64) (now Snapshot, items <-chan StreamItem, stop func(), err error)
}

// Handler serves the routes in the package comment. Requests are strict: unknown routes, methods,
// fields, trailing bytes and bodies over 64 KiB are refused.
func Handler(b Backend) http.Handler {
	mux := http.NewServeMux()
	get(mux, "/v1/status", b.Status)
	get(mux, "/v1/rules", func(ctx context.Context) ([]RuleView, error) {
		r, err := b.Rules(ctx)
		if r == nil {
			r = []RuleView{}
		}
		return r, err
	})
	post(mux, "/v1/rules", b.ChangeRule)
	post(mux, "/v1/explain", b.Explain)
	post(mux, "/v1/posture", b.SetPosture)
	post(mux, "/v1/revoke", b.RevokeCredentials)
	post(mux, "/v1/rotate", b.RotateGateToken)
	post(mux, "/v1/reload", func(ctx context.Context, _ struct{}) (Status, error) { return b.Reload(ctx) })
	get(mux, "/v1/requests", func(ctx context.Context) ([]Request, error) {
		r, err := b.Requests(ctx)
		if r == nil {
			r = []Request{}
		}
		return r, err
	})
	post(mux, "/v1/verdict", b.Verdict)
	post(mux, "/v1/undo", b.Undo)
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) { serveEvents(w, r, b) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, &Error{Code: "not_found", Message: "no such route"})
	})
	return mux
}

func get[T any](mux *http.ServeMux, path string, do func(context.Context) (T, error)) {
	mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		v, err := do(r.Context())
		answer(w, v, err)
	})
}

func post[I, T any](mux *http.ServeMux, path string, do func(context.Context, I) (T, error)) {
	mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
		var in I
		// A browser cannot send this type across origins without asking first (Fetch standard,
		// CORS-safelisted request headers), should anybody ever forward the socket to a port.
		if ct, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";"); ct != "application/json" {
			refuse(w, &Error{Code: "bad_request", Message: "Content-Type must be application/json"})
			return
		}
		if err := decodeStrict(http.MaxBytesReader(w, r.Body, maxRequest), &in); err != nil {
			refuse(w, err)
			return
		}
		v, err := do(r.Context(), in)
		answer(w, v, err)
	})
}

// decodeStrict reads exactly one JSON value without unknown fields.
func decodeStrict(r io.Reader, v any) error {
	dec := json.NewDecoder(r)
	dec.DisallowUnknownFields()
	err := dec.Decode(v)
	if err == nil {
		if _, end := dec.Token(); end != io.EOF {
			err = errors.New("bytes after the JSON value")
		}
	}
	if err == nil {
		return nil
	}
	if big, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return &Error{Code: "too_large", Message: fmt.Sprintf("the request is larger than %d bytes", big.Limit)}
	}
	return &Error{Code: "bad_request", Message: "request: " + err.Error()}
}

func answer(w http.ResponseWriter, v any, err error) {
	if err != nil {
		refuse(w, err)
		return
	}
	data, err := json.Marshal(v)
	if err != nil {
		refuse(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(data, '\n'))
}

// refuse writes an error with the status that fits its code.
func refuse(w http.ResponseWriter, err error) {
	e, ok := errors.AsType[*Error](err)
	status := http.StatusBadRequest
	if !ok {
		p, isProblem := errors.AsType[*problem.Problem](err)
		if isProblem {
			e = &Error{Code: p.Code, Message: err.Error(), Hint: p.Hint}
		} else {
			e, status = &Error{Code: "internal", Message: err.Error()}, http.StatusInternalServerError
		}
	}
	switch e.Code {
	case "not_found", CodeUnknownRequest:
		status = http.StatusNotFound
	case "conflict", CodeAlreadyDecided, CodeStale:
		status = http.StatusConflict
	case "too_large":
		status = http.StatusRequestEntityTooLarge
	}
	data, _ := json.Marshal(e) // three strings always encode
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}
