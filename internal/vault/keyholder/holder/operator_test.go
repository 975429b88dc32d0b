package holder

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
	"terok/internal/vault/recovery"
	"terok/internal/vault/store"
)

func code(err error) string {
	if r, ok := errors.AsType[*keyholder.Refusal](err); ok {
		return r.Code
	}
	return ""
}

// TestSlotsOverTheSocket: an operator adds, uses, lists and removes ways in, and a task notices
// nothing. spec/vault.md §10: 58, 66.
func TestSlotsOverTheSocket(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.unlock()
	r.put(c, "shared", "anthropic", secret)
	path, _ := r.container("t1", grant("anthropic", "shared"))
	conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
	if err != nil {
		t.Fatal(err)
	}
	s := keyholder.NewSession(conn)
	defer s.Close()
	busy, stop := context.WithCancel(r.ctx)
	failed := make(chan error, 1)
	go func() { // a busy task
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		for busy.Err() == nil {
			<-tick.C
			if got, err := s.Credential(r.ctx, "anthropic"); err != nil || string(got.Value) != secret {
				failed <- errors.Join(err, errors.New("the task lost its key"))
				return
			}
		}
		failed <- nil
	}()

	rk := recovery.New()
	id, minted := store.NewSlotSecret()
	for _, a := range []struct {
		slot   keyholder.NewSlot
		secret []byte
	}{
		{keyholder.NewSlot{Kind: "passphrase"}, []byte("another passphrase")},
		{keyholder.NewSlot{Kind: "recovery"}, rk},
		{keyholder.NewSlot{Kind: "secret-service", ID: id}, minted},
	} {
		got, err := c.AddSlot(r.ctx, a.slot, a.secret)
		if err != nil || got.Kind != a.slot.Kind {
			t.Fatal(got, err)
		}
		if err := c.Unlock(r.ctx, a.secret); err != nil {
			t.Error(a.slot.Kind, err)
		}
		if st, err := c.Status(r.ctx); err != nil || st.Opened != a.slot.Kind {
			t.Error(st, err)
		}
	}
	if err := c.Unlock(r.ctx, []byte(pass)); !errors.Is(err, keyholder.ErrWrong) {
		t.Error("the old passphrase still opens", err)
	}
	if before, err := c.Acknowledge(r.ctx); err != nil || before {
		t.Error(before, err)
	}
	w, err := c.Ways(r.ctx)
	if err != nil || len(w.Slots) != 3 || w.Acknowledged.IsZero() || w.RolledBack {
		t.Errorf("%+v %v", w, err)
	}
	if got, err := c.RemoveSlot(r.ctx, "recovery"); err != nil || got.Kind != "recovery" {
		t.Error(got, err)
	}
	dropped, err := c.Rotate(r.ctx, [][]byte{minted})
	if err != nil || len(dropped) != 1 || dropped[0].Kind != "passphrase" {
		t.Error(dropped, err)
	}
	if _, err := c.RemoveSlot(r.ctx, "secret-service"); code(err) != "last_slot" {
		t.Error(err)
	}
	if _, err := c.Reveal(r.ctx); code(err) != "passphrase_not_kept" {
		t.Error(err)
	}
	if f, err := c.Verify(r.ctx); err != nil || len(f) != 0 {
		t.Error(f, err)
	}
	stop()
	if err := <-failed; err != nil {
		t.Error(err)
	}
}

func TestBackupOverTheSocket(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.unlock()
	r.put(c, "shared", "anthropic", secret)
	file := filepath.Join(t.TempDir(), "b")
	if err := c.Backup(r.ctx, "relative", ""); code(err) != "usage" {
		t.Error(err)
	}
	if err := c.Backup(r.ctx, file, ""); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(r.ctx, "shared", "anthropic", ""); err != nil {
		t.Fatal(err)
	}
	if m, err := c.Merge(r.ctx, file, []byte(pass)); err != nil || m.Added != 1 {
		t.Error(m, err)
	}
	if l, err := c.List(r.ctx); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	steps, err := c.Explain(r.ctx, "p", "anthropic", "shared")
	if err != nil || len(steps) != 2 || steps[0].Rule != "project" || steps[0].Found || !steps[1].Found {
		t.Error(steps, err)
	}
	if steps, err := c.Explain(r.ctx, "p", "anthropic", "project:p"); err != nil || len(steps) != 1 || steps[0].Found {
		t.Error(steps, err)
	}
}

