package store

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/vault/recovery"
)

// machine makes a slot as a machine keeps it.
func machine(kind string) (NewSlot, []byte) {
	id, s := NewSlotSecret()
	return NewSlot{Kind: kind, ID: id, Secret: s, Sealed: []byte("blob")}, s
}

func mustAdd(t *testing.T, v *Vault, w NewSlot) Slot {
	t.Helper()
	s, err := v.AddSlot(w, false, noon)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func opensWith(dir string, secret []byte) error {
	v, err := Open(dir, secret)
	if err == nil {
		v.Close()
	}
	return err
}

// TestEveryWayIn: each kind of slot opens the vault alone, and taking one away leaves the others.
func TestEveryWayIn(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	if _, err := v.Put(oauthCred(), noon); err != nil {
		t.Fatal(err)
	}
	code := recovery.New()
	tpm, tpmSecret := machine(SlotSystemdCreds)
	ring, ringSecret := machine(SlotSecretService)
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: code})
	mustAdd(t, v, NewSlot{Kind: SlotCommand, Secret: []byte("printed by a command")})
	sealed := mustAdd(t, v, tpm)
	mustAdd(t, v, ring)
	ways := map[string][]byte{SlotPassphrase: []byte(pass), SlotRecovery: bytes.ToLower(code), SlotCommand: []byte("printed by a command"),
		SlotSystemdCreds: tpmSecret, SlotSecretService: ringSecret}
	for kind, secret := range ways {
		v, err := Open(dir, secret)
		if err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		if got := v.Opened().Kind; got != kind {
			t.Errorf("%s opened by %s", kind, got)
		}
		if l, err := v.List(); err != nil || len(l) != 1 {
			t.Errorf("%s: %v %v", kind, l, err)
		}
		v.Close()
	}
	w, err := v.Ways()
	if err != nil || len(w.Slots) != 5 || string(w.Slots[3].Sealed) != "blob" || !w.Has(SlotCommand) {
		t.Fatalf("%+v %v", w, err)
	}
	// Without the key the same is read.
	if open, err := ReadWays(dir); err != nil || fmt.Sprint(open) != fmt.Sprint(w) {
		t.Errorf("%+v %v", open, err)
	}
	if got, err := v.RemoveSlot(sealed.ID[:6], noon); err != nil || got.Kind != SlotSystemdCreds {
		t.Fatal(got, err)
	}
	err = opensWith(dir, tpmSecret)
	wantCode(t, err, CodeMismatch, 1)
	for kind, secret := range ways {
		if kind != SlotSystemdCreds {
			if err := opensWith(dir, secret); err != nil {
				t.Errorf("%s: %v", kind, err)
			}
		}
	}
	// A new code makes the old one useless.
	code2 := recovery.New()
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: code2})
	wantCode(t, opensWith(dir, code), CodeRecovery, 1)
	if err := opensWith(dir, code2); err != nil {
		t.Error(err)
	}
	bad := bytes.Clone(code2)
	if bad[12]++; bad[12] == ':' || bad[12] == 'I' || bad[12] == 'L' || bad[12] == 'O' || bad[12] == 'U' || bad[12] == '[' {
		bad[12] = '2'
	}
	if !bytes.Equal(bad, code2) {
		err = opensWith(dir, bad)
		wantCode(t, err, CodeRecovery, 1)
		if !strings.Contains(fmt.Sprint(err), "checksum") {
			t.Error(err)
		}
	}
}

// spec/vault.md §10: 52. Nothing of the secrets of slots is readable in the files.
func TestSlotsHoldNothingReadable(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	code := recovery.New()
	tpm, tpmSecret := machine(SlotSystemdCreds)
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: code})
	mustAdd(t, v, tpm)
	minted := Mint()
	mustAdd(t, v, NewSlot{Kind: SlotPassphrase, Secret: minted, Generated: true})
	files, _ := filepath.Glob(filepath.Join(globEscape(dir), "*"))
	if len(files) < 4 {
		t.Fatal(files)
	}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range [][]byte{code, code[12:17], tpmSecret, minted, []byte(pass), []byte("AGE-SECRET")} {
			if bytes.Contains(data, s) {
				t.Errorf("%s holds %s", f, s)
			}
		}
	}
}

func TestTheLastWayStays(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	_, err := v.RemoveSlot(SlotPassphrase, noon)
	wantCode(t, err, "last_slot", problem.Conflict)
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: recovery.New()})
	if _, err := v.RemoveSlot(SlotPassphrase, noon); err != nil {
		t.Fatal(err)
	}
	wantCode(t, opensWith(dir, []byte(pass)), CodeWrong, 1)
	_, err = v.RemoveSlot(SlotRecovery, noon)
	wantCode(t, err, "last_slot", problem.Conflict)
	_, err = v.RemoveSlot("nothing", noon)
	wantCode(t, err, "slot_missing", problem.NotFound)
}

