package holder

import (
	"encoding/json"
	"time"

	"terok/internal/vault/keyholder"
)

// phantoms remembers whose phantoms these are. The caller holds mu.
func (h *Holder) phantoms(c *conn, digests []string) keyholder.Response {
	if len(digests) > keyholder.MaxPhantoms {
		return keyholder.Response{Code: keyholder.CodeBadRequest, Message: "too many phantoms"}
	}
	c.bound.phantoms = map[string]bool{}
	for _, d := range digests {
		c.bound.phantoms[d] = true
	}
	return keyholder.Response{}
}

// leaked tells the owner of a phantom that another container used it. The caller holds mu.
func (h *Holder) leaked(c *conn, digests []string) keyholder.Response {
	if len(digests) != 1 {
		return keyholder.Response{Code: keyholder.CodeBadRequest, Message: "one phantom at a time"}
	}
	for other := range h.conns {
		if other == c || other.bound == nil || !other.bound.phantoms[digests[0]] {
			continue
		}
		// Each is told of the other, so that both ledgers name both.
		msg, err := json.Marshal(keyholder.Response{Leaked: digests[0], Task: c.bound.task()})
		if err != nil {
			return keyholder.Response{Code: keyholder.CodeFailed, Message: err.Error()}
		}
		other.tell(msg)
		return keyholder.Response{Task: other.bound.task()}
	}
	return keyholder.Response{}
}

// task names the container that a connection is bound to: project/task, or the sandbox.
func (b *binding) task() string {
	if b.file.Project != "" {
		return b.file.Project + "/" + b.file.Task
	}
	return b.file.Key
}

// tell sends a message of the keyholder's own.
func (c *conn) tell(msg []byte) {
	c.write.Lock()
	defer c.write.Unlock()
	_ = c.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
	if _, err := c.Write(msg); err != nil {
		c.Close()
	}
}
