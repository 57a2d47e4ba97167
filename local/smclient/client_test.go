package smclient

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/encstring"
)

// The published test vectors: throw-away keys, read back through the released
// clients.
const (
	vectorToken        = "0.7e9d3c11-52aa-4be0-a3c4-b1d200c0ffee.Zq3xT7mB9sLk2VdR5nHyW8cJ0pFgE1:WanIP4Ot3Df/F5RlzRlQAQ=="
	vectorTokenID      = "7e9d3c11-52aa-4be0-a3c4-b1d200c0ffee"
	vectorSecret       = "Zq3xT7mB9sLk2VdR5nHyW8cJ0pFgE1"
	vectorOrganization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	vectorAccount      = "0c4f6d2a-9b1e-4c55-8f6b-b1d200c0ffee"
	vectorKey          = "9WHZkdhZ7qhqZ+SKszI2EAnO2s1Uw6DZImwVYaEeE0Kxbh1cyaDR07aWPeeOl1W+7qutDrxJ9aGbRcFz+9/l0g=="
	vectorPayload      = "2.tprwyJSFsXuVlELANbmrkA==|yPACB7GU5BG2UOkvYCYoXfusNFmFpAo1DI2ExGonqQIgtFuaLXoHWgp9RxmOWa6d4goo0RVY/bI2zZ+5qZ8RKs0JPXn6gVcsp008M9M2MAlRODfn12daNhS4Csbf8fqCVoKH43dJXhoPkd0hU/OQag==|VJ+fG0+BpfRn16+7iY9S83ZOucanmmtNhc53li19Xsk="
	vectorProject      = "91f0aa07-1de4-4a2b-8c77-b1d200c0ffee"
	vectorProjectName  = "2.ThZir8taIuTYFzt3FpSzbg==|l3n35A8dpFEzzNJxQNLqIQ==|u4bQjlk65FQAsobcRuy2IPKEy3+6TgMNFCNi2I2qM1g="
	vectorSecretID     = "c2d1e8f4-6b3a-47c9-9e10-b1d200c0ffee"
	vectorSecretKey    = "2.dSlR2Y7KxQYuFQIdl15Bbw==|d2eW0n04JIGarAQC1FqIsA==|AO3PXLt4soCcdWRzQxrCGZmcvB29tHm0Wco8aDlwP1c="
	vectorSecretValue  = "2.YZwLp4ov8HJPMVJPUP5THw==|LXDSSAVUp5lTHqOWkZA4xWcEC08S7jeFSbMZdthTtgE=|/8lzAzebzj0ofnCQ8tBryxeZwDLcUF1ZqdAUvbQsm9U="
	vectorSecretNote   = "2.bMYn5prP35vDx/o6aBo71w==|Zozho+MePyo6ru6lwswpLQ==|wyOzWfHUCRSe4cObZsBaz/o/juNY2l1YFU8SZ9NgO30="
	vectorSecret2ID    = "d7b4a9c3-0f5e-4d21-b8a6-b1d200c0ffee"
	// Those that a released client wrote itself.
	writtenBySDKKey   = "2.0xHzz4cB3hkANxdyCGr7iw==|tikVi17TLXhLjPWCiRiSXQ==|0EfCNWQqVJbQ0rdramd76dHO8vWQtX/2kic66mFrLLg="
	writtenBySDKValue = "2.eDaB1eC5vwkEZQU4EXc/Qg==|XOGIRLOv71UOYwsudWmlIKatzyecolZgM3gC51jXWbE=|UoOYHRJ7eD/10X0qWtgHsC/HxNcQrWA5pugPSu1g2Po="
	writtenBySDKNote  = "2.42PecVwc3dVpbKsisf8qng==|CGtKapD2zTPCt/SrZVgrZQ==|/q4j9FbcnocUEQYkvpe9+psvqxA5Mh1ICS05Z3IX9pg="
)

// scripted is a server that answers as it is told, and remembers the requests.
type scripted struct {
	*httptest.Server
	mu       sync.Mutex
	answers  map[string][]answer // by method and path; the last one stays
	requests []request
}

type answer struct {
	status int
	header map[string]string
	body   string
	cut    bool // the connection breaks before the answer
}

type request struct {
	line   string
	header http.Header
	body   string
}

func ok(body string) []answer { return []answer{{status: http.StatusOK, body: body}} }

