package oauth

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	claudeFile = `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-REAL-canary","refreshToken":"sk-ant-ort01-REAL-canary","expiresAt":1893553445123,
		"scopes":["user:inference","user:profile"],"subscriptionType":"max","rateLimitTier":"default_claude_max_20x"},"organizationUuid":"x"}`
	ghFile = "github.com:\n    users:\n        octo:\n            oauth_token: gho_REAL_canary_0123456789\n    git_protocol: https\n    user: octo\n" +
		"ghe.example.org:\n    oauth_token: ghe_REAL_canary_0123456789\n"
	glabFile = "# What protocol to use. Supported values: ssh, https.\ngit_protocol: ssh\nno_prompt: false\nhosts:\n    gitlab.com:\n        api_protocol: https\n" +
		"        # the token\n        token: !!null glpat-REAL-canary-0123\n        user: octo\n    gitlab.example.org:\n        token:\n"
	glabOAuth = "hosts:\n    gitlab.example.org:\n        token: 0123456789REALcanary\n        is_oauth2: \"true\"\n        oauth2_refresh_token: REALcanaryrefresh01\n" +
		"        oauth2_expiry_date: 02 Jan 30 03:04 UTC\n"
)

func codexFile() string {
	id := jwt(`{"email":"dev@example.org","https://api.openai.com/auth":{"chatgpt_plan_type":"pro","chatgpt_user_id":"u-1","chatgpt_account_id":"a-1"}}`)
	return fmt.Sprintf(`{"OPENAI_API_KEY":null,"tokens":{"id_token":%q,"access_token":%q,"refresh_token":"rt-REAL-canary","account_id":"a-2"},"last_refresh":"2030-01-02T03:04:05Z"}`,
		id, jwt(`{"exp":1893553445}`))
}

