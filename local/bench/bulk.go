package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// bulk is an HTTP client of the SDK for a driver that fills an empty table. It
// says of every write that it was done, and passes the items on as
// BatchWriteItem: moto copies all its tables for each transaction, which would
// make ten thousand of them take hours. Conditions are not looked at, and nothing
// can be read through it.
type bulk struct {
	next    aws.HTTPClient
	table   string
	pending []json.RawMessage
	latest  *http.Request // whose address and credentials a batch is sent with
}

// bulkItems is how many items a batch has at the most.
const bulkItems = 25

// newItem is the part of a write that is looked at.
type newItem struct {
	TableName string
	Item      json.RawMessage
}

// Do is part of aws.HTTPClient.
func (b *bulk) Do(r *http.Request) (*http.Response, error) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	var write struct {
		newItem
		TransactItems []struct{ Put *newItem }
	}
	if err := json.Unmarshal(content, &write); err != nil {
		return nil, err
	}
	items := []newItem{write.newItem}
	if len(write.TransactItems) > 0 {
		items = nil
	}
	for _, part := range write.TransactItems {
		if part.Put == nil {
			return nil, errors.New("only new documents can be written in bulk")
		}
		items = append(items, *part.Put)
	}
	for _, item := range items {
		if item.Item == nil {
			return nil, fmt.Errorf("%s cannot be done in bulk", r.Header.Get("X-Amz-Target"))
		}
		b.table, b.latest = item.TableName, r
		b.pending = append(b.pending, item.Item)
	}
	for len(b.pending) >= bulkItems {
		if err := b.send(r.Context(), bulkItems); err != nil {
			return nil, err
		}
	}
	return &http.Response{
		StatusCode: http.StatusOK, Request: r, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/x-amz-json-1.0"}}, Body: io.NopCloser(strings.NewReader("{}")),
	}, nil
}

// flush sends what is left.
func (b *bulk) flush(ctx context.Context) error {
	if len(b.pending) == 0 {
		return nil
	}
	return b.send(ctx, len(b.pending))
}

func (b *bulk) send(ctx context.Context, n int) (err error) {
	type put struct {
		PutRequest struct{ Item json.RawMessage }
	}
	puts := make([]put, n)
	for i, item := range b.pending[:n] {
		puts[i].PutRequest.Item = item
	}
	body, err := json.Marshal(map[string]any{"RequestItems": map[string][]put{b.table: puts}})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, b.latest.URL.String(), bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("X-Amz-Target", "DynamoDB_20120810.BatchWriteItem")
	request.Header.Set("Content-Type", "application/x-amz-json-1.0")
	request.Header.Set("Authorization", b.latest.Header.Get("Authorization")) // moto reads the region in it
	response, err := b.next.Do(request)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	var left struct{ UnprocessedItems map[string]any }
	if err := json.NewDecoder(response.Body).Decode(&left); err != nil {
		return fmt.Errorf("write in bulk: %s: %w", response.Status, err)
	}
	if response.StatusCode != http.StatusOK || len(left.UnprocessedItems) > 0 {
		return fmt.Errorf("write in bulk: %s, %d left out", response.Status, len(left.UnprocessedItems))
	}
	b.pending = b.pending[n:]
	return nil
}
