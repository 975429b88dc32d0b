package problem

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
)

func TestOf(t *testing.T) {
	if Of(nil) != nil {
		t.Error("nil has a problem")
	}
	p := New("task_not_found", NotFound, "no task %q: %w", "k3", fs.ErrNotExist).WithHint("terok task list %s", "p").With("task", "k3")
	if p.Error() != `no task "k3": file does not exist` || p.Hint != "terok task list p" || p.Details["task"] != "k3" {
		t.Errorf("%+v", p)
	}
	if !errors.Is(p, fs.ErrNotExist) || !Is(p, "task_not_found") || Is(p, "other") || Is(nil, "x") || Is(fs.ErrExist, "x") {
		t.Error("the chain is lost")
	}
	if Of(p) != p {
		t.Error("a bare problem is copied")
	}
	wrapped := fmt.Errorf("start: %w", p)
	q := Of(wrapped)
	if q == p || q.Message != `start: no task "k3": file does not exist` || q.Exit != NotFound || q.Hint != p.Hint || !errors.Is(q, fs.ErrNotExist) {
		t.Errorf("%+v", q)
	}
	if p.Message != `no task "k3": file does not exist` {
		t.Error("wrapping changed the original")
	}
	if u := Of(fs.ErrExist); u.Code != "failed" || u.Exit != Failed || !errors.Is(u, fs.ErrExist) {
		t.Errorf("%+v", u)
	}
	joined := Of(errors.Join(errors.New("a"), p))
	if joined.Code != "task_not_found" || joined.Message != "a\n"+p.Message {
		t.Errorf("%+v", joined)
	}
}
