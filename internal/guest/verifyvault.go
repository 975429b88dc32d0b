package guest

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"terok/internal/control"
)

// The vault's rows send requests that the front must refuse itself: its own header in the answer
// says that nothing went to the provider. They are made so that a provider that got one would do
// nothing: without a model, without a body that it accepts, to things that do not exist.

// phantomStart begins every phantom token.
const phantomStart = "terok-p-"

// brokerHeader says that the front answered, and why.
const brokerHeader = "X-Terok-Broker"

// foreignKey looks like a provider's key and is nobody's.
const foreignKey = "sk-ant-api03-terok-verify-not-a-key-0123456789"

// request is one request to a routed host.
type request struct {
	method, path string
	header       http.Header
	body         string
	host         string // "" is the connection's own name
	sni          string // the same
}

// ask sends a request through the vault. Status 0 is a connection that ended without an answer.
func (p *probe) askVault(v control.VerifyVault, q request) (status int, broker string, err error) {
	a, err := p.lookup(v.Host)
	if err != nil {
		return 0, "", fmt.Errorf("%s has no address: %w", v.Host, err)
	}
	c, err := dialer("tcp").DialContext(p.ctx, "tcp", net.JoinHostPort(a, "443"))
	if err != nil {
		return 0, "", fmt.Errorf("%s: %w", v.Host, err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(4 * refusalWait))
	if q.sni == "" {
		q.sni = v.Host
	}
	if q.host == "" {
		q.host = v.Host
	}
	// Whoever answers gets nothing of value; what is judged is that it refuses.
	t := tls.Client(c, &tls.Config{ServerName: q.sni, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err := t.HandshakeContext(p.ctx); err != nil {
		return 0, "", nil
	}
	req, err := http.NewRequestWithContext(p.ctx, q.method, "https://"+v.Host+q.path, strings.NewReader(q.body))
	if err != nil {
		return 0, "", err
	}
	req.Host, req.Close = q.host, true
	for name, values := range q.header {
		req.Header[name] = values
	}
	if q.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := req.Write(t); err != nil {
		return 0, "", nil
	}
	res, err := http.ReadResponse(bufio.NewReader(t), req)
	if err != nil {
		return 0, "", nil
	}
	defer res.Body.Close()
	return res.StatusCode, res.Header.Get(brokerHeader), nil
}

// phantom is the provider's token in this container, "" when no variable has one.
func (p *probe) phantom(v control.VerifyVault) string {
	env := map[string]string{}
	if data, err := os.ReadFile(envFile); err == nil {
		_ = json.Unmarshal(data, &env)
	}
	for _, name := range v.Env {
		for _, value := range []string{os.Getenv(name), env[name]} {
			if strings.HasPrefix(value, phantomStart) {
				return value
			}
		}
	}
	return ""
}

// eachVault makes an attack of every provider and demands one of these refusals of the front.
func (p *probe) eachVault(attacks func(v control.VerifyVault, own http.Header) []request, codes ...string) (string, error) {
	var found holes
	tried := 0
	for _, v := range p.plan.Vault {
		token := p.phantom(v)
		if token == "" {
			found.add("no variable of %s holds a phantom", v.Provider)
			continue
		}
		for _, q := range attacks(v, http.Header{"Authorization": {"Bearer " + token}}) {
			tried++
			status, broker, err := p.askVault(v, q)
			refused := false
			for _, code := range codes {
				refused = refused || broker == code
			}
			switch {
			case err != nil:
				found.add("%v", err)
			case status == 0 && q.sni != "":
			case !refused || status < 400:
				found.add("%s %s at %s is answered %d %q", q.method, q.path, v.Host, status, broker)
			}
		}
	}
	if tried == 0 && len(found) == 0 {
		return "nothing of the kind is granted", nil
	}
	return counted(tried, "request") + " refused by the vault itself", found.err()
}

// secondKey: a key of somebody else's goes nowhere, alone or beside the phantom.
func (p *probe) secondKey() (string, error) {
	return p.eachVault(func(v control.VerifyVault, own http.Header) []request {
		with := func(name, value string) http.Header {
			h := own.Clone()
			h.Add(name, value)
			return h
		}
		return []request{
			{method: v.Method, path: v.Open, header: http.Header{"Authorization": {"Bearer " + foreignKey}}},
			{method: v.Method, path: v.Open, header: with("X-Api-Key", foreignKey)},
			{method: v.Method, path: v.Open, header: with("Authorization", "Bearer "+foreignKey)},
			{method: v.Method, path: v.Open, header: with("Cookie", "session="+foreignKey)},
			{method: v.Method, path: v.Open + "?access_token=" + foreignKey, header: own},
			{method: "POST", path: v.Open, header: own, body: `{"\u0061pi_key":"` + foreignKey + `"}`},
		}
	}, "foreign_credential", "path_denied", "repo_denied")
}

// vaultNames: a connection serves its own name and no other.
func (p *probe) vaultNames() (string, error) {
	return p.eachVault(func(v control.VerifyVault, own http.Header) []request {
		return []request{
			{method: v.Method, path: v.Open, header: own, host: "other-" + p.plan.Nonce + ".example"},
			{method: v.Method, path: v.Open, header: own, sni: "other-" + p.plan.Nonce + ".example"},
		}
	}, "misdirected")
}

// vaultEndpoints: what makes keys is refused, also when it is written in another way.
func (p *probe) vaultEndpoints() (string, error) {
	return p.eachVault(func(v control.VerifyVault, own http.Header) []request {
		override := own.Clone()
		override.Set("X-HTTP-Method-Override", v.DeniedMethod)
		list := []request{
			{method: v.DeniedMethod, path: v.Denied, header: own},
			{method: v.DeniedMethod, path: strings.ToUpper(v.Denied), header: own},
			{method: v.DeniedMethod, path: "/" + v.Denied, header: own},
			{method: v.DeniedMethod, path: "/x/%2e%2e" + v.Denied, header: own},
			{method: v.DeniedMethod, path: "/x/..;" + v.Denied, header: own},
			{method: "GET", path: v.Denied + "?_method=" + v.DeniedMethod, header: own},
			{method: "GET", path: v.Denied, header: override},
		}
		return list
	}, "path_denied", "bad_target", "repo_denied")
}

// vaultFetch: a provider is not made to call an address.
func (p *probe) vaultFetch() (string, error) {
	url := "https://" + p.plan.Nonce + ".example/"
	return p.eachVault(func(v control.VerifyVault, own http.Header) []request {
		if v.Fetch == "" {
			return nil
		}
		var list []request
		for _, body := range []string{
			`{"mcp_servers":[{"type":"url","url":"` + url + `"}]}`,
			`{"messages":[{"content":[{"type":"image","source":{"type":"url","url":"` + url + `"}}]}]}`,
			`{"input":[{"content":[{"type":"input_image","image_url":"` + url + `"}]}]}`,
			`{"tools":[{"type":"web_\u0066etch","name":"x"}]}`,
		} {
			list = append(list, request{method: "POST", path: v.Fetch, header: own, body: body})
		}
		return list
	}, "server_fetch")
}

// vaultForge: a forge's other repositories are not written to, and mutations are from a list.
func (p *probe) vaultForge() (string, error) {
	return p.eachVault(func(v control.VerifyVault, own http.Header) []request {
		var list []request
		switch v.Forge {
		case "github":
			list = append(list, request{method: "POST", path: "/graphql", header: own, body: `{"query":"mutation{addComment:deleteRepository(input:{}){x}}"}`})
			if v.Confined {
				list = append(list, request{method: "POST", path: "/repos/terok-verify/" + p.plan.Nonce + "/issues", header: own, body: "{}"},
					request{method: "POST", path: "/gists", header: own, body: "{}"})
			}
		case "gitlab":
			list = append(list, request{method: "POST", path: "/api/graphql", header: own, body: `{"query":"mutation{createNote:projectDelete(input:{}){x}}"}`})
			if v.Confined {
				list = append(list, request{method: "POST", path: "/api/v4/projects/terok-verify%2F" + p.plan.Nonce + "/issues", header: own, body: "{}"},
					request{method: "POST", path: "/api/v4/snippets", header: own, body: "{}"})
			}
		}
		return list
	}, "repo_denied", "path_denied")
}
