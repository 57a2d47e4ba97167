package smclient

import (
	"cmp"
	"context"
	"net/http"
	"strings"

	"github.com/latchkey-fn/latchkey/local/apiclient"
)

// deviceType is what SDKs call themselves.
const deviceType = "21"

// notFound is the message of a server that does not tell what is not there from
// what may not be reached.
const notFound = "Resource not found."

// do sends a request to the API.
func (c *Client) do(ctx context.Context, r apiclient.Request) ([]byte, error) {
	bearer, err := c.authorization(ctx)
	if err != nil {
		return nil, err
	}
	r.Path = append([]string{"api"}, r.Path...)
	r.Header = map[string]string{"Accept": "*/*", "Authorization": "Bearer " + bearer, "Device-Type": deviceType}
	return c.server.Do(ctx, r)
}

// advise tells what to do about a refusal. An operator whose session is not
// accepted gets another; a machine's client does that itself.
func (c *Client) advise(r apiclient.Request, refusal *apiclient.Refusal) string {
	switch {
	case refusal.Code == apiclient.InvalidClient && strings.HasPrefix(refusal.Message, apiclient.InvalidClient):
		return "Either the access token is not one of this server, or it was mistyped or replaced: check LATCHKEY_ACCESS_TOKEN and the server's address."
	case refusal.Status == http.StatusUnauthorized && c.token == nil:
		return "Get a new LATCHKEY_OPERATOR_TOKEN."
	case refusal.Status == http.StatusUnauthorized && refusal.Message == "":
		return "The session is not accepted: get a new token."
	case refusal.Status == http.StatusNotFound && refusal.Message == notFound:
		return cmp.Or(r.Absent, "It does not exist, or you may not reach it.")
	}
	return ""
}
