package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// Package is what a bundle is made from.
type Package struct {
	Agent   string // name of the agent, or of the runtime that agents share
	Package string // npm package, e.g. "@anthropic-ai/claude-code-linux-x64"
	Version string // exact version or "latest"
	Suffix  string // hangs behind the version in the registry, e.g. "-linux-x64"; "" is none
	Bin     string // program inside the bundle, relative
	Runtime string // name of an installed bundle whose program runs Bin; "" when Bin is a program
	Unpack  bool   // the program unpacks itself into its home directory when it starts first: done here, once
}

// unpacked is the home directory, inside the bundle, of a program that unpacked itself there.
const unpacked = "home"

// Bundle is an installed agent: a directory that containers mount read-only.
type Bundle struct {
	Agent     string    `json:"agent"`
	Package   string    `json:"package"`
	Version   string    `json:"version"`
	Digest    string    `json:"digest"`            // "sha256:…" over the tree, see treeDigest
	Bin       string    `json:"bin"`               // relative to the directory
	Runtime   string    `json:"runtime,omitempty"` // bundle whose program runs Bin
	Says      string    `json:"says"`              // what the program answered to --version
	Bytes     int64     `json:"bytes"`
	Installed time.Time `json:"installed"`
	Dir       string    `json:"-"` // absolute path, filled in when read
}

// lockFile pins the bundle of every agent.
type lockFile struct {
	Schema int               `json:"schema"`
	Agents map[string]Bundle `json:"agents"`
}

const lockSchema = 1

