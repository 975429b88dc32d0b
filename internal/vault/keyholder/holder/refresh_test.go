package holder

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/audit"
	"terok/internal/vault/keyholder"
	"terok/test/issuer"
)

// subscription is a rig with an OAuth credential for provider "openai", granted to two containers.
type subscription struct {
	*rig
	issuer *issuer.Server
	op     *keyholder.Client
	a, b   *keyholder.Session
	ended  <-chan error // of the keyholder
	access string       // as stored at first
}

// clock is a settable one that goes on with the real one.
type clock struct{ ahead atomic.Int64 }

func (c *clock) Now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }

func newSubscription(t *testing.T, cfg Config, life time.Duration) *subscription {
	t.Helper()
	r := newRig(t)
	i, err := issuer.Start(r.roots.Data)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	ended := r.serve(cfg)
	s := &subscription{rig: r, issuer: i, op: r.unlock(), ended: ended}
	s.signIn(life)
	s.a, s.b = s.session("t1"), s.session("t2")
	return s
}

// signIn stores a new sign-in that ends after life.
func (s *subscription) signIn(life time.Duration) {
	s.t.Helper()
	access, refresh := s.issuer.Issue()
	s.access = access
	ep := s.issuer.Endpoint()
	cred := keyholder.Credential{Scope: "shared", Provider: "openai", Kind: "oauth", ExpiresAt: time.Now().Add(life), Endpoint: &ep,
		Public: map[string]string{"scopes": "a b c"}}
	if _, err := s.op.Put(s.ctx, cred, keyholder.Secrets{Secret: []byte(access), Refresh: []byte(refresh)}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *subscription) session(key string) *keyholder.Session {
	s.t.Helper()
	path, _ := s.container(key, grant("openai", "shared"))
	conn, err := keyholder.Connect(s.ctx, s.roots.KeyholderSocket(), path)
	if err != nil {
		s.t.Fatal(err)
	}
	session := keyholder.NewSession(conn)
	s.t.Cleanup(func() { session.Close() })
	return session
}

func (s *subscription) listed() keyholder.Credential {
	s.t.Helper()
	list, err := s.op.List(s.ctx)
	if err != nil || len(list) != 1 {
		s.t.Fatal(list, err)
	}
	return list[0]
}

func (s *subscription) get(from *keyholder.Session) string {
	s.t.Helper()
	got, err := from.Credential(s.ctx, "openai")
	if err != nil {
		s.t.Fatal(err)
	}
	return string(got.Value)
}

// spec/vault.md §10: 45. Fifty requests of two tasks with a token that has ended: one request to
// the provider, and all get the new one.
func TestExpiredIsRefreshedOnce(t *testing.T) {
	t.Parallel()
	s := newSubscription(t, Config{}, -time.Minute)
	var all sync.WaitGroup
	var good atomic.Int32
	for i := range 50 {
		all.Go(func() {
			got, err := []*keyholder.Session{s.a, s.b}[i%2].Credential(s.ctx, "openai")
			if err == nil && s.issuer.Good(string(got.Value)) && string(got.Value) != s.access {
				good.Add(1)
			} else {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := s.issuer.Count("token"); n != 1 || good.Load() != 50 {
		t.Errorf("%d requests to the token endpoint, %d good answers", n, good.Load())
	}
	c := s.listed()
	if left := time.Until(c.ExpiresAt); c.State != "ok" || left < 50*time.Minute || c.RefreshAt.IsZero() || c.VerifiedAt.IsZero() || c.LastError != "" {
		t.Errorf("%+v", c)
	}
	noted := false
	_ = audit.Read(s.roots.HostLedger(), audit.Filter{}, func(e audit.Event) error {
		noted = noted || e.Ev == "vault_refreshed" && e.Provider == "openai"
		return nil
	})
	if !noted {
		t.Error("the host's ledger says nothing")
	}
}

// spec/vault.md §10: 49. Ahead of the end the old token serves, however slow the provider is; the
// new one then reaches every task.
func TestAheadOfTheEnd(t *testing.T) {
	t.Parallel()
	if s := newSubscription(t, Config{}, 5*time.Minute); s.get(s.a) != s.access || s.issuer.Count("token") != 0 {
		t.Error("refreshed in the first half of its life")
	}
	c := &clock{}
	s := newSubscription(t, Config{Now: c.Now}, 5*time.Minute)
	c.advance(3 * time.Minute)
	release, entered := make(chan struct{}), make(chan struct{}, 10)
	s.issuer.Token = func(http.ResponseWriter, *http.Request) bool {
		entered <- struct{}{}
		<-release
		return true
	}
	if got := s.get(s.a); got != s.access {
		t.Fatal("not the old token")
	}
	<-entered
	for range 20 { // while the provider thinks
		if s.get(s.a) != s.access || s.get(s.b) != s.access {
			t.Fatal("a request waits, or got something else")
		}
	}
	if c := s.listed(); !c.Refreshing {
		t.Errorf("%+v", c)
	}
	close(release)
	s.eventually("new token everywhere", func() bool { return s.get(s.a) != s.access && s.get(s.b) == s.get(s.a) })
	if n := s.issuer.Count("token"); n != 1 {
		t.Error(n, "requests")
	}
}

func TestRefreshAt(t *testing.T) {
	now := time.Now()
	for life, want := range map[time.Duration]time.Duration{8 * time.Hour: 8*time.Hour - 48*time.Minute, time.Hour: 50 * time.Minute,
		15 * time.Minute: 7*time.Minute + 30*time.Second, time.Second: 500 * time.Millisecond, -time.Hour: -time.Hour} {
		if got := refreshAt(now, now.Add(life)).Sub(now); got != want {
			t.Errorf("%v: %v, want %v", life, got, want)
		}
	}
	if !refreshAt(now, time.Time{}).IsZero() {
		t.Error("a token without an end is due")
	}
}

// spec/vault.md §10: 48. A refused refresh token is tried once; a new sign-in cures the same tasks.
func TestRefusedOnce(t *testing.T) {
	t.Parallel()
	s := newSubscription(t, Config{}, -time.Minute)
	s.issuer.Forget()
	for range 5 {
		for _, session := range []*keyholder.Session{s.a, s.b} {
			if _, err := session.Credential(s.ctx, "openai"); !errors.Is(err, keyholder.ErrReauth) || strings.Contains(err.Error(), "REAL") {
				t.Fatal(err)
			}
		}
	}
	if n := s.issuer.Count("token"); n != 1 {
		t.Error(n, "attempts")
	}
	if c := s.listed(); c.State != "reauth_required" || c.LastError != "refused: invalid_grant" {
		t.Errorf("%+v", c)
	}
	s.signIn(time.Hour)
	if got := s.get(s.a); got != s.access {
		t.Error(got)
	}
	if c := s.listed(); c.State != "ok" || c.LastError != "" {
		t.Errorf("%+v", c)
	}
}

// spec/vault.md §10: 46, the keyholder's half. A token that the provider refuses is replaced once;
// refusals that a new token does not cure do not make the provider's token endpoint busy.
func TestRenew(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSubscription(t, Config{Now: c.Now}, 10*time.Hour)
	old, err := s.a.Credential(s.ctx, "openai")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.a.Renew(s.ctx, "openai", old); err != nil || string(got.Value) != s.access || s.issuer.Count("token") != 0 {
		t.Error("a token of a moment ago was thrown away", err)
	}
	c.advance(time.Minute)
	var all sync.WaitGroup
	for range 20 { // all with the same refused token
		all.Go(func() {
			if got, err := s.a.Renew(s.ctx, "openai", old); err != nil || !s.issuer.Good(string(got.Value)) || string(got.Value) == s.access {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := s.issuer.Count("token"); n != 1 {
		t.Fatal(n, "requests")
	}
	// The answers go on being 401, whatever the token.
	for range 200 {
		c.advance(6 * time.Second)
		now, err := s.a.Credential(s.ctx, "openai")
		if err == nil {
			_, err = s.a.Renew(s.ctx, "openai", now)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if n := s.issuer.Count("token"); n < 3 || n > 6 { // in 20 minutes, 200 refusals
		t.Error(n, "requests to the token endpoint")
	}
}

// A provider that has trouble is asked again, later and later; a token that is good serves all the
// while, one that has ended does not.
func TestBackoff(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSubscription(t, Config{Now: c.Now}, 5*time.Minute)
	s.issuer.Grace = true
	s.issuer.Token = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Retry-After", "60")
		w.WriteHeader(http.StatusServiceUnavailable)
		return false
	}
	c.advance(3 * time.Minute)
	if got := s.get(s.a); got != s.access {
		t.Fatal(got)
	}
	s.eventually("failed", func() bool { c := s.listed(); return !c.Refreshing && c.LastError != "" })
	for range 10 {
		s.get(s.session(fmt.Sprintf("x%d", s.issuer.Count("token"))))
	}
	if n := s.issuer.Count("token"); n != 1 {
		t.Error(n, "requests in spite of Retry-After")
	}
	c.advance(3 * time.Minute) // the token has ended
	if _, err := s.b.Credential(s.ctx, "openai"); !errors.Is(err, keyholder.ErrRefresh) || s.issuer.Count("token") != 2 {
		t.Error(err, s.issuer.Count("token"))
	}
	if _, err := s.b.Credential(s.ctx, "openai"); !errors.Is(err, keyholder.ErrRefresh) || s.issuer.Count("token") != 2 {
		t.Error(err, s.issuer.Count("token"))
	}
	if c := s.listed(); c.State != "ok" {
		t.Error("trouble on the way ended the sign-in", c.State)
	}
	s.issuer.Token = nil
	c.advance(2 * time.Minute)
	if got := s.get(s.b); got == s.access {
		t.Error("not refreshed")
	}
	if c := s.listed(); strings.Contains(c.LastError, "503") {
		t.Error(c.LastError)
	}
}

// A refusal after an answer that never arrived is a lost rotation, and is said to be one.
func TestRotationLost(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSubscription(t, Config{Now: c.Now}, -time.Minute)
	s.issuer.Token = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) } // rotated, but the answer is lost
	if _, err := s.a.Credential(s.ctx, "openai"); !errors.Is(err, keyholder.ErrRefresh) {
		t.Fatal(err)
	}
	s.issuer.Token = nil
	c.advance(time.Minute)
	if _, err := s.a.Credential(s.ctx, "openai"); !errors.Is(err, keyholder.ErrReauth) {
		t.Fatal(err)
	}
	if c := s.listed(); c.State != "reauth_required" || !strings.HasPrefix(c.LastError, "rotation_lost") {
		t.Errorf("%+v", c)
	}
}

// spec/vault.md §10: 47. The keyholder is killed after the provider has rotated the token and
// before it was stored. The next one tries the old token once.
func TestKilledBetweenAnswerAndStore(t *testing.T) {
	for name, grace := range map[string]bool{"the old token is dead": false, "the old token still works": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			i, err := issuer.Start(r.roots.Data)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(i.Close)
			i.Grace = grace
			start := func() *subscription {
				t.Helper()
				if err := Start(r.ctx, os.Args[0], r.roots, Guard{}); err != nil {
					t.Fatal(err)
				}
				return &subscription{rig: r, issuer: i, op: r.unlock()}
			}
			t.Cleanup(func() { Kill(r.roots) })
			s := start()
			s.signIn(-time.Minute)
			killed := make(chan error, 1)
			i.Token = func(http.ResponseWriter, *http.Request) bool {
				_, err := Kill(r.roots)
				killed <- err
				return true
			}
			if _, err := s.session("t1").Credential(r.ctx, "openai"); !errors.Is(err, keyholder.ErrLocked) {
				t.Fatal(err)
			}
			if err := <-killed; err != nil {
				t.Fatal(err)
			}
			i.Token = nil
			s = start()
			// Nobody has to ask: the note in the vault is enough.
			s.eventually("settled", func() bool {
				c := s.listed()
				return !c.Refreshing && (c.State == "reauth_required" || time.Until(c.ExpiresAt) > time.Minute)
			})
			c := s.listed()
			session := s.session("t2")
			if grace {
				if c.State != "ok" || !i.Good(s.get(session)) {
					t.Errorf("%+v", c)
				}
			} else {
				if _, err := session.Credential(r.ctx, "openai"); c.State != "reauth_required" || !strings.HasPrefix(c.LastError, "rotation_lost") || !errors.Is(err, keyholder.ErrReauth) {
					t.Errorf("%+v %v", c, err)
				}
			}
			if n := i.Count("token"); n != 2 {
				t.Error(n, "attempts")
			}
		})
	}
}

// Lock waits for a token that is on its way, and tells everybody "locked" meanwhile.
func TestLockWhileRefreshing(t *testing.T) {
	t.Parallel()
	s := newSubscription(t, Config{}, -time.Minute)
	entered, release := make(chan struct{}), make(chan struct{})
	s.issuer.Token = func(http.ResponseWriter, *http.Request) bool {
		close(entered)
		<-release
		return true
	}
	go s.a.Credential(s.ctx, "openai")
	<-entered
	locked := make(chan error, 1)
	go func() { locked <- s.op.Lock(s.ctx) }()
	s.eventually("locked", func() bool {
		_, err := s.b.Credential(s.ctx, "openai")
		return errors.Is(err, keyholder.ErrLocked)
	})
	close(release)
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	if err := s.end(s.ended); err != nil {
		t.Fatal(err)
	}
	s.serve(Config{})
	s.op = s.unlock()
	if c := s.listed(); c.State != "ok" || time.Until(c.ExpiresAt) < time.Minute {
		t.Errorf("the token that was on its way is lost: %+v", c)
	}
}

// A sign-in that is made while the old one is being refreshed wins.
func TestReplacedWhileRefreshing(t *testing.T) {
	t.Parallel()
	s := newSubscription(t, Config{}, -time.Minute)
	entered, release := make(chan struct{}), make(chan struct{})
	s.issuer.Token = func(http.ResponseWriter, *http.Request) bool {
		close(entered)
		<-release
		return true
	}
	got := make(chan string, 1)
	go func() { c, _ := s.a.Credential(s.ctx, "openai"); got <- string(c.Value) }()
	<-entered
	s.signIn(time.Hour)
	close(release)
	if v := <-got; v != s.access || s.get(s.b) != s.access {
		t.Error("the old sign-in's new token is used")
	}
}

// spec/vault.md §5.6: fewer rights and clocks that differ are warnings; a clock that is set back
// keeps no dead token in use.
func TestWarnings(t *testing.T) {
	t.Parallel()
	c := &clock{}
	s := newSubscription(t, Config{Now: c.Now}, -time.Minute)
	s.issuer.Scope, s.issuer.Lifetime = "a b", 3*time.Minute
	c.advance(5 * time.Minute)
	first := s.get(s.a)
	if w := s.listed().LastError; !strings.Contains(w, "gone: c") || !strings.Contains(w, "clock is 5m") {
		t.Errorf("%q", w)
	}
	if _, err := s.op.Refresh(s.ctx, "shared", "openai", ""); err != nil {
		t.Fatal(err)
	}
	if w := s.listed().LastError; strings.Contains(w, "gone") {
		t.Errorf("%q", w)
	}
	if s.get(s.a) == first {
		t.Error("not refreshed")
	}
}

func TestOperatorRefresh(t *testing.T) {
	t.Parallel()
	s := newSubscription(t, Config{}, time.Hour)
	c, err := s.op.Refresh(s.ctx, "shared", "openai", "default")
	if err != nil || c.State != "ok" || s.issuer.Count("token") != 1 || s.get(s.a) == s.access {
		t.Error(c, err)
	}
	if _, err := s.op.Refresh(s.ctx, "shared", "nothing", ""); !errors.Is(err, keyholder.ErrNoCredential) {
		t.Error(err)
	}
	s.put(s.op, "shared", "anthropic", secret)
	if _, err := s.op.Refresh(s.ctx, "shared", "anthropic", ""); err == nil || errors.Is(err, keyholder.ErrRefresh) {
		t.Error("an API key was refreshed", err)
	}
	s.issuer.Forget()
	if _, err := s.op.Refresh(s.ctx, "shared", "openai", ""); !errors.Is(err, keyholder.ErrReauth) {
		t.Error(err)
	}
	// A supervisor may not.
	path, _ := s.container("t9", grant("openai", "shared"))
	for _, op := range []string{keyholder.OpRefresh, keyholder.OpRevoke} {
		conn, err := keyholder.Connect(s.ctx, s.roots.KeyholderSocket(), path)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, `{"v":1,"id":7,"op":%q,"scope":"shared","provider":"openai"}`, op)
		buf := make([]byte, keyholder.MaxMessage)
		n, err := conn.Read(buf)
		if err != nil || !strings.Contains(string(buf[:n]), keyholder.CodeRefused) {
			t.Errorf("%s: %q %v", op, buf[:n], err)
		}
		conn.Close()
	}
}

func TestRevokeUpstream(t *testing.T) {
	t.Parallel()
	s := newSubscription(t, Config{}, time.Hour)
	if err := s.op.Revoke(s.ctx, "shared", "openai", "", nil); err != nil || s.issuer.Count("revoke") != 1 {
		t.Error(err)
	}
	if _, err := s.a.Credential(s.ctx, "openai"); !errors.Is(err, keyholder.ErrNoCredential) {
		t.Error(err)
	}
	s.put(s.op, "shared", "gitlab", secret)
	if err := s.op.Revoke(s.ctx, "shared", "gitlab", "", nil); err == nil || err.(*keyholder.Refusal).Code != keyholder.CodeNoRevocation {
		t.Error(err)
	}
	how := &keyholder.Revocation{Method: "DELETE", URL: s.issuer.URL + "/api/self", Header: "PRIVATE-TOKEN", CAFile: s.issuer.CAFile, AllowPrivate: true}
	if err := s.op.Revoke(s.ctx, "shared", "gitlab", "", how); err != nil {
		t.Error(err) // 401: it was over already
	}
	if seen := s.issuer.Seen(); len(seen) != 1 || seen[0].Get("PRIVATE-TOKEN") != secret {
		t.Error(seen)
	}
	s.put(s.op, "shared", "gitlab", secret)
	how.URL = "https://127.0.0.1:1/"
	if err := s.op.Revoke(s.ctx, "shared", "gitlab", "", how); err == nil {
		t.Error("forgotten although the provider was not told")
	}
	if c := s.listed(); c.Provider != "gitlab" {
		t.Error(c)
	}
}

// spec/vault.md §10: 50. On a full disk no refresh is tried, since its answer could not be kept;
// a token that is good goes on being used.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	c := &clock{}
	full := errors.New("no space left on device")
	s := newSubscription(t, Config{Now: c.Now, reserve: func(string) (func(), error) { return nil, full }}, 5*time.Minute)
	c.advance(3 * time.Minute)
	if got := s.get(s.a); got != s.access {
		t.Fatal(got)
	}
	s.eventually("warned", func() bool { return strings.Contains(s.listed().LastError, "no room") })
	if got := s.get(s.b); got != s.access || s.issuer.Count("token") != 0 {
		t.Error(got, s.issuer.Count("token"))
	}
}

// asFull makes the test binary fill a small filesystem and say what reserve does.
const asFull = "TEROK_HOLDER_TEST_FULL"

func fillDisk(dir string) {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=256k"); err != nil {
		fmt.Println("mount:", err)
		return
	}
	vault := filepath.Join(dir, "vault.age")
	if err := os.WriteFile(vault, make([]byte, 32<<10), 0o600); err != nil {
		fmt.Println(err)
		return
	}
	release, err := reserve(dir)
	fmt.Println("empty:", err)
	if err == nil {
		// What is reserved cannot be taken by anybody else, and comes back.
		taken := os.WriteFile(filepath.Join(dir, "other"), make([]byte, 180<<10), 0o600)
		fmt.Println("taken:", errors.Is(taken, unix.ENOSPC))
		_ = os.Remove(filepath.Join(dir, "other"))
		release()
		release()
		fmt.Println("again:", os.WriteFile(filepath.Join(dir, "other"), make([]byte, 180<<10), 0o600))
	}
	_, err = reserve(dir)
	fmt.Println("full:", errors.Is(err, unix.ENOSPC))
	left, _ := os.ReadDir(dir)
	fmt.Println("files:", len(left))
}

func TestReserve(t *testing.T) {
	t.Parallel()
	out := inNamespace(t, asFull+"="+t.TempDir())
	want := "empty: <nil>\ntaken: true\nagain: <nil>\nfull: true\nfiles: 2\n"
	if out != want {
		t.Errorf("%s", out)
	}
}

// TestManyWaiters: a worker that was taken over can make no more than so many requests wait.
func TestManyWaiters(t *testing.T) {
	t.Parallel()
	s := newSubscription(t, Config{}, -time.Minute)
	release := make(chan struct{})
	s.issuer.Token = func(http.ResponseWriter, *http.Request) bool { <-release; return true }
	path, _ := s.container("t9", grant("openai", "shared"))
	conn, err := keyholder.Connect(s.ctx, s.roots.KeyholderSocket(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		for i := range maxWaiting + 1 {
			fmt.Fprintf(conn, `{"v":1,"id":%d,"op":"credential","provider":"openai"}`, i+1)
		}
	}()
	buf := make([]byte, keyholder.MaxMessage)
	n, err := conn.Read(buf)
	var resp keyholder.Response
	if err != nil || json.Unmarshal(buf[:n], &resp) != nil || resp.Code != keyholder.CodeRefresh || !strings.Contains(resp.Message, "too many") {
		t.Errorf("%q %v", buf[:n], err)
	}
	close(release)
}
