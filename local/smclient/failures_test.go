package smclient

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/apiclient"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func TestAnErrorTellsTheServersMessageAndWhatToDo(t *testing.T) {
	for name, c := range map[string]struct {
		line  string
		is    answer
		class fault.Class
		told  []string
	}{
		"an unknown token": {exchangeLine, answer{status: 400, body: `{"error":"invalid_client"}`}, fault.Unauthenticated, []string{"invalid_client", "LATCHKEY_ACCESS_TOKEN"}},
		"a revoked token": {exchangeLine, answer{status: 400, body: `{"error":"invalid_client","error_description":"x","ErrorModel":{"Message":"The access token was revoked by bob.","Object":"error"}}`},
			fault.Unauthenticated, []string{"revoked by bob"}},
		"the lower-case model": {exchangeLine, answer{status: 400, body: `{"error":"invalid_client","error_model":{"message":"It expired."}}`}, fault.Unauthenticated, []string{"It expired."}},
		"a scope":              {exchangeLine, answer{status: 400, body: `{"error":"invalid_scope","error_description":"no such"}`}, fault.Invalid, []string{"invalid_scope: no such"}},
		"no session": {projectLine, answer{status: 401, body: `{"message":"The access token was revoked.","object":"error"}`},
			fault.Unauthenticated, []string{"read project " + vectorProject, "401 Unauthorized", "The access token was revoked."}},
		"no session, no body": {projectLine, answer{status: 401}, fault.Unauthenticated, []string{"get a new token"}},
		"not there":           {projectLine, answer{status: 404, body: `{"message":"Resource not found. This token is read-only.","object":"error"}`}, fault.NotFound, []string{"read-only"}},
		"nobody says why":     {projectLine, answer{status: 404, body: `{"message":"Resource not found.","object":"error"}`}, fault.NotFound, []string{"may not reach"}},
		"a path that is none": {exchangeLine, answer{status: 404, body: `{"message":"Resource not found.","object":"error"}`}, fault.NotFound, []string{"base URL", "without /api"}},
		"not even a message":  {projectLine, answer{status: 404, body: `{}`}, fault.NotFound, []string{"address of a Secrets Manager"}},
		"another server":      {projectLine, answer{status: 404, body: `<h1>nginx</h1>`}, fault.NotFound, []string{"address of a Secrets Manager"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripted(t, map[string][]answer{c.line: {c.is}})
			_, err := s.machine(t).Project(t.Context(), vectorProject)
			refusal, ok := errors.AsType[*apiclient.Refusal](err)
			if !ok || refusal.Status != c.is.status || fault.Of(err) != c.class {
				t.Fatalf("the error is %v of class %q", err, fault.Of(err))
			}
			for _, text := range c.told {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%q is not told: %v", text, err)
				}
			}
			wantNoSecret(t, err)
		})
	}
}

