package sandbox

import "path/filepath"

// Policy is shield/policy.json of a task directory: the rules of a launch, every tier but the
// live verdicts. The launcher writes it, the supervisor reads it at its start and on reload.
type Policy struct {
	Schema int        `json:"schema"`
	Rules  []RuleLine `json:"rules"`
}

// RuleLine is one rule in policy grammar with its origin.
type RuleLine struct {
	Rule    string `json:"rule"`              // e.g. "+example.org:443"
	Tier    string `json:"tier"`              // override, deny, session, agent or project
	Source  string `json:"source"`            // file:line, or who and when
	Reason  string `json:"reason,omitempty"`  // why, in words
	Expires string `json:"expires,omitempty"` // RFC 3339; "" is never
}

// Files of the shield in a task directory.
func PolicyPath(dir string) string  { return filepath.Join(dir, "shield", "policy.json") }
func SessionPath(dir string) string { return filepath.Join(dir, "shield", "session.json") }
func PosturePath(dir string) string { return filepath.Join(dir, "shield", "posture") }
func LedgerPath(dir string) string  { return filepath.Join(dir, "audit.jsonl") }
func LogPath(dir string) string     { return filepath.Join(dir, "logs", "supervisor.log") }
