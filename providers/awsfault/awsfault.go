// Package awsfault is what the errors of AWS services have in common, whichever
// the service.
package awsfault

// Credentials tells whether an error code says that AWS does not accept our
// credentials. Services do not agree on the names.
func Credentials(code string) bool {
	switch code {
	case "UnrecognizedClientException", "InvalidSignatureException", "SignatureDoesNotMatch",
		"IncompleteSignature", "IncompleteSignatureException",
		"MissingAuthenticationTokenException", "ExpiredTokenException", "InvalidClientTokenId":
		return true
	}
	return false
}
