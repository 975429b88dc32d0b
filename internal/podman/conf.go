package podman

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/pelletier/go-toml/v2"

	"terok/internal/problem"
	"terok/internal/state"
)

// engineKeys are copied from the user's configuration: they say where podman's programs and its
// database are and must agree with the podman that the user types by hand. Everything else,
// above all [containers] (volumes, env, devices, capabilities, namespaces, seccomp profile), is
// ours alone. See containers.conf(5).
var engineKeys = []string{
	"cgroup_manager", "events_logger", "helper_binaries_dir", "network_cmd_path", "conmon_path", "runtimes",
	"tmp_dir", "image_copy_tmp_dir", "static_dir", "volume_path", "num_locks", "lock_type", "database_backend",
}

// networkKeys serve image builds; a task has no network of podman's.
var networkKeys = []string{"network_backend", "default_rootless_network_cmd", "cni_plugin_dirs", "network_config_dir"}

// containersTable is [containers] of every container that terok makes; flags on the command line
// say the same again, so this is the second guard.
var containersTable = map[string]any{
	"annotations":          []string{},
	"cgroupns":             "private",
	"default_capabilities": []string{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "NET_BIND_SERVICE", "SETFCAP", "SETGID", "SETPCAP", "SETUID", "SYS_CHROOT"},
	"default_ulimits":      []string{},
	"devices":              []string{},
	"env":                  []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
	"env_host":             false,
	"http_proxy":           false,
	"init":                 false,
	"ipcns":                "private",
	"log_driver":           "k8s-file",
	"log_size_max":         int64(50 << 20),
	"pidns":                "private",
	"umask":                "0022",
	"utsns":                "private",
	"volumes":              []string{},
}

// userConf lists the files that make up the user's effective configuration, in the order in
// which podman reads them; later ones win. CONTAINERS_CONF replaces all others.
func (r *Runner) userConf(ours string) []string {
	if own := r.getenv("CONTAINERS_CONF"); own != "" && own != ours {
		return []string{own}
	}
	files := []string{"/usr/share/containers/containers.conf", "/etc/containers/containers.conf"}
	files = append(files, confDir("/etc/containers/containers.conf.d")...)
	home := r.getenv("HOME")
	dir := filepath.Join(home, ".config")
	if own := r.podmansOwn("XDG_CONFIG_HOME", dir); own != "" {
		dir = own
	}
	if filepath.IsAbs(dir) {
		files = append(files, filepath.Join(dir, "containers", "containers.conf"))
		files = append(files, confDir(filepath.Join(dir, "containers", "containers.conf.d"))...)
	}
	return files
}

func confDir(dir string) []string {
	files, _ := filepath.Glob(filepath.Join(dir, "*.conf")) // the pattern is well formed
	slices.Sort(files)
	return files
}

// WriteContainersConf writes the CONTAINERS_CONF of r at r.Conf, if it differs from what is
// there. The only OCI hooks directory in it is hooksDir. A user's file that cannot be parsed is a
// Problem naming it: leaving it out could move podman's database.
func (r *Runner) WriteContainersConf(hooksDir string) error {
	if r.Conf == "" {
		return errors.New("no path for the generated containers.conf")
	}
	data, err := r.containersConf(hooksDir)
	if err != nil {
		return err
	}
	if old, err := os.ReadFile(r.Conf); err == nil && bytes.Equal(old, data) {
		return nil
	}
	return state.WriteFile(r.Conf, data)
}

func (r *Runner) containersConf(hooksDir string) ([]byte, error) {
	engine, network := map[string]any{}, map[string]any{}
	for _, path := range r.userConf(r.Conf) {
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read podman's configuration: %w", err)
		}
		if err := mergeConf(data, engine, network); err != nil {
			return nil, problem.New("containers_conf_invalid", problem.Usage, "%s: %w", path, err).WithHint("correct %s", path)
		}
	}
	engine["hooks_dir"] = []string{hooksDir}
	engine["runtime"] = "crun"
	engine["env"] = []string{}
	var b bytes.Buffer
	b.WriteString("# Written by terok from the user's own podman configuration; do not edit, it is remade.\n")
	enc := toml.NewEncoder(&b)
	if err := enc.Encode(map[string]any{"containers": containersTable, "engine": engine, "network": network}); err != nil {
		return nil, fmt.Errorf("make containers.conf: %w", err)
	}
	return b.Bytes(), nil
}

// mergeConf copies the allowed keys of one file over what earlier files said.
func mergeConf(data []byte, engine, network map[string]any) error {
	var file struct {
		Engine  map[string]any `toml:"engine"`
		Network map[string]any `toml:"network"`
	}
	if err := toml.Unmarshal(data, &file); err != nil {
		return err
	}
	for _, k := range engineKeys {
		if v, ok := file.Engine[k]; ok {
			engine[k] = v
		}
	}
	for _, k := range networkKeys {
		if v, ok := file.Network[k]; ok {
			network[k] = v
		}
	}
	return nil
}
