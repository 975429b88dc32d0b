// Command terok-man writes terok's man pages and shell completions from its command table, so that
// they cannot say anything else than --help. It is a tool of the build (make man) and no part of
// the product: what it needs must not make terok bigger.
//
//	go run ./cmd/terok-man DIR
//
// makes DIR/man/terok*.1, one per command, and DIR/completion/{terok.bash,_terok,terok.fish}.
// TEROK_DATE (RFC 3339) dates the pages; the same commit gives the same bytes.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"terok/internal/cli"
	"terok/internal/version"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: terok-man DIR")
		os.Exit(2)
	}
	if err := write(cli.Command(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "terok-man:", err)
		os.Exit(1)
	}
}

func write(root *cobra.Command, dir string) error {
	man, completion := filepath.Join(dir, "man"), filepath.Join(dir, "completion")
	for _, d := range []string{man, completion} {
		// Pages of commands that are gone must go.
		if err := os.RemoveAll(d); err != nil {
			return err
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	date, err := time.Parse(time.RFC3339, os.Getenv("TEROK_DATE"))
	if err != nil {
		date = time.Unix(0, 0).UTC()
	}
	root.DisableAutoGenTag = true
	header := &doc.GenManHeader{Section: "1", Source: "terok " + version.Version, Manual: "terok", Date: &date}
	if err := doc.GenManTree(root, header, man); err != nil {
		return err
	}
	for _, err := range []error{
		root.GenBashCompletionFileV2(filepath.Join(completion, "terok.bash"), true),
		root.GenZshCompletionFile(filepath.Join(completion, "_terok")),
		root.GenFishCompletionFile(filepath.Join(completion, "terok.fish"), true),
	} {
		if err != nil {
			return err
		}
	}
	return nil
}
