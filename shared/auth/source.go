package auth

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

const (
	maxDocument  = 1 << 20 // bytes of a discovery document, a key set or a file of keys
	maxKeys      = 16      // usable keys of a set; a token that names none is held against each
	maxRedirects = 3
	minRSABits   = 2048
	maxRSABits   = 8192

	discoveryPath = "/.well-known/openid-configuration"
	// ownJWKSPath is where Bitwarden's identity server keeps its keys.
	ownJWKSPath = discoveryPath + "/jwks"
	// ownTimeout leaves time to follow the jwks_uri to another host.
	ownTimeout = 2 * time.Second
)

// source is where key sets come from. Its errors have no class: keyCache makes
// all of them Transient, because a server that is being started or replaced, and
// a file that is being written, can give anything.
type source interface {
	load(ctx context.Context) (*keySet, error)
}

var (
	_ source = (*discovery)(nil)
	_ source = keysFile{}
	_ source = ownKeys{}
)

// discovery reads the keys by way of OpenID Connect Discovery 1.0. The issuer
// need not be the URL, unlike there: Bitwarden strips the port from it.
//
// An identity server behind a proxy publishes a jwks_uri with its public name,
// and Bitwarden's leaves out the port, so that something else may answer there.
// Where the jwks_uri is not of the configured host, the keys are therefore asked
// for under the configured URL first, at Bitwarden's own path, and at the
// jwks_uri only where that gives none; it is trusted as far as the document is.
// Neither a jwks_uri nor a redirect may go from https to http.
type discovery struct {
	base   *url.URL
	issuer string
	client *http.Client
}

func newDiscovery(base *url.URL, issuer string, client *http.Client) *discovery {
	d := &discovery{base: base, issuer: issuer}
	bounded := *client
	bounded.CheckRedirect = func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return d.checkTarget(r.URL)
	}
	d.client = &bounded
	return d
}

// newClient makes a client that trusts the certificates of a file besides the
// system's.
func newClient(caFile string) (*http.Client, error) {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           2,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 64 * 1024,
	}
	if caFile == "" {
		return &http.Client{Transport: transport}, nil
	}
	content, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("%w: certificates of the identity server: %w", fault.Invalid, err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("certificates of the system: %w", err)
	}
	if !pool.AppendCertsFromPEM(content) {
		return nil, fmt.Errorf("%w: %s holds no certificate in PEM", fault.Invalid, caFile)
	}
	transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	return &http.Client{Transport: transport}, nil
}

func (d *discovery) checkTarget(u *url.URL) error {
	if u.Host == "" || u.User != nil || u.Scheme != "https" && (u.Scheme != "http" || d.base.Scheme == "https") {
		return fmt.Errorf("the identity server points to an address of the scheme %.20q, which is not followed from %s", u.Scheme, d.base)
	}
	return nil
}

func (d *discovery) load(ctx context.Context) (*keySet, error) {
	var document struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := d.get(ctx, d.base.JoinPath(discoveryPath), &document); err != nil {
		return nil, fmt.Errorf("discovery document: %w", err)
	}
	issuer := d.issuer
	if issuer == "" {
		issuer = document.Issuer
	}
	if issuer == "" {
		return nil, fmt.Errorf("the discovery document of %s names no issuer", d.base)
	}
	published, err := url.Parse(document.JWKSURI)
	if err == nil {
		err = d.checkTarget(published)
	}
	if err != nil {
		return nil, fmt.Errorf("jwks_uri in the discovery document of %s: %w", d.base, err)
	}
	keys, err := d.keys(ctx, published)
	if err != nil {
		return nil, err
	}
	return &keySet{issuer: issuer, keys: keys}, nil
}

func (d *discovery) keys(ctx context.Context, published *url.URL) ([]key, error) {
	if published.Host == d.base.Host {
		return d.keysAt(ctx, published)
	}
	own, cancel := context.WithTimeout(ctx, ownTimeout)
	defer cancel()
	keys, ownErr := d.keysAt(own, d.base.JoinPath(ownJWKSPath))
	if ownErr == nil {
		return keys, nil
	}
	keys, err := d.keysAt(ctx, published)
	if err != nil {
		return nil, errors.Join(ownErr, err)
	}
	return keys, nil
}

func (d *discovery) keysAt(ctx context.Context, at *url.URL) ([]key, error) {
	var document struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := d.get(ctx, at, &document); err != nil {
		return nil, fmt.Errorf("key set: %w", err)
	}
	var keys []key
	for _, raw := range document.Keys {
		var jwk jose.JSONWebKey
		if err := jwk.UnmarshalJSON(raw); err != nil || jwk.Use != "" && jwk.Use != "sig" {
			// A set may hold keys for other purposes, and of types that are
			// newer than this program (RFC 7517, section 5).
			continue
		}
		if usable(jwk.Key) {
			keys = append(keys, key{id: jwk.KeyID, algorithm: jwk.Algorithm, public: jwk.Key})
		}
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("the key set at %s has %d keys that can be used here, not 1 to %d (RSA of %d to %d bits, P-256, P-384)",
			at, len(keys), maxKeys, minRSABits, maxRSABits)
	}
	return keys, nil
}

