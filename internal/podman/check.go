package podman

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"terok/internal/problem"
	"terok/internal/state"
)

// Capabilities is what the podman of this host can do; Check makes it.
type Capabilities struct {
	Podman      string   `json:"podman"` // version, e.g. "4.3.1"
	Runtime     string   `json:"runtime"`
	RuntimePath string   `json:"runtime_path"`
	Crun        string   `json:"crun"`         // version of the OCI runtime
	NetworkCmd  string   `json:"network_cmd"`  // rootless network helper of builds: slirp4netns or pasta; "" for none
	Storage     string   `json:"storage"`      // graph driver, e.g. "overlay"
	GraphRoot   string   `json:"graph_root"`   // directory of podman's images and containers
	Controllers []string `json:"controllers"`  // delegated cgroup controllers; limits of others are dropped silently
	SubIDs      int64    `json:"sub_ids"`      // size of the user's id map
	Kernel      string   `json:"kernel"`       //
	SELinux     bool     `json:"selinux"`      //
	Seccomp     string   `json:"seccomp_file"` // podman's default profile
}

// Version returns major and minor version of podman.
func (c Capabilities) Version() (major, minor int) { return parseVersion(c.Podman) }

// HasController reports whether a cgroup limit of this kind is enforced.
func (c Capabilities) HasController(name string) bool {
	for _, have := range c.Controllers {
		if have == name {
			return true
		}
	}
	return false
}

// The floor; see spec: runtime.md §3.
const (
	minMajor, minMinor         = 4, 3
	minCrunMajor, minCrunMinor = 1, 8
	minSubIDs                  = 65536
)

// cached is the file behind Runner.Cache.
type cached struct {
	Key          string       `json:"key"`
	Capabilities Capabilities `json:"capabilities"`
}

// Check asks podman what it can do, once: the answer is kept in r.Cache until podman, its
// runtime, the sub-id files or the generated configuration change. What is missing comes back as
// a Problem with exit code 10 that names the floor and the cure.
func (r *Runner) Check(ctx context.Context) (Capabilities, error) {
	if err := refuseRoot("/proc/self/uid_map", os.Geteuid()); err != nil {
		return Capabilities{}, err
	}
	path, err := r.program()
	if err != nil {
		return Capabilities{}, err
	}
	key := fingerprint(path, "/usr/bin/crun", "/etc/subuid", "/etc/subgid", r.Conf)
	if r.Cache != "" {
		var c cached
		if err := state.ReadJSON(r.Cache, &c); err == nil && c.Key == key {
			return c.Capabilities, c.Capabilities.floor()
		}
	}
	out, err := r.query(ctx, "itself", "info", "--format", "json")
	if err != nil {
		return Capabilities{}, explainInfo(err)
	}
	caps, err := parseInfo(out)
	if err != nil {
		return Capabilities{}, queryFailed("itself", err)
	}
	if err := caps.floor(); err != nil {
		return caps, err
	}
	if r.Cache != "" {
		// Only a memory: a full disk must not stop a command that could work.
		_ = state.WriteJSON(r.Cache, cached{Key: key, Capabilities: caps})
	}
	return caps, nil
}

// fingerprint changes when one of the files does.
func fingerprint(paths ...string) string {
	var b strings.Builder
	for _, p := range paths {
		if fi, err := os.Stat(p); err == nil {
			fmt.Fprintf(&b, "%s:%d:%d ", p, fi.Size(), fi.ModTime().UnixNano())
		} else {
			fmt.Fprintf(&b, "%s:- ", p)
		}
	}
	return b.String()
}

