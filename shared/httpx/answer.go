package httpx

import (
	"encoding/json"
	"net/http"
	"strconv"
	"time"
)

// retryAfter is what clients are asked to wait after a 503 or a 429, where the
// header does not say it already.
const retryAfter = 5 * time.Second

// WriteJSON answers with value. What functions answer is about keys, so no
// cache keeps it unless the header says otherwise.
func WriteJSON(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		// Every value answered is a struct of ours; see the tests.
		status, body = http.StatusInternalServerError, []byte(`{"message":"The answer could not be encoded.","object":"error"}`)
	}
	StartJSON(w, status)
	// A client that went away is nobody's fault, and there is nobody to tell.
	_, _ = w.Write(body)
}

// StartJSON writes the head of an answer in JSON whose body follows.
func StartJSON(w http.ResponseWriter, status int) {
	header := w.Header()
	header.Set("Content-Type", "application/json; charset=utf-8")
	if header.Get("Cache-Control") == "" {
		header.Set("Cache-Control", "no-store")
	}
	header.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
}

// bitwardenError is Bitwarden's error object. Its clients print the message.
type bitwardenError struct {
	Message               string              `json:"message"`
	ValidationErrors      map[string][]string `json:"validationErrors"`
	ExceptionMessage      *string             `json:"exceptionMessage"`
	ExceptionStackTrace   *string             `json:"exceptionStackTrace"`
	InnerExceptionMessage *string             `json:"innerExceptionMessage"`
	Object                string              `json:"object"`
}

// WriteBitwardenError answers with an error that Bitwarden's clients can show.
func WriteBitwardenError(w http.ResponseWriter, status int, message string) {
	WriteBitwardenProblem(w, status, message, nil)
}

// WriteBitwardenProblem does so with messages about single members of the
// request, by name.
func WriteBitwardenProblem(w http.ResponseWriter, status int, message string, members map[string][]string) {
	again := status == http.StatusServiceUnavailable || status == http.StatusTooManyRequests
	if again && w.Header().Get("Retry-After") == "" {
		w.Header().Set("Retry-After", strconv.Itoa(int(retryAfter.Seconds())))
	}
	WriteJSON(w, status, bitwardenError{Message: message, ValidationErrors: members, Object: "error"})
}
