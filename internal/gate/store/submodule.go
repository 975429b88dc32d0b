package store

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"terok/internal/gate/refname"
	"terok/internal/gate/view"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/text"
)

// Submodule is an entry of .gitmodules (gitmodules(5)) on the default branch of a project's mirror.
// What agents' branches say about submodules is never looked at here: review flags it.
type Submodule struct {
	Name     string `json:"name"`    // printable
	Written  string `json:"written"` // the URL as it stands there; printable
	Address  string `json:"address"` // resolved against the upstream, "" where it cannot be
	Mirrored bool   `json:"mirrored"`
	Why      string `json:"why,omitempty"` // it is not mirrored

	raw string // as it stands there
}

// Mirror names the directory and the served name of a submodule's mirror.
func (s *Store) submoduleDir(project, address string) string {
	return filepath.Join(s.Roots.GateHome(project), "sub", SubmoduleName(address)+".git")
}

// SubmoduleName is the name under which a mirror is served: 20 hex digits of the address's digest.
func SubmoduleName(address string) string {
	sum := sha256.Sum256([]byte(address))
	return hex.EncodeToString(sum[:10])
}

// maxModules bounds what is read of .gitmodules, in bytes, and how many submodules are mirrored.
const (
	maxModulesFile = 256 << 10
	maxModules     = 200
)

// Submodules lists the submodules of the default branch; allowed are the addresses that the operator
// listed. Nothing is asked.
func (s *Store) Submodules(ctx context.Context, project string, allowed []string) ([]Submodule, error) {
	st, err := s.load(project)
	if err != nil {
		return nil, err
	}
	base := s.Roots.GateBase(project)
	if err := Verify(base); err != nil {
		return nil, err
	}
	const file = "HEAD:.gitmodules"
	size, err := s.Git.Run(ctx, git.Cmd{GitDir: base, Args: []string{"cat-file", "-s", file}})
	if err != nil {
		return nil, nil //nolint:nilerr // no such file, or no commit yet
	}
	if n, err := strconv.Atoi(strings.TrimSpace(string(size))); err != nil || n > maxModulesFile {
		return nil, problem.New("submodules_unreadable", problem.Failed, ".gitmodules of %s is larger than %d bytes", project, maxModulesFile)
	}
	out, err := s.Git.Run(ctx, git.Cmd{GitDir: base, Args: []string{"config", "--no-includes", "--blob", file, "--null", "--list"}})
	if err != nil {
		return nil, problem.New("submodules_unreadable", problem.Failed, ".gitmodules of %s cannot be read: %w", project, err)
	}
	return judgeModules(string(out), st.Upstream, allowed), nil
}

// judgeModules reads git config --null --list of a .gitmodules.
func judgeModules(list, upstream string, allowed []string) []Submodule {
	found := map[string]string{} // the last entry of a name counts, as for git
	for entry := range strings.SplitSeq(list, "\x00") {
		key, value, ok := strings.Cut(entry, "\n")
		name, isModule := strings.CutPrefix(key, "submodule.")
		if name, isURL := strings.CutSuffix(name, ".url"); ok && isModule && isURL {
			found[name] = value
		}
	}
	var all []Submodule
	for _, name := range slices.Sorted(maps.Keys(found)) {
		m := Submodule{Name: text.Line(name, 80), Written: text.Line(MaskURL(found[name]), 200), raw: found[name]}
		up, err := resolveModule(found[name], upstream)
		switch {
		case err != nil:
			m.Why = text.Line(err.Error(), 200)
		case !slices.Contains(allowed, up.URL):
			m.Address, m.Why = up.URL, "not listed in gate.submodules"
		case len(all) >= maxModules:
			m.Address, m.Why = up.URL, fmt.Sprintf("more than %d submodules", maxModules)
		default:
			m.Address, m.Mirrored = up.URL, true
		}
		all = append(all, m)
	}
	return all
}

// resolveModule is the address of a submodule. It fails closed: a path of this machine, another
// transport, a remote helper, an option or credentials are no address, and a relative URL stays at
// the upstream's server.
func resolveModule(written, upstream string) (Upstream, error) {
	if !strings.HasPrefix(written, "./") && !strings.HasPrefix(written, "../") {
		up, err := ParseUpstream(written)
		switch {
		case err != nil:
			return Upstream{}, err
		case up.URL == "" || up.Protocol == "file":
			return Upstream{}, errors.New("it is a path of this machine")
		}
		return up, nil
	}
	if upstream == "" {
		return Upstream{}, errors.New("it is relative, and there is no upstream")
	}
	joined, err := RelativeURL(upstream, written)
	if err != nil {
		return Upstream{}, err
	}
	up, err := ParseUpstream(joined)
	if err != nil {
		return Upstream{}, err
	}
	from, err := ParseUpstream(upstream)
	if err != nil {
		return Upstream{}, err
	}
	host, port := up.Server()
	if h, p := from.Server(); up.Protocol != from.Protocol || host != h || port != p {
		return Upstream{}, errors.New("it leads away from the upstream's server")
	}
	return up, nil
}

