package corpus

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Forge is an SSH server that runs git's two programs for one key. Close ends it.
type Forge struct {
	Known  string // line for known_hosts
	Key    []byte // the client's private key, PEM
	repos  string
	config *ssh.ServerConfig
	l      net.Listener
	wg     sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// StartForge serves the repositories below repos at addr.
func StartForge(addr, host, repos string) (*Forge, error) {
	_, hostKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromSigner(hostKey)
	if err != nil {
		return nil, err
	}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, err
	}
	client, err := ssh.NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	f := &Forge{Key: pem.EncodeToMemory(block), Known: host + " " + string(ssh.MarshalAuthorizedKey(signer.PublicKey())), repos: repos,
		conns: map[net.Conn]bool{}}
	f.config = &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, k ssh.PublicKey) (*ssh.Permissions, error) {
		if string(k.Marshal()) != string(client.Marshal()) {
			return nil, net.ErrClosed
		}
		return nil, nil
	}}
	f.config.AddHostKey(signer)
	if f.l, err = net.Listen("tcp", addr); err != nil {
		return nil, err
	}
	f.wg.Go(f.accept)
	return f, nil
}

// Close ends the server and its connections.
func (f *Forge) Close() {
	f.l.Close()
	f.mu.Lock()
	for c := range f.conns {
		c.Close()
	}
	f.mu.Unlock()
	f.wg.Wait()
}

func (f *Forge) accept() {
	for {
		c, err := f.l.Accept()
		if err != nil {
			return
		}
		f.mu.Lock()
		f.conns[c] = true
		f.mu.Unlock()
		f.wg.Go(func() {
			defer c.Close()
			_, channels, requests, err := ssh.NewServerConn(c, f.config)
			if err != nil {
				return
			}
			go ssh.DiscardRequests(requests)
			for ch := range channels {
				if ch.ChannelType() != "session" {
					ch.Reject(ssh.UnknownChannelType, "sessions only")
					continue
				}
				if s, requests, err := ch.Accept(); err == nil {
					f.wg.Go(func() { f.session(s, requests) })
				}
			}
		})
	}
}

// session runs the first exec request that is one of git's.
func (f *Forge) session(s ssh.Channel, requests <-chan *ssh.Request) {
	defer s.Close()
	for r := range requests {
		var command struct{ Line string }
		if r.Type != "exec" || ssh.Unmarshal(r.Payload, &command) != nil {
			r.Reply(r.Type == "env", nil)
			continue
		}
		program, repo, _ := strings.Cut(command.Line, " ")
		if program != "git-upload-pack" && program != "git-receive-pack" {
			r.Reply(false, nil)
			continue
		}
		r.Reply(true, nil)
		go ssh.DiscardRequests(requests)
		cmd := exec.Command("git", strings.TrimPrefix(program, "git-"), filepath.Join(f.repos, filepath.Clean("/"+strings.Trim(repo, "'"))))
		cmd.Stdout, cmd.Stderr = s, s.Stderr()
		in, err := cmd.StdinPipe()
		if err != nil || cmd.Start() != nil {
			return
		}
		go func() { // ends with the channel
			buf := make([]byte, 32<<10)
			for {
				n, err := s.Read(buf)
				if n > 0 {
					in.Write(buf[:n])
				}
				if err != nil {
					in.Close()
					return
				}
			}
		}()
		code := uint32(0)
		if cmd.Wait() != nil {
			code = 1
		}
		s.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
		return
	}
}