func newScripted(t *testing.T, answers map[string][]answer) *scripted {
	t.Helper()
	s := &scripted{answers: map[string][]answer{"POST /identity/connect/token": ok(tokenAnswer(3600))}}
	maps.Copy(s.answers, answers)
	s.Server = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.Close)
	return s
}

func (s *scripted) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	line := r.Method + " " + r.URL.RequestURI()
	s.mu.Lock()
	s.requests = append(s.requests, request{line, r.Header, string(body)})
	a := answer{status: http.StatusNotFound, body: `{"message":"Resource not found.","object":"error"}`}
	if all := s.answers[line]; len(all) > 0 {
		a = all[0]
		if len(all) > 1 {
			s.answers[line] = all[1:]
		}
	}
	s.mu.Unlock()
	if a.cut {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	for name, value := range a.header {
		w.Header().Set(name, value)
	}
	w.WriteHeader(a.status)
	_, _ = io.WriteString(w, a.body)
}

func (s *scripted) seen() []request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// count is how often a request came.
func (s *scripted) count(line string) (n int) {
	for _, r := range s.seen() {
		if r.line == line {
			n++
		}
	}
	return n
}

func (s *scripted) config() Config { return Config{Server: s.URL, Pause: time.Millisecond} }

func (s *scripted) machine(t *testing.T) *Client {
	t.Helper()
	token, err := accesstoken.Parse(vectorToken)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ForMachine(s.config(), token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (s *scripted) operator(t *testing.T) *Client {
	t.Helper()
	c, err := ForOperator(s.config(), Operator{
		Bearer: "operators-bearer", Organization: strings.ToUpper(vectorOrganization),
		Key: func(context.Context) (encstring.Key, error) { return encstring.ParseKey(vectorKey) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func organizationKey(t *testing.T) encstring.Key {
	t.Helper()
	key, err := encstring.ParseKey(vectorKey)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func jwt(claims string) string {
	encode := base64.RawURLEncoding.EncodeToString
	return encode([]byte(`{"alg":"RS256"}`)) + "." + encode([]byte(claims)) + "." + encode([]byte("signature"))
}

const goodClaims = `{"organization":"` + vectorOrganization + `","sub":"` + vectorAccount + `","scope":["api.secrets"],"exp":4102444800}`

func tokenAnswer(expiresIn int) string {
	return fmt.Sprintf(`{"access_token":%q,"expires_in":%d,"token_type":"Bearer","scope":"api.secrets","encrypted_payload":%q}`, jwt(goodClaims), expiresIn, vectorPayload)
}

const (
	dates         = `"creationDate":"2026-01-02T03:04:05.6789000Z","revisionDate":"2026-01-02T03:04:05+00:00"`
	projectAnswer = `{"id":"` + vectorProject + `","organizationId":"` + vectorOrganization + `","name":"` + vectorProjectName + `",` + dates + `,"read":true,"write":true,"object":"project"}`
	secretAnswer  = `{"id":"` + vectorSecretID + `","organizationId":"` + vectorOrganization + `","key":"` + vectorSecretKey + `","value":"` + vectorSecretValue +
		`","note":"` + vectorSecretNote + `",` + dates + `,"projects":[{"id":"` + vectorProject + `","name":"` + vectorProjectName + `"}],"read":true,"write":true,"object":"secret"}`
	headsAnswer = `{"secrets":[{"id":"` + vectorSecretID + `","organizationId":"` + vectorOrganization + `","key":"` + vectorSecretKey + `",` + dates +
		`,"projects":[],"read":true,"write":true}],"projects":[],"object":"SecretsWithProjectsList"}`
	accountAnswer  = `{"id":"` + vectorAccount + `","organizationId":"` + vectorOrganization + `","name":"` + vectorProjectName + `",` + dates + `,"object":"serviceAccount"}`
	settingsAnswer = `{"organizationId":"` + vectorOrganization + `","keyCheck":null,"maxTokenLifetimeSeconds":null,"enabled":true,` + dates + `,"object":"secretsManagerSettings"}`
	creation       = `{"id":"` + vectorTokenID + `","name":"` + vectorProjectName + `","clientSecret":"freshClientSecret","expireAt":null,` + dates + `,"object":"accessTokenCreation"}`
)

func listOf(objects ...string) string {
	return `{"data":[` + strings.Join(objects, ",") + `],"continuationToken":null,"object":"list"}`
}

const (
	projectsLine = "GET /api/organizations/" + vectorOrganization + "/projects"
	projectLine  = "GET /api/projects/" + vectorProject
	secretLine   = "GET /api/secrets/" + vectorSecretID
	headsLine    = "GET /api/organizations/" + vectorOrganization + "/secrets"
	settingsLine = "GET /api/organizations/" + vectorOrganization + "/secrets-manager"
	tokensLine   = "POST /api/service-accounts/" + vectorAccount + "/access-tokens"
	exchangeLine = "POST /identity/connect/token"
)

func TestTheVectorsAreRead(t *testing.T) {
	bySDK := strings.NewReplacer(vectorSecretID, vectorSecret2ID, vectorSecretKey, writtenBySDKKey, vectorSecretValue, writtenBySDKValue, vectorSecretNote, writtenBySDKNote).Replace(secretAnswer)
	s := newScripted(t, map[string][]answer{
		projectsLine: ok(listOf(projectAnswer)), projectLine: ok(projectAnswer), secretLine: ok(secretAnswer), headsLine: ok(headsAnswer),
		"POST /api/secrets/get-by-ids": ok(listOf(bySDK, secretAnswer)),
	})
	c := s.machine(t)
	if organization, err := c.Organization(t.Context()); err != nil || organization != vectorOrganization {
		t.Errorf("the organisation is %s, %v", organization, err)
	}
	projects, err := c.Projects(t.Context())
	if err != nil || len(projects) != 1 || projects[0].Name != "Vector project" || !projects[0].Write {
		t.Errorf("the projects are %+v, %v", projects, err)
	}
	if want := time.Date(2026, 1, 2, 3, 4, 5, 678900000, time.UTC); len(projects) == 1 && !projects[0].Created.Equal(want) {
		t.Errorf("created %s", projects[0].Created)
	}
	if p, err := c.Project(t.Context(), vectorProject); err != nil || p.Name != "Vector project" {
		t.Errorf("the project is %+v, %v", p, err)
	}
	secret, err := c.Secret(t.Context(), vectorSecretID)
	if err != nil || secret.Key != "DB_PASSWORD" || secret.Value.Reveal() != "hunter2 – ünïcode ✓" || secret.Note.Reveal() != "rotates monthly" ||
		len(secret.Projects) != 1 || secret.Projects[0] != (ProjectRef{vectorProject, "Vector project"}) {
		t.Errorf("the secret is %+v, %v", secret, err)
	}
	if heads, err := c.Secrets(t.Context()); err != nil || len(heads) != 1 || heads[0].Key != "DB_PASSWORD" {
		t.Errorf("the secrets are %+v, %v", heads, err)
	}
	both, err := c.SecretsByIDs(t.Context(), []string{vectorSecretID, vectorSecret2ID})
	if err != nil || len(both) != 2 || both[0].ID != vectorSecretID || both[1].Key != "FROM_SDK" ||
		both[1].Value != "written by the SDK" || both[1].Note != "sdk note" {
		t.Errorf("by ids: %+v, %v", both, err)
	}
	if n := s.count(exchangeLine); n != 1 {
		t.Errorf("%d exchanges", n)
	}
}

// What is sent is of the form that the vectors have, under the same keys.
func TestWhatIsWrittenOpensWithTheVectorsKeys(t *testing.T) {
	s := newScripted(t, map[string][]answer{
		settingsLine: ok(settingsAnswer), tokensLine: ok(creation),
		"POST /api/organizations/" + vectorOrganization + "/secrets":  ok(secretAnswer),
		"PUT /api/secrets/" + vectorSecretID:                          ok(secretAnswer),
		"POST /api/organizations/" + vectorOrganization + "/projects": ok(projectAnswer),
	})
	c, key := s.operator(t), organizationKey(t)
	if _, err := c.CreateProject(t.Context(), " name \n"); err != nil {
		t.Error(err)
	}
	if _, err := c.CreateSecret(t.Context(), Written{Key: " K ", Value: " exactly so\n", Note: " n ", Project: vectorProject}); err != nil {
		t.Error(err)
	}
	if _, err := c.UpdateSecret(t.Context(), vectorSecretID, Written{Key: "K", Value: "0123456789abcdef"}, true); err != nil {
		t.Error(err)
	}
	expires := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	created, err := c.CreateToken(t.Context(), NewToken{Machine: vectorAccount, Name: "build", Expires: expires, ReadOnly: true, Projects: []string{vectorProject}})
	if err != nil {
		t.Fatal(err)
	}

	sent := map[string]map[string]json.RawMessage{}
	for _, r := range s.seen() {
		if r.line == exchangeLine || r.body == "" {
			continue
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(r.body), &members); err != nil {
			t.Fatalf("%s: %v", r.line, err)
		}
		sent[r.line] = members
	}
	open := func(line, member string, key encstring.Key) string {
		t.Helper()
		var sealed string
		if err := json.Unmarshal(sent[line][member], &sealed); err != nil {
			t.Errorf("%s has no %s: %v", line, member, err)
		}
		text, err := key.Decrypt(sealed)
		if err != nil {
			t.Errorf("%s: %s: %v", line, member, err)
		}
		return text
	}
	create, update := "POST /api/organizations/"+vectorOrganization+"/secrets", "PUT /api/secrets/"+vectorSecretID
	for _, c := range []struct{ line, member, want string }{
		{"POST /api/organizations/" + vectorOrganization + "/projects", "name", "name"},
		{create, "key", "K"}, {create, "value", " exactly so\n"}, {create, "note", "n"},
		{update, "value", "0123456789abcdef"}, {update, "note", ""}, // the empty note is a text of its own
		{tokensLine, "name", "build"},
	} {
		if got := open(c.line, c.member, key); got != c.want {
			t.Errorf("%s %s is %q, want %q", c.line, c.member, got, c.want)
		}
	}
	for _, c := range []struct{ line, member, want string }{
		{create, "projectIds", `["` + vectorProject + `"]`}, {create, "valueChanged", ""},
		{update, "projectIds", ""}, {update, "valueChanged", "true"},
		{tokensLine, "expireAt", `"2027-01-01T00:00:00Z"`}, {tokensLine, "readOnly", "true"}, {tokensLine, "projectIds", `["` + vectorProject + `"]`},
	} {
		if got := string(sent[c.line][c.member]); got != c.want {
			t.Errorf("%s %s is %s, want %s", c.line, c.member, got, c.want)
		}
	}

	// The token that was printed opens the payload that was sent.
	back, err := accesstoken.Parse(created.Token.Reveal())
	if err != nil || back.ID != vectorTokenID || back.ClientSecret != "freshClientSecret" {
		t.Fatalf("the token reads back as %s %s, %v", back.ID, back.ClientSecret, err)
	}
	derived, err := back.Key()
	if err != nil {
		t.Fatal(err)
	}
	if got := open(tokensLine, "encryptedPayload", derived); got != `{"encryptionKey":"`+vectorKey+`"}` {
		t.Errorf("the payload is %s", got)
	}
	if got := open(tokensLine, "key", key); got != derived.Reveal() {
		t.Error("the member key is not the derived key")
	}
	for _, r := range s.seen() {
		if seed := strings.TrimPrefix(created.Token.Reveal()[strings.IndexByte(created.Token.Reveal(), ':'):], ":"); strings.Contains(r.body, seed) {
			t.Error("the 16 bytes of the token were sent")
		}
	}
}

func TestRequestsAreThoseOfTheReleasedClients(t *testing.T) {
	s := newScripted(t, map[string][]answer{projectsLine: ok(listOf()), "POST /api/projects/delete": ok(listOf()), projectLine: ok(projectAnswer)})
	token, err := accesstoken.Parse("0." + strings.ToUpper(vectorTokenID) + ".bwsm_A+b/c=d%e&f g~h-éX*:WanIP4Ot3Df/F5RlzRlQAQ")
	if err != nil {
		t.Fatal(err)
	}
	c, err := ForMachine(s.config(), token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Projects(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.DeleteProjects(t.Context(), vectorProject); err != nil {
		t.Fatal(err)
	}
	bearer := "Bearer " + jwt(goodClaims)
	for i, want := range []struct {
		line, body string
		header     map[string]string
	}{
		{
			exchangeLine,
			"scope=api.secrets&client_id=" + vectorTokenID + "&client_secret=bwsm_A%2Bb%2Fc%3Dd%25e%26f+g%7Eh-%C3%A9X*&grant_type=client_credentials",
			map[string]string{"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
		},
		{projectsLine, "", map[string]string{"Accept": "*/*", "Authorization": bearer}},
		{
			"POST /api/projects/delete", `["` + vectorProject + `"]`,
			map[string]string{"Accept": "*/*", "Authorization": bearer, "Content-Type": "application/json"},
		},
	} {
		got := s.seen()[i]
		if got.line != want.line || got.body != want.body {
			t.Errorf("request %d is %s %q, want %s %q", i, got.line, got.body, want.line, want.body)
		}
		want.header["Device-Type"], want.header["User-Agent"] = "21", "latchkey/0.0.0-dev"
		header := map[string]string{}
		for name := range got.header {
			header[name] = strings.Join(got.header.Values(name), ",")
		}
		delete(header, "Content-Length")
		if !maps.Equal(header, want.header) {
			t.Errorf("%s has the headers %v, want %v", want.line, header, want.header)
		}
	}
}

func TestASessionIsRenewedBeforeItEnds(t *testing.T) {
	for _, c := range []struct {
		expiresIn, exchanges int
	}{{299, 3}, {300, 3}, {301, 1}, {3600, 1}} {
		s := newScripted(t, map[string][]answer{exchangeLine: ok(tokenAnswer(c.expiresIn)), "POST /api/projects/delete": ok(listOf())})
		now := time.Now()
		token, _ := accesstoken.Parse(vectorToken)
		client, err := ForMachine(Config{Server: s.URL, Now: func() time.Time { return now }}, token)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := client.authorization(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if n := s.count(exchangeLine); n != c.exchanges {
			t.Errorf("of %d s: %d exchanges, want %d", c.expiresIn, n, c.exchanges)
		}
		now = now.Add(time.Duration(c.expiresIn-299) * time.Second)
		if _, err := client.authorization(t.Context()); err != nil || s.count(exchangeLine) != c.exchanges+1 {
			t.Errorf("of %d s: not renewed (%v)", c.expiresIn, err)
		}
	}
}

func TestARenewalThatIsAnotherOrganisationsIsRefused(t *testing.T) {
	other := strings.Replace(goodClaims, vectorOrganization, vectorAccount, 1)
	s := newScripted(t, map[string][]answer{
		exchangeLine: {{status: 200, body: tokenAnswer(200)}, {status: 200, body: strings.Replace(tokenAnswer(200), jwt(goodClaims), jwt(other), 1)}},
		projectsLine: ok(listOf()),
	})
	c := s.machine(t)
	if _, err := c.authorization(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.authorization(t.Context()); err == nil || !strings.Contains(err.Error(), "another than a while ago") {
		t.Errorf("the error is %v", err)
	}
}

func TestAnswersAreReadStrictly(t *testing.T) {
	read := map[string]struct {
		line, good string
		needs      []string
		call       func(context.Context, *Client) error
	}{
		"exchange": {exchangeLine, tokenAnswer(3600), []string{"access_token", "expires_in", "token_type", "scope", "encrypted_payload"},
			func(ctx context.Context, c *Client) error { _, err := c.Project(ctx, vectorProject); return err }},
		"project": {projectLine, projectAnswer, []string{"id", "organizationId", "name", "creationDate", "revisionDate"},
			func(ctx context.Context, c *Client) error { _, err := c.Project(ctx, vectorProject); return err }},
		"secret": {secretLine, secretAnswer, []string{"id", "organizationId", "key", "value", "note", "creationDate", "revisionDate"},
			func(ctx context.Context, c *Client) error { _, err := c.Secret(ctx, vectorSecretID); return err }},
		"list of secrets": {headsLine, headsAnswer, []string{"secrets"},
			func(ctx context.Context, c *Client) error { _, err := c.Secrets(ctx); return err }},
		"list": {projectsLine, listOf(projectAnswer), []string{"data"},
			func(ctx context.Context, c *Client) error { _, err := c.Projects(ctx); return err }},
		"rotation": {"POST /api/access-tokens/rotate", creation, []string{"id", "clientSecret"},
			func(ctx context.Context, c *Client) error { _, err := c.Rotate(ctx, time.Hour); return err }},
	}
	for name, r := range read {
		attempt := func(t *testing.T, body, contentType string) error {
			t.Helper()
			s := newScripted(t, map[string][]answer{
				projectLine: ok(projectAnswer),
			})
			s.answers[r.line] = []answer{{status: 200, body: body, header: map[string]string{"Content-Type": contentType}}}
			return r.call(t.Context(), s.machine(t))
		}
		if err := attempt(t, r.good, "application/json"); err != nil {
			t.Errorf("%s: the good answer: %v", name, err)
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal([]byte(r.good), &members); err != nil {
			t.Fatal(err)
		}
		without := func(change func(map[string]json.RawMessage)) string {
			changed := maps.Clone(members)
			change(changed)
			text, _ := json.Marshal(changed)
			return string(text)
		}
		bad := map[string]string{"no JSON": "<html>", "an array": "[]", "nothing": "", "half": r.good[:len(r.good)/2]}
		for _, member := range r.needs {
			bad["no "+member] = without(func(m map[string]json.RawMessage) { delete(m, member) })
			bad["null "+member] = without(func(m map[string]json.RawMessage) { m[member] = json.RawMessage("null") })
			bad["another type of "+member] = without(func(m map[string]json.RawMessage) { m[member] = json.RawMessage(`{"a":1}`) })
			bad["another case of "+member] = without(func(m map[string]json.RawMessage) {
				m[strings.ToUpper(member[:1])+member[1:]] = m[member]
				delete(m, member)
			})
		}
		if slices.Contains(r.needs, "organizationId") {
			bad["another organisation"] = strings.Replace(r.good, vectorOrganization, vectorAccount, 1)
			bad["a date without an offset"] = strings.Replace(r.good, "05.6789000Z", "05.6789000", 1)
			bad["an id that is none"] = strings.Replace(r.good, `"id":"`, `"id":"../`, 1)
			bad["an empty text"] = strings.Replace(r.good, vectorProjectName, "", 1)
		}
		for what, body := range bad {
			err := attempt(t, body, "application/json")
			if err == nil {
				t.Errorf("%s with %s is taken", name, what)
			} else {
				wantNoSecret(t, err)
			}
		}
		if err := attempt(t, r.good, "text/html"); err == nil {
			t.Errorf("%s as text/html is taken", name)
		}
	}
}

func TestASessionsTokenIsReadStrictly(t *testing.T) {
	for name, token := range map[string]string{
		"two parts":            "a.b",
		"no base64":            "a.!.c",
		"no organisation":      jwt(`{"sub":"x","scope":["api.secrets"],"exp":1}`),
		"a scope that is text": jwt(strings.Replace(goodClaims, `["api.secrets"]`, `"api.secrets"`, 1)),
		"another scope":        jwt(strings.Replace(goodClaims, `api.secrets`, `api`, 1)),
		"no subject":           jwt(strings.Replace(goodClaims, `sub`, `bus`, 1)),
		"an end that is text":  jwt(strings.Replace(goodClaims, `4102444800`, `"4102444800"`, 1)),
		"an odd organisation":  jwt(strings.Replace(goodClaims, vectorOrganization, "acme", 1)),
	} {
		s := newScripted(t, map[string][]answer{exchangeLine: ok(strings.Replace(tokenAnswer(3600), jwt(goodClaims), token, 1))})
		if _, err := s.machine(t).Organization(t.Context()); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestTheWrongPartAfterTheColonIsTold(t *testing.T) {
	s := newScripted(t, nil)
	token, _ := accesstoken.Parse(strings.Replace(vectorToken, "Wan", "Xan", 1))
	c, err := ForMachine(s.config(), token)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Organization(t.Context()); err == nil || !strings.Contains(err.Error(), "after the colon") {
		t.Errorf("the error is %v", err)
	}
}

// wantNoSecret looks for what no error may quote.
func wantNoSecret(t *testing.T, err error) {
	t.Helper()
	for _, secret := range []string{vectorSecret, vectorKey, vectorPayload, "hunter2", "WanIP4Ot3Df", "operators-bearer", jwt(goodClaims), "freshClientSecret"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("an error quotes %q: %v", secret, err)
		}
	}
}

func TestNothingPrintsASecret(t *testing.T) {
	s := newScripted(t, map[string][]answer{secretLine: ok(secretAnswer)})
	secret, err := s.machine(t).Secret(t.Context(), vectorSecretID)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, printed := range []string{fmt.Sprintf("%v %+v %#v", secret, secret, secret), string(text)} {
		if strings.Contains(printed, "hunter2") || strings.Contains(printed, "rotates") {
			t.Errorf("it prints %s", printed)
		}
	}
}
