package devidentity

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/uuid"
)

const (
	maxForm           = 64 * 1024
	maxLifetime       = 365 * 24 * time.Hour
	personalKeyPrefix = "user."
)

func (s *Server) discovery(w http.ResponseWriter, r *http.Request) {
	base := s.config.URL
	if base == "" {
		base = "http://" + r.Host
		if r.TLS != nil {
			base = "https://" + r.Host
		}
	}
	answer(w, http.StatusOK, map[string]any{
		"issuer":                                s.config.Issuer,
		"jwks_uri":                              base + "/.well-known/openid-configuration/jwks",
		"token_endpoint":                        base + "/connect/token",
		"scopes_supported":                      []string{"api", "offline_access"},
		"grant_types_supported":                 []string{"client_credentials"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_post"},
		"response_types_supported":              []string{"token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	})
}

func (s *Server) keySet(w http.ResponseWriter, _ *http.Request) {
	key := s.key.Load()
	jwk := jose.JSONWebKey{Key: &key.private.PublicKey, Use: "sig", Algorithm: "RS256"}
	if !s.config.Vaultwarden {
		jwk.KeyID = key.id
	}
	answer(w, http.StatusOK, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{jwk}})
}

// token mints a token for whoever the form names:
//
//	user        GUID of the user; or client_id=user.<guid>, as of a personal
//	            API key (the client_secret is not looked at)
//	client_id   the application
//	scope, amr  separated by spaces; empty values count
//	orgs        ids of the organisations the user is a member of, by comma
//	orgowner    ids of those the user owns
//	orgadmin    ids of those the user administers
//	accesssecretsmanager
//	            ids of those whose Secrets Manager the user may enter
//	groups, aud values of these claims, by comma
//	set         NAME=VALUE for any other claim; several of one name are an array
//	expires_in  seconds; negative for a token that has expired
func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		refuse(w, "invalid_request", "the form cannot be read")
		return
	}
	if grant := r.PostForm.Get("grant_type"); grant != "" && grant != "client_credentials" {
		refuse(w, "unsupported_grant_type", "leave grant_type out, or use client_credentials")
		return
	}
	claims := Claims{
		User:     r.PostForm.Get("user"),
		ClientID: r.PostForm.Get("client_id"),
		Methods:  words(r, "amr"),
		Scopes:   words(r, "scope"),
		Member:   ids(r, "orgs"),
		Owner:    ids(r, "orgowner"),
		Admin:    ids(r, "orgadmin"),
		Groups:   ids(r, "groups"),
		Audience: ids(r, "aud"),
		Lifetime: s.config.Lifetime,

		SecretsManager: ids(r, "accesssecretsmanager"),
	}
	set, err := pairs(r.PostForm["set"])
	if err != nil {
		refuse(w, "invalid_request", err.Error())
		return
	}
	claims.Set = set
	if user, ok := strings.CutPrefix(claims.ClientID, personalKeyPrefix); ok && claims.User == "" {
		claims.User = user
	}
	if uuid.Validate(claims.User) != nil {
		refuse(w, "invalid_client", "name a user: user=<guid>, or client_id=user.<guid>")
		return
	}
	if asked := r.PostForm.Get("expires_in"); asked != "" {
		seconds, err := strconv.Atoi(asked)
		if limit := int(maxLifetime / time.Second); err != nil || seconds == 0 || seconds > limit || seconds < -limit {
			refuse(w, "invalid_request", "expires_in is a number of seconds, at most a year and not 0")
			return
		}
		claims.Lifetime = time.Duration(seconds) * time.Second
	}
	token, err := s.Mint(claims)
	if err != nil {
		answer(w, http.StatusInternalServerError, map[string]any{"error": "server_error"})
		return
	}
	body := map[string]any{
		"access_token": token, "expires_in": int(claims.Lifetime / time.Second), "token_type": "Bearer",
	}
	if claims.Scopes != nil {
		body["scope"] = strings.Join(claims.Scopes, " ")
	}
	answer(w, http.StatusOK, body)
}

// words gives nil for a field that is not in the form, so that a field without
// a value asks for none.
func words(r *http.Request, field string) []string {
	if !r.PostForm.Has(field) {
		return nil
	}
	return append([]string{}, strings.Fields(r.PostForm.Get(field))...)
}

func ids(r *http.Request, field string) []string {
	return strings.FieldsFunc(r.PostForm.Get(field), func(c rune) bool { return c == ',' || c == ' ' })
}

// pairs reads NAME=VALUE.
func pairs(texts []string) (map[string]any, error) {
	values := map[string][]string{}
	for _, text := range texts {
		name, value, ok := strings.Cut(text, "=")
		if !ok || name == "" {
			return nil, errors.New("set is not of the form NAME=VALUE")
		}
		values[name] = append(values[name], value)
	}
	claims := map[string]any{}
	addLists(claims, values)
	return claims, nil
}

func refuse(w http.ResponseWriter, code, description string) {
	answer(w, http.StatusBadRequest, map[string]any{"error": code, "error_description": description})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	// An error here is a client that went away.
	_ = json.NewEncoder(w).Encode(body)
}
