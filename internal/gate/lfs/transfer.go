package lfs

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"terok/internal/text"
)

const (
	parallel  = 4
	batchSize = 100 // objects that are asked for at a time
)

// Peer has objects, and takes them: an LFS server, or the directory of a repository on this machine.
type Peer interface {
	// Fetch brings objects into a directory. What could not be had is in the report; an error means that
	// the peer as a whole cannot be used.
	Fetch(ctx context.Context, objects []Object, into Dir, told func(Object)) (Report, error)
	// Send gives objects of a directory to the peer, those that it has not; an object that is needed
	// and not in the directory is in the report.
	Send(ctx context.Context, objects []Object, from Dir, told func(Object)) (Report, error)
}

// Report is what a transfer did not do.
type Report struct {
	Missing []Object // the side that should have them has not
	Failed  []Failure
}

// Failure is why an object could not be moved.
type Failure struct {
	Object
	Why string // printable
}

func (r *Report) add(o Object, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		r.Missing = append(r.Missing, o)
		return
	}
	r.Failed = append(r.Failed, Failure{o, text.Line(err.Error(), 200)})
}

// Local is the lfs directory of a repository on this machine.
type Local struct{ Dir Dir }

// Fetch copies objects, whose digests are checked.
func (l Local) Fetch(ctx context.Context, objects []Object, into Dir, told func(Object)) (r Report, err error) {
	return l.move(ctx, objects, l.Dir, into, told)
}

// Send copies objects into the repository.
func (l Local) Send(ctx context.Context, objects []Object, from Dir, told func(Object)) (r Report, err error) {
	return l.move(ctx, objects, from, l.Dir, told)
}

func (l Local) move(ctx context.Context, objects []Object, from, to Dir, told func(Object)) (r Report, err error) {
	for _, o := range objects {
		if err := to.Copy(ctx, o, from); ctx.Err() != nil {
			return r, ctx.Err()
		} else if err != nil {
			r.add(o, err)
			continue
		}
		told(o)
	}
	return r, nil
}

// Fetch downloads objects from the server.
func (s *Server) Fetch(ctx context.Context, objects []Object, into Dir, told func(Object)) (Report, error) {
	return s.each(ctx, Download, objects, told, func(ctx context.Context, a Answer) error {
		action, ok := a.Actions[Download]
		if !ok {
			return fs.ErrNotExist
		}
		return s.download(ctx, a, action, into)
	})
}

// Send uploads objects that the server has not.
func (s *Server) Send(ctx context.Context, objects []Object, from Dir, told func(Object)) (Report, error) {
	return s.each(ctx, Upload, objects, told, func(ctx context.Context, a Answer) error {
		action, ok := a.Actions[Upload]
		if !ok {
			return nil // it is there
		}
		if err := s.upload(ctx, a, action, from); err != nil {
			return err
		}
		if verify, ok := a.Actions["verify"]; ok {
			return s.verify(ctx, a, verify)
		}
		return nil
	})
}

// each asks for objects by the batch and does what the answers say, a few at a time.
func (s *Server) each(ctx context.Context, operation string, objects []Object, told func(Object), do func(context.Context, Answer) error) (Report, error) {
	var mu sync.Mutex
	var r Report
	for chunk := range slices.Chunk(objects, batchSize) {
		answers, err := s.batch(ctx, operation, chunk)
		if err != nil {
			return r, err
		}
		var g errgroup.Group
		g.SetLimit(parallel)
		for _, o := range chunk {
			g.Go(func() error {
				a, ok := answers[o.OID]
				var err error
				switch {
				case !ok:
					err = errors.New("the LFS server says nothing of it")
				case a.Error != nil && (a.Error.Code == http.StatusNotFound || a.Error.Code == http.StatusGone):
					err = fs.ErrNotExist
				case a.Error != nil:
					err = fmt.Errorf("the LFS server refuses it (%d): %s", a.Error.Code, text.Line(a.Error.Message, 120))
				default:
					a.Object = o
					err = do(ctx, a)
				}
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					r.add(o, err)
				} else {
					told(o)
				}
				return nil
			})
		}
		_ = g.Wait() // its functions give no errors
		if ctx.Err() != nil {
			return r, ctx.Err()
		}
	}
	return r, nil
}

// download brings one object from where the answer says. A redirect is followed with no header of the
// answer as soon as it leaves the address that the headers are for.
func (s *Server) download(ctx context.Context, a Answer, action Action, into Dir) error {
	ctx, alive, stop := s.watched(ctx, a.Size)
	defer stop()
	u, err := target(action.Href, nil)
	if err != nil {
		return err
	}
	header := action.Header
	for hop := 0; ; hop++ {
		r, err := s.request(ctx, http.MethodGet, u, a, header, nil)
		if err != nil {
			return err
		}
		resp, err := s.client.Do(r)
		if err != nil {
			return cause(ctx, err)
		}
		if resp.StatusCode/100 == 3 {
			resp.Body.Close()
			next, err := target(resp.Header.Get("Location"), u)
			if err != nil {
				return err
			}
			if hop == maxHops {
				return errors.New("too many redirects")
			}
			if origin(next) != origin(u) {
				header = nil
			}
			u = next
			continue
		}
		defer resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusGone:
			return fs.ErrNotExist
		case resp.StatusCode != http.StatusOK:
			return fmt.Errorf("%s answers %d", u.Host, resp.StatusCode)
		case resp.ContentLength >= 0 && resp.ContentLength != a.Size:
			return ErrSize
		}
		if err := into.Put(ctx, a.Object, "down", alive(resp.Body)); err != nil {
			return cause(ctx, err)
		}
		return nil
	}
}

// upload sends one object.
func (s *Server) upload(ctx context.Context, a Answer, action Action, from Dir) error {
	ctx, alive, stop := s.watched(ctx, a.Size)
	defer stop()
	u, err := target(action.Href, nil)
	if err != nil {
		return err
	}
	f, err := from.Open(a.Object)
	if err != nil {
		return err
	}
	defer f.Close()
	r, err := s.request(ctx, http.MethodPut, u, a, action.Header, io.NopCloser(alive(f)))
	if err != nil {
		return err
	}
	if r.ContentLength = a.Size; a.Size == 0 {
		r.Body = http.NoBody
	}
	if r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	return s.finish(ctx, r)
}

// verify tells the server that an object has been sent, where it wants to be told.
func (s *Server) verify(ctx context.Context, a Answer, action Action) error {
	ctx, _, stop := s.watched(ctx, 0)
	defer stop()
	u, err := target(action.Href, nil)
	if err != nil {
		return err
	}
	body, err := json.Marshal(a.Object)
	if err != nil {
		return err
	}
	r, err := s.request(ctx, http.MethodPost, u, a, action.Header, bytes.NewReader(body))
	if err != nil {
		return err
	}
	r.Header.Set("Content-Type", Media)
	r.Header.Set("Accept", Media)
	return s.finish(ctx, r)
}

// finish makes a request whose answer is its status; it is not redirected.
func (s *Server) finish(ctx context.Context, r *http.Request) error {
	resp, err := s.client.Do(r)
	if err != nil {
		return cause(ctx, err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("%s answers %d", r.URL.Host, resp.StatusCode)
	}
	return nil
}
