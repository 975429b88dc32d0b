package project

import (
	"fmt"
	"path"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/config"
	"terok/internal/gate/refname"
	"terok/internal/gate/store"
)

// Gate is the section of the git gate.
type Gate struct {
	Enabled       bool     `yaml:"enabled"`   // off only in online projects: tasks clone from upstream
	Path          string   `yaml:"path"`      // directory of the mirror, which projects of one upstream may share
	Protected     []string `yaml:"protected"` // branches that no task may push, besides its view of upstream
	RequireReview string   `yaml:"require_review" oneof:"none branch commit"`
	Promote       struct {
		BranchTemplate string `yaml:"branch_template"` // at upstream; {task}, {name} and {branch} are filled in
		AllowProtected bool   `yaml:"allow_protected"` // upstream's default branch and gate.protected may be promoted to
	} `yaml:"promote"`
	Branches []string `yaml:"branches"`  // the branches of upstream that are mirrored; none: all
	FsckSkip []string `yaml:"fsck_skip"` // full ids of objects of upstream that git's checks refuse, and that are wanted nevertheless
	Push     Push     `yaml:"push"`
	QuotaMB  int      `yaml:"quota_mb"` // of each task's repository beside the base; at least 16
	Backups  struct {
		Enabled       bool `yaml:"enabled"`        // keep what a sync replaces
		RetentionDays int  `yaml:"retention_days"` // 0: for ever
		KeepMin       int  `yaml:"keep_min"`       // of each branch, however old
	} `yaml:"backups"`
	AutoApplyLossless bool `yaml:"auto_apply_lossless"` // take upstream's side unasked where nothing is lost
	GCDays            int  `yaml:"gc_days"`             // how long unreachable objects stay; at least 1
	LFS               LFS  `yaml:"lfs"`                 // off, proxy
	// LFSURL is the address of upstream's LFS server, https only; "": what follows from the upstream's own.
	LFSURL string `yaml:"lfs_url"`
	// Submodules are the addresses of submodules that are mirrored and served to tasks, where the
	// default branch names them; every other one is only shown.
	Submodules []string `yaml:"submodules"`
}

// LFS is what the gate does about files that a repository keeps in Git LFS.
type LFS string

// With LFSOff neither host nor container asks an LFS server, and pointers stay pointers. With LFSProxy
// the host mirrors the files at each sync, and tasks get them from the gate.
const (
	LFSOff   LFS = "off"
	LFSProxy LFS = "proxy"
)

// UnmarshalText takes a word.
func (l *LFS) UnmarshalText(word []byte) error {
	switch *l = LFS(word); *l {
	case LFSOff, LFSProxy:
		return nil
	}
	return fmt.Errorf("%q is neither off nor proxy", word)
}

// Push bounds what a task may push.
type Push struct {
	MaxPackMB int    `yaml:"max_pack_mb"` // of one push
	MaxFileMB int    `yaml:"max_file_mb"` // of one file
	MaxRefs   int    `yaml:"max_refs"`    // branches in one push
	Fsck      string `yaml:"fsck" oneof:"strict warn"`
	Secrets   string `yaml:"secrets" oneof:"refuse flag"`
}

// Gatekeeping is the section of what happens without being asked.
type Gatekeeping struct {
	// ExposeExternalRemote adds a remote "external" with the upstream's URL, without credentials and
	// without a rule that would open its server.
	ExposeExternalRemote bool `yaml:"expose_external_remote"`
	UpstreamPolling      struct {
		Enabled         bool `yaml:"enabled"`
		IntervalMinutes int  `yaml:"interval_minutes"` // at least 1
	} `yaml:"upstream_polling"`
	AutoSync struct {
		Enabled  bool     `yaml:"enabled"`
		Branches []string `yaml:"branches"` // none: the default branch
	} `yaml:"auto_sync"`
	ReviewLag struct { // how far tasks are from reviews that are open at the forge
		Enabled        bool `yaml:"enabled"`
		SurfaceInTasks bool `yaml:"surface_in_tasks"` // tell the tasks, in ~/.terok/review-status
	} `yaml:"review_lag"`
}

// gateDefaults is what the sections mean when they are empty.
func (c *Config) gateDefaults() {
	c.Gate.Enabled = true
	c.Gate.Push = Push{MaxPackMB: 512, MaxFileMB: 100, MaxRefs: 500, Fsck: "strict", Secrets: "refuse"}
	c.Gate.QuotaMB, c.Gate.GCDays, c.Gate.LFS = 2048, 14, LFSOff
	c.Gate.Backups.Enabled, c.Gate.Backups.RetentionDays, c.Gate.Backups.KeepMin = true, 30, 3
	c.Gatekeeping.UpstreamPolling.Enabled, c.Gatekeeping.UpstreamPolling.IntervalMinutes = true, 5
	c.Gatekeeping.ReviewLag.Enabled, c.Gatekeeping.ReviewLag.SurfaceInTasks = true, true
}

