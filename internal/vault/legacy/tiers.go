package legacy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Where the predecessor kept its passphrase, besides the head of a person.
const (
	// SealedCredential is the name under which systemd-creds sealed it.
	SealedCredential = "terok-sandbox.vault-passphrase"
	sealedName       = "vault.passphrase.cred"

	maxPassphrase = 4096
)

// KeyringItem finds it in the Secret Service.
func KeyringItem() map[string]string {
	return map[string]string{"service": "terok-sandbox", "username": "credentials-db"}
}

// Sealed is what systemd-creds sealed, nil when there is nothing beside the store.
func (s *Source) Sealed() ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(filepath.Dir(s.Path), sealedName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return b, err
}

// session names the passphrase of this session, for the kernel's keyring and for a file.
func (s *Source) session() string {
	host, _ := os.Hostname()
	sum := sha256.Sum256([]byte(host + "\x00" + s.Path))
	return hex.EncodeToString(sum[:])[:32]
}

// KernelKey reads the passphrase from the user's keyring of the kernel, nil when it is not there.
// The caller clears it.
func (s *Source) KernelKey() []byte {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, "user", "terok-sandbox:vault-passphrase:"+s.session(), 0)
	if err != nil {
		return nil
	}
	buf := make([]byte, maxPassphrase)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, buf, 0)
	if err != nil || n <= 0 || n > len(buf) {
		return nil
	}
	return buf[:n]
}

// SessionFile reads the passphrase from the file that stood in for the kernel's keyring, nil when
// there is none. runtime is XDG_RUNTIME_DIR. The caller clears it.
func (s *Source) SessionFile(runtime string) []byte {
	if runtime == "" {
		return nil
	}
	b, err := readFile(filepath.Join(runtime, "terok", "vault-session", s.session()))
	if err != nil || len(b) == 0 || len(b) > maxPassphrase {
		return nil
	}
	return b
}
