// Package minidyn runs a DynamoDB in this process, on loopback: minidyn's
// server, brought closer to the service in what Latchkey's store relies on.
//
// What minidyn v0.8.2 leaves out and this package adds: the stored item beside
// a condition that failed (ReturnValuesOnConditionCheckFailure) for Put and
// Delete, idempotent transactions (ClientRequestToken), a table's status, the
// limit and the disorder of what BatchGetItem answers, and the service's answer to
// an operation it does not have. Data is in memory and gone with the server.
package minidyn

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	dynamo "github.com/truora/minidyn/server"
)

// maxRequest bounds a request's body: 16 MB, what the service takes.
const maxRequest = 16 << 20

// What the service gives at once of a batch: that many items, and that many
// bytes of them. The rest it names as unprocessed.
const (
	maxBatch      = 100
	maxBatchBytes = 16 << 20
)

// Server is a running emulator.
type Server struct {
	// URL is the endpoint, http://127.0.0.1:port.
	URL    string
	server *http.Server
	served chan error
}

// Start serves on a free port of the loopback address until Close.
func Start() (*Server, error) { return start(maxBatchBytes) }

func start(batchBytes int) (*Server, error) {
	listener, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start minidyn: %w", err)
	}
	s := &Server{
		URL: "http://" + listener.Addr().String(),
		server: &http.Server{
			Handler:           &handler{inner: dynamo.NewServer(), batchBytes: batchBytes, committed: map[string]transaction{}},
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
	inner      http.Handler
	batchBytes int

	mu        sync.Mutex
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
	case "BatchGetItem":
		return h.batchGet(body)
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

// batchGet is a GetItem of each key. The items come in another order than their
// keys were given in, since the service promises none.
func (h *handler) batchGet(body []byte) answer {
	var request struct {
		RequestItems map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return failure("SerializationException", err.Error())
	}
	var reply struct {
		Responses       map[string][]json.RawMessage
		UnprocessedKeys map[string]map[string]json.RawMessage
	}
	reply.Responses = map[string][]json.RawMessage{}
	reply.UnprocessedKeys = map[string]map[string]json.RawMessage{}
	count, size := 0, 0
	for _, table := range slices.Sorted(maps.Keys(request.RequestItems)) {
		get := request.RequestItems[table]
		keys, err := distinctKeys(get["Keys"])
		if err != nil {
			return failure("ValidationException", err.Error())
		}
		if count += len(keys); count > maxBatch {
			return failure("ValidationException", "Too many items requested for the BatchGetItem call")
		}
		items, left := []json.RawMessage{}, []json.RawMessage{}
		for _, key := range keys {
			found, refusal := h.getItem(table, key, get)
			if refusal != nil {
				return *refusal
			}
			switch size += sizeOf(found); {
			case found == nil:
			case size > h.batchBytes:
				left = append(left, key)
			default:
				items = append(items, found)
			}
		}
		slices.Reverse(items)
		reply.Responses[table] = items
		if len(left) == 0 {
			continue
		}
		rest := maps.Clone(get)
		if rest["Keys"], err = json.Marshal(left); err != nil {
			return failure("InternalServerError", err.Error())
		}
		reply.UnprocessedKeys[table] = rest
	}
	if count == 0 {
		return failure("ValidationException", "The batch asks for no item")
	}
	content, err := json.Marshal(reply)
	if err != nil {
		return failure("InternalServerError", err.Error())
	}
	return answer{http.StatusOK, content}
}

// distinctKeys reads the keys of a batch, of which no two may be the same.
func distinctKeys(list json.RawMessage) (keys []json.RawMessage, err error) {
	if err := json.Unmarshal(list, &keys); err != nil {
		return nil, err
	}
	seen := map[[sha256.Size]byte]bool{}
	for _, key := range keys {
		sum, err := digest(key)
		if err != nil {
			return nil, err
		}
		if seen[sum] {
			return nil, errors.New("the list of keys contains one twice")
		}
		seen[sum] = true
	}
	return keys, nil
}

// getItem lets minidyn get one item with what a batch says of all those of its
// table. Nil: there is none.
func (h *handler) getItem(table string, key json.RawMessage, batch map[string]json.RawMessage) (json.RawMessage, *answer) {
	get := map[string]any{}
	for name, value := range batch {
		if name != "Keys" {
			get[name] = value
		}
	}
	get["TableName"], get["Key"] = table, key
	body, err := json.Marshal(get)
	if err != nil {
		refusal := failure("SerializationException", err.Error())
		return nil, &refusal
	}
	a := h.pass("GetItem", body)
	var found struct{ Item json.RawMessage }
	if a.status != http.StatusOK || json.Unmarshal(a.body, &found) != nil {
		return nil, &a
	}
	if len(found.Item) <= len("{}") || string(found.Item) == "null" {
		return nil, nil
	}
	return found.Item, nil
}

// sizeOf is about what the service counts of an item: the bytes of its names and
// values.
func sizeOf(item json.RawMessage) (size int) {
	var attributes map[string]map[string]json.RawMessage
	if json.Unmarshal(item, &attributes) != nil {
		return len(item)
	}
	for name, value := range attributes {
		size += len(name)
		for kind, content := range value {
			if kind == "B" {
				size += base64.StdEncoding.DecodedLen(len(content) - len(`""`))
			} else {
				size += len(content)
			}
		}
	}
	return size
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
