package supervisor

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"terok/internal/audit"
	"terok/internal/clearance"
	"terok/internal/control"
	"terok/internal/gate/server"
	"terok/internal/git"
	"terok/internal/sandbox"
	"terok/internal/shield/dns"
	"terok/internal/shield/policy"
	"terok/internal/shield/proxy"
	"terok/internal/state"
	"terok/internal/vault/front"
	"terok/internal/vault/keyholder"
)

// Files of the host that resolving and dialling need.
const (
	resolvConf = "/etc/resolv.conf"
	hostsFile  = "/etc/hosts"
)

// hostAddrsEvery is how often the host's own addresses are read.
const hostAddrsEvery = 10 * time.Second

// saveEvery is how often names that became allowed are written.
const saveEvery = time.Second

// feedBuffer is how many lines of the ledger may wait for the event stream.
const feedBuffer = 1024

// WorkerMain is `terok supervise-worker`; only the parent runs it, with the descriptors of the
// wire (fdLink and following).
func WorkerMain([]string) int {
	log.SetFlags(log.LstdFlags | log.Lmicroseconds | log.LUTC)
	log.SetPrefix("worker: ")
	debug.SetMemoryLimit(workerMemory)
	debug.SetGCPercent(50)
	if err := work(); err != nil {
		log.Print(err)
		return 1
	}
	return 0
}

// work runs one worker until its parent closes the link.
func work() error {
	l, err := newLink(os.NewFile(fdLink, "link"))
	if err != nil {
		return err
	}
	h, err := l.receiveHandover()
	if err != nil {
		return err
	}
	if self, err := describe(os.Getpid()); err != nil || self.CapEff != noCapabilities || self.CapBnd != noCapabilities {
		return fmt.Errorf("a worker must not have capabilities (%s, %s): %w", self.CapEff, self.CapBnd, err)
	}
	if err := noNewPrivileges(); err != nil {
		return err
	}
	s, err := newService(h, l)
	if err != nil {
		return err
	}
	defer s.close()
	if err := confine(h); err != nil {
		return err
	}
	return s.serve()
}

// service is everything that a worker does for one container.
type service struct {
	hand    *handover
	link    *link
	started time.Time

	ledger    *audit.Ledger
	names     audit.Recorder // of what holds names that the container chose
	unwritten *trouble       // of the ledger
	before    past           // traffic of earlier workers
	feed      *control.Feed
	rules     *rules
	table     *dns.Table
	resolver  *dns.Resolver
	proxy     *proxy.Proxy
	front     *front.Front
	account   *account // nil without a vault
	session   *keyholder.Session
	gate      *server.Server
	turns     chan error // answers to opToken, for RotateGateToken
	turning   sync.Mutex
	lastTurn  time.Time // of the gate token, under turning
	guest     *guestAPI
	docket    *clearance.Docket // nil: clearance is off
	asks      asks              // questions of the agent that wait
	gitDoor   *door
	apiDoor   *door
	dnsDoor   *door

	datagrams *datagrams
	processes *processes
	askBudget func(context.Context, proxy.Breach) bool // nil: nobody can be asked

	control net.Listener
	tcp     []*net.TCPListener
	udp     []net.PacketConn
}

