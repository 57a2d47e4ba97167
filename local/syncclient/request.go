package syncclient

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
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
	header := map[string]string{"Accept": "application/json", "Authorization": "Bearer " + c.bearer.Reveal()}
	maps.Copy(header, r.Header)
	r.Header = header
	return c.server.Do(ctx, r)
}

// lacks are what to do about failures whose message, which is the original's,
// does not say it, by their codes.
var lacks = map[string]string{
	"billing_right_missing":       "You are an administrator of this organization here, and this is for its owners: for those whom LATCHKEY_BILLING_RULES of the server names.",
	"license_missing":             "Upload one first: latchkey sync licence upload FILE",
	"license_certificate_missing": "Set LATCHKEY_LICENSE_CERTIFICATE_FILE there to licensing.cer, as the vendor publishes it with its server.",
}

// advise tells what to do about a refusal.
func advise(_ apiclient.Request, refusal *apiclient.Refusal) string {
	if advice, ok := lacks[refusal.Code]; ok {
		return advice
	}
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