var (
	agentName   = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	npmName     = pattern(`^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$`)
	npmSuffix   = pattern(`^(-[a-z0-9]+)*$`)
	npmVersion  = pattern(`^([0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?|latest)$`)
	exactNumber = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(-[0-9A-Za-z.-]+)?$`)
)

// pattern is compiled when it is used first: most commands never do.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

func (p Package) check() error {
	switch {
	case !agentName.MatchString(p.Agent):
		return problem.New("agent_invalid", problem.Usage, "%q is not the name of an agent", p.Agent).WithHint("terok agents list")
	case !npmName().MatchString(p.Package):
		return problem.New("agent_invalid", problem.Usage, "%q is not the name of an npm package", p.Package)
	case !npmSuffix().MatchString(p.Suffix):
		return problem.New("agent_invalid", problem.Usage, "%q does not hang behind a version", p.Suffix)
	case !npmVersion().MatchString(p.Version):
		return problem.New("version_invalid", problem.Usage, "%q is not an exact version, e.g. 2.1.330, nor latest", p.Version).
			WithHint("terok agents install %s", p.Agent)
	case !filepath.IsLocal(p.Bin):
		return problem.New("agent_invalid", problem.Usage, "the program %q is not inside the bundle", p.Bin)
	}
	return nil
}

// Install makes the bundle of an agent and pins it in the lock file; the one that is there is
// kept unless version differs or force is set. npm runs in a container that has no capability
// and no secret, with package scripts off; afterwards the program is started once, without
// network, to see that it works. Running tasks keep the bundle they have.
func (b *Builder) Install(ctx context.Context, p Package, base string, force bool) (bundle Bundle, installed bool, err error) {
	if err := p.check(); err != nil {
		return Bundle{}, false, err
	}
	if have, err := b.Bundle(p.Agent); err == nil && !force && have.Version == p.Version && have.Package == p.Package {
		return have, false, nil
	} else if err != nil && !problem.Is(err, "agent_not_installed") && !force {
		return Bundle{}, false, err
	}
	var runtime *Bundle
	if p.Runtime != "" {
		r, err := b.Bundle(p.Runtime)
		if err != nil {
			return Bundle{}, false, err
		}
		runtime = &r
	}
	node, err := b.ensure(ctx, buildNode, base, false)
	if err != nil {
		return Bundle{}, false, err
	}
	what := "agent-" + p.Agent
	unlock, err := b.lock(ctx, what)
	if err != nil {
		return Bundle{}, false, err
	}
	defer unlock()
	if have, err := b.Bundle(p.Agent); err == nil && !force && have.Version == p.Version {
		return have, false, nil
	}
	start := time.Now()
	fmt.Fprintf(b.Progress, "installing %s %s …\n", p.Agent, p.Version)
	if err := b.removeContainers(ctx, what); err != nil {
		return Bundle{}, false, err
	}
	bundle, err = b.install(ctx, p, runtime, node.ID, what)
	if err != nil {
		return Bundle{}, false, err
	}
	fmt.Fprintf(b.Progress, "installed %s %s in %s\n", p.Agent, bundle.Version, time.Since(start).Round(100*time.Millisecond))
	return bundle, true, nil
}

func (b *Builder) install(ctx context.Context, p Package, runtime *Bundle, nodeID, what string) (bundle Bundle, err error) {
	recipe, err := recipes.ReadFile("recipe/npm.sh")
	if err != nil {
		return Bundle{}, err
	}
	dir, cleanup, err := b.workDir(what, recipe)
	if err != nil {
		return Bundle{}, err
	}
	defer cleanup()
	home := filepath.Join(b.Roots.BundlesDir(), p.Agent)
	if err := state.MkdirAll(home); err != nil {
		return Bundle{}, err
	}
	if err := sweepTemporary(home); err != nil {
		return Bundle{}, err
	}
	tmp, err := os.MkdirTemp(home, ".new-")
	if err != nil {
		return Bundle{}, err
	}
	defer func() {
		if err != nil {
			_ = removeBundle(tmp)
		}
	}()
	log, err := b.openLog(what)
	if err != nil {
		return Bundle{}, err
	}
	defer log.Close()
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), podman.ActionTimeout)
		defer cancel()
		if e := b.removeContainers(ctx, what); e != nil && err == nil {
			err = e
		}
	}()
	// Root of the container is the operator's uid: the files of the bundle belong to it.
	common := []string{"run", "--rm", "--pull=never", "--log-driver=none", "--cap-drop=all", "--security-opt=no-new-privileges",
		"--hostname=build", "--label", labelBuild + "=" + what}
	args := append(slices.Clone(common), "--volume", dir+"/in:/mnt:ro,z", "--volume", tmp+":/out:z", nodeID,
		"sh", "/mnt/recipe.sh", p.Package, p.Version, p.Suffix)
	if _, err := b.Podman.Do(ctx, podman.Call{Args: args, Stdout: log, Stderr: log, Network: true, Env: nil}); err != nil {
		return Bundle{}, log.explain(ctx, "installing "+p.Agent+" "+p.Version+" failed", err)
	}
	version, err := installedVersion(tmp, p.Package)
	if err != nil {
		return Bundle{}, err
	}
	version = strings.TrimSuffix(version, p.Suffix)
	if p.Version != "latest" && version != p.Version {
		return Bundle{}, fmt.Errorf("npm installed %s %s instead of %s", p.Package, version, p.Version)
	}
	bundle = Bundle{Agent: p.Agent, Package: p.Package, Version: version, Bin: p.Bin, Runtime: p.Runtime, Installed: time.Now().UTC().Truncate(time.Second)}
	if fi, err := os.Lstat(filepath.Join(tmp, p.Bin)); err != nil || !fi.Mode().IsRegular() {
		return Bundle{}, problem.New("bundle_invalid", problem.Failed, "%s %s has no program %s", p.Package, version, p.Bin)
	}
	ask := []string{"/out/" + p.Bin, "--version"}
	common = append(common, "--network=none")
	if runtime != nil {
		ask = append([]string{"/runtime/" + runtime.Bin}, ask...)
		common = append(common, "--volume", runtime.Dir+":/runtime:ro")
	}
	if p.Unpack {
		args := append(append(slices.Clone(common), "--env=HOME=/out/"+unpacked, "--volume", tmp+":/out:z", nodeID), ask...)
		if _, err := b.Podman.Do(ctx, podman.Call{Args: args, Stdout: log, Stderr: log, Timeout: 5 * time.Minute}); err != nil {
			return Bundle{}, log.explain(ctx, p.Agent+" "+version+" does not start", err)
		}
	}
	if bundle.Digest, bundle.Bytes, err = seal(tmp); err != nil {
		return Bundle{}, err
	}
	args = append(append(slices.Clone(common), "--volume", tmp+":/out:ro,z", nodeID), ask...)
	says, err := b.Podman.Do(ctx, podman.Call{Args: args, Timeout: time.Minute})
	if err != nil {
		return Bundle{}, problem.New("bundle_invalid", problem.Failed, "%s %s does not start: %w", p.Agent, version, err)
	}
	said, _, _ := strings.Cut(strings.TrimSpace(string(says)), "\n")
	bundle.Says = text.Line(strings.TrimSuffix(said, "."), 120)
	return bundle, b.adopt(&bundle, tmp)
}

// adopt moves the sealed tree to its place and pins it.
func (b *Builder) adopt(bundle *Bundle, tmp string) error {
	bundle.Dir = b.bundleDir(*bundle)
	err := os.Rename(tmp, bundle.Dir)
	if errors.Is(err, fs.ErrExist) || errors.Is(err, errNotEmpty) {
		// The same content is there. It may be mounted by tasks, so it stays and ours goes.
		if err := bundle.Verify(); err != nil {
			return err
		}
		err = removeBundle(tmp)
	}
	if err != nil {
		return err
	}
	unlock, err := state.Lock(b.Roots.AgentLock())
	if err != nil {
		return err
	}
	defer unlock()
	lock, err := b.readLock()
	if err != nil {
		return err
	}
	lock.Agents[bundle.Agent] = *bundle
	return state.WriteJSON(b.Roots.AgentLock(), lock)
}

func (b *Builder) bundleDir(x Bundle) string {
	return filepath.Join(b.Roots.BundlesDir(), x.Agent, x.Version+"-"+strings.TrimPrefix(x.Digest, "sha256:")[:12])
}

func (b *Builder) readLock() (lockFile, error) {
	lock := lockFile{}
	err := state.ReadJSON(b.Roots.AgentLock(), &lock)
	if errors.Is(err, fs.ErrNotExist) {
		return lockFile{Schema: lockSchema, Agents: map[string]Bundle{}}, nil
	}
	if err != nil {
		return lock, err
	}
	if lock.Schema > lockSchema {
		return lock, problem.New("state_newer", problem.Newer, "%s was written by a newer terok", b.Roots.AgentLock())
	}
	for name, x := range lock.Agents {
		if x.Agent != name || !agentName.MatchString(name) || !exactNumber.MatchString(x.Version) || !digestText.MatchString(x.Digest) || !filepath.IsLocal(x.Bin) {
			return lock, fmt.Errorf("%s is damaged: entry %q", b.Roots.AgentLock(), name)
		}
	}
	if lock.Agents == nil {
		lock.Agents = map[string]Bundle{}
	}
	return lock, nil
}

// Bundles returns the pinned bundles by name of their agent.
func (b *Builder) Bundles() ([]Bundle, error) {
	lock, err := b.readLock()
	if err != nil {
		return nil, err
	}
	list := make([]Bundle, 0, len(lock.Agents))
	for _, name := range slices.Sorted(maps.Keys(lock.Agents)) {
		x := lock.Agents[name]
		x.Dir = b.bundleDir(x)
		list = append(list, x)
	}
	return list, nil
}

// Bundle returns the pinned bundle of an agent. One that is missing, or whose directory is gone,
// is a Problem with the command that installs it.
func (b *Builder) Bundle(agent string) (Bundle, error) {
	lock, err := b.readLock()
	if err != nil {
		return Bundle{}, err
	}
	x, ok := lock.Agents[agent]
	if ok {
		x.Dir = b.bundleDir(x)
		_, err := os.Stat(filepath.Join(x.Dir, x.Bin))
		ok = err == nil
	}
	if !ok {
		return Bundle{}, problem.New("agent_not_installed", problem.NotFound, "the agent %s is not installed", agent).
			WithHint("terok agents install %s", agent)
	}
	return x, nil
}
