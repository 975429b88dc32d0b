package git

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The empty tree is an object that every git has built in; as source of attributes it takes
// .gitattributes of the content out of the game (git ≥ 2.41; older ones ignore the variable).
// git dies where the id is not one of the repository's own object format.
const (
	emptyTreeSHA1   = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"
	emptyTreeSHA256 = "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321"
)

// maxConfig is how much of a repository's config is looked at for its object format, in bytes.
const maxConfig = 1 << 20

var sha256Format = regexp.MustCompile(`(?im)^\s*objectformat\s*=\s*"?sha256\b`)

// emptyTree is the id of the empty tree in the object format of a repository or of a linked
// worktree's git directory. It reads the config as text, since asking git would double each call;
// a config that misleads it makes git die, and never widens what git reads.
func emptyTree(gitDir string) string {
	config := filepath.Join(gitDir, "config")
	if common, err := os.ReadFile(filepath.Join(gitDir, "commondir")); err == nil {
		dir := strings.TrimSuffix(string(common), "\n")
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(gitDir, dir)
		}
		config = filepath.Join(dir, "config")
	}
	f, err := os.OpenFile(config, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return emptyTreeSHA1 // git itself says what is wrong with the repository
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxConfig))
	if err == nil && sha256Format.Match(data) {
		return emptyTreeSHA256
	}
	return emptyTreeSHA1
}

// baseEnv is what every git process gets; see git(1) "ENVIRONMENT VARIABLES".
var baseEnv = []string{
	"HOME=/nonexistent",
	"XDG_CONFIG_HOME=/nonexistent",
	"LC_ALL=C.UTF-8",
	"GIT_CONFIG_NOSYSTEM=1",
	"GIT_CONFIG_GLOBAL=/dev/null",
	"GIT_CONFIG_SYSTEM=/dev/null",
	"GIT_ATTR_NOSYSTEM=1",
	"GIT_TERMINAL_PROMPT=0",
	"GIT_ASKPASS=/bin/false",
	"SSH_ASKPASS=/bin/false",
	"SSH_ASKPASS_REQUIRE=never",
	"GIT_OPTIONAL_LOCKS=0",
	"GIT_NO_REPLACE_OBJECTS=1",
	"GIT_NO_LAZY_FETCH=1",
	"GIT_LITERAL_PATHSPECS=1",
	"GIT_PROTOCOL_FROM_USER=0",
	"GIT_PAGER=cat",
	"GIT_EDITOR=false",
	"GIT_SEQUENCE_EDITOR=false",
	"GIT_CEILING_DIRECTORIES=/",
	"GIT_SSH_COMMAND=ssh -oBatchMode=yes -oClearAllForwardings=yes -oPermitLocalCommand=no",
	"GIT_SSH_VARIANT=ssh",
}

// baseConfig outranks the repository's own configuration. uploadpack.packObjectsHook is absent on
// purpose: git reads it from protected configuration only, which is ours alone.
var baseConfig = []string{
	"core.hooksPath=/dev/null",
	"core.fsmonitor=false",
	"core.attributesFile=/dev/null",
	"core.excludesFile=/dev/null",
	"core.quotePath=true",
	"core.useReplaceRefs=false",
	"core.commitGraph=false",
	"core.multiPackIndex=false",
	"core.alternateRefsCommand=true", // /bin/true: no foreign tips, no foreign program
	"core.askPass=/bin/false",
	"core.sshCommand=/bin/false", // GIT_SSH_COMMAND outranks it
	"core.pager=cat",
	"diff.external=", // empty: a diff that forgot --no-ext-diff fails instead of running something
	"color.ui=false",
	"log.showSignature=false",
	"gpg.program=/bin/false",
	"gpg.ssh.program=/bin/false",
	"commit.gpgSign=false",
	"tag.gpgSign=false",
	"push.gpgSign=false",
	"credential.helper=",
	"submodule.recurse=false",
	"fetch.recurseSubmodules=no",
	"fetch.writeCommitGraph=false",
	"protocol.allow=never",
	"protocol.ext.allow=never",
	"gc.auto=0",
	"gc.autoDetach=false",
	"maintenance.auto=false",
	"receive.autogc=false",
	"http.followRedirects=initial",
	"transfer.bundleURI=false",
	"advice.detachedHead=false",
	"init.defaultBranch=main",
	"safe.bareRepository=all", // our repositories are bare
}

