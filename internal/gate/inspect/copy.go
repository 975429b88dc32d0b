package inspect

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"terok/internal/git"
)

// fewObjects is the number of objects below which a pack is unpacked, so that small promotions do
// not fill the base with packs.
const fewObjects = 100

// pack is what a commit needs and the base has not, as it comes from the task's repository. Git
// there believes indexes and file names; who reads the pack computes the id of each object anew.
type pack struct {
	*bufio.Reader
	objects uint32
	pipe    *io.PipeReader
	done    chan struct{}
}

func (p *repo) pack(ctx context.Context, tips ...string) (*pack, error) {
	pr, pw := io.Pipe()
	out := &pack{bufio.NewReader(pr), 0, pr, make(chan struct{})}
	c := git.Cmd{GitDir: p.Repo, Alternates: []string{p.Objects}, Timeout: copyTime,
		Args:   []string{"pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "--window=0", "--quiet"},
		Config: append(config(), "pack.threads=1", "pack.writeBitmapHashCache=false", "pack.useBitmaps=false")}
	if p.Repo == p.base() {
		c.Alternates = nil
	}
	have := p.Not
	if p.Have != nil {
		have = p.Have
	}
	c.Stdin = strings.NewReader(revs(tips, have))
	go func() {
		defer close(out.done)
		pw.CloseWithError(p.git.Stream(ctx, c, pw)) // nil is the end
	}()
	head, err := out.Peek(12) // "PACK", version, number of objects (gitformat-pack(5))
	if err != nil {
		out.close()
		return nil, fmt.Errorf("git pack-objects: %w", err)
	}
	out.objects = binary.BigEndian.Uint32(head[8:])
	return out, nil
}

// close ends git, if it still writes.
func (p *pack) close() {
	p.pipe.Close()
	<-p.done
}

// revs is the input of git rev-list --stdin and its kin: tips, and what they reach without not.
func revs(tips, not []string) string {
	var b strings.Builder
	for _, id := range tips {
		if id != "" {
			b.WriteString(id + "\n")
		}
	}
	for _, id := range not {
		if id != "" {
			b.WriteString("^" + id + "\n")
		}
	}
	return b.String()
}

// take brings everything that is looked at into the scratch directory, and with that ends what the
// task's repository can do: its indexes, refs and configuration are not read again, and each object
// is what its id says. A supervisor that was taken over can write all of these, and could show the
// reviewer another file than the one that the commit holds.
func (p *repo) take(ctx context.Context) error {
	if p.Op == OpScan {
		if p.held = p.loose(); p.held != nil {
			return p.held.write(p.Scratch, "held")
		}
	}
	tips := append([]string{p.Start, p.View.From}, p.Branches...)
	if p.Have != nil {
		tips = append(tips, p.Not...)
	}
	in, err := p.pack(ctx, tips...)
	if err != nil {
		return err
	}
	defer in.close()
	if in.objects == 0 {
		return nil
	}
	var pack io.Reader = in
	if p.Op == OpScan && in.objects <= maxHeld {
		data, err := io.ReadAll(io.LimitReader(in, maxHeldSize+1)) // an error is git's
		if err != nil {
			return fmt.Errorf("git pack-objects: %w", err)
		}
		if len(data) <= maxHeldSize {
			if h, err := hold(data, p.Branches[0]); err == nil {
				p.held = h
				return h.write(p.Scratch, "held")
			}
		}
		pack = io.MultiReader(bytes.NewReader(data), in) // git says what is wrong with it, if anything
	}
	if p.small {
		return errNotHeld
	}
	c := p.cmd("index-pack", "--stdin", "--fix-thin", "--threads=1", "--max-input-size="+strconv.Itoa(maxTake))
	c.Stdin = pack
	if _, err := p.git.Run(ctx, c); err != nil {
		return fmt.Errorf("what was pushed is not sound: %w", err)
	}
	return nil
}

// copy brings a commit, with everything that it needs and the base has not, into the base. Every
// object is checked as git-fsck does on the way in, and links between them too.
func (p *repo) copy(ctx context.Context) error {
	tip := p.Branches[0]
	in, err := p.pack(ctx, tip)
	if err != nil {
		return err
	}
	defer in.close()
	c := git.Cmd{GitDir: p.base(), Timeout: copyTime, Stdin: in, Args: []string{"index-pack", "--stdin", "--fix-thin", "--strict", "--threads=1"},
		Config: []string{"core.bigFileThreshold=16m", "fsck.gitmodulesUrl=error"}}
	if in.objects < fewObjects {
		c.Args = []string{"unpack-objects", "-q", "--strict"}
	}
	if _, err := p.git.Run(ctx, c); err != nil {
		return err
	}
	// Whole: everything that the commit needs is there now.
	c.Args, c.Stdin = []string{"rev-list", "--objects", "--quiet", "--stdin"}, strings.NewReader(revs([]string{tip}, p.Not))
	_, err = p.git.Run(ctx, c)
	return err
}

// base is the git directory of the base.
func (p *repo) base() string { return filepath.Dir(p.Objects) }