// get reads a JSON document.
func (d *discovery) get(ctx context.Context, at *url.URL, into any) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("Accept", "application/json")
	response, err := d.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %d; is the URL of the identity server right?", at, response.StatusCode)
	}
	body, err := readBounded(response.Body)
	if err != nil {
		return fmt.Errorf("the answer of %s: %w", at, err)
	}
	if err := json.Unmarshal(body, into); err != nil {
		kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
		return fmt.Errorf("%s answered with something else than the document asked for (content type %.50q); is the URL of the identity server right?",
			at, kind)
	}
	return nil
}

func readBounded(r io.Reader) ([]byte, error) {
	content, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err == nil && len(content) > maxDocument {
		err = fmt.Errorf("it is longer than %d bytes", maxDocument)
	}
	return content, err
}

// keysFile reads the keys of an identity server that has no discovery.
type keysFile struct{ path, issuer string }

func (f keysFile) load(context.Context) (*keySet, error) {
	keys, err := f.read()
	if err != nil {
		return nil, err
	}
	return &keySet{issuer: f.issuer, keys: keys}, nil
}

func (f keysFile) read() ([]key, error) {
	file, err := os.Open(f.path)
	if err != nil {
		return nil, fmt.Errorf("file of keys: %w", err)
	}
	defer file.Close()
	content, err := readBounded(file)
	if err != nil {
		return nil, fmt.Errorf("file of keys %s: %w", f.path, err)
	}
	keys, err := publicKeys(content)
	if err != nil {
		return nil, fmt.Errorf("file of keys %s: %w", f.path, err)
	}
	return keys, nil
}

// PublicKey is a key that tokens of our own are verified with.
type PublicKey struct {
	// ID is the header's kid.
	ID string
	// Algorithm is the only one that the key may be used with.
	Algorithm string
	Key       crypto.PublicKey
}

// ownKeys reads the keys that we sign with ourselves.
type ownKeys struct {
	published func(context.Context) ([]PublicKey, error)
	issuer    string
}

func (o ownKeys) load(ctx context.Context) (*keySet, error) {
	published, err := o.published(ctx)
	if err != nil {
		return nil, fmt.Errorf("own keys: %w", err)
	}
	if len(published) > maxKeys {
		return nil, fmt.Errorf("there are %d own keys, more than %d", len(published), maxKeys)
	}
	set := &keySet{issuer: o.issuer}
	for _, k := range published {
		if k.ID == "" || k.Algorithm == "" || !usable(k.Key) {
			return nil, fmt.Errorf("own key %q has no name, no algorithm, or is not of a type that can be used here", k.ID)
		}
		set.keys = append(set.keys, key{id: k.ID, algorithm: k.Algorithm, public: k.Key})
	}
	return set, nil
}

func publicKeys(rest []byte) ([]key, error) {
	var keys []key
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		public, err := publicKey(block)
		if err != nil {
			return nil, fmt.Errorf("PEM block %d: %w", len(keys)+1, err)
		}
		keys = append(keys, key{public: public})
	}
	if len(keys) == 0 || len(keys) > maxKeys {
		return nil, fmt.Errorf("it has %d PEM blocks, not 1 to %d", len(keys), maxKeys)
	}
	if bytes.Contains(rest, []byte("-----BEGIN")) {
		return nil, errors.New("its last PEM block is damaged")
	}
	return keys, nil
}

func publicKey(block *pem.Block) (crypto.PublicKey, error) {
	var public crypto.PublicKey
	var err error
	switch block.Type {
	case "PUBLIC KEY":
		public, err = x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		public, err = x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		var certificate *x509.Certificate
		if certificate, err = x509.ParseCertificate(block.Bytes); err == nil {
			public = certificate.PublicKey
		}
	default:
		return nil, errors.New("it is neither a public key nor a certificate; a private key must not be here (openssl pkey -pubout gives the public one)")
	}
	if err != nil {
		return nil, err
	}
	if !usable(public) {
		return nil, fmt.Errorf("the key is not RSA of %d to %d bits, P-256 or P-384", minRSABits, maxRSABits)
	}
	return public, nil
}

func usable(public crypto.PublicKey) bool {
	switch public := public.(type) {
	case *rsa.PublicKey:
		return public.N.BitLen() >= minRSABits && public.N.BitLen() <= maxRSABits
	case *ecdsa.PublicKey:
		return public.Curve == elliptic.P256() || public.Curve == elliptic.P384()
	}
	return false
}
