package holder

import (
	"terok/internal/sandbox"
	"terok/internal/vault/keyholder"
)

// upstream answers the operator's gate: the token by which a project's tasks would use that forge.
func (h *Holder) upstream(req *keyholder.Request) keyholder.Response {
	cred, ok, err := h.granted(req.Name, &sandbox.Grant{Provider: req.Provider, Scope: req.Scope})
	switch {
	case err != nil:
		return refusalOf(err)
	case !ok:
		return keyholder.Response{Code: keyholder.CodeNoCredential, Message: keyholder.ErrNoCredential.Error()}
	}
	clear(cred.Refresh)
	clear(cred.IDToken)
	return keyholder.Response{Kind: cred.Kind, Secret: cred.Secret}
}
