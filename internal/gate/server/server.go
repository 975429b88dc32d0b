// Package server is one task's git remote: smart HTTP (gitprotocol-http(5)) over
// git upload-pack and git receive-pack, for the container's network namespace only.
//
//	http.Serve(listener, server.New(server.Config{Git: runner, Repo: repo, Base: base, Token: token}))
//
// Inside the container the remote is http://10.0.2.2:9418/task.git with the per-start token as
// password of any user name (or as the user name), which git asks its credential helper for.
//
// It guarantees: the repository is fixed, no URL names a path; a push is judged by its list of
// refs before git sees a byte of the pack, refused refs are taken out and reported one by one
// with a reason (with --atomic all are refused), the others land; only branches with ordinary
// names land, protected names and the task's own branch survive, tips that a push replaces stay
// under refs/terok/backup; packs are checked by git's fsck in quarantine and have a size limit;
// memory does not grow with the pack; a client that goes away takes its git process with it.
//
// It refuses: the dumb protocol, push options, signed pushes, tags, any other namespace, other
// repositories, requests without the token.
package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/audit"
	"terok/internal/child"
	"terok/internal/git"
)

// Path is the path of the one repository.
const Path = "/task.git"

// Limits bound what one container can make the host do. A zero field takes its default.
type Limits struct {
	MaxPack    int64         // bytes of one push after decompression; 512 MiB
	MaxRequest int64         // bytes of one fetch request after decompression; 32 MiB
	MaxRefs    int           // refs in one push; 500
	MaxObjects int           // objects in one push; 2 million
	MaxFile    int64         // bytes of one file in a push; 100 MiB
	Quota      int64         // bytes that the task's repository may hold beside the base; 2 GiB
	Headroom   int64         // bytes that a push leaves free on the disk, and 5 % of it; 1 GiB
	Parallel   int           // requests at a time; 8
	QueueWait  time.Duration // how long a push waits for another one; 1 minute
	Idle       time.Duration // without a byte read or written; 1 minute
	Request    time.Duration // the whole request; 30 minutes
}

func (l Limits) withDefaults() Limits {
	set(&l.MaxPack, 512<<20)
	set(&l.MaxRequest, 32<<20)
	set(&l.MaxRefs, 500)
	set(&l.MaxObjects, 2_000_000)
	set(&l.MaxFile, 100<<20)
	set(&l.Quota, 2<<30)
	set(&l.Headroom, 1<<30)
	set(&l.Parallel, 8)
	set(&l.QueueWait, time.Minute)
	set(&l.Idle, time.Minute)
	set(&l.Request, 30*time.Minute)
	return l
}

func set[T int | int64 | time.Duration](v *T, d T) {
	if *v <= 0 {
		*v = d
	}
}

// Config is one task's gate.
type Config struct {
	Git   *git.Runner
	Repo  string // the task's repository on the host
	Base  string // the base repository whose objects Repo borrows
	Token string // the secret that the server begins with (SetToken)
	// Submodules are mirrors that are served for reading as /sub/NAME.git: NAME → path.
	Submodules map[string]string
	Protected  []string // branches the task may not touch: names, or patterns of path.Match
	Lenient    bool     // let through the faults that old programs made in good faith (git.OldMistakes)
	// AllowSecrets lets vendors' keys through, which review then flags. Terok's own tokens never pass.
	AllowSecrets bool
	LFS          bool // serve files in Git LFS: those that the host fetched into Base, and the task's own
	// Leaked gets each whole phantom of terok that a push holds, once for every push; nil does nothing. The
	// push is refused in any case.
	Leaked func(phantom string)
	// Record gets push_received, push_refused, push_recovered, gate_request, gate_auth_failed and
	// leak_suspected; nil keeps none. One that is a Flusher is flushed before a push is answered.
	Record audit.Recorder
	Limits Limits
	Now    func() time.Time // nil means time.Now
}

// Server answers the requests of one task.
type Server struct {
	Config
	token   atomic.Pointer[[sha256.Size]byte] // nil refuses every request
	objects string                            // of the base
	slots   chan struct{}                     // one per request under way
	receive chan struct{}                     // one push at a time, so that backups and refs belong together

	mu       sync.Mutex
	failures []time.Time // wrong tokens of the last second
	banned   time.Time   // until then nobody is let in
	seen     baseStamp   // the base as the view was last refreshed from

	uploads   string            // begins the names of this process's unfinished uploads
	uploading sync.Mutex        // held while room for uploads is measured
	coming    int64             // bytes of uploads under way
	refused   map[string]string // LFS objects that were refused for what is in them, and why; under uploading
}

// Flusher is a ledger that can be told to be on the disk.
type Flusher interface {
	Flush(context.Context) error
}

