package syncclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"

	"github.com/latchkey-fn/latchkey/local/apiclient"
)

// licenceForm is a licence as the official web vault uploads it.
func licenceForm(document []byte) (*apiclient.Form, error) {
	var buffer bytes.Buffer
	w := multipart.NewWriter(&buffer)
	part, err := w.CreateFormFile("License", "license.json")
	if err == nil {
		_, err = part.Write(document)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("upload the license: %w", err)
	}
	return &apiclient.Form{Type: w.FormDataContentType(), Content: buffer.Bytes()}, nil
}

// do sends a request to the API.
func (c *Client) do(ctx context.Context, r apiclient.Request) ([]byte, error) {
	r.Path = append([]string{"api"}, r.Path...)
	r.Header = map[string]string{"Accept": "application/json", "Authorization": "Bearer " + c.bearer.Reveal()}
	return c.server.Do(ctx, r)
}

// advise tells what to do about a refusal.
func advise(_ apiclient.Request, refusal *apiclient.Refusal) string {
	switch refusal.Status {
	case http.StatusUnauthorized:
		return "Get a new operator's token: set LATCHKEY_OPERATOR_TOKEN or --operator-token-file."
	case http.StatusNotFound:
		return "It does not exist, or you may not reach it: are you an owner or administrator of this organization?"
	}
	return ""
}

// object is a JSON object that the server answers with.
type object interface {
	// required are the members without which it says nothing.
	required() []string
}

func decode[T object](content []byte) (T, error) {
	var value T
	_, err := apiclient.Decode(content, &value, value.required()...)
	return value, err
}
