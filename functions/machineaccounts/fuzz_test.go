package machineaccounts_test

import (
	"net/http"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// Whatever a body is, the answer is a success or the caller's fault with
// Bitwarden's error object (which send checks), and a refused request leaves
// nothing behind.
func FuzzBodies(f *testing.F) {
	h := open(f)
	machineAccount, project := h.newAccount(f, h.alice), h.newProject(f)
	made := h.newToken(f, machineAccount)
	session := h.Session(f, machineAccount, id(made))
	path, name := "/service-accounts/"+machineAccount, h.Enc()
	routes := []struct{ token, method, path string }{
		{h.alice, http.MethodPost, "/organizations/" + h.ID + "/service-accounts"},
		{h.alice, http.MethodPut, path},
		{h.alice, http.MethodPost, path + "/access-tokens"},
		{h.alice, http.MethodPut, path + "/access-policies/people"},
		{h.alice, http.MethodPut, path + "/granted-policies"},
		{h.alice, http.MethodPut, "/projects/" + project + "/access-policies/people"},
		{h.alice, http.MethodPut, "/projects/" + project + "/access-policies/service-accounts"},
		{h.alice, http.MethodPut, "/organizations/" + h.ID + "/secrets-manager"},
		{session, http.MethodPost, "/access-tokens/rotate"},
		{h.alice, http.MethodPost, "/service-accounts/delete"},
	}
	for route, bodies := range [][]string{
		{`{"name":"` + name + `"}`, `{"name":null}`, `[]`, `{`, ``, `null`},
		{`{"name":"` + name + `","mayCreateProjects":false}`, `{"name":"` + name + `","mayCreateProjects":7}`},
		{
			`{"name":"` + name + `","encryptedPayload":"` + name + `","key":"` + name + `","expireAt":null}`,
			`{"name":"` + name + `","encryptedPayload":"` + name + `","key":"` + name + `","expireAt":"9999-12-31T23:59:59-23:59","readOnly":true,"projectIds":["` + project + `"]}`,
			`{"name":"` + name + `","encryptedPayload":"` + name + `","key":"` + name + `","expireAt":"0001-01-01T00:00:00Z","projectIds":[null]}`,
		},
		{`{"userAccessPolicyRequests":[{"granteeId":"bob","read":true,"write":true}],"groupAccessPolicyRequests":null}`, `{"userAccessPolicyRequests":[{"granteeId":"\u0000","read":true,"write":true}]}`},
		{`{"projectGrantedPolicyRequests":[{"grantedId":"` + project + `","read":true,"write":false}]}`},
		{`{"groupAccessPolicyRequests":[{"granteeId":"ops","read":true,"write":false}]}`, `{"userAccessPolicyRequests":[null]}`},
		{`{"serviceAccountAccessPolicyRequests":[{"granteeId":"` + machineAccount + `","read":true}]}`},
		{`{"keyCheck":"` + name + `","maxTokenLifetimeSeconds":7776000,"enabled":true}`, `{"maxTokenLifetimeSeconds":1e400}`, `{"maxTokenLifetimeSeconds":-9223372036854775808}`},
		{`{"clientSecret":"` + made["clientSecret"].(string) + `","graceSeconds":60}`, `{"clientSecret":"x","graceSeconds":9223372036854775807}`},
		{`["` + project + `"]`, `[null]`, `["` + project + `","x"]`},
	} {
		for _, body := range bodies {
			f.Add(uint8(route), body)
		}
	}
	f.Fuzz(func(t *testing.T, route uint8, body string) {
		r := routes[int(route)%len(routes)]
		h.Driver.Reset()
		w, _ := h.send(t, r.token, r.method, r.path, body)
		if w.Code != http.StatusOK && (w.Code < 400 || w.Code > 499) {
			t.Errorf("%s %s with %q: %d %s", r.method, r.path, body, w.Code, w.Body)
		}
		if n := h.Driver.Calls(storetest.Put, storetest.Delete); w.Code != http.StatusOK && n != 0 {
			t.Errorf("%s %s with %q: %d, and %d writes", r.method, r.path, body, w.Code, n)
		}
	})
}