// New returns the handler. The server around it should set ReadHeaderTimeout.
func New(c Config) *Server {
	c.Limits = c.Limits.withDefaults()
	if c.Record == nil {
		c.Record = audit.Discard
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	h := &Server{Config: c, uploads: "up-" + rand.Text(), objects: filepath.Join(c.Base, "objects"),
		slots: make(chan struct{}, c.Limits.Parallel), receive: make(chan struct{}, 1)}
	h.SetToken(c.Token)
	return h
}

// SetToken makes token the only one from the next request on; empty refuses every request. What was
// let in before goes on to its end.
func (h *Server) SetToken(token string) {
	if token == "" {
		h.token.Store(nil)
		return
	}
	sum := sha256.Sum256([]byte(token))
	h.token.Store(&sum)
}

// gitProtocol is what a client may say in Git-Protocol; it becomes an environment variable.
var gitProtocol = regexp.MustCompile(`^version=[012]$`)

func (h *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-cache, max-age=0, must-revalidate")
	if r.URL.Path == "/terok/health" && r.Method == http.MethodGet {
		_, _ = io.WriteString(w, "ok\n")
		return
	}
	if !h.admit(w, r) {
		return
	}
	at, rest, ok := h.find(r.URL.Path)
	if !ok {
		refuse(w, http.StatusNotFound, "this gate has one repository: "+Path)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), h.Limits.Request)
	defer cancel()
	r = r.WithContext(ctx)
	switch {
	case rest == "/info/refs" && r.Method == http.MethodGet:
		service := r.URL.Query().Get("service")
		if service != "git-upload-pack" && service != "git-receive-pack" {
			refuse(w, http.StatusForbidden, "only git's smart protocol is served")
			return
		}
		if service == "git-receive-pack" && (at.refuseWrite(w) || h.refuseFrozen(w)) {
			return
		}
		h.slot(w, r, func() { h.advertise(w, r, at, service) })
	case strings.HasPrefix(rest, lfsPath):
		h.serveLFS(w, r, at, strings.TrimPrefix(rest, lfsPath))
	case rest == "/git-upload-pack" && r.Method == http.MethodPost:
		h.slot(w, r, func() { h.uploadPack(w, r, at) })
	case rest == "/git-receive-pack" && r.Method == http.MethodPost:
		if at.refuseWrite(w) || h.refuseFrozen(w) {
			return
		}
		h.oneReceive(w, r, func() { h.slot(w, r, func() { h.receivePack(w, r) }) })
	default:
		refuse(w, http.StatusNotFound, "not a request of git's smart protocol")
	}
}

func refuse(w http.ResponseWriter, status int, reason string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, "terok: "+reason+"\n")
}

// admit checks the token. Five wrong ones within a second close the gate for ten seconds, so
// that guessing is hopeless and visible.
func (h *Server) admit(w http.ResponseWriter, r *http.Request) bool {
	user, password, ok := r.BasicAuth()
	now := h.Now()
	h.mu.Lock()
	banned := now.Before(h.banned)
	h.mu.Unlock()
	if banned {
		w.Header().Set("Retry-After", "10")
		refuse(w, http.StatusTooManyRequests, "too many wrong tokens; wait ten seconds")
		return false
	}
	if !ok {
		w.Header().Set("WWW-Authenticate", `Basic realm="terok gate"`)
		refuse(w, http.StatusUnauthorized, "the task's gate token is needed")
		return false
	}
	if token := h.token.Load(); token != nil && matches(token, user)|matches(token, password) == 1 {
		return true
	}
	h.mu.Lock()
	recent := h.failures[:0]
	for _, t := range append(h.failures, now) {
		if now.Sub(t) < time.Second {
			recent = append(recent, t)
		}
	}
	h.failures = recent
	if len(recent) >= 5 {
		h.banned, h.failures = now.Add(10*time.Second), nil
	}
	h.mu.Unlock()
	h.Record.Record(audit.Event{Ev: "gate_auth_failed", Actor: "workload"})
	refuse(w, http.StatusForbidden, "this gate token is not valid for this task")
	return false
}

// matches compares in constant time; hashing first hides the length as well.
func matches(token *[sha256.Size]byte, s string) int {
	sum := sha256.Sum256([]byte(s))
	return subtle.ConstantTimeCompare(sum[:], token[:])
}

// slot runs f while one of the parallel slots is held.
func (h *Server) slot(w http.ResponseWriter, r *http.Request, f func()) {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
		f()
	case <-r.Context().Done():
	}
}

// oneReceive runs f while no other push runs.
func (h *Server) oneReceive(w http.ResponseWriter, r *http.Request, f func()) {
	wait := time.NewTimer(h.Limits.QueueWait)
	defer wait.Stop()
	select {
	case h.receive <- struct{}{}:
		defer func() { <-h.receive }()
		f()
	case <-wait.C:
		w.Header().Set("Retry-After", "10")
		refuse(w, http.StatusServiceUnavailable, "another push of this task is still running")
	case <-r.Context().Done():
	}
}