// The advice depends on who asks and for what, and none is given where the
// server's own message has the reason.
func TestTheAdviceIsForWhoAsks(t *testing.T) {
	const (
		bare   = `{"message":"Resource not found.","object":"error"}`
		create = "POST /api/organizations/" + vectorOrganization + "/secrets"
		put    = "PUT /api/organizations/" + vectorOrganization + "/secrets-manager"
	)
	asOperator := func(t *testing.T, s *scripted) *Client { return s.operator(t) }
	asMachine := func(t *testing.T, s *scripted) *Client { return s.machine(t) }
	read := func(ctx context.Context, c *Client) error { _, err := c.Project(ctx, vectorProject); return err }
	settings := func(ctx context.Context, c *Client) error { _, err := c.Settings(ctx); return err }
	policy := func(ctx context.Context, c *Client) error { _, err := c.SetPolicy(ctx, Policy{}); return err }
	secretIn := func(project string) func(context.Context, *Client) error {
		return func(ctx context.Context, c *Client) error {
			_, err := c.CreateSecret(ctx, Written{Key: "k", Value: "v", Project: project})
			return err
		}
	}
	const (
		newToken  = "Get a new LATCHKEY_OPERATOR_TOKEN."
		isTheirs  = "Does your token make you an operator of " + vectorOrganization + ", and is http://127.0.0.1"
		inProject = "Machines create secrets in a project: --project."
		usual     = "It does not exist, or you may not reach it."
	)
	for name, c := range map[string]struct {
		who  func(*testing.T, *scripted) *Client
		line string
		is   answer
		call func(context.Context, *Client) error
		want string // of the advice; empty: there is none
	}{
		"an operator's session that ended":          {asOperator, projectLine, answer{status: 401, body: `{"message":"The token expired.","object":"error"}`}, read, newToken},
		"one that ended before anything":            {asOperator, settingsLine, answer{status: 401}, read, newToken},
		"a machine's session, with a reason":        {asMachine, projectLine, answer{status: 401, body: `{"message":"The access token was revoked."}`}, read, ""},
		"somebody else's organisation":              {asOperator, settingsLine, answer{status: 404, body: bare}, settings, isTheirs},
		"settings of somebody else":                 {asOperator, put, answer{status: 404, body: bare}, policy, isTheirs},
		"a secret of a machine in no project":       {asMachine, create, answer{status: 404, body: bare}, secretIn(""), inProject},
		"one in a project that it does not reach":   {asMachine, create, answer{status: 404, body: bare}, secretIn(vectorProject), usual},
		"one of an operator in no project":          {asOperator, create, answer{status: 404, body: bare}, secretIn(""), usual},
		"one of a read-only token":                  {asMachine, create, answer{status: 404, body: `{"message":"Resource not found. This access token is read-only."}`}, secretIn(""), ""},
		"what an operator may not reach, or is not": {asOperator, projectLine, answer{status: 404, body: bare}, read, usual},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScripted(t, map[string][]answer{settingsLine: ok(settingsAnswer), c.line: {c.is}})
			err := c.call(t.Context(), c.who(t, s))
			refusal, ok := errors.AsType[*apiclient.Refusal](err)
			if !ok || refusal.Status != c.is.status {
				t.Fatalf("the error is %v", err)
			}
			if !strings.HasPrefix(refusal.Advice, c.want) || c.want == "" && refusal.Advice != "" {
				t.Errorf("the advice is %q", refusal.Advice)
			}
			if c.want == isTheirs && !strings.Contains(refusal.Advice, s.URL+" the base URL, without /api?") {
				t.Errorf("the advice is %q", refusal.Advice)
			}
		})
	}
}

func TestOnlyWhatIsSafeIsSentAgain(t *testing.T) {
	const createLine = "POST /api/organizations/" + vectorOrganization + "/projects"
	type calls struct {
		line string
		good string
		call func(context.Context, *Client) error
		safe bool
	}
	all := map[string]calls{
		"exchange": {exchangeLine, tokenAnswer(3600), func(ctx context.Context, c *Client) error { _, err := c.Organization(ctx); return err }, true},
		"read":     {projectLine, projectAnswer, func(ctx context.Context, c *Client) error { _, err := c.Project(ctx, vectorProject); return err }, true},
		"by ids": {"POST /api/secrets/get-by-ids", listOf(secretAnswer), func(ctx context.Context, c *Client) error {
			_, err := c.SecretsByIDs(ctx, []string{vectorSecretID})
			return err
		}, true},
		"rotate": {"POST /api/access-tokens/rotate", creation, func(ctx context.Context, c *Client) error { _, err := c.Rotate(ctx, 0); return err }, true},
		"import": {"POST /api/sm/" + vectorOrganization + "/import", importAnswer, func(ctx context.Context, c *Client) error { _, err := c.Import(ctx, Transfer{}, false); return err }, true},
		"create": {createLine, projectAnswer, func(ctx context.Context, c *Client) error { _, err := c.CreateProject(ctx, "x"); return err }, false},
		"change": {"PUT /api/secrets/" + vectorSecretID, secretAnswer, func(ctx context.Context, c *Client) error {
			_, err := c.UpdateSecret(ctx, vectorSecretID, Written{Key: "k", Value: "v"}, true)
			return err
		}, false},
		"delete": {"POST /api/secrets/delete", listOf(), func(ctx context.Context, c *Client) error { return c.DeleteSecrets(ctx, vectorSecretID) }, false},
	}
	for name, c := range all {
		for how, failure := range map[string]answer{"503": {status: 503, body: "{}"}, "no answer": {cut: true}} {
			s := newScripted(t, map[string][]answer{c.line: {failure, failure, {status: 200, body: c.good}}})
			err := c.call(t.Context(), s.machine(t))
			if n := s.count(c.line); c.safe && (err != nil || n != 3) || !c.safe && (fault.Of(err) != fault.Transient || n != 1) {
				t.Errorf("%s, %s: sent %d times, %v", name, how, n, err)
			}
		}
	}
}

