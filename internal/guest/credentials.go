package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"terok/internal/control"
	"terok/internal/sandbox"
)

// The guest has a token for every provider that the task may use, and programs are told of those
// for which the vault has a credential: one without must not change what an agent does. A credential
// can come, go, or be replaced by another kind while the container runs, so each start of an agent
// and each login asks the supervisor anew. Nothing of this is secret outside the container.

// credentialsFile holds the tokens, and what was known last of the vault. Who starts an agent reads
// it; the lock beside it orders the writers.
const credentialsFile = stateDir + "/credentials.json"

// askWithin bounds the question to the supervisor: without an answer what was known last holds.
const askWithin = 3 * time.Second

// credentials is the content of credentialsFile.
type credentials struct {
	Tokens []sandbox.Token `json:"tokens"`
	Held   []sandbox.Held  `json:"held"`
}

// held finds what the vault has for a provider.
func (c *credentials) held(provider string) (sandbox.Held, bool) {
	for _, h := range c.Held {
		if h.Provider == provider {
			return h, true
		}
	}
	return sandbox.Held{}, false
}

// place is what programs get now.
func (c *credentials) place() (env map[string]string, files []sandbox.StartFile) {
	env = map[string]string{}
	for _, t := range c.Tokens {
		if h, ok := c.held(t.Provider); ok {
			vars, more := t.Place(h)
			maps.Copy(env, vars)
			files = append(files, more...)
		}
	}
	return env, files
}

// stale reports whether an environment's variable is one of ours that programs do not get now.
func (c *credentials) stale(name, value string, placed map[string]string) bool {
	if _, ok := placed[name]; ok {
		return false
	}
	return slices.ContainsFunc(c.Tokens, func(t sandbox.Token) bool { return t.Phantom != "" && strings.Contains(value, t.Phantom) })
}

// firstCredentials writes what the start brings, and adds the variables to env.
func firstCredentials(s *sandbox.Start, env map[string]string) error {
	c := credentials{s.Tokens, s.Held}
	vars, files := c.place()
	maps.Copy(env, vars)
	for _, f := range files {
		if err := writeStartFile(f); err != nil {
			return err
		}
	}
	return c.save(credentialsFile)
}

func (c *credentials) save(path string) error {
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	return writeNew(path, data, 0o600)
}

// loadStart puts the environment of the start into this process, with the tokens of what the vault
// has now.
func loadStart() error {
	if err := refreshCredentials(newSupervisor(), credentialsFile, envFile); err != nil {
		return fmt.Errorf("the tokens of this start: %w", err)
	}
	return loadEnv(envFile)
}

// refreshCredentials asks which credentials there are now and brings files and environment up to
// date. Files are written each time: a program may have changed its own. Where nobody answers, what
// was known last holds.
func refreshCredentials(s *supervisor, path, envPath string) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // no provider
	}
	if err != nil {
		return err
	}
	// Somebody who is root inside leaves dev's files to dev.
	owner, ok := st.Sys().(*syscall.Stat_t)
	if !ok || int(owner.Uid) != os.Geteuid() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), askWithin)
	defer cancel()
	var now control.Credentials
	known := s.call(ctx, http.MethodGet, "/v1/credentials", nil, &now) == nil && now.Known

	lock, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	c, err := readCredentials(path)
	if err != nil {
		return err
	}
	if known {
		c.Held = now.Held
	}
	placed, files := c.place()
	for _, f := range files {
		if err := writeStartFile(f); err != nil {
			return err
		}
	}
	for _, kv := range os.Environ() { // inherited from a login of before
		if name, value, _ := strings.Cut(kv, "="); c.stale(name, value, placed) {
			os.Unsetenv(name)
		}
	}
	if !known {
		return nil
	}
	data, err := readSmall(envPath, maxEnv)
	if err != nil {
		return err
	}
	var env map[string]string
	if err := json.Unmarshal(data, &env); err != nil {
		return err
	}
	maps.DeleteFunc(env, func(name, value string) bool { return c.stale(name, value, placed) })
	maps.Copy(env, placed)
	if data, err = json.Marshal(env); err != nil {
		return err
	}
	if err := writeNew(envPath, data, 0o600); err != nil {
		return err
	}
	return c.save(path)
}

// maxEnv bounds the files that are read, in bytes.
const maxEnv = 4 << 20

func readCredentials(path string) (*credentials, error) {
	data, err := readSmall(path, maxEnv)
	if err != nil {
		return nil, err
	}
	c := &credentials{}
	return c, json.Unmarshal(data, c)
}
