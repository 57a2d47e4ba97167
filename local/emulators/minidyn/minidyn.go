// Package minidyn runs a DynamoDB in this process, on loopback: minidyn's
// server, brought closer to the service in what Latchkey's store relies on.
//
// What minidyn v0.8.2 leaves out and this package adds: the stored item beside
// a condition that failed (ReturnValuesOnConditionCheckFailure) for Put and
// Delete, idempotent transactions (ClientRequestToken), a table's status, and
// the service's answer to an operation it does not have. Data is in memory and
// gone with the server.
package minidyn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	dynamo "github.com/truora/minidyn/server"
)

// maxRequest bounds a request's body: 16 MB, what the service takes.
const maxRequest = 16 << 20

// Server is a running emulator.
type Server struct {
	// URL is the endpoint, http://127.0.0.1:port.
	URL    string
	server *http.Server
	served chan error
}

// Start serves on a free port of the loopback address until Close.
func Start() (*Server, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start minidyn: %w", err)
	}
	s := &Server{
		URL: "http://" + listener.Addr().String(),
		server: &http.Server{
			Handler:           &handler{inner: dynamo.NewServer(), committed: map[string]transaction{}},
			ReadHeaderTimeout: 10 * time.Second,
		},
		served: make(chan error, 1),
	}
	go func() { s.served <- s.server.Serve(listener) }()
	return s, nil
}

// Close ends the server and forgets its data.
func (s *Server) Close() error {
	err := s.server.Close()
	<-s.served
	return err
}

// handler answers one request at a time, so that what it adds to minidyn's
// answer is of the same moment.
type handler struct {
	mu        sync.Mutex
	inner     http.Handler
	committed map[string]transaction // by ClientRequestToken
}

// transaction is what was answered to a token, and to which request.
type transaction struct {
	request [sha256.Size]byte
	answer  answer
}

type answer struct {
	status int
	body   []byte
}

// operations are those that minidyn has.
var operations = map[string]bool{
	"CreateTable": true, "UpdateTable": true, "DeleteTable": true, "DescribeTable": true,
	"PutItem": true, "DeleteItem": true, "UpdateItem": true, "GetItem": true, "Query": true, "Scan": true,
	"BatchWriteItem": true, "BatchGetItem": true, "TransactWriteItems": true, "TransactGetItems": true,
}

// write is the part of PutItem, DeleteItem and of a transaction's items that
// matters here.
type write struct {
	TableName                           string
	Item, Key                           map[string]json.RawMessage
	ReturnValuesOnConditionCheckFailure string
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		http.Error(w, err.Error(), http.StatusRequestEntityTooLarge)
		return
	}
	_, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	h.mu.Lock()
	a := h.do(operation, body)
	h.mu.Unlock()
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(a.status)
	_, _ = w.Write(a.body) // the client went away: nobody is left to tell
}

func (h *handler) do(operation string, body []byte) answer {
	switch operation {
	case "PutItem", "DeleteItem":
		return h.write(operation, body)
	case "TransactWriteItems":
		return h.transact(body)
	case "CreateTable", "DescribeTable":
		return active(h.pass(operation, body))
	}
	if !operations[operation] {
		return failure("UnknownOperationException", "minidyn does not have "+operation)
	}
	return h.pass(operation, body)
}

// pass lets minidyn answer.
func (h *handler) pass(operation string, body []byte) answer {
	r := httptest.NewRequest(http.MethodPost, "/", bytes.NewReader(body))
	r.Header.Set("X-Amz-Target", "DynamoDB_20120810."+operation)
	recorder := httptest.NewRecorder()
	h.inner.ServeHTTP(recorder, r)
	return answer{recorder.Code, recorder.Body.Bytes()}
}

func (h *handler) write(operation string, body []byte) answer {
	a := h.pass(operation, body)
	var request write
	if a.status == http.StatusOK || json.Unmarshal(body, &request) != nil {
		return a
	}
	return edit(a, func(reply map[string]any) {
		if reply["__type"] == "ConditionalCheckFailedException" {
			h.addItem(reply, request)
		}
	})
}

