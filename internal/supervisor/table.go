package supervisor

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"terok/internal/peer"
	"terok/internal/sandbox"
	"terok/internal/shield/netns"
	"terok/internal/state"
)

// TableMain is `terok supervise-table SANDBOX-FILE`, run in podman's user namespace: it enters the
// network namespace of the container that runs for the sandbox file, reads its table, which the
// supervisor cannot any more, prints a netns.Reading as JSON and ends.
func TableMain(args []string) int {
	if len(args) != 1 {
		fmt.Fprintln(os.Stderr, "usage: terok supervise-table SANDBOX-FILE")
		return 2
	}
	r, err := readTable(args[0])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func readTable(path string) (netns.Reading, error) {
	file, err := sandbox.Load(path)
	if err != nil {
		return netns.Reading{}, err
	}
	var live sandbox.Live
	if err := state.ReadJSON(sandbox.LivePath(file.Dir), &live); err != nil {
		return netns.Reading{}, fmt.Errorf("the record of the running container: %w", err)
	}
	init, err := peer.NewPin(live.InitPID, live.InitStart)
	if err != nil {
		return netns.Reading{}, fmt.Errorf("the container's init: %w", err)
	}
	defer init.Close()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", live.InitPID))
	if err != nil {
		return netns.Reading{}, err
	}
	defer ns.Close()
	if !init.Alive() {
		return netns.Reading{}, errors.New("the container has ended")
	}
	space, err := netns.Enter(int(ns.Fd()))
	if err != nil {
		return netns.Reading{}, err
	}
	defer space.Close()
	space.Synthetic = syntheticRange(file.Dir)
	return space.Read()
}
