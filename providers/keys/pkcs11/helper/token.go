//go:build cgo && !windows

package main

/*
#include <stdlib.h>
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
	"github.com/miekg/pkcs11"
)

// token is an open library, logged in, with the one key that is used.
type token struct {
	library *pkcs11.Ctx
	slot    uint
	flags   uint
	// anchor is a session that does nothing but keep the login: a token
	// forgets it with the last session.
	anchor pkcs11.SessionHandle
	key    pkcs11.ObjectHandle
	found  protocol.Opened

	// idle holds sessions without an operation under way; room bounds all.
	idle chan pkcs11.SessionHandle
	room chan struct{}

	// reauthenticate: each use of the key needs the PIN again (PKCS#11
	// CKA_ALWAYS_AUTHENTICATE). refused keeps a wrong one from being repeated.
	reauthenticate bool
	pin            string
	mu             sync.Mutex
	refused        error
}

func open(request protocol.Open) (_ *token, err error) {
	library := pkcs11.New(request.Library)
	if library == nil {
		return nil, &protocol.Error{Kind: protocol.BadRequest,
			Text: fmt.Sprintf("%s cannot be loaded: not a PKCS#11 library for this machine, or a library that it needs is missing (see ldd)", request.Library)}
	}
	var options []pkcs11.InitializeOption
	if request.InitArgs != "" {
		// Never freed: libraries may keep the pointer.
		options = append(options, pkcs11.InitializeWithReserved(unsafe.Pointer(C.CString(request.InitArgs))))
	}
	if err := library.Initialize(options...); err != nil && !is(err, pkcs11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return nil, failure("C_Initialize", err)
	}
	// From here on a failure ends the helper: its provider starts another.
	t := &token{
		library: library,
		idle:    make(chan pkcs11.SessionHandle, request.Sessions),
		room:    make(chan struct{}, request.Sessions),
		pin:     request.PIN,
		flags:   pkcs11.CKF_SERIAL_SESSION,
	}
	if request.ReadWrite || request.UserType == protocol.SecurityOfficer {
		t.flags |= pkcs11.CKF_RW_SESSION // the only kind in which the SO can log in
	}
	info, err := t.find(request)
	if err != nil {
		return nil, err
	}
	if t.anchor, err = library.OpenSession(t.slot, t.flags); err != nil {
		return nil, failure("C_OpenSession", err)
	}
	if err := t.login(request, info); err != nil {
		return nil, err
	}
	t.found = protocol.Opened{TokenSerial: trim(info.SerialNumber), TokenLabel: trim(info.Label)}
	if err := t.findKey(request); err != nil {
		return nil, err
	}
	if t.reauthenticate, err = t.asksEachTime(request.UserType); err != nil {
		return nil, err
	}
	if err := t.readPublic(); err != nil {
		return nil, err
	}
	if len(t.found.Modulus) == 0 && !request.PublicKnown {
		return nil, &protocol.Error{Kind: protocol.BadKey,
			Text: "the token shows no public key (neither beside the private key nor in it); give its certificate in the configuration"}
	}
	return t, nil
}

func (t *token) find(request protocol.Open) (pkcs11.TokenInfo, error) {
	slots, err := t.library.GetSlotList(true)
	if err != nil {
		return pkcs11.TokenInfo{}, failure("C_GetSlotList", err)
	}
	var seen []string
	var matches []uint
	var match pkcs11.TokenInfo
	var skipped error
	for _, slot := range slots {
		info, err := t.library.GetTokenInfo(slot)
		if err != nil {
			skipped = err // one broken reader does not hide the others
			continue
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		seen = append(seen, fmt.Sprintf("%q (serial %q)", trim(info.Label), trim(info.SerialNumber)))
		if (request.TokenSerial == "" || trim(info.SerialNumber) == trim(request.TokenSerial)) &&
			(request.TokenLabel == "" || trim(info.Label) == trim(request.TokenLabel)) {
			matches, match = append(matches, slot), info
		}
	}
	switch {
	case len(matches) == 1:
		t.slot = matches[0]
		return match, nil
	case len(seen) == 0 && skipped != nil:
		return pkcs11.TokenInfo{}, failure("C_GetTokenInfo", skipped)
	case len(seen) == 0:
		return pkcs11.TokenInfo{}, &protocol.Error{Kind: protocol.NoToken, Text: "the library sees no token; is the device there and its service running?"}
	case len(matches) == 0:
		return pkcs11.TokenInfo{}, &protocol.Error{Kind: protocol.OtherTokens,
			Text: fmt.Sprintf("no token with %s; there are: %s", wanted(request), strings.Join(seen, ", "))}
	default:
		return pkcs11.TokenInfo{}, &protocol.Error{Kind: protocol.BadRequest,
			Text: fmt.Sprintf("%d tokens match; name one by its serial: %s", len(matches), strings.Join(seen, ", "))}
	}
}

func wanted(request protocol.Open) string {
	if request.TokenSerial != "" {
		return fmt.Sprintf("the serial %q", request.TokenSerial)
	}
	return fmt.Sprintf("the label %q", request.TokenLabel)
}

// trim undoes the padding of fixed-length fields: blanks by the standard,
// zeros in some libraries.
func trim(s string) string { return strings.Trim(s, " \x00") }

func (t *token) login(request protocol.Open, info pkcs11.TokenInfo) error {
	if request.PIN == "" {
		return nil
	}
	user, locked, last := uint(pkcs11.CKU_USER), uint(pkcs11.CKF_USER_PIN_LOCKED), uint(pkcs11.CKF_USER_PIN_FINAL_TRY)
	if request.UserType == protocol.SecurityOfficer {
		user, locked, last = pkcs11.CKU_SO, pkcs11.CKF_SO_PIN_LOCKED, pkcs11.CKF_SO_PIN_FINAL_TRY
	}
	switch {
	case info.Flags&locked != 0:
		return &protocol.Error{Kind: protocol.LoginWithheld, Code: pkcs11.CKR_PIN_LOCKED,
			Text: "the token says that the PIN is locked; unlock it with the vendor's tool"}
	case info.Flags&last != 0:
		return &protocol.Error{Kind: protocol.LoginWithheld, Code: pkcs11.CKR_PIN_LOCKED,
			Text: "the token says that one more wrong PIN locks it, so none was tried; log in once with the vendor's tool, which resets the count"}
	}
	err := t.library.Login(t.anchor, user, request.PIN)
	if err == nil || is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return nil
	}
	e := failure("C_Login", err)
	e.Kind = protocol.Login
	return e
}

func (t *token) findKey(request protocol.Open) error {
	template := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY)}
	name := fmt.Sprintf("the label %q", request.KeyLabel)
	if len(request.KeyID) > 0 {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_ID, request.KeyID))
		name = fmt.Sprintf("the id (CKA_ID) %x", request.KeyID)
	} else {
		template = append(template, pkcs11.NewAttribute(pkcs11.CKA_LABEL, request.KeyLabel))
	}
	handles, err := t.objects(template)
	if err != nil {
		return err
	}
	switch len(handles) {
	case 1:
		t.key = handles[0]
	case 0:
		return &protocol.Error{Kind: protocol.NoKey,
			Text: fmt.Sprintf("the token %q has no private key with %s that this login may see", t.found.TokenLabel, name)}
	default:
		return &protocol.Error{Kind: protocol.BadKey,
			Text: fmt.Sprintf("the token %q has several private keys with %s; name the key by what only one has", t.found.TokenLabel, name)}
	}
	kind, err := t.attribute(t.key, pkcs11.CKA_KEY_TYPE)
	if err != nil {
		return err
	}
	if !bytes.Equal(kind, pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_RSA).Value) {
		return &protocol.Error{Kind: protocol.BadKey, Text: fmt.Sprintf("the private key with %s is not an RSA key", name)}
	}
	if t.found.KeyID, err = t.attribute(t.key, pkcs11.CKA_ID); err != nil {
		return err
	}
	label, err := t.attribute(t.key, pkcs11.CKA_LABEL)
	t.found.KeyLabel = string(label)
	return err
}

// readPublic takes the public half from the private object, which is the one
// that decrypts, or else from the public object of the same id.
func (t *token) readPublic() error {
	candidates := []pkcs11.ObjectHandle{t.key}
	if len(t.found.KeyID) > 0 {
		public, err := t.objects([]*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_ID, t.found.KeyID),
		})
		if err != nil {
			return err
		}
		candidates = append(candidates, public...)
	}
	for _, object := range candidates {
		modulus, err := t.attribute(object, pkcs11.CKA_MODULUS)
		if err != nil {
			return err
		}
		exponent, err := t.attribute(object, pkcs11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return err
		}
		if len(modulus) > 0 && len(exponent) > 0 {
			t.found.Modulus, t.found.Exponent = modulus, exponent
			return nil
		}
	}
	return nil
}

func (t *token) asksEachTime(userType string) (bool, error) {
	value, err := t.attribute(t.key, pkcs11.CKA_ALWAYS_AUTHENTICATE)
	if err != nil || len(value) == 0 {
		// A token that does not say: then as the configuration says.
		return userType == protocol.ContextSpecific, err
	}
	return value[0] != 0, nil
}

// objects gives at most two: more is as bad as two.
func (t *token) objects(template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := t.library.FindObjectsInit(t.anchor, template); err != nil {
		return nil, failure("C_FindObjectsInit", err)
	}
	handles, _, err := t.library.FindObjects(t.anchor, 2)
	if final := t.library.FindObjectsFinal(t.anchor); err == nil {
		err = final
	}
	if err != nil {
		return nil, failure("C_FindObjects", err)
	}
	return handles, nil
}

// attribute reads one attribute; nothing where the token has none or keeps it.
func (t *token) attribute(object pkcs11.ObjectHandle, kind uint) ([]byte, error) {
	values, err := t.library.GetAttributeValue(t.anchor, object, []*pkcs11.Attribute{pkcs11.NewAttribute(kind, nil)})
	if is(err, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID) || is(err, pkcs11.CKR_ATTRIBUTE_SENSITIVE) {
		return nil, nil
	}
	if err != nil {
		return nil, failure("C_GetAttributeValue", err)
	}
	return values[0].Value, nil
}

func (t *token) decrypt(request protocol.Decrypt) ([]byte, error) {
	params := pkcs11.NewOAEPParams(pkcs11.CKM_SHA_1, pkcs11.CKG_MGF1_SHA1, pkcs11.CKZ_DATA_SPECIFIED, nil)
	if request.Hash == protocol.SHA256 {
		params.HashAlg, params.MGF = pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256
	} else if request.Hash != protocol.SHA1 {
		return nil, &protocol.Error{Kind: protocol.BadRequest, Text: fmt.Sprintf("unknown hash %q", request.Hash)}
	}
	session, err := t.acquire()
	if err != nil {
		return nil, err
	}
	plaintext, err := t.decryptIn(session, params, request.Ciphertext)
	t.release(session, err == nil)
	return plaintext, err
}

func (t *token) decryptIn(session pkcs11.SessionHandle, params *pkcs11.OAEPParams, ciphertext []byte) ([]byte, error) {
	mechanism := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_OAEP, params)}
	if err := t.library.DecryptInit(session, mechanism, t.key); err != nil {
		return nil, failure("C_DecryptInit", err)
	}
	if t.reauthenticate {
		if err := t.authenticate(session); err != nil {
			return nil, err
		}
	}
	plaintext, err := t.library.Decrypt(session, ciphertext)
	if err != nil {
		return nil, failure("C_Decrypt", err)
	}
	return plaintext, nil
}

// authenticate gives the PIN for one use of the key. One after another, so
// that many calls do not use up the tries of a wrong PIN.
func (t *token) authenticate(session pkcs11.SessionHandle) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refused != nil {
		return t.refused
	}
	err := t.library.Login(session, pkcs11.CKU_CONTEXT_SPECIFIC, t.pin)
	if err == nil || is(err, pkcs11.CKR_USER_ALREADY_LOGGED_IN) {
		return nil
	}
	e := failure("C_Login for one use of the key", err)
	e.Kind = protocol.Login
	t.refused = e
	return e
}

func (t *token) acquire() (pkcs11.SessionHandle, error) {
	t.room <- struct{}{}
	select {
	case session := <-t.idle:
		return session, nil
	default:
	}
	session, err := t.library.OpenSession(t.slot, t.flags)
	if err != nil {
		<-t.room
		return 0, failure("C_OpenSession", err)
	}
	return session, nil
}

// release keeps a session for the next call. One in which something failed may
// have an operation under way, so it is closed.
func (t *token) release(session pkcs11.SessionHandle, usable bool) {
	if usable {
		t.idle <- session
	} else {
		// When closing fails the token is lost, and the next call says so.
		_ = t.library.CloseSession(session)
	}
	<-t.room
}

// close ends politely; a token that is gone cannot answer, and need not.
func (t *token) close() {
	_ = t.library.CloseAllSessions(t.slot)
	_ = t.library.Finalize()
}

func is(err error, code pkcs11.Error) bool { return errors.Is(err, code) }

// failure names a library's answer; its text never holds an argument.
func failure(function string, err error) *protocol.Error {
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return &protocol.Error{Text: function + ": " + err.Error()}
	}
	return &protocol.Error{Code: uint64(code), Text: function + ": " + strings.TrimPrefix(code.Error(), "pkcs11: ")}
}
