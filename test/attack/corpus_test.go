package attack

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/control"
	"terok/test/attack/corpus"
	"terok/test/world"
)

// corpusAddr is an address of the world at which tests serve themselves.
const corpusAddr = world.Free

// TestBenignCorpus: with rules for what is used, everyday clients work through the shield as without
// it: git over https and ssh, npm, the go command, apt, curl with redirects and HTTP/2, WebSocket,
// server-sent events, large transfers both ways. Nothing is refused, nobody is asked, no name is
// found fault with. The clients are this machine's own (/usr, mounted read-only into an image that
// holds nothing else); WebSocket is spoken by node.
func TestBenignCorpus(t *testing.T) {
	w, _ := internet(t)
	for _, name := range corpus.Names {
		if err := w.Answer(t.Context(), world.Script{Name: name, Type: "A", Values: []string{corpusAddr}}); err != nil {
			t.Fatal(err)
		}
	}
	dir := t.TempDir()
	repos, mirror, ctl := filepath.Join(dir, "repos"), filepath.Join(dir, "mirror"), filepath.Join(dir, "ctl")
	site, err := corpus.Start(corpusAddr, repos, mirror)
	if err != nil {
		t.Fatal(err)
	}
	defer site.Close()
	forge, err := corpus.StartForge(corpusAddr+":22", "git.test", repos)
	if err != nil {
		t.Fatal(err)
	}
	defer forge.Close()
	host := func(dir, line string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", line)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", line, err, out)
		}
	}
	put := func(name string, content []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	put("ctl/ca.pem", site.CA)
	put("ctl/key", forge.Key)
	put("ctl/known", []byte(forge.Known))
	put("ctl/large", bytes.Repeat([]byte("0123456789abcdef"), 2<<20)) // 32 MiB
	lock := map[string]any{"": map[string]any{"name": "web", "version": "1.0.0", "dependencies": map[string]string{}}}
	deps := map[string]string{}
	for _, p := range site.Packages {
		deps[p.Name] = "1.0.0"
		lock["node_modules/"+p.Name] = map[string]any{"version": "1.0.0", "resolved": p.URL(), "integrity": p.Integrity}
	}
	lock[""].(map[string]any)["dependencies"] = deps
	js := func(v any) []byte {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	put("ctl/npm/package.json", js(map[string]any{"name": "web", "version": "1.0.0", "dependencies": deps}))
	put("ctl/npm/package-lock.json", js(map[string]any{"name": "web", "version": "1.0.0", "lockfileVersion": 3, "requires": true, "packages": lock}))
	put("ctl/go/go.mod", []byte("module web\n\ngo 1.21\n\nrequire example.test/mod v1.0.0\n"))
	put("ctl/ws.js", []byte(webSocket))
	put("ctl/apt/sources.list", []byte("deb [signed-by=/ctl/apt/key.gpg] http://deb.test/debian stable main\ndeb [signed-by=/ctl/apt/key.gpg] https://deb.test/debian stable main\n"))
	host(dir, `mkdir repos && git init -q --bare repos/p.git && git -C repos/p.git config http.receivepack true
		git init -q -b main seed && cd seed && head -c 3000000 /dev/urandom >blob && git add . &&
		git -c user.name=t -c user.email=t@t commit -qm first && git push -q ../repos/p.git main && git -C ../repos/p.git symbolic-ref HEAD refs/heads/main`)
	// A signed distribution of one package.
	host(dir, `mkdir -p mirror/debian/dists/stable/main/binary-amd64 gpg && chmod 700 gpg && cd mirror/debian/dists/stable
		printf 'Package: hello\nVersion: 1.0\nArchitecture: amd64\nMaintainer: t <t@t>\nDescription: says it\nFilename: pool/hello.deb\nSize: 1\nSHA256: %064d\n' 0 >main/binary-amd64/Packages
		f=main/binary-amd64/Packages
		printf 'Origin: t\nSuite: stable\nCodename: stable\nDate: %s\nArchitectures: amd64\nComponents: main\nSHA256:\n %s %s %s\n' \
			"$(LC_ALL=C date -u '+%a, %d %b %Y %H:%M:%S UTC')" "$(sha256sum $f | cut -d' ' -f1)" "$(stat -c %s $f)" $f >Release
		g="gpg --homedir `+dir+`/gpg --batch --quiet --pinentry-mode loopback --passphrase ''"
		trap 'gpgconf --homedir `+dir+`/gpg --kill all' EXIT
		eval "$g --quick-gen-key t@t rsa2048 sign 1d" && eval "$g --clearsign -o InRelease Release" && eval "$g --export -o `+ctl+`/apt/key.gpg"`)

	image := fmt.Sprintf("localhost/terok-corpus:%d", os.Getpid())
	if err := bareImage(image); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = exec.Command("podman", "rmi", "--force", image).Run() })
	name := fmt.Sprintf("corpus-%d", os.Getpid())
	args := []string{"sandbox", "run", "-d", "--name", name, "--mount", "/usr:/usr:ro", "--mount", ctl + ":/ctl"}
	for _, rule := range []string{"git.test:22,80,443", "npm.test", "goproxy.test", "deb.test", "web.test", "files.test"} {
		args = append(args, "--allow", rule)
	}
	t.Cleanup(func() {
		if _, err := command("sandbox", "rm", name); err != nil {
			t.Error(err)
		}
	})
	must(t, append(args, image, "--", "/usr/bin/sleep", "infinity")...)
	b := &box{name: name}

	sum := func(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }
	large, err := os.ReadFile(filepath.Join(ctl, "large"))
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for _, c := range []struct{ what, line, want string }{
		{"git clone over https", "git clone -q https://git.test/p.git /tmp/a && git -C /tmp/a log --format=%s", "first"},
		{"git push over https", "cd /tmp/a && head -c 400000 /dev/urandom >more && git add . && git commit -qm second && git push -q origin HEAD:https && git ls-remote origin", "refs/heads/https"},
		{"git clone over http", "git clone -q http://git.test/p.git /tmp/h && git -C /tmp/h log --format=%s", "first"},
		{"git clone over ssh", "git clone -q git@git.test:p.git /tmp/b && git -C /tmp/b log --format=%s", "first"},
		{"git push over ssh", "cd /tmp/b && head -c 3000000 /dev/urandom >more && git add . && git commit -qm second && git push -q origin HEAD:ssh && git ls-remote origin", "refs/heads/ssh"},
		{"npm ci", "cp -r /ctl/npm /tmp/npm && cd /tmp/npm && npm ci --registry https://npm.test/ && node -p \"require('left')+require('middle')+require('right')\"", "leftmiddleright"},
		{"go mod download", "cp -r /ctl/go /tmp/go && cd /tmp/go && GOFLAGS=-modcacherw go mod download -x example.test/mod && ls $(go env GOMODCACHE)/example.test/mod@v1.0.0", "mod.go"},
		{"apt update", "mkdir -p /tmp/apt/state/lists/partial /tmp/apt/cache/archives/partial && : >/tmp/apt/status && apt-get -o Dir::State=/tmp/apt/state -o Dir::Cache=/tmp/apt/cache " +
			"-o Dir::Etc=/ctl/apt -o Dir::State::status=/tmp/apt/status -o APT::Sandbox::User=dev -o APT::Architecture=amd64 -o APT::Update::Error-Mode=any -o Acquire::https::CAInfo=/ctl/ca.pem update && " +
			"ls /tmp/apt/state/lists", "deb.test_debian_dists_stable_main_binary-amd64_Packages"},
		{"redirects", "curl -fsSL http://web.test/start", "arrived at files.test by HTTP/2.0"},
		{"HTTP/1.1 over TLS", "curl -fsS --http1.1 https://files.test/end", "by HTTP/1.1"},
		{"HTTP/2, many requests", "curl -fsS --http2 --parallel --parallel-max 20 $(for i in $(seq 50); do echo https://web.test/bytes/10000; done) | wc -c", "500000"},
		{"kept-alive HTTP/1.1", "curl -fsS http://web.test/bytes/1000 http://web.test/bytes/2000 http://web.test/bytes/3000 | wc -c", "6000"},
		{"server-sent events over TLS", "curl -fsSN https://web.test/events", "data: event 4"},
		{"server-sent events", "curl -fsSN http://web.test/events", "data: event 4"},
		{"WebSocket over TLS", "node /ctl/ws.js https://web.test/socket", "echo one echo two"},
		{"WebSocket", "node /ctl/ws.js http://web.test/socket", "echo one echo two"},
		{"large upload over TLS", "curl -fsS -T /ctl/large https://web.test/upload", sum(large)},
		{"large upload", "curl -fsS -T /ctl/large http://web.test/upload", sum(large)},
		{"large upload in chunks", "cat /ctl/large | curl -fsS -T - http://web.test/upload", sum(large)},
		{"large download over TLS", "curl -fsS https://web.test/bytes/100000000 | sha256sum", sum(make([]byte, 100000000))},
		{"large download", "curl -fsS http://web.test/bytes/100000000 | sha256sum", sum(make([]byte, 100000000))},
	} {
		start := time.Now()
		cmd := exec.CommandContext(t.Context(), "podman", append([]string{"exec", "--env=HOME=/home/dev"}, append(corpusEnv(), "terok-sandbox-"+name,
			"bash", "-euo", "pipefail", "-c", c.line)...)...)
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("%s: %v, want %q\n%s", c.what, err, c.want, out)
		}
		t.Logf("%s: %s", c.what, time.Since(start).Round(time.Millisecond))
	}
	t.Logf("all of it: %s", time.Since(begin).Round(time.Millisecond))

	st, err := b.client().Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if st.Posture != control.Up || st.Counters.Denied != 0 || st.Counters.LimitsHit != 0 || st.Counters.Allowed < 20 {
		t.Errorf("%+v", st.Counters)
	}
	if q := b.requests(t); len(q) != 0 {
		t.Errorf("somebody was asked: %+v", q)
	}
	for _, ev := range []string{"flow_denied", "flow_blocked", "name_blocked", "name_denied", "name_mismatch", "malformed", "dns_malformed", "dns_rate", "limit", "error"} {
		if lines := b.ledger(t, ev); len(lines) > 0 {
			t.Errorf("%s: %+v", ev, lines)
		}
	}
	// The control: what no rule lists is refused to the same clients.
	if err := w.Answer(t.Context(), world.Script{Name: "other.test", Type: "A", Values: []string{corpusAddr}}); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "podman", append(append([]string{"exec"}, corpusEnv()...), "terok-sandbox-"+name, "curl", "-fsSk", "https://other.test/end")...).CombinedOutput(); err == nil {
		t.Errorf("other.test is reached: %s", out)
	}
}