// spec/vault.md §10: 53. After five wrong passphrases there is a pause, also for the right one;
// nothing on disk changes.
func TestAttemptsAreLimited(t *testing.T) {
	r := newRig(t)
	start := time.Now()
	var shift atomic.Int64 // what the clock shows besides
	clock := func() time.Time { return start.Add(time.Duration(shift.Load())) }
	r.serve(Config{Now: clock, Idle: 1000 * time.Hour}) // its clock jumps: that is no idleness
	c := r.client()
	before, _ := os.ReadFile(filepath.Join(r.roots.VaultDir(), "vault.age"))
	for range freeAttempts {
		if err := c.Unlock(r.ctx, []byte("wrong")); !errors.Is(err, keyholder.ErrWrong) {
			t.Fatal(err)
		}
	}
	if err := c.Unlock(r.ctx, []byte(pass)); code(err) != keyholder.CodeAttempts {
		t.Error(err)
	}
	if after, _ := os.ReadFile(filepath.Join(r.roots.VaultDir(), "vault.age")); !bytes.Equal(before, after) {
		t.Error("the vault was written")
	}
	for _, when := range []time.Duration{attemptPause, -time.Hour} { // also when the clock was set back
		shift.Add(int64(when))
		a := attempts{wrong: freeAttempts, until: clock().Add(2 * time.Hour)}
		if a.refuse(clock()) != 0 {
			t.Error("a clock that was set back keeps the vault locked")
		}
	}
	shift.Add(int64(2 * time.Hour))
	if err := c.Unlock(r.ctx, []byte(pass)); err != nil {
		t.Error(err)
	}
}

// TestWakeAfterALock: what opens the vault without a person does not undo what a person did.
func TestWakeAfterALock(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	c := r.client()
	if err := os.WriteFile(r.roots.VaultLocked(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := c.Wake(r.ctx, []byte(pass)); !errors.Is(err, keyholder.ErrLocked) {
		t.Error(err)
	}
	if st, err := c.Status(r.ctx); err != nil || st.Unlocked {
		t.Error("it is open", err)
	}
	if err := c.Unlock(r.ctx, []byte(pass)); err != nil {
		t.Error(err)
	}
	os.Remove(r.roots.VaultLocked())
	if err := c.Wake(r.ctx, []byte(pass)); err != nil {
		t.Error(err)
	}
}

// spec/vault.md §10: 71, adapted to sandbox files: a supervisor's connection does nothing but fetch
// its grants.
func TestSupervisorIsNoOperator(t *testing.T) {
	r := newRig(t)
	r.serve(Config{})
	r.put(r.unlock(), "shared", "anthropic", secret)
	path, _ := r.container("t1", sandbox.Grant{Provider: "anthropic", Scope: "shared"})
	for _, op := range []string{keyholder.OpWays, keyholder.OpAddSlot, keyholder.OpRemoveSlot, keyholder.OpAcknowledge, keyholder.OpReveal, keyholder.OpRotate,
		keyholder.OpVerify, keyholder.OpBackup, keyholder.OpMerge, keyholder.OpExplain, keyholder.OpBindings, keyholder.OpUpgrade} {
		conn, err := keyholder.Connect(r.ctx, r.roots.KeyholderSocket(), path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(`{"v":1,"id":7,"op":"` + op + `"}`)); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, keyholder.MaxMessage)
		n, err := conn.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), keyholder.CodeRefused) {
			t.Errorf("%s: %q %v", op, buf[:n], err)
		}
		conn.Close()
	}
}