func (h *handler) transact(body []byte) answer {
	var request struct {
		ClientRequestToken string
		TransactItems      []struct{ Put, Delete *write }
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return failure("SerializationException", err.Error())
	}
	sum, err := digest(body)
	if err != nil {
		return failure("SerializationException", err.Error())
	}
	if before, ok := h.committed[request.ClientRequestToken]; ok {
		if before.request != sum {
			return failure("IdempotentParameterMismatchException", "the token was used for another request")
		}
		return before.answer
	}
	a := h.pass("TransactWriteItems", body)
	if a.status == http.StatusOK {
		if request.ClientRequestToken != "" {
			h.committed[request.ClientRequestToken] = transaction{sum, a}
		}
		return a
	}
	return edit(a, func(reply map[string]any) {
		reasons, _ := reply["CancellationReasons"].([]any)
		for i, item := range request.TransactItems {
			if i >= len(reasons) {
				return
			}
			reason, _ := reasons[i].(map[string]any)
			for _, part := range []*write{item.Put, item.Delete} {
				if part != nil && reason["Code"] == "ConditionalCheckFailed" {
					h.addItem(reason, *part)
				}
			}
		}
	})
}

// digest is the same for requests that differ in the order of names only, as
// those of one call that is repeated do.
func digest(body []byte) ([sha256.Size]byte, error) {
	var request any
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if err := decoder.Decode(&request); err != nil {
		return [sha256.Size]byte{}, err
	}
	sorted, err := json.Marshal(request)
	return sha256.Sum256(sorted), err
}

// addItem gives a failed condition the item that is stored, where the request
// wants it and there is one.
func (h *handler) addItem(reply map[string]any, request write) {
	if request.ReturnValuesOnConditionCheckFailure != "ALL_OLD" || reply["Item"] != nil {
		return
	}
	key := request.Key
	if key == nil {
		key = map[string]json.RawMessage{}
		for _, name := range h.keyOf(request.TableName) {
			key[name] = request.Item[name]
		}
	}
	get, err := json.Marshal(map[string]any{"TableName": request.TableName, "Key": key})
	if err != nil {
		return
	}
	var stored struct{ Item map[string]any }
	if json.Unmarshal(h.pass("GetItem", get).body, &stored) == nil && len(stored.Item) > 0 {
		reply["Item"] = stored.Item
	}
}

// keyOf gives the names of a table's key attributes.
func (h *handler) keyOf(table string) []string {
	describe, err := json.Marshal(map[string]string{"TableName": table})
	if err != nil {
		return nil
	}
	var described struct {
		Table struct {
			KeySchema []struct{ AttributeName string }
		}
	}
	if json.Unmarshal(h.pass("DescribeTable", describe).body, &described) != nil {
		return nil
	}
	var names []string
	for _, attribute := range described.Table.KeySchema {
		names = append(names, attribute.AttributeName)
	}
	return names
}

// active gives a table the status that minidyn leaves out; a table of its is
// there at once.
func active(a answer) answer {
	if a.status != http.StatusOK {
		return a
	}
	return edit(a, func(reply map[string]any) {
		for _, name := range []string{"Table", "TableDescription"} {
			if table, ok := reply[name].(map[string]any); ok {
				table["TableStatus"] = "ACTIVE"
			}
		}
	})
}

// edit changes an answer that is a JSON object, and leaves any other.
func edit(a answer, change func(reply map[string]any)) answer {
	var reply map[string]any
	decoder := json.NewDecoder(bytes.NewReader(a.body))
	decoder.UseNumber()
	if decoder.Decode(&reply) != nil {
		return a
	}
	change(reply)
	body, err := json.Marshal(reply)
	if err != nil {
		return a
	}
	return answer{a.status, body}
}

func failure(code, message string) answer {
	body, err := json.Marshal(map[string]string{"__type": "com.amazonaws.dynamodb.v20120810#" + code, "message": message})
	if err != nil {
		body = nil
	}
	return answer{http.StatusBadRequest, body}
}
