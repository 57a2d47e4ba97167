package wire

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/encstring"
)

// Machines is a Secrets Manager that serves, and the development identity server
// whose tokens make its operators.
type Machines struct {
	// URL is what clients are given: the API is below /api, the exchange of
	// tokens below /identity.
	URL string
	// Operators is the base of the operators' identity server.
	Operators string
	// Client makes the operators' requests, TLS the machines' connections where
	// URL is https.
	Client *http.Client
	TLS    *tls.Config
}

// RunMachines replays what machines' clients send, header by header, and takes
// the answers apart as strictly as they do. It makes organisations of its own.
func RunMachines(t *testing.T, target Machines) {
	for _, test := range []struct {
		name string
		run  func(*testing.T, Machines)
	}{
		{"a machine's day, as it was observed", machinesDay},
		{"a revoked token's session ends with the reason", revokedSession},
		{"a failed exchange says no more than it should", failedExchanges},
		{"a machine reaches its own project alone", ownProject},
		{"operators manage what machines use", operatorsDay},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, target) })
	}
}

// organization is one with an operator, and its key, which only clients have.
type organization struct {
	Machines
	id, operator string
	key          encstring.Key
}

func (target Machines) newOrganization(t *testing.T) organization {
	t.Helper()
	o := organization{Machines: target, id: uuid.NewString(), key: encstring.NewKey()}
	o.operator = Target{IdentityURL: target.Operators, Client: target.Client}.Token(t, uuid.NewString(), "orgowner", o.id)
	return o
}

// operate sends a request as an operator and decodes the answer.
func (o organization) operate(t *testing.T, method, path, body string, into any) {
	t.Helper()
	a := Target{URL: o.URL + "/api", Client: o.Client}.wantStatus(t, request{
		method: method, path: path, token: o.operator, body: body, header: http.Header{"Content-Type": {"application/json"}},
	}, http.StatusOK)
	if into == nil {
		return
	}
	if err := json.Unmarshal([]byte(a.body), into); err != nil {
		t.Fatalf("%s %s: %v in %s", method, path, err, a.body)
	}
}

type withID struct {
	ID string `json:"id"`
}

func (o organization) newProject(t *testing.T, name string) string {
	t.Helper()
	var project withID
	o.operate(t, http.MethodPost, "/organizations/"+o.id+"/projects", asJSON(map[string]any{"name": o.key.Encrypt(name)}), &project)
	return project.ID
}

// newMachine makes a service account with rights on some projects, and a token.
func (o organization) newMachine(t *testing.T, projects ...string) (account string, token accesstoken.Token) {
	t.Helper()
	var made withID
	o.operate(t, http.MethodPost, "/organizations/"+o.id+"/service-accounts", asJSON(map[string]any{"name": o.key.Encrypt("machine")}), &made)
	grants := make([]map[string]any, 0, len(projects))
	for _, id := range projects {
		grants = append(grants, map[string]any{"grantedId": id, "read": true, "write": true})
	}
	o.operate(t, http.MethodPut, "/service-accounts/"+made.ID+"/granted-policies", asJSON(map[string]any{"projectGrantedPolicyRequests": grants}), nil)
	return made.ID, o.newToken(t, made.ID)
}

// newToken does the part of a web vault that creates a token.
func (o organization) newToken(t *testing.T, account string) accesstoken.Token {
	t.Helper()
	token := accesstoken.New("", "")
	derived, err := token.Key()
	if err != nil {
		t.Fatal(err)
	}
	payload, err := token.Seal(o.key)
	if err != nil {
		t.Fatal(err)
	}
	var created struct {
		withID
		ClientSecret string `json:"clientSecret"`
	}
	o.operate(t, http.MethodPost, "/service-accounts/"+account+"/access-tokens", asJSON(map[string]any{
		"name": o.key.Encrypt("token"), "encryptedPayload": payload, "key": o.key.Encrypt(derived.Reveal()), "expireAt": nil,
	}), &created)
	token.ID, token.ClientSecret = created.ID, created.ClientSecret
	return token
}

// secretBody is a secret's body in the order of members that was observed.
func (o organization) secretBody(project, key, value, note string) string {
	return asJSON(struct {
		Key        string   `json:"key"`
		Value      string   `json:"value"`
		Note       string   `json:"note"`
		ProjectIDs []string `json:"projectIds"`
	}{o.key.Encrypt(key), o.key.Encrypt(value), o.key.Encrypt(note), []string{project}})
}

