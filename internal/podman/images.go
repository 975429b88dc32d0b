package podman

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"time"
)

// Image is what podman knows of one image.
type Image struct {
	ID      string            `json:"Id"`
	Tags    []string          `json:"RepoTags"`
	Digest  string            `json:"Digest"`
	Labels  map[string]string `json:"Labels"`
	Created time.Time         `json:"Created"`
	Size    int64             `json:"Size"` // bytes, shared layers included
	OS      string            `json:"Os"`
	Arch    string            `json:"Architecture"`
	User    string            `json:"User"`
}

// ImageInspect asks about one image by id or reference; the error is ErrAbsent when the store
// has none. Nothing is pulled.
func (r *Runner) ImageInspect(ctx context.Context, ref string) (*Image, error) {
	out, err := r.query(ctx, "image "+ref, "image", "inspect", "--", ref)
	if err != nil {
		return nil, err
	}
	raw, err := one(out)
	if err != nil {
		return nil, queryFailed("image "+ref, err)
	}
	img := &Image{}
	if err := json.Unmarshal(raw, img); err != nil {
		return nil, queryFailed("image "+ref, err)
	}
	if img.ID == "" {
		return nil, queryFailed("image "+ref, errors.New("podman printed an image without id"))
	}
	return img, nil
}

// Images lists the images that have every one of the labels, each "key" or "key=value".
func (r *Runner) Images(ctx context.Context, labels ...string) ([]Image, error) {
	args := []string{"images", "--no-trunc", "--format", "json"}
	for _, l := range labels {
		args = append(args, "--filter", "label="+l)
	}
	out, err := r.query(ctx, "images", args...)
	if err != nil {
		return nil, queryFailed("images", err)
	}
	list, err := parseImages(out)
	if err != nil {
		return nil, queryFailed("images", err)
	}
	return list, nil
}

func parseImages(out []byte) ([]Image, error) {
	if strings.TrimSpace(string(out)) == "" {
		return nil, nil
	}
	var rows []struct {
		ID      string            `json:"Id"`
		Names   []string          `json:"Names"`
		Labels  map[string]string `json:"Labels"`
		Digest  string            `json:"Digest"`
		Created int64             `json:"Created"`
		Size    int64             `json:"Size"`
	}
	if err := json.Unmarshal(out, &rows); err != nil {
		return nil, err
	}
	list := make([]Image, 0, len(rows))
	seen := map[string]bool{} // an image with two tags is two rows
	for _, row := range rows {
		if row.ID == "" {
			return nil, errors.New("podman images printed an image without id")
		}
		if seen[row.ID] {
			continue
		}
		seen[row.ID] = true
		list = append(list, Image{ID: row.ID, Tags: row.Names, Digest: row.Digest, Labels: row.Labels,
			Created: time.Unix(row.Created, 0).UTC(), Size: row.Size})
	}
	return list, nil
}

// Pull fetches an image from its registry; progress goes to w. It returns the image id.
func (r *Runner) Pull(ctx context.Context, ref string, w io.Writer) (id string, err error) {
	out, err := r.Do(ctx, Call{Args: []string{"pull", "--", ref}, Stderr: w, Network: true})
	if err != nil {
		return "", err
	}
	return lastLine(out), nil
}

// Import makes an image from a root file system archive (tar) read from src. Changes are
// Containerfile instructions, e.g. "CMD=/bin/bash". It returns the image id.
func (r *Runner) Import(ctx context.Context, src io.Reader, ref string, changes []string) (id string, err error) {
	args := []string{"import", "--quiet"}
	for _, c := range changes {
		args = append(args, "--change", c)
	}
	out, err := r.Do(ctx, Call{Args: append(args, "-", ref), Stdin: src})
	if err != nil {
		return "", err
	}
	return lastLine(out), nil
}

// Build is "podman build ARGS"; stdin is what "-" in args reads. What the build prints goes to w
// as it comes.
func (r *Runner) Build(ctx context.Context, args []string, stdin io.Reader, w io.Writer) error {
	_, err := r.Do(ctx, Call{Args: append([]string{"build"}, args...), Stdin: stdin, Stdout: w, Stderr: w, Network: true})
	return err
}

// Commit makes an image of a container; flags are those of podman-commit(1). It returns the id.
func (r *Runner) Commit(ctx context.Context, container, ref string, flags ...string) (id string, err error) {
	args := append([]string{"commit", "--quiet"}, flags...)
	out, err := r.Do(ctx, Call{Args: append(args, container, ref)})
	if err != nil {
		return "", err
	}
	return lastLine(out), nil
}

// RemoveImage takes a tag away, and the image with its last one. One that is not there gives no error.
func (r *Runner) RemoveImage(ctx context.Context, ref string) error {
	_, err := r.named(ctx, Call{Args: []string{"rmi", "--", ref}, Timeout: ActionTimeout})
	return unlessAbsent(err)
}
