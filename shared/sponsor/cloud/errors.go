package cloud

import (
	"fmt"
	"strings"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// Code names a kind of failure, for programs and alerts.
type Code string

// Codes of failures (the taxonomy of section 8.3 of the protocol's
// description). The local ones of the sync besides CommDisabled, and what only
// a run can find out, are here too, so that the list stands once.
const (
	CommDisabled          Code = "cloud_comm_disabled"
	ConnectionMissing     Code = "connection_missing"
	ConnectionDisabled    Code = "connection_disabled"
	KeyMissing            Code = "key_missing"
	IdentityInvalidClient Code = "identity_invalid_client"
	IdentityInvalidScope  Code = "identity_invalid_scope"
	TokenRejected         Code = "token_rejected"
	ForbiddenScope        Code = "forbidden_scope"
	OrgUnknown            Code = "org_unknown"
	KeyInvalid            Code = "key_invalid"
	RequestInvalid        Code = "request_invalid"
	RateLimited           Code = "rate_limited"
	CloudError            Code = "cloud_error"
	NetworkPre            Code = "network_pre"
	NetworkMid            Code = "network_mid"
	Timeout               Code = "timeout"
	BadResponse           Code = "bad_response"
	// CloudStateConflict is a run's conclusion from several answers: the cloud
	// holds one offer key twice.
	CloudStateConflict Code = "cloud_state_conflict"

	// What the cloud says to the wish for a licence.
	LicenseOrgUnknown     Code = "license_org_unknown"
	LicenseRouteGone      Code = "license_route_gone"
	LicenseKeyInvalid     Code = "license_key_invalid"
	LicenseInstallation   Code = "license_installation_invalid"
	LicenseNoSubscription Code = "license_no_subscription"
	LicensePayment        Code = "license_payment_issue"
	LicenseBodyLost       Code = "license_body_lost"
	LicenseRefused        Code = "license_refused"
)

// Stage is the part of a call that a failure was of.
type Stage string

// Stages.
const (
	StageToken   Stage = "token"
	StageSync    Stage = "sync"
	StageLicense Stage = "license"
)

// Error is a failure of a call. It holds no secret and no address of mail that
// was sent.
type Error struct {
	Code  Code
	Stage Stage
	// Status is that of HTTP; 0 if there was no answer.
	Status int
	// Message is what the cloud said, word for word but shortened; empty if it
	// said nothing that can be shown.
	Message string
	// Detail is what was found, and Hint what to do about it.
	Detail, Hint string
	// Ambiguous: the cloud may have done what it was asked to.
	Ambiguous bool
	// RetryAfter is how long the cloud asked to be left alone; 0 if it did not.
	RetryAfter time.Duration
	// BlockedUntil: nothing was sent, because of an earlier refusal.
	BlockedUntil time.Time
	cause        error
}

// Error implements error.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s", e.Code, e.Stage)
	if e.Status != 0 {
		fmt.Fprintf(&b, ", HTTP %d", e.Status)
	}
	b.WriteString(")")
	for _, part := range []string{e.Message, e.Detail, e.Hint} {
		if part != "" {
			b.WriteString(": ")
			b.WriteString(strings.TrimSuffix(part, "."))
		}
	}
	return b.String()
}

// Unwrap gives the class and the cause.
func (e *Error) Unwrap() []error {
	if e.cause == nil {
		return []error{e.class()}
	}
	return []error{e.class(), e.cause}
}

func (e *Error) class() fault.Class {
	switch {
	case e.Retryable():
		return fault.Transient
	case e.Code == CommDisabled, e.Code == KeyMissing, e.Code == RequestInvalid:
		return fault.Invalid
	case e.Code == LicenseRouteGone:
		return fault.Unsupported
	default:
		return fault.Denied
	}
}

// Retryable tells whether the same request may succeed later.
func (e *Error) Retryable() bool {
	switch e.Code {
	case RateLimited, CloudError, NetworkPre, NetworkMid, Timeout, BadResponse:
		return true
	default:
		return false
	}
}