// TestUpgrade: a keyholder whose program was replaced becomes the new one on request, with the
// vault open; locked it stays locked; without a replacement nothing happens.
func TestUpgrade(t *testing.T) {
	r := newRig(t)
	program := filepath.Join(t.TempDir(), "terok")
	install := func() {
		t.Helper()
		if err := exec.Command("cp", os.Args[0], program+".new").Run(); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(program+".new", program); err != nil {
			t.Fatal(err)
		}
	}
	install()
	if err := Start(r.ctx, program, r.roots, Guard{}); err != nil {
		t.Fatal(err)
	}
	c := r.client()
	st, err := c.Status(r.ctx)
	if err != nil || st.Outdated || st.Program != program {
		t.Fatal(st, err)
	}
	pid := st.PID
	t.Cleanup(func() { syscall.Kill(pid, syscall.SIGKILL) })
	if err := c.Upgrade(r.ctx); !errors.Is(err, keyholder.ErrRefused) {
		t.Error(err)
	}
	upgrade := func() *keyholder.Client {
		t.Helper()
		install()
		c := r.client()
		if st, err := c.Status(r.ctx); err != nil || !st.Outdated {
			t.Fatal(st, err)
		}
		if err := c.Upgrade(r.ctx); err != nil {
			t.Fatal(err)
		}
		r.eventually("the new program answers", func() bool {
			c, err := keyholder.Dial(r.ctx, r.roots.KeyholderSocket())
			if err != nil {
				return false
			}
			defer c.Close()
			st, err := c.Status(r.ctx)
			return err == nil && !st.Outdated
		})
		return r.client()
	}
	c = upgrade()
	if st, err := c.Status(r.ctx); err != nil || st.Unlocked || st.PID != pid {
		t.Fatal(st, err)
	}
	r.put(r.unlock(), "shared", "anthropic", secret)
	for range 2 {
		c = upgrade()
		st, err := c.Status(r.ctx)
		if err != nil || !st.Unlocked || st.Credentials != 1 || st.PID != pid || st.Opened != "passphrase" {
			t.Fatal(st, err)
		}
		r.put(c, "shared", "anthropic", secret) // it writes as well
		if _, err := c.Ways(r.ctx); err != nil {
			t.Error(err)
		}
	}
	// It is hardened as before, and no descriptor with the key stays open.
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil || !strings.Contains(string(status), "NoNewPrivs:\t1") {
		t.Error("new privileges are possible after an upgrade", err)
	}
	if os.Getuid() == 0 { // others may not even look, which is the point
		fds, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
		for _, fd := range fds {
			if l, _ := os.Readlink(fd); strings.Contains(l, "memfd:key") {
				t.Error("the key's file is still open")
			}
		}
	}
	if err := c.Lock(r.ctx); err != nil {
		t.Error(err)
	}
}

// FuzzRequest: whatever an operator's socket gets, a request is decoded strictly or refused, and
// none is quoted.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"v":1,"id":1,"op":"unlock","passphrase":"eA=="}`))
	f.Add([]byte(`{"v":1,"id":1,"op":"put","credential":{"scope":"shared"},"secret":"eA=="}`))
	f.Add([]byte(`{"v":1,"id":1,"op":"rotate","secrets":["eA=="]}{}`))
	f.Fuzz(func(t *testing.T, msg []byte) {
		req, err := keyholder.DecodeRequest(msg)
		if err != nil {
			if len(msg) > 60 && strings.Contains(err.Error(), string(msg)) {
				t.Fatal(err)
			}
			return
		}
		req.Wipe()
		for _, s := range append([][]byte{req.Passphrase, req.Secret, req.Refresh, req.IDToken}, req.Secrets...) {
			if bytes.ContainsFunc(s, func(r rune) bool { return r != 0 }) {
				t.Fatal("a secret survives Wipe")
			}
		}
	})
}