// RelativeURL resolves a URL that begins with ./ or ../ as git does (git-submodule(1), "add"): each
// ../ takes the last component of the base away, the last one of the scp form at its colon.
func RelativeURL(base, relative string) (string, error) {
	base, separator := strings.TrimRight(base, "/"), "/"
	for {
		if rest, ok := strings.CutPrefix(relative, "./"); ok {
			relative = rest
			continue
		}
		rest, ok := strings.CutPrefix(relative, "../")
		if !ok {
			break
		}
		relative = rest
		i := strings.LastIndexByte(base, '/')
		if i < 0 {
			if i = strings.LastIndexByte(base, ':'); i >= 0 {
				separator = ":"
			}
		}
		if i < 0 {
			return "", errors.New("it leads above the upstream's server")
		}
		base = base[:i]
	}
	for component := range strings.SplitSeq(relative, "/") {
		if component == ".." || component == "." {
			return "", errors.New("it is not in the form of git's relative URLs")
		}
	}
	return strings.TrimSuffix(base+separator+relative, "/"), nil
}

// SyncSubmodules brings the mirrors of listed submodules up to date. What cannot be reached is in the
// entry's Why, and an older mirror serves on.
func (s *Store) SyncSubmodules(ctx context.Context, project string, allowed []string) ([]Submodule, error) {
	list, err := s.Submodules(ctx, project, allowed)
	if err != nil || !slices.ContainsFunc(list, func(m Submodule) bool { return m.Mirrored }) {
		return list, err
	}
	unlock, err := s.lock(ctx, project, true)
	if err != nil {
		return list, err
	}
	defer unlock()
	done := map[string]error{}
	for i := range list {
		m := &list[i]
		if !m.Mirrored {
			continue
		}
		err, known := done[m.Address]
		if !known {
			err = s.syncSubmodule(ctx, project, m.Address)
			done[m.Address] = err
		}
		if err != nil {
			if ctx.Err() != nil {
				return list, ctx.Err()
			}
			m.Why = text.Line(err.Error(), 200)
			_, lerr := os.Lstat(s.submoduleDir(project, m.Address))
			m.Mirrored = lerr == nil
		}
	}
	return list, nil
}

func (s *Store) syncSubmodule(ctx context.Context, project, address string) error {
	up, err := ParseUpstream(address)
	if err != nil {
		return err
	}
	conn, err := s.Connect(ctx, project, up)
	if err != nil {
		return err
	}
	defer conn.Close()
	dir := s.submoduleDir(project, address)
	r := remote{Store: s, conn: conn, up: up, dir: dir}
	l, err := r.list(ctx)
	if err != nil {
		return err
	}
	specs := []string{"+" + refname.Heads + "*:" + refname.Heads + "*", "+refs/tags/*:refs/tags/*"}
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		tmp := dir + ".tmp"
		if err := os.RemoveAll(tmp); err != nil {
			return err
		}
		if err := makeRepo(tmp, l.format, firstBranch(l)); err != nil {
			return err
		}
		if len(l.refs) > 0 {
			if err := r.fetch(ctx, tmp, specs...); err != nil {
				return errors.Join(err, os.RemoveAll(tmp))
			}
		}
		return os.Rename(tmp, dir)
	}
	if err := Verify(dir); err != nil {
		return err
	}
	view.SweepLocks(dir, s.now())
	have, err := readRefs(dir)
	if err != nil {
		return err
	}
	if !maps.Equal(map[string]string(have), l.refs) {
		if err := r.fetch(ctx, dir, specs...); err != nil {
			return err
		}
	}
	_, err = s.Git.Run(ctx, git.Cmd{GitDir: dir, Args: []string{"symbolic-ref", "HEAD", refname.Heads + firstBranch(l)}})
	return err
}

func firstBranch(l *listing) string {
	if l.head != "" {
		return l.head
	}
	return "main"
}

// ServedSubmodule is a mirror for a task: the URLs that git inside would ask for, and what it gets.
type ServedSubmodule struct {
	Name string   // SubmoduleName
	Dir  string   // of the mirror
	URLs []string // to be replaced
}

// ServeSubmodules lists the mirrors that there are for a task whose remote origin is origin.
func (s *Store) ServeSubmodules(ctx context.Context, project, origin string, allowed []string) ([]ServedSubmodule, error) {
	list, err := s.Submodules(ctx, project, allowed)
	if err != nil {
		return nil, err
	}
	byName := map[string]*ServedSubmodule{}
	for _, m := range list {
		if !m.Mirrored {
			continue
		}
		dir := s.submoduleDir(project, m.Address)
		if Verify(dir) != nil {
			continue // not there yet, or not ours: it is not served
		}
		urls := []string{m.Address}
		if m.raw != m.Address {
			if local, err := RelativeURL(origin, m.raw); err == nil && strings.HasPrefix(m.raw, ".") {
				urls = append(urls, local)
			}
		}
		name := SubmoduleName(m.Address)
		if byName[name] == nil {
			byName[name] = &ServedSubmodule{Name: name, Dir: dir}
		}
		for _, u := range urls {
			if !slices.Contains(byName[name].URLs, u) {
				byName[name].URLs = append(byName[name].URLs, u)
			}
		}
	}
	var served []ServedSubmodule
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		served = append(served, *byName[name])
	}
	return served, nil
}
