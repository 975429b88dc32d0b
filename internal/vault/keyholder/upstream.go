package keyholder

import "context"

// OpUpstream hands the operator a project's token for a forge: the gate on the host fetches from
// and pushes to an https upstream with it. Containers and supervisors never get this answer.
const OpUpstream = "upstream"

// UpstreamToken returns the token that project's gate may use at provider, a forge. The caller
// clears it. scope is the project's credential scope, "shared" or "project:NAME". It fails with
// ErrNoCredential when there is none and ErrLocked while the vault is locked.
func (c *Client) UpstreamToken(ctx context.Context, project, scope, provider string) ([]byte, error) {
	resp, err := c.call(ctx, Request{Op: OpUpstream, Name: project, Scope: scope, Provider: provider})
	return resp.Secret, err
}
