package guest

import (
	"crypto/sha1"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"unicode/utf16"
)

// Java looks at neither OpenSSL's file nor a variable of its own for certificates: it has a key store,
// which a system property names, and only JAVA_TOOL_OPTIONS hands a property to every virtual
// machine, those that build tools and test runners fork too. The price is a line on standard error,
// "Picked up JAVA_TOOL_OPTIONS: …", of each. An empty one in the environment of the start turns it off.

const (
	javaOptions  = "JAVA_TOOL_OPTIONS"
	javaProperty = "-Djavax.net.ssl.trustStore="
	javaStore    = caDir + "/java.jks"
)

// javaTrust is the value of JAVA_TOOL_OPTIONS: ours after what the task or the image has there, "" to
// leave it alone. task is nil when the task's environment says nothing.
func javaTrust(task *string, image string) string {
	have := image
	if task != nil {
		if have = *task; strings.TrimSpace(have) == "" {
			return ""
		}
	}
	if strings.Contains(have, javaProperty) { // somebody's own
		return ""
	}
	return strings.TrimSpace(have + " " + javaProperty + javaStore)
}

// keyStore writes the certificates of a PEM bundle as a Java key store. It is of the old format, JKS,
// since every Java from 8 on reads it whatever type it expects (keystore.type.compat in
// java.security), and since it needs no password to be read. The digest at its end is made with the
// password that Java's own has, so that keytool is content.
func keyStore(bundle []byte) []byte {
	var out []byte
	text := func(s string) {
		out = binary.BigEndian.AppendUint16(out, uint16(len(s)))
		out = append(out, s...)
	}
	out = append(out, 0xfe, 0xed, 0xfe, 0xed, 0, 0, 0, 2, 0, 0, 0, 0) // magic, version, how many
	n := uint32(0)
	for block, rest := pem.Decode(bundle); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" || len(block.Bytes) == 0 {
			continue
		}
		out = binary.BigEndian.AppendUint32(out, 2) // a trusted certificate
		text(fmt.Sprintf("terok-%d", n))
		out = binary.BigEndian.AppendUint64(out, 0) // when it was made, in ms
		text("X.509")
		out = binary.BigEndian.AppendUint32(out, uint32(len(block.Bytes)))
		out = append(out, block.Bytes...)
		n++
	}
	binary.BigEndian.PutUint32(out[8:], n)
	sum := sha1.New() //nolint:gosec // what the format wants; it protects nothing here
	for _, c := range utf16.Encode([]rune("changeit")) {
		sum.Write([]byte{byte(c >> 8), byte(c)})
	}
	sum.Write([]byte("Mighty Aphrodite"))
	sum.Write(out)
	return sum.Sum(out)
}

// trustInJava makes Java trust the bundle and returns the value of JAVA_TOOL_OPTIONS, "" for none: a
// key store of ours replaces Java's own, so there is one only where the image has certificates of
// its own to fill it with.
func trustInJava(bundle []byte, own bool, task map[string]string) (string, error) {
	var given *string
	if v, set := task[javaOptions]; set {
		given = &v
	}
	options := javaTrust(given, os.Getenv(javaOptions))
	if !own || options == "" {
		return "", nil
	}
	return options, writeNew(javaStore, keyStore(bundle), 0o644)
}
