package sandbox

import "path/filepath"

// Files in a task directory. Those of the shield are written by launcher and supervisor; a torn
// one means quarantine, never an empty policy.
func PolicyPath(dir string) string   { return filepath.Join(dir, "shield", "policy.json") }
func SessionPath(dir string) string  { return filepath.Join(dir, "shield", "session.json") }
func PosturePath(dir string) string  { return filepath.Join(dir, "shield", "posture") }
func NamesPath(dir string) string    { return filepath.Join(dir, "shield", "names.json") }
func GateTurnPath(dir string) string { return filepath.Join(dir, "gate-token.json") } // which gate token is the newest, not the token
func LogPath(dir string) string      { return filepath.Join(dir, "logs", "supervisor.log") }

// LedgerPath is the ledger of a task directory. It has a directory of its own: rotation makes
// files, and the worker that rotates must not be able to write beside the sandbox file.
func LedgerPath(dir string) string { return filepath.Join(dir, "audit", "audit.jsonl") }

// ControlPath is the control socket of a runtime directory.
func ControlPath(runtimeDir string) string { return filepath.Join(runtimeDir, "control.sock") }

// Exit codes of `terok supervise-adopt`, which gives a running container a new supervisor.
const (
	AdoptRefused = 3 // nothing was changed
	AdoptFailed  = 4 // the new supervisor could not be made; the container has to be stopped
)
