package smapi_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/signing"
	"github.com/latchkey-fn/latchkey/shared/smapi"
)

// who is what an API of these tests answers.
type who struct {
	Actor   string
	Token   string
	Machine bool
	Admin   bool
	Subject string
	Groups  []string
}

func (e *edge) whoAPI() *client {
	api := e.api()
	api.Handle("GET /organizations/{org}/who", "who.read", func(r smapi.Request) (any, error) {
		access, err := r.Access("org")
		if err != nil {
			return nil, err
		}
		return who{access.Actor(), access.Token(), access.IsMachine(), access.IsAdmin(), access.Subject(), access.Groups()}, nil
	})
	return e.serve(api)
}

const path = "/api/organizations/" + organization + "/who"

func TestASessionOfAMachine(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI()
	want := `{"Actor":"service-account:` + account + `","Token":"` + token + `","Machine":true,"Admin":false,"Subject":"","Groups":null}`
	if got := asks.get(path); got.StatusCode != 200 || got.body != want {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	upper := e.session(map[string]any{"sub": strings.ToUpper(account), "client_id": strings.ToUpper(token), "organization": strings.ToUpper(organization)})
	if got := asks.as(upper).get("/api/organizations/" + strings.ToUpper(organization) + "/who"); got.StatusCode != 200 || got.body != want {
		t.Errorf("ids in capitals: %d %s", got.StatusCode, got.body)
	}
	before := e.driver.reads.Load()
	asks.get(path)
	if reads := e.driver.reads.Load() - before; reads != 1 {
		t.Errorf("who asks took %d reads of the store", reads)
	}
	for name, other := range map[string]string{"another": elsewhere, "none": "hunter2"} {
		t.Run("in an organisation that is "+name, func(t *testing.T) {
			asks.get("/api/organizations/"+other+"/who").fails(t, 404)
		})
	}
}

// Every one of these was signed by us, so that its holder is told why it is not
// good.
func TestSessionsThatAreOverAreToldWhy(t *testing.T) {
	by := &machine.Deed{At: epoch, By: "user:" + alice}
	plain := machine.Token{Organization: organization, Account: account}
	revoked, expired, ofOther := plain, plain, plain
	revoked.Revoked = by
	expired.Expires = epoch
	ofOther.Account = elsewhere
	rotated := plain
	rotated.Generation, rotated.Former = 4, &machine.Former{Until: epoch, Replaced: epoch, Session: "another's"}
	const replaced = "The client secret that this session was made with was replaced, and is no longer valid. Please log in with the new one."
	const day, ours = "2026-09-01 12:00:00 UTC", "The session has expired, or is not one of this server. Please log in again."
	for name, c := range map[string]struct {
		prepare func(e *edge)
		claims  map[string]any
		header  map[string]any
		says    string
	}{
		"its access token was revoked": {
			prepare: func(e *edge) { put(e, "access-tokens", token, account, revoked) },
			says:    "The access token was revoked by user:" + alice + " on " + day + "."},
		"its access token has expired": {
			prepare: func(e *edge) { put(e, "access-tokens", token, account, expired) },
			says:    "The access token expired on " + day + "."},
		"its account was deleted": {
			prepare: func(e *edge) {
				put(e, "service-accounts", account, "", machine.Account{Deleted: &machine.Deletion{Deed: *by}})
			},
			says: "The machine account was deleted by user:" + alice + " on " + day + "."},
		"its organisation was switched off": {
			prepare: func(e *edge) { put(e, "organizations", organization, "", machine.Organization{Disabled: by}) },
			says:    "Secrets Manager was disabled for this organization on " + day + "."},
		"its access token is another account's": {
			prepare: func(e *edge) { put(e, "access-tokens", token, elsewhere, ofOther) },
			says:    "The access token does not exist."},
		"its access token is not there":            {claims: map[string]any{"client_id": elsewhere}, says: "The access token does not exist."},
		"its account is another than its token's":  {claims: map[string]any{"sub": elsewhere}, says: "The access token does not exist."},
		"its organisation is not its access token": {claims: map[string]any{"organization": elsewhere}, says: "The access token does not exist."},

		"it has expired":                    {claims: map[string]any{"exp": epoch.Unix() - 10}, says: ours},
		"it is not valid yet":               {claims: map[string]any{"nbf": epoch.Unix() + 11}, says: ours},
		"it has no end":                     {claims: map[string]any{"exp": nil}, says: ours},
		"it was made under another address": {claims: map[string]any{"iss": "https://other.example.org"}, says: ours},
		"it is for something else":          {claims: map[string]any{"scope": []string{"api"}}, says: ours},
		"it is for nothing":                 {claims: map[string]any{"scope": nil}, says: ours},
		"its subject is no id":              {claims: map[string]any{"sub": "x"}, says: ours},
		"it is of another type":             {header: map[string]any{"alg": "RS256", "kid": "RS256/000001", "typ": "JWT"}, says: ours},

		"its client is no id":         {claims: map[string]any{"client_id": "web"}, says: "The session is not one of a machine account."},
		"its organisation is no id":   {claims: map[string]any{"organization": "x"}, says: "The session is not one of a machine account."},
		"it has two organisations":    {claims: map[string]any{"organization": []string{organization, elsewhere}}, says: "The session is not one of a machine account."},
		"it has no organisation":      {claims: map[string]any{"organization": nil}, says: "The session is not one of a machine account."},
		"its generation is no number": {claims: map[string]any{"secret_generation": "x"}, says: "The session is not one of a machine account."},

		"its client secret was replaced": {
			prepare: func(e *edge) { put(e, "access-tokens", token, account, rotated) },
			claims:  map[string]any{"secret_generation": "3", "jti": "its own"}, says: replaced},
		"its client secret was replaced long ago": {
			prepare: func(e *edge) { put(e, "access-tokens", token, account, rotated) },
			claims:  map[string]any{"jti": "its own"}, says: replaced},
		"it is of a client secret that is yet to be": {claims: map[string]any{"secret_generation": "1"}, says: replaced},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t)
			if c.prepare != nil {
				c.prepare(e)
			}
			if c.header == nil {
				c.header = map[string]any{"alg": "RS256", "kid": "RS256/000001", "typ": "at+jwt"}
			}
			raw := e.sessionAs(c.header, c.claims)
			asks := e.whoAPI().as(raw)
			for range 60 { // more than any limit of failures
				if p := asks.get(path).fails(t, 401); p.Message != c.says {
					t.Fatalf("it says %q", p.Message)
				}
			}
			if event := e.audited()[0]; event["outcome"] != "refused" || strings.Contains(e.log.String(), raw) {
				t.Errorf("the audit event is %v", event)
			}
			if c.prepare != nil && !strings.Contains(e.audited()[0]["reason"].(string), "access token "+token) {
				t.Errorf("the audit event does not name the token: %v", e.audited()[0])
			}
		})
	}
}

