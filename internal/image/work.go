package image

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"terok/internal/problem"
	"terok/internal/state"
	"terok/internal/text"
)

// workDir makes the directory of the one build that holds the lock of name, anew: what a killed
// build left there goes. context/ is empty, in/ is mounted at /mnt and holds recipe.sh, apt.conf
// and, with extra authorities, ca.pem.
func (b *Builder) workDir(name string, recipe []byte) (_ string, cleanup func(), err error) {
	dir := filepath.Join(b.Roots.ImagesDir(), "build-"+name)
	if err := os.RemoveAll(dir); err != nil {
		return "", nil, err
	}
	remove := func() { _ = os.RemoveAll(dir) }
	defer func() {
		if err != nil {
			remove()
		}
	}()
	for _, sub := range []string{"in", "context"} {
		if err := state.MkdirAll(filepath.Join(dir, sub)); err != nil {
			return "", nil, err
		}
	}
	apt := `Acquire::Retries "3";
Acquire::Languages "none";
APT::Sandbox::User "root";
Dpkg::Options { "--force-unsafe-io"; };
`
	ca, err := b.authorities()
	if err != nil {
		return "", nil, err
	}
	if len(ca) > 0 {
		apt += "Acquire::https::CAInfo \"/mnt/ca.pem\";\n"
		if err := os.WriteFile(filepath.Join(dir, "in", "ca.pem"), ca, 0o644); err != nil {
			return "", nil, err
		}
	}
	for name, data := range map[string][]byte{"apt.conf": []byte(apt), "recipe.sh": recipe} {
		if err := os.WriteFile(filepath.Join(dir, "in", name), data, 0o644); err != nil {
			return "", nil, err
		}
	}
	return dir, remove, nil
}

// systemRoots are where distributions keep the bundle of authorities.
var systemRoots = []string{"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"}

// authorities returns the host's authorities plus the operator's extra ones, or nothing when no
// extra one is configured. It reads b.CA and the operator's own NODE_EXTRA_CA_CERTS. The
// authorities are mounted for the build and never become part of an image.
func (b *Builder) authorities() ([]byte, error) {
	files := slices.Clone(b.CA)
	if b.Environ != nil {
		if f := b.Environ("NODE_EXTRA_CA_CERTS"); f != "" {
			files = append(files, f)
		}
	}
	extra, err := Authorities(files)
	if err != nil || len(extra) == 0 {
		return nil, err
	}
	for _, path := range systemRoots {
		if data, err := os.ReadFile(path); err == nil {
			return append(append(data, '\n'), extra...), nil
		}
	}
	return extra, nil
}

// maxAuthorities bounds a file of authorities, in bytes; all that Mozilla trusts are 220 kB.
const maxAuthorities = 1 << 20

// Authorities reads PEM files of certificates and returns these, and nothing else of the files, in
// PEM form. A file that cannot be read, or holds none or anything besides, is a Problem: a private
// key must not travel into containers because it shares a file with its certificate.
func Authorities(files []string) ([]byte, error) {
	var out bytes.Buffer
	for _, path := range files {
		data, err := readAuthority(path)
		if err != nil {
			return nil, problem.New("ca_unreadable", problem.Usage, "the authority's certificate cannot be read: %w", err).
				WithHint("name PEM files in image.ca_certificates, --ca and NODE_EXTRA_CA_CERTS")
		}
		n := 0
		for rest := data; ; n++ {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			if _, err := x509.ParseCertificate(block.Bytes); block.Type != "CERTIFICATE" || err != nil {
				return nil, problem.New("ca_invalid", problem.Usage, "%s holds something that is not a certificate", path).
					WithHint("openssl x509 -in %s -noout", path)
			}
			_ = pem.Encode(&out, &pem.Block{Type: block.Type, Bytes: block.Bytes}) // into memory; without headers
		}
		if n == 0 {
			return nil, problem.New("ca_invalid", problem.Usage, "%s holds no certificate in PEM form", path).
				WithHint("openssl x509 -in %s -noout", path)
		}
	}
	return out.Bytes(), nil
}

// readAuthority reads a regular file of at most maxAuthorities.
func readAuthority(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxAuthorities {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", path, maxAuthorities)
	}
	return os.ReadFile(path)
}

// keptLogs is how many logs of each kind stay.
const keptLogs = 10

// buildLog keeps the output of one build and shows it, line by line and made safe for a terminal,
// when the builder is verbose.
type buildLog struct {
	mu   sync.Mutex // podman's stdout and stderr come from two goroutines
	file *os.File
	show io.Writer
	name string
	part []byte
	last []string
}

func (b *Builder) openLog(name string) (*buildLog, error) {
	dir := filepath.Join(b.Roots.ImagesDir(), "logs")
	if err := state.MkdirAll(dir); err != nil {
		return nil, err
	}
	old, _ := filepath.Glob(filepath.Join(dir, name+"-2*.log")) // the pattern is well formed
	slices.Sort(old)
	for len(old) >= keptLogs {
		_ = os.Remove(old[0]) // another process may have been first
		old = old[1:]
	}
	path := filepath.Join(dir, fmt.Sprintf("%s-%s.log", name, time.Now().UTC().Format("20060102T150405.000000")))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	l := &buildLog{file: f, name: name, show: io.Discard}
	if b.Verbose {
		l.show = b.Progress
	}
	return l, nil
}

func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.part = append(l.part, p...)
	for {
		i := bytes.IndexAny(l.part, "\r\n")
		if i < 0 && len(l.part) > 4096 {
			i = 4096
		}
		if i < 0 {
			break
		}
		line := text.Line(string(l.part[:i]), 1024)
		l.part = bytes.TrimLeft(l.part[i:], "\r\n")
		if strings.TrimSpace(line) == "" {
			continue
		}
		if l.last = append(l.last, line); len(l.last) > 20 {
			l.last = l.last[1:]
		}
		fmt.Fprintf(l.show, "[%s] %s\n", l.name, line)
	}
	return l.file.Write(p)
}

// Close ends the log; the file stays.
func (l *buildLog) Close() error { return l.file.Close() }

// explain makes the Problem of a failed build: its last lines and where the rest is.
func (l *buildLog) explain(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if full := diskFull(l.last); full != "" {
		return problem.New("disk_full", problem.Failed, "%s: %s", what, full).WithHint("make room, then run the same command again")
	}
	p := problem.New("build_failed", problem.Failed, "%s: %w", what, err).WithHint("the whole output is in %s", l.file.Name())
	p.Message = what + ":\n  " + strings.Join(l.last, "\n  ")
	return p.With("log", l.file.Name())
}

func diskFull(lines []string) string {
	for _, line := range lines {
		if strings.Contains(line, "o space left on device") {
			return line
		}
	}
	return ""
}
