package syncclient

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/latchkey-fn/latchkey/local/apiclient"
)

// Imported tells what became of rows.
type Imported struct {
	Taken int `json:"taken"`
	// Rekeyed are those of Taken that shared their key with an older one.
	Rekeyed int `json:"rekeyed"`
	// Known were taken before, and Dropped are revoked ones that the cloud does not
	// have.
	Known   int `json:"known"`
	Dropped int `json:"dropped"`
	// Bad were not taken.
	Bad []BadRow `json:"bad"`
}

func (Imported) required() []string { return []string{"taken", "bad"} }

// BadRow is a row that is no offer. Row is its place in the request, from 0 on.
type BadRow struct {
	Row     int    `json:"row"`
	Problem string `json:"problem"`
}

// MaxImport is how many bytes the rows of one import have at the most.
const MaxImport = 40_000

// Import takes over rows of an official server's table of sponsorships, or with
// dryRun tells what it would do. It is safe to repeat.
func (c *Client) Import(ctx context.Context, rows []json.RawMessage, dryRun bool) (Imported, error) {
	return get[Imported](ctx, c, apiclient.Request{
		Doing: "import offers", Method: http.MethodPost, Path: c.own("offers", "import"), Again: true,
		Body: map[string]any{"rows": rows, "dryRun": dryRun},
	})
}