func (c *Config) validateGate() []config.FieldError {
	var bad []config.FieldError
	fail := func(path, format string, args ...any) {
		bad = append(bad, config.FieldError{Path: path, Message: fmt.Sprintf(format, args...)})
	}
	within := func(path string, v, least, most int) {
		if v < least || v > most {
			fail(path, "must be from %d to %d", least, most)
		}
	}
	within("gate.push.max_pack_mb", c.Gate.Push.MaxPackMB, 1, 64<<10)
	within("gate.push.max_file_mb", c.Gate.Push.MaxFileMB, 1, 64<<10)
	within("gate.push.max_refs", c.Gate.Push.MaxRefs, 1, 10_000)
	within("gate.quota_mb", c.Gate.QuotaMB, 16, 16<<20)
	within("gate.gc_days", c.Gate.GCDays, 1, 3650)
	within("gate.backups.retention_days", c.Gate.Backups.RetentionDays, 0, 36500)
	within("gate.backups.keep_min", c.Gate.Backups.KeepMin, 0, 10_000)
	within("gatekeeping.upstream_polling.interval_minutes", c.Gatekeeping.UpstreamPolling.IntervalMinutes, 1, 7*24*60)
	for i, id := range c.Gate.FsckSkip {
		if len(id) != 40 && len(id) != 64 || strings.Trim(id, "0123456789abcdef") != "" {
			fail(fmt.Sprintf("gate.fsck_skip[%d]", i), "must be the full id of an object, 40 or 64 digits of 0-9 and a-f")
		}
	}
	if address := c.Gate.LFSURL; address != "" {
		if up, err := store.ParseUpstream(address); err != nil || up.Protocol != "https" {
			fail("gate.lfs_url", "must be https://HOST/PATH, without user and password")
		}
	}
	if at := c.Gate.Path; at != "" && (!filepath.IsAbs(at) || strings.ContainsFunc(at, func(r rune) bool { return r < 0x20 || r == 0x7f || r == ':' })) {
		fail("gate.path", "must be an absolute path without colons") // podman mounts its objects
	}
	for i, address := range c.Gate.Submodules {
		if up, err := store.ParseUpstream(address); err != nil || up.URL == "" {
			fail(fmt.Sprintf("gate.submodules[%d]", i), "must be the address of a repository: https://, ssh:// or host:path")
		} else if up.Protocol == "file" && c.UpstreamIsRemote() {
			fail(fmt.Sprintf("gate.submodules[%d]", i), "a path of this machine can only stand beside an upstream that is one")
		}
	}
	for i, p := range c.Gate.Protected {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			fail(fmt.Sprintf("gate.protected[%d]", i), "must be a branch name or a pattern such as release/*")
		}
	}
	for at, list := range map[string][]string{"gate.branches": c.Gate.Branches, "gatekeeping.auto_sync.branches": c.Gatekeeping.AutoSync.Branches} {
		for i, b := range list {
			if err := refname.Check(b); err != nil {
				fail(fmt.Sprintf("%s[%d]", at, i), "must be a branch name: %v", err)
			}
		}
	}
	return bad
}

// LFS reports whether the gate mirrors files in Git LFS.
func (p *Project) LFS() bool { return p.Gate.LFS == LFSProxy && p.Gated() }

// Backups are the project's rules for replaced tips.
func (p *Project) Backups() store.Backups {
	b := p.Gate.Backups
	return store.Backups{Off: !b.Enabled, Retention: time.Duration(b.RetentionDays) * 24 * time.Hour, KeepMin: b.KeepMin}
}

// GateHome is where the project's mirror is meant to lie, "" for its own place. The path of the
// mirror itself, as terok gate path prints it, means the directory around it.
func (p *Project) GateHome() string {
	if p.Gate.Path == "" {
		return ""
	}
	at := filepath.Clean(p.Gate.Path)
	if filepath.Base(at) == "base.git" {
		at = filepath.Dir(at)
	}
	return at
}

// SubmoduleAddresses are the listed submodules as the store compares them.
func (p *Project) SubmoduleAddresses() []string {
	var all []string
	for _, address := range p.Gate.Submodules {
		if up, err := store.ParseUpstream(address); err == nil {
			all = append(all, up.URL)
		}
	}
	return all
}
