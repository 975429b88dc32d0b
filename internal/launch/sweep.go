package launch

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"terok/internal/peer"
	"terok/internal/state"
)

// intent is the record of a launch that is under way: written before podman runs, removed after.
// One whose process is gone was interrupted, at whatever point, and is swept.
type intent struct {
	Launch string `json:"launch"`
	Name   string `json:"name"`
	Dir    string `json:"dir"`
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // field 22 of /proc/<pid>/stat
}

func (l *Launcher) intents() string { return filepath.Join(l.Roots.Data, "launching") }

// begin records a launch and returns what ends the record.
func (l *Launcher) begin(p *plan) (done func(), err error) {
	start, err := peer.StartTime(os.Getpid())
	if err != nil {
		return nil, err
	}
	path := filepath.Join(l.intents(), p.file.Launch+".json")
	data, err := json.Marshal(intent{Launch: p.file.Launch, Name: p.file.Name, Dir: p.file.Dir, PID: os.Getpid(), Start: start})
	if err != nil {
		return nil, err
	}
	// Not synced: after a crash of the machine no container of the launch runs, and the file's
	// name says which launch a torn record was about.
	if err = state.MkdirAll(l.intents()); err == nil {
		err = os.WriteFile(path, data, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("record the launch: %w", err)
	}
	return func() { _ = os.Remove(path) }, nil // what stays is swept
}

// sweep removes what interrupted launches left: containers that never ran. It asks podman only
// when there is a record, so that an ordinary launch pays one directory read.
func (l *Launcher) sweep(ctx context.Context) error {
	entries, err := os.ReadDir(l.intents())
	if err != nil {
		return nil // no launch yet
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".json") {
			continue
		}
		path := filepath.Join(l.intents(), e.Name())
		var in intent
		if err := state.ReadJSON(path, &in); err == nil {
			if start, err := peer.StartTime(in.PID); err == nil && start == in.Start {
				continue // under way
			}
		} else if fi, err := e.Info(); err != nil || l.Now().Sub(fi.ModTime()) < time.Minute {
			continue // being written this moment, or gone
		}
		if err := l.removeLaunch(ctx, strings.TrimSuffix(e.Name(), ".json")); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	return nil
}