func TestASessionIsGoodWithinTheSkewOfOurOwnClocks(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI()
	for name, claims := range map[string]map[string]any{
		"just over": {"exp": epoch.Unix() - 9}, "just begun": {"nbf": epoch.Unix() + 10},
	} {
		if got := asks.as(e.session(claims)).get(path); got.StatusCode != 200 {
			t.Errorf("%s: %d %s", name, got.StatusCode, got.body)
		}
	}
}

func TestASessionIsGoodForAsLongAsItsClientSecretIs(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI()
	put(e, "access-tokens", token, account, machine.Token{
		Organization: organization, Account: account, Generation: 4, Former: &machine.Former{Until: epoch.Add(time.Hour)},
	})
	for generation, status := range map[string]int{"4": 200, "3": 200, "2": 401, "0": 401, "5": 401} {
		if got := asks.as(e.session(map[string]any{"secret_generation": generation})).get(path); got.StatusCode != status {
			t.Errorf("%s: %d %s", generation, got.StatusCode, got.body)
		}
	}
}

// There is no key either that could have made these.
func TestSessionsOfKeysThatAreNotKnownAreMadeUp(t *testing.T) {
	for name, none := range map[string]bool{"there are others": false, "there is none yet": true} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t)
			if none {
				e.config.Keys = signing.New(signing.Config{Store: e.store, Logger: e.logger, Now: e.clock.now}).Published
			}
			asks := e.whoAPI()
			asks.as(e.session(map[string]any{"exp": epoch.Unix() - 60})).get(path) // the keys are at hand
			unknown := asks.as(e.sessionAs(map[string]any{"alg": "RS256", "kid": "RS256/000002", "typ": "at+jwt"}, nil))
			var statuses []int
			for range 60 {
				e.clock.advance(10 * time.Millisecond)
				statuses = append(statuses, unknown.get(path).StatusCode)
			}
			if statuses[0] != 401 || slices.Contains(statuses, 503) || !slices.Contains(statuses, 429) {
				t.Errorf("they get %v", statuses)
			}
		})
	}
}

