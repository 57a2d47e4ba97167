// Package localkms runs an AWS KMS in this process, on loopback: the handlers
// of github.com/nsmithuk/local-kms behind a listener of our own (theirs listens
// on every address). Keys are made through the API, as in the service, and kept
// in a folder; their private halves are readable there.
//
// Where local-kms is laxer than the service in what Latchkey's provider relies
// on, the answer is made stricter: a symmetric ciphertext that names another
// key than the one it was given with is refused, and a ciphertext that local-kms
// stumbles over is answered as invalid.
package localkms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/nsmithuk/local-kms/src/config"
	"github.com/nsmithuk/local-kms/src/data"
	"github.com/nsmithuk/local-kms/src/handler"
	"github.com/nsmithuk/local-kms/src/service"
	"github.com/sirupsen/logrus"
)

// Region and Account stand in the ARN of every key.
const (
	Region  = "eu-central-1"
	Account = "111122223333"
)

// maxRequest bounds a request's body in bytes; the largest that the API knows
// is an import of key material.
const maxRequest = 1 << 20

// local-kms takes both from package variables, of which a process has one.
var configure = sync.OnceFunc(func() {
	config.AWSRegion, config.AWSAccountId = Region, Account
})

// Server is a running emulator.
type Server struct {
	// URL is the endpoint, http://127.0.0.1:port.
	URL      string
	server   *http.Server
	served   chan error
	database *data.Database
}

// Start opens or makes the keys in dir and serves them on a free port of the
// loopback address until Close. A folder is open in one process at a time.
func Start(dir string) (*Server, error) {
	configure()
	database, err := open(dir)
	if err != nil {
		return nil, fmt.Errorf("start local-kms: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		database.Close()
		return nil, fmt.Errorf("start local-kms: %w", err)
	}
	silent := logrus.New()
	silent.SetOutput(io.Discard)
	s := &Server{
		URL:      "http://" + listener.Addr().String(),
		database: database,
		served:   make(chan error, 1),
		server: &http.Server{
			ReadHeaderTimeout: 10 * time.Second,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				serve(w, r, silent, database)
			}),
		},
	}
	go func() { s.served <- s.server.Serve(listener) }()
	return s, nil
}

// Close waits for the answers under way, then closes the folder.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := s.server.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.server.Close())
	}
	<-s.served
	s.database.Close()
	return err
}

// open turns the panic with which local-kms reports a folder it cannot use
// into an error.
func open(dir string) (database *data.Database, err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("open the keys in %s: %v", dir, cause)
		}
	}()
	return data.NewDatabase(dir), nil
}

func serve(w http.ResponseWriter, r *http.Request, logger *logrus.Logger, database *data.Database) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")

	answer := call(operation, handler.NewRequestHandler(r, logger, database))
	if operation == "Decrypt" && answer.Code == http.StatusOK && !namesItsKey(body, answer.Body) {
		answer = handler.New400ExceptionResponse("IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation.")
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	w.WriteHeader(answer.Code)
	_, _ = io.WriteString(w, answer.Body) // the client went away: nobody is left to tell
}

// call runs the handler's method of that name, as local-kms' own server does.
func call(operation string, h *handler.RequestHandler) (answer handler.Response) {
	defer func() {
		if cause := recover(); cause == nil {
			return
		}
		// local-kms reads lengths out of a ciphertext without checking them.
		answer = handler.NewInternalFailureExceptionResponse("local-kms failed in " + operation)
		if operation == "Decrypt" {
			answer = handler.NewInvalidCiphertextExceptionResponse("")
		}
	}()
	method := reflect.ValueOf(h).MethodByName(operation)
	if !method.IsValid() {
		return handler.NewUnsupportedOperationException("local-kms does not have " + operation)
	}
	run, ok := method.Interface().(func() handler.Response)
	if !ok {
		return handler.NewUnsupportedOperationException("local-kms does not have " + operation)
	}
	return run()
}

// namesItsKey tells whether a symmetric ciphertext names the key that decrypted
// it; local-kms takes the key from the request and does not look.
func namesItsKey(request []byte, answer string) bool {
	var asked struct{ CiphertextBlob []byte }
	var given struct{ KeyId, EncryptionAlgorithm string }
	if json.Unmarshal(request, &asked) != nil || json.Unmarshal([]byte(answer), &given) != nil {
		return false
	}
	if given.EncryptionAlgorithm != "SYMMETRIC_DEFAULT" {
		return true
	}
	named, _, _, ok := service.UnpackCiphertextBlob(asked.CiphertextBlob)
	return ok && named == given.KeyId
}
