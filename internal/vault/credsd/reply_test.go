package credsd

import (
	"bytes"
	"strings"
	"testing"
)

// FuzzReply: an answer of the service ends in an error or in something bounded; errors never quote
// it.
func FuzzReply(f *testing.F) {
	f.Add([]byte(`{"parameters":{"data":"QUFB"}}` + "\x00"))
	f.Add([]byte(`{"error":"io.systemd.Credentials.BadFormat"}` + "\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		msg, err := readMessage(bytes.NewReader(raw))
		if err != nil {
			return
		}
		var out struct {
			Data []byte `json:"data"`
		}
		if err := decodeReply(msg, &out); err != nil && len(msg) > 200 && strings.Contains(err.Error(), string(msg)) {
			t.Fatal(err)
		}
	})
}
