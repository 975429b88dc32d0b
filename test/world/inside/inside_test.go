// Package inside proves the rig itself, inside of it:
//
//	scripts/rootless base && scripts/world run -- go test -count=1 ./test/world/inside
//
// Outside of the world it fails.
package inside

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/test/world"
)

func connect(t *testing.T) *world.Client {
	t.Helper()
	w, err := world.Connect()
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Reset(t.Context()); err != nil {
		t.Fatal(err)
	}
	return w
}

func TestOnlyLoopback(t *testing.T) {
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(links) != 1 || links[0].Name != "lo" {
		t.Errorf("links %v", links)
	}
}

func TestNamesAndServersWithTheMachinesResolver(t *testing.T) {
	w := connect(t)
	for host, want := range map[string]string{"a.test": "203.0.113.10", "lan.test": "192.168.77.7", "meta.test": "169.254.169.254"} {
		got, err := net.DefaultResolver.LookupHost(t.Context(), host)
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v %v, want %s", host, got, err, want)
		}
	}
	for _, url := range []string{"http://a.test/", "http://c.test:8080/", "http://meta.test/", "http://[2001:db8:1::10]/"} {
		resp, err := http.Get(url)
		if err != nil {
			t.Error(err)
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != 200 {
			t.Errorf("%s: %s", url, resp.Status)
		}
	}
	seen, err := w.Seen(t.Context())
	if err != nil || !strings.Contains(fmt.Sprint(seen), "lan.test") {
		t.Errorf("%v %v", seen, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if c, err := new(net.Dialer).DialContext(ctx, "tcp", "1.1.1.1:443"); err == nil {
		c.Close()
		t.Error("the world leads out")
	}
}

// TestHookRunsInTheWorld is what everything else stands on: rootless podman works here, and an OCI
// hook, from which the supervisor comes, runs in this network namespace.
func TestHookRunsInTheWorld(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	script := filepath.Join(dir, "hook")
	write := func(path, content string, mode os.FileMode) {
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	write(script, "#!/bin/sh\nexec >"+out+"\nreadlink /proc/self/ns/net\n", 0o755)
	write(filepath.Join(dir, "hook.json"), `{"version":"1.0.0","hook":{"path":"`+script+`"},"when":{"annotations":{"^world-test$":".*"}},"stages":["createRuntime"]}`, 0o644)
	b, err := exec.CommandContext(t.Context(), "podman", "--hooks-dir", dir, "run", "--rm", "--network", "none", "--annotation", "world-test=1",
		"localhost/debian:12", "sh", "-c", "echo hello; ls /sys/class/net").CombinedOutput()
	if err != nil || !strings.Contains(string(b), "hello\nlo\n") {
		t.Fatalf("%s %v", b, err)
	}
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(out); err != nil || strings.TrimSpace(string(got)) != own {
		t.Errorf("the hook ran in %q, the world is %q (%v)", got, own, err)
	}
}
