package cloud

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	maxHeaders = 64 << 10
	maxCAFile  = 1 << 20
	// A connection that the other side, or the freezing of a function, may have
	// ended meanwhile is not used: a batch lost on one is ambiguous.
	idleTimeout = 20 * time.Second
)

// newTransport trusts the certificates of a file besides the system's, and
// honours the proxy settings of the environment.
func newTransport(caFile string, connect time.Duration) (http.RoundTripper, error) {
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if caFile != "" {
		pool, err := certificates(caFile)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = pool
	}
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: connect}).DialContext,
		TLSClientConfig:        tlsConfig,
		TLSHandshakeTimeout:    connect,
		ForceAttemptHTTP2:      true,
		MaxIdleConnsPerHost:    4,
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaders,
	}, nil
}

func certificates(path string) (*x509.CertPool, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w: certificates of the cloud: %w", fault.Invalid, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxCAFile))
	if err != nil {
		return nil, fmt.Errorf("%w: certificates of the cloud: %w", fault.Invalid, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("certificates of the system: %w", err)
	}
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%w: %s holds no certificate in PEM", fault.Invalid, path)
	}
	return pool, nil
}
