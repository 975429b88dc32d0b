package oauth

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"time"
)

// Claims decodes what a JWT says (RFC 7519) into v, without checking its signature: it came from
// its issuer over TLS, or from a file that it wrote, and is used for display and timing only. It
// reports whether t is a JWT.
func Claims(t []byte, v any) bool {
	parts := bytes.Split(t, []byte("."))
	if len(parts) != 3 || len(t) > maxToken {
		return false
	}
	body := make([]byte, base64.RawURLEncoding.DecodedLen(len(parts[1])))
	n, err := base64.RawURLEncoding.Decode(body, parts[1])
	return err == nil && json.Unmarshal(body[:n], v) == nil
}

// Expiry is the end of a JWT, the zero time when it says none.
func Expiry(t []byte) time.Time {
	var c struct {
		Exp float64 `json:"exp"`
	}
	if !Claims(t, &c) || c.Exp <= 0 || c.Exp > 253402300799 { // the year 9999
		return time.Time{}
	}
	return time.Unix(int64(c.Exp), 0).UTC()
}