// config is passed to every git process of the server, over whatever the repository says.
func (h *Server) config() []string {
	return []string{
		"transfer.hideRefs=refs/terok",
		"transfer.advertiseSID=false",
		"uploadpack.allowFilter=true",
		"uploadpack.allowAnySHA1InWant=false",
		"uploadpack.allowReachableSHA1InWant=true",
		"receive.denyDeleteCurrent=refuse",
		"receive.advertisePushOptions=false",
		"receive.shallowUpdate=false",
		"receive.updateServerInfo=false",
		"core.bigFileThreshold=16m", // larger files are never held in memory, nor compressed as deltas
		"pack.threads=2",
		"pack.windowMemory=256m",
		"pack.deltaCacheSize=64m",
		"core.packedGitWindowSize=32m", // packs larger than the address space below
		"core.packedGitLimit=512m",
	}
}

// cmd is one git process on the task's repository.
func (h *Server) cmd(args ...string) git.Cmd { return h.cmdAt(h.task(), args...) }

func (h *Server) cmdAt(at place, args ...string) git.Cmd {
	return git.Cmd{GitDir: at.dir, Args: args, Config: h.config(), Alternates: at.alternates, Limits: limits}
}

// limits of each git process: a pack can be made to cost far more than its size. There is no limit
// on the number of processes, since the kernel counts those of the whole user.
var limits = []child.Limit{
	{Resource: unix.RLIMIT_CPU, Max: 600},       // seconds
	{Resource: unix.RLIMIT_AS, Max: 4 << 30},    // bytes
	{Resource: unix.RLIMIT_CORE, Max: 0},        // a core holds what was pushed
	{Resource: unix.RLIMIT_NOFILE, Max: 1024},   // descriptors
	{Resource: unix.RLIMIT_FSIZE, Max: 8 << 30}, // bytes of one file
}

// advertise answers GET info/refs.
func (h *Server) advertise(w http.ResponseWriter, r *http.Request, at place, service string) {
	if !at.readOnly {
		h.refresh(r.Context())
	}
	c := h.cmdAt(at, strings.TrimPrefix(service, "git-"), "--stateless-rpc", "--http-backend-info-refs", at.dir)
	protocol := h.protocol(r, service)
	c.Env = append(c.Env, protocol...)
	c.Timeout = -1
	w.Header().Set("Content-Type", "application/x-"+service+"-advertisement")
	out := newResponse(w, h.Limits.Idle)
	defer out.done()
	if len(protocol) == 0 || protocol[0] != "GIT_PROTOCOL=version=2" {
		_, _ = out.Write(append(appendPkt(nil, "# service="+service+"\n"), flushPkt...))
	}
	if err := h.Git.Stream(r.Context(), c, out); err != nil {
		panic(http.ErrAbortHandler) // the status is sent; only a broken connection says "failed"
	}
}

// protocol is the environment for the version that the client asked for. Pushes have no version
// 2, and version 0 is understood by every client.
func (h *Server) protocol(r *http.Request, service string) []string {
	if v := r.Header.Get("Git-Protocol"); service == "git-upload-pack" && gitProtocol.MatchString(v) {
		return []string{"GIT_PROTOCOL=" + v}
	}
	return nil
}

// uploadPack answers a fetch.
func (h *Server) uploadPack(w http.ResponseWriter, r *http.Request, at place) {
	if r.Header.Get("Content-Type") != "application/x-git-upload-pack-request" {
		refuse(w, http.StatusUnsupportedMediaType, "not a fetch request")
		return
	}
	body, err := openBody(w, r, h.Limits.MaxRequest, h.Limits.Idle)
	if err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return
	}
	w.Header().Set("Content-Type", "application/x-git-upload-pack-result")
	c := h.cmdAt(at, "upload-pack", "--stateless-rpc", at.dir)
	// The base's bitmap. No task's repository has such an index, and only this confined process reads one there.
	c.Config = append(c.Config, "core.multiPackIndex=true")
	c.Env = append(c.Env, h.protocol(r, "git-upload-pack")...)
	out := newResponse(w, h.Limits.Idle)
	defer out.done()
	start := h.Now()
	err = h.stream(r.Context(), c, body, out)
	h.log("git-upload-pack", body.in, out.n, start, err)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// stream runs git between a request and a response. Git gets a real pipe, so that its end is seen
// at once even while the client still sends; what git did not want to read is read and dropped.
// When the client's side fails, git is killed.
func (h *Server) stream(ctx context.Context, c git.Cmd, in io.Reader, out io.Writer) error {
	pr, pw, err := os.Pipe()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer pw.Close()
		if err := copyIn(pw, in); err != nil {
			cancel(err)
		}
	}()
	c.Stdin, c.Timeout = pr, -1
	err = h.Git.Stream(ctx, c, out)
	pr.Close() // a copy that still writes fails with EPIPE and goes on dropping
	<-copied
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// copyIn copies in to the pipe and reports only errors of reading: a closed pipe means that git
// has heard enough.
func copyIn(pipe io.Writer, in io.Reader) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for closed := false; ; {
		n, err := in.Read(*buf)
		if n > 0 && !closed {
			_, werr := pipe.Write((*buf)[:n])
			closed = werr != nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
