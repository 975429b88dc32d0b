package front

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"

	"terok/internal/vault/keyholder"
)

// answer writes a refusal in the shape that the provider's own clients understand.
func (f *Front) answer(w http.ResponseWriter, r *http.Request, x *exchange, ref *refusal) {
	x.status, x.reason = ref.status, ref.code
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Terok-Broker", ref.code)
	switch {
	case ref.retry > 0:
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(ref.retry.Seconds()))))
	case ref.status == http.StatusServiceUnavailable:
		h.Set("Retry-After", "15")
	case ref.code == "limit_exceeded" || ref.status == http.StatusUnauthorized:
		h.Set("X-Should-Retry", "false") // the vendors' SDKs heed it
	}
	body := errorBody(x.route.shapeOf(r), ref)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(ref.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

func credentialRefusal(rt *route, err error) *refusal {
	switch {
	case errors.Is(err, keyholder.ErrLocked):
		return refuse(http.StatusServiceUnavailable, "vault_locked", "the vault is locked; a person must run on the host: terok vault unlock")
	case errors.Is(err, keyholder.ErrNoCredential), errors.Is(err, keyholder.ErrNotGranted):
		return refuse(http.StatusForbidden, "credential_missing", "no credential is stored for "+rt.Provider+"; a person must run on the host: "+
			rt.signIn()+" (an agent finds it when it starts next)")
	case errors.Is(err, keyholder.ErrReauth):
		return refuse(http.StatusForbidden, "reauth_required", "the sign-in at "+rt.Provider+" has ended; a person must run on the host: "+rt.signIn())
	case errors.Is(err, keyholder.ErrRefresh):
		return refuse(http.StatusServiceUnavailable, "refresh_unavailable", "the token has ended and "+rt.Provider+" gives no new one now; a person can look on the host: terok auth --list")
	}
	return refuse(http.StatusServiceUnavailable, "vault_unavailable", "the vault does not answer; a person can look on the host: terok vault status")
}

// signIn is the command that stores the credential of a grant: a project that keeps to itself never
// uses the shared one.
func (g *grant) signIn() string {
	command := "terok auth " + g.Provider
	if project, ok := strings.CutPrefix(g.Scope, "project:"); ok {
		command += " --project " + project
	}
	return command
}

// upstreamRefusal says what went wrong between the host and the provider, without addresses.
func upstreamRefusal(err error) *refusal {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &invalid), errors.As(err, &verify):
		return refuse(http.StatusBadGateway, "upstream_tls", "the provider's certificate is not trusted")
	case errors.Is(err, context.DeadlineExceeded):
		return refuse(http.StatusGatewayTimeout, "upstream_timeout", "the provider did not answer in time")
	}
	return refuse(http.StatusBadGateway, "upstream_unreachable", "the provider cannot be reached from the host")
}
