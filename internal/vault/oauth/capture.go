package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Kinds of a credential.
const (
	KindKey   = "api_key"
	KindOAuth = "oauth"
	KindPAT   = "pat" // a personal access token
)

// Captured is a sign-in as a vendor's program wrote it down.
type Captured struct {
	Kind  string // one of the kinds; the secret of a key or a PAT is Token.Access
	Token Token
	// Public is what is not secret: "account" (a name or an e-mail address), "plan", "tier",
	// "account_id", "user_id", "host", "scopes" (separated by spaces).
	Public map[string]string
}

// Formats of vendors' files.
const (
	FormatClaude = "claude" // .claude/.credentials.json
	FormatCodex  = "codex"  // .codex/auth.json
	FormatGH     = "gh"     // gh's hosts.yml
	FormatGlab   = "glab"   // glab's config.yml
	FormatEnv    = "env"    // lines NAME=VALUE, of which one is the key, e.g. vibe's .env
	FormatKey    = "key"    // JSON with "api_key" at the top
)

// MaxCapture bounds a vendor's file in bytes. The files are written in a container.
const MaxCapture = 64 << 10

// ErrEmpty says that a file holds no sign-in, as before one is finished or after a sign-out.
var ErrEmpty = errors.New("the file holds no sign-in")

// Drift says that a file holds something else than the vendor used to write. It names what is
// missing or odd, never a value.
type Drift struct{ What string }

func (e *Drift) Error() string {
	return "the vendor's program writes its sign-in in another form now: " + e.What
}

// Parse reads a vendor's file. name is the variable that holds the key for FormatEnv, and the
// wanted host for FormatGH and FormatGlab, where "" takes the vendor's own host first. Fields that
// it does not know are ignored. It fails with ErrEmpty or *Drift.
func Parse(format, name string, data []byte) (*Captured, error) {
	if len(data) > MaxCapture {
		return nil, &Drift{"the file has more than 64 KiB"}
	}
	var c *Captured
	var err error
	switch format {
	case FormatClaude:
		c, err = parseClaude(data)
	case FormatCodex:
		c, err = parseCodex(data)
	case FormatGH:
		c, err = parseGH(data, name)
	case FormatGlab:
		c, err = parseGlab(data, name)
	case FormatEnv:
		c, err = parseEnv(data, name)
	case FormatKey:
		c, err = parseKey(data)
	default:
		return nil, fmt.Errorf("no format %q of sign-ins is known", format)
	}
	if err != nil {
		return nil, err
	}
	for _, t := range [][]byte{c.Token.Access, c.Token.Refresh, c.Token.ID} {
		if t != nil && !usable(string(t)) {
			return nil, &Drift{"a token in it is not of 12 to 8192 visible characters"}
		}
	}
	for _, k := range slices.Sorted(maps.Keys(c.Public)) {
		v := c.Public[k]
		if v = clean(v); v == "" || c.Token.holds(v) {
			delete(c.Public, k)
		} else {
			c.Public[k] = v
		}
	}
	return c, nil
}

// holds reports whether a text has one of the token's secrets in it.
func (t *Token) holds(s string) bool {
	for _, secret := range [][]byte{t.Access, t.Refresh, t.ID} {
		if len(secret) > 0 && strings.Contains(s, string(secret)) {
			return true
		}
	}
	return false
}

// clean keeps a public value short and printable, as the vault's store demands: one odd space in a
// name is no reason to lose a sign-in.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == 0xfffd {
			return -1
		}
		return r
	}, s)
	if len(s) > 256 {
		return ""
	}
	return strings.TrimSpace(s)
}

// object reads a JSON object.
func object(data []byte, v any) error {
	if len(strings.TrimSpace(string(data))) == 0 {
		return ErrEmpty
	}
	if err := json.Unmarshal(data, v); err != nil {
		return &Drift{"it is not JSON of that shape"} // the decoder's words may quote a value
	}
	return nil
}

func parseClaude(data []byte) (*Captured, error) {
	var f struct {
		OAuth *struct {
			Access  string      `json:"accessToken"`
			Refresh string      `json:"refreshToken"`
			Expires json.Number `json:"expiresAt"`
			Scopes  []string    `json:"scopes"`
			Plan    string      `json:"subscriptionType"`
			Tier    string      `json:"rateLimitTier"`
		} `json:"claudeAiOauth"`
	}
	if err := object(data, &f); err != nil {
		return nil, err
	}
	if f.OAuth == nil {
		return nil, ErrEmpty
	}
	o := f.OAuth
	if o.Access == "" {
		return nil, &Drift{"claudeAiOauth.accessToken is missing"}
	}
	c := oauthOf(o.Access, o.Refresh, "")
	// Milliseconds in every version seen; seconds are recognised by their size.
	if n, err := o.Expires.Float64(); err == nil && n > 0 && n < 253402300799000 {
		if n >= 1e12 {
			n /= 1000
		}
		c.Token.ExpiresAt = time.Unix(int64(n), 0).UTC()
	}
	c.Token.Scopes = slices.DeleteFunc(o.Scopes, func(s string) bool { return !plainScope(s) })
	c.Public = map[string]string{"plan": o.Plan, "tier": o.Tier, "scopes": strings.Join(c.Token.Scopes, " ")}
	return c, nil
}

