package launch

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/podman"
	"terok/internal/sandbox"
)

// bounding is what root may do in a container of privilege Sudo: podman's default set less
// SETFCAP and SETPCAP (spec: runtime.md §4.2).
var bounding = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_NET_BIND_SERVICE", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT"}

// dropped are all other capabilities. They are dropped one by one: with a user that is not root,
// podman would turn an added capability into one that the user has without sudo.
var dropped = []string{"AUDIT_CONTROL", "AUDIT_READ", "AUDIT_WRITE", "BLOCK_SUSPEND", "BPF", "CHECKPOINT_RESTORE",
	"DAC_READ_SEARCH", "IPC_LOCK", "IPC_OWNER", "LEASE", "LINUX_IMMUTABLE", "MAC_ADMIN", "MAC_OVERRIDE", "MKNOD",
	"NET_ADMIN", "NET_BROADCAST", "NET_RAW", "PERFMON", "SETFCAP", "SETPCAP", "SYS_ADMIN", "SYS_BOOT", "SYS_MODULE",
	"SYS_NICE", "SYS_PACCT", "SYS_PTRACE", "SYS_RAWIO", "SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "SYSLOG",
	"WAKE_ALARM"}

// Limits of a container.
const (
	pidsLimit   = 4096
	processes   = 8192 // RLIMIT_NPROC, enforced also where cgroup limits are not
	openFiles   = 65536
	stopTimeout = 10 // seconds
	shmSize     = "1g"
	memoryPart  = 75 // per cent of the machine's memory
)

// plan is a launch with everything that podman's arguments need.
type plan struct {
	spec     Spec
	file     sandbox.File
	image    string // id
	seccomp  string // path of the profile
	guest    string // path of the guest's copy
	resolv   string // path of the container's resolv.conf
	mounts   []Mount
	caps     podman.Capabilities
	detach   bool
	hostname string
}

// argv are the arguments after "podman run".
func (p *plan) argv() []string {
	s, f := &p.spec, &p.file
	a := []string{"--cidfile", f.CIDFile, "--name", f.Name, "--hostname", p.hostname, "--pull=never",
		"--network=none", "--userns=keep-id:uid=1000,gid=1000", "--user=1000:1000", "--workdir=/",
		"--cgroupns=private", "--ipc=private", "--pid=private", "--uts=private",
		"--annotation", sandbox.Annotation + "=" + sandbox.Path(f.Dir)}
	if p.detach {
		a = append(a, "--detach")
	}
	for _, l := range [][2]string{{sandbox.LabelManaged, "1"}, {sandbox.LabelName, f.Key}, {sandbox.LabelProject, f.Project},
		{sandbox.LabelTask, f.Task}, {sandbox.LabelMode, f.Mode}, {sandbox.LabelLaunch, f.Launch}, {sandbox.LabelDir, f.Dir}} {
		a = append(a, "--label", l[0]+"="+l[1])
	}
	a = append(a, "--security-opt", "seccomp="+p.seccomp,
		"--security-opt", "mask=/proc/keys:/proc/sysrq-trigger:/sys/firmware")
	if s.Privilege == None {
		a = append(a, "--cap-drop=all", "--security-opt", "no-new-privileges")
	} else {
		for _, c := range dropped {
			a = append(a, "--cap-drop="+c)
		}
	}
	a = append(a, p.limits()...)
	a = append(a, "--log-driver=k8s-file", "--log-opt", "max-size=50mb", "--http-proxy=false", "--no-healthcheck",
		"--systemd=false", "--image-volume=ignore", "--stop-timeout", strconv.Itoa(s.StopTimeout),
		"--tmpfs", "/run/terok:rw,nosuid,nodev,noexec,mode=1777,size=64m,notmpcopyup",
		"--volume", p.guest+":"+sandbox.GuestProgram+":ro,nosuid,nodev,z",
		"--volume", p.resolv+":/etc/resolv.conf:ro,nosuid,nodev,noexec,z")
	for _, m := range p.mounts {
		a = append(a, "--volume", m.Source+":"+m.Target+":"+m.options())
	}
	if s.TTY {
		a = append(a, "--tty")
	}
	if s.Stdin {
		a = append(a, "--interactive")
	}
	if s.Remove {
		a = append(a, "--rm")
	}
	// The image's own entrypoint must not run before the guest: a JSON list replaces it whole.
	entrypoint, _ := json.Marshal([]string{sandbox.GuestProgram, "guest", "init"}) // strings always encode
	a = append(a, "--entrypoint", string(entrypoint), p.image, "--key="+publicKey(f.SigningKey), "--")
	return append(a, s.Argv...)
}

// limits keep a runaway from taking the host. Those of cgroups are only given where they work:
// podman drops them silently elsewhere.
func (p *plan) limits() []string {
	a := []string{"--ulimit", "core=0:0", "--ulimit", "nofile=1024:" + strconv.FormatUint(atMost(unix.RLIMIT_NOFILE, openFiles), 10),
		"--shm-size", p.spec.ShmSize}
	n := strconv.FormatUint(atMost(unix.RLIMIT_NPROC, processes), 10)
	a = append(a, "--ulimit", "nproc="+n+":"+n, "--pids-limit", strconv.Itoa(p.spec.PidsLimit))
	if p.caps.HasController("memory") {
		bytes := uint64(p.spec.Memory)
		var info unix.Sysinfo_t
		if bytes == 0 && unix.Sysinfo(&info) == nil {
			bytes = uint64(info.Totalram) * uint64(info.Unit) / 100 * memoryPart
		}
		if bytes > 0 {
			n := strconv.FormatUint(bytes, 10)
			a = append(a, "--memory", n, "--memory-swap", n)
		}
	}
	if p.spec.CPUs != "" && p.caps.HasController("cpu") {
		a = append(a, "--cpus", p.spec.CPUs)
	}
	return a
}

// atMost is a limit that the operator may set: a hard limit above their own fails the start.
func atMost(resource int, want uint64) uint64 {
	var own unix.Rlimit
	if err := unix.Getrlimit(resource, &own); err != nil {
		return want
	}
	return min(want, own.Max)
}

func (m Mount) options() string {
	o := []string{"nosuid", "nodev"}
	if m.ReadOnly {
		o = append(o, "ro")
	} else {
		o = append(o, "rw")
	}
	if m.NoExec {
		o = append(o, "noexec")
	}
	return strings.Join(o, ",")
}

// publicKey is the half of the signing key that the container may know.
func publicKey(seed []byte) string {
	key := ed25519.NewKeyFromSeed(seed).Public().(ed25519.PublicKey)
	return base64.RawURLEncoding.EncodeToString(key)
}

// hostname is at most 63 characters of what a host name may hold.
func hostname(key string) string {
	h := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-' {
			return r
		}
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return '-'
	}, key)
	if h = strings.Trim(h, "-"); h == "" {
		h = "sandbox"
	}
	if len(h) > 63 { // keep the end apart: two long names must not become one
		h = h[:54] + "-" + shortSum(key)
	}
	return h
}

// checkPlainPath refuses paths that podman's lists of options would take apart.
func checkPlainPath(path string) error {
	if strings.ContainsAny(path, ",:\"\n\r\x00") {
		return fmt.Errorf("terok's directory %s has a comma, colon or quote in its path, which podman cannot take", path)
	}
	return nil
}

// userHome is where forbidden files of a person are looked for.
func userHome(environ func(string) string) string {
	if h := environ("HOME"); h != "" {
		return h
	}
	h, _ := os.UserHomeDir()
	return h
}