// newService opens everything that confinement would forbid and puts the parts together.
func newService(h *handover, l *link) (*service, error) {
	s := &service{hand: h, link: l, turns: make(chan error, 1), asks: newAsks(), unwritten: newTrouble(), started: time.Now().UTC()}
	if err := s.sockets(); err != nil {
		return nil, err
	}
	var err error
	f := &h.File
	s.ledger, err = audit.Open(sandbox.LedgerPath(f.Dir),
		audit.Identity{Project: f.Project, Task: f.Task, Sandbox: f.Key}, audit.Options{OnFailure: s.unwritten.set})
	if err != nil {
		return nil, err
	}
	s.feed = control.NewFeed(s.started)
	s.rules = newRules(f.Dir, h.Tampered)
	set := s.rules.settings()
	s.table = dns.NewTable(set.Synthetic)
	var pins []dns.Pin
	if err := state.ReadJSON(sandbox.NamesPath(f.Dir), &pins); err == nil {
		s.table.Restore(pins) // without it answers that are still cached are refused; nothing opens
	}
	upstream := dns.SystemUpstream(resolvConf)
	lookup := dns.NewLookup(upstream, hostsFile)
	if err := s.vault(lookup); err != nil {
		return nil, err
	}
	if f.SSH != nil && s.session == nil {
		s.session = keyholder.NewSession(nil)
	}
	s.gitGate()
	s.guest = &guestAPI{hand: h, record: s.ledger, why: s.explain, ask: s.ask, served: h.Served, ready: h.GuestReady,
		say: func(op byte) error { return l.say(op, nil) }, held: s.held,
		offer: func(box []byte) error { return l.sayBlock(opSealed, box) }}
	s.apiDoor = newDoor(sandbox.ServiceHost, sandbox.GuestPort)
	s.dnsDoor = newDoor(sandbox.ResolverAddr, 53)
	services := map[netip.AddrPort]proxy.Service{s.apiDoor.addr: s.apiDoor, s.dnsDoor.addr: s.dnsDoor}
	if f.SSH != nil {
		services[signerAddr] = newSigner(s.session, s.ledger)
	}
	if s.gate != nil {
		s.gitDoor = newDoor(sandbox.ServiceHost, sandbox.GatePort)
		services[s.gitDoor.addr] = s.gitDoor
	}
	s.names = &phantomWatch{Recorder: s.ledger}
	s.resolver = &dns.Resolver{Policy: s.rules.policy, Table: s.table, Lookup: lookup, Upstream: upstream,
		Record: s.names, Hostname: f.Key}
	cfg := proxy.Config{Policy: s.rules.policy, Names: s.table.Name, Range: set.Synthetic,
		Lookup: lookup.LookupHost, Services: services,
		Vital:  map[netip.AddrPort]bool{s.apiDoor.addr: true, s.dnsDoor.addr: true},
		Verify: verification(set.Verify), Subject: s.subject(), Record: s.names}
	if s.front != nil {
		cfg.Front = s.front
		s.resolver.Routed = func(name string) bool { return s.routed(name) }
	}
	s.egress(&cfg, set)
	s.clear(&cfg, set)
	s.proxy = proxy.New(cfg)
	s.rules.attach(s.recheck, s.ledger.Record)
	return s, nil
}

// sockets takes over the descriptors that the parent made.
func (s *service) sockets() error {
	l, err := control.Inherit(os.NewFile(fdControl, "control"))
	if err != nil {
		return fmt.Errorf("control socket: %w", err)
	}
	s.control = l
	each := 1
	if s.hand.V6 {
		each = 2
	}
	for i := range 2 * each {
		f := os.NewFile(uintptr(fdSockets+i), "socket")
		if i < each {
			l, err := net.FileListener(f)
			if err != nil {
				return fmt.Errorf("inherit the listener: %w", err)
			}
			s.tcp = append(s.tcp, l.(*net.TCPListener))
		} else {
			c, err := net.FilePacketConn(f)
			if err != nil {
				return fmt.Errorf("inherit the resolver's socket: %w", err)
			}
			s.udp = append(s.udp, c)
		}
		f.Close()
	}
	return nil
}