func oauthOf(access, refresh, id string) *Captured {
	c := &Captured{Kind: KindOAuth, Token: Token{Access: []byte(access)}}
	if refresh != "" {
		c.Token.Refresh = []byte(refresh)
	}
	if id != "" {
		c.Token.ID = []byte(id)
	}
	return c
}

func keyOf(kind, key string) *Captured {
	return &Captured{Kind: kind, Token: Token{Access: []byte(key)}, Public: map[string]string{}}
}

func parseCodex(data []byte) (*Captured, error) {
	var f struct {
		Key    *string `json:"OPENAI_API_KEY"`
		Tokens *struct {
			ID      string `json:"id_token"`
			Access  string `json:"access_token"`
			Refresh string `json:"refresh_token"`
			Account string `json:"account_id"`
		} `json:"tokens"`
	}
	if err := object(data, &f); err != nil {
		return nil, err
	}
	if f.Tokens == nil {
		if f.Key != nil && *f.Key != "" {
			return keyOf(KindKey, *f.Key), nil
		}
		return nil, ErrEmpty
	}
	t := f.Tokens
	if t.Access == "" {
		return nil, &Drift{"tokens.access_token is missing"}
	}
	c := oauthOf(t.Access, t.Refresh, t.ID)
	c.Token.ExpiresAt = Expiry(c.Token.Access)
	c.Public = ChatGPT(c.Token.ID)
	if t.Account != "" {
		c.Public["account_id"] = t.Account
	}
	return c, nil
}

// ChatGPT reads what the ID token of a ChatGPT account says of the account; the result is never
// nil.
func ChatGPT(id []byte) map[string]string {
	var claims struct {
		Email string `json:"email"`
		Auth  struct {
			Plan    string `json:"chatgpt_plan_type"`
			User    string `json:"chatgpt_user_id"`
			Account string `json:"chatgpt_account_id"`
		} `json:"https://api.openai.com/auth"`
	}
	Claims(id, &claims)
	return map[string]string{"account": claims.Email, "plan": claims.Auth.Plan, "user_id": claims.Auth.User, "account_id": claims.Auth.Account}
}

func parseKey(data []byte) (*Captured, error) {
	var f struct {
		Key string `json:"api_key"`
	}
	if err := object(data, &f); err != nil {
		return nil, err
	}
	if f.Key == "" {
		return nil, ErrEmpty
	}
	return keyOf(KindKey, f.Key), nil
}

// parseEnv reads the last line NAME=VALUE with that name, as dotenv writes it.
func parseEnv(data []byte, name string) (*Captured, error) {
	value := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(line), "export "))
		if rest, ok := strings.CutPrefix(line, name); ok {
			if v, ok := strings.CutPrefix(strings.TrimLeft(rest, " \t"), "="); ok {
				value = unquote(strings.TrimSpace(v))
			}
		}
	}
	if name == "" || value == "" {
		return nil, ErrEmpty
	}
	return keyOf(KindKey, value), nil
}

func unquote(v string) string {
	if len(v) >= 2 && (v[0] == '"' || v[0] == '\'') && v[len(v)-1] == v[0] {
		return v[1 : len(v)-1]
	}
	return v
}

func parseGH(data []byte, host string) (*Captured, error) {
	tree, err := parseBlocks(data)
	if err != nil {
		return nil, err
	}
	h, at := pick(tree, host, "github.com")
	if h == nil {
		return nil, ErrEmpty
	}
	token, user := h.value("oauth_token"), h.value("user")
	if token == "" && user != "" {
		token = h.child("users").child(user).value("oauth_token")
	}
	if token == "" {
		return nil, &Drift{"oauth_token is missing below " + clean(at) + "; gh may have put it into a keyring"}
	}
	c := oauthOf(token, "", "")
	c.Public = map[string]string{"account": user, "host": at}
	return c, nil
}

func parseGlab(data []byte, host string) (*Captured, error) {
	tree, err := parseBlocks(data)
	if err != nil {
		return nil, err
	}
	// A fresh configuration lists gitlab.com without a token.
	hosts := tree.child("hosts").with("token")
	h, at := pick(hosts, host, "gitlab.com")
	if h == nil {
		return nil, ErrEmpty
	}
	token := h.value("token")
	c := keyOf(KindPAT, token)
	if h.value("is_oauth2") == "true" {
		c = oauthOf(token, h.value("oauth2_refresh_token"), "")
		if t, err := time.Parse("02 Jan 06 15:04 MST", h.value("oauth2_expiry_date")); err == nil {
			c.Token.ExpiresAt = t.UTC()
		}
	}
	c.Public = map[string]string{"account": h.value("user"), "host": at}
	return c, nil
}

// pick finds the wanted host, or the vendor's own, or the only one.
func pick(tree *block, want, own string) (*block, string) {
	if want != "" {
		return tree.child(want), want
	}
	if h := tree.child(own); h != nil {
		return h, own
	}
	if tree != nil && len(tree.keys) == 1 && tree.children[0] != nil {
		return tree.children[0], tree.keys[0]
	}
	return nil, ""
}