// corpusEnv is what a person would have set up in such a container.
func corpusEnv() []string {
	var out []string
	for _, kv := range []string{"PATH=/usr/local/go/bin:/usr/bin:/bin:/usr/sbin", "HOME=/home/dev", "CURL_CA_BUNDLE=/ctl/ca.pem", "GIT_SSL_CAINFO=/ctl/ca.pem",
		"NODE_EXTRA_CA_CERTS=/ctl/ca.pem", "SSL_CERT_FILE=/ctl/ca.pem", "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@t", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@t",
		"GIT_SSH_COMMAND=ssh -i /ctl/key -o IdentitiesOnly=yes -o UserKnownHostsFile=/ctl/known -o StrictHostKeyChecking=yes -F /dev/null",
		"npm_config_audit=false", "npm_config_fund=false", "npm_config_update_notifier=false", "GOPROXY=https://goproxy.test", "GOSUMDB=off", "GOTOOLCHAIN=local"} {
		out = append(out, "--env="+kv)
	}
	return out
}

// bareImage is an image without a program: /usr is mounted.
func bareImage(ref string) error {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	var err error
	for _, d := range []string{"etc", "ctl", "proc", "sys", "dev", "run", "tmp", "home", "home/dev", "usr", "var", "var/lib", "var/lib/dpkg"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: d + "/", Typeflag: tar.TypeDir, Mode: 0o1777}))
	}
	for _, l := range []string{"bin", "sbin", "lib", "lib64"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: l, Typeflag: tar.TypeSymlink, Linkname: "usr/" + l, Mode: 0o777}))
	}
	for name, text := range map[string]string{"etc/passwd": "root:x:0:0::/root:/bin/sh\ndev:x:1000:1000::/home/dev:/bin/bash\n", "etc/group": "root:x:0:\ndev:x:1000:\n"} {
		err = errors.Join(err, w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(text))}))
		_, werr := w.Write([]byte(text))
		err = errors.Join(err, werr)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return err
	}
	cmd := exec.Command("podman", "import", "--quiet", "-", ref)
	cmd.Stdin = &b
	if msg, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("podman import: %w\n%s", err, msg)
	}
	return nil
}

