package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/state"
)

// distro is a distribution that can be made from its package mirror.
type distro struct {
	suite    string
	mirror   string
	security string // mirror of security updates
}

var distros = map[string]distro{
	"debian:12": {"bookworm", "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"},
	"debian:13": {"trixie", "http://deb.debian.org/debian", "http://deb.debian.org/debian-security"},
}

// shortName is what can be bootstrapped under a reference: "debian:12" for docker.io/library/debian:12,
// localhost/debian:12 and debian:12.
func shortName(ref string) string {
	for _, prefix := range []string{"docker.io/library/", "docker.io/", "localhost/"} {
		if rest, ok := strings.CutPrefix(ref, prefix); ok {
			return rest
		}
	}
	return ref
}

var reference = regexp.MustCompile(`^[a-z0-9]+([._:/-][a-z0-9_]+|--[a-z0-9_]+|[._:/-][A-Za-z0-9_.-]+)*(@sha256:[0-9a-f]{64})?$`)

// qualify turns what a person types into references to look for, best first. A name without a
// registry means Docker's library, or the local one of that name.
func qualify(base string) ([]string, error) {
	if base == "" {
		base = DefaultBase
	}
	if len(base) > 255 || !reference.MatchString(base) {
		return nil, problem.New("image_reference_invalid", problem.Usage, "%q is not an image reference", base).
			WithHint("e.g. debian:12, docker.io/library/debian:12 or localhost/NAME:TAG")
	}
	if name := shortName(base); name != base || !strings.Contains(base, "/") {
		if strings.HasPrefix(base, "localhost/") {
			return []string{base}, nil
		}
		if !strings.Contains(name, "/") {
			return []string{"docker.io/library/" + name, "localhost/" + name}, nil
		}
	}
	if host, _, _ := strings.Cut(base, "/"); !strings.ContainsAny(host, ".:") && host != "localhost" {
		base = "docker.io/" + base
	}
	return []string{base}, nil
}

// EnsureBase finds the base in the store, else pulls it, else makes it from the distribution's
// mirror, saying aloud which. It returns the full reference and the image id.
func (b *Builder) EnsureBase(ctx context.Context, base string) (ref, id string, err error) {
	refs, err := qualify(base)
	if err != nil {
		return "", "", err
	}
	for _, ref := range refs {
		img, err := b.Podman.ImageInspect(ctx, ref)
		if err == nil {
			return ref, img.ID, nil
		}
		if !errors.Is(err, podman.ErrAbsent) {
			return "", "", err
		}
	}
	var pullErr error
	if !strings.HasPrefix(refs[0], "localhost/") {
		fmt.Fprintf(b.Progress, "pulling %s …\n", refs[0])
		if id, pullErr = b.Podman.Pull(ctx, refs[0], b.Progress); pullErr == nil {
			return refs[0], id, nil
		}
		if ctx.Err() != nil {
			return "", "", ctx.Err()
		}
	}
	name := shortName(refs[0])
	if _, ok := distros[name]; !ok {
		if pullErr != nil {
			return "", "", problem.New("image_not_found", problem.NotFound, "the base %s is not in the store and cannot be pulled: %w", refs[0], pullErr).
				WithHint("podman pull %s", refs[0])
		}
		return "", "", problem.New("image_not_found", problem.NotFound, "the base %s is not in the store", refs[0]).
			WithHint("podman images")
	}
	if pullErr != nil {
		fmt.Fprintf(b.Progress, "the registry cannot be reached; making %s from the distribution's package mirror instead\n", name)
	}
	ref, id, err = b.Bootstrap(ctx, name, BootstrapOptions{})
	return ref, id, err
}

// BootstrapOptions change where packages come from.
type BootstrapOptions struct {
	Mirror   string // URL of the archive; "" is the distribution's own
	Security string // URL of the security archive; "" is derived from Mirror; "none" leaves it out
	Force    bool   // make it anew even when it is there
}