// OldMistakes are fsck's names of faults that programs made in good faith long ago and that harm
// nobody: history that has them cannot be mended (git-fsck(1), "FSCK MESSAGES").
var OldMistakes = []string{"zeroPaddedFilemode", "badTimezone", "missingSpaceBeforeDate", "missingSpaceBeforeEmail",
	"missingNameBeforeEmail", "badDateOverflow", "badFilemode", "missingTaggerEntry", "badTagName"}

// environ builds the environment of one call.
func (c Cmd) environ() []string {
	env := append([]string{"PATH=" + strings.Join(searchPath, ":")}, baseEnv...)
	env = append(env, "GIT_ALLOW_PROTOCOL="+joinProtocols(c.Protocols))
	config := slices.Clone(baseConfig)
	if c.GitDir != "" {
		env = append(env, "GIT_DIR="+c.GitDir, "GIT_ATTR_SOURCE="+emptyTree(c.GitDir))
		config = append(config, "safe.directory="+c.GitDir)
	}
	if c.Dir != "" {
		config = append(config, "safe.directory="+c.Dir)
	}
	config = append(config, c.Config...)
	for i, kv := range config {
		k, v, _ := strings.Cut(kv, "=")
		n := strconv.Itoa(i)
		env = append(env, "GIT_CONFIG_KEY_"+n+"="+k, "GIT_CONFIG_VALUE_"+n+"="+v)
	}
	env = append(env, "GIT_CONFIG_COUNT="+strconv.Itoa(len(config)))
	return append(env, c.Env...) // os/exec: the last of equal names wins
}

// maxAlternates is how much of an alternates file is read, in bytes, and how deep git follows.
const (
	maxAlternates      = 64 << 10
	maxAlternatesDepth = 5
)

// checkAlternates defends against a repository that points at objects elsewhere on the host: a
// reader of such a repository would be served foreign objects as if they were pushed.
func (c Cmd) checkAlternates() error {
	if c.GitDir == "" || slices.Equal(c.Alternates, []string{AnyAlternates}) {
		return nil
	}
	return c.checkObjects(filepath.Join(c.GitDir, "objects"), 0)
}

func (c Cmd) checkObjects(objects string, depth int) error {
	if depth > maxAlternatesDepth {
		return fmt.Errorf("%s borrows objects over more than %d repositories", c.GitDir, maxAlternatesDepth)
	}
	if _, err := os.Lstat(filepath.Join(objects, "info", "http-alternates")); err == nil {
		return fmt.Errorf("%s has http-alternates, which terok never writes", objects)
	}
	f, err := os.OpenFile(filepath.Join(objects, "info", "alternates"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("check what %s borrows: %w", objects, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxAlternates+1))
	if err != nil {
		return fmt.Errorf("check what %s borrows: %w", objects, err)
	}
	dirs, err := parseAlternates(data)
	if err != nil {
		return fmt.Errorf("%s/info/alternates: %w", objects, err)
	}
	for _, dir := range dirs {
		if !slices.Contains(c.Alternates, dir) {
			return fmt.Errorf("%s borrows objects from %q, which this call does not allow", objects, dir)
		}
		if err := c.checkObjects(dir, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// parseAlternates reads an alternates file strictly: absolute clean paths, one per line. Git also
// knows comments, quoting and relative paths (gitrepository-layout(5)); terok writes none of
// them, so a file that has them is not ours.
func parseAlternates(data []byte) ([]string, error) {
	if len(data) > maxAlternates {
		return nil, errors.New("larger than 64 KiB")
	}
	var dirs []string
	for line := range strings.Lines(string(data)) {
		dir := strings.TrimSuffix(line, "\n")
		if dir == "" {
			continue
		}
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || strings.ContainsAny(dir, "\x00\r") {
			return nil, fmt.Errorf("%.200q is not an absolute, clean path", dir)
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}
