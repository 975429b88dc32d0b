package front

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// refusal is an answer that the front gives itself.
type refusal struct {
	status  int
	code    string        // X-Terok-Broker, and the ledger's reason
	message string        // for the model or person that reads it
	retry   time.Duration // Retry-After; 0: none
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, code, message string) *refusal {
	return &refusal{status: status, code: code, message: message}
}

// after says when it makes sense to try again.
func (r *refusal) after(d time.Duration) *refusal {
	r.retry = d
	return r
}

// refusalOf turns what an inspector or reader of the request's body said into an answer.
func refusalOf(err error) *refusal {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r
	}
	if f, ok := errors.AsType[*finding](err); ok {
		return refuse(http.StatusForbidden, f.code, f.message)
	}
	if errors.Is(err, errJSON) {
		return refuse(http.StatusBadRequest, "bad_body", errJSON.Error())
	}
	return nil
}

var errTooLarge = refuse(http.StatusRequestEntityTooLarge, "too_large", "the request body is larger than the vault relays")

// inspector judges a body as it streams by.
type inspector interface {
	write(p []byte) error // the next bytes
	close() error         // there are no more
}

// content is the inspector of what is not judged: a file that is the whole body.
type content struct{}

func (content) write([]byte) error { return nil }
func (content) close() error       { return nil }

// prepareBody judges the body of r and returns what to send upstream instead: the whole of it,
// judged, when it is small, else a reader that judges as it goes. A nil body is none. length is
// -1 when it is not known. again makes the body anew for a retry, or is nil. It takes from r's
// header what is not true of the body that goes out.
func (f *Front) prepareBody(r *http.Request, rules bodyRules) (body io.ReadCloser, length int64, again func() (io.ReadCloser, error), err error) {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil, 0, nil, rules.judgeWhole(nil, true)
	}
	if r.ContentLength > f.cfg.Limits.Body {
		return nil, 0, nil, errTooLarge
	}
	kind, err := rules.kindOf(r.Header)
	if err != nil {
		return nil, 0, nil, err
	}
	packed, err := f.unpackRequest(r)
	if err != nil {
		return nil, 0, nil, err
	}
	defer func() {
		if packed != nil && (err != nil || again != nil || body == nil) { // else the reader closes it
			packed.Close()
		}
	}()
	head, whole, err := f.readHead(r)
	if err != nil {
		return nil, 0, nil, err
	}
	if err := rules.judgeWhole(head, whole && kind.form == bodyJSON); err != nil || len(head) == 0 {
		return nil, 0, nil, err
	}
	if kind.form == bodyURLEncoded { // curl -d sends JSON under this type
		if c := bytes.TrimLeft(head, " \t\r\n"); len(c) > 0 && (c[0] == '{' || c[0] == '[') {
			kind.form = bodyJSON
		}
	}
	if kind.form == bodyJSON && kind.untold { // who went by another type would read another body than we
		r.Header["Content-Type"] = []string{"application/json"}
	}
	if kind.form == bodyURLEncoded {
		if !whole {
			return nil, 0, nil, errTooLarge
		}
		if err := rules.inspectForm(string(head)); err != nil {
			return nil, 0, nil, err
		}
	} else {
		in := rules.inspectorOf(kind)
		if err := in.write(head); err != nil {
			return nil, 0, nil, err
		}
		if !whole {
			left := http.MaxBytesReader(nil, r.Body, f.cfg.Limits.Body-int64(len(head)))
			return newJudgedReader(head, left, in), r.ContentLength, nil, nil
		}
		err := in.close()
		if j, ok := in.(*jsonInspector); ok {
			inspectors.Put(j)
		}
		if err != nil {
			return nil, 0, nil, err
		}
	}
	again = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(head)), nil }
	body, _ = again()
	return body, int64(len(head)), again, nil
}

func (b bodyRules) inspectorOf(kind bodyKind) inspector {
	switch kind.form {
	case bodyMultipart:
		return newMultipart(b, kind.boundary)
	case bodyContent:
		return content{}
	}
	in := inspectors.Get().(*jsonInspector)
	in.reset(b)
	return in
}

