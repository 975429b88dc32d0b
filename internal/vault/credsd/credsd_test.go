package credsd_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/vault/credsd"
	"terok/internal/vault/credsd/credsdtest"
)

func TestSealAndUnseal(t *testing.T) {
	s := credsdtest.Start(t)
	c := credsd.Client{Socket: s.Socket, UID: 1000}
	if !c.Present() {
		t.Fatal("not there")
	}
	secret := []byte("terok-sk-abc-0123456789")
	blob, err := c.Seal(t.Context(), secret, "auto")
	if err != nil || bytes.Contains(blob, secret) {
		t.Fatal(blob, err)
	}
	if got, err := c.Unseal(t.Context(), blob); err != nil || !bytes.Equal(got, secret) {
		t.Fatal(got, err)
	}
	if _, err := (credsd.Client{Socket: s.Socket, UID: 1001}).Unseal(t.Context(), blob); err == nil || !strings.Contains(err.Error(), "another user") {
		t.Error(err)
	}
	if _, err := c.Unseal(t.Context(), append(blob, 'x')); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Error(err)
	}
	s.Fail("KeyBelongsToOtherTPM")
	if _, err := c.Unseal(t.Context(), blob); err == nil || !strings.Contains(err.Error(), "another machine") {
		t.Error(err)
	}
	if _, err := c.Seal(t.Context(), nil, ""); err == nil {
		t.Error("sealed nothing")
	}
}

func TestAbsent(t *testing.T) {
	c := credsd.Client{Socket: filepath.Join(t.TempDir(), "none")}
	if c.Present() {
		t.Error("there")
	}
	if _, err := c.Unseal(t.Context(), []byte("x")); !errors.Is(err, credsd.ErrAbsent) {
		t.Error(err)
	}
}

// TestStrangeAnswers: none is taken for a secret, none is quoted, none takes for ever.
func TestStrangeAnswers(t *testing.T) {
	s := credsdtest.Start(t)
	c := credsd.Client{Socket: s.Socket}
	for _, raw := range []string{"x", "{", "{}\x00", "[]\x00", `{"parameters":{}}` + "\x00", `{"parameters":{"data":"***"}}` + "\x00",
		`{"parameters":{"data":""}}` + "\x00", `{"continues":true,"parameters":{"data":"QUFB"}}` + "\x00", `{"error":"x.` + strings.Repeat("y", 999) + `"}` + "\x00",
		strings.Repeat("A", 300<<10)} {
		s.Answer(raw)
		got, err := c.Unseal(t.Context(), []byte("blob"))
		if err == nil || len(err.Error()) > 200 || len(got) > 0 {
			t.Errorf("%.40q: %q %v", raw, got, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := c.Unseal(ctx, []byte("blob")); err == nil {
		t.Error("went on after its time")
	}
}
