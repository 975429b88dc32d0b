package launch

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/podman"
	"terok/internal/problem"
	"terok/internal/state"
)

// imageIDs remembers which id each reference had while podman's list of images was as Key says:
// the question costs a podman process, a quarter of a container's start.
type imageIDs struct {
	Key string            `json:"key"`
	IDs map[string]string `json:"ids"` // reference → id
}

// imageID resolves a reference of the local store. Containers are made from ids, so that a tag
// that moves meanwhile changes nothing.
func (l *Launcher) imageID(ctx context.Context, caps podman.Capabilities, ref string) (string, error) {
	if strings.HasPrefix(ref, "-") {
		return "", problem.New("image_invalid", problem.Usage, "%q is not an image", ref)
	}
	cache := filepath.Join(l.Roots.Data, "image-ids.json")
	key := imagesKey(caps) // before podman is asked: a change in between makes it stale, not wrong
	var known imageIDs
	if err := state.ReadJSON(cache, &known); err == nil && key != "" && known.Key == key && known.IDs[ref] != "" {
		return known.IDs[ref], nil
	}
	img, err := l.Podman.ImageInspect(ctx, ref)
	if errors.Is(err, podman.ErrAbsent) {
		return "", problem.New("image_not_found", problem.NotFound, "no image %q in the local store", ref).
			WithHint("terok image build   (or: podman pull %s)", ref)
	}
	if err != nil {
		return "", err
	}
	if key != "" {
		if known.Key != key || known.IDs == nil {
			known = imageIDs{Key: key, IDs: map[string]string{}}
		}
		known.IDs[ref] = img.ID
		_ = state.WriteJSON(cache, known) // only a memory
	}
	return img.ID, nil
}

// imagesKey changes whenever podman writes its list of images, which it does by replacing the
// file. "" when the list is not where containers/storage has it.
func imagesKey(caps podman.Capabilities) string {
	if caps.GraphRoot == "" || caps.Storage == "" {
		return ""
	}
	path := filepath.Join(caps.GraphRoot, caps.Storage+"-images", "images.json")
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return ""
	}
	return fmt.Sprintf("%s %d %d %d %d", path, st.Dev, st.Ino, st.Size, st.Mtim.Nano())
}
