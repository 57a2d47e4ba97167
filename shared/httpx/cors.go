package httpx

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/rs/cors"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

// DesktopOrigin is where Bitwarden's desktop app calls from since it left
// file://. It is an origin like any other, and subject to CORS.
const DesktopOrigin = "bw-desktop-file://bundle"

// corsMaxAge is how long browsers may keep the answer to a preflight, in
// seconds; Chromium keeps it for at most two hours.
const corsMaxAge = 7200

// What answers say besides their bodies, where those are of a form that others
// have made.
const (
	// CodeHeader names, for programs, the failure that an error is of.
	CodeHeader = "X-Latchkey-Code"
	// NoticeHeader says, for people, what an answer has no room for.
	NoticeHeader = "X-Latchkey-Notice"
)

// Methods are those that the functions' routes have.
func Methods() []string {
	return []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodDelete}
}

// CORS lets the pages of the given origins call, with whatever headers they
// announce, and read errors as well as answers. Other origins get no CORS
// headers; their requests are served, as browsers' extensions need.
func CORS(origins []string, h http.Handler) http.Handler {
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: Methods(),
		AllowedHeaders: []string{"*"},
		ExposedHeaders: []string{RequestIDHeader, CodeHeader, NoticeHeader, "Retry-After"},
		MaxAge:         corsMaxAge,
	}).Handler(h)
}

// Origin turns the address of a web page's site into its origin, as browsers
// send it: scheme and host, and the port where it is not the scheme's own.
func Origin(address string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return "", fmt.Errorf("%w: %q is not a web address such as https://vault.example.org", fault.Invalid, address)
	}
	host := strings.ToLower(u.Host)
	if port := map[string]string{"https": ":443", "http": ":80"}[u.Scheme]; strings.HasSuffix(host, port) {
		host = strings.TrimSuffix(host, port)
	}
	return u.Scheme + "://" + host, nil
}