// vault starts the front for the routed hosts of this sandbox, if there are any.
func (s *service) vault(lookup *dns.Lookup) error {
	if len(s.hand.Authority) == 0 {
		return nil
	}
	ca, err := front.UnmarshalAuthority(s.hand.Authority)
	if err != nil {
		return err
	}
	s.session = keyholder.NewSession(nil)
	var grants []front.Grant
	for _, g := range s.hand.File.Vault.Grants {
		grants = append(grants, front.Grant{Grant: g, Phantom: s.hand.Phantoms[g.Provider]})
	}
	v := s.hand.File.Vault
	if s.account, err = openAccount(&s.hand.File, s.ledger); err != nil {
		return err
	}
	d := &upstreamDialer{lookup: lookup.LookupHost, rules: s.rules}
	s.front, err = front.New(front.Config{Grants: grants, Authority: ca, Credentials: s.session.Credential, Renew: s.session.Renew,
		Dial: d.dial, Record: s.ledger, Admit: s.account.admit, Used: s.account.used, Leaked: s.strayed, NoBatches: len(s.account.budgets) > 0,
		Limits: front.Limits{PerMinute: v.Limits.PerMinute, Burst: v.Limits.Burst, Concurrent: v.Limits.Concurrent, Body: v.Limits.Body}})
	if err == nil {
		s.account.revoked(s.front, s.hand.Phantoms)
		s.session.Guard(slices.Collect(maps.Values(s.hand.Phantoms)), s.betrayed)
	}
	return err
}

func (s *service) gitGate() {
	g := s.hand.File.Gate
	if g == nil || s.hand.GateToken == "" {
		return
	}
	s.gate = server.New(server.Config{Git: &git.Runner{}, Repo: g.Repo, Base: g.Base, Submodules: g.Submodules, Token: s.hand.GateToken,
		Protected: g.Protected, Lenient: g.Lenient, AllowSecrets: g.AllowSecrets, LFS: g.LFS, Record: s.ledger,
		Leaked: func(token string) { go s.pushed(token) },
		Limits: server.Limits{MaxPack: int64(g.MaxPackMB) << 20, MaxFile: int64(g.MaxFileMB) << 20,
			MaxRefs: g.MaxRefs, Quota: int64(g.QuotaMB) << 20}})
}

func (s *service) routed(name string) bool {
	for _, g := range s.hand.File.Vault.Grants {
		for _, r := range g.Routes {
			if r.Host == name {
				return true
			}
		}
	}
	return false
}

func (s *service) subject() string {
	if s.hand.File.Project != "" {
		return s.hand.File.Project + "/" + s.hand.File.Task
	}
	return s.hand.File.Key
}

func verification(v policy.Verify) proxy.Verify {
	switch v {
	case policy.VerifyLog:
		return proxy.LogOnly
	case policy.VerifyOff:
		return proxy.Off
	}
	return proxy.Enforce
}

// serve answers until the parent closes the link, which it does when the container ends.
func (s *service) serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	failed := make(chan error, 16)
	run := func(what string, f func() error) {
		go func() {
			if err := f(); err != nil && ctx.Err() == nil && !errors.Is(err, net.ErrClosed) {
				failed <- fmt.Errorf("%s: %w", what, err)
			}
		}()
	}
	for _, l := range s.tcp {
		run("proxy", func() error { return s.proxy.Serve(ctx, l) })
	}
	for _, c := range s.udp {
		run("resolver", func() error { return s.resolver.ServePacket(ctx, c) })
	}
	run("resolver", func() error { return s.resolver.ServeStream(ctx, s.dnsDoor) })
	api := &http.Server{Handler: s.guest.handler(), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second,
		IdleTimeout: 10 * time.Second, MaxHeaderBytes: 16 << 10, ErrorLog: log.Default()}
	run("guest protocol", func() error { return api.Serve(s.apiDoor) })
	if s.gitDoor != nil {
		gate := &http.Server{Handler: s.gate, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 30 * time.Second,
			MaxHeaderBytes: 64 << 10, ErrorLog: log.Default()}
		go func() {
			// Confined like everything that git does here. A push waits for it: it takes the same turn.
			if err := s.gate.Recover(ctx); err != nil && ctx.Err() == nil {
				log.Printf("gate: what an earlier worker left could not be put right: %v", err)
			}
		}()
		run("gate", func() error { return gate.Serve(s.gitDoor) })
	}
	op := &http.Server{Handler: control.Handler(s), ReadHeaderTimeout: 5 * time.Second, ErrorLog: log.Default(),
		MaxHeaderBytes: 16 << 10}
	run("control", func() error { return op.Serve(s.control) })
	go s.rules.follow(ctx, hostAddrsEvery)
	go s.saveNames(ctx)
	go s.keepSpent(ctx)
	go s.proxy.Recheck() // reopens the relays of names that an earlier worker answered
	go s.watchLedger(ctx)
	go s.watchMighty(ctx)
	events, unsubscribe := s.ledger.Subscribe(feedBuffer)
	defer unsubscribe()
	go s.feedLedger(events)
	if s.docket != nil {
		go s.docket.Run(ctx)
	}

	event := "start"
	if s.hand.Restarts > 0 || s.hand.Adopted {
		event = "supervisor_restarted"
	}
	s.ledger.Record(audit.Event{Ev: event, Actor: "auto", Count: uint64(s.hand.Restarts),
		Detail: map[string]string{"container": s.hand.ContainerID, "name": s.hand.File.Name}})
	if broken := s.rules.state().broken; broken != nil {
		log.Print(broken)
		s.ledger.Record(audit.Event{Ev: "error", Actor: "auto", Reason: "quarantine: " + broken.Error()})
	}
	if err := s.link.say(opReady, nil); err != nil {
		return fmt.Errorf("tell the parent: %w", err)
	}
	go s.rest(ctx)
	settle()
	ended := make(chan error, 1)
	go func() { ended <- s.obey() }()
	select {
	case err := <-failed:
		return err // the parent starts another worker
	case err := <-ended:
		return err
	}
}

