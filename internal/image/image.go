// Package image makes what containers are made of: base images where no registry can be reached,
// the layer L0 (distribution, tools, user dev), and agent bundles.
//
// It guarantees: a layer is named by a hash over everything that went into it, so that nothing is
// rebuilt without need and nothing stale is used; a tag moves only to a finished image; two
// processes never build the same layer; an interrupted build leaves nothing that the next one
// does not sweep. Code of packages runs in containers only, never on the host, and no secret,
// vault or socket is ever there. Base images are named with their registry or as localhost/…,
// short names never reach podman.
package image

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/state"
)

//go:embed recipe
var recipes embed.FS

// DefaultBase is what tasks stand on unless something else is configured.
const DefaultBase = "docker.io/library/debian:12"

// Labels of images (spec: images.md §6.2).
const (
	LabelLayer = "ai.terok.layer" // base, l0, build-node
	LabelHash  = "ai.terok.hash"  // hash of all inputs
	LabelBase  = "ai.terok.base"  // reference of the base
)

// labelBuild marks temporary containers with the layer or agent they work for; whoever holds the
// lock of that name may remove them.
const labelBuild = "io.terok.build"

// recipeVersion changes when something outside the recipe files changes an image.
const recipeVersion = 1

// Builder makes images and bundles in the user's podman store and terok's tree.
type Builder struct {
	Podman   *podman.Runner
	Roots    state.Roots
	Progress io.Writer           // lines for a person, and streamed build output; io.Discard for none
	Environ  func(string) string // os.Getenv; for NODE_EXTRA_CA_CERTS
	CA       []string            // PEM files of extra authorities that build containers trust; the operator's explicit choice
	Verbose  bool                // stream build output to Progress, besides keeping it in a file
	Mirror   string              // package archive for Bootstrap where its options name none; "": the distribution's own
}

// Ref names an image made by EnsureL0.
type Ref struct {
	Tag   string `json:"tag"` // e.g. "localhost/terok-l0:debian-12"
	ID    string `json:"id"`
	Base  string `json:"base"`  // reference of the base
	Hash  string `json:"hash"`  // hash of the inputs
	Built bool   `json:"built"` // false when it was there already
}

// layer is one image that a recipe makes on a base.
type layer struct {
	name    string // "l0", "build-node"
	tag     string // repository of the tag
	changes []string
	keepID  bool // tasks run it with keep-id: pay the copy of its layers at once
}

var (
	l0 = layer{name: "l0", tag: "localhost/terok-l0", keepID: true, changes: []string{
		"ENV LANG=en_US.UTF-8 LC_ALL=en_US.UTF-8 LANGUAGE=en_US:en USER=dev HOME=/home/dev",
		"USER dev", "WORKDIR /workspace", `CMD ["bash"]`}}
	buildNode = layer{name: "build-node", tag: "localhost/terok-build-node", changes: []string{`CMD ["sh"]`}}
)

// EnsureL0 makes the layer L0 on the base, and the base itself if need be: from the store, a
// registry, or the distribution's package mirror, in this order. With nothing to do it costs two
// podman queries.
func (b *Builder) EnsureL0(ctx context.Context, base string) (Ref, error) {
	return b.ensure(ctx, l0, base, false)
}

// RebuildL0 is EnsureL0 that builds the layer even when it is there, with today's packages.
func (b *Builder) RebuildL0(ctx context.Context, base string) (Ref, error) {
	return b.ensure(ctx, l0, base, true)
}

func (b *Builder) ensure(ctx context.Context, l layer, base string, force bool) (Ref, error) {
	baseRef, baseID, err := b.EnsureBase(ctx, base)
	if err != nil {
		return Ref{}, err
	}
	recipe, err := recipes.ReadFile("recipe/" + strings.TrimPrefix(l.name, "build-") + ".sh")
	if err != nil {
		return Ref{}, err
	}
	want := Ref{Tag: l.tag + ":" + tagOf(baseRef), Base: baseRef, Hash: l.hash(baseID, recipe)}
	if ok, err := b.current(ctx, &want); ok && !force || err != nil {
		return want, err
	}
	unlock, err := b.lock(ctx, "image-"+l.name+"-"+tagOf(baseRef))
	if err != nil {
		return Ref{}, err
	}
	defer unlock()
	if ok, err := b.current(ctx, &want); ok && !force || err != nil { // somebody else built it while we waited
		return want, err
	}
	start := time.Now()
	fmt.Fprintf(b.Progress, "building %s on %s …\n", l.name, baseRef)
	if err := b.build(ctx, l, &want, baseID, recipe); err != nil {
		return Ref{}, err
	}
	want.Built = true
	fmt.Fprintf(b.Progress, "built %s in %s\n", want.Tag, time.Since(start).Round(100*time.Millisecond))
	return want, nil
}

