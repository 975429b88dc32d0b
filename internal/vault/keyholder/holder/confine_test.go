package holder

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"

	"terok/internal/state"
)

// asConfined makes the test binary a confined process that says what it still can do.
const asConfined = "TEROK_HOLDER_TEST_CONFINED"

// confinedMain prints one line "NAME yes|no" for each thing that it tries.
func confinedMain(dir string) {
	roots := state.Roots{Data: filepath.Join(dir, "data"), Runtime: filepath.Join(dir, "run")}
	if err := confine(roots); err != nil {
		fmt.Println(err)
		return
	}
	try := func(name string, err error) { fmt.Println(name, map[bool]string{true: "yes", false: "no"}[err == nil]) }
	read := func(path string) error { _, err := os.ReadFile(path); return err }
	write := func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) }
	try("write-vault", errors.Join(state.WriteFile(filepath.Join(roots.VaultDir(), "vault.age"), []byte("1")),
		os.Link(filepath.Join(roots.VaultDir(), "vault.age"), filepath.Join(roots.VaultDir(), "vault.age.1"))))
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: filepath.Join(roots.Runtime, "k.sock"), Net: "unixpacket"})
	try("listen", err)
	if err == nil {
		l.Close()
	}
	try("read-sandbox", read(filepath.Join(roots.Data, "sandbox.json")))
	try("read-proc", read("/proc/self/uid_map"))
	try("write-sandbox", write(filepath.Join(roots.Data, "sandbox.json")))
	try("new-in-data", write(filepath.Join(roots.Data, "hooks.json")))
	try("read-home", read(filepath.Join(dir, "home", "id_ed25519")))
	try("write-home", write(filepath.Join(dir, "home", "profile")))
	try("truncate-home", os.Truncate(filepath.Join(dir, "home", "id_ed25519"), 0))
	try("run", exec.Command("/bin/sh", "-c", "true").Run())
}

// TestConfined: a keyholder that was taken over reads no file of the person's, runs no program,
// and writes nothing but the vault and beside its socket.
func TestConfined(t *testing.T) {
	if v, err := ll.LandlockGetABIVersion(); err != nil || v < 3 {
		t.Skipf("this kernel's Landlock has version %d (%v)", v, err)
	}
	dir := t.TempDir()
	for _, file := range []string{"data/sandbox.json", "home/id_ed25519"} {
		path := filepath.Join(dir, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte("{}"), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), asConfined+"="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want := `write-vault yes
listen yes
read-sandbox yes
read-proc yes
write-sandbox no
new-in-data no
read-home no
write-home no
truncate-home no
run no
`
	if got := string(out); got != want {
		t.Errorf("got\n%swant\n%s", got, strings.TrimSpace(want))
	}
}
