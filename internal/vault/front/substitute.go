package front

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"terok/internal/audit"
)

// Some endpoints trade a credential for another one, which would be as real as the first. The
// front keeps what they answer and hands out a phantom for it: a child, good at the route's
// declared hosts, in this container, until the real one expires. It lives in this process only:
// after a restart the client trades again.

// maxExchange bounds the answer of such an endpoint in bytes, maxChildren the children of a
// provider that are good at a time, childLife one whose answer names no end.
const (
	maxExchange = 64 << 10
	maxChildren = 16
	childLife   = 30 * time.Minute
)

// children are the traded secrets of one provider.
type children struct {
	mu   sync.Mutex
	list []*childKey
}

type childKey struct {
	token   string
	hosts   []string
	expires time.Time
	key     *armed
}

// substitute replaces the secret in the answer of an exchange by a child phantom.
func (f *Front) substitute(rt *route, real *armed, resp *http.Response) *refusal {
	if resp.StatusCode != http.StatusOK {
		return nil
	}
	bad := refuse(http.StatusBadGateway, "exchange_unparsable", "the provider's answer is not the one that was expected, and may hold a key")
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxExchange+1))
	if err != nil || len(data) > maxExchange {
		return bad
	}
	// Numbers stay as they are written; a member twice would be read differently by others.
	members, ok := object(data)
	if !ok {
		return bad
	}
	var secret string
	if json.Unmarshal(members[rt.Exchange.Field], &secret) != nil || secret == "" {
		return bad
	}
	now := f.cfg.Now()
	expires := now.Add(childLife)
	if raw, ok := members[rt.Exchange.Expires]; ok && rt.Exchange.Expires != "" {
		at, err := strconv.ParseInt(string(raw), 10, 64)
		if err != nil {
			return bad
		}
		expires = time.Unix(at, 0)
	}
	key, err := rt.newArmed(Secret{Kind: "child", Value: []byte(secret)}, real.secret.Kind)
	if err != nil {
		return bad
	}
	child := &childKey{token: NewPhantom(), hosts: rt.Exchange.Hosts, expires: expires, key: key}
	members[rt.Exchange.Field], _ = json.Marshal(child.token) // strings always encode
	out, err := json.Marshal(members)
	if err != nil {
		return bad
	}
	if real.scrub.mask(out) || key.scrub.mask(out) { // also in a member that nobody declared
		f.cfg.Record.Record(audit.Event{Ev: "vault_secret_echoed", Actor: "workload", Name: rt.Host, Port: rt.Port, Provider: rt.Provider})
	}
	rt.account.children.add(child, now)
	f.cfg.Record.Record(audit.Event{Ev: "vault_exchange", Actor: "auto", Name: rt.Host, Port: rt.Port, Provider: rt.Provider,
		Expires: expires.UTC().Format(time.RFC3339), Detail: map[string]string{"grant": Handle(child.token)}})
	resp.Body.Close()
	resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(out)), int64(len(out))
	resp.Header["Content-Length"] = []string{strconv.Itoa(len(out))}
	delete(resp.Header, "Content-Encoding")
	return nil
}

// object reads one JSON object whose members all have different names.
func object(data []byte) (map[string]json.RawMessage, bool) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, false
	}
	out := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		name, ok := t.(string)
		if err != nil || !ok || out[name] != nil {
			return nil, false
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, false
		}
		out[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, false
	}
	_, err := dec.Token()
	return out, err == io.EOF
}

func (c *children) add(k *childKey, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	live := c.list[:0]
	for _, old := range c.list {
		if old.expires.After(now) {
			live = append(live, old)
		}
	}
	if len(live) >= maxChildren {
		live = append(live[:0], live[1:]...)
	}
	c.list = append(live, k)
}

// find returns the child that value is, if it is good at host now.
func (c *children) find(value, host string, now time.Time) *childKey {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.list {
		if sameSecret(k.token, value) && k.expires.After(now) && k.good(host) {
			return k
		}
	}
	return nil
}

func (k *childKey) good(host string) bool {
	for _, h := range k.hosts {
		if below, wild := strings.CutPrefix(h, "*"); host == h || wild && strings.HasSuffix(host, below) && host != below[1:] {
			return true
		}
	}
	return false
}
