package tokenexchange

import (
	"fmt"
	"log/slog"
	"net/http"

	"github.com/go-jose/go-jose/v4"

	"github.com/latchkey-fn/latchkey/shared/httpx"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// No client of Secrets Manager reads these documents; whoever else wants to check
// sessions does.
const (
	discoveryPath = "/.well-known/openid-configuration"
	keySetPath    = discoveryPath + "/jwks"
)

// discoveryDocument is that of OpenID Connect Discovery 1.0, as far as there is
// something to say. As in the original the issuer has neither port nor path.
type discoveryDocument struct {
	Issuer                 string   `json:"issuer"`
	KeySet                 string   `json:"jwks_uri"`
	TokenEndpoint          string   `json:"token_endpoint"`
	Scopes                 []string `json:"scopes_supported"`
	GrantTypes             []string `json:"grant_types_supported"`
	ResponseTypes          []string `json:"response_types_supported"`
	SubjectTypes           []string `json:"subject_types_supported"`
	ClientAuthentication   []string `json:"token_endpoint_auth_methods_supported"`
	SigningAlgorithmValues []string `json:"id_token_signing_alg_values_supported"`
}

func (h *handler) discovery(w http.ResponseWriter, _ *http.Request) {
	base := h.sessions.IdentityURL()
	public(w)
	httpx.WriteJSON(w, http.StatusOK, discoveryDocument{
		Issuer: h.sessions.Issuer(), KeySet: base + keySetPath, TokenEndpoint: base + tokenPath,
		Scopes: []string{smapi.SessionScope}, GrantTypes: []string{"client_credentials"},
		ResponseTypes: []string{"token"}, SubjectTypes: []string{"public"},
		ClientAuthentication:   []string{"client_secret_basic", "client_secret_post"},
		SigningAlgorithmValues: []string{signing.RS256, signing.ES256},
	})
}

func (h *handler) keySet(w http.ResponseWriter, r *http.Request) {
	keys, err := h.signing.Published(r.Context())
	if err != nil {
		httpx.Note(r.Context(), slog.String("error", err.Error()))
		writeError(w, err)
		return
	}
	set := jose.JSONWebKeySet{Keys: make([]jose.JSONWebKey, len(keys))}
	for i, key := range keys {
		set.Keys[i] = jose.JSONWebKey{KeyID: key.ID, Algorithm: key.Algorithm, Use: "sig", Key: key.Key}
	}
	public(w)
	httpx.WriteJSON(w, http.StatusOK, set)
}

// public lets anybody keep the answer for a while, and every page read it.
func public(w http.ResponseWriter) {
	w.Header().Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(signing.CacheAge.Seconds())))
	w.Header().Set("Access-Control-Allow-Origin", "*")
}
