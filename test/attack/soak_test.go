package attack

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"sync"
	"testing"
	"time"

	"terok/test/world"
)

// TestRotatingAddresses: the name's address changes each second among five, with a TTL of one second,
// under load: no connection fails, and each goes to an address that was current when it began. Ten
// minutes by `make soak` (TEROK_SOAK), ten seconds otherwise.
//
// Spec: shield.md §10, 31.
func TestRotatingAddresses(t *testing.T) {
	lasts := 10 * time.Second
	if s := os.Getenv("TEROK_SOAK"); s != "" {
		var err error
		if lasts, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	w, _ := internet(t)
	l, err := net.Listen("tcp", world.Free+":80")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(rw).Encode(world.Reply{Local: world.Free + ":80"})
	}), ReadHeaderTimeout: time.Minute}
	go srv.Serve(l)
	defer srv.Close()

	addrs := []string{"203.0.113.10", "203.0.113.20", "203.0.113.30", "198.51.100.7", world.Free}
	const ttl = time.Second
	var mu sync.Mutex
	since, until := map[string]time.Time{}, map[string]time.Time{} // when an address was the answer last
	current := ""
	turn := func(addr string) {
		t.Helper()
		mu.Lock()
		since[addr] = time.Now() // a query may see it from here on
		delete(until, addr)
		mu.Unlock()
		if err := w.Answer(t.Context(), world.Script{Name: "turns.test", Type: "A", Values: []string{addr}, TTL: 1}); err != nil {
			t.Error(err)
		}
		mu.Lock()
		if current != "" {
			until[current] = time.Now()
		}
		current = addr
		mu.Unlock()
	}
	turn(addrs[0])
	b := start(t, "--allow", "turns.test:80")
	var group sync.WaitGroup
	end := time.Now().Add(lasts)
	reached := map[string]int{}
	worst := time.Duration(0)
	for range 4 {
		group.Go(func() {
			for time.Now().Before(end) && !t.Failed() {
				begin := time.Now()
				r, code, err := b.get("http://turns.test/", nil)
				if err != nil || code != 200 {
					t.Errorf("after %v: %d %v", time.Since(end.Add(-lasts)), code, err)
					return
				}
				host, _, err := net.SplitHostPort(r.Local)
				if err != nil {
					t.Errorf("%+v: %v", r, err)
					return
				}
				mu.Lock()
				reached[host]++
				if gone, ended := until[host]; ended {
					worst = max(worst, begin.Sub(gone))
				} else if since[host].IsZero() {
					t.Errorf("%s was never its address", host)
				}
				mu.Unlock()
			}
		})
	}
	for i := 1; time.Now().Before(end) && !t.Failed(); i++ {
		time.Sleep(ttl) // the rotation is the test
		turn(addrs[i%len(addrs)])
	}
	group.Wait()
	total := 0
	for _, n := range reached {
		total += n
	}
	t.Logf("%d connections in %v to %v; begun at most %v after the address had changed", total, lasts, reached, worst)
	// An answer that is as old as its TTL is current; the rest is the machine's.
	if worst > ttl+time.Second {
		t.Errorf("a connection that began %v after the address had changed went to the old one", worst)
	}
	if len(reached) < 5 {
		t.Errorf("only %v were reached", reached)
	}
}