func TestParse(t *testing.T) {
	end := time.Unix(1893553445, 0).UTC()
	for _, tt := range []struct {
		format, name, data string
		kind               string
		access, refresh    string
		ends               time.Time
		public             string
	}{
		{FormatClaude, "", claudeFile, KindOAuth, "sk-ant-oat01-REAL-canary", "sk-ant-ort01-REAL-canary", end,
			"map[plan:max scopes:user:inference user:profile tier:default_claude_max_20x]"},
		{FormatClaude, "", `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-REAL-canary","expiresAt":1893553445}}`, KindOAuth, "sk-ant-oat01-REAL-canary", "", end, "map[]"},
		{FormatClaude, "", `{"claudeAiOauth":{"accessToken":"sk-ant-oat01-REAL-canary","expiresAt":null}}`, KindOAuth, "sk-ant-oat01-REAL-canary", "", time.Time{}, "map[]"},
		{FormatCodex, "", codexFile(), KindOAuth, jwt(`{"exp":1893553445}`), "rt-REAL-canary", end,
			"map[account:dev@example.org account_id:a-2 plan:pro user_id:u-1]"},
		{FormatCodex, "", `{"OPENAI_API_KEY":"sk-REAL-canary-0123"}`, KindKey, "sk-REAL-canary-0123", "", time.Time{}, "map[]"},
		{FormatGH, "", ghFile, KindOAuth, "gho_REAL_canary_0123456789", "", time.Time{}, "map[account:octo host:github.com]"},
		{FormatGH, "ghe.example.org", ghFile, KindOAuth, "ghe_REAL_canary_0123456789", "", time.Time{}, "map[host:ghe.example.org]"},
		{FormatGlab, "", glabFile, KindPAT, "glpat-REAL-canary-0123", "", time.Time{}, "map[account:octo host:gitlab.com]"},
		{FormatGlab, "", glabOAuth, KindOAuth, "0123456789REALcanary", "REALcanaryrefresh01", time.Date(2030, 1, 2, 3, 4, 0, 0, time.UTC), "map[host:gitlab.example.org]"},
		{FormatEnv, "MISTRAL_API_KEY", "# x\nOTHER=1\nexport MISTRAL_API_KEY='REAL-canary-0123'\n", KindKey, "REAL-canary-0123", "", time.Time{}, "map[]"},
		{FormatKey, "", `{"api_key":"REAL-canary-0123"}`, KindKey, "REAL-canary-0123", "", time.Time{}, "map[]"},
	} {
		c, err := Parse(tt.format, tt.name, []byte(tt.data))
		if err != nil {
			t.Errorf("%s: %v", tt.data, err)
			continue
		}
		if c.Kind != tt.kind || string(c.Token.Access) != tt.access || string(c.Token.Refresh) != tt.refresh || !c.Token.ExpiresAt.Equal(tt.ends) {
			t.Errorf("%s: %+v", tt.data, c)
		}
		if got := fmt.Sprint(c.Public); got != tt.public {
			t.Errorf("%s: %s", tt.data, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	var drift *Drift
	for _, tt := range []struct {
		format, name, data string
		empty              bool
	}{
		{FormatClaude, "", ``, true},
		{FormatClaude, "", `{}`, true},
		{FormatClaude, "", `{"claudeAiOauth":{}}`, false},
		{FormatClaude, "", `{"claudeAiOauth":{"accessToken":"x"`, false}, // still being written
		{FormatClaude, "", `{"claudeAiOauth":{"accessToken":"REAL canary with spaces"}}`, false},
		{FormatClaude, "", `{"claudeAiOauth":{"accessToken":5}}`, false},
		{FormatCodex, "", `{"OPENAI_API_KEY":null}`, true},
		{FormatCodex, "", `{"tokens":{"refresh_token":"REAL"}}`, false},
		{FormatGH, "", "github.com:\n    user: octo\n", false}, // in a keyring
		{FormatGH, "", "a.example:\n    oauth_token: REAL_canary_1\nb.example:\n    oauth_token: REAL_canary_2\n", true},
		{FormatGH, "", "github.com:\n    oauth_token: REAL_canary_01\n    oauth_token: REAL_canary_02\n", false},
		{FormatGH, "", "\xff", false},
		{FormatGlab, "", "hosts:\n    gitlab.com:\n        token:\n", true},
		{FormatEnv, "MISTRAL_API_KEY", "MISTRAL_API_KEY_OLD=REAL-canary-0123\n", true},
		{FormatEnv, "", "=REAL-canary-0123\n", true},
		{FormatKey, "", `{"api_key":"REAL\nX: y-------"}`, false},
		{FormatKey, "", `{"api_key":"` + strings.Repeat("x", MaxCapture) + `"}`, false},
	} {
		c, err := Parse(tt.format, tt.name, []byte(tt.data))
		if err == nil {
			t.Errorf("%s: %.60q: %+v", tt.format, tt.data, c)
			continue
		}
		if errors.Is(err, ErrEmpty) != tt.empty || errors.As(err, &drift) == tt.empty {
			t.Errorf("%s: %.60q: %v", tt.format, tt.data, err)
		}
		if strings.Contains(err.Error(), "REAL") {
			t.Errorf("the error shows a value: %v", err)
		}
	}
	if _, err := Parse("other", "", nil); err == nil {
		t.Error("unknown format")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{claudeFile, codexFile(), ghFile, glabFile, glabOAuth, "MISTRAL_API_KEY=x", `{"api_key":"REAL-canary-0123"}`,
		"a:\n b:\n  c:\n d: 1\ne: \"x\"", "a: !!x\n", "? a\n: b\n- c: d\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, format := range []string{FormatClaude, FormatCodex, FormatGH, FormatGlab, FormatEnv, FormatKey} {
			name := ""
			if format == FormatEnv {
				name = "MISTRAL_API_KEY"
			}
			c, err := Parse(format, name, data)
			if err != nil {
				continue
			}
			if !usable(string(c.Token.Access)) || c.Token.Refresh != nil && !usable(string(c.Token.Refresh)) {
				t.Fatalf("%s: took a token that cannot be sent: %q", format, c.Token.Access)
			}
			for k, v := range c.Public {
				if v == "" || len(v) > 256 || strings.ContainsAny(v, "\n\r\x1b\x00") || c.Token.holds(v) {
					t.Fatalf("%s: public %s is %q", format, k, v)
				}
			}
		}
	})
}

func FuzzToken(f *testing.F) {
	for _, s := range []string{`{"access_token":"at-REAL-canary-0123","refresh_token":"rt-REAL-canary-0123","expires_in":3600,"scope":["a"]}`,
		`{"error":{"code":"x"}}`, `{"access_token":"` + jwt(`{"exp":1e400}`) + `"}`, `{"device_code":"d","user_code":"u","verification_uri":"https://e.org"}`} {
		f.Add([]byte(s))
	}
	now := time.Unix(1893553445, 0)
	f.Fuzz(func(t *testing.T, body []byte) {
		if tok, err := parseToken(body, now); err == nil {
			if !usable(string(tok.Access)) || !tok.ExpiresAt.After(now) || tok.ExpiresAt.Sub(now) > maxLifetime && Expiry(tok.Access).IsZero() {
				t.Fatalf("%+v", tok)
			}
			for _, s := range tok.Scopes {
				if !plainScope(s) {
					t.Fatalf("scope %q", s)
				}
			}
		}
		if code, err := parseCode(body, now); err == nil {
			if !strings.HasPrefix(code.URL, "https://") || !printable(code.User, 64) || code.interval <= 0 || code.ExpiresAt.Sub(now) > maxCodeLife {
				t.Fatalf("%+v", code)
			}
		}
		for _, r := range errorCode(body) {
			if r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') {
				t.Fatalf("code %q", errorCode(body))
			}
		}
	})
}

// spec/vault.md §10: 74. What a container leaves in place of the file is not followed.
func TestReadCapture(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	write := func(path, content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(outside, "outside")
	for name, plant := range map[string]func(string) error{
		"link":      func(p string) error { return os.Symlink(outside, p) },
		"passwd":    func(p string) error { return os.Symlink("/etc/passwd", p) },
		"hard link": func(p string) error { return os.Link(outside, p) },
		"fifo":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"long":      func(p string) error { return os.WriteFile(p, make([]byte, MaxCapture+1), 0o600) },
	} {
		if err := plant(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if data, err := ReadCapture(dir, name); !errors.Is(err, ErrNoFile) {
			t.Errorf("%s: %q %v", name, data, err)
		}
	}
	if err := os.Remove(filepath.Join(dir, "hard link")); err != nil { // what is outside has one name again
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Dir(outside), filepath.Join(dir, "sub")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sub/secret", "../" + filepath.Base(filepath.Dir(outside)) + "/secret", "nothing", outside} {
		if data, err := ReadCapture(dir, name); !errors.Is(err, ErrNoFile) {
			t.Errorf("%s: %q %v", name, data, err)
		}
	}
	write(filepath.Join(dir, "good"), "content")
	if data, err := ReadCapture(dir, "good"); err != nil || string(data) != "content" {
		t.Errorf("%q %v", data, err)
	}
}

// TestClean: what is kept of a name is what the store takes.
func TestClean(t *testing.T) {
	if got := clean("Ada\u00a0L\u200bo\u202ev\u2028e\x1b[31m\u00e9\xff "); got != "AdaLove[31m\u00e9" {
		t.Errorf("%q", got)
	}
}
