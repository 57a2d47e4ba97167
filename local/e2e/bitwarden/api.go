package bitwarden

import (
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"time"

	"github.com/google/uuid"
)

func (s *Server) config(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer(w, object{
		"object": "config", "version": "2026.9.0", "gitHash": "", "server": nil,
		"environment": object{
			"vault": s.URL, "api": s.URL + "/api", "identity": s.URL + "/identity",
			"notifications": s.URL + "/notifications", "sso": s.URL + "/sso",
		},
		"featureStates": s.features,
		"settings":      object{"disableUserRegistration": false},
	})
}

func (s *Server) sync(w http.ResponseWriter, _ *http.Request, a *account) {
	ciphers := a.ciphers
	if ciphers == nil {
		ciphers = []object{}
	}
	none := []object{}
	answer(w, object{
		"object": "sync", "profile": s.profileOf(a), "ciphers": ciphers,
		"folders": none, "collections": none, "policies": none, "sends": none, "domains": nil,
		"userDecryption": object{"masterPasswordUnlock": nil},
	})
}

func (s *Server) profile(w http.ResponseWriter, _ *http.Request, a *account) {
	answer(w, s.profileOf(a))
}

// revisionDate is what a client compares before it syncs: milliseconds since 1970.
func (s *Server) revisionDate(w http.ResponseWriter, _ *http.Request, a *account) {
	answer(w, a.revision.UnixMilli())
}

// setKeyConnectorKey is the end of a first login: the client stored a master
// key in Key Connector and reports the user key wrapped by it. The TypeScript
// form brings the RSA pair in keys, the SDK's brings more in accountKeys.
func (s *Server) setKeyConnectorKey(w http.ResponseWriter, r *http.Request, a *account) {
	var body struct {
		OrgIdentifier string `json:"orgIdentifier"`

		Key  string `json:"key"`
		Keys struct {
			PublicKey           string `json:"publicKey"`
			EncryptedPrivateKey string `json:"encryptedPrivateKey"`
		} `json:"keys"`

		WrappedUserKey string `json:"keyConnectorKeyWrappedUserKey"`
		AccountKeys    *struct {
			AccountPublicKey           string `json:"accountPublicKey"`
			UserKeyEncryptedPrivateKey string `json:"userKeyEncryptedAccountPrivateKey"`
			PublicKeyEncryptionKeyPair object `json:"publicKeyEncryptionKeyPair"`
			SignatureKeyPair           object `json:"signatureKeyPair"`
			SecurityState              object `json:"securityState"`
		} `json:"accountKeys"`
	}
	if !decode(w, r, &body) {
		return
	}
	account := *a
	switch sdk := body.AccountKeys; {
	case a.wrappedKey != "":
		refuse(w, http.StatusBadRequest, "the user has a key already")
		return
	case body.OrgIdentifier != OrgIdentifier:
		refuse(w, http.StatusBadRequest, "no such organisation")
		return
	case sdk != nil:
		account.wrappedKey, account.wrappedRSA, account.publicRSA = body.WrappedUserKey, sdk.UserKeyEncryptedPrivateKey, sdk.AccountPublicKey
		account.accountKeys = object{
			"object": "privateKeys", "publicKeyEncryptionKeyPair": sdk.PublicKeyEncryptionKeyPair,
			"signatureKeyPair": sdk.SignatureKeyPair, "securityState": sdk.SecurityState,
		}
	default:
		account.wrappedKey, account.wrappedRSA, account.publicRSA = body.Key, body.Keys.EncryptedPrivateKey, body.Keys.PublicKey
		account.accountKeys = privateKeys(account.wrappedRSA, account.publicRSA)
	}
	if account.wrappedKey == "" || account.wrappedRSA == "" || account.publicRSA == "" {
		refuse(w, http.StatusBadRequest, "a wrapped user key and a key pair are needed")
		return
	}
	account.registrations++
	account.revision = time.Now()
	*a = account
	w.WriteHeader(http.StatusOK)
}

// createCipher takes a vault item, which the client has encrypted.
func (s *Server) createCipher(w http.ResponseWriter, r *http.Request, a *account) {
	item := object{}
	if !decode(w, r, &item) {
		return
	}
	answer(w, a.add(item))
}

// setUserKeyID takes the name that the SDK gives a user key (16 bytes, hex). It
// comes after a login whose answer did not bring one.
func (s *Server) setUserKeyID(w http.ResponseWriter, r *http.Request, a *account) {
	var body struct {
		UserKeyID string `json:"userKeyId"`
	}
	if !decode(w, r, &body) {
		return
	}
	if id, err := hex.DecodeString(body.UserKeyID); err != nil || len(id) != 16 || a.wrappedKey == "" {
		refuse(w, http.StatusBadRequest, "no user key, or not the id of one")
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (s *Server) profileOf(a *account) object {
	organizations := []object{}
	if a.orgKey != "" {
		organizations = append(organizations, s.organizationOf(a))
	}
	return object{
		"object": "profile", "id": a.ID, "name": a.Email, "email": a.Email, "emailVerified": true,
		"premium": false, "premiumFromOrganization": false, "culture": "en-US", "twoFactorEnabled": false,
		"key": orNil(a.wrappedKey), "privateKey": orNil(a.wrappedRSA), "accountKeys": a.accountKeys,
		"securityStamp": a.stamp, "forcePasswordReset": false, "usesKeyConnector": a.wrappedKey != "",
		"avatarColor": nil, "creationDate": a.revision, "verifyDevices": false,
		"organizations": organizations, "providers": []object{}, "providerOrganizations": []object{},
	}
}

// organizationOf is the organisation as an ordinary, confirmed member sees it.
func (s *Server) organizationOf(a *account) object {
	return object{
		"object": "profileOrganization", "id": orgID, "name": "Acme", "identifier": OrgIdentifier, "userId": a.ID,
		"key": a.orgKey, "status": 2, "type": 2, "enabled": true, "ssoBound": true, "useSso": true, "usePolicies": true,
		"useKeyConnector": true, "keyConnectorEnabled": true, "keyConnectorUrl": s.keyConnectorURL,
		"productTierType": 3, "planProductType": 3, "permissions": object{}, "seats": 10, "hasPublicAndPrivateKeys": true,
	}
}

// privateKeys is the account keys of a user who has an RSA pair and nothing else.
func privateKeys(wrappedRSA, publicRSA string) object {
	return object{
		"object": "privateKeys", "signatureKeyPair": nil, "securityState": nil,
		"publicKeyEncryptionKeyPair": object{
			"object": "publicKeyEncryptionKeyPair", "wrappedPrivateKey": wrappedRSA,
			"publicKey": publicRSA, "signedPublicKey": nil,
		},
	}
}

// add keeps a vault item, completed by what is the server's to say, and gives
// it as clients see it.
func (a *account) add(item object) object {
	a.revision = time.Now().UTC()
	maps.Copy(item, object{
		"object": "cipherDetails", "id": uuid.NewString(),
		"creationDate": a.revision, "revisionDate": a.revision, "deletedDate": nil, "archivedDate": nil,
		"edit": true, "viewPassword": true, "permissions": object{"delete": true, "restore": true},
		"organizationUseTotp": false, "collectionIds": []string{}, "attachments": nil,
	})
	a.ciphers = append(a.ciphers, item)
	return item
}

// decode reads the JSON of a request, or refuses it.
func decode(w http.ResponseWriter, r *http.Request, into any) bool {
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(into); err != nil {
		refuse(w, http.StatusBadRequest, err.Error())
		return false
	}
	return true
}
