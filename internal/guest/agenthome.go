package guest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"terok/internal/sandbox"
)

// maxHomeFile bounds a file of the agent's that is merged into, in bytes.
const maxHomeFile = 16 << 20

// writeHome puts the agent's files into the home directory, so that no first-run dialog waits
// for a person.
func (w *wrapper) writeHome(files []sandbox.HomeFile) error {
	for _, f := range files {
		if !filepath.IsLocal(f.Path) {
			return fmt.Errorf("home file %q is not below the home directory", f.Path)
		}
		path := filepath.Join(w.home, f.Path)
		if f.Directory {
			if err := errors.Join(os.MkdirAll(path, 0o755), os.Chmod(path, fs.FileMode(f.Mode).Perm())); err != nil {
				return fmt.Errorf("prepare %s: %w", path, err)
			}
			continue
		}
		content, err := w.homeContent(path, f)
		if err != nil {
			return fmt.Errorf("prepare %s: %w", path, err)
		}
		if err := replaceFile(path, content, fs.FileMode(f.Mode).Perm()); err != nil {
			return fmt.Errorf("prepare %s: %w", path, err)
		}
	}
	return nil
}

func (w *wrapper) homeContent(path string, f sandbox.HomeFile) ([]byte, error) {
	if !f.Merge {
		return []byte(w.expand(f.Content, false)), nil
	}
	var add any
	if err := json.Unmarshal([]byte(w.expand(f.Content, true)), &add); err != nil {
		return nil, err
	}
	var have any = map[string]any{}
	if data, err := readSmall(path, maxHomeFile); err == nil {
		dec := json.NewDecoder(bytes.NewReader(data))
		dec.UseNumber() // the agent's own numbers stay as they are
		if dec.Decode(&have) != nil {
			have = map[string]any{} // the agent would start anew as well
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return json.MarshalIndent(mergeJSON(have, add), "", "  ")
}

// mergeJSON lays add over have: objects member by member, lists joined without duplicates,
// anything else replaced.
func mergeJSON(have, add any) any {
	switch add := add.(type) {
	case map[string]any:
		out, ok := have.(map[string]any)
		if !ok {
			out = map[string]any{}
		}
		for k, v := range add {
			out[k] = mergeJSON(out[k], v)
		}
		return out
	case []any:
		out, _ := have.([]any)
	next:
		for _, v := range add {
			for _, h := range out {
				if reflect.DeepEqual(h, v) {
					continue next
				}
			}
			out = append(out, v)
		}
		return out
	}
	return add
}

var homeMark = regexp.MustCompile(`\{(env|tail20):([A-Z_][A-Z0-9_]*)\}`)

// expand replaces "{env:VAR}" and "{tail20:VAR}"; inJSON escapes the values for a JSON string.
func (w *wrapper) expand(content string, inJSON bool) string {
	return homeMark.ReplaceAllStringFunc(content, func(mark string) string {
		m := homeMark.FindStringSubmatch(mark)
		v := w.getenv(m[2])
		if m[1] == "tail20" && len(v) > 20 {
			v = v[len(v)-20:]
		}
		if !inJSON {
			return v
		}
		quoted, _ := json.Marshal(v)
		return strings.TrimSuffix(strings.TrimPrefix(string(quoted), `"`), `"`)
	})
}

// replaceFile writes beside the target and renames, so that an agent that runs already never
// reads half a file.
func replaceFile(path string, data []byte, mode fs.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".terok-*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Chmod(mode), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
	}
	return err
}