// inspectors keeps the small buffers of finished inspections.
var inspectors = sync.Pool{New: func() any { return &jsonInspector{} }}

func (in *jsonInspector) reset(rules bodyRules) {
	*in = jsonInspector{fetch: rules.fetch, project: rules.project, stack: in.stack[:0], str: in.str[:0]}
}

// bodyRules is what a body is judged by besides what holds for every one.
type bodyRules struct {
	fetch  bool // the provider may be made to fetch
	upload bool // the body may be a file
	forgeCheck
}

// judgeWhole judges a body that must be there as a whole.
func (b bodyRules) judgeWhole(body []byte, readable bool) error {
	if b.whole == nil {
		return nil
	}
	if !readable {
		return refuse(http.StatusForbidden, "path_denied", "GraphQL is relayed as JSON of at most 1 MiB")
	}
	if ref := b.whole(body); ref != nil {
		return ref
	}
	return nil
}

// readHead reads up to Limits.Inspect bytes and reports whether that is the whole body.
func (f *Front) readHead(r *http.Request) ([]byte, bool, error) {
	limit := f.cfg.Limits.Inspect
	if n := r.ContentLength; n > 0 && n <= limit {
		head := make([]byte, n)
		if _, err := io.ReadFull(r.Body, head); err != nil {
			return nil, false, errCut
		}
		return head, true, nil
	}
	var buf bytes.Buffer
	n, err := io.Copy(&buf, io.LimitReader(r.Body, limit))
	if err != nil {
		if ref, ok := errors.AsType[*refusal](err); ok { // of the packed form
			return nil, false, ref
		}
		return nil, false, errCut
	}
	return buf.Bytes(), n < limit, nil
}

var errCut = badBody("the request body ended early")

// judgedReader sends the judged head and then judges the rest while it is read. One byte stays
// behind until the whole document was found good, so a provider never gets a complete document
// that was refused.
type judgedReader struct {
	ready []byte // judged, to be sent before anything else
	held  bool
	last  byte // the byte that stays behind, when held
	rest  io.ReadCloser
	in    inspector
	err   error // why the body ended; io.EOF when it was good
}

func newJudgedReader(head []byte, rest io.ReadCloser, in inspector) *judgedReader {
	n := len(head) - 1
	return &judgedReader{ready: head[:n], held: true, last: head[n], rest: rest, in: in}
}

func (j *judgedReader) Read(p []byte) (int, error) {
	for {
		if len(j.ready) > 0 || len(p) == 0 {
			n := copy(p, j.ready)
			j.ready = j.ready[n:]
			return n, nil
		}
		if j.err != nil {
			return 0, j.err
		}
		if len(p) >= 2 {
			if n := j.fill(p); n > 0 {
				return n, nil
			}
			continue
		}
		small := make([]byte, 64)
		j.ready = small[:j.fill(small)]
	}
}

// fill reads into p and returns how many bytes may go out; when the body has ended, err says how.
func (j *judgedReader) fill(p []byte) int {
	from := 0
	if j.held {
		p[0], from = j.last, 1
	}
	n, err := j.rest.Read(p[from:])
	total := from + n
	if ierr := j.in.write(p[from:total]); ierr != nil {
		j.err = ierr
		return 0
	}
	switch {
	case err == io.EOF:
		if j.err = j.in.close(); j.err != nil {
			return 0
		}
		j.err = io.EOF
		j.held = false
		return total
	case err != nil:
		j.err = err
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			j.err = errTooLarge
		}
		return 0
	case total == 0:
		return 0
	}
	j.held, j.last = true, p[total-1]
	return total - 1
}

func (j *judgedReader) Close() error { return j.rest.Close() }

// countedBody counts what is read of a body on its way upstream and remembers why it failed.
// The transport may still read it after RoundTrip returned.
type countedBody struct {
	io.ReadCloser
	n   atomic.Int64
	err atomic.Pointer[error]
}

func (c *countedBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	if err != nil && err != io.EOF {
		c.err.Store(&err)
	}
	return n, err
}

func (c *countedBody) failure() error {
	if err := c.err.Load(); err != nil {
		return *err
	}
	return nil
}
