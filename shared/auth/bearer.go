package auth

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// maxToken is the longest token that is looked at, in bytes. Bitwarden's are
// about 1 KiB, and grow by some 40 bytes for each organisation of the user.
const maxToken = 16 * 1024

const bearerScheme = "bearer "

// Bearer takes the token out of the Authorization header (RFC 6750, section
// 2.1). There must be exactly one such header. Errors are of class
// Unauthenticated.
func Bearer(r *http.Request) (string, error) {
	headers := r.Header["Authorization"]
	switch {
	case len(headers) == 0:
		return "", &refusal{class: fault.Unauthenticated, reason: "there is no Authorization header", message: "An access token is required."}
	case len(headers) > 1:
		return "", refuse("there is more than one Authorization header")
	case len(headers[0]) > len(bearerScheme)+maxToken:
		return "", refuse(tooLong)
	case len(headers[0]) < len(bearerScheme) || !strings.EqualFold(headers[0][:len(bearerScheme)], bearerScheme):
		return "", refuse("the Authorization header is not of the scheme Bearer")
	}
	token := strings.Trim(headers[0][len(bearerScheme):], " ")
	if !isToken(token) {
		return "", refuse("the Authorization header does not hold one token")
	}
	return token, nil
}

var tooLong = fmt.Sprintf("it is longer than %d bytes", maxToken)

// isToken tells whether s is a b64token of RFC 6750, save that = may be anywhere.
// It looks at every byte of every request: a table is ten times as fast as
// comparisons, which no processor can predict on a random token.
func isToken(s string) bool {
	for i := range len(s) {
		if !tokenByte[s[i]] {
			return false
		}
	}
	return s != ""
}

var tokenByte = func() (table [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=") {
		table[c] = true
	}
	return table
}()
