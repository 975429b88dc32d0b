package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
)

// Bounds of what the OCI runtime hands to a hook, in bytes.
const (
	maxState = 1 << 20
	maxSpec  = 8 << 20
)

// ociState is what a hook gets on stdin (OCI runtime specification, "State").
type ociState struct {
	ID          string            `json:"id"`
	PID         int               `json:"pid"`
	Bundle      string            `json:"bundle"`
	Annotations map[string]string `json:"annotations"`
}

// ociSpec is the part of the bundle's config.json that the hook judges.
type ociSpec struct {
	Process struct {
		Args            []string            `json:"args"`
		Capabilities    map[string][]string `json:"capabilities"`
		NoNewPrivileges bool                `json:"noNewPrivileges"`
	} `json:"process"`
	Mounts []ociMount `json:"mounts"`
	Linux  struct {
		Namespaces []struct {
			Type string `json:"type"`
			Path string `json:"path"`
		} `json:"namespaces"`
		Seccomp json.RawMessage `json:"seccomp"`
	} `json:"linux"`
}

type ociMount struct {
	Destination string   `json:"destination"`
	Type        string   `json:"type"`
	Source      string   `json:"source"`
	Options     []string `json:"options"`
}

var containerID = regexp.MustCompile(`^[0-9a-f]{64}$`)

// parseState reads the state that the runtime sends.
func parseState(r io.Reader) (*ociState, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxState+1))
	if err != nil {
		return nil, fmt.Errorf("read the OCI state: %w", err)
	}
	if len(data) > maxState {
		return nil, errors.New("the OCI state is too large")
	}
	var s ociState
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("the OCI state is not JSON: %w", err)
	}
	if !containerID.MatchString(s.ID) {
		return nil, fmt.Errorf("the OCI state has the container id %q", s.ID)
	}
	if s.PID <= 1 {
		return nil, fmt.Errorf("the OCI state has the pid %d", s.PID)
	}
	if !filepath.IsAbs(s.Bundle) {
		return nil, fmt.Errorf("the OCI state has the bundle %q", s.Bundle)
	}
	return &s, nil
}

// readSpec reads the final OCI specification of a bundle.
func readSpec(bundle string) (*ociSpec, error) {
	f, err := os.OpenFile(filepath.Join(bundle, "config.json"), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open the OCI specification: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSpec+1))
	if err != nil {
		return nil, fmt.Errorf("read the OCI specification: %w", err)
	}
	if len(data) > maxSpec {
		return nil, errors.New("the OCI specification is too large")
	}
	return parseSpec(data)
}

func parseSpec(data []byte) (*ociSpec, error) {
	var s ociSpec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("the OCI specification is not JSON: %w", err)
	}
	return &s, nil
}

// privateNamespaces are those that a container of ours has for itself.
var privateNamespaces = []string{"cgroup", "ipc", "mount", "network", "pid", "user", "uts"}

// check refuses a specification that gives the container more than its sandbox file says.
func (s *ociSpec) check(f *sandbox.File) error {
	for _, err := range []error{s.checkNamespaces(), s.checkPrivileges(f), s.checkSeccomp(f), s.checkMounts(), s.checkGuest(f)} {
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *ociSpec) checkNamespaces() error {
	var have []string
	for _, ns := range s.Linux.Namespaces {
		if ns.Path != "" {
			return fmt.Errorf("the container joins another's %s namespace (%s)", ns.Type, ns.Path)
		}
		have = append(have, ns.Type)
	}
	for _, want := range privateNamespaces {
		if !slices.Contains(have, want) {
			return fmt.Errorf("the container has no %s namespace of its own", want)
		}
	}
	return nil
}

func (s *ociSpec) checkPrivileges(f *sandbox.File) error {
	for set, caps := range s.Process.Capabilities {
		for _, c := range caps {
			if !slices.Contains(f.Bounding, c) {
				return fmt.Errorf("the container has %s in its %s set", c, set)
			}
		}
	}
	if f.NoNewPrivs && !s.Process.NoNewPrivileges {
		return errors.New("the container may gain new privileges")
	}
	return nil
}

func (s *ociSpec) checkSeccomp(f *sandbox.File) error {
	if len(s.Linux.Seccomp) == 0 {
		return errors.New("the container has no seccomp profile")
	}
	var profile sandbox.Seccomp
	dec := json.NewDecoder(strings.NewReader(string(s.Linux.Seccomp)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&profile); err != nil {
		return fmt.Errorf("the container's seccomp profile cannot be read: %w", err)
	}
	if d := profile.Digest(); d != f.SeccompSHA256 {
		return fmt.Errorf("the container's seccomp profile has the digest %.12s, not %.12s", d, f.SeccompSHA256)
	}
	return nil
}

// checkGuest makes sure that the first process is our guest, from our read-only copy. What else
// is mounted there is checkMounts' business.
func (s *ociSpec) checkGuest(f *sandbox.File) error {
	if a := s.Process.Args; len(a) < 3 || a[0] != sandbox.GuestProgram || a[1] != "guest" || a[2] != "init" {
		return fmt.Errorf("the container's first process is not terok's guest but %.80q", a)
	}
	found := false
	for _, m := range s.Mounts {
		dest := filepath.Clean(m.Destination)
		switch {
		case dest == sandbox.GuestProgram && m.Type == "bind" && slices.Contains(m.Options, "ro"):
			if err := checkGuestFile(m.Source, f.GuestSHA256); err != nil {
				return err
			}
			if found {
				return errors.New("terok's guest is mounted twice")
			}
			found = true
		case dest == sandbox.GuestProgram:
			return fmt.Errorf("the container mounts %s over terok's guest", m.Source)
		}
	}
	if !found {
		return errors.New("terok's guest is not mounted")
	}
	return nil
}

// checkGuestFile wants the copy that the launcher made: in a directory named for its digest, ours
// and not writable by others. Its content was digested when it was made.
func checkGuestFile(path, digest string) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("terok's guest %s: %w", path, err)
	}
	if filepath.Base(filepath.Dir(path)) != digest || st.Mode&unix.S_IFMT != unix.S_IFREG ||
		int(st.Uid) != os.Geteuid() || st.Mode&0o222 != 0 {
		return fmt.Errorf("%s is not the guest of this sandbox", path)
	}
	return nil
}
