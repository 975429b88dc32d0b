package lfs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Media is the type of the API's bodies.
const Media = "application/vnd.git-lfs+json"

// Operations of a batch.
const (
	Download = "download"
	Upload   = "upload"
)

// MaxBatch is how many objects one request may name.
const MaxBatch = 1000

// maxBody bounds a request and an answer, in bytes: a thousand objects with long signed addresses.
const maxBody = 8 << 20

// Request asks what can be done with objects.
type Request struct {
	Operation string   `json:"operation"`
	Transfers []string `json:"transfers,omitempty"`
	Objects   []Object `json:"objects"`
	HashAlgo  string   `json:"hash_algo,omitempty"`
}

// Response is the answer, by object.
type Response struct {
	Transfer string   `json:"transfer,omitempty"`
	Objects  []Answer `json:"objects"`
	HashAlgo string   `json:"hash_algo,omitempty"`
}

// Answer is what can be done with one object; neither actions nor an error means nothing need be done.
type Answer struct {
	Object
	Authenticated bool              `json:"authenticated,omitempty"`
	Actions       map[string]Action `json:"actions,omitempty"`
	Error         *Fault            `json:"error,omitempty"`
}

// Action is where to, with which headers.
type Action struct {
	Href   string            `json:"href"`
	Header map[string]string `json:"header,omitempty"`
}

// ReadAction reads what git-lfs-authenticate prints (docs/api/server-discovery.md): where the LFS server is.
func ReadAction(data []byte) (Action, error) {
	var a Action
	if err := decode(bytes.NewReader(data), &a); err != nil {
		return a, err
	}
	_, err := target(a.Href, nil)
	return a, err
}

// Fault is why something cannot be done; Code is a status of HTTP.
type Fault struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// ReadRequest reads the body of a batch request and refuses what cannot be answered.
func ReadRequest(r io.Reader) (Request, error) {
	var q Request
	if err := decode(r, &q); err != nil {
		return q, err
	}
	switch {
	case q.Operation != Download && q.Operation != Upload:
		return q, fmt.Errorf("the operation %.20q is neither download nor upload", q.Operation)
	case len(q.Objects) > MaxBatch:
		return q, fmt.Errorf("%d objects in one request, the limit is %d", len(q.Objects), MaxBatch)
	case q.HashAlgo != "" && q.HashAlgo != "sha256":
		return q, errors.New("only sha256 is known")
	}
	for _, o := range q.Objects {
		if !ValidOID(o.OID) || o.Size < 0 {
			return q, fmt.Errorf("%.80q with size %d is no object", o.OID, o.Size)
		}
	}
	return q, nil
}

// ReadResponse reads the answer to a request for the objects asked. What was not asked for, or has
// another size, is left out; with another transfer than basic nothing can be done.
func ReadResponse(r io.Reader, asked []Object) (map[string]Answer, error) {
	var p Response
	if err := decode(r, &p); err != nil {
		return nil, fmt.Errorf("the answer of the LFS server: %w", err)
	}
	if p.Transfer != "" && p.Transfer != "basic" {
		return nil, fmt.Errorf("the LFS server wants the transfer %.40q, which was not offered", p.Transfer)
	}
	sizes := map[string]int64{}
	for _, o := range asked {
		sizes[o.OID] = o.Size
	}
	answers := map[string]Answer{}
	for _, a := range p.Objects {
		if size, ok := sizes[a.OID]; ok && (a.Size == size || a.Error != nil) {
			answers[a.OID] = a
		}
	}
	return answers, nil
}

// decode reads one JSON document of at most maxBody bytes, and nothing after it.
func decode(r io.Reader, v any) error {
	data, err := io.ReadAll(io.LimitReader(r, maxBody+1))
	if err != nil {
		return err
	}
	if len(data) > maxBody {
		return fmt.Errorf("larger than %d bytes", maxBody)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return errors.New("not the JSON of the batch API")
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more than one JSON document")
	}
	return nil
}
