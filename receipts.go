package terok

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"golang.org/x/crypto/ssh"

	"terok/internal/gate/promote"
	"terok/internal/gate/receipt"
	"terok/internal/gate/refname"
	"terok/internal/gate/review"
	"terok/internal/git"
	"terok/internal/problem"
	"terok/internal/sandbox"
	"terok/internal/task"
	"terok/internal/text"
	"terok/internal/version"
)

// Receipt is the signed record of a promotion.
type Receipt = receipt.Receipt

// ReceiptView is a receipt with what was found out about it.
type ReceiptView struct {
	Receipt  Receipt         `json:"receipt"`
	Key      string          `json:"key"`     // SHA256 fingerprint of who signed
	Source   string          `json:"source"`  // "note" or a file
	Ledgers  []CheckedLedger `json:"ledgers"` // of `verify`
	Verified bool            `json:"verified"`
	Text     string          `json:"-"` // as it is kept
}

// CheckedLedger is a ledger that a receipt binds.
type CheckedLedger struct {
	receipt.Ledger
	Path    string `json:"path"`
	Verdict string `json:"verdict"` // "ok", or why not
}

func (a *App) receiptKeys() receipt.Keys { return receipt.Keys{Dir: a.Roots.ReceiptsDir()} }

// signer makes the receipts of a task's promotions.
func (a *App) signer(t *task.Task) func(review.Promotion, review.Change, []review.Approval) ([]byte, error) {
	return func(done review.Promotion, c review.Change, approvals []review.Approval) ([]byte, error) {
		key, err := a.receiptKeys().Signer()
		if err != nil {
			return nil, err
		}
		r := receipt.Receipt{Project: t.Project, Task: t.ID, Name: t.Name, Agent: t.Agent, Model: t.Model, Branch: c.Branch, Base: c.Base, Tip: c.Tip,
			Commit: done.As, Commits: c.IDs, Target: done.Target, Ref: done.Ref, Reviewer: done.By, Approvals: []receipt.Approval{}, Flags: []receipt.Flag{},
			At: a.Now(), Version: version.Version}
		if done.Target == review.ToUpstream {
			r.Upstream = done.Place
		}
		for _, x := range approvals {
			r.Approvals = append(r.Approvals, receipt.Approval{Commit: x.Commit, Level: x.Level, By: x.By, At: x.At})
		}
		for _, f := range c.Flags {
			r.Flags = append(r.Flags, receipt.Flag{Code: f.Code, Severity: f.Severity, Count: f.Count})
		}
		for _, l := range []struct{ of, path string }{{"task", sandbox.LedgerPath(t.Dir(a.Roots))}, {"host", a.Roots.HostLedger()}} {
			head, err := receipt.Head(l.of, l.path)
			if err != nil {
				return nil, err
			}
			r.Ledgers = append(r.Ledgers, head)
		}
		return receipt.Sign(r, key)
	}
}

// ReceiptQuery names a receipt.
type ReceiptQuery struct {
	Repo   string   // directory of a clone, or a project's name
	Commit string   // what git rev-parse takes
	Keys   []string // files of further public keys that may have signed
	Ledger string   // file with the task's ledger; "" finds it in the state tree or the archive
	Host   string   // file with the host's ledger; "" is this host's
}

// ReceiptShow reads the receipt of a commit and checks its signature; the ledgers are not looked at.
func (a *App) ReceiptShow(ctx context.Context, q ReceiptQuery) (ReceiptView, error) {
	var v ReceiptView
	dir, project, err := a.receiptRepo(q.Repo)
	if err != nil {
		return v, err
	}
	commit, data, err := a.findReceipt(ctx, dir, project, q.Commit)
	if err != nil {
		return v, err
	}
	keys, err := a.receiptKeys().Trusted(q.Keys...)
	if err != nil {
		return v, err
	}
	v.Text = string(data.text)
	v.Source = data.source
	r, signer, err := receipt.Open(data.text, keys)
	if signer != nil {
		v.Key = ssh.FingerprintSHA256(signer)
	}
	if err != nil {
		return v, err
	}
	v.Receipt = r
	if r.Commit != commit {
		return v, problem.New("receipt_invalid", problem.Failed, "the receipt is about commit %.12s, not about %.12s", text.Line(r.Commit, 40), commit)
	}
	return v, nil
}