const importAnswer = `{"projects":1,"secrets":1,"existingProjects":1,"existingSecrets":0}`

// An encrypted import may be sent again, since the server makes the same things
// of the same texts: readable ones are encrypted once for all tries.
func TestAnImportThatIsSentAgainIsTheSame(t *testing.T) {
	const line = "POST /api/sm/" + vectorOrganization + "/import"
	readable := Transfer{Projects: []TransferProject{{vectorProject, "p"}}, Secrets: []TransferSecret{{vectorSecretID, "k", "v", "n", nil}}}
	sealed, err := readable.Encrypt(organizationKey(t))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		transfer Transfer
		readable bool
	}{"readable": {readable, true}, "encrypted": {sealed, false}} {
		brokeOff := answer{status: 503, body: `{"message":"The import broke off."}`}
		s := newScripted(t, map[string][]answer{settingsLine: ok(settingsAnswer), line: {brokeOff, {cut: true}, {status: 200, body: importAnswer}}})
		got, err := s.operator(t).Import(t.Context(), c.transfer, c.readable)
		if err != nil || s.count(line) != 3 || got != (Imported{Projects: 1, Secrets: 1, ExistingProjects: 1}) {
			t.Fatalf("%s: sent %d times, %+v, %v", name, s.count(line), got, err)
		}
		bodies := map[string]bool{}
		for _, r := range s.seen() {
			if r.line == line {
				bodies[r.body] = true
			}
		}
		if len(bodies) != 1 {
			t.Errorf("%s: of the same import %d forms were sent", name, len(bodies))
		}
	}
}