// webSocket upgrades, sends two masked messages, prints what comes back and ends.
const webSocket = `
const url = new URL(process.argv[2])
const web = require(url.protocol === 'https:' ? 'https' : 'http')
const key = require('crypto').randomBytes(16).toString('base64')
const req = web.request(url, {headers: {Connection: 'Upgrade', Upgrade: 'websocket', 'Sec-WebSocket-Key': key, 'Sec-WebSocket-Version': '13'}})
function frame(text) {
  const mask = require('crypto').randomBytes(4), data = Buffer.from(text)
  return Buffer.concat([Buffer.from([0x81, 0x80 | data.length]), mask, data.map((b, i) => b ^ mask[i % 4])])
}
req.on('response', r => { console.log('no upgrade:', r.statusCode); process.exit(1) })
req.on('error', e => { console.log(String(e)); process.exit(1) })
req.on('upgrade', (res, socket, head) => {
  let got = Buffer.from(head), said = []
  socket.write(frame('one'))
  const take = () => {
    while (got.length >= 2 && got.length >= 2 + got[1]) {
      said.push(got.subarray(2, 2 + got[1]).toString())
      got = got.subarray(2 + got[1])
      if (said.length === 1) socket.write(frame('two'))
      if (said.length === 2) { console.log(said.join(' ')); socket.destroy() }
    }
  }
  socket.on('data', d => { got = Buffer.concat([got, d]); take() })
  take()
})
req.end()
`
