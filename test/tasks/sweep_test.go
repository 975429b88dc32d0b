package tasks

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// asSweeper makes this test binary a sweeper: it runs in podman's user namespace, where it may
// read the memory and the files of a container, and looks for texts.
const asSweeper = "TASKS_SWEEPER"

type sweepOrder struct {
	Pid     int               // a process of the container
	Dirs    []string          // on the host, as seen from podman's namespace
	Needles map[string]string // text by name
}

// sweepReport says where the needles are, by name, and how much was read.
type sweepReport struct {
	Environ, Argv, Memory, Files map[string][]string
	Processes                    int
	MemoryBytes, FileBytes       int64
	FileCount                    int
	Unreadable                   []string // processes or files that could not be read: the sweep proves nothing
	needles                      map[string][]byte
}

// sweep reads everything of a container that pid belongs to, and the directories.
func sweep(t *testing.T, order sweepOrder) *sweepReport {
	t.Helper()
	input, err := json.Marshal(order)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), "podman", "unshare", os.Args[0])
	cmd.Env = append(os.Environ(), asSweeper+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("sweep: %v\n%s", err, tail(errs.String()))
	}
	r := &sweepReport{}
	if err := json.Unmarshal(out.Bytes(), r); err != nil {
		t.Fatalf("%v in %s", err, out.String())
	}
	return r
}

// sweepTask sweeps all that belongs to a task's container, inside and on the host, and fails the
// test where a needle named "key…" is, or where too little was read to prove anything. It returns what
// podman says of the container as well.
func (tr *tree) sweepTask(task taskView, needles map[string]string) (*sweepReport, string) {
	t := tr.t
	t.Helper()
	inspect := podman(t, "inspect", task.Container.ID)
	var details []struct {
		State                                   struct{ Pid int }
		StaticDir, OCIConfigPath, ConmonPidFile string
		HostConfig                              struct{ LogConfig struct{ Path string } }
		GraphDriver                             struct{ Data struct{ UpperDir string } }
	}
	if err := json.Unmarshal([]byte(inspect), &details); err != nil || len(details) != 1 {
		t.Fatalf("%v in %s", err, inspect)
	}
	d := details[0]
	start := time.Now()
	r := sweep(t, sweepOrder{
		Pid:     d.State.Pid,
		Dirs:    []string{tr.dir, d.StaticDir, filepath.Dir(d.OCIConfigPath), filepath.Dir(d.ConmonPidFile), filepath.Dir(d.HostConfig.LogConfig.Path), d.GraphDriver.Data.UpperDir},
		Needles: needles,
	})
	t.Logf("swept %d processes, %d MiB of memory, %d files with %d MiB: %s", r.Processes, r.MemoryBytes>>20, r.FileCount, r.FileBytes>>20, time.Since(start).Round(time.Millisecond))
	t.Logf("phantom: environ %q, argv %q, memory %q, files %q; marker in files %q", r.Environ["phantom"], r.Argv["phantom"], r.Memory["phantom"], r.Files["phantom"], r.Files["marker"])
	if len(r.Unreadable) > 0 {
		t.Errorf("unreadable: %q", r.Unreadable)
	}
	for name, needle := range needles {
		if !strings.HasPrefix(name, "key") {
			continue
		}
		for where, found := range map[string][]string{"environ": r.Environ[name], "argv": r.Argv[name], "memory": r.Memory[name], "files": r.Files[name]} {
			if len(found) > 0 {
				t.Errorf("%s: %s in %q", where, name, found)
			}
		}
		if strings.Contains(inspect, needle) {
			t.Errorf("%s is in podman inspect", name)
		}
	}
	if r.Processes < 3 || len(r.Memory["phantom"]) == 0 || len(r.Environ["phantom"]) == 0 || len(r.Files["marker"]) < 3 {
		t.Errorf("the search finds too little to prove anything: %+v", r)
	}
	return r, inspect
}

func sweeper() int {
	var order sweepOrder
	if err := json.NewDecoder(os.Stdin).Decode(&order); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	r := &sweepReport{Environ: map[string][]string{}, Argv: map[string][]string{}, Memory: map[string][]string{}, Files: map[string][]string{}, needles: map[string][]byte{}}
	for name, text := range order.Needles {
		r.needles[name] = []byte(text)
	}
	if err := r.run(order); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return 1
	}
	return 0
}

