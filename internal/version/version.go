// Package version says which build this is; the Makefile stamps it with -ldflags -X.
package version

// Set at link time.
var (
	Version = "0.0.0-dev"
	Commit  = "unknown"
	Date    = "unknown" // RFC 3339 UTC
)
