// Package layout holds the rules about the code itself: which package may import which, who may
// start programs, how files and packages look, and what a start of the program may cost. The
// rules are those of docs/dev/architecture.md; its tests read the source, so they need no build
// and name file and line. Every exception is in this package, with its reason.
package layout