func (r *sweepReport) run(order sweepOrder) error {
	namespace, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", order.Pid))
	if err != nil {
		return err
	}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, p := range procs {
		if ns, err := os.Readlink(p + "/ns/pid"); err != nil || ns != namespace {
			continue
		}
		r.Processes++
		// A process that is just becoming another program can be read a moment later.
		var err error
		for range 50 {
			if err = r.process(p); err == nil {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if err != nil {
			r.Unreadable = append(r.Unreadable, err.Error())
		}
	}
	root := fmt.Sprintf("/proc/%d/root", order.Pid)
	for _, dir := range append([]string{root + "/"}, order.Dirs...) {
		r.tree(dir, root)
	}
	return nil
}

func (r *sweepReport) note(where map[string][]string, data []byte, place string) {
	for name, needle := range r.needles {
		if found := where[name]; len(found) < 20 && bytes.Contains(data, needle) && (len(found) == 0 || found[len(found)-1] != place) {
			where[name] = append(found, place)
		}
	}
}

// process looks through the environment and the pages in memory of one process (proc(5):
// environ, maps, pagemap, mem). Pages that are not present hold nothing, or what a file holds. A
// process that has ended is no error.
func (r *sweepReport) process(p string) error {
	name, _ := os.ReadFile(p + "/comm")
	place := filepath.Base(p) + " " + strings.TrimSpace(string(name))
	failed := func(what string, err error) error {
		if _, gone := os.ReadFile(p + "/maps"); errors.Is(gone, fs.ErrNotExist) || errors.Is(gone, syscall.ESRCH) {
			return nil
		}
		return fmt.Errorf("%s %s: %w", place, what, err)
	}
	environ, err := os.ReadFile(p + "/environ")
	if err != nil {
		return failed("environ", err)
	}
	r.note(r.Environ, environ, place)
	argv, err := os.ReadFile(p + "/cmdline")
	if err != nil {
		return failed("cmdline", err)
	}
	r.note(r.Argv, argv, place)
	maps, err := os.ReadFile(p + "/maps")
	if err != nil {
		return failed("maps", err)
	}
	mem, err := os.Open(p + "/mem")
	if err != nil {
		return failed("mem", err)
	}
	defer mem.Close()
	pagemap, err := os.Open(p + "/pagemap")
	if err != nil {
		return failed("pagemap", err)
	}
	defer pagemap.Close()
	before := r.MemoryBytes
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line)
		if len(f) < 2 || f[1][0] != 'r' || len(f) > 5 && (f[5] == "[vvar]" || f[5] == "[vsyscall]" || f[5] == "[vvar_vclock]") {
			continue
		}
		low, high, _ := strings.Cut(f[0], "-")
		from, err1 := strconv.ParseUint(low, 16, 64)
		to, err2 := strconv.ParseUint(high, 16, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		r.region(mem, pagemap, from, to, place)
	}
	if r.MemoryBytes == before {
		return failed("mem", errors.New("not one page could be read"))
	}
	return nil
}

const page = 4096

// region reads runs of pages that are present, at most 1 MiB at once, overlapping by the longest
// needle.
func (r *sweepReport) region(mem, pagemap *os.File, from, to uint64, place string) {
	const window = 8192 // entries of the pagemap at once: 32 MiB
	var tailOf []byte
	last := uint64(0)
	entries := make([]byte, 8*window)
	for at := from; at < to; at += window * page {
		n, _ := pagemap.ReadAt(entries[:8*min(window, (to-at)/page)], int64(at/page*8))
		for i := 0; i < n/8; {
			present := func(i int) bool { return binary.LittleEndian.Uint64(entries[8*i:])>>62 != 0 } // present or swapped
			if !present(i) {
				i++
				continue
			}
			end := i
			for end < n/8 && end-i < 256 && present(end) {
				end++
			}
			address := at + uint64(i)*page
			data := make([]byte, (end-i)*page)
			got, _ := mem.ReadAt(data, int64(address))
			r.MemoryBytes += int64(got)
			if last != address {
				tailOf = nil
			}
			data = append(tailOf, data[:got]...)
			r.note(r.Memory, data, place)
			tailOf = append([]byte(nil), data[max(0, len(data)-256):]...)
			last = address + uint64(got)
			i = end
		}
	}
}

// tree looks through the regular files below dir.
func (r *sweepReport) tree(dir, root string) {
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				r.Unreadable = append(r.Unreadable, err.Error())
			}
			return nil
		}
		if d.IsDir() {
			switch path {
			case root + "/proc", root + "/sys", root + "/dev":
				return filepath.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() {
			return nil
		}
		f, err := os.Open(path)
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				r.Unreadable = append(r.Unreadable, err.Error())
			}
			return nil
		}
		defer f.Close()
		r.FileCount++
		const keep = 256
		buf := make([]byte, keep+1<<20)
		have := 0
		for {
			n, err := io.ReadFull(f, buf[have:])
			r.FileBytes += int64(n)
			r.note(r.Files, buf[:have+n], path)
			if err != nil {
				return nil
			}
			copy(buf, buf[have+n-keep:have+n])
			have = keep
		}
	})
}
