package inspect

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"terok/internal/git"
)

// fewObjects is the number of objects below which a pack is unpacked, so that small promotions do
// not fill the base with packs.
const fewObjects = 100

// copy brings a commit, with everything that it needs and the base has not, into the base. Every
// object is checked as git-fsck does on the way in, and links between them too.
func (p *repo) copy(ctx context.Context) error {
	tip := p.Branches[0]
	revs := tip + "\n--not\n"
	for _, id := range append([]string{p.Start}, p.Not...) {
		if id != "" {
			revs += id + "\n"
		}
	}
	pr, pw := io.Pipe()
	go func() {
		c := p.cmd("pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "--quiet")
		c.Stdin, c.Timeout = strings.NewReader(revs), copyTime
		c.Config = append(c.Config, "pack.threads=1", "pack.writeBitmapHashCache=false", "pack.useBitmaps=false")
		pw.CloseWithError(p.git.Stream(ctx, c, pw)) // nil is the end
	}()
	pack := bufio.NewReader(pr)
	head, err := pack.Peek(12) // "PACK", version, number of objects (gitformat-pack(5))
	if err != nil {
		return fmt.Errorf("git pack-objects: %w", err)
	}
	c := git.Cmd{GitDir: filepath.Dir(p.Objects), Timeout: copyTime, Stdin: pack, Args: []string{"index-pack", "--stdin", "--fix-thin", "--strict", "--threads=1"},
		Config: []string{"core.bigFileThreshold=16m", "fsck.gitmodulesUrl=error"}}
	if binary.BigEndian.Uint32(head[8:]) < fewObjects {
		c.Args = []string{"unpack-objects", "-q", "--strict"}
	}
	if _, err := p.git.Run(ctx, c); err != nil {
		return err
	}
	pr.Close()
	// Whole: everything that the commit needs is there now.
	c.Args, c.Stdin = []string{"rev-list", "--objects", "--quiet", "--stdin"}, strings.NewReader(revListInput(tip, append([]string{p.Start}, p.Not...)))
	_, err = p.git.Run(ctx, c)
	return err
}

func revListInput(tip string, not []string) string {
	in := tip + "\n"
	for _, id := range not {
		if id != "" {
			in += "^" + id + "\n"
		}
	}
	return in
}
