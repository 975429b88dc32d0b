package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Seccomp is a seccomp profile in the part of the OCI runtime specification that we use
// (linux.seccomp). A profile of this form, without architecture maps and conditions, goes through
// podman unchanged, so that the hook can compare what the container gets with what the launcher
// wrote.
type Seccomp struct {
	DefaultAction    string           `json:"defaultAction"`
	DefaultErrnoRet  *uint            `json:"defaultErrnoRet,omitempty"`
	Architectures    []string         `json:"architectures,omitempty"`
	Flags            []string         `json:"flags,omitempty"`
	ListenerPath     string           `json:"listenerPath,omitempty"`
	ListenerMetadata string           `json:"listenerMetadata,omitempty"`
	Syscalls         []SeccompSyscall `json:"syscalls,omitempty"`
}

// SeccompSyscall is one rule of a profile.
type SeccompSyscall struct {
	Names    []string     `json:"names"`
	Action   string       `json:"action"`
	ErrnoRet *uint        `json:"errnoRet,omitempty"`
	Args     []SeccompArg `json:"args,omitempty"`
}

// SeccompArg is a condition on one argument of a system call.
type SeccompArg struct {
	Index    uint   `json:"index"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo,omitempty"`
	Op       string `json:"op"`
}

// Digest is the hex SHA-256 of what the profile does: the order of architectures, rules and names
// does not matter, every other difference does.
func (s *Seccomp) Digest() string {
	lines := []string{fmt.Sprintf("default %s %s", s.DefaultAction, errno(s.DefaultErrnoRet)),
		fmt.Sprintf("listener %q %q", s.ListenerPath, s.ListenerMetadata)}
	for _, a := range s.Architectures {
		lines = append(lines, "architecture "+a)
	}
	for _, f := range s.Flags {
		lines = append(lines, "flag "+f)
	}
	for _, c := range s.Syscalls {
		args := slices.Clone(c.Args)
		slices.SortFunc(args, func(a, b SeccompArg) int {
			return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
		})
		cond, _ := json.Marshal(args) // integers and strings always encode
		if len(args) == 0 {
			cond = nil
		}
		for _, n := range c.Names {
			lines = append(lines, fmt.Sprintf("syscall %q %s %s %s", n, c.Action, errno(c.ErrnoRet), cond))
		}
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(slices.Compact(lines), "\n")))
	return hex.EncodeToString(sum[:])
}

func errno(v *uint) string {
	if v == nil {
		return "-"
	}
	return fmt.Sprint(*v)
}