// hash covers every input of the layer.
func (l layer) hash(baseID string, recipe []byte) string {
	h := sha256.New()
	_ = json.NewEncoder(h).Encode(map[string]any{"version": recipeVersion, "layer": l.name, "base": baseID,
		"recipe": string(recipe), "changes": l.changes}) // a map of strings is encoded in key order and cannot fail
	return hex.EncodeToString(h.Sum(nil))
}

// current reports whether the tag exists with the wanted hash, and fills in its id.
func (b *Builder) current(ctx context.Context, want *Ref) (bool, error) {
	img, err := b.Podman.ImageInspect(ctx, want.Tag)
	if errors.Is(err, podman.ErrAbsent) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	want.ID = img.ID
	return img.Labels[LabelHash] == want.Hash, nil
}

// build runs the recipe and moves the tag to the result.
func (b *Builder) build(ctx context.Context, l layer, want *Ref, baseID string, recipe []byte) (err error) {
	old := want.ID // what the tag names now, of other inputs; may be empty
	// The name of buildah's working container is made from the name of the base: a name of our
	// own lets the sweep find what a killed build left, and nothing else.
	stage := "terok-build-" + l.name + "-" + want.Hash[:12]
	stageRef := "localhost/" + stage + ":base"
	b.sweep(ctx, stage)
	dir, cleanup, err := b.workDir(l.name+"-"+tagOf(want.Base), recipe)
	if err != nil {
		return err
	}
	defer cleanup()
	if _, err := b.Podman.Do(ctx, podman.Call{Args: []string{"tag", baseID, stageRef}, Timeout: podman.QueryTimeout}); err != nil {
		return err
	}
	defer func() {
		// Also after an interrupt: with a context of its own.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), podman.QueryTimeout)
		defer cancel()
		if err != nil {
			b.sweep(ctx, stage)
		}
		if e := b.Podman.RemoveImage(ctx, stageRef); e != nil && err == nil {
			err = e
		}
	}()
	file := fmt.Sprintf("FROM %s\nUSER root\nRUN : %s && sh /mnt/recipe.sh\n%s\n", stageRef, want.Hash, strings.Join(l.changes, "\n"))
	idFile := filepath.Join(dir, "id")
	args := []string{"--file", "-", "--pull=never", "--no-cache", "--layers=false", "--format", "oci", "--iidfile", idFile,
		"--volume", dir + "/in:/mnt:ro,z", "--label", LabelLayer + "=" + l.name, "--label", LabelHash + "=" + want.Hash,
		"--label", LabelBase + "=" + want.Base, dir + "/context"}
	log, err := b.openLog(l.name)
	if err != nil {
		return err
	}
	defer log.Close()
	if err := b.Podman.Build(ctx, args, strings.NewReader(file), log); err != nil {
		return log.explain(ctx, "building "+l.name+" failed", err)
	}
	id, err := os.ReadFile(idFile)
	if err != nil {
		return fmt.Errorf("podman build left no image id: %w", err)
	}
	want.ID = strings.TrimPrefix(strings.TrimSpace(string(id)), "sha256:")
	if l.keepID {
		if err := b.payKeepID(ctx, want.ID, l.name); err != nil {
			return err
		}
	}
	_, err = b.Podman.Do(ctx, podman.Call{Args: []string{"tag", want.ID, want.Tag}, Timeout: podman.QueryTimeout})
	if err == nil && !l.keepID && old != "" && old != want.ID {
		// Only builds use it, so the old one is of no use; a task's L0 stays for the tasks it has.
		_ = b.Podman.RemoveImage(ctx, old) // podman refuses if it is in use or has another name
	}
	return err
}

