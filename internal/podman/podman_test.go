package podman

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pelletier/go-toml/v2"

	"terok/internal/problem"
	"terok/internal/state"
)

// fake is a podman that is a shell script.
func fake(t *testing.T, script string) *Runner {
	t.Helper()
	path := filepath.Join(t.TempDir(), "podman")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &Runner{Path: path}
}

// TestAbsentIsNeverAFailedQuery: the three outcomes of a query stay apart.
func TestAbsentIsNeverAFailedQuery(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		absent bool
	}{
		"podman 4.3":       {`echo "[]"; echo 'Error: inspecting object: no such container x' >&2; exit 125`, true},
		"podman 4.3 start": {`echo 'Error: no container with name or ID "x" found: no such container' >&2; exit 125`, true},
		"with a warning":   {`echo 'WARN[0000] cgroups' >&2; echo 'Error: no such object: "x"' >&2; exit 125`, true},
		"locked database":  {`echo 'Error: acquiring lock 0: file exists' >&2; exit 125`, false},
		"no such file":     {`echo 'Error: statfs /x: no such file or directory' >&2; exit 125`, false},
		"other code":       {`echo 'Error: no such container x' >&2; exit 1`, false},
		"nonsense":         {`echo 'not json'`, false},
		"empty list":       {`echo '[]'`, false},
		"killed":           {`kill -9 $$`, false},
	} {
		_, err := fake(t, c.script).Inspect(t.Context(), "x")
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		var q *QueryError
		if got := errors.Is(err, ErrAbsent); got != c.absent {
			t.Errorf("%s: absent is %v: %v", name, got, err)
		} else if !got && (!errors.As(err, &q) || problem.Of(err).Exit != problem.Runtime) {
			t.Errorf("%s: want a QueryError with exit 10, got %v", name, err)
		}
	}
}

// TestContainerCannotForgeAbsence: what a command in a container prints is not podman's word.
func TestContainerCannotForgeAbsence(t *testing.T) {
	r := fake(t, `echo 'Error: no such container x' >&2; exit 125`)
	if _, err := r.Exec(t.Context(), "x", []string{"true"}, ExecOptions{}); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("exec: %v", err)
	}
	if _, err := r.Run(t.Context(), []string{"-d", "x"}); err == nil || errors.Is(err, ErrAbsent) {
		t.Errorf("run: %v", err)
	}
	if err := r.Stop(t.Context(), "x", time.Second); err != nil {
		t.Errorf("stop of what is not there: %v", err)
	}
}

