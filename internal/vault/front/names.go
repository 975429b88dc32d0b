package front

import (
	"bytes"
	"strings"
)

// credentialNames are names, folded, whose values are credentials wherever they stand.
var credentialNames = map[string]bool{
	"apikey": true, "xapikey": true, "apitoken": true, "accesstoken": true, "refreshtoken": true,
	"idtoken": true, "authtoken": true, "xauthtoken": true, "bearertoken": true, "sessiontoken": true,
	"privatetoken": true, "jobtoken": true, "oauthtoken": true, "personalaccesstoken": true,
	"authorization": true, "authorizationtoken": true, "proxyauthorization": true,
	"clientsecret": true, "secretkey": true, "accesskey": true, "secretaccesskey": true, "password": true,
	"xgoogapikey": true, "subscriptionkey": true, "githubtoken": true, "gitlabtoken": true,
}

// weakNames are credentials in a query, a form and at the top of a JSON document; deeper down they
// are ordinary words.
var weakNames = map[string]bool{
	"token": true, "key": true, "secret": true, "auth": true, "bearer": true, "jwt": true,
	"sig": true, "signature": true, "credential": true, "credentials": true, "code": true,
	"xamzsignature": true, "xamzcredential": true, "xamzsecuritytoken": true,
}

// foldedNames maps every name of the tables to itself, so that folding allocates nothing.
var foldedNames = func() map[string]string {
	m := map[string]string{}
	for _, table := range []map[string]bool{credentialNames, weakNames, structuralNames, callingMembers, projectMembers} {
		for name := range table {
			m[name] = name
		}
	}
	return m
}()

// foldName brings a name to the form of the tables, lower case without separators. A name that is
// in no table becomes anyURL when it ends like one, else "".
func foldName[T string | []byte](name T) string {
	var buf [captured]byte
	out := buf[:0]
	for i := range len(name) {
		c := name[i]
		switch {
		case c == '_' || c == '-' || c == '.' || c == ' ' || c == '[' || c == ']':
			continue
		case c >= 'A' && c <= 'Z':
			c |= 0x20
		}
		if len(out) == len(buf) {
			return ""
		}
		out = append(out, c)
	}
	if known, ok := foldedNames[string(out)]; ok {
		return known
	}
	for _, end := range urlEndings {
		if bytes.HasSuffix(out, end) {
			return anyURL
		}
	}
	return ""
}

var urlEndings = [][]byte{[]byte("url"), []byte("urls"), []byte("uri"), []byte("uris")}

// credentialHeader reports whether a request header, in canonical form, carries a credential by
// its name. Only the route's own headers may, and only with the phantom.
func credentialHeader(name string) bool {
	if plainHeaders[name] {
		return false
	}
	lower := strings.ToLower(name)
	for _, part := range credentialParts {
		if strings.Contains(lower, part) {
			return true
		}
	}
	return false
}

// plainHeaders are common headers that are known to carry none; they skip the search.
var plainHeaders = map[string]bool{
	"Accept": true, "Accept-Encoding": true, "Accept-Language": true, "Content-Length": true,
	"Content-Type": true, "User-Agent": true, "Connection": true, "Anthropic-Version": true,
	"Anthropic-Beta": true, "X-App": true,
}

var credentialParts = []string{
	"authorization", "api-key", "apikey", "api_key", "token", "secret", "password", "passwd",
	"credential", "cookie", "x-auth", "x-amz-", "jwt", "access-key", "subscription-key", "signature", "x-csrf",
}