// refuseRoot keeps podman from running as root of the host. Uid 0 of a user namespace (podman
// unshare, a nested podman) is not that.
func refuseRoot(uidMap string, euid int) error {
	if euid != 0 {
		return nil
	}
	f, err := os.Open(uidMap)
	if err != nil {
		return fmt.Errorf("find out whether this is root: %w", err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Scan()
	if f := strings.Fields(sc.Text()); len(f) == 3 && f[0] == "0" && f[1] != "0" {
		return nil
	}
	return problem.New("runtime_unavailable", problem.Runtime, "terok does not run containers as root: a mistake would be the machine's").
		WithHint("run terok as an ordinary user")
}

type info struct {
	Host struct {
		CgroupControllers []string `json:"cgroupControllers"`
		Kernel            string   `json:"kernel"`
		IDMappings        struct {
			UIDMap []struct {
				Size int64 `json:"size"`
			} `json:"uidmap"`
		} `json:"idMappings"`
		OCIRuntime struct {
			Name    string `json:"name"`
			Path    string `json:"path"`
			Version string `json:"version"`
		} `json:"ociRuntime"`
		NetworkCmd string `json:"rootlessNetworkCmd"` // podman 5
		Slirp      struct {
			Executable string `json:"executable"`
		} `json:"slirp4netns"`
		Security struct {
			Rootless bool   `json:"rootless"`
			SELinux  bool   `json:"selinuxEnabled"`
			Seccomp  string `json:"seccompProfilePath"`
		} `json:"security"`
	} `json:"host"`
	Store struct {
		Driver string `json:"graphDriverName"`
		Root   string `json:"graphRoot"`
	} `json:"store"`
	Version struct {
		Version string `json:"Version"`
	} `json:"version"`
}

func parseInfo(out []byte) (Capabilities, error) {
	var i info
	if err := json.Unmarshal(out, &i); err != nil {
		return Capabilities{}, fmt.Errorf("podman info printed: %w", err)
	}
	if i.Version.Version == "" {
		return Capabilities{}, errors.New("podman info printed no version")
	}
	c := Capabilities{Podman: i.Version.Version, Runtime: i.Host.OCIRuntime.Name, RuntimePath: i.Host.OCIRuntime.Path,
		NetworkCmd: i.Host.NetworkCmd, Storage: i.Store.Driver, GraphRoot: i.Store.Root, Controllers: i.Host.CgroupControllers,
		Kernel: i.Host.Kernel, SELinux: i.Host.Security.SELinux, Seccomp: i.Host.Security.Seccomp}
	if c.NetworkCmd == "" && i.Host.Slirp.Executable != "" {
		c.NetworkCmd = "slirp4netns"
	}
	if m := runtimeVersion.FindStringSubmatch(i.Host.OCIRuntime.Version); m != nil {
		c.Crun = m[1]
	}
	for _, m := range i.Host.IDMappings.UIDMap {
		c.SubIDs += m.Size
	}
	if !i.Host.Security.Rootless {
		return c, errors.New("podman says that it is not rootless")
	}
	return c, nil
}

var runtimeVersion = regexp.MustCompile(`version v?(\d+\.\d+[.\d]*)`)

// floor says what is missing on this host.
func (c Capabilities) floor() error {
	fail := func(hint, format string, args ...any) error {
		return problem.New("runtime_unavailable", problem.Runtime, format, args...).WithHint("%s", hint)
	}
	if major, minor := parseVersion(c.Podman); major < minMajor || major == minMajor && minor < minMinor {
		return fail("install a newer podman", "podman %s is too old: terok needs %d.%d", c.Podman, minMajor, minMinor)
	}
	if c.Runtime != "crun" {
		return fail("install crun, then: podman info", "podman uses the OCI runtime %q: terok needs crun %d.%d", c.Runtime, minCrunMajor, minCrunMinor)
	}
	if major, minor := parseVersion(c.Crun); major < minCrunMajor || major == minCrunMajor && minor < minCrunMinor {
		return fail("install a newer crun", "crun %s is too old: terok needs %d.%d", c.Crun, minCrunMajor, minCrunMinor)
	}
	if c.SubIDs < minSubIDs {
		return fail("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER && podman system migrate",
			"this user has %d sub-ids: rootless podman needs %d in /etc/subuid and /etc/subgid", max(c.SubIDs-1, 0), minSubIDs)
	}
	return nil
}

func parseVersion(s string) (major, minor int) {
	a, rest, _ := strings.Cut(s, ".")
	b, _, _ := strings.Cut(rest, ".")
	major, _ = strconv.Atoi(a)
	minor, _ = strconv.Atoi(strings.TrimRight(b, "-devrc"))
	return major, minor
}

// explainInfo adds the cure to the usual reasons why rootless podman does not start at all.
func explainInfo(err error) error {
	s := err.Error()
	hint := ""
	switch {
	case strings.Contains(s, "newuidmap"):
		hint = "sudo apt install uidmap   (newuidmap and newgidmap)"
	case strings.Contains(s, "subuid") || strings.Contains(s, "subgid"):
		hint = "sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 $USER && podman system migrate"
	case strings.Contains(s, "pause process"):
		hint = "podman system migrate   (podman's own process was killed; your containers stay)"
	case strings.Contains(s, "cannot clone") || strings.Contains(s, "user namespaces"):
		hint = "sudo sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=28633"
	default:
		return err
	}
	return problem.New("runtime_unavailable", problem.Runtime, "%w", err).WithHint("%s", hint)
}

func ownedByUs(fi fs.FileInfo) bool {
	st, ok := fi.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Getuid()
}