// TestEndsMeanwhile: podman 4.3 fails to remove or stop a container that ends at the same moment.
func TestEndsMeanwhile(t *testing.T) {
	for name, end := range map[string]func(*Runner) error{
		"rm":   func(r *Runner) error { return r.Remove(t.Context(), "x") },
		"stop": func(r *Runner) error { return r.Stop(t.Context(), "x", time.Second) },
	} {
		tried := filepath.Join(t.TempDir(), "tried")
		r := fake(t, `[ -e `+tried+` ] && exit 0; : >`+tried+`; echo 'Error: cannot remove container x: container state improper: stopped' >&2; exit 2`)
		if err := end(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	tried := filepath.Join(t.TempDir(), "tried")
	if err := fake(t, `echo x >>`+tried+`; echo 'Error: no space left' >&2; exit 2`).Remove(t.Context(), "x"); err == nil {
		t.Error("another failure passed")
	}
	if data, err := os.ReadFile(tried); err != nil || string(data) != "x\n" {
		t.Errorf("another failure was tried %q times, %v", data, err)
	}
}

func TestQueriesAreBounded(t *testing.T) {
	dir := t.TempDir()
	r := fake(t, `mkdir `+dir+`/$$ && ls `+dir+` | wc -l >>`+dir+`.n; sleep 0.05; rmdir `+dir+`/$$; echo '[]'`)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if _, err := r.PS(t.Context(), "l"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	data, err := os.ReadFile(dir + ".n")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range strings.Fields(string(data)) {
		if n > "4" || len(n) > 1 {
			t.Fatalf("%s queries at once", n)
		}
	}
}

func TestDeadlineIsAQueryError(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := fake(t, `exec sleep 60`).PS(ctx)
	var q *QueryError
	if !errors.As(err, &q) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestEnvironment: nothing of the caller's environment can point podman elsewhere.
func TestEnvironment(t *testing.T) {
	r := fake(t, `env`)
	r.Conf = "/ours.conf"
	home := t.TempDir()
	for _, d := range []string{"home/.local/share/containers", "home/.config/containers", "relocated"} {
		if err := os.MkdirAll(filepath.Join(home, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	vars := map[string]string{"HOME": home + "/home", "PATH": ".:rel:/opt/bin", "XDG_DATA_HOME": home + "/relocated", "XDG_CONFIG_HOME": home + "/relocated",
		"CONTAINERS_CONF": "/evil.conf", "CONTAINERS_CONF_OVERRIDE": "/evil.conf", "CONTAINER_HOST": "tcp://evil", "LD_PRELOAD": "/evil.so",
		"ANTHROPIC_API_KEY": "key", "http_proxy": "http://u:p@h", "DBUS_SESSION_BUS_ADDRESS": "unix:path=/bus"}
	r.Environ = func(k string) string { return vars[k] }
	out, err := r.Do(t.Context(), Call{Args: []string{"x"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"evil", "ANTHROPIC", "http_proxy", "relocated", "PATH=."} {
		if strings.Contains(string(out), bad) {
			t.Errorf("%q reaches podman:\n%s", bad, out)
		}
	}
	for _, want := range []string{"CONTAINERS_CONF=/ours.conf\n", "DBUS_SESSION_BUS_ADDRESS=unix:path=/bus\n", "PATH=/opt/bin:"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is missing:\n%s", want, out)
		}
	}
	if err := os.Mkdir(home+"/relocated/containers", 0o700); err != nil {
		t.Fatal(err)
	}
	if out, err = r.Do(t.Context(), Call{Args: []string{"x"}}); err != nil || !strings.Contains(string(out), "XDG_DATA_HOME="+home+"/relocated\n") {
		t.Errorf("podman's own relocated store is not used (%v):\n%s", err, out)
	}
}

// TestContainersConf: a user's file decides where podman's things are and nothing about containers.
func TestContainersConf(t *testing.T) {
	home := t.TempDir()
	dir := filepath.Join(home, ".config/containers")
	if err := os.MkdirAll(filepath.Join(dir, "containers.conf.d"), 0o700); err != nil {
		t.Fatal(err)
	}
	user := "[containers]\npidns = \"host\"\nvolumes = [\"/:/host\"]\nenv = [\"X=1\"]\ndefault_capabilities = [\"SYS_ADMIN\"]\nseccomp_profile = \"unconfined\"\n" +
		"[engine]\ncgroup_manager = \"systemd\"\nhooks_dir = [\"/evil\"]\nruntime = \"evil\"\nnum_locks = 4096\n[engine.runtimes]\ncrun = [\"/opt/crun\"]\n" +
		"[network]\ndefault_rootless_network_cmd = \"slirp4netns\"\n"
	if err := os.WriteFile(filepath.Join(dir, "containers.conf"), []byte(user), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "containers.conf.d", "9.conf"), []byte("[engine]\ncgroup_manager = \"cgroupfs\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := &Runner{Conf: filepath.Join(home, "ours", "containers.conf"), Environ: func(k string) string { return map[string]string{"HOME": home}[k] }}
	if err := r.WriteContainersConf("/ours/hooks"); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(r.Conf)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Containers map[string]any
		Engine     map[string]any
		Network    map[string]any
	}
	data, err := os.ReadFile(r.Conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := toml.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Engine["cgroup_manager"] != "cgroupfs" || got.Engine["num_locks"] != int64(4096) || got.Engine["runtime"] != "crun" ||
		got.Network["default_rootless_network_cmd"] != "slirp4netns" {
		t.Errorf("engine: %v, network: %v", got.Engine, got.Network)
	}
	if h, _ := json.Marshal(got.Engine["hooks_dir"]); string(h) != `["/ours/hooks"]` {
		t.Errorf("hooks_dir: %s", h)
	}
	all, _ := json.Marshal(got.Containers)
	for _, bad := range []string{`"host"`, "/host", "X=1", "SYS_ADMIN", "unconfined"} {
		if strings.Contains(string(all), bad) {
			t.Errorf("%q of the user's file is in [containers]: %s", bad, all)
		}
	}
	if err := r.WriteContainersConf("/ours/hooks"); err != nil {
		t.Fatal(err)
	}
	if after, err := os.Stat(r.Conf); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("rewritten without need: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "containers.conf"), []byte("[engine\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteContainersConf("/ours/hooks"); problem.Of(err).Code != "containers_conf_invalid" {
		t.Errorf("a broken file: %v", err)
	}
}

const infoJSON = `{"host":{"cgroupControllers":[],"kernel":"6.1","idMappings":{"uidmap":[{"size":1},{"size":%IDS%}]},
"ociRuntime":{"name":"crun","path":"/usr/bin/crun","version":"crun version %CRUN%\ncommit: x"},"security":{"rootless":true},
"slirp4netns":{"executable":"/usr/bin/slirp4netns"}},"store":{"graphDriverName":"overlay"},"version":{"Version":"%PODMAN%"}}`

func TestFloor(t *testing.T) {
	for _, c := range []struct{ podman, crun, ids, says string }{
		{"4.3.1", "1.8.1", "65536", ""},
		{"5.0.0-dev", "1.14", "65536", ""},
		{"4.2.9", "1.8.1", "65536", "podman 4.2.9 is too old: terok needs 4.3"},
		{"4.3.1", "1.7", "65536", "crun 1.7 is too old"},
		{"4.3.1", "1.8.1", "0", "sub-ids"},
	} {
		text := strings.NewReplacer("%PODMAN%", c.podman, "%CRUN%", c.crun, "%IDS%", c.ids).Replace(infoJSON)
		caps, err := parseInfo([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		err = caps.floor()
		if c.says == "" {
			if err != nil || caps.NetworkCmd != "slirp4netns" || caps.HasController("pids") {
				t.Errorf("%+v: %v", caps, err)
			}
			continue
		}
		if p := problem.Of(err); p == nil || !strings.Contains(p.Message, c.says) || p.Exit != problem.Runtime || p.Hint == "" {
			t.Errorf("want %q with a cure, got %+v", c.says, p)
		}
	}
	if _, err := parseInfo([]byte(strings.Replace(infoJSON, `"rootless":true`, `"rootless":false`, 1))); err == nil {
		t.Error("a rootful podman is accepted")
	}
}

func TestRootIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "uid_map")
	for text, refused := range map[string]bool{"         0          0 4294967295\n": true, "0 1000 1\n1 100000 65536\n": false} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := refuseRoot(file, 0); (err != nil) != refused {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := refuseRoot("/nonexistent", 1000); err != nil {
		t.Error(err)
	}
}

func TestMissing(t *testing.T) {
	r := &Runner{Path: "/nonexistent/podman"}
	_, err := r.PS(t.Context())
	if p := problem.Of(err); p.Code != "runtime_unavailable" || p.Exit != problem.Runtime || p.Hint == "" {
		t.Errorf("got %+v", p)
	}
}

func FuzzPodmanAnswers(f *testing.F) {
	f.Add([]byte(`[{"Id":"a","Names":["n"],"State":"running","Labels":null,"Pid":1,"StartedAt":-62135596800}]`))
	f.Add([]byte(`[{"Id":"a","Names":null,"Created":1,"Size":2}]`))
	f.Add([]byte(infoJSON))
	f.Add([]byte(`[]`))
	f.Add([]byte(``))
	f.Fuzz(func(t *testing.T, data []byte) {
		if list, err := parsePS(data); err == nil {
			for _, c := range list {
				if c.ID == "" || c.State == "" || c.Name() == "" && len(c.Names) == 0 {
					t.Errorf("accepted %+v", c)
				}
			}
		}
		if list, err := parseImages(data); err == nil {
			for _, i := range list {
				if i.ID == "" {
					t.Error("an image without id")
				}
			}
		}
		if caps, err := parseInfo(data); err == nil {
			_ = caps.floor()
		}
		_, _ = one(data)
	})
}

// The first command of a new tree may be a question: podman refuses a CONTAINERS_CONF that does
// not exist.
func TestFirstQuestionMakesConf(t *testing.T) {
	dir := t.TempDir()
	fake := filepath.Join(dir, "podman")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\n[ -f \"$CONTAINERS_CONF\" ] || exit 125\necho '[]'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	r := New(state.Roots{Config: dir + "/c", Data: dir + "/d", Runtime: dir + "/r"}, func(k string) string {
		return map[string]string{"HOME": dir, "PATH": os.Getenv("PATH")}[k]
	})
	r.Path = fake
	if _, err := r.PS(t.Context()); err != nil {
		t.Fatal(err)
	}
}
