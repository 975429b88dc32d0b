package terok

import (
	"context"
	"io"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"terok/internal/config"
	"terok/internal/image"
	"terok/internal/podman"
	"terok/internal/roster"
)

// ImageOptions say how images and bundles are made.
type ImageOptions struct {
	Base    string   // base image as a person types it, e.g. "debian:12"; "" is image.DefaultBase
	CA      []string // PEM files of authorities that build containers trust besides the usual ones and image.ca_certificates
	Verbose bool     // stream the build's output to Progress; it is kept in a file in any case
	Force   bool     // make it anew even when it is there
}

// ImageRef names an image layer.
type ImageRef = image.Ref

// Podman returns the runner of this tree, once podman has been found fit and its configuration
// is written; what is missing is a Problem with exit code 10.
func (a *App) Podman(ctx context.Context) (*podman.Runner, podman.Capabilities, error) {
	r := podman.New(a.Roots, a.Environ)
	caps, err := r.Ready(ctx, a.Roots.HooksDir())
	return r, caps, err
}

// builder prepares for making images; a base that o leaves open is the configured one.
func (a *App) builder(ctx context.Context, o *ImageOptions) (*image.Builder, error) {
	r, _, err := a.Podman(ctx)
	if err != nil {
		return nil, err
	}
	global, err := config.LoadGlobal(a.Roots.ConfigFile())
	if err != nil {
		return nil, err
	}
	if o.Base == "" {
		o.Base = global.Image.Base
	}
	return &image.Builder{Mirror: global.Image.Mirror, Podman: r, Roots: a.Roots, Progress: a.Progress, Environ: a.Environ, CA: append(slices.Clone(global.Image.CACertificates), o.CA...), Verbose: o.Verbose}, nil
}

// ImageBootstrap makes localhost/NAME (NAME "debian:12" or "debian:13") from the distribution's
// package mirror, without a registry and without root. One that is there is kept unless o.Force.
func (a *App) ImageBootstrap(ctx context.Context, name, mirror, security string, o ImageOptions) (ImageRef, error) {
	b, err := a.builder(ctx, &o)
	if err != nil {
		return ImageRef{}, err
	}
	ref, id, err := b.Bootstrap(ctx, name, image.BootstrapOptions{Mirror: mirror, Security: security, Force: o.Force})
	return ImageRef{Tag: ref, ID: id, Base: name}, err
}

// ImageBuild makes the layer L0 on a base; with nothing to do it takes a fraction of a second.
func (a *App) ImageBuild(ctx context.Context, o ImageOptions) (ImageRef, error) {
	b, err := a.builder(ctx, &o)
	if err != nil {
		return ImageRef{}, err
	}
	if o.Force {
		return b.RebuildL0(ctx, o.Base)
	}
	return b.EnsureL0(ctx, o.Base)
}

// ImageL0 finds the layer L0 of a base without building it; a missing one is the Problem
// "image_not_found" with the command that makes it.
func (a *App) ImageL0(ctx context.Context, base string) (ImageRef, error) {
	o := ImageOptions{Base: base}
	b, err := a.builder(ctx, &o)
	if err != nil {
		return ImageRef{}, err
	}
	return b.Find(ctx, o.Base)
}

// ImageList returns the images that terok made, newest first.
func (a *App) ImageList(ctx context.Context) ([]podman.Image, error) {
	b, err := a.builder(ctx, &ImageOptions{})
	if err != nil {
		return nil, err
	}
	return b.List(ctx)
}

// ImagePrepare makes sure of everything that a task of these agents needs, at the same time where
// that is possible: the base, then L0 beside the agents' bundles. It returns L0.
func (a *App) ImagePrepare(ctx context.Context, o ImageOptions, agents ...string) (ImageRef, error) {
	b, err := a.builder(ctx, &o)
	if err != nil {
		return ImageRef{}, err
	}
	b.Progress = &sharedWriter{w: a.Progress}
	if _, _, err := b.EnsureBase(ctx, o.Base); err != nil {
		return ImageRef{}, err
	}
	var l0 ImageRef
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		l0, err = b.EnsureL0(gctx, o.Base)
		return err
	})
	g.Go(func() error {
		set, err := roster.Load(a.Roots)
		if err != nil {
			return err
		}
		for _, name := range agents {
			if _, err := installAgent(gctx, set, b, name, "", o); err != nil {
				return err
			}
		}
		return nil
	})
	return l0, g.Wait()
}

// sharedWriter lets two builds write whole lines to one stream.
type sharedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (s *sharedWriter) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.w.Write(p)
}