func TestAClientIsMadeOnlyForAServerAndSomebody(t *testing.T) {
	token, err := accesstoken.Parse(vectorToken)
	if err != nil {
		t.Fatal(err)
	}
	right := Operator{Bearer: "x", Organization: vectorOrganization}
	for _, server := range []string{"sm.example.org", "http://sm.example.org"} {
		if _, err := ForMachine(Config{Server: server}, token); fault.Of(err) != fault.Invalid {
			t.Errorf("%s, of a machine: %v", server, err)
		}
		if _, err := ForOperator(Config{Server: server}, right); fault.Of(err) != fault.Invalid {
			t.Errorf("%s, of an operator: %v", server, err)
		}
	}
	for name, o := range map[string]Operator{"an odd organisation": {Bearer: "x", Organization: "acme"}, "no token": {Organization: vectorOrganization}} {
		if _, err := ForOperator(Config{Server: "https://sm.example.org"}, o); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ForOperator(Config{Server: "https://sm.example.org"}, right); err != nil {
		t.Error(err)
	}
}

func TestManySecretsAreReadInParts(t *testing.T) {
	var ids, objects []string
	for range 2*batch + 1 {
		id := uuid.NewString()
		ids = append(ids, id)
		objects = append(objects, strings.Replace(secretAnswer, vectorSecretID, id, 1))
	}
	var parts []answer
	for part := range slices.Chunk(objects, batch) {
		part = slices.Clone(part)
		slices.Reverse(part) // the server answers in any order
		parts = append(parts, answer{status: 200, body: listOf(part...)})
	}
	s := newScripted(t, map[string][]answer{"POST /api/secrets/get-by-ids": parts})
	secrets, err := s.machine(t).SecretsByIDs(t.Context(), ids)
	if err != nil || len(secrets) != len(ids) || s.count("POST /api/secrets/get-by-ids") != 3 {
		t.Fatalf("%d secrets, %v", len(secrets), err)
	}
	for i, secret := range secrets {
		if secret.ID != ids[i] {
			t.Fatalf("number %d is %s, not %s", i, secret.ID, ids[i])
		}
	}
	if secrets, err := s.machine(t).SecretsByIDs(t.Context(), nil); err != nil || len(secrets) != 0 {
		t.Errorf("of none there are %d, %v", len(secrets), err)
	}
	// A server that cannot answer so many at once.
	tooMany := answer{status: 400, body: `{"message":"Please ask for fewer secrets."}`}
	s = newScripted(t, map[string][]answer{"POST /api/secrets/get-by-ids": {
		tooMany, {status: 200, body: listOf(objects[0])}, tooMany, {status: 200, body: listOf(objects[1])}, {status: 200, body: listOf(objects[2])},
	}})
	if secrets, err = s.machine(t).SecretsByIDs(t.Context(), ids[:3]); err != nil || len(secrets) != 3 || secrets[0].ID != ids[0] || secrets[2].ID != ids[2] {
		t.Errorf("three in parts: %d, %v", len(secrets), err)
	}
	s.answers["POST /api/secrets/get-by-ids"] = []answer{tooMany}
	if _, err := s.machine(t).SecretsByIDs(t.Context(), ids[:3]); fault.Of(err) != fault.Invalid {
		t.Errorf("one that is refused alone: %v", err)
	}
	s.answers["POST /api/secrets/get-by-ids"] = ok(listOf(secretAnswer))
	if _, err := s.machine(t).SecretsByIDs(t.Context(), ids[:2]); err == nil || !strings.Contains(err.Error(), "left out") {
		t.Errorf("one that is left out: %v", err)
	}
}

// One text that cannot be read does not hide the others.
func TestWhatCannotBeDecryptedIsNamed(t *testing.T) {
	foreign := encstring.NewKey().Encrypt("theirs")
	objects := []string{projectAnswer}
	for range most + 2 {
		objects = append(objects, strings.NewReplacer(vectorProject, uuid.NewString(), vectorProjectName, foreign).Replace(projectAnswer))
	}
	s := newScripted(t, map[string][]answer{projectsLine: ok(listOf(objects...)), projectLine: ok(strings.Replace(projectAnswer, vectorProjectName, foreign, 1))})
	projects, err := s.machine(t).Projects(t.Context())
	if len(projects) != 1 || !errors.Is(err, encstring.ErrKey) || strings.Count(err.Error(), "cannot be read") != most+1 || !strings.Contains(err.Error(), "and 2 more") {
		t.Errorf("%d projects, %v", len(projects), err)
	}
	if _, err := s.machine(t).Project(t.Context(), vectorProject); !errors.Is(err, encstring.ErrKey) {
		t.Errorf("one alone: %v", err)
	}
}

func TestTextsAreCheckedBeforeTheyAreSent(t *testing.T) {
	s := newScripted(t, map[string][]answer{})
	c := s.machine(t)
	long := func(n int) string { return strings.Repeat("ü", n) }
	for name, w := range map[string]Written{
		"no name":             {Key: " \n", Value: "v"},
		"a long name":         {Key: long(maxName + 1), Value: "v"},
		"no value":            {Key: "k"},
		"a long value":        {Key: "k", Value: long(maxValue + 1)},
		"a value that is not": {Key: "k", Value: "\xff\xfe"},
		"a long note":         {Key: "k", Value: "v", Note: long(maxNote + 1)},
	} {
		if _, err := c.CreateSecret(t.Context(), w); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := c.CreateToken(t.Context(), NewToken{Name: long(maxTokenName + 1)}); fault.Of(err) != fault.Invalid {
		t.Errorf("a token's long name: %v", err)
	}
	if n := len(s.seen()); n != 0 {
		t.Errorf("%d requests were sent", n)
	}
	s.answers["POST /api/organizations/"+vectorOrganization+"/secrets"] = ok(secretAnswer)
	if _, err := c.CreateSecret(t.Context(), Written{Key: long(maxName), Value: long(maxValue), Note: long(maxNote)}); err != nil {
		t.Errorf("the longest: %v", err)
	}
}

func TestAnOperatorWithAnotherKeyWritesNothing(t *testing.T) {
	key := organizationKey(t)
	registered := func(check string) string {
		return strings.Replace(settingsAnswer, `"keyCheck":null`, fmt.Sprintf(`"keyCheck":%q`, check), 1)
	}
	create := "POST /api/organizations/" + vectorOrganization + "/projects"
	for name, c := range map[string]struct {
		check string
		right bool
	}{
		"the key":                        {key.Encrypt(vectorOrganization), true},
		"another key":                    {encstring.NewKey().Encrypt(vectorOrganization), false},
		"the key of another one":         {key.Encrypt(vectorAccount), false},
		"a check that is no such a text": {"2.x", false},
	} {
		s := newScripted(t, map[string][]answer{settingsLine: ok(registered(c.check)), create: ok(projectAnswer)})
		client := s.operator(t)
		for range 2 {
			if _, err := client.CreateProject(t.Context(), "x"); (err == nil) != c.right {
				t.Errorf("%s: %v", name, err)
			}
		}
		if wrote := s.count(create) > 0; wrote != c.right {
			t.Errorf("%s: written is %v", name, wrote)
		}
		if c.right && s.count(settingsLine) != 1 {
			t.Errorf("%s: the settings were read %d times", name, s.count(settingsLine))
		}
	}
}

func TestAKeyIsRegisteredOnce(t *testing.T) {
	const put = "PUT /api/organizations/" + vectorOrganization + "/secrets-manager"
	key := organizationKey(t)
	with := func(k encstring.Key) answer {
		return answer{status: 200, body: strings.Replace(settingsAnswer, `"keyCheck":null`, fmt.Sprintf(`"keyCheck":%q`, k.Encrypt(vectorOrganization)), 1)}
	}
	none, refused := answer{status: 200, body: settingsAnswer}, answer{status: 400, body: `{"message":"This organization has a key already."}`}
	for name, c := range map[string]struct {
		settings []answer
		put      answer
		class    fault.Class
		puts     int
		another  bool // it is known that the organisation has another key
	}{
		"the first":                       {[]answer{none}, with(key), "", 1, false},
		"again":                           {[]answer{with(key)}, refused, "", 0, false},
		"after another":                   {[]answer{with(encstring.NewKey())}, refused, fault.Conflict, 0, true},
		"at the same time as another":     {[]answer{none, with(encstring.NewKey())}, refused, fault.Conflict, 1, true},
		"after an answer that was lost":   {[]answer{none, with(key)}, answer{cut: true}, "", 3, false},
		"while the server fails":          {[]answer{none}, answer{status: 500, body: "{}"}, "", 1, false},
		"where nobody knows what came of": {[]answer{none, {status: 401, body: "{}"}}, refused, fault.Invalid, 1, false},
		"with a conflict, and no reason":  {[]answer{none}, answer{status: 409, body: "{}"}, fault.Conflict, 1, false},
		"with a conflict, and no answer":  {[]answer{none, {status: 500, body: "{}"}}, answer{status: 409, body: "{}"}, fault.Conflict, 1, false},
	} {
		s := newScripted(t, map[string][]answer{settingsLine: c.settings, put: {c.put}})
		_, err := s.operator(t).RegisterKey(t.Context(), key)
		wantErr := c.class != "" || c.put.status == 500
		if (err != nil) != wantErr || fault.Of(err) != c.class || s.count(put) != c.puts || errors.Is(err, ErrOtherKey) != c.another {
			t.Errorf("%s: %v, %d PUTs", name, err, s.count(put))
		}
	}
}

func TestTheOrganisationsThatATokenNames(t *testing.T) {
	for claims, want := range map[string][]string{
		`{}`: nil,
		`{"orgowner":"` + vectorOrganization + `"}`:                                                  {vectorOrganization},
		`{"orgowner":["` + vectorOrganization + `"],"orgadmin":"` + vectorAccount + `"}`:             {vectorAccount, vectorOrganization},
		`{"orgowner":"` + vectorOrganization + `","orgadmin":["` + vectorOrganization + `","acme"]}`: {vectorOrganization},
	} {
		if got, err := Administered(jwt(claims)); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s names %v, %v", claims, got, err)
		}
	}
	if _, err := Administered("opaque"); fault.Of(err) != fault.Invalid {
		t.Errorf("of an opaque token: %v", err)
	}
}

func TestOnlyReadableTextsAreEncryptedAndOnlyOursAreImported(t *testing.T) {
	const line = "POST /api/sm/" + vectorOrganization + "/import"
	s := newScripted(t, map[string][]answer{settingsLine: ok(settingsAnswer), line: {{status: 200, body: importAnswer}}})
	c, key := s.operator(t), organizationKey(t)
	readable := Transfer{
		Projects: []TransferProject{{vectorProject, "p"}},
		Secrets:  []TransferSecret{{vectorSecretID, "k", "v", "", []string{vectorProject}}},
	}
	sealed, err := readable.Encrypt(key)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := readable.Encrypt(encstring.NewKey())
	if err != nil {
		t.Fatal(err)
	}
	for name, i := range map[string]struct {
		transfer Transfer
		readable bool
	}{"readable as encrypted": {readable, false}, "encrypted as readable": {sealed, true}, "under another key": {theirs, false}} {
		if _, err := c.Import(t.Context(), i.transfer, i.readable); fault.Of(err) != fault.Invalid || s.count(line) != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, i := range []struct {
		transfer Transfer
		readable bool
	}{{sealed, false}, {readable, true}} {
		if _, err := c.Import(t.Context(), i.transfer, i.readable); err != nil {
			t.Fatal(err)
		}
		all := s.seen()
		sent, err := ReadTransfer([]byte(all[len(all)-1].body))
		if err != nil {
			t.Fatal(err)
		}
		back, err := sent.Decrypt(key)
		if err != nil || fmt.Sprint(back) != fmt.Sprint(readable) {
			t.Errorf("%+v was sent, %v", back, err)
		}
	}
	for _, text := range []string{"", "[]", `{"projects":[]}`, `{"projects":{},"secrets":[]}`, `{"projects":[],"secrets":[{"id":1}]}`} {
		if _, err := ReadTransfer([]byte(text)); fault.Of(err) != fault.Invalid {
			t.Errorf("%s is taken: %v", text, err)
		}
	}
}

func TestAnImportsNamesakesAreCounted(t *testing.T) {
	key := organizationKey(t)
	projectName, secretName := decrypted(t, key, vectorProjectName), decrypted(t, key, vectorSecretKey)
	s := newScripted(t, map[string][]answer{
		settingsLine: ok(settingsAnswer), projectsLine: ok(listOf(projectAnswer)),
		headsLine: ok(headsAnswer),
	})
	readable := Transfer{
		Projects: []TransferProject{{vectorProject, projectName}, {vectorAccount, projectName}, {vectorTokenID, "another"}},
		Secrets:  []TransferSecret{{vectorSecretID, secretName, "v", "", nil}, {vectorSecret2ID, "another", "v", "", nil}},
	}
	sealed, err := readable.Encrypt(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		transfer Transfer
		readable bool
	}{{readable, true}, {sealed, false}} {
		projects, secrets, err := s.operator(t).Namesakes(t.Context(), c.transfer, c.readable)
		if err != nil || projects != 2 || secrets != 1 {
			t.Errorf("readable %v: %d projects, %d secrets, %v", c.readable, projects, secrets, err)
		}
	}
	if _, _, err := s.operator(t).Namesakes(t.Context(), readable, false); fault.Of(err) != fault.Invalid {
		t.Errorf("readable as encrypted: %v", err)
	}
}

func decrypted(t *testing.T, key encstring.Key, text string) string {
	t.Helper()
	plain, err := key.Decrypt(text)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func TestTheTrashTellsWhenWhereTheServerDoes(t *testing.T) {
	const line = "GET /api/secrets/" + vectorOrganization + "/trash"
	told := strings.Replace(headsAnswer, `"projects":[]`, `"deletedDate":"2026-11-01T10:00:00Z","projects":[]`, 1)
	s := newScripted(t, map[string][]answer{settingsLine: ok(settingsAnswer), line: {{status: 200, body: told}, {status: 200, body: headsAnswer}}})
	c := s.operator(t)
	heads, err := c.Trash(t.Context())
	if err != nil || len(heads) != 1 || heads[0].Deleted == nil || !heads[0].Deleted.Equal(time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)) {
		t.Errorf("%+v, %v", heads, err)
	}
	if heads, err = c.Trash(t.Context()); err != nil || len(heads) != 1 || heads[0].Deleted != nil {
		t.Errorf("of a server that does not tell it: %+v, %v", heads, err)
	}
}

func TestBulkResultsNameWhatWasRefused(t *testing.T) {
	s := newScripted(t, map[string][]answer{"POST /api/secrets/delete": ok(listOf(
		`{"id":"`+vectorSecretID+`","error":null,"object":"BulkDeleteResponseModel"}`,
		`{"id":"`+vectorSecret2ID+`","error":"access denied","object":"BulkDeleteResponseModel"}`,
	))})
	err := s.machine(t).DeleteSecrets(t.Context(), vectorSecretID, vectorSecret2ID)
	if err == nil || !strings.Contains(err.Error(), vectorSecret2ID+": access denied") || strings.Contains(err.Error(), vectorSecretID) {
		t.Errorf("the error is %v", err)
	}
}

func TestATokenThatNobodyCouldReadIsNotGivenOut(t *testing.T) {
	s := newScripted(t, map[string][]answer{
		settingsLine: ok(settingsAnswer), tokensLine: ok(strings.Replace(creation, "freshClientSecret", "a.b:c", 1)),
		"POST /api/access-tokens/rotate": ok(strings.Replace(creation, vectorTokenID, vectorAccount, 1)),
	})
	if _, err := s.operator(t).CreateToken(t.Context(), NewToken{Machine: vectorAccount, Name: "x"}); err == nil || !strings.Contains(err.Error(), "revoke "+vectorTokenID) {
		t.Errorf("the error is %v", err)
	}
	if _, err := s.machine(t).Rotate(t.Context(), time.Hour); err == nil || !strings.Contains(err.Error(), "another token") {
		t.Errorf("the error is %v", err)
	}
	if _, err := s.operator(t).Rotate(t.Context(), time.Hour); fault.Of(err) != fault.Invalid {
		t.Errorf("an operator rotates: %v", err)
	}
}