// payKeepID makes podman copy the image's layers for the mapping that tasks use, which otherwise
// the first task would wait for.
func (b *Builder) payKeepID(ctx context.Context, id, name string) error {
	c, err := b.Podman.Create(ctx, []string{"--pull=never", "--network=none", "--userns=keep-id:uid=1000,gid=1000",
		"--label", labelBuild + "=" + name, id, "true"})
	if err != nil {
		return fmt.Errorf("prepare the image for tasks: %w", err)
	}
	return b.Podman.Remove(ctx, c)
}

// sweep removes what an earlier, killed build of the same stage left. It is done under the
// stage's lock, so nothing of it can be in use; a failure is only remarked, the build goes on.
func (b *Builder) sweep(ctx context.Context, stage string) {
	out, err := b.Podman.Do(ctx, podman.Call{Timeout: podman.QueryTimeout, Args: []string{"ps", "--all", "--external", "--no-trunc",
		"--filter", "name=^" + regexp.QuoteMeta(stage) + "-working-container", "--format", "{{.ID}}"}})
	for _, id := range strings.Fields(string(out)) {
		if err == nil {
			err = b.Podman.Remove(ctx, id)
		}
	}
	if err != nil && ctx.Err() == nil {
		fmt.Fprintf(b.Progress, "left-overs of an earlier build could not be removed: %v\n", err)
	}
}

// removeContainers removes the temporary containers that work for name; under the lock of name.
func (b *Builder) removeContainers(ctx context.Context, name string) error {
	list, err := b.Podman.PS(ctx, labelBuild+"="+name)
	if err != nil {
		return err
	}
	for _, c := range list {
		if err := b.Podman.Remove(ctx, c.ID); err != nil {
			return err
		}
	}
	return nil
}

// lock waits for the lock of one layer, saying so when it has to.
func (b *Builder) lock(ctx context.Context, name string) (func(), error) {
	path := filepath.Join(b.Roots.ImagesDir(), name)
	unlock, err := state.TryLock(path)
	if !errors.Is(err, state.ErrLocked) {
		return unlock, err
	}
	fmt.Fprintf(b.Progress, "waiting for another terok that works on %s …\n", name)
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
		if unlock, err = state.TryLock(path); !errors.Is(err, state.ErrLocked) {
			return unlock, err
		}
	}
}

// List returns the images that terok made, newest first.
func (b *Builder) List(ctx context.Context) ([]podman.Image, error) {
	list, err := b.Podman.Images(ctx, LabelLayer)
	slices.SortStableFunc(list, func(x, y podman.Image) int { return y.Created.Compare(x.Created) })
	return list, err
}

var tagUnsafe = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)

// tagOf makes the tag of a layer from the reference of its base (spec: images.md §6.1). Where an
// image comes from is left out for Debian's own names, so that a bootstrapped base and the
// registry's serve the same tag.
func tagOf(base string) string {
	for _, prefix := range []string{"docker.io/library/", "localhost/"} {
		base = strings.TrimPrefix(base, prefix)
	}
	t := strings.ToLower(strings.Trim(tagUnsafe.ReplaceAllString(strings.TrimSpace(base), "-"), "-."))
	if t == "" || len(t) > 120 {
		sum := sha256.Sum256([]byte(base))
		t = strings.TrimRight(t[:min(len(t), 111)], "-.") + "-" + hex.EncodeToString(sum[:4])
	}
	return strings.TrimLeft(t, "-")
}

// L0Tag is the reference under which EnsureL0 leaves the layer of a base.
func L0Tag(base string) string { return l0.tag + ":" + tagOf(base) }

// Find returns the L0 of a base as it is in the store, without building; a missing one is a
// Problem with the command that makes it.
func (b *Builder) Find(ctx context.Context, base string) (Ref, error) {
	tag := L0Tag(base)
	img, err := b.Podman.ImageInspect(ctx, tag)
	if errors.Is(err, podman.ErrAbsent) {
		return Ref{}, problem.New("image_not_found", problem.NotFound, "there is no image %s yet", tag).
			WithHint("terok image build --base %s", base)
	}
	if err != nil {
		return Ref{}, err
	}
	return Ref{Tag: tag, ID: img.ID, Base: img.Labels[LabelBase], Hash: img.Labels[LabelHash]}, nil
}