func TestRevocationIsSeenAtTheNextRequest(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI()
	if got := asks.get(path); got.StatusCode != 200 {
		t.Fatalf("%d %s", got.StatusCode, got.body)
	}
	put(e, "access-tokens", token, account, machine.Token{Organization: organization, Account: account, Revoked: &machine.Deed{At: epoch, By: "user:" + alice}})
	asks.get(path).fails(t, 401)
}

func TestPeopleHaveTheRolesThatTheRulesGive(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI()
	for name, c := range map[string]struct {
		claims        devidentity.Claims
		served, admin bool
	}{
		"the owner":                       {devidentity.Claims{Owner: []string{organization}}, true, true},
		"an administrator":                {devidentity.Claims{Admin: []string{elsewhere, strings.ToUpper(organization)}}, true, true},
		"a member of Secrets Manager":     {devidentity.Claims{SecretsManager: []string{organization}}, true, false},
		"an administrator and member":     {devidentity.Claims{Admin: []string{organization}, SecretsManager: []string{organization}}, true, true},
		"an administrator by his role":    {devidentity.Claims{Set: map[string]any{"roles": []string{"x", "sm-admin"}}}, true, true},
		"somebody with another role":      {devidentity.Claims{Set: map[string]any{"roles": "sm-administrator"}}, false, false},
		"the owner of another":            {devidentity.Claims{Owner: []string{elsewhere}}, false, false},
		"a member of the organisation":    {devidentity.Claims{Member: []string{organization}}, false, false},
		"somebody without any claim":      {devidentity.Claims{}, false, false},
		"an owner by a claim of no texts": {devidentity.Claims{Set: map[string]any{"orgowner": []any{organization, 1}}}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			c.claims.Groups = []string{"devs", "ops"}
			got := asks.as(e.person(c.claims)).get(path)
			if !c.served {
				if p := got.fails(t, 404); p.Message != "Resource not found." {
					t.Errorf("it says %q", p.Message)
				}
				return
			}
			want := `{"Actor":"user:` + alice + `","Token":"","Machine":false,"Admin":false,"Subject":"` + alice + `","Groups":["devs","ops"]}`
			if c.admin {
				want = strings.Replace(want, `"Admin":false`, `"Admin":true`, 1)
			}
			if got.StatusCode != 200 || got.body != want {
				t.Errorf("%d %s", got.StatusCode, got.body)
			}
		})
	}
}

