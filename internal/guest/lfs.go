package guest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"terok/internal/sandbox"
)

// prePush lets git-lfs send files before the commits that point to them, as its own installer would.
const prePush = `#!/bin/sh
command -v git-lfs >/dev/null 2>&1 || { echo "terok: git-lfs is gone: files in Git LFS are not pushed" >&2; exit 1; }
exec git-lfs pre-push "$@"
`

// largeFiles makes git in the workspace keep and get files in LFS with the image's own git-lfs, from the
// gate and from nowhere else: what the repository's configuration says outranks its .lfsconfig. In an
// image without git-lfs pointers stay pointers, and the person is told.
func (g *gitRunner) largeFiles(ctx context.Context, c *sandbox.Clone) error {
	if !c.LFS {
		return nil
	}
	if _, err := lookPath("git-lfs", g.env); err != nil {
		fmt.Fprintln(os.Stderr, "terok: this image has no git-lfs, so files in Git LFS stay pointers: terok image build, or install it in your image")
		return nil
	}
	at := c.URL + "/info/lfs"
	for _, kv := range [][2]string{
		{"filter.lfs.clean", "git-lfs clean -- %f"}, {"filter.lfs.smudge", "git-lfs smudge -- %f"},
		{"filter.lfs.process", "git-lfs filter-process"}, {"filter.lfs.required", "true"},
		{"lfs.url", at}, {"lfs.pushurl", at}, {"lfs." + at + ".access", "basic"}, {"lfs." + at + ".locksverify", "false"},
		{"lfs.basictransfersonly", "true"}, {"lfs.concurrenttransfers", "4"},
		{"lfs.skipdownloaderrors", "true"}, // what the gate does not have stays a pointer; the rest is checked out
	} {
		if err := g.run(ctx, "config", "--replace-all", kv[0], kv[1]); err != nil {
			return err
		}
	}
	hook := filepath.Join(g.dir, ".git", "hooks", "pre-push")
	if err := os.MkdirAll(filepath.Dir(hook), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(hook, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil // the task's own
	}
	if err != nil {
		return err
	}
	_, err = f.WriteString(prePush)
	return errors.Join(err, f.Close())
}
