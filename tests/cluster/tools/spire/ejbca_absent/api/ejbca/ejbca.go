// Package ejbca compiles in the place of a client library that the module proxy
// does not serve. One optional plugin of spire-server is linked with it; the
// tests never configure that plugin, and every way into it ends in an error.
package ejbca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
)

var errAbsent = errors.New("this spire-server was built for tests, without EJBCA")

type Authenticator interface {
	GetHTTPClient() (*http.Client, error)
}

type AuthenticatorBuilder struct{}

func NewMTLSAuthenticatorBuilder() AuthenticatorBuilder { return AuthenticatorBuilder{} }

func (b AuthenticatorBuilder) WithClientCertificate(*tls.Certificate) AuthenticatorBuilder {
	return b
}

func (b AuthenticatorBuilder) WithCaCertificates([]*x509.Certificate) AuthenticatorBuilder {
	return b
}

func (AuthenticatorBuilder) Build() (Authenticator, error) { return nil, errAbsent }

type Configuration struct{ Host string }

func NewConfiguration() *Configuration { return new(Configuration) }

func (*Configuration) SetAuthenticator(Authenticator) {}

type Client struct{ V1CertificateApi Certificates }

func NewAPIClient(*Configuration) (*Client, error) { return nil, errAbsent }

type Certificates struct{}

func (Certificates) EnrollPkcs10Certificate(context.Context) ApiEnrollPkcs10CertificateRequest {
	return ApiEnrollPkcs10CertificateRequest{}
}

type ApiEnrollPkcs10CertificateRequest struct{}

func (r ApiEnrollPkcs10CertificateRequest) EnrollCertificateRestRequest(Enrollment) ApiEnrollPkcs10CertificateRequest {
	return r
}

func (ApiEnrollPkcs10CertificateRequest) Execute() (*Enrolled, *http.Response, error) {
	return nil, nil, errAbsent
}

type Enrollment struct{}

func NewEnrollCertificateRestRequest() *Enrollment { return new(Enrollment) }

func (*Enrollment) SetUsername(string)                 {}
func (*Enrollment) SetPassword(string)                 {}
func (*Enrollment) SetCertificateRequest(string)       {}
func (*Enrollment) SetCertificateAuthorityName(string) {}
func (*Enrollment) SetCertificateProfileName(string)   {}
func (*Enrollment) SetEndEntityProfileName(string)     {}
func (*Enrollment) SetIncludeChain(bool)               {}
func (*Enrollment) SetAccountBindingId(string)         {}

type Enrolled struct{ CertificateChain []string }

func (*Enrolled) GetResponseFormat() string { return "" }
func (*Enrolled) GetCertificate() string    { return "" }

type GenericOpenAPIError struct{}

func (GenericOpenAPIError) Error() string { return errAbsent.Error() }
func (GenericOpenAPIError) Body() []byte  { return nil }
