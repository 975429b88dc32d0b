package server

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

var zeroID, someID = strings.Repeat("0", 40), strings.Repeat("ab", 20)

func listOf(lines ...string) []byte {
	var out []byte
	for _, l := range lines {
		out = appendPkt(out, l)
	}
	return append(out, flushPkt...)
}

// FuzzPktLine: reading never goes past the packet, and what was written is read back.
func FuzzPktLine(f *testing.F) {
	for _, s := range []string{"0000", "0001", "0002", "0003", "0004", "0005a", "fff0", "ffff", "zzzz", "00", "000aabcdef"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		buf := make([]byte, maxPktLength)
		for {
			before := r.Len()
			kind, payload, err := readPkt(r, buf)
			if err != nil {
				if err == io.EOF && r.Len() != 0 {
					t.Fatal("end in the middle")
				}
				break
			}
			used := before - r.Len()
			if kind == pktData && used != len(payload)+4 || kind != pktData && used != 4 {
				t.Fatalf("kind %d used %d bytes for %d", kind, used, len(payload))
			}
			if kind == pktData {
				again := appendPkt(nil, string(payload))
				if k, p, err := readPkt(bytes.NewReader(again), make([]byte, maxPktLength)); err != nil || k != pktData || !bytes.Equal(p, payload) {
					t.Fatal("not read back")
				}
			}
		}
	})
}

// FuzzCommandList: a list that is accepted is bounded, and what git would get holds only branches
// that the rules allow, never less refused than judged.
func FuzzCommandList(f *testing.F) {
	caps := "\x00 report-status side-band-64k atomic"
	f.Add(listOf(zeroID+" "+someID+" refs/heads/x"+caps), "main")
	f.Add(listOf(someID+" "+zeroID+" refs/heads/main"+caps, zeroID+" "+someID+" refs/tags/v"), "main")
	f.Add(listOf("shallow "+someID, zeroID+" "+someID+" refs/replace/"+someID+caps), "x*")
	f.Add(listOf(zeroID+" "+someID+" refs/heads/x\x00push-options"), "")
	f.Add([]byte("0000"), "")
	f.Fuzz(func(t *testing.T, data []byte, protected string) {
		r := bytes.NewReader(data)
		l, err := readCommands(r, 20)
		if err != nil {
			return
		}
		if len(l.commands) > 20 || len(data)-r.Len() > maxCommandSection+4*22 {
			t.Fatal("unbounded")
		}
		l.judge([]string{protected}, map[string]string{"main": someID}, "main")
		again, err := readCommands(bytes.NewReader(l.encode()), 20)
		if err != nil {
			t.Fatalf("what git would get is malformed: %v", err)
		}
		accepted := 0
		for _, c := range l.commands {
			if c.refused == "" {
				if c2 := again.commands[accepted]; c2.ref != c.ref || c2.old != c.old || c2.new != c.new {
					t.Fatal("git would get another command")
				}
				accepted++
				if !strings.HasPrefix(c.ref, "refs/heads/") || strings.EqualFold(c.ref, "refs/heads/"+protected) ||
					c.ref == "refs/heads/main" && c.isDelete() || strings.ContainsAny(c.ref, " \x00\x1b\n") {
					t.Fatalf("accepted %q", c.ref)
				}
			}
		}
		if accepted != len(again.commands) {
			t.Fatal("git would get more")
		}
	})
}
