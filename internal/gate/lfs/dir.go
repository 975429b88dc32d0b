package lfs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Dir is a directory of objects, laid out as git-lfs has it beside a repository:
// objects/ab/cd/OID, and tmp/ for what is on its way. It need not exist.
type Dir string

// Of is the directory of a bare repository.
func Of(repo string) Dir { return Dir(filepath.Join(repo, "lfs")) }

// Errors of Put.
var (
	ErrDigest = errors.New("the content is not what its digest says")
	ErrSize   = errors.New("the content has another size")
)

// name is the path of an object below the directory; its caller has checked the OID.
func name(oid string) string { return filepath.Join("objects", oid[:2], oid[2:4], oid) }

// Open opens an object for reading; fs.ErrNotExist where there is none of that name and size. No link
// leads out of the directory (os.Root), so that what somebody planted there is not found.
func (d Dir) Open(o Object) (*os.File, error) {
	if !ValidOID(o.OID) {
		return nil, fs.ErrNotExist
	}
	root, err := os.OpenRoot(string(d))
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(name(o.OID), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != o.Size) {
		err = fs.ErrNotExist
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// Has reports whether an object is there.
func (d Dir) Has(o Object) bool {
	f, err := d.Open(o)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// Size is the size of an object by its name alone.
func (d Dir) Size(oid string) (int64, bool) {
	if !ValidOID(oid) {
		return 0, false
	}
	info, err := os.Lstat(filepath.Join(string(d), name(oid)))
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// Put takes an object from r: into a file of its own, with digest and size checked while it comes, and
// only then under its name. One that is there already is not read again. tag begins the name of the
// file meanwhile (Sweep).
func (d Dir) Put(ctx context.Context, o Object, tag string, r io.Reader) error {
	return d.PutIf(ctx, o, tag, r, func() error { return nil })
}

// PutIf is Put, where judge has the last word when all of r was read and is what its digest says: with an
// error of it nothing is kept.
func (d Dir) PutIf(ctx context.Context, o Object, tag string, r io.Reader, judge func() error) (err error) {
	if !ValidOID(o.OID) || o.Size < 0 {
		return fmt.Errorf("%.80q is no object", o.OID)
	}
	if d.Has(o) {
		return nil
	}
	tmp, to := filepath.Join(string(d), "tmp"), filepath.Join(string(d), name(o.OID))
	if err := errors.Join(os.MkdirAll(tmp, 0o700), os.MkdirAll(filepath.Dir(to), 0o700)); err != nil {
		return err
	}
	f, err := os.CreateTemp(tmp, tag+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(f, h), io.LimitReader(reader{ctx, r}, o.Size+1), make([]byte, 256<<10))
	switch {
	case err != nil:
		return err
	case n != o.Size:
		return ErrSize
	case hex.EncodeToString(h.Sum(nil)) != o.OID:
		return ErrDigest
	}
	if err := judge(); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), to); err != nil {
		return err
	}
	return syncDir(filepath.Dir(to))
}

// Copy brings an object from another directory; the digest is checked again, since others write there.
func (d Dir) Copy(ctx context.Context, o Object, from Dir) error {
	if d.Has(o) {
		return nil
	}
	f, err := from.Open(o)
	if err != nil {
		return err
	}
	defer f.Close()
	return d.Put(ctx, o, "copy", f)
}

// Take copies everything that another directory has.
func (d Dir) Take(ctx context.Context, from Dir) error {
	var list []Object
	err := from.walk(func(_ string, info fs.FileInfo) {
		if ValidOID(info.Name()) {
			list = append(list, Object{info.Name(), info.Size()})
		}
	})
	for _, o := range list {
		if cerr := d.Copy(ctx, o, from); cerr != nil && !errors.Is(cerr, ErrDigest) && !errors.Is(cerr, fs.ErrNotExist) {
			err = errors.Join(err, cerr)
		}
	}
	return err
}

// Sweep removes files that a killed Put left, but those whose names begin with keep; "" keeps none.
func (d Dir) Sweep(keep string) {
	entries, _ := os.ReadDir(filepath.Join(string(d), "tmp")) // absent: nothing
	for _, e := range entries {
		if keep == "" || len(e.Name()) < len(keep) || e.Name()[:len(keep)] != keep {
			_ = os.Remove(filepath.Join(string(d), "tmp", e.Name()))
		}
	}
}

// Usage is the number of objects in the directory, and their bytes.
func (d Dir) Usage() (objects int, bytes int64, err error) {
	err = d.walk(func(_ string, info fs.FileInfo) {
		if ValidOID(info.Name()) {
			objects, bytes = objects+1, bytes+info.Size()
		}
	})
	return objects, bytes, err
}

// Prune removes objects that are not in keep and were there before a time. It returns what they had.
func (d Dir) Prune(keep map[string]bool, before time.Time, dryRun bool) (objects int, bytes int64, err error) {
	err = d.walk(func(path string, info fs.FileInfo) {
		if !ValidOID(info.Name()) || keep[info.Name()] || !info.ModTime().Before(before) {
			return
		}
		if dryRun || os.Remove(path) == nil {
			objects, bytes = objects+1, bytes+info.Size()
		}
	})
	return objects, bytes, err
}

// walk calls f for every file; what goes meanwhile is passed over.
func (d Dir) walk(f func(path string, info fs.FileInfo)) error {
	return filepath.WalkDir(string(d), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || e.IsDir() {
			return err
		}
		if info, err := e.Info(); err == nil {
			f(path, info)
		}
		return nil
	})
}

// Free is how many bytes can be written before the disk has less than reserve, or a twentieth of it,
// left. The directory's parent must be there.
func (d Dir) Free(reserve int64) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(string(d)), &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail)*st.Bsize - max(reserve, int64(st.Blocks)*st.Bsize/20), nil
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}
