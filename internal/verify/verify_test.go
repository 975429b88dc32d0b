package verify

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"terok/internal/control"
)

// printed is what a probe with these outcomes prints; rows that are left out hold.
func printed(t *testing.T, change map[string]control.VerifyRow) []byte {
	t.Helper()
	var b strings.Builder
	enc := json.NewEncoder(&b)
	for _, g := range Table() {
		r, ok := change[g.Row]
		if !ok {
			r = control.VerifyRow{OK: true, Proof: "refused"}
		}
		r.Row = g.Row
		if err := enc.Encode(r); err != nil {
			t.Fatal(err)
		}
	}
	return []byte(b.String())
}

func openTargets(t *testing.T) *Targets {
	t.Helper()
	targets, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(targets.Close)
	return targets
}

func dial(t *testing.T, port uint16) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

// echo does what a probe with an allowed target does.
func echo(t *testing.T, targets *Targets) {
	t.Helper()
	c := dial(t, targets.Plan().Allowed)
	fmt.Fprintf(c, "%s?\n", control.EchoWord)
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil || line != control.EchoWord+targets.Plan().Nonce+"\n" {
		t.Fatalf("%q %v", line, err)
	}
}

func run(t *testing.T, targets *Targets, out []byte, sent func(context.Context) (uint64, error)) *Report {
	t.Helper()
	r, err := targets.Run(t.Context(), targets.Plan(), func(context.Context, []byte) ([]byte, error) { return out, nil }, sent)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func failing(r *Report) (rows []string) {
	for _, row := range r.Rows {
		if !row.OK {
			rows = append(rows, row.Row)
		}
	}
	return rows
}

func TestReport(t *testing.T) {
	targets := openTargets(t)
	if got := failing(run(t, targets, printed(t, nil), nil)); fmt.Sprint(got) != "[allowed-target]" {
		t.Errorf("a probe that never reached the allowed target: %v", got)
	}
	echo(t, targets)
	r := run(t, targets, printed(t, nil), func(context.Context) (uint64, error) { return 5, nil })
	if !r.OK || r.Failed != 0 || len(r.Rows) != len(Table()) {
		t.Errorf("%+v", r)
	}
	asked := uint64(0)
	if got := failing(run(t, targets, printed(t, nil), func(context.Context) (uint64, error) { asked++; return asked, nil })); fmt.Sprint(got) != "[dns-tunnel]" {
		t.Errorf("a question went out: %v", got)
	}
	if got := failing(run(t, targets, printed(t, map[string]control.VerifyRow{"udp": {Proof: "a hole"}}), nil)); fmt.Sprint(got) != "[udp]" {
		t.Error(got)
	}
}

// The witnesses on the host outweigh what the probe says, which runs beside a workload.
func TestWitnesses(t *testing.T) {
	targets := openTargets(t)
	echo(t, targets)
	_ = tls.Client(dial(t, targets.Plan().Allowed), &tls.Config{ServerName: hostName, InsecureSkipVerify: true}).Handshake()
	if got := failing(run(t, targets, printed(t, nil), nil)); len(got) != 0 {
		t.Fatal(got)
	}
	_ = tls.Client(dial(t, targets.Plan().Allowed), &tls.Config{ServerName: "evil.example", InsecureSkipVerify: true}).Handshake()
	if got := failing(run(t, targets, printed(t, nil), nil)); fmt.Sprint(got) != "[sni]" {
		t.Error(got)
	}
	c := dial(t, targets.Plan().Closed)
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if res, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || res.StatusCode != 200 { // it arrived
		t.Fatal(err)
	}
	if got := failing(run(t, targets, printed(t, nil), nil)); fmt.Sprint(got) != "[host-loopback sni]" {
		t.Error(got)
	}
}

func TestHostileProbe(t *testing.T) {
	targets := openTargets(t)
	echo(t, targets)
	all := string(printed(t, nil))
	for what, out := range map[string]string{
		"no rows":         "",
		"some rows":       strings.Join(strings.SplitAfter(all, "\n")[:5], ""),
		"a row twice":     strings.Replace(all, `{"row":"udp","ok":true`, `{"row":"udp","ok":false,"proof":"","ms":0}`+"\n"+`{"row":"udp","ok":true`, 1),
		"a row of others": strings.Replace(all, `"row":"udp"`, `"row":"UDP"`, 1),
	} {
		if r := run(t, targets, []byte(out), nil); r.OK {
			t.Errorf("%s: it passes", what)
		}
	}
	for _, out := range []string{"ok\n", "[]\n", all + "\x00"} {
		if _, err := targets.Run(t.Context(), targets.Plan(), func(context.Context, []byte) ([]byte, error) { return []byte(out), nil }, nil); err == nil {
			t.Errorf("%.20q is a report", out)
		}
	}
	hostile := control.VerifyRow{OK: true, Proof: "\x1b]0;title\x07" + strings.Repeat("x", 4000)}
	for _, row := range run(t, targets, printed(t, map[string]control.VerifyRow{"udp": hostile}), nil).Rows {
		if strings.ContainsAny(row.Proof, "\x1b\x07\n") || len(row.Proof) > 1000 {
			t.Errorf("%q", row.Proof)
		}
	}
	broken := errors.New("podman ended")
	if _, err := targets.Run(t.Context(), targets.Plan(), func(context.Context, []byte) ([]byte, error) { return nil, broken }, nil); !errors.Is(err, broken) {
		t.Error(err)
	}
}

func FuzzRows(f *testing.F) {
	f.Add([]byte(`{"row":"udp","ok":true,"proof":"refused","ms":3}` + "\n"))
	f.Add([]byte("{}\n{}\n"))
	f.Add([]byte(`{"row":"a","ok":true}{"row":"b"}`))
	f.Fuzz(func(t *testing.T, out []byte) {
		rows, err := parse(out)
		if err != nil {
			return
		}
		if r := report(rows, 0); r.OK && len(rows) < len(table) {
			t.Error("rows are missing and it passes")
		}
	})
}