func TestAcknowledgeAndReveal(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	_, err := v.Acknowledge(noon)
	wantCode(t, err, "no_recovery", problem.NotFound)
	_, err = v.Reveal()
	wantCode(t, err, "passphrase_not_kept", problem.Failed)
	minted := Mint()
	mustAdd(t, v, NewSlot{Kind: SlotPassphrase, Secret: minted, Generated: true})
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: recovery.New()})
	v = open2(t, dir, minted)
	if p, err := v.Reveal(); err != nil || !bytes.Equal(p, minted) {
		t.Error(err)
	}
	for _, want := range []bool{false, true} {
		if before, err := v.Acknowledge(noon); err != nil || before != want {
			t.Error(before, err)
		}
	}
	if w, err := v.Ways(); err != nil || !w.Acknowledged.Equal(noon) {
		t.Error(w, err)
	}
	// A new code is not the one that was confirmed; a chosen passphrase is kept in no generation.
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: recovery.New()})
	mustAdd(t, v, NewSlot{Kind: SlotPassphrase, Secret: []byte(pass)})
	if w, _ := v.Ways(); !w.Acknowledged.IsZero() {
		t.Error("acknowledged by the code before")
	}
	for _, name := range []string{"vault.age", "vault.age.1"} {
		if strings.Contains(decryptGeneration(t, dir, name), "generated_passphrase") {
			t.Errorf("%s still has the minted passphrase", name)
		}
	}
}

func open2(t testing.TB, dir string, secret []byte) *Vault {
	t.Helper()
	v, err := Open(dir, secret)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	v.work = testWork
	return v
}

// spec/vault.md §10: 56, adapted. A slots.json put back from before the passphrase was changed is
// noticed; one edited or deleted is refused (TestEditedSlots, TestWaysToFailAreToldApart).
func TestRolledBackSlots(t *testing.T) {
	dir := newVault(t)
	old, _ := os.ReadFile(slotsFile(dir))
	v := open(t, dir)
	mustAdd(t, v, NewSlot{Kind: SlotPassphrase, Secret: []byte("the new passphrase")})
	if open2(t, dir, []byte("the new passphrase")).RolledBack() {
		t.Error("rolled back by nobody")
	}
	os.WriteFile(slotsFile(dir), old, 0o600)
	v = open(t, dir)
	if !v.RolledBack() {
		t.Error("an old slots.json is not noticed")
	}
	if f, err := v.Verify(); err != nil || len(f) == 0 {
		t.Error("verify finds nothing", err)
	}
}

func TestRotateKey(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	if _, err := v.Put(oauthCred(), noon); err != nil {
		t.Fatal(err)
	}
	code := recovery.New()
	tpm, tpmSecret := machine(SlotSystemdCreds)
	mustAdd(t, v, NewSlot{Kind: SlotRecovery, Secret: code})
	mustAdd(t, v, tpm)
	oldKey := string(v.identity.bytes())
	before := copyVault(t, dir)
	dropped, err := v.RotateKey([][]byte{[]byte(pass), tpmSecret}, noon)
	if err != nil || len(dropped) != 1 || dropped[0].Kind != SlotRecovery {
		t.Fatal(dropped, err)
	}
	if string(v.identity.bytes()) == oldKey {
		t.Error("the key is the old one")
	}
	if _, err := v.Put(key("shared", "github", []byte(secret)), noon); err != nil { // memory has the new key
		t.Fatal(err)
	}
	for _, s := range [][]byte{[]byte(pass), tpmSecret} {
		if l, err := open2(t, dir, s).List(); err != nil || len(l) != 2 {
			t.Error(l, err)
		}
	}
	wantCode(t, opensWith(dir, code), CodeRecovery, 1)
	if f, err := v.Verify(); err != nil || len(f) != 0 {
		t.Error(f, err)
	}
	// What is on disk is of no use with the old key, in any generation.
	for _, name := range []string{"vault.age", "vault.age.1"} {
		data, _ := os.ReadFile(filepath.Join(dir, name))
		os.WriteFile(vaultFile(before), data, 0o600)
		wantCode(t, opensWith(before, []byte(pass)), CodeDamaged, 1)
	}
	if _, err := v.RotateKey([][]byte{[]byte("wrong")}, noon); err == nil {
		t.Error("rotated without a way in")
	}
	if err := opensWith(dir, []byte(pass)); err != nil {
		t.Error(err)
	}
}

// TestRotateKeyThatCannotFinish: the new key is in use, what is left is done later.
func TestRotateKeyThatCannotFinish(t *testing.T) {
	dir := newVault(t)
	v := open(t, dir)
	os.Remove(slotsFile(dir) + ".1")
	if err := state.MkdirAll(filepath.Join(slotsFile(dir)+".1", "x")); err != nil {
		t.Fatal(err)
	}
	if _, err := v.RotateKey([][]byte{[]byte(pass)}, noon); err == nil {
		t.Fatal("finished")
	}
	if _, err := v.Put(oauthCred(), noon); err == nil {
		t.Fatal("a write went past an unfinished rotation")
	}
	os.RemoveAll(slotsFile(dir) + ".1")
	if _, err := v.Put(oauthCred(), noon); err != nil {
		t.Fatal(err)
	}
	if l, err := open(t, dir).List(); err != nil || len(l) != 1 {
		t.Error(l, err)
	}
	if _, err := os.Lstat(nextFile(dir)); err == nil {
		t.Error("slots.json.next stays")
	}
}

