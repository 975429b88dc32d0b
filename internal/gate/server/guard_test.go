package server

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http/httptest"
	"testing"
	"time"
)

// TestBomb: a compressed request that grows beyond reason ends early, far below the size limit.
func TestBomb(t *testing.T) {
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	if _, err := zw.Write(make([]byte, 40<<20)); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest("POST", Path+"/git-upload-pack", &packed)
	r.Header.Set("Content-Encoding", "gzip")
	b, err := openBody(httptest.NewRecorder(), r, 512<<20, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, b); !errors.Is(err, errBomb) || n > 8<<20 {
		t.Errorf("%d bytes came out, then %v", n, err)
	}
}
