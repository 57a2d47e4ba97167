package secrets

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// bodies are the routes that read one. %p and %s are a project's and a secret's
// id.
var bodies = []string{
	"POST /organizations/%o/projects", "PUT /projects/%p", "POST /projects/delete",
	"POST /organizations/%o/secrets", "PUT /secrets/%s", "POST /secrets/delete", "POST /secrets/get-by-ids",
	"PUT /secrets/%s/versions/restore", "POST /secret-versions/get-by-ids", "POST /secret-versions/delete",
	"POST /secrets/%o/trash/empty", "POST /secrets/%o/trash/restore", "POST /sm/%o/import",
}

// FuzzBodies sends any body to every route: what is refused is refused with the
// original's error object, and stores nothing; what is stored clients can read.
func FuzzBodies(f *testing.F) {
	text := key.Encrypt("x")
	for _, seed := range []string{
		``, `null`, `{}`, `[]`, `"x"`, `1e999`, `{"ids":["%s"]}`, `{"ids":[]}`, `["%s"]`, `["%p"]`, `["%s","%s"]`, `[null]`, `{"IDS":["%s"]}`,
		`{"name":"` + text + `"}`, `{"name":""}`, `{"name":1}`, `{"name":"2.x|y|z"}`,
		`{"key":"` + text + `","value":"` + text + `","note":"` + text + `"}`,
		`{"key":"` + text + `","value":"` + text + `","note":"` + text + `","projectIds":["%p"],"valueChanged":true}`,
		`{"key":"` + text + `","value":"` + text + `","note":"` + text + `","projectIds":["%p","%p"]}`,
		`{"key":"` + text + `","value":"` + text + `\u0000","note":"\ud800"}`,
		`{"key":"` + text + `","value":"` + text + `","note":"` + text + `","projectIds":["%p"],"accessPoliciesRequests":{"userAccessPolicyRequests":[{"granteeId":"\u0000","read":true}]}}`,
		`{"key":"` + text + `","value":"` + text + `","note":"` + text + `","accessPoliciesRequests":{"serviceAccountAccessPolicyRequests":[{"granteeId":"%s","read":true}]}}`,
		`{"versionId":"%s"}`, `{"versionId":null}`,
		`{"projects":[{"id":"x","name":"` + text + `"}],"secrets":[{"key":"` + text + `","value":"` + text + `","note":"` + text + `","projectIds":["x"],"id":"y"}]}`,
		`{"projects":[{}],"secrets":[{}]}`, `{"projects":5}`, `{"secrets":[`,
		strings.Repeat(`[`, 100), strings.Repeat(`{"a":`, 100),
	} {
		for i := range bodies {
			f.Add(uint8(i), seed)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body string) {
		h := openWith(t, memory.New(), Config{API: config.API{Serving: config.Serving{RequestTimeout: 5 * time.Second}}})
		p := h.project()
		s := h.secret("value", p)
		h.machine("robot", grants{p: machine.ToWrite}, nil, machine.Token{})
		fill := strings.NewReplacer("%o", organization, "%p", p, "%s", s)
		route := fill.Replace(bodies[int(which)%len(bodies)])
		for _, caller := range []string{"robot", "admin"} {
			h.driver.Reset()
			status, text := h.do(caller, route, fill.Replace(body))
			switch {
			case status == http.StatusOK:
				if len(text) > 0 && !json.Valid(text) {
					t.Errorf("%s answers %q", route, text)
				}
			case status >= 400 && status < 500:
				var refusal problem
				if err := json.Unmarshal(text, &refusal); err != nil || refusal.Object != "error" || refusal.Message == nil {
					t.Errorf("%s: %d %q", route, status, text)
				}
				if writes := h.driver.Calls(storetest.Put, storetest.Delete); writes != 0 {
					t.Errorf("%s: %d, and %d writes", route, status, writes)
				}
			default:
				t.Errorf("%s with %q: %d %s", route, body, status, text)
			}
		}
		h.readable(t)
	})
}

// readable fails unless clients can read everything there is.
func (h *house) readable(t *testing.T) {
	t.Helper()
	check := func(texts ...string) {
		for _, text := range texts {
			if err := encstring.Check(text); err != nil {
				t.Errorf("%q is stored", text)
			}
		}
	}
	for _, p := range get[smapi.List[projectAnswer]](h, "admin", "GET /organizations/"+organization+"/projects", nil).Data {
		check(p.Name)
	}
	list := get[secretsAnswer](h, "admin", "GET /organizations/"+organization+"/secrets", nil)
	for _, s := range list.Secrets {
		got := get[secretAnswer](h, "admin", "GET /secrets/"+s.ID, nil)
		check(got.Key, got.Value, got.Note)
	}
}
