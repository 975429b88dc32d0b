//go:build agents

package tasks

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/internal/demo/provider"
)

// TestAgentsTrust: programs of every kind reach a routed host by its own name with the environment
// that the guest gives to what it starts, and nothing else: they trust this start's authority.
// Rust and Bun do in TestAgents (codex, opencode), Node there (pi). issue 4, part 4.
func TestAgentsTrust(t *testing.T) {
	t.Run("languages", trustOfLanguages)
}

func trustOfLanguages(t *testing.T) {
	tr := newTree(t)
	tr.withProvider("anthropic", provider.Config{Delay: time.Hour})
	repo := tr.repo("greet")
	tr.file("config/terok/projects/greet/project.yml", "project: {name: greet}\ngit: {upstream_url: "+repo+"}\nshield: {allow: [deb.debian.org]}\n")
	task := tr.start(repo, "script")
	tr.ready(task)

	if out := podman(t, "exec", "-u", "0", task.Container.ID, "sh", "-c", "exec </dev/null; export DEBIAN_FRONTEND=noninteractive; mkdir -p /usr/share/man/man1; "+
		"(apt-get update -q && apt-get install -yq --no-install-recommends openjdk-17-jdk-headless python3 python3-requests) >/tmp/apt.log 2>&1 && echo installed || tail -20 /tmp/apt.log"); !strings.Contains(out, "installed") {
		t.Fatalf("Java cannot be installed:\n%s", out)
	}
	program := filepath.Join(task.Workspace, "get")
	source := filepath.Join(tr.dir, "get.go")
	tr.file("get.go", `package main
import ("fmt"; "net/http"; "os")
func main() {
	req, _ := http.NewRequest("GET", os.Args[1], nil)
	req.Header.Set("x-api-key", os.Getenv("ANTHROPIC_API_KEY"))
	resp, err := http.DefaultClient.Do(req)
	if err != nil { fmt.Println(err); return }
	fmt.Println(resp.StatusCode)
}`)
	build := exec.Command("go", "build", "-o", program, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	java := filepath.Join(task.Workspace, "Get.java")
	if err := os.WriteFile(java, []byte(`import java.net.URI; import java.net.http.*;
public class Get { public static void main(String[] a) throws Exception {
  var request = HttpRequest.newBuilder(URI.create(a[0])).header("x-api-key", System.getenv("ANTHROPIC_API_KEY")).build();
  System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.discarding()).statusCode());
} }`), 0o644); err != nil {
		t.Fatal(err)
	}
	const url = "https://api.anthropic.com/v1/models"
	for name, command := range map[string]string{
		"curl":             `curl -sS -o /dev/null -w '%{http_code}' -H "x-api-key: $ANTHROPIC_API_KEY" ` + url,
		"openssl":          `echo | openssl s_client -verify_return_error -connect api.anthropic.com:443 -servername api.anthropic.com 2>&1 | sed -n 's/Verification: OK/200/p'`,
		"git":              `GIT_TERMINAL_PROMPT=0 git ls-remote ` + url,
		"go":               `/workspace/get ` + url,
		"python, urllib":   `python3 -c 'import os,urllib.request as u; print(u.urlopen(u.Request("` + url + `", headers={"x-api-key": os.environ["ANTHROPIC_API_KEY"]})).status)'`,
		"python, requests": `python3 -c 'import os,requests; print(requests.get("` + url + `", headers={"x-api-key": os.environ["ANTHROPIC_API_KEY"]}).status_code)'`,
		"java":             `java /workspace/Get.java ` + url,
	} {
		out := inside(t, task, `eval "$(jq -r 'to_entries[]|"export \(.key)=\(.value|@sh)"' /run/terok/env.json)"; cd /tmp; (`+command+`) 2>&1; true`)
		want := "200"
		if name == "git" {
			want = "terminal prompts disabled" // it trusts the server, which wants to know who asks
		}
		if !strings.Contains(out, want) || strings.Contains(out, "certificate") {
			t.Errorf("%s: %s", name, tail(out))
			continue
		}
		t.Logf("%s: %s", name, strings.ReplaceAll(strings.TrimSpace(out), "\n", " | "))
	}
	// The authorities of the image are in Java's store too.
	if out := inside(t, task, `keytool -list -keystore /run/terok/ca/java.jks -storepass changeit 2>/dev/null | grep -c trustedCertEntry; grep -c BEGIN /run/terok/ca/bundle.pem`); len(strings.Fields(out)) != 2 ||
		strings.Fields(out)[0] != strings.Fields(out)[1] || len(strings.Fields(out)[0]) < 2 {
		t.Errorf("certificates in Java's store and in the bundle: %s", out)
	}
}

// TestAgentsScreen: OpenCode with a person: its screen comes, and what is typed there is done. It
// needs twenty seconds of a processor until it draws, so on a busy machine the screen stays empty for long.
func TestAgentsScreen(t *testing.T) {
	t.Run("opencode", func(t *testing.T) {
		tr := newTree(t)
		tr.withProvider("openai", provider.Config{})
		repo := tr.repo("greet")
		term := tr.terminal(repo)
		term.enter(terok + " run opencode --provider openai")
		term.shows(6*time.Minute, "Ask anything")
		term.enter("Say that it is done.")
		tr.wait(6*time.Minute, "the script was played", tr.model.Finished)
		term.shows(time.Minute, "The work is done.")
		term.tmux("kill-server")
	})
}
