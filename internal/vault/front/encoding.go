package front

import (
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Packed request bodies are unpacked, judged and sent on unpacked: what was judged is byte for byte
// what goes out, so no other reading of the packed form (a second member, a frame to skip, a
// dictionary) can show the provider something else.

// Bounds of a packed body.
const (
	packedRatio  = 256     // times its packed size may a body grow …
	packedFree   = 1 << 20 // … beyond these bytes, which every body may have
	zstdWindow   = 8 << 20 // bytes; what RFC 8878 §3.1.1.1.2 wants every decoder to take
	maxUnpacking = 4       // bodies at a time; each may hold a window
)

var errBomb = refuse(http.StatusRequestEntityTooLarge, "too_large", "the request body unpacks to far more than a text does")

// unpackedBody is a packed request body that is unpacked as it is read. Who reads it bounds what is
// read in all, as with any body.
type unpackedBody struct {
	packed  countingReader
	plain   io.Reader
	n       int64
	release func() // once: gives memory and the place in line back
}

// coding is the encoding of a request's body, "" when it is plain.
func coding(h http.Header) (string, error) {
	switch enc := strings.ToLower(strings.TrimSpace(strings.Join(h["Content-Encoding"], ","))); enc {
	case "", "identity":
		return "", nil
	case "gzip", "x-gzip":
		return "gzip", nil
	case "zstd":
		return enc, nil
	}
	return "", refuse(http.StatusUnsupportedMediaType, "bad_body", "the vault reads request bodies: send this one in gzip, zstd, or without Content-Encoding")
}

// unpackRequest makes r one whose body is plain, if it is packed. The body must be closed.
func (f *Front) unpackRequest(r *http.Request) (*unpackedBody, error) {
	enc, err := coding(r.Header)
	if enc == "" || err != nil {
		return nil, err
	}
	select {
	case f.unpacking <- struct{}{}:
	case <-r.Context().Done():
		return nil, refuse(http.StatusTooManyRequests, "rate_limited", "too many packed requests at a time") // nobody reads it
	}
	u := &unpackedBody{packed: countingReader{r: http.MaxBytesReader(nil, r.Body, f.cfg.Limits.Body)}}
	var done func()
	if enc == "zstd" {
		var d *zstd.Decoder
		d, err = zstd.NewReader(&u.packed, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err == nil {
			u.plain, done = d, d.Close
		}
	} else {
		u.plain = &lateGzip{src: &u.packed}
	}
	u.release = sync.OnceFunc(func() {
		if done != nil {
			done()
		}
		<-f.unpacking
	})
	if err != nil {
		u.release()
		return nil, errPacked
	}
	// The digests are of what was packed.
	for _, name := range []string{"Content-Encoding", "Content-Md5", "Content-Digest", "Repr-Digest", "Digest", "Content-Length"} {
		delete(r.Header, name)
	}
	r.Body, r.ContentLength = u, -1
	return u, nil
}

var errPacked = badBody("the request body is not what its Content-Encoding says")

func (u *unpackedBody) Read(p []byte) (int, error) {
	n, err := u.plain.Read(p)
	u.n += int64(n)
	switch {
	case u.n > packedFree && u.n > packedRatio*u.packed.n:
		return 0, errBomb
	case err == nil || err == io.EOF:
		return n, err
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return 0, errTooLarge
	}
	return 0, errPacked
}

func (u *unpackedBody) Close() error {
	u.release()
	return nil
}

type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// lateGzip reads the packer's header with the first bytes, and takes only members that follow each
// other to the end.
type lateGzip struct {
	src io.Reader
	zip *gzip.Reader
}

func (g *lateGzip) Read(p []byte) (int, error) {
	if g.zip == nil {
		zip, err := gzip.NewReader(g.src)
		if err != nil {
			return 0, unexpected(err) // an empty body is no gzip
		}
		g.zip = zip
	}
	return g.zip.Read(p)
}
