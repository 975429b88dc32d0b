package supervisor

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"terok/internal/audit"
	"terok/internal/control"
	"terok/internal/sandbox"
	"terok/internal/state"
)

// stood is a parent of this process's "container", with a token.
func stood(t *testing.T) *parent {
	t.Helper()
	p := &parent{sealing: bytes.Repeat([]byte{7}, 32), initPID: os.Getpid()}
	p.hand.File, p.hand.ContainerID = sandbox.File{Dir: t.TempDir(), Launch: "one"}, "id"
	p.hand.secrets = secrets{GateToken: newGateToken(), Proof: bytes.Repeat([]byte{1}, proofSize)}
	about, err := boxContext(&p.hand.File, "id", p.initPID)
	if err != nil {
		t.Fatal(err)
	}
	if p.hand.Sealed, err = seal(p.sealing, about, &p.hand.secrets); err != nil {
		t.Fatal(err)
	}
	return p
}

// heir is the parent that takes over after p has died.
func heir(p *parent) *parent {
	n := &parent{sealing: p.sealing, initPID: p.initPID}
	n.hand.File, n.hand.ContainerID, n.hand.Waiting = p.hand.File, p.hand.ContainerID, true
	return n
}

// TestReplacedTokenStaysDead: a parent that is killed after any step of a rotation leaves a container whose
// next parent takes the old token or the new one, and once the new one was made never the old one.
//
// spec/gate.md §20: 25.
func TestReplacedTokenStaysDead(t *testing.T) {
	p := stood(t)
	old, oldBox := p.hand.GateToken, p.hand.Sealed
	before := heir(p)
	if !before.resume(oldBox) || before.hand.GateToken != old || !bytes.Equal(before.hand.Sealed, oldBox) {
		t.Fatalf("without a rotation: %+v", before.hand.secrets)
	}
	token, box, err := p.rotate()
	if err != nil || token == old || len(token) != gateTokenSize || p.hand.GateToken != token || !bytes.Equal(p.hand.Sealed, box) {
		t.Fatalf("%q %v", token, err)
	}
	data, err := os.ReadFile(sandbox.GateTurnPath(p.hand.File.Dir))
	if err != nil || bytes.Contains(data, []byte(token)) || bytes.Contains(data, []byte(old)) {
		t.Errorf("%s %v", data, err)
	}
	if _, _, err := p.rotate(); err == nil {
		t.Error("a worker can have tokens made without end")
	}
	level := heir(p)
	if !level.resume(box) || level.hand.GateToken != token {
		t.Errorf("the guest had the new one: %+v", level.hand.secrets)
	}
	for range 2 { // the first heir dies as well before the guest has anything
		late := heir(p)
		if !late.resume(oldBox) || late.hand.GateToken == old || late.hand.GateToken == token || late.hand.GateToken == "" || bytes.Equal(late.hand.Sealed, oldBox) {
			t.Errorf("the guest had the old one: %+v", late.hand.secrets)
		}
		about, err := boxContext(&late.hand.File, "id", late.initPID)
		if err != nil {
			t.Fatal(err)
		}
		if s, err := unseal(late.sealing, about, late.hand.Sealed); err != nil || s.GateToken != late.hand.GateToken || !bytes.Equal(s.Proof, p.hand.Proof) {
			t.Errorf("its box: %+v %v", s, err)
		}
	}
	// What another start left is no answer; what cannot be read is the strict one.
	if err := state.WriteJSON(sandbox.GateTurnPath(p.hand.File.Dir), gateTurn{Start: "another", Turn: 9}); err != nil {
		t.Fatal(err)
	}
	if n := heir(p); !n.resume(oldBox) || n.hand.GateToken != old {
		t.Error("another start's rotation counts")
	}
	if err := os.WriteFile(sandbox.GateTurnPath(p.hand.File.Dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if n := heir(p); !n.resume(oldBox) || n.hand.GateToken == old {
		t.Error("a broken file makes a token good")
	}
	// Nowhere to write it down: nothing changes.
	q := stood(t)
	kept := q.hand.GateToken
	q.hand.File.Dir += "/missing/\x00"
	if token, _, err := q.rotate(); err == nil || token != "" || q.hand.GateToken != kept {
		t.Errorf("%q %v", token, err)
	}
}

// TestRenewalIsForTheGuest: whoever stays learns of a new token only by the proof that the first hello
// brought; the guest gets it at once, and again until it brings what came with it. All places taken by
// others do not keep it out.
func TestRenewalIsForTheGuest(t *testing.T) {
	proof := bytes.Repeat([]byte{1}, proofSize)
	hand := &handover{secrets: secrets{GateToken: "first", Proof: proof}, Sealed: []byte("box one"), File: sandbox.File{SigningKey: make([]byte, 32)}}
	g := &guestAPI{hand: hand, record: audit.Discard, say: func(byte) error { return nil }}
	server := httptest.NewServer(g.handler())
	defer server.Close()
	stay := func(s control.Stay) (*bufio.Reader, func()) {
		t.Helper()
		s.Nonce = make([]byte, 32)
		body, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		res, err := http.Post(server.URL+"/v1/stay", "application/json", bytes.NewReader(body))
		if err != nil || res.StatusCode != http.StatusOK {
			t.Fatalf("%v %v", res, err)
		}
		r := bufio.NewReader(res.Body)
		if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, "signature") || strings.Contains(line, "first") {
			t.Fatalf("%q %v", line, err)
		}
		return r, func() { res.Body.Close() }
	}
	silent := make(chan string, 8)
	for _, s := range []control.Stay{{}, {Sealed: []byte("box one")}, {Sealed: []byte("older"), Proof: make([]byte, proofSize)}, {Proof: proof[:31]}} {
		r, end := stay(s)
		defer end()
		go func() {
			line, _ := r.ReadString('\n')
			silent <- line
		}()
	}
	guest, end := stay(control.Stay{Sealed: []byte("box one"), Proof: proof})
	if !g.wait(t.Context(), 10*time.Second, func(r *renewals) bool { return r.here == 1 && string(r.has) == "box one" }) {
		t.Fatal("the guest is not there")
	}
	g.mu.Lock()
	hand.GateToken, hand.Sealed = "second", []byte("box two")
	g.mu.Unlock()
	g.changed()
	line, err := guest.ReadString('\n')
	if err != nil || !strings.Contains(line, `"gate_token":"second"`) {
		t.Errorf("the guest heard %q %v", line, err)
	}
	end()
	guest, end = stay(control.Stay{Sealed: []byte("box one"), Proof: proof}) // it could not write it
	if line, err := guest.ReadString('\n'); err != nil || !strings.Contains(line, "second") {
		t.Errorf("again: %q %v", line, err)
	}
	end()
	_, end = stay(control.Stay{Sealed: []byte("box two"), Proof: proof})
	defer end()
	if !g.wait(t.Context(), 10*time.Second, func(r *renewals) bool { return string(r.has) == "box two" && r.here == 1 }) {
		t.Error("that it has it was not noticed")
	}
	server.CloseClientConnections()
	for range 4 {
		if line := <-silent; line != "" {
			t.Errorf("a stranger heard %q", line)
		}
	}
}