// ReceiptVerify is ReceiptShow that also compares every ledger which the receipt binds, line by
// line. One byte that differs is the problem "ledger_broken". It needs no network.
func (a *App) ReceiptVerify(ctx context.Context, q ReceiptQuery) (ReceiptView, error) {
	v, err := a.ReceiptShow(ctx, q)
	if err != nil {
		return v, err
	}
	v.Ledgers = []CheckedLedger{}
	var first error
	for _, l := range v.Receipt.Ledgers {
		c := CheckedLedger{Ledger: l, Path: a.ledgerOf(l.Of, v.Receipt, q), Verdict: "ok"}
		if err := l.Check(c.Path); err != nil {
			c.Verdict = problem.Of(err).Message
			if first == nil {
				first = err
			}
		}
		v.Ledgers = append(v.Ledgers, c)
	}
	v.Verified = first == nil
	return v, first
}

// ledgerOf is where a ledger lies: with the task, or in the archive once that is deleted.
func (a *App) ledgerOf(of string, r Receipt, q ReceiptQuery) string {
	if of == "host" {
		return firstOf(q.Host, a.Roots.HostLedger())
	}
	if q.Ledger != "" {
		return q.Ledger
	}
	if strings.ContainsAny(r.Project+r.Task, "/\x00*?[") || r.Project == "" || r.Task == "" || r.Project[0] == '.' || r.Task[0] == '.' {
		return filepath.Join(a.Roots.Data, "no-such-ledger")
	}
	path := sandbox.LedgerPath(a.Roots.TaskDir(r.Project, r.Task))
	if _, err := os.Lstat(path); err == nil {
		return path
	}
	places, _ := filepath.Glob(filepath.Join(a.Roots.ArchiveDir(), r.Project, "*_"+r.Task+"_*"))
	sort.Strings(places)
	if len(places) > 0 {
		return sandbox.LedgerPath(places[len(places)-1])
	}
	return path
}

// receiptRepo finds the repository that a person names: a directory, or a project.
func (a *App) receiptRepo(word string) (dir, project string, err error) {
	if !strings.Contains(word, "/") && word != "." {
		if p, err := a.projects().Get(word); err == nil {
			if clone := p.UpstreamPath(); clone != "" {
				return clone, p.Name, promote.Outside(a.Roots, a.writable(), clone)
			}
			return a.Roots.GateBase(p.Name), p.Name, nil
		}
	}
	dir, err = filepath.Abs(word)
	if err == nil {
		_, err = os.Stat(dir)
	}
	if err != nil {
		return "", "", problem.New("no_repository", problem.NotFound, "%s is neither a project nor a repository", text.Line(word, 200)).WithHint("terok receipt verify . HEAD")
	}
	project, _ = a.ProjectHere(dir)
	return dir, project, promote.Outside(a.Roots, a.writable(), dir)
}

type foundReceipt struct {
	text   []byte
	source string
}

// findReceipt looks for the note of a commit, then for the copy in the state tree.
func (a *App) findReceipt(ctx context.Context, dir, project, word string) (string, foundReceipt, error) {
	g := &git.Runner{}
	cmd := func(args ...string) git.Cmd {
		return git.Cmd{Dir: dir, Args: args, Alternates: []string{git.AnyAlternates}}
	}
	out, err := g.Run(ctx, cmd("rev-parse", "--verify", "--quiet", "--end-of-options", word+"^{commit}"))
	commit := strings.TrimSpace(string(out))
	if err != nil || !refname.IsID(commit) {
		return "", foundReceipt{}, problem.New("no_such_commit", problem.NotFound, "%s has no commit %s", text.Show(dir), text.Line(word, 80))
	}
	out, err = g.Run(ctx, cmd("notes", "--ref="+receipt.NotesRef, "list", commit))
	if blob := strings.TrimSpace(string(out)); err == nil && refname.IsID(blob) {
		note, err := g.Run(ctx, cmd("cat-file", "blob", blob))
		return commit, foundReceipt{note, "note"}, err
	}
	pattern := filepath.Join(a.Roots.ReceiptsDir(), firstOf(project, "*"), commit+".*")
	files, _ := filepath.Glob(pattern)
	sort.Strings(files)
	for _, f := range files {
		data, err := os.ReadFile(f)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return commit, foundReceipt{data, f}, err
	}
	return commit, foundReceipt{}, problem.New("no_receipt", problem.NotFound, "commit %.12s has no receipt: it was not promoted by terok, or its notes are not here", commit).
		WithHint("git fetch REMOTE %s:%s", receipt.NotesRef, receipt.NotesRef)
}

// ReceiptKeyFiles are the host's public key, and the file of allowed signers for ssh-keygen -Y verify.
func (a *App) ReceiptKeyFiles() (public, signers string, err error) {
	k := a.receiptKeys()
	_, err = k.Signer()
	return k.PublicFile(), k.SignersFile(), err
}
