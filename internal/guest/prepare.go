package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"terok/internal/sandbox"
)

// Files of the guest, on the tmpfs.
const (
	envFile   = stateDir + "/env.json"
	tokenFile = stateDir + "/gate-token"
	caDir     = stateDir + "/ca"
	caFile    = caDir + "/terok.pem"  // our certificate and the operator's authorities
	caBundle  = caDir + "/bundle.pem" // the image's certificates and those
	spareHome = stateDir + "/home"    // for images without a home for our user
)

// systemBundles are where distributions keep their certificates in one file.
var systemBundles = []string{
	"/etc/ssl/certs/ca-certificates.crt",                // Debian, Ubuntu, Alpine, Arch
	"/etc/pki/tls/certs/ca-bundle.crt",                  // Fedora, RHEL
	"/etc/ssl/ca-bundle.pem",                            // openSUSE
	"/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", // newer RHEL
	"/etc/ssl/cert.pem",
}

// caVariables make common programs trust the bundle: OpenSSL and Go, Node (which adds to its own
// roots, as Deno does), Python's requests, curl, git, and Rust and AWS tools.
var caVariables = map[string]string{
	"SSL_CERT_FILE":       caBundle,
	"NODE_EXTRA_CA_CERTS": caFile,
	"REQUESTS_CA_BUNDLE":  caBundle,
	"CURL_CA_BUNDLE":      caBundle,
	"GIT_SSL_CAINFO":      caBundle,
	"DENO_CERT":           caFile,
	"AWS_CA_BUNDLE":       caBundle,
	"CARGO_HTTP_CAINFO":   caBundle,
}

// prepare does what the start says and returns the environment of the command.
func prepare(ctx context.Context, s *sandbox.Start) ([]string, error) {
	add := maps.Clone(s.Env)
	if add == nil {
		add = map[string]string{}
	}
	if add["HOME"] == "" {
		home, err := findHome(os.Getenv("HOME"))
		if err != nil {
			return nil, err
		}
		add["HOME"] = home
	}
	if trust := strings.TrimSpace(s.Trust + "\n" + s.CA); trust != "" {
		java, err := writeTrust(trust+"\n", add)
		if err != nil {
			return nil, err
		}
		for k, v := range caVariables {
			if _, set := add[k]; !set {
				add[k] = v
			}
		}
		if java != "" {
			add[javaOptions] = java
		}
	}
	if s.GateToken != "" {
		if err := writeNew(tokenFile, []byte(s.GateToken), 0o600); err != nil {
			return nil, err
		}
	}
	for _, f := range s.Files {
		if err := writeStartFile(f); err != nil {
			return nil, err
		}
	}
	if len(s.Tokens) > 0 {
		if err := firstCredentials(s, add); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(add)
	if err != nil {
		return nil, err
	}
	if err := writeNew(envFile, data, 0o600); err != nil {
		return nil, err
	}
	env := merge(os.Environ(), add)
	if s.Workspace != "" {
		if err := os.MkdirAll(s.Workspace, 0o755); err != nil {
			return nil, fmt.Errorf("workspace: %w", err)
		}
	}
	if s.Clone != nil {
		w, err := OpenWorkspace(ctx, s.Workspace, s.Clone, env)
		if err == nil {
			err = w.CheckOut(ctx)
		}
		if err != nil {
			return nil, fmt.Errorf("prepare the workspace: %w", err)
		}
	}
	return env, nil
}

// findHome returns a home directory that we can write.
func findHome(home string) (string, error) {
	if filepath.IsAbs(home) && home != "/" && unix.Access(home, unix.W_OK) == nil {
		return home, nil
	}
	if err := os.MkdirAll(spareHome, 0o700); err != nil {
		return "", fmt.Errorf("home: %w", err)
	}
	return spareHome, nil
}

// writeTrust makes our certificate and the operator's known beside those of the image.
func writeTrust(ca string, env map[string]string) (java string, err error) {
	if err := os.MkdirAll(caDir, 0o755); err != nil {
		return "", err
	}
	if err := writeNew(caFile, []byte(ca), 0o644); err != nil {
		return "", err
	}
	var bundle []byte
	for _, path := range systemBundles {
		if data, err := os.ReadFile(path); err == nil {
			bundle = append(data, '\n')
			break
		}
	}
	own := len(bundle) > 1
	bundle = append(bundle, ca...)
	if err := writeNew(caBundle, bundle, 0o644); err != nil {
		return "", err
	}
	return trustInJava(bundle, own, env)
}

// writeStartFile writes one file of the start. An image or an earlier start may have left
// anything there; in the container that is no more than what the workload can do anyway.
func writeStartFile(f sandbox.StartFile) error {
	if !filepath.IsAbs(f.Path) {
		return fmt.Errorf("start file %q is not an absolute path", f.Path)
	}
	if f.Keep {
		if _, err := os.Lstat(f.Path); err == nil {
			return nil
		}
	}
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", f.Path, err)
	}
	return writeNew(f.Path, []byte(f.Content), fs.FileMode(f.Mode).Perm())
}

// writeNew replaces path.
func writeNew(path string, data []byte, mode fs.FileMode) error {
	tmp := fmt.Sprintf("%s.new%d", path, os.Getpid()) // logins write at the same time
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// merge lays add over the environment.
func merge(environ []string, add map[string]string) []string {
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		k, _, _ := strings.Cut(kv, "=")
		_, replaced := add[k]
		return replaced
	})
	for _, k := range slices.Sorted(maps.Keys(add)) {
		out = append(out, k+"="+add[k])
	}
	return out
}

// loadEnv puts the environment of the start into this process, for logins. TERM and what else a
// login brings itself stays.
func loadEnv(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("the environment of this start: %w", err)
	}
	var env map[string]string
	if err := json.Unmarshal(data, &env); err != nil {
		return fmt.Errorf("the environment of this start: %w", err)
	}
	for k, v := range env {
		if err := os.Setenv(k, v); err != nil {
			return fmt.Errorf("%s: %w", k, err)
		}
	}
	return nil
}
