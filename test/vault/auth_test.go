package vault

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"terok/test/issuer"
)

// TestAuth drives terok auth against a provider: what it refuses is not stored, a sign-in is taken
// over, renewed and revoked, and none of it is shown or left in a file.
//
// spec/vault.md §10: 6, 72, 73.
func TestAuth(t *testing.T) {
	u := newUser(t)
	i, err := issuer.Start(u.dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.Close)
	if err := os.MkdirAll(u.roots.ProvidersDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	provider := fmt.Sprintf(`host: api.demo.test
upstream: %s
ca_file: %s
allow_private: true
auth:
  api_key: {header: Authorization, prefix: "Bearer ", probe: {method: GET, path: /user}}
  oauth: {header: Authorization, prefix: "Bearer ", probe: {method: GET, path: /user}}
oauth_refresh: {token_url: %s, device_url: %s, revoke_url: %s, client_id: terok-test, ca_file: %s, allow_private: true}
sign_in: {command: [sh], hosts: [login.demo.test], file: .demo/auth.json, format: claude}
`, i.URL, i.CAFile, i.Endpoint().TokenURL, i.Endpoint().DeviceURL, i.Endpoint().RevokeURL, i.CAFile)
	if err := os.WriteFile(filepath.Join(u.roots.ProvidersDir(), "demo.yml"), []byte(provider), 0o600); err != nil {
		t.Fatal(err)
	}
	var shown []string
	run := func(exit int, stdin string, args ...string) string {
		t.Helper()
		out, errs := u.run(exit, stdin, args...)
		shown = append(shown, out, errs)
		return out + errs
	}
	run(0, "", "vault", "init", "--passphrase-file", u.file("p", pass))
	good, _ := i.Issue()
	if text := run(0, good+"\n", "auth", "demo", "--api-key-stdin"); !strings.Contains(text, "demo: key stored (shared) · octo\n") {
		t.Errorf("%q", text)
	}
	bad := "at-REAL-" + strings.Repeat("x", 30)
	if text := run(1, bad, "auth", "demo", "--api-key-stdin"); !strings.Contains(text, "nothing was stored") || strings.Contains(text, bad) {
		t.Errorf("%q", text)
	}
	if text := run(0, "", "auth", "--list"); !strings.Contains(text, "…"+good[len(good)-4:]) || !strings.Contains(text, "✓ ok (") || !strings.Contains(text, "octo") {
		t.Errorf("a refused key changed what was there: %q", text)
	}
	run(2, "", "auth", "demo", "--api-key", bad)

	access, refresh := i.Issue()
	file := u.file("sign-in", fmt.Sprintf(`{"claudeAiOauth":{"accessToken":%q,"refreshToken":%q,"expiresAt":%d}}`, access, refresh, time.Now().Add(time.Hour).UnixMilli()))
	run(9, "", "auth", "demo", "--import-file", file)
	if text := run(0, "", "auth", "demo", "--import-file", file, "--yes"); !strings.Contains(text, "sign-in replaced") {
		t.Errorf("%q", text)
	}
	_ = os.Remove(file)
	if text := run(0, "", "auth", "demo", "--refresh"); !strings.Contains(text, "new token") || i.Count("token") != 1 {
		t.Errorf("%q", text)
	}
	if text := run(0, "", "auth", "demo", "--revoke", "--upstream"); !strings.Contains(text, "revoked and forgotten") || i.Count("revoke") != 1 {
		t.Errorf("%q", text)
	}

	// A device code, without any program of a vendor's.
	asked := 0
	i.Confirmed = func() bool { asked++; return asked > 1 }
	if text := run(0, "", "auth", "demo", "--device-auth"); !strings.Contains(text, "WDJB-MJHT") || !strings.Contains(text, "https://issuer.example/device") || !strings.Contains(text, "sign-in stored") {
		t.Errorf("%q", text)
	}
	i.Forget()
	if text := run(1, "", "auth", "demo", "--refresh"); !strings.Contains(text, "terok auth demo") {
		t.Errorf("%q", text)
	}
	if text := run(0, "", "auth", "--list", "--json"); !strings.Contains(text, `"badge":"⚠ re-auth needed"`) || !strings.Contains(text, `"state":"reauth_required"`) {
		t.Errorf("%q", text)
	}
	for _, s := range i.Secrets() {
		if strings.Contains(strings.Join(shown, ""), s) {
			t.Error("a token is shown")
		}
		_ = filepath.WalkDir(u.dir, func(path string, d os.DirEntry, err error) error {
			if data, rerr := os.ReadFile(path); rerr == nil && strings.Contains(string(data), s) {
				t.Errorf("%s holds a token", path)
			}
			return err
		})
	}
	if err := os.WriteFile(u.roots.PanicLock(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run(7, good, "auth", "demo", "--api-key-stdin")
}
