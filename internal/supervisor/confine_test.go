package supervisor

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
	"terok/internal/sandbox/landlock"
)

// confinedEnv makes the test binary be the worker that TestLandlockIsRequired is about.
const confinedEnv = "SUPERVISOR_TEST_CONFINED"

// TestLandlockIsRequired: on a kernel that cannot confine the worker's files it does not serve,
// unless the sandbox file says that it may; on one that can, they are confined either way.
func TestLandlockIsRequired(t *testing.T) {
	if how := os.Getenv(confinedEnv); how != "" {
		confined(t, how)
		return
	}
	for how, want := range map[string]string{
		"with required":    "confined",
		"with optional":    "confined",
		"without required": "refused",
		"without optional": "open",
	} {
		if landlock.ABI() < landlock.Required && strings.HasPrefix(how, "with ") {
			continue // this kernel is the other case
		}
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestLandlockIsRequired$", "-test.v")
		cmd.Env = append(os.Environ(), confinedEnv+"="+how, confinedEnv+"_DIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "the worker is "+want+"\n") {
			t.Errorf("Landlock %s: not %s: %v\n%s", how, want, err, out)
		}
	}
}

func confined(t *testing.T, how string) {
	dir := os.Getenv(confinedEnv + "_DIR") // not its own: it could not remove it
	for _, d := range []string{sandbox.PolicyPath(dir), sandbox.LedgerPath(dir)} {
		if err := os.MkdirAll(filepath.Dir(d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if strings.HasPrefix(how, "without ") { // as a kernel that does not know the call
		f := seccomp.Filter{NoNewPrivs: true, Flag: seccomp.FilterFlagTSync, Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow, Syscalls: []seccomp.SyscallGroup{
				{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"landlock_create_ruleset"}}}}}
		if err := seccomp.LoadFilter(f); err != nil {
			t.Fatal(err)
		}
	}
	h := &handover{File: sandbox.File{Dir: dir, WithoutLandlock: strings.HasSuffix(how, "optional")}}
	if err := restrictFiles(h); err != nil {
		t.Log(err)
		println("the worker is refused")
		return
	}
	if _, err := os.ReadDir("/usr"); errors.Is(err, unix.EACCES) {
		println("the worker is confined")
	} else if err == nil {
		println("the worker is open")
	}
}
