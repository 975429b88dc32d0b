package watch

import (
	"context"
	"path/filepath"

	"github.com/fsnotify/fsnotify"
)

// inotify returns a channel with a token for whatever happens to sockets, or nil where the
// machine has no inotify instance left for this user (fs.inotify.max_user_instances).
func (w *Watch) inotify(ctx context.Context) <-chan struct{} {
	if w.o.noInotify {
		return nil
	}
	in, err := fsnotify.NewWatcher()
	if err != nil {
		return nil
	}
	if in.Add(w.dir()) != nil {
		in.Close()
		return nil
	}
	// A run directory exists before its socket does.
	below, _ := filepath.Glob(filepath.Join(w.dir(), "*"))
	for _, dir := range below {
		_ = in.Add(dir)
	}
	out := make(chan struct{}, 1)
	w.wg.Go(func() {
		defer in.Close()
		for {
			select {
			case <-ctx.Done():
				return
			case e, ok := <-in.Events:
				if !ok {
					return
				}
				if e.Has(fsnotify.Create) && filepath.Dir(e.Name) == w.dir() {
					_ = in.Add(e.Name) // a failure is made up for by the next look
				}
			case <-in.Errors: // an overflow: look
			}
			token(out)
		}
	})
	return out
}
