package syncclient

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/latchkey-fn/latchkey/local/apiclient"
)

// Import is what is to be taken over from an official server.
type Import struct {
	// Rows are of its table of sponsorships, and have MaxImport bytes at the most.
	Rows []json.RawMessage `json:"rows"`
	// Unsent: rows that were never synced are to be taken, too, which the cloud
	// mails as new offers.
	Unsent bool `json:"unsent"`
	// DryRun: only tell what would be done.
	DryRun bool `json:"dryRun"`
}

// Imported tells what became of rows.
type Imported struct {
	Taken int `json:"taken"`
	// Rekeyed are those of Taken that shared their key with an older one.
	Rekeyed int `json:"rekeyed"`
	// Known were taken before, and Dropped are revoked ones that the cloud does not
	// have.
	Known   int `json:"known"`
	Dropped int `json:"dropped"`
	// Unsent were never synced. They are of Taken if they were wanted, and otherwise
	// not taken.
	Unsent int `json:"unsent"`
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

// Import takes over rows. It is safe to repeat.
func (c *Client) Import(ctx context.Context, in Import) (Imported, error) {
	return get[Imported](ctx, c, apiclient.Request{
		Doing: "import offers", Method: http.MethodPost, Path: c.own("offers", "import"), Again: true, Body: in,
	})
}