func asJSON(value any) string {
	body, err := json.Marshal(value)
	if err != nil {
		panic(err) // tests marshal what they wrote themselves
	}
	return string(body)
}

// connection is one of a machine's client, which writes its bytes itself.
type connection struct {
	host   string
	conn   net.Conn
	reader *bufio.Reader
}

func (target Machines) dial(t *testing.T) *connection {
	t.Helper()
	u, err := url.Parse(target.URL)
	if err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	if u.Scheme == "https" {
		// No ALPN: the observed clients speak HTTP/1.1 without asking.
		conn, err = (&tls.Dialer{Config: target.TLS}).DialContext(t.Context(), "tcp", u.Host)
	} else {
		conn, err = new(net.Dialer).DialContext(t.Context(), "tcp", u.Host)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &connection{host: u.Host, conn: conn, reader: bufio.NewReader(conn)}
}

// send writes a request line, the headers in the order they were seen in, and a
// body.
func (c *connection) send(t *testing.T, line string, headers []string, body string) answer {
	t.Helper()
	var raw bytes.Buffer
	fmt.Fprintf(&raw, "%s HTTP/1.1\r\n", line)
	for _, h := range headers {
		fmt.Fprintf(&raw, "%s\r\n", h)
	}
	fmt.Fprintf(&raw, "Host: %s\r\n", c.host)
	if body != "" {
		fmt.Fprintf(&raw, "Content-Length: %d\r\n", len(body))
	}
	fmt.Fprintf(&raw, "\r\n%s", body)
	if _, err := c.conn.Write(raw.Bytes()); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return answer{response.StatusCode, response.Header, string(content)}
}

// exchange logs in as the observed clients do (2.1).
func (c *connection) exchange(t *testing.T, token accesstoken.Token) answer {
	t.Helper()
	return c.send(t, "POST /identity/connect/token", []string{
		"Accept: application/json",
		"Content-Type: application/x-www-form-urlencoded; charset=utf-8",
		"Device-Type: 21",
		"User-Agent: Bitwarden GOLANG-SDK",
	}, "scope=api.secrets&client_id="+token.ID+"&client_secret="+url.QueryEscape(token.ClientSecret)+"&grant_type=client_credentials")
}

// call sends an API request as the observed clients do (3).
func (c *connection) call(t *testing.T, session, line, body string) answer {
	t.Helper()
	headers := []string{"Authorization: Bearer " + session, "Accept: */*", "Device-Type: 21", "User-Agent: Bitwarden GOLANG-SDK"}
	if body != "" {
		headers = append(headers, "Content-Type: application/json")
	}
	return c.send(t, line, headers, body)
}

// login exchanges a token and checks the five members (2.2), and the claims that
// clients read (2.3).
func (c *connection) login(t *testing.T, token accesstoken.Token, organization string) (session, payload string) {
	t.Helper()
	a := c.exchange(t, token)
	if a.status != http.StatusOK || a.header.Get("Cache-Control") != "no-store" {
		t.Fatalf("exchange: %d %s, Cache-Control %q", a.status, a.body, a.header.Get("Cache-Control"))
	}
	o := strict(t, a, "access_token", "expires_in", "token_type", "scope", "encrypted_payload")
	if len(o) != 5 || o["expires_in"].(float64) != 3600 || o["token_type"] != "Bearer" || o["scope"] != "api.secrets" {
		t.Errorf("the exchange answered %v", members(o))
	}
	session = o["access_token"].(string)
	claims := claimsOf(t, session)
	if claims.Organization != organization || !slices.Equal(claims.Scope, []string{"api.secrets"}) || claims.Expiry == 0 ||
		claims.ClientID != token.ID || claims.Subject == "" || claims.Type != "ServiceAccount" {
		t.Errorf("the session's claims are %+v", claims)
	}
	return session, o["encrypted_payload"].(string)
}

type sessionClaims struct {
	Organization string   `json:"organization"`
	Scope        []string `json:"scope"`
	Expiry       int64    `json:"exp"`
	ClientID     string   `json:"client_id"`
	Subject      string   `json:"sub"`
	Type         string   `json:"type"`
}

func claimsOf(t *testing.T, session string) (claims sessionClaims) {
	t.Helper()
	parts := strings.Split(session, ".")
	if len(parts) != 3 {
		t.Fatalf("a session of %d parts", len(parts))
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(payload, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

// strict decodes an object, in which none of the members may be missing or null.
func strict(t *testing.T, a answer, names ...string) map[string]any {
	t.Helper()
	if a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if got := a.header.Get("Content-Type"); !strings.HasPrefix(got, "application/json") {
		t.Errorf("the content type is %q", got)
	}
	var object map[string]any
	if err := json.Unmarshal([]byte(a.body), &object); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	has(t, object, names...)
	return object
}

func has(t *testing.T, object map[string]any, names ...string) {
	t.Helper()
	for _, name := range names {
		if object[name] == nil {
			t.Fatalf("there is no %s in %v", name, object)
		}
		if text, ok := object[name].(string); ok && strings.HasSuffix(name, "Date") {
			if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func members(o map[string]any) []string {
	names := make([]string, 0, len(o))
	for name := range o {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func elements(t *testing.T, object map[string]any, name string) []map[string]any {
	t.Helper()
	list, ok := object[name].([]any)
	if !ok {
		t.Fatalf("%s is no list: %v", name, object[name])
	}
	var objects []map[string]any
	for _, element := range list {
		objects = append(objects, element.(map[string]any))
	}
	return objects
}

// The members without which the released clients fail (3).
var (
	projectMembers = []string{"id", "organizationId", "name", "creationDate", "revisionDate"}
	secretMembers  = []string{"id", "organizationId", "key", "value", "note", "creationDate", "revisionDate"}
	listedMembers  = []string{"id", "organizationId", "key"}
)

// machinesDay is the sequence of section 7.
func machinesDay(t *testing.T, target Machines) {
	o := target.newOrganization(t)
	_, token := o.newMachine(t)
	c := target.dial(t)
	session, payload := c.login(t, token, o.id)
	if key, err := token.Open(payload); err != nil || key != o.key {
		t.Fatalf("the payload does not hold the organisation's key: %v", err)
	}
	inOrganization := func(object map[string]any) {
		t.Helper()
		if object["organizationId"] != o.id {
			t.Errorf("organizationId is %v", object["organizationId"])
		}
	}

	project := strict(t, c.call(t, session, "POST /api/organizations/"+o.id+"/projects", asJSON(map[string]string{"name": o.key.Encrypt("first")})), projectMembers...)
	inOrganization(project)
	projectID := project["id"].(string)
	list := strict(t, c.call(t, session, "GET /api/organizations/"+o.id+"/projects", ""), "data", "object")
	if projects := elements(t, list, "data"); len(projects) != 1 {
		t.Errorf("%d projects", len(projects))
	} else {
		has(t, projects[0], projectMembers...)
	}
	inOrganization(strict(t, c.call(t, session, "GET /api/projects/"+projectID, ""), projectMembers...))
	renamed := strict(t, c.call(t, session, "PUT /api/projects/"+projectID, asJSON(map[string]string{"name": o.key.Encrypt("second")})), projectMembers...)
	if name, err := o.key.Decrypt(renamed["name"].(string)); err != nil || name != "second" {
		t.Errorf("the project is called %q (%v)", name, err)
	}

	body := func(key, value, note string) string { return o.secretBody(projectID, key, value, note) }
	var ids []string
	for _, key := range []string{"DB_PASSWORD", "EMPTY"} {
		secret := strict(t, c.call(t, session, "POST /api/organizations/"+o.id+"/secrets", body(key, "hunter2 – ünïcode ✓", "")), secretMembers...)
		inOrganization(secret)
		ids = append(ids, secret["id"].(string))
	}
	listed := strict(t, c.call(t, session, "GET /api/organizations/"+o.id+"/secrets", ""), "secrets", "projects", "object")
	if secrets := elements(t, listed, "secrets"); len(secrets) != 2 {
		t.Errorf("%d secrets", len(secrets))
	} else {
		for _, s := range secrets {
			has(t, s, listedMembers...)
			inOrganization(s)
			if s["value"] != nil || s["note"] != nil {
				t.Error("a list tells a value")
			}
		}
	}
	secret := strict(t, c.call(t, session, "GET /api/secrets/"+ids[0], ""), secretMembers...)
	if value, err := o.key.Decrypt(secret["value"].(string)); err != nil || value != "hunter2 – ünïcode ✓" {
		t.Errorf("the value is %q (%v)", value, err)
	}
	if projects := elements(t, secret, "projects"); len(projects) != 1 || projects[0]["id"] != projectID || projects[0]["name"] != renamed["name"] {
		t.Errorf("the secret's projects are %v", projects)
	}
	byIDs := strict(t, c.call(t, session, "POST /api/secrets/get-by-ids", asJSON(map[string]any{"ids": ids})), "data", "object")
	if secrets := elements(t, byIDs, "data"); len(secrets) != 2 {
		t.Errorf("%d secrets by id", len(secrets))
	} else {
		for _, s := range secrets {
			has(t, s, secretMembers...)
		}
	}
	edited := strict(t, c.call(t, session, "PUT /api/secrets/"+ids[0], body("DB_PASSWORD", "changed", "a note")), secretMembers...)
	if value, err := o.key.Decrypt(edited["value"].(string)); err != nil || value != "changed" {
		t.Errorf("the edited value is %q (%v)", value, err)
	}
	synced := strict(t, c.call(t, session, "GET /api/organizations/"+o.id+"/secrets/sync", ""), "hasChanges", "secrets", "object")
	if synced["hasChanges"] != true || len(elements(t, synced["secrets"].(map[string]any), "data")) != 2 {
		t.Errorf("the first sync gave %v", synced)
	}
	last := url.QueryEscape(time.Now().UTC().Format("2006-01-02T15:04:05.000000000") + "+00:00")
	again := strict(t, c.call(t, session, "GET /api/organizations/"+o.id+"/secrets/sync?lastSyncedDate="+last, ""), "hasChanges", "object")
	if again["hasChanges"] != false || again["secrets"] != nil {
		t.Errorf("a second sync gave %v", again)
	}
	for _, step := range []struct{ line, id string }{{"POST /api/secrets/delete", ids[0]}, {"POST /api/projects/delete", projectID}} {
		deleted := strict(t, c.call(t, session, step.line, asJSON([]string{step.id})), "data", "object")
		if results := elements(t, deleted, "data"); len(results) != 1 || results[0]["id"] != step.id || results[0]["error"] != nil {
			t.Errorf("%s gave %v", step.line, results)
		}
	}
}

func revokedSession(t *testing.T, target Machines) {
	o := target.newOrganization(t)
	account, token := o.newMachine(t)
	c := target.dial(t)
	session, _ := c.login(t, token, o.id)
	list := "GET /api/organizations/" + o.id + "/secrets"
	if a := c.call(t, session, list, ""); a.status != http.StatusOK {
		t.Fatalf("%d %s", a.status, a.body)
	}
	// Foreign and unknown ids are let be (4).
	revoke := asJSON(map[string]any{"ids": []string{uuid.NewString(), token.ID}})
	o.operate(t, http.MethodPost, "/service-accounts/"+account+"/access-tokens/revoke", revoke, nil)
	o.operate(t, http.MethodPost, "/service-accounts/"+account+"/access-tokens/revoke", revoke, nil)

	a := c.call(t, session, list, "")
	wantError(t, a)
	if a.status != http.StatusUnauthorized || !strings.Contains(a.body, "revoked") {
		t.Errorf("a revoked token's session got %d %s", a.status, a.body)
	}
	a = c.exchange(t, token)
	if message := oauthMessage(t, a); a.status != http.StatusBadRequest || !strings.Contains(message, "revoked") {
		t.Errorf("the exchange of a revoked token got %d %s", a.status, a.body)
	}
}

// oauthMessage is what released clients show of a refused exchange (2.4).
func oauthMessage(t *testing.T, a answer) string {
	t.Helper()
	var body struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
		ErrorModel  *struct {
			Message string
			Object  string
		}
	}
	if err := json.Unmarshal([]byte(a.body), &body); err != nil {
		t.Fatalf("%v in %s", err, a.body)
	}
	if body.ErrorModel == nil || body.Error == "" || body.Description == "" || body.ErrorModel.Object != "error" {
		return ""
	}
	return body.ErrorModel.Message
}

func failedExchanges(t *testing.T, target Machines) {
	o := target.newOrganization(t)
	_, token := o.newMachine(t)
	c := target.dial(t)
	wrong, unknown := token, token
	wrong.ClientSecret = accesstoken.NewSecret()
	unknown.ID = uuid.NewString()
	for name, failing := range map[string]accesstoken.Token{"a wrong secret": wrong, "an unknown id": unknown} {
		a := c.exchange(t, failing)
		if a.status != http.StatusBadRequest || strings.TrimSpace(a.body) != `{"error":"invalid_client"}` {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
	c.login(t, token, o.id)
}

func ownProject(t *testing.T, target Machines) {
	o := target.newOrganization(t)
	first, second := o.newProject(t, "first"), o.newProject(t, "second")
	_, one := o.newMachine(t, first)
	_, two := o.newMachine(t, second)
	c := target.dial(t)
	session, _ := c.login(t, one, o.id)
	secret := strict(t, c.call(t, session, "POST /api/organizations/"+o.id+"/secrets", o.secretBody(first, "k", "v", "")), secretMembers...)
	other, _ := c.login(t, two, o.id)
	id := secret["id"].(string)
	for line, body := range map[string]string{
		"GET /api/secrets/" + id:                               "",
		"GET /api/projects/" + first:                           "",
		"GET /api/projects/" + first + "/secrets":              "",
		"POST /api/secrets/get-by-ids":                         asJSON(map[string]any{"ids": []string{id}}),
		"GET /api/organizations/" + first + "/secrets":         "",
		"GET /api/organizations/" + o.id + "/service-accounts": "",
	} {
		a := c.call(t, other, line, body)
		wantError(t, a)
		if a.status != http.StatusNotFound {
			t.Errorf("%s: %d %s", line, a.status, a.body)
		}
	}
	listed := strict(t, c.call(t, other, "GET /api/organizations/"+o.id+"/secrets", ""), "secrets", "projects")
	if secrets := elements(t, listed, "secrets"); len(secrets) != 0 {
		t.Errorf("a foreign secret is listed: %v", secrets)
	}
}

// operatorsDay goes through what the web vault and the command do besides.
func operatorsDay(t *testing.T, target Machines) {
	o := target.newOrganization(t)
	first, second := o.newProject(t, "first"), o.newProject(t, "second")
	account, token := o.newMachine(t, first)
	c := target.dial(t)
	session, _ := c.login(t, token, o.id)
	inOrganization := "/organizations/" + o.id

	var settings struct{ Enabled bool }
	o.operate(t, http.MethodPut, inOrganization+"/secrets-manager", asJSON(map[string]any{"keyCheck": o.key.Encrypt(o.id), "maxTokenLifetimeSeconds": 86400}), &settings)
	if !settings.Enabled {
		t.Error("the organization is not enabled")
	}
	for _, path := range []string{
		inOrganization + "/sm-counts", "/projects/" + first + "/sm-counts", "/service-accounts/" + account + "/sm-counts",
		inOrganization + "/access-policies/people/potential-grantees", inOrganization + "/access-policies/projects/potential-grantees",
		inOrganization + "/access-policies/service-accounts/potential-grantees", inOrganization + "/secrets-manager",
		inOrganization + "/service-accounts?includeAccessToSecrets=true", "/service-accounts/" + account + "/access-tokens?includeRevoked=true",
		"/service-accounts/" + account + "/granted-policies", "/projects/" + first + "/access-policies/service-accounts",
		"/sm/events/service-accounts/" + account,
	} {
		o.operate(t, http.MethodGet, path, "", nil)
	}
	person := asJSON(map[string]any{"userAccessPolicyRequests": []map[string]any{{"granteeId": uuid.NewString(), "read": true, "write": true}}, "groupAccessPolicyRequests": []string{}})
	for _, thing := range []string{"/service-accounts/" + account, "/projects/" + first} {
		o.operate(t, http.MethodPut, thing+"/access-policies/people", person, nil)
		o.operate(t, http.MethodGet, thing+"/access-policies/people", "", nil)
	}

	// A secret's whole life: made, edited, moved, restored, deleted, purged.
	var secret withID
	o.operate(t, http.MethodPost, inOrganization+"/secrets", o.secretBody(first, "key", "one", ""), &secret)
	o.operate(t, http.MethodPut, "/secrets/"+secret.ID, o.secretBody(second, "key", "two", ""), nil)
	var versions struct{ Data []withID }
	o.operate(t, http.MethodGet, "/secrets/"+secret.ID+"/versions", "", &versions)
	if len(versions.Data) != 1 {
		t.Fatalf("%d versions", len(versions.Data))
	}
	o.operate(t, http.MethodPut, "/secrets/"+secret.ID+"/versions/restore", asJSON(map[string]string{"versionId": versions.Data[0].ID}), nil)
	o.operate(t, http.MethodGet, "/secrets/"+secret.ID+"/access-policies", "", nil)
	for range 2 {
		o.operate(t, http.MethodPost, "/secrets/delete", asJSON([]string{secret.ID}), nil)
		o.operate(t, http.MethodGet, "/secrets/"+o.id+"/trash", "", nil)
		o.operate(t, http.MethodPost, "/secrets/"+o.id+"/trash/restore", asJSON([]string{secret.ID}), nil)
	}
	var archive json.RawMessage
	o.operate(t, http.MethodGet, "/sm/"+o.id+"/export", "", &archive)
	o.operate(t, http.MethodPost, "/sm/"+o.id+"/import", string(archive), nil)
	o.operate(t, http.MethodPost, "/secrets/delete", asJSON([]string{secret.ID}), nil)
	o.operate(t, http.MethodPost, "/secrets/"+o.id+"/trash/empty", asJSON([]string{secret.ID}), nil)
	o.operate(t, http.MethodPost, "/projects/delete", asJSON([]string{second}), nil)

	// The holder gives the token a new secret, and then its account goes.
	rotated := strict(t, c.call(t, session, "POST /api/access-tokens/rotate", asJSON(map[string]string{"clientSecret": token.ClientSecret})), "id", "clientSecret", "object")
	token.ClientSecret = rotated["clientSecret"].(string)
	session, _ = c.login(t, token, o.id)
	o.operate(t, http.MethodPost, "/service-accounts/delete", asJSON([]string{account}), nil)
	a := c.call(t, session, "GET /api"+inOrganization+"/secrets", "")
	if a.status != http.StatusUnauthorized || !strings.Contains(a.body, "deleted") {
		t.Errorf("a deleted account's session got %d %s", a.status, a.body)
	}
}

// RunRevocation revokes a token while many of its sessions ask several
// instances over one store, each again and again: no request that begins after
// the revocation was answered succeeds.
func RunRevocation(t *testing.T, instances []Machines, sessions int) {
	o := instances[0].newOrganization(t)
	account, token := o.newMachine(t)
	var (
		revoked          atomic.Bool
		before, after    atomic.Int64
		together, warmUp sync.WaitGroup
	)
	together.Add(sessions)
	warmUp.Add(sessions)
	for i := range sessions {
		target := instances[i%len(instances)]
		c := target.dial(t)
		session, _ := c.login(t, token, o.id)
		list := request{method: http.MethodGet, path: "/organizations/" + o.id + "/secrets", token: session}
		api := Target{URL: target.URL + "/api", Client: target.Client}
		go func() {
			defer together.Done()
			for n := 0; after.Load() < int64(10*sessions); n++ {
				isAfter := revoked.Load()
				a, err := api.try(t, list)
				switch {
				case err != nil:
					t.Error(err)
				case a.status == http.StatusOK && isAfter:
					t.Error("a request that began after the revocation succeeded")
				case a.status != http.StatusOK && a.status != http.StatusUnauthorized:
					t.Errorf("%d %s", a.status, a.body)
				case isAfter:
					after.Add(1)
				case a.status == http.StatusOK:
					before.Add(1)
				}
				if n == 1 {
					warmUp.Done()
				}
				if err != nil {
					return
				}
			}
		}()
	}
	warmUp.Wait()
	o.operate(t, http.MethodPost, "/service-accounts/"+account+"/access-tokens/revoke", asJSON(map[string]any{"ids": []string{token.ID}}), nil)
	revoked.Store(true)
	together.Wait()
	t.Logf("%d sessions over %d instances: %d requests succeeded before, %d were refused after", sessions, len(instances), before.Load(), after.Load())
	if before.Load() < int64(sessions) || after.Load() < int64(10*sessions) {
		t.Errorf("%d requests before and %d after are too few to tell", before.Load(), after.Load())
	}
}