// changerEnv makes the test binary change passphrase and key in turn until it is killed; with a
// second variable it kills itself at that step.
const (
	changerEnv = "TEROK_STORE_TEST_CHANGER"
	stepEnv    = "TEROK_STORE_TEST_STEP"
)

func changer(dir string) {
	var n int
	fmt.Sscanf(os.Getenv(changerEnv+"_N"), "%d", &n)
	v, err := Open(dir, changed(n))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	v.work = 1
	at := os.Getenv(stepEnv)
	v.fault = func(step string) {
		if at != "" && strings.HasSuffix(at, step) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	for ; ; n++ {
		if !strings.HasPrefix(at, "rotate") {
			if _, err := v.AddSlot(NewSlot{Kind: SlotPassphrase, Secret: changed(n + 1)}, false, noon); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		if !strings.HasPrefix(at, "change") {
			if _, err := v.RotateKey([][]byte{changed(n), changed(n + 1)}, noon); err != nil {
				fmt.Println(err)
				os.Exit(1)
			}
		}
		fmt.Println(n + 1)
	}
}

func changed(n int) []byte { return fmt.Appendf(nil, "passphrase number %d", n) }

// spec/vault.md §10: 57. Killed at each step, and at 100 random moments, of a passphrase change and
// of a rotation: the vault opens with the old passphrase or the new one and has everything in it.
func TestKilledWhileChanging(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "vault")
	if err := initialise(dir, passphrase(string(changed(0))), 1, noon); err != nil {
		t.Fatal(err)
	}
	if _, err := open2(t, dir, changed(0)).Put(oauthCred(), noon); err != nil {
		t.Fatal(err)
	}
	n := 0
	run := func(step string, changes int, wait time.Duration) {
		t.Helper()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), changerEnv+"="+dir, fmt.Sprintf("%s_N=%d", changerEnv, n), stepEnv+"="+step)
		var out strings.Builder
		stdout, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewReader(stdout)
		if step == "" {
			for range changes { // so that there is progress, however slow the machine is
				line, err := said.ReadString('\n')
				if out.WriteString(line); err != nil {
					t.Fatalf("the changer ended by itself: %s", out.String())
				}
			}
			time.Sleep(wait) // not for synchronisation: this is the moment of the kill
			cmd.Process.Kill()
		}
		_, _ = said.WriteTo(&out)
		cmd.Wait()
		if cmd.ProcessState.Exited() {
			t.Fatalf("step %q: the changer ended by itself: %s", step, out.String())
		}
		var last int
		for line := range strings.Lines(out.String()) {
			fmt.Sscanf(line, "%d", &last)
		}
		for _, candidate := range []int{max(n, last), max(n, last) + 1} {
			v, err := Open(dir, changed(candidate))
			if problem.Is(err, CodeWrong) {
				continue
			}
			if err != nil {
				t.Fatalf("step %q: %v", step, err)
			}
			if l, err := v.List(); err != nil || len(l) != 1 || v.RolledBack() {
				t.Fatalf("step %q: %v %v %v", step, l, err, v.RolledBack())
			}
			if f, err := v.Verify(); err != nil || len(f) > 1 || len(f) == 1 && f[0].File != "slots.json.1" {
				t.Fatalf("step %q: %v %v", step, f, err)
			}
			v.Close()
			n = candidate
			return
		}
		t.Fatalf("step %q: neither %d nor %d opens", step, max(n, last), max(n, last)+1)
	}
	for _, step := range []string{"change: slots changed in memory", "change: slots written",
		"rotate: next written", "rotate: vault written", "rotate: slots written", "rotate: generation replaced"} {
		run(step, 0, 0)
	}
	r := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	for i := range 100 {
		run("", i%2, 5*time.Millisecond+time.Duration(r.Int64N(int64(35*time.Millisecond))))
	}
	if n < 50 {
		t.Errorf("%d changes went through: what was said to be done was lost", n)
	}
	left, _ := os.ReadDir(dir)
	for _, e := range left {
		if strings.HasSuffix(e.Name(), ".next") {
			t.Errorf("left over: %s", e.Name())
		}
	}
}

// FuzzSlots: whatever slots.json holds, reading it ends in an error or in something that is
// written and read back as the same.
func FuzzSlots(f *testing.F) {
	dir := newVault(f)
	data, _ := os.ReadFile(slotsFile(dir))
	f.Add(data)
	f.Add([]byte(`{"schema":3}`))
	f.Add([]byte(`{"schema":1,"vault_id":"x","slots":[{"id":"a","kind":"recovery"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := decodeSlots("slots.json", data)
		if err != nil {
			if p := problem.Of(err); p.Code != CodeDamaged && p.Code != CodeNewer {
				t.Fatal(err)
			}
			return
		}
		for _, secret := range [][]byte{[]byte("terok-sk-a-b"), recovery.New()} {
			if _, _, err := s.open("slots.json", secret); err == nil {
				t.Fatal("opened by nothing")
			} else if errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
		}
		_ = s.ways()
	})
}
