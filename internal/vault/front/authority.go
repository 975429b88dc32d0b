package front

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// authorityLife is how long a container can run on one authority. The key dies with the
// supervisor and only this container trusts it, so a short life would protect nobody and break
// tasks that run for weeks.
const authorityLife = 397 * 24 * time.Hour

// backdate allows for clocks that differ between host and container.
const backdate = time.Hour

// Authority is the certificate authority of one container start. Its certificate says, in
// critical name constraints that the clients' TLS libraries enforce, that it speaks for the
// routed hosts and nothing else: a stolen key cannot stand in for any other site. A constraint
// also admits names below a host, so the front checks the exact name itself.
//
// The key exists in memory only. MarshalBinary hands it from the supervisor's parent to each
// worker, through a pipe.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority for hosts: lower-case A-label names, no wildcards, no addresses.
func NewAuthority(hosts []string, now time.Time) (*Authority, error) {
	hosts = slices.Compact(slices.Sorted(slices.Values(hosts)))
	if len(hosts) == 0 {
		return nil, errors.New("an authority needs at least one host")
	}
	for _, h := range hosts {
		if !validHost(h) {
			return nil, fmt.Errorf("%q is not a plain host name", h)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	everywhere4 := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	everywhere6 := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	tmpl := &x509.Certificate{
		SerialNumber:                serial,
		Subject:                     pkix.Name{Organization: []string{"terok"}, CommonName: fmt.Sprintf("terok vault %x", serial.Bytes()[:4])},
		NotBefore:                   now.Add(-backdate),
		NotAfter:                    now.Add(authorityLife),
		IsCA:                        true,
		BasicConstraintsValid:       true,
		MaxPathLenZero:              true,
		KeyUsage:                    x509.KeyUsageCertSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true,
		PermittedDNSDomains:         hosts,
		ExcludedIPRanges:            []*net.IPNet{everywhere4, everywhere6},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{cert, key}, nil
}

// validHost reports whether h is a plain lower-case name in A-label form.
func validHost(h string) bool {
	if h == "" || len(h) > 253 || strings.HasPrefix(h, ".") || strings.HasSuffix(h, ".") {
		return false
	}
	if _, err := netip.ParseAddr(h); err == nil {
		return false
	}
	for _, label := range strings.Split(h, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for _, c := range []byte(label) {
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

func newSerial() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40 // positive, always 16 bytes (RFC 5280 §4.1.2.2)
	return new(big.Int).SetBytes(b[:]), nil
}

// CertPEM is the certificate that the container has to trust; there is no secret in it.
func (a *Authority) CertPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// Hosts are the names the authority speaks for.
func (a *Authority) Hosts() []string { return slices.Clone(a.cert.PermittedDNSDomains) }

// MarshalBinary encodes certificate and key (PEM). The result is secret.
func (a *Authority) MarshalBinary() ([]byte, error) {
	der, err := x509.MarshalECPrivateKey(a.key)
	if err != nil {
		return nil, err
	}
	return append(a.CertPEM(), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})...), nil
}

// UnmarshalAuthority decodes what MarshalBinary made, and refuses anything that is not a
// name-constrained authority with its own key.
func UnmarshalAuthority(data []byte) (*Authority, error) {
	pair, err := tls.X509KeyPair(data, data)
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	cert, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("authority: %w", err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !cert.IsCA || !cert.PermittedDNSDomainsCritical || len(cert.PermittedDNSDomains) == 0 {
		return nil, errors.New("authority: not a name-constrained authority of terok")
	}
	return &Authority{cert, key}, nil
}

// leaf makes a server certificate for exactly host.
func (a *Authority) leaf(host string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"terok"}},
		DNSNames:     []string{host},
		NotBefore:    now.Add(-backdate),
		NotAfter:     a.cert.NotAfter,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: parsed}, nil
}