// obey does what the parent says until it closes the link.
func (s *service) obey() error {
	defer close(s.datagrams.done)
	defer close(s.processes.done)
	for {
		op, file, err := s.link.hear()
		if err != nil {
			return nil // the container has ended
		}
		switch {
		case op == opSocket:
			select {
			case s.datagrams.answers <- file:
				file = nil
			default: // nobody asked
			}
		case op == opOwner, op == opMighty:
			answer, err := s.link.hearRecord(ownerAnswer)
			if err != nil {
				return nil
			}
			s.processes.heard(answer)
		case op == opToken:
			block, err := s.link.hearBlock()
			if err != nil {
				return nil
			}
			s.turned(block)
		case op == opTampered:
			who, err := s.link.hearRecord(ownerAnswer)
			if err != nil {
				return nil
			}
			e := audit.Event{Ev: "verify_failed", Actor: "auto", Reason: "links or tables of the container's network namespace were changed from outside"}
			if w := ownerWords(who); w != "" {
				e.Detail = map[string]string{"net_admin": w}
			}
			s.ledger.Record(e)
			s.rules.tamper()
		case op == opKeyholder && file != nil && s.session != nil:
			conn, err := net.FileConn(file)
			if err != nil {
				log.Printf("keyholder connection: %v", err)
				break
			}
			if u, ok := conn.(*net.UnixConn); ok {
				s.session.Attach(u)
			} else {
				conn.Close()
			}
		}
		if file != nil {
			file.Close()
		}
	}
}

// saveNames writes the names that became allowed, so that cached answers outlive this worker.
func (s *service) saveNames(ctx context.Context) {
	tick := time.NewTicker(saveEvery)
	defer tick.Stop()
	saved := s.table.Generation()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := s.table.Generation()
		if now == saved {
			continue
		}
		if err := state.WriteJSON(sandbox.NamesPath(s.hand.File.Dir), s.table.Snapshot()); err != nil {
			log.Printf("save names: %v", err)
			continue
		}
		saved = now
	}
}

func (s *service) close() {
	if s.docket != nil {
		s.docket.Close()
	}
	s.feed.Close()
	s.proxy.Close()
	if s.front != nil {
		_ = s.front.Close()
	}
	if s.account != nil {
		s.account.close()
	}
	s.ledger.Record(s.lastWord())
	if err := s.ledger.Close(); err != nil {
		log.Printf("ledger: %v", err)
	}
}