func TestAnotherProviderWithAnAudience(t *testing.T) {
	e := newEdge(t)
	e.config.Operators.Scopes, e.config.Operators.Audience = nil, "latchkey"
	asks := e.whoAPI()
	claims := devidentity.Claims{
		Audience: []string{"latchkey", "x"}, Scopes: []string{}, Owner: []string{organization}, Header: map[string]any{"typ": "JWT"},
		Set: map[string]any{"sub": "auth0|alice"},
	}
	if got := asks.as(e.person(claims)).get(path); got.StatusCode != 200 || !strings.Contains(got.body, `"Actor":"user:auth0|alice"`) {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	claims.Audience = []string{"x"}
	asks.as(e.person(claims)).get(path).fails(t, 404)
}

func TestAPersonsTokenForSomethingElseIsToldSo(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI().as(e.person(devidentity.Claims{Owner: []string{organization}, Scopes: []string{"api.installation"}}))
	for range 60 {
		if p := asks.get(path).fails(t, 404); p.Message != "Resource not found. The access token does not allow this." {
			t.Fatalf("it says %q", p.Message)
		}
	}
	if event := e.audited()[0]; event["outcome"] != "refused" || !strings.Contains(event["reason"].(string), `scope is none of ["api"]`) {
		t.Errorf("the audit event is %v", event)
	}
}

// What a token says of itself decides only whose keys are tried.
func TestNeitherTokenIsTakenForTheOther(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI()
	owner := []string{organization}
	for name, c := range map[string]struct{ raw, says string }{
		"a person's that claims to be a session": {
			e.person(devidentity.Claims{Owner: owner, ClientID: token, Scopes: []string{"api.secrets"}, Set: map[string]any{
				"type": "ServiceAccount", "organization": organization, "sub": account}}),
			"The session is not valid."},
		"the same under the name of our key": {
			e.person(devidentity.Claims{ClientID: token, Scopes: []string{"api.secrets"}, Set: map[string]any{
				"type": "ServiceAccount", "organization": organization, "sub": account}, Header: map[string]any{"kid": "RS256/000001"}}),
			"The session is not valid."},
		"a session that claims to be an owner's": {
			e.session(map[string]any{"type": nil, "orgowner": organization, "scope": []string{"api"}}), "The access token is not valid."},
		"a session of another type": {
			e.session(map[string]any{"type": "User", "orgowner": organization, "scope": []string{"api"}}), "The access token is not valid."},
		"a session with a list of types": {
			e.session(map[string]any{"type": []string{"ServiceAccount", "User"}}), "The access token is not valid."},
	} {
		t.Run(name, func(t *testing.T) {
			if p := asks.as(c.raw).get(path).fails(t, 401); p.Message != c.says {
				t.Errorf("it says %q", p.Message)
			}
		})
	}
}

func TestWithoutAProviderNobodyButMachinesIsServed(t *testing.T) {
	e := newEdge(t)
	e.config.Identity = config.Identity{}
	asks := e.whoAPI()
	if got := asks.get(path); got.StatusCode != 200 {
		t.Errorf("%d %s", got.StatusCode, got.body)
	}
	asks.as(e.person(devidentity.Claims{Owner: []string{organization}})).get(path).fails(t, 401)
	if p := asks.as(e.session(map[string]any{"type": "User", "orgowner": organization})).get(path).fails(t, 401); p.Message != "The session is not one of a machine account." {
		t.Errorf("it says %q", p.Message)
	}
}

func TestATokenIsTakenFromTheHeaderAlone(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI()
	raw := e.session(nil)
	nobody := client{e: e, url: asks.url}
	for range 60 { // a client whose session could not be renewed asks like this
		if p := nobody.get(path).fails(t, 401); p.Message != "An access token is required." {
			t.Fatalf("it says %q", p.Message)
		}
	}
	nobody.get(path+"?access_token="+url.QueryEscape(raw)).fails(t, 401)
	nobody.do("GET", path, "access_token="+url.QueryEscape(raw), "Content-Type", "application/x-www-form-urlencoded").fails(t, 401)
	nobody.do("GET", path, "", "Cookie", "access_token="+raw).fails(t, 401)
	for _, authorization := range []string{"Basic " + raw, raw, "Bearer", "Bearer  ", "Bearer " + raw + " " + raw, "Bearer " + raw + ","} {
		client{e: e, url: asks.url, authorization: authorization}.get(path).fails(t, 401)
	}
	if strings.Contains(e.log.String(), raw) {
		t.Error("the log holds a token")
	}
}

func TestMadeUpTokensAreLimitedAndGenuineOnesAreNot(t *testing.T) {
	e := newEdge(t)
	asks := e.whoAPI()
	good := e.session(nil)
	forged := good[:len(good)-40] + strings.Repeat("A", 40)
	forgedPerson := e.person(devidentity.Claims{Owner: []string{organization}, Sign: func([]byte) ([]byte, error) { return make([]byte, 256), nil }})
	var statuses []int
	for i := range 60 {
		raw := []string{forged, forgedPerson, "garbage"}[i%3]
		statuses = append(statuses, asks.as(raw).get(path).StatusCode)
	}
	if want := slices.Concat(slices.Repeat([]int{401}, 40), slices.Repeat([]int{429}, 20)); !slices.Equal(statuses, want) {
		t.Errorf("made-up tokens get %v", statuses)
	}
	limited := asks.as(forged).get(path)
	if p := limited.fails(t, 429); p.Message != "Too many failed requests. Try again later." || limited.Header.Get("Retry-After") == "" {
		t.Errorf("%v %s", limited.Header, limited.body)
	}
	// From the same address:
	if got := asks.get(path); got.StatusCode != 200 {
		t.Errorf("a good session: %d %s", got.StatusCode, got.body)
	}
	asks.as(e.session(map[string]any{"exp": epoch.Unix() - 60})).get(path).fails(t, 401)
	asks.as(e.person(devidentity.Claims{Lifetime: -time.Hour})).get(path).fails(t, 401)
	e.clock.advance(time.Minute)
	asks.as(forged).get(path).fails(t, 401)
}

func TestWhatCannotBeKnownIsNot401(t *testing.T) {
	session := func(e *edge) string { return e.session(nil) }
	person := func(e *edge) string { return e.person(devidentity.Claims{Owner: []string{organization}}) }
	for name, c := range map[string]struct {
		broken func(e *edge)
		mended func(e *edge)
		raw    func(e *edge) string
	}{
		"the store is down":         {func(e *edge) { e.driver.down.Store(true) }, func(e *edge) { e.driver.down.Store(false) }, session},
		"our keys cannot be had":    {func(e *edge) { e.keysFail.Store(true) }, func(e *edge) { e.keysFail.Store(false) }, session},
		"the provider is not there": {func(e *edge) { e.identityDown.Store(true) }, func(e *edge) { e.identityDown.Store(false) }, person},
	} {
		t.Run(name, func(t *testing.T) {
			e := newEdge(t)
			asks := e.whoAPI().as(c.raw(e))
			c.broken(e)
			asks.get(path).fails(t, 503)
			if event := e.audited()[0]; event["outcome"] != "failed" {
				t.Errorf("the audit event is %v", event)
			}
			c.mended(e)
			e.clock.advance(2 * time.Second)
			if got := asks.get(path); got.StatusCode != 200 {
				t.Errorf("when it is mended: %d %s", got.StatusCode, got.body)
			}
		})
	}
}

func TestADamagedRecordIsNoReasonToLogOut(t *testing.T) {
	e := newEdge(t)
	put(e, "access-tokens", token, account, []string{"no token"})
	e.whoAPI().get(path).fails(t, 500)
}

func TestConfigurationsThatAreWrong(t *testing.T) {
	for name, change := range map[string]func(c *smapi.CallersConfig){
		"a provider of no address":   func(c *smapi.CallersConfig) { c.Identity = config.Identity{URL: "x"} },
		"a CA that is not there":     func(c *smapi.CallersConfig) { c.Identity.CAFile = filepath.Join(t.TempDir(), "none") },
		"a rule that is none":        func(c *smapi.CallersConfig) { c.Operators.Rules = []string{"role=admin"} },
		"an algorithm with a secret": func(c *smapi.CallersConfig) { c.Operators.Algorithms = []string{"HS256"} },
		"no keys of sessions":        func(c *smapi.CallersConfig) { c.Keys = nil },
	} {
		e := newEdge(t)
		change(&e.config)
		if _, err := smapi.NewAuthenticator(e.config); fault.Of(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzAuthenticate signs whatever it is given with the key of sessions. Nothing
// that comes of it is anybody but the one machine that there is.
func FuzzAuthenticate(f *testing.F) {
	e := newEdge(f)
	authenticator := e.authenticator()
	header := `{"alg":"RS256","kid":"RS256/000001","typ":"at+jwt"}`
	good := `{"iss":"https://sm.example.org","exp":4102444800,"sub":"` + account + `","client_id":"` + token +
		`","type":"ServiceAccount","organization":"` + organization + `","scope":["api.secrets"]}`
	for _, payload := range []string{
		good, "", "null", "{}", "[]", strings.ToUpper(good), strings.Replace(good, "ServiceAccount", "User", 1),
		strings.Replace(good, `"type"`, `"type":"User","type"`, 1), strings.Replace(good, `"organization"`, `"organization":null,"Organization"`, 1),
		strings.Replace(good, `["api.secrets"]`, `"api.secrets"`, 1), strings.Replace(good, token, account, 1),
		strings.Replace(good, `"`+account+`"`, `["`+account+`"]`, 1), strings.Replace(good, "4102444800", "0", 1),
	} {
		f.Add("Bearer ", header, payload)
	}
	f.Add("bearer  ", `{"alg":"none"}`, good)
	f.Add("", `{"alg":"RS256","kid":"x","typ":"JWT"}`, good)
	caller, err := authenticate(authenticator, "Bearer "+signed(f, []byte(header), []byte(good)))
	if err != nil || caller.Machine() != account || caller.Token() != token {
		f.Fatalf("the good one: %v", err)
	}
	f.Fuzz(func(t *testing.T, scheme, header, payload string) {
		for _, authorization := range []string{scheme + signed(t, []byte(header), []byte(payload)), scheme + header + "." + payload} {
			caller, err := authenticate(authenticator, authorization)
			if err == nil {
				if access, inErr := caller.In(organization); caller.Machine() != account || caller.Token() != token || inErr != nil || access.IsAdmin() {
					t.Fatalf("%q is somebody else: %v", authorization, caller)
				}
				continue
			}
			switch fault.Of(err) {
			case fault.Unauthenticated, fault.NotFound:
			default:
				t.Fatalf("%q: %v", authorization, err)
			}
			if caller.Machine() != "" || caller.Actor() != "" {
				t.Fatalf("%q was refused, and is somebody: %v", authorization, caller)
			}
			if len(payload) > 20 && strings.Contains(err.Error(), payload) {
				t.Fatalf("the error repeats the token: %v", err)
			}
		}
	})
}

func authenticate(a smapi.Authenticator, authorization string) (machine.Caller, error) {
	r := httptest.NewRequest(http.MethodGet, path, nil)
	r.Header["Authorization"] = []string{authorization}
	return a.Authenticate(r)
}

// BenchmarkAuthenticate is who asks, with its one read of a store in memory; next
// to auth.BenchmarkBareSignature it is what the rules cost.
func BenchmarkAuthenticate(b *testing.B) {
	e := newEdge(b)
	authenticator := e.authenticator()
	authorization := "Bearer " + e.session(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := authenticate(authenticator, authorization); err != nil {
			b.Fatal(err)
		}
	}
}