// Bootstrap makes localhost/NAME (e.g. NAME "debian:12") from the distribution's package archive
// with mmdebstrap, inside podman's user namespace: no root, no registry. Signatures of the
// archive are checked by apt with the host's archive keyring.
func (b *Builder) Bootstrap(ctx context.Context, name string, o BootstrapOptions) (ref, id string, err error) {
	if o.Mirror == "" {
		o.Mirror = b.Mirror
	}
	name = shortName(name)
	d, ok := distros[name]
	if !ok {
		return "", "", problem.New("bootstrap_unknown", problem.Usage, "%q cannot be made from a package mirror: debian:12 and debian:13 can", name).
			WithHint("terok image build --base REGISTRY/NAME:TAG")
	}
	sources, err := d.sources(o)
	if err != nil {
		return "", "", err
	}
	ref = "localhost/" + name
	unlock, err := b.lock(ctx, "bootstrap-"+tagOf(name))
	if err != nil {
		return "", "", err
	}
	defer unlock()
	if !o.Force {
		img, err := b.Podman.ImageInspect(ctx, ref)
		if err == nil {
			return ref, img.ID, nil
		}
		if !errors.Is(err, podman.ErrAbsent) {
			return "", "", err
		}
	}
	tool, err := findMmdebstrap()
	if err != nil {
		return "", "", err
	}
	start := time.Now()
	fmt.Fprintf(b.Progress, "making %s from %s …\n", ref, sources[0])
	work := filepath.Join(b.Roots.ImagesDir(), "bootstrap-"+tagOf(name)+".work")
	if err := b.emptyDir(ctx, work); err != nil { // what a killed run left; files of sub-ids
		return "", "", err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), podman.ActionTimeout)
		defer cancel()
		if e := b.removeTree(ctx, work); e != nil && err == nil {
			err = e
		}
	}()
	log, err := b.openLog("bootstrap")
	if err != nil {
		return "", "", err
	}
	defer log.Close()
	tar := filepath.Join(work, "root.tar")
	// A mount namespace of its own: what a killed run had mounted goes with it.
	argv := []string{"unshare", "--", "unshare", "--mount", "--propagation", "private", "--", tool, "--mode=root", "--variant=minbase", "--format=tar", "--include=ca-certificates",
		`--dpkgopt=force-unsafe-io`, `--dpkgopt=path-exclude=/usr/share/man/*`, `--dpkgopt=path-exclude=/usr/share/locale/*`,
		`--aptopt=Acquire::Languages "none"`, `--aptopt=Acquire::Retries "3"`, d.suite, tar}
	ca, err := b.authorities()
	if err != nil {
		return "", "", err
	}
	if len(ca) > 0 {
		file := filepath.Join(work, "ca.pem")
		if err := os.WriteFile(file, ca, 0o644); err != nil {
			return "", "", err
		}
		argv = append(argv[:len(argv)-2], `--aptopt=Acquire::https::CAInfo "`+file+`"`, d.suite, tar)
	}
	argv = append(argv, sources...)
	_, err = b.Podman.Do(ctx, podman.Call{Args: argv, Env: []string{"TMPDIR=" + work, "TERM=dumb"}, Stdout: log, Stderr: log, Network: true})
	if err != nil {
		return "", "", log.explain(ctx, "making "+ref+" failed", err)
	}
	f, err := os.Open(tar)
	if err != nil {
		return "", "", fmt.Errorf("the bootstrap made no archive: %w", err)
	}
	defer f.Close()
	id, err = b.Podman.Import(ctx, f, ref, []string{`CMD ["bash"]`, "ENV LANG=C.UTF-8", "LABEL " + LabelLayer + "=base",
		"LABEL " + LabelBase + "=" + name})
	if err != nil {
		return "", "", err
	}
	id = strings.TrimPrefix(id, "sha256:")
	fmt.Fprintf(b.Progress, "made %s in %s\n", ref, time.Since(start).Round(100*time.Millisecond))
	return ref, id, nil
}

var mirrorURL = regexp.MustCompile(`^(https?|file|copy)://[A-Za-z0-9._~:/@%+-]+$`)

// sources are the lines of sources.list.
func (d distro) sources(o BootstrapOptions) ([]string, error) {
	main, security := d.mirror, d.security
	if o.Mirror != "" {
		main = strings.TrimRight(o.Mirror, "/")
		security = main + "-security"
	}
	if o.Security != "" {
		security = strings.TrimRight(o.Security, "/")
	}
	for _, url := range []string{main, security} {
		if url != "none" && !mirrorURL.MatchString(url) {
			return nil, problem.New("mirror_invalid", problem.Usage, "%q is not the address of a package mirror", url).
				WithHint("e.g. --mirror http://deb.debian.org/debian")
		}
	}
	lines := []string{"deb " + main + " " + d.suite + " main", "deb " + main + " " + d.suite + "-updates main"}
	if security != "none" {
		lines = append(lines, "deb "+security+" "+d.suite+"-security main")
	}
	return lines, nil
}

func findMmdebstrap() (string, error) {
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/bin"} {
		if p, err := exec.LookPath(filepath.Join(dir, "mmdebstrap")); err == nil {
			return p, nil
		}
	}
	return "", problem.New("mmdebstrap_missing", problem.Setup, "making a base without a registry needs mmdebstrap, which is not installed").
		WithHint("sudo apt install mmdebstrap debian-archive-keyring   (or make a registry reachable)")
}

// emptyDir makes dir anew.
func (b *Builder) emptyDir(ctx context.Context, dir string) error {
	if err := b.removeTree(ctx, dir); err != nil {
		return err
	}
	if err := state.MkdirAll(filepath.Dir(dir)); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

// removeTree removes a tree that may hold files of sub-ids, which only podman's user namespace
// can remove.
func (b *Builder) removeTree(ctx context.Context, dir string) error {
	if err := os.RemoveAll(dir); err == nil {
		return nil
	}
	return b.Podman.Unshare(ctx, []string{"rm", "-rf", "--one-file-system", "--", dir}, nil, nil)
}
