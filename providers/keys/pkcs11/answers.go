package pkcs11

import (
	"context"
	"fmt"

	"github.com/latchkey-fn/latchkey/providers/keys/pkcs11/internal/protocol"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Answers of a library (CKR_…, PKCS#11 2.40) that decide what happens next.
const (
	hostMemory             = 0x02
	slotIDInvalid          = 0x03
	generalError           = 0x05
	functionFailed         = 0x06
	argumentsBad           = 0x07
	dataInvalid            = 0x20
	dataLenRange           = 0x21
	deviceError            = 0x30
	deviceMemory           = 0x31
	deviceRemoved          = 0x32
	encryptedDataInvalid   = 0x40
	encryptedDataLenRange  = 0x41
	functionNotSupported   = 0x54
	keyHandleInvalid       = 0x60
	keyTypeInconsistent    = 0x63
	keyNotPermitted        = 0x68
	mechanismInvalid       = 0x70
	mechanismParamInvalid  = 0x71
	objectHandleInvalid    = 0x82
	pinIncorrect           = 0xA0
	pinInvalid             = 0xA1
	pinLenRange            = 0xA2
	pinExpired             = 0xA3
	pinLocked              = 0xA4
	sessionClosed          = 0xB0
	sessionHandleInvalid   = 0xB3
	tokenNotPresent        = 0xE0
	tokenNotRecognized     = 0xE1
	userNotLoggedIn        = 0x101
	userPINNotInitialized  = 0x102
	userTypeInvalid        = 0x103
	cryptokiNotInitialized = 0x190
	vendorDefined          = 0x80000000
)

// lostToken: the library no longer reaches the token, or the token no longer
// knows us. No library finds back by itself. A new helper does: it loads the
// library anew and logs in again.
func lostToken(code uint64) bool {
	switch code {
	case deviceMemory, deviceRemoved, tokenNotPresent, tokenNotRecognized, slotIDInvalid, hostMemory,
		sessionHandleInvalid, sessionClosed, userNotLoggedIn, cryptokiNotInitialized, keyHandleInvalid, objectHandleInvalid:
		return true
	default:
		return false
	}
}

// perhapsLost: mostly said of a lost token, but of damaged input as well.
func perhapsLost(code uint64) bool {
	return code == generalError || code == deviceError || code == functionFailed || code >= vendorDefined
}

// wrongPIN: asking again with this PIN can lock the token.
func wrongPIN(code uint64) bool {
	switch code {
	case pinIncorrect, pinInvalid, pinLenRange, pinExpired, pinLocked:
		return true
	default:
		return false
	}
}

// class is what an answer means for the caller, where nothing more is known.
func class(e *protocol.Error) fault.Class {
	switch e.Kind {
	case protocol.NoToken:
		return fault.Transient
	case protocol.OtherTokens, protocol.NoKey:
		return fault.NotFound
	case protocol.BadKey, protocol.BadRequest:
		return fault.Invalid
	}
	switch e.Code {
	case encryptedDataInvalid, encryptedDataLenRange, dataInvalid, dataLenRange:
		return fault.Lost
	case argumentsBad, mechanismInvalid, mechanismParamInvalid, functionNotSupported:
		return fault.Unsupported
	case keyTypeInconsistent, keyNotPermitted, userTypeInvalid:
		return fault.Invalid
	case userPINNotInitialized:
		return fault.Denied
	}
	if wrongPIN(e.Code) {
		return fault.Denied
	}
	return fault.Transient
}

// asError gives an answer its class.
func asError(e *protocol.Error) error {
	return fmt.Errorf("%w: %w", class(e), e)
}

// interrupted is what a caller hears whose context ended.
func interrupted(ctx context.Context) error {
	return fmt.Errorf("%w: waiting for the PKCS#11 token: %w", fault.Transient, context.Cause(ctx))
}
