// Package bitwarden is a Bitwarden server for tests: as much of the identity
// server and of the API as the real bw client asks for when it logs in with
// Key Connector, with the state the cloud would keep. Written from observed
// requests and public documentation.
package bitwarden

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

// Server is a Bitwarden server on a free port of 127.0.0.1. It fails its test
// if a client asked for something it does not know.
type Server struct {
	URL       string // base: the identity server is under /identity, the API under /api
	Authority *Authority

	issuer string
	signer jose.Signer
	keys   jose.JSONWebKeySet // public

	mu              sync.Mutex
	users           map[string]*account // by id
	ssoUser         string
	codes           map[string]authorization
	refresh         map[string]signIn // by refresh token
	features        map[string]bool
	keyConnectorURL string
	orgKey          Key
	hidden          bool           // discovery and key set fail
	unknown         map[string]int // requests nobody answered, with their number
}

// User is a member of the organisation, as a test knows him.
type User struct {
	ID, Email string
	APISecret string // of the personal API key; its client id is "user." + ID
}

// ClientID is the personal API key's public half.
func (u User) ClientID() string { return "user." + u.ID }

// account is what the cloud keeps of a user. Without a wrapped key he has never
// logged in.
type account struct {
	User
	stamp         string
	wrappedKey    string // user key under the stretched master key
	wrappedRSA    string // PKCS#8 under the user key
	publicRSA     string // SubjectPublicKeyInfo, base64
	accountKeys   object // the same and more in the form that recent clients insist on
	registrations int
	orgKey        string // the organisation's key, encrypted to publicRSA; "" until confirmed
	ciphers       []object
	revision      time.Time
}

type object = map[string]any

// OrgIdentifier is what a user tells his client to find the organisation's
// single sign-on.
const OrgIdentifier = "acme"

const orgID = "6a2e0a53-5a14-4f3e-9d4e-b3a1017c1d11"

// Start serves until the test ends.
func Start(t testing.TB) *Server {
	t.Helper()
	signingKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	jwk := jose.JSONWebKey{Key: signingKey, KeyID: uuid.NewString(), Algorithm: "RS256", Use: "sig"}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jwk}, (&jose.SignerOptions{}).WithType("at+jwt"))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{
		URL:       "https://" + listener.Addr().String(),
		Authority: NewAuthority(t),
		issuer:    "https://127.0.0.1", // Bitwarden's issuer never names its port
		signer:    signer,
		keys:      jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk.Public()}},
		users:     map[string]*account{},
		codes:     map[string]authorization{},
		refresh:   map[string]signIn{},
		features:  map[string]bool{},
		orgKey:    NewKey(),
		unknown:   map[string]int{},
	}
	server := &http.Server{Handler: s.routes(), TLSConfig: s.Authority.TLS(t, "bitwarden"), ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(tls.NewListener(listener, server.TLSConfig))
	t.Cleanup(func() {
		server.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, request := range slices.Sorted(maps.Keys(s.unknown)) {
			t.Errorf("the Bitwarden server does not know %s (asked %d times)", request, s.unknown[request])
		}
	})
	return s
}

// UseKeyConnector tells the clients where the organisation's Key Connector is.
func (s *Server) UseKeyConnector(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.keyConnectorURL = url
}

// SetFeature switches one of the flags that clients read from /api/config.
func (s *Server) SetFeature(flag string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.features[flag] = true
}

// HideKeys makes discovery and the key set fail, as while the identity server
// starts, or answer again.
func (s *Server) HideKeys(hidden bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hidden = hidden
}

// AddUser invites a user who has neither a master password nor keys yet.
func (s *Server) AddUser(email string) User {
	a := &account{
		User:  User{ID: uuid.NewString(), Email: email, APISecret: rand.Text()},
		stamp: uuid.NewString(), revision: time.Now(),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users[a.ID] = a
	return a.User
}

// SignIn makes u the one whom the organisation's identity provider knows in
// the browser: the next single sign-on is his.
func (s *Server) SignIn(u User) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ssoUser = u.ID
}

// Provision gives u what a first login under that master key leaves behind,
// and confirms him as a member.
func (s *Server) Provision(u User, masterKey []byte) error {
	wrapping, err := Stretch(masterKey)
	if err != nil {
		return err
	}
	userKey := NewKey()
	private, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return err
	}
	publicDER, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return err
	}
	orgKey, err := encapsulate(&private.PublicKey, s.orgKey)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.users[u.ID]
	a.wrappedKey = wrapping.Encrypt(userKey[:])
	a.wrappedRSA = userKey.Encrypt(privateDER)
	a.publicRSA = base64.StdEncoding.EncodeToString(publicDER)
	a.accountKeys = privateKeys(a.wrappedRSA, a.publicRSA)
	a.orgKey = orgKey
	return nil
}

// Registrations tells how often a client of u reported the keys of a first
// login.
func (s *Server) Registrations(u User) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.users[u.ID].registrations
}

// AddLogin puts a login into the vault of u, encrypted as his own client would
// have done it: under his user key, which only his master key opens.
func (s *Server) AddLogin(u User, masterKey []byte, name, username, password string) error {
	wrapping, err := Stretch(masterKey)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.users[u.ID]
	plain, err := wrapping.Decrypt(a.wrappedKey)
	if err != nil {
		return fmt.Errorf("opening the user key: %w", err)
	}
	if len(plain) != len(Key{}) {
		return fmt.Errorf("a user key has %d bytes, this one %d", len(Key{}), len(plain))
	}
	userKey := Key(plain)
	a.add(object{
		"type": 1, "name": userKey.Encrypt([]byte(name)), "notes": nil,
		"login": object{
			"username": userKey.Encrypt([]byte(username)), "password": userKey.Encrypt([]byte(password)),
			"uri": nil, "uris": nil, "totp": nil, "passwordRevisionDate": nil,
		},
		"organizationId": nil, "folderId": nil, "favorite": false, "reprompt": 0,
		"fields": nil, "passwordHistory": nil, "key": nil,
	})
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /identity/.well-known/openid-configuration", s.published(s.discovery))
	mux.HandleFunc("GET /identity/.well-known/openid-configuration/jwks", s.published(s.jwks))
	mux.HandleFunc("POST /identity/connect/token", s.token)
	mux.HandleFunc("GET /sso", s.webVaultSSO)
	mux.HandleFunc("GET /identity/connect/authorize", s.authorize)
	mux.HandleFunc("GET /api/config", s.config)
	mux.HandleFunc("GET /api/sync", s.as(s.sync))
	mux.HandleFunc("GET /api/accounts/profile", s.as(s.profile))
	mux.HandleFunc("GET /api/accounts/revision-date", s.as(s.revisionDate))
	mux.HandleFunc("POST /api/accounts/set-key-connector-key", s.as(s.setKeyConnectorKey))
	mux.HandleFunc("POST /api/ciphers", s.as(s.createCipher))
	mux.HandleFunc("POST /api/accounts/key-management/user-key-id", s.as(s.setUserKeyID))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.unknown[r.Method+" "+r.URL.Path]++
		s.mu.Unlock()
		refuse(w, http.StatusNotFound, "not known to the Bitwarden server of the tests")
	})
	return mux
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	if err := json.NewEncoder(w).Encode(body); err != nil {
		panic(http.ErrAbortHandler) // the client is gone
	}
}

// refuse answers with Bitwarden's error object.
func refuse(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.WriteHeader(status)
	answer(w, object{"message": message, "validationErrors": nil, "object": "error"})
}
