package machineaccounts_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

var (
	account = []string{"id", "organizationId", "name", "creationDate", "revisionDate", "mayCreateProjects", "object"}
	token   = []string{
		"id", "name", "scopes", "expireAt", "creationDate", "revisionDate", "object",
		"revokedDate", "revokedBy", "lastUsedDate", "lastUsedAddress", "createdBy", "readOnly", "projectIds",
	}
	creation = []string{"id", "name", "clientSecret", "expireAt", "creationDate", "revisionDate", "object"}
)

func date(t *testing.T, value any) time.Time {
	t.Helper()
	text, _ := value.(string)
	at, err := time.Parse(time.RFC3339, text)
	if err != nil || !strings.HasSuffix(text, "Z") {
		t.Errorf("%v is not a date in UTC", value)
	}
	return at
}

func TestAccounts(t *testing.T) {
	h := open(t)
	name := h.Enc()
	made := h.do(t, h.alice, http.MethodPost, "/organizations/"+strings.ToUpper(h.ID)+"/service-accounts", object{"name": name})
	members(t, made, account...)
	if made["organizationId"] != h.ID || made["name"] != name || made["object"] != "serviceAccount" || made["mayCreateProjects"] != true {
		t.Errorf("%v", made)
	}
	date(t, made["creationDate"])
	path := "/service-accounts/" + id(made)
	if got := h.do(t, h.alice, http.MethodGet, path, nil); got["name"] != name {
		t.Errorf("%v", got)
	}
	renamed := h.Enc()
	edited := h.do(t, h.alice, http.MethodPut, path, object{"name": renamed, "mayCreateProjects": false})
	members(t, edited, account...)
	if edited["name"] != renamed || edited["mayCreateProjects"] != false || edited["creationDate"] != made["creationDate"] || edited["revisionDate"] == made["revisionDate"] {
		t.Errorf("%v", edited)
	}
	second := h.newAccount(t, h.alice)
	listed := list(t, h.do(t, h.alice, http.MethodGet, "/organizations/"+h.ID+"/service-accounts", nil))
	if len(listed) != 2 || listed[0]["name"] != renamed || id(listed[1]) != second || listed[0]["accessToSecrets"] != 0.0 {
		t.Errorf("%v", listed)
	}
	members(t, listed[0], append(account, "accessToSecrets")...)

	h.newToken(t, id(made))
	unknown := uuid.NewString()
	results := list(t, h.do(t, h.alice, http.MethodPost, "/service-accounts/delete", []string{id(made), unknown, strings.ToUpper(id(made))}))
	if len(results) != 2 || id(results[0]) != id(made) || results[0]["error"] != nil || results[1]["error"] != "access denied" {
		t.Errorf("%v", results)
	}
	members(t, results[0], "id", "error", "object")
	h.refused(t, h.alice, http.MethodGet, path, nil, http.StatusNotFound, "Resource not found.")
	if results := list(t, h.do(t, h.alice, http.MethodPost, "/service-accounts/delete", []string{id(made)})); results[0]["error"] != nil {
		t.Errorf("deleting again: %v", results)
	}
	if results := list(t, h.do(t, h.alice, http.MethodPost, "/service-accounts/delete", []string{})); len(results) != 0 {
		t.Errorf("%v", results)
	}
}

func TestTheSecretsThatAnAccountReachesAreCounted(t *testing.T) {
	h := open(t)
	readable, other := h.newProject(t), h.newProject(t)
	account, idle := h.newAccount(t, h.alice), h.newAccount(t, h.alice)
	h.newSecret(t, readable)
	both, single := h.newSecret(t, readable), h.newSecret(t, other)
	h.newSecret(t, other)
	h.newSecret(t)
	ctx := t.Context()
	admin, err := machine.OfPerson(machine.Person{Role: func(string) machine.Role { return machine.Admin }}).In(h.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range []error{
		h.Machines.GrantProject(ctx, account, readable, machine.ToRead),
		h.Machines.SetSecretAccounts(ctx, admin, both, map[string]machine.Rights{account: machine.ToRead}),
		h.Machines.SetSecretAccounts(ctx, admin, single, map[string]machine.Rights{account: machine.ToRead}),
		h.Machines.SetSecretAccounts(ctx, admin, uuid.NewString(), map[string]machine.Rights{account: machine.ToRead}), // gone
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	counts := map[string]any{}
	for _, listed := range list(t, h.do(t, h.alice, http.MethodGet, "/organizations/"+h.ID+"/service-accounts?includeAccessToSecrets=true", nil)) {
		counts[id(listed)] = listed["accessToSecrets"]
	}
	if counts[account] != 3.0 || counts[idle] != 0.0 {
		t.Errorf("%v", counts)
	}
}

func TestTokens(t *testing.T) {
	h := open(t)
	machineAccount, project := h.newAccount(t, h.alice), h.newProject(t)
	path := "/service-accounts/" + machineAccount + "/access-tokens"
	body := h.tokenBody()
	body["expireAt"] = "2099-06-30T12:00:00.123+02:00"
	body["readOnly"], body["projectIds"] = true, []string{strings.ToUpper(project)}
	made := h.do(t, h.alice, http.MethodPost, path, body)
	members(t, made, creation...)
	clientSecret, _ := made["clientSecret"].(string)
	if made["object"] != "accessTokenCreation" || made["name"] != body["name"] || len(clientSecret) != 30 || made["expireAt"] != "2099-06-30T10:00:00.123Z" {
		t.Errorf("%v", made)
	}
	if _, err := accesstoken.Parse(accesstoken.New(id(made), clientSecret).Reveal()); err != nil {
		t.Error(err)
	}
	granted, err := h.Machines.Exchange(t.Context(), id(made), clientSecret)
	if err != nil || granted.Payload != body["encryptedPayload"] {
		t.Errorf("%+v %v", granted, err)
	}
	h.Machines.Used(t.Context(), id(made), "192.0.2.9")
	forever := h.newToken(t, machineAccount)
	if forever["expireAt"] != nil {
		t.Errorf("%v", forever)
	}

	listed := list(t, h.do(t, h.alice, http.MethodGet, path, nil))
	if len(listed) != 2 {
		t.Fatalf("%v", listed)
	}
	first, second := listed[0], listed[1]
	members(t, first, token...)
	if id(first) != id(made) || first["object"] != "accessToken" || first["readOnly"] != true || first["lastUsedAddress"] != "192.0.2.9" ||
		!slices.Equal(first["scopes"].([]any), []any{"api.secrets"}) || !slices.Equal(first["projectIds"].([]any), []any{project}) || first["revokedDate"] != nil {
		t.Errorf("%v", first)
	}
	date(t, first["lastUsedDate"])
	if second["lastUsedDate"] != nil || second["expireAt"] != nil || len(second["projectIds"].([]any)) != 0 || !strings.HasPrefix(second["createdBy"].(string), "user:") {
		t.Errorf("%v", second)
	}

	if err := h.Machines.Revoke(t.Context(), h.Access(t).Caller, machineAccount, []string{id(made)}); err != nil {
		t.Fatal(err)
	}
	if listed = list(t, h.do(t, h.alice, http.MethodGet, path, nil)); len(listed) != 1 || id(listed[0]) != id(forever) {
		t.Errorf("%v", listed)
	}
	if listed = list(t, h.do(t, h.alice, http.MethodGet, path+"?includeRevoked=true", nil)); len(listed) != 2 || listed[0]["revokedBy"] != "user:root" {
		t.Errorf("%v", listed)
	}
	date(t, listed[0]["revokedDate"])
}

func TestRotationByTheHolder(t *testing.T) {
	h := open(t)
	machineAccount := h.newAccount(t, h.alice)
	made := h.newToken(t, machineAccount)
	session, old := h.Session(t, machineAccount, id(made)), made["clientSecret"]
	rotated := h.do(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": old})
	members(t, rotated, creation...)
	if id(rotated) != id(made) || rotated["clientSecret"] == old || rotated["object"] != "accessTokenCreation" {
		t.Errorf("%v", rotated)
	}
	if again := h.do(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": old, "graceSeconds": 1}); again["clientSecret"] != rotated["clientSecret"] {
		t.Error("the repetition gave another client secret")
	}
	for _, clientSecret := range []any{old, rotated["clientSecret"]} {
		if _, err := h.Machines.Exchange(t.Context(), id(made), clientSecret.(string)); err != nil {
			t.Error(err)
		}
	}
	const grace = "The old client secret can stay valid for 7 days at the most."
	for _, n := range []json.Number{"-1", "604801", "9223372036854775807", "-9223372036854775808"} {
		h.refused(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": rotated["clientSecret"], "graceSeconds": n}, http.StatusBadRequest, grace)
	}
	h.refused(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": "wrong"}, http.StatusBadRequest, "The client secret is not the one that is valid for this access token.")
	h.refused(t, h.alice, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": rotated["clientSecret"]}, http.StatusNotFound, "Resource not found.")
	h.do(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": rotated["clientSecret"], "graceSeconds": 604800})
}

func TestPeopleOfAnAccountAndOfAProject(t *testing.T) {
	h := open(t)
	bob, bobs := h.member(t, "ops")
	for path, kind := range map[string]string{
		"/service-accounts/" + h.newAccount(t, bobs): "serviceAccountAccessPolicies",
		"/projects/" + h.newProject(t):               "projectPeopleAccessPolicies",
	} {
		h.setPeople(t, path, map[string]machine.Rights{bob: machine.ToWrite, "carol": machine.ToWrite}, map[string]machine.Rights{"ops": machine.ToWrite, "dev": machine.ToWrite})
		got := h.do(t, bobs, http.MethodGet, path+"/access-policies/people", nil)
		members(t, got, "userAccessPolicies", "groupAccessPolicies", "object")
		users, groups := objects(got["userAccessPolicies"]), objects(got["groupAccessPolicies"])
		if got["object"] != kind || len(users) != 2 || len(groups) != 2 {
			t.Fatalf("%v", got)
		}
		members(t, users[0], "organizationUserId", "organizationUserName", "currentUser", "read", "write")
		members(t, groups[0], "groupId", "groupName", "currentUserInGroup", "read", "write")
		for _, user := range users {
			if user["currentUser"] != (user["organizationUserId"] == bob) || user["write"] != true {
				t.Errorf("%v", user)
			}
		}
		if groups[0]["groupId"] != "dev" || groups[0]["currentUserInGroup"] != false || groups[1]["currentUserInGroup"] != true {
			t.Errorf("%v", groups)
		}
		// It is a full replacement: whoever is not in it has no policy any more.
		h.do(t, bobs, http.MethodPut, path+"/access-policies/people", object{"userAccessPolicyRequests": []object{}})
		h.refused(t, bobs, http.MethodGet, path+"/access-policies/people", nil, http.StatusNotFound, "")
	}
	project := "/projects/" + h.newProject(t)
	h.setPeople(t, project, map[string]machine.Rights{bob: machine.ToRead}, nil)
	if got := h.do(t, h.alice, http.MethodGet, project+"/access-policies/people", nil); objects(got["userAccessPolicies"])[0]["write"] != false {
		t.Errorf("%v", got)
	}
}

func TestGrantsFromBothSides(t *testing.T) {
	h := open(t)
	machineAccount, project := h.newAccount(t, h.alice), h.newProject(t)
	granted := "/service-accounts/" + machineAccount + "/granted-policies"
	machines := "/projects/" + project + "/access-policies/service-accounts"
	answer := h.do(t, h.alice, http.MethodPut, granted, object{"projectGrantedPolicyRequests": policies("grantedId", map[string]machine.Rights{strings.ToUpper(project): machine.ToRead})})
	members(t, answer, "grantedProjectPolicies", "object")
	policy := objects(answer["grantedProjectPolicies"])[0]
	members(t, policy, "accessPolicy", "hasPermission")
	inner := policy["accessPolicy"].(object)
	members(t, inner, "grantedProjectId", "grantedProjectName", "read", "write")
	if inner["grantedProjectId"] != project || inner["read"] != true || inner["write"] != false || policy["hasPermission"] != true || inner["grantedProjectName"] == "" {
		t.Errorf("%v", policy)
	}
	answer = h.do(t, h.alice, http.MethodPut, machines, object{"serviceAccountAccessPolicyRequests": policies("granteeId", map[string]machine.Rights{machineAccount: machine.ToWrite})})
	members(t, answer, "serviceAccountAccessPolicies", "object")
	held := objects(answer["serviceAccountAccessPolicies"])[0]
	members(t, held, "serviceAccountId", "serviceAccountName", "read", "write")
	if held["serviceAccountId"] != machineAccount || held["write"] != true {
		t.Errorf("%v", held)
	}
	inner = objects(h.do(t, h.alice, http.MethodGet, granted, nil)["grantedProjectPolicies"])[0]["accessPolicy"].(object)
	if inner["write"] != true {
		t.Errorf("%v", inner)
	}
	h.do(t, h.alice, http.MethodPut, granted, object{"projectGrantedPolicyRequests": []object{}})
	if held := objects(h.do(t, h.alice, http.MethodGet, machines, nil)["serviceAccountAccessPolicies"]); len(held) != 0 {
		t.Errorf("%v", held)
	}
}

// A member changes only what concerns his own projects and accounts.
func TestAMemberGrantsOnlyWhatIsHis(t *testing.T) {
	h := open(t)
	bob, bobs := h.member(t)
	his, foreign := h.newAccount(t, bobs), h.newAccount(t, h.alice)
	writable, readable := h.newProject(t), h.newProject(t)
	h.setPeople(t, "/projects/"+writable, map[string]machine.Rights{bob: machine.ToWrite}, nil)
	h.setPeople(t, "/projects/"+readable, map[string]machine.Rights{bob: machine.ToRead}, nil)
	granted := "/service-accounts/" + his + "/granted-policies"
	grant := func(rights map[string]machine.Rights) object {
		return object{"projectGrantedPolicyRequests": policies("grantedId", rights)}
	}
	h.do(t, bobs, http.MethodPut, granted, grant(map[string]machine.Rights{writable: machine.ToWrite}))
	h.refused(t, bobs, http.MethodPut, granted, grant(map[string]machine.Rights{writable: machine.ToWrite, readable: machine.ToRead}), http.StatusNotFound, "")
	h.refused(t, bobs, http.MethodPut, granted, grant(map[string]machine.Rights{uuid.NewString(): machine.ToRead}), http.StatusNotFound, "")
	// What an administrator granted stays where it is, and can be gone around.
	h.do(t, h.alice, http.MethodPut, granted, grant(map[string]machine.Rights{writable: machine.ToWrite, readable: machine.ToRead}))
	h.do(t, bobs, http.MethodPut, granted, grant(map[string]machine.Rights{writable: machine.ToRead, readable: machine.ToRead}))
	h.refused(t, bobs, http.MethodPut, granted, grant(map[string]machine.Rights{writable: machine.ToRead}), http.StatusNotFound, "")
	for _, policy := range objects(h.do(t, bobs, http.MethodGet, granted, nil)["grantedProjectPolicies"]) {
		if project := policy["accessPolicy"].(object)["grantedProjectId"]; policy["hasPermission"] != (project == writable) {
			t.Errorf("%v", policy)
		}
	}

	machines := "/projects/" + writable + "/access-policies/service-accounts"
	put := func(token string, status int, rights map[string]machine.Rights) {
		t.Helper()
		h.refused(t, token, http.MethodPut, machines, object{"serviceAccountAccessPolicyRequests": policies("granteeId", rights)}, status, "")
	}
	put(bobs, http.StatusOK, map[string]machine.Rights{his: machine.ToWrite})
	put(bobs, http.StatusNotFound, map[string]machine.Rights{foreign: machine.ToRead})
	put(bobs, http.StatusNotFound, map[string]machine.Rights{uuid.NewString(): machine.ToRead})
	put(h.alice, http.StatusBadRequest, map[string]machine.Rights{uuid.NewString(): machine.ToRead})
	put(h.alice, http.StatusOK, map[string]machine.Rights{foreign: machine.ToWrite})
	put(bobs, http.StatusOK, map[string]machine.Rights{foreign: machine.ToRead}) // less
	put(bobs, http.StatusNotFound, map[string]machine.Rights{foreign: machine.ToWrite})
	put(bobs, http.StatusOK, nil) // nothing
}

func TestPotentialGrantees(t *testing.T) {
	h := open(t)
	bob, bobs := h.member(t, "ops")
	his := h.newAccount(t, bobs)
	foreign := h.newAccount(t, h.alice)
	writable, readable := h.newProject(t), h.newProject(t)
	h.setPeople(t, "/projects/"+writable, map[string]machine.Rights{bob: machine.ToWrite, "carol": machine.ToRead}, map[string]machine.Rights{"dev": machine.ToRead})
	h.setPeople(t, "/projects/"+readable, map[string]machine.Rights{bob: machine.ToRead}, nil)
	names := func(token, of string) (ids []string) {
		t.Helper()
		for _, g := range list(t, h.do(t, token, http.MethodGet, "/organizations/"+h.ID+"/access-policies/"+of+"/potential-grantees", nil)) {
			members(t, g, "id", "name", "type", "email", "currentUser", "currentUserInGroup", "object")
			if g["currentUser"] != (token == bobs && g["id"] == bob) || g["currentUserInGroup"] != (token == bobs && g["id"] == "ops") {
				t.Errorf("%v", g)
			}
			ids = append(ids, g["type"].(string)+":"+id(g))
		}
		slices.Sort(ids)
		return ids
	}
	people := names(bobs, "people")
	for _, want := range []string{"user:" + bob, "user:carol", "group:ops", "group:dev"} {
		if !slices.Contains(people, want) {
			t.Errorf("%s is not in %v", want, people)
		}
	}
	if got := names(bobs, "service-accounts"); !slices.Equal(got, []string{"serviceAccount:" + his}) {
		t.Errorf("%v", got)
	}
	if got := names(bobs, "projects"); !slices.Equal(got, []string{"project:" + writable}) {
		t.Errorf("%v", got)
	}
	if got := names(h.alice, "service-accounts"); len(got) != 2 || !slices.Contains(got, "serviceAccount:"+foreign) {
		t.Errorf("%v", got)
	}
	if got := names(h.alice, "projects"); len(got) != 2 {
		t.Errorf("%v", got)
	}
}

func TestCountsAreOfWhatCanBeRead(t *testing.T) {
	h := open(t)
	bob, bobs := h.member(t)
	his, foreign := h.newAccount(t, bobs), h.newAccount(t, h.alice)
	project, hidden := h.newProject(t), h.newProject(t)
	h.setPeople(t, "/projects/"+project, map[string]machine.Rights{bob: machine.ToRead}, map[string]machine.Rights{"dev": machine.ToRead})
	h.newSecret(t, project)
	h.newSecret(t, hidden)
	h.newSecret(t)
	if err := h.Machines.GrantProject(t.Context(), his, project, machine.ToRead); err != nil {
		t.Fatal(err)
	}
	revoked := h.newToken(t, his)
	h.newToken(t, his)
	if err := h.Machines.Revoke(t.Context(), h.Access(t).Caller, his, []string{id(revoked)}); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		token, path string
		want        object
	}{
		{h.alice, "/organizations/" + h.ID, object{"projects": 2.0, "secrets": 3.0, "serviceAccounts": 2.0, "object": "organizationCounts"}},
		{bobs, "/organizations/" + h.ID, object{"projects": 1.0, "secrets": 1.0, "serviceAccounts": 1.0, "object": "organizationCounts"}},
		{bobs, "/projects/" + project, object{"secrets": 1.0, "people": 2.0, "serviceAccounts": 1.0, "object": "projectCounts"}},
		{bobs, "/service-accounts/" + his, object{"projects": 1.0, "people": 1.0, "accessTokens": 1.0, "object": "serviceAccountCounts"}},
	} {
		got := h.do(t, c.token, http.MethodGet, c.path+"/sm-counts", nil)
		for name, value := range c.want {
			if got[name] != value {
				t.Errorf("%s: %s is %v, want %v", c.path, name, got[name], value)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v", c.path, got)
		}
	}
	h.refused(t, bobs, http.MethodGet, "/projects/"+hidden+"/sm-counts", nil, http.StatusNotFound, "")
	h.refused(t, bobs, http.MethodGet, "/service-accounts/"+foreign+"/sm-counts", nil, http.StatusNotFound, "")
}

func TestEventsArePaged(t *testing.T) {
	const tokens = 60
	h := open(t)
	machineAccount := h.newAccount(t, h.alice)
	for range tokens {
		h.newToken(t, machineAccount)
	}
	path := "/sm/events/service-accounts/" + machineAccount
	first := h.do(t, h.alice, http.MethodGet, path, nil)
	events := list(t, first)
	next, _ := first["continuationToken"].(string)
	if len(events) != 50 || next == "" {
		t.Fatalf("%d events, continuation token %q", len(events), next)
	}
	members(t, events[0], "type", "date", "organizationId", "serviceAccountId", "actingUserId", "secretId", "projectId",
		"ipAddress", "deviceType", "actor", "accessTokenId", "subjectId", "object")
	if e := events[0]; e["type"] != 2306.0 || e["ipAddress"] != "192.0.2.7" || e["serviceAccountId"] != machineAccount || e["actingUserId"] == nil || e["accessTokenId"] == nil || e["object"] != "event" {
		t.Errorf("%v", e)
	}
	last := h.do(t, h.alice, http.MethodGet, path+"?continuationToken="+next, nil)
	rest := list(t, last)
	if len(rest) != tokens+1-50 || last["continuationToken"] != nil || rest[len(rest)-1]["type"] != 2304.0 {
		t.Errorf("%d events, %v", len(rest), last["continuationToken"])
	}
	for i, e := range append(events, rest...)[1:] {
		if date(t, e["date"]).After(date(t, append(events, rest...)[i]["date"])) {
			t.Error("an event is newer than the one before")
		}
	}
	future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	if got := list(t, h.do(t, h.alice, http.MethodGet, path+"?start="+future, nil)); len(got) != 0 {
		t.Errorf("%d events of the future", len(got))
	}
	if got := list(t, h.do(t, h.alice, http.MethodGet, path+"?start=2020-01-01T00:00:00.000Z&end=2020-02-01T00:00:00.000Z", nil)); len(got) != 0 {
		t.Errorf("%d events of the past", len(got))
	}
	h.refused(t, h.alice, http.MethodGet, path+"?start=yesterday", nil, http.StatusBadRequest, "start is not a date such as 2027-01-31T12:00:00Z.")
	h.refused(t, h.alice, http.MethodGet, path+"?end=tomorrow", nil, http.StatusBadRequest, "")
	h.refused(t, h.alice, http.MethodGet, path+"?continuationToken=x", nil, http.StatusBadRequest, "The continuation token is not one of this list.")
}

func TestTheSettingsOfTheOrganization(t *testing.T) {
	h := open(t)
	_, bobs := h.member(t)
	path := "/organizations/" + h.ID + "/secrets-manager"
	shape := []string{"organizationId", "keyCheck", "maxTokenLifetimeSeconds", "enabled", "creationDate", "revisionDate", "object"}
	got := h.do(t, bobs, http.MethodGet, path, nil)
	members(t, got, shape...)
	if got["organizationId"] != h.ID || got["keyCheck"] != nil || got["maxTokenLifetimeSeconds"] != nil || got["enabled"] != true || got["creationDate"] != nil || got["object"] != "secretsManagerSettings" {
		t.Errorf("%v", got)
	}
	check := h.Enc()
	got = h.do(t, h.alice, http.MethodPut, path, object{"keyCheck": check, "maxTokenLifetimeSeconds": 7776000})
	members(t, got, shape...)
	if got["keyCheck"] != check || got["maxTokenLifetimeSeconds"] != 7776000.0 {
		t.Errorf("%v", got)
	}
	date(t, got["revisionDate"])
	if got = h.do(t, h.alice, http.MethodPut, path, object{}); got["keyCheck"] != check || got["maxTokenLifetimeSeconds"] != 7776000.0 || got["enabled"] != true {
		t.Errorf("what is absent was changed: %v", got)
	}
	h.refused(t, h.alice, http.MethodPost, "/service-accounts/"+h.newAccount(t, h.alice)+"/access-tokens", h.tokenBody(), http.StatusBadRequest, "")
	if got = h.do(t, h.alice, http.MethodPut, path, object{"keyCheck": check, "maxTokenLifetimeSeconds": nil}); got["maxTokenLifetimeSeconds"] != nil {
		t.Errorf("null does not take the limit away: %v", got)
	}
	h.refused(t, h.alice, http.MethodPut, path, object{"keyCheck": h.Enc()}, http.StatusBadRequest, "This organization has a key already.")
	h.refused(t, bobs, http.MethodPut, path, object{"enabled": false}, http.StatusNotFound, "Resource not found.")
	if got = h.do(t, h.alice, http.MethodPut, path, object{"enabled": false}); got["enabled"] != false {
		t.Errorf("%v", got)
	}
	if got = h.do(t, bobs, http.MethodGet, path, nil); got["enabled"] != false {
		t.Errorf("%v", got)
	}
}

// Each row is a request of an administrator that cannot be met, and what he reads.
func TestRequestsThatAreWrong(t *testing.T) {
	const invalid = "The model state is invalid."
	h := open(t)
	machineAccount, project := h.newAccount(t, h.alice), h.newProject(t)
	accounts := "/organizations/" + h.ID + "/service-accounts"
	path := "/service-accounts/" + machineAccount
	both := machine.Rights{Read: true, Write: true}
	people := func(users ...object) object { return object{"userAccessPolicyRequests": users} }
	with := func(member string, value any) object { b := h.tokenBody(); b[member] = value; return b }
	grantee := func(id string, r machine.Rights) object {
		return object{"granteeId": id, "read": r.Read, "write": r.Write}
	}
	granted := func(id string, r machine.Rights) object {
		return object{"grantedId": id, "read": r.Read, "write": r.Write}
	}
	tooMany := make([]string, 251)
	for i := range tooMany {
		tooMany[i] = uuid.NewString()
	}
	for name, c := range map[string]struct {
		method, path string
		body         any
		message      string
		field        string
	}{
		"a name that is plain":          {http.MethodPost, accounts, object{"name": "machine"}, invalid, "name"},
		"no name":                       {http.MethodPost, accounts, object{}, invalid, "name"},
		"a name too long":               {http.MethodPut, path, object{"name": h.Key.Encrypt(strings.Repeat("x", 2800))}, invalid, "name"},
		"a name that is a number":       {http.MethodPut, path, object{"name": 7}, invalid, "name"},
		"no JSON":                       {http.MethodPost, accounts, "name", "The request body is not the JSON that is expected here.", ""},
		"nothing":                       {http.MethodPost, accounts, "", "The request body is not the JSON that is expected here.", ""},
		"an array":                      {http.MethodPost, accounts, "[]", "The request body is not the JSON that is expected here.", ""},
		"two values":                    {http.MethodPost, accounts, "{}{}", "The request body is not the JSON that is expected here.", ""},
		"an id that is none":            {http.MethodPost, "/service-accounts/delete", []string{"x"}, "Number 1 of the ids is not an id.", ""},
		"an object of ids":              {http.MethodPost, "/service-accounts/delete", object{"ids": tooMany}, "", ""},
		"too many to delete":            {http.MethodPost, "/service-accounts/delete", tooMany, "At most 250 machine accounts can be deleted at once.", ""},
		"a token without a payload":     {http.MethodPost, path + "/access-tokens", with("encryptedPayload", ""), invalid, "encryptedPayload"},
		"a payload that is too long":    {http.MethodPost, path + "/access-tokens", with("encryptedPayload", h.Key.Encrypt(strings.Repeat("x", 4000))), invalid, "encryptedPayload"},
		"a token without a key":         {http.MethodPost, path + "/access-tokens", with("key", nil), invalid, "key"},
		"a token without a name":        {http.MethodPost, path + "/access-tokens", with("name", "plain"), invalid, "name"},
		"a token that has expired":      {http.MethodPost, path + "/access-tokens", with("expireAt", "2020-01-01T00:00:00Z"), "Please select an expiration date that is in the future.", ""},
		"the date of nothing":           {http.MethodPost, path + "/access-tokens", with("expireAt", "0001-01-01T00:00:00Z"), "Please select an expiration date that is in the future.", ""},
		"a date nobody can write":       {http.MethodPost, path + "/access-tokens", with("expireAt", "9999-12-31T23:59:59-23:59"), "Please select an expiration date within the next hundred years, or none.", ""},
		"a date that is none":           {http.MethodPost, path + "/access-tokens", with("expireAt", "tomorrow"), invalid, "expireAt"},
		"a project that is not there":   {http.MethodPost, path + "/access-tokens", with("projectIds", []string{machineAccount}), "There is no project " + machineAccount + " in this organization.", ""},
		"a project twice":               {http.MethodPost, path + "/access-tokens", with("projectIds", []string{project, strings.ToUpper(project)}), "Resources must be unique", ""},
		"a project that is no id":       {http.MethodPost, path + "/access-tokens", with("projectIds", []string{"x"}), "Number 1 of the ids is not an id.", ""},
		"a person twice":                {http.MethodPut, path + "/access-policies/people", people(grantee("bob", both), grantee("bob", both)), "Resources must be unique", ""},
		"a person who may not read":     {http.MethodPut, path + "/access-policies/people", people(grantee("bob", machine.Rights{Write: true})), "Resources must be Read = true", ""},
		"a person who may only read":    {http.MethodPut, path + "/access-policies/people", people(grantee("bob", machine.ToRead)), "Machine account access must be Can read, write", ""},
		"a group that may only read":    {http.MethodPut, path + "/access-policies/people", object{"groupAccessPolicyRequests": []object{grantee("ops", machine.ToRead)}}, "Machine account access must be Can read, write", ""},
		"a person without an id":        {http.MethodPut, path + "/access-policies/people", people(grantee("", both)), "", ""},
		"no list of people":             {http.MethodPut, path + "/access-policies/people", object{}, invalid, "userAccessPolicyRequests"},
		"people of a project, twice":    {http.MethodPut, "/projects/" + project + "/access-policies/people", people(grantee("bob", both), grantee("bob", machine.ToRead)), "Resources must be unique", ""},
		"people who may not read":       {http.MethodPut, "/projects/" + project + "/access-policies/people", people(grantee("bob", machine.Rights{})), "Resources must be Read = true", ""},
		"machines twice":                {http.MethodPut, "/projects/" + project + "/access-policies/service-accounts", object{"serviceAccountAccessPolicyRequests": []object{grantee(machineAccount, both), grantee(strings.ToUpper(machineAccount), both)}}, "Resources must be unique", ""},
		"a machine that may not read":   {http.MethodPut, "/projects/" + project + "/access-policies/service-accounts", object{"serviceAccountAccessPolicyRequests": []object{grantee(machineAccount, machine.Rights{Write: true})}}, "Resources must be Read = true", ""},
		"a machine that is not there":   {http.MethodPut, "/projects/" + project + "/access-policies/service-accounts", object{"serviceAccountAccessPolicyRequests": []object{grantee(project, both)}}, "There is no machine account " + project + " in this organization.", ""},
		"no list of machines":           {http.MethodPut, "/projects/" + project + "/access-policies/service-accounts", object{}, invalid, "serviceAccountAccessPolicyRequests"},
		"a granted project twice":       {http.MethodPut, path + "/granted-policies", object{"projectGrantedPolicyRequests": []object{granted(project, both), granted(project, both)}}, "Resources must be unique", ""},
		"a grant without the right":     {http.MethodPut, path + "/granted-policies", object{"projectGrantedPolicyRequests": []object{granted(project, machine.Rights{Write: true})}}, "Resources must be Read = true", ""},
		"a grant of what is no id":      {http.MethodPut, path + "/granted-policies", object{"projectGrantedPolicyRequests": []object{granted("x", both)}}, "", ""},
		"no list of grants":             {http.MethodPut, path + "/granted-policies", object{}, invalid, "projectGrantedPolicyRequests"},
		"a key check that is plain":     {http.MethodPut, "/organizations/" + h.ID + "/secrets-manager", object{"keyCheck": "plain"}, "keyCheck is not a valid encrypted string.", ""},
		"a lifetime that is too short":  {http.MethodPut, "/organizations/" + h.ID + "/secrets-manager", object{"maxTokenLifetimeSeconds": 1}, "", ""},
		"a lifetime that is no integer": {http.MethodPut, "/organizations/" + h.ID + "/secrets-manager", object{"maxTokenLifetimeSeconds": 1.5}, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h.Driver.Reset()
			answer := h.refused(t, h.alice, c.method, c.path, c.body, http.StatusBadRequest, c.message)
			fields, _ := answer["validationErrors"].(object)
			if _, told := fields[c.field]; told != (c.field != "") {
				t.Errorf("validation errors: %v, want one of %q", fields, c.field)
			}
			if n := h.Driver.Calls(storetest.Put, storetest.Delete); n != 0 {
				t.Errorf("%d writes", n)
			}
		})
	}
	h.refused(t, h.alice, http.MethodPost, accounts, `{"name":"`+strings.Repeat("x", 600<<10)+`"}`, http.StatusRequestEntityTooLarge, "")
	h.refused(t, h.alice, http.MethodDelete, path, nil, http.StatusMethodNotAllowed, "")
	h.refused(t, h.alice, http.MethodGet, "/service-accounts/x", nil, http.StatusNotFound, "Resource not found.")
	h.refused(t, h.alice, http.MethodGet, "/organizations/x/service-accounts", nil, http.StatusNotFound, "Resource not found.")
	h.refused(t, h.alice, http.MethodGet, "/nothing", nil, http.StatusNotFound, "Resource not found.")
}

// operations are one request of every route, with the right that it needs on the
// account or the project: none is a role in the organisation.
func (h *house) operations(machineAccount, project string) []struct {
	method, path string
	body         any
	need         string
} {
	organization, path := "/organizations/"+h.ID, "/service-accounts/"+machineAccount
	return []struct {
		method, path string
		body         any
		need         string
	}{
		{http.MethodGet, organization + "/service-accounts", nil, "role"},
		{http.MethodPost, organization + "/service-accounts", object{"name": h.Enc()}, "role"},
		{http.MethodGet, path, nil, "read"},
		{http.MethodPut, path, object{"name": h.Enc()}, "write"},
		{http.MethodGet, path + "/access-tokens", nil, "read"},
		{http.MethodPost, path + "/access-tokens", h.tokenBody(), "write"},
		{http.MethodGet, path + "/access-policies/people", nil, "write"},
		{http.MethodPut, path + "/access-policies/people", nil, "write"}, // whose body TestWhoMayDoWhat makes
		{http.MethodGet, path + "/granted-policies", nil, "write"},
		{http.MethodPut, path + "/granted-policies", object{"projectGrantedPolicyRequests": []object{}}, "write"},
		{http.MethodGet, "/projects/" + project + "/access-policies/people", nil, "write"},
		{http.MethodPut, "/projects/" + project + "/access-policies/people", nil, "write"},
		{http.MethodGet, "/projects/" + project + "/access-policies/service-accounts", nil, "write"},
		{http.MethodPut, "/projects/" + project + "/access-policies/service-accounts", object{"serviceAccountAccessPolicyRequests": []object{}}, "write"},
		{http.MethodGet, organization + "/access-policies/people/potential-grantees", nil, "role"},
		{http.MethodGet, organization + "/access-policies/service-accounts/potential-grantees", nil, "role"},
		{http.MethodGet, organization + "/access-policies/projects/potential-grantees", nil, "role"},
		{http.MethodGet, organization + "/sm-counts", nil, "role"},
		{http.MethodGet, "/projects/" + project + "/sm-counts", nil, "read"},
		{http.MethodGet, path + "/sm-counts", nil, "read"},
		{http.MethodGet, "/sm/events/service-accounts/" + machineAccount, nil, "write"},
		{http.MethodGet, organization + "/secrets-manager", nil, "role"},
		{http.MethodPut, organization + "/secrets-manager", object{}, "admin"},
	}
}

func TestWhoMayDoWhat(t *testing.T) {
	h := open(t)
	machineAccount, project := h.newAccount(t, h.alice), h.newProject(t)
	writer, writers := h.member(t)
	reader, readers := h.member(t)
	_, groups := h.member(t, "ops")
	_, others := h.member(t)
	everybody := object{
		"userAccessPolicyRequests":  policies("granteeId", map[string]machine.Rights{writer: machine.ToWrite, uuid.NewString(): machine.ToWrite}),
		"groupAccessPolicyRequests": policies("granteeId", map[string]machine.Rights{"ops": machine.ToWrite}),
	}
	path := "/service-accounts/" + machineAccount
	h.setPeople(t, path, map[string]machine.Rights{writer: machine.ToWrite}, map[string]machine.Rights{"ops": machine.ToWrite})
	h.setPeople(t, "/projects/"+project, map[string]machine.Rights{writer: machine.ToWrite, reader: machine.ToRead}, map[string]machine.Rights{"ops": machine.ToWrite})
	made := h.newToken(t, machineAccount)
	if err := h.Machines.GrantProject(t.Context(), machineAccount, project, machine.ToWrite); err != nil {
		t.Fatal(err)
	}
	gone := h.newToken(t, machineAccount)
	ended := h.Session(t, machineAccount, id(gone))
	if err := h.Machines.Revoke(t.Context(), h.Access(t).Caller, machineAccount, []string{id(gone)}); err != nil {
		t.Fatal(err)
	}
	// One who may read a project may count in it, and no more.
	for path, status := range map[string]int{"/sm-counts": http.StatusOK, "/access-policies/people": http.StatusNotFound} {
		h.refused(t, readers, http.MethodGet, "/projects/"+project+path, nil, status, "")
	}
	everyRight := []string{"role", "read", "write"}
	for name, c := range map[string]struct {
		token     string
		may       []string
		otherwise int
	}{
		"an owner":                     {h.alice, []string{"role", "read", "write", "admin"}, 0},
		"an administrator":             {h.person(t, devidentity.Claims{User: uuid.NewString(), Admin: []string{h.ID}}), []string{"role", "read", "write", "admin"}, 0},
		"a member with a policy":       {writers, everyRight, http.StatusNotFound},
		"a member of a group":          {groups, everyRight, http.StatusNotFound},
		"a member without a policy":    {others, []string{"role"}, http.StatusNotFound},
		"a user without a role":        {h.person(t, devidentity.Claims{User: writer, Member: []string{h.ID}, Groups: []string{"ops"}}), nil, http.StatusNotFound},
		"another one's administrator":  {h.person(t, devidentity.Claims{User: writer, Owner: []string{uuid.NewString()}}), nil, http.StatusNotFound},
		"a token for something else":   {h.person(t, devidentity.Claims{User: writer, Owner: []string{h.ID}, Scopes: []string{"api.installation"}}), nil, http.StatusNotFound},
		"the machine itself":           {h.Session(t, machineAccount, id(made)), nil, http.StatusNotFound},
		"a machine that was revoked":   {ended, nil, http.StatusUnauthorized},
		"nobody":                       {"", nil, http.StatusUnauthorized},
		"somebody whose token expired": {h.person(t, devidentity.Claims{User: writer, Owner: []string{h.ID}, Lifetime: -time.Hour}), nil, http.StatusUnauthorized},
	} {
		for _, o := range h.operations(machineAccount, project) {
			body, status := o.body, c.otherwise
			if o.method == http.MethodPut && strings.HasSuffix(o.path, "/people") {
				body = everybody
			}
			if slices.Contains(c.may, o.need) {
				status = http.StatusOK
			}
			h.Driver.Reset()
			before := len(h.Log.Lines(t, "audit"))
			if w, _ := h.send(t, c.token, o.method, o.path, body); w.Code != status {
				t.Errorf("%s: %s %s: %d %s, want %d", name, o.method, o.path, w.Code, w.Body, status)
			}
			events := h.Log.Lines(t, "audit")[before:]
			if len(events) == 0 {
				t.Errorf("%s: %s %s: there is no audit event", name, o.method, o.path)
			}
			for _, event := range events {
				if (event["outcome"] == "allowed") != (status == http.StatusOK) || event["action"] == nil || status == http.StatusOK && (event["actor"] == nil || event["subject"] == nil) {
					t.Errorf("%s: %s %s: %d, and the audit event is %v", name, o.method, o.path, status, event)
				}
			}
			if n := h.Driver.Calls(storetest.Put, storetest.Delete); status != http.StatusOK && n != 0 {
				t.Errorf("%s: %s %s: %d writes", name, o.method, o.path, n)
			}
		}
	}
	answer := h.refused(t, ended, http.MethodGet, path, nil, http.StatusUnauthorized, "")
	if message := answer["message"].(string); !strings.HasPrefix(message, "The access token was revoked by user:root on ") {
		t.Errorf("the machine reads %q", message)
	}
	for _, token := range []string{others, groups} {
		before := len(h.Log.Lines(t, "audit"))
		results := list(t, h.do(t, token, http.MethodPost, "/service-accounts/delete", []string{machineAccount}))
		if (results[0]["error"] == nil) != (token == groups) {
			t.Errorf("%v", results)
		}
		event := h.Log.Lines(t, "audit")[before]
		if want := map[bool]string{true: "allowed", false: "refused"}[token == groups]; event["outcome"] != want || event["action"] != "service-account.delete" || event["subject"] != machineAccount {
			t.Errorf("the audit event is %v", event)
		}
	}
	h.refused(t, h.Session(t, machineAccount, id(made)), http.MethodPost, "/service-accounts/delete", []string{machineAccount}, http.StatusUnauthorized, "")
}

// late is a body before which something happens.
type late struct {
	*strings.Reader
	once func()
}

func (l *late) Read(b []byte) (int, error) {
	if l.once != nil {
		l.once()
		l.once = nil
	}
	return l.Reader.Read(b)
}

func TestARightThatIsTakenAwayWhileTheBodyArrivesIsGone(t *testing.T) {
	h := open(t)
	machineAccount := h.newAccount(t, h.alice)
	bob, bobs := h.member(t)
	writes := map[string]machine.Rights{bob: machine.ToWrite}
	for route, body := range map[string]object{
		"people":           {"userAccessPolicyRequests": policies("granteeId", writes)},
		"service-accounts": {"serviceAccountAccessPolicyRequests": policies("granteeId", map[string]machine.Rights{machineAccount: machine.ToWrite})},
	} {
		for _, lost := range []string{"nothing", "the project", "the account"} {
			t.Run(route+" without "+lost, func(t *testing.T) {
				project := "/projects/" + h.newProject(t)
				h.setPeople(t, project, writes, nil)
				h.setPeople(t, "/service-accounts/"+machineAccount, writes, nil)
				before := h.do(t, h.alice, http.MethodGet, project+"/access-policies/service-accounts", nil)
				text, err := json.Marshal(body)
				if err != nil {
					t.Fatal(err)
				}
				status := http.StatusNotFound
				arriving := &late{Reader: strings.NewReader(string(text)), once: func() {
					switch lost {
					case "the project":
						h.setPeople(t, project, nil, nil)
					case "the account":
						h.setPeople(t, "/service-accounts/"+machineAccount, nil, nil)
					}
				}}
				if lost == "nothing" || lost == "the account" && route == "people" {
					status = http.StatusOK
				}
				h.refused(t, bobs, http.MethodPut, project+"/access-policies/"+route, arriving, status, "")
				people := h.do(t, h.alice, http.MethodGet, project+"/access-policies/people", nil)
				if (len(objects(people["userAccessPolicies"])) == 0) != (lost == "the project") {
					t.Errorf("the people are %v", people)
				}
				after := h.do(t, h.alice, http.MethodGet, project+"/access-policies/service-accounts", nil)
				if changed := fmt.Sprint(after) != fmt.Sprint(before); changed != (route == "service-accounts" && status == http.StatusOK) {
					t.Errorf("the machines are %v", after)
				}
			})
		}
	}
}

func TestMembersListWhatTheyCanRead(t *testing.T) {
	h := open(t)
	_, bobs := h.member(t)
	h.newAccount(t, h.alice)
	his := h.newAccount(t, bobs)
	if listed := list(t, h.do(t, bobs, http.MethodGet, "/organizations/"+h.ID+"/service-accounts", nil)); len(listed) != 1 || id(listed[0]) != his {
		t.Errorf("%v", listed)
	}
}

// Whatever the store does not answer is 503 and says so, and nothing of the store
// is told.
func TestAFaultOfOursIs503AndPasses(t *testing.T) {
	h := open(t)
	machineAccount, project := h.newAccount(t, h.alice), h.newProject(t)
	for _, o := range h.operations(machineAccount, project) {
		if o.body == nil && o.method != http.MethodGet {
			continue
		}
		h.Driver.Inject(storetest.Fault{})
		h.refused(t, h.alice, o.method, o.path, o.body, http.StatusServiceUnavailable, "Secrets Manager is not available at the moment. Please try again.")
		h.Driver.Reset()
		h.do(t, h.alice, o.method, o.path, o.body)
	}
}

func TestADeletionThatBrokeOffCanBeRepeated(t *testing.T) {
	h := open(t)
	machineAccount := h.newAccount(t, h.alice)
	made := h.newToken(t, machineAccount)
	session := h.Session(t, machineAccount, id(made))
	h.Driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "access-tokens"})
	answer := h.refused(t, h.alice, http.MethodPost, "/service-accounts/delete", []string{machineAccount}, http.StatusServiceUnavailable, "")
	if !strings.Contains(answer["message"].(string), id(made)) {
		t.Errorf("%v", answer)
	}
	answer = h.refused(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": "x"}, http.StatusUnauthorized, "")
	if !strings.HasPrefix(answer["message"].(string), "The machine account was deleted by user:") {
		t.Errorf("%v", answer)
	}
	if results := list(t, h.do(t, h.alice, http.MethodPost, "/service-accounts/delete", []string{machineAccount})); results[0]["error"] != nil {
		t.Errorf("%v", results)
	}
}

// The store is asked no more often than a request needs.
func TestWhatARequestCosts(t *testing.T) {
	h := open(t)
	machineAccount := h.newAccount(t, h.alice)
	made := h.newToken(t, machineAccount)
	h.Machines.Used(t.Context(), id(made), "192.0.2.9")
	session := h.Session(t, machineAccount, id(made))
	rotated := h.do(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": made["clientSecret"]})
	for name, c := range map[string]struct {
		token, method, path string
		body                any
		calls               int
	}{
		"reading an account":     {h.alice, http.MethodGet, "/service-accounts/" + machineAccount, nil, 1},
		"listing tokens":         {h.alice, http.MethodGet, "/service-accounts/" + machineAccount + "/access-tokens", nil, 3},                  // the account, its tokens, their uses
		"rotating":               {session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": rotated["clientSecret"]}, 4},      // the session, a read, a write, an event
		"creating a token":       {h.alice, http.MethodPost, "/service-accounts/" + machineAccount + "/access-tokens", h.tokenBody(), 6},       // the account thrice, the organisation, the token, an event
		"a machine's management": {session, http.MethodGet, "/service-accounts/" + machineAccount, nil, 1},                                     // the session
		"a list of projects":     {h.alice, http.MethodGet, "/organizations/" + h.ID + "/access-policies/projects/potential-grantees", nil, 1}, // a page
	} {
		h.Driver.Reset()
		h.send(t, c.token, c.method, c.path, c.body)
		if got := h.Driver.Calls(); got != c.calls {
			t.Errorf("%s costs %d calls of the store, want %d", name, got, c.calls)
		}
	}
}

func TestNothingSecretIsLogged(t *testing.T) {
	h := open(t)
	machineAccount := h.newAccount(t, h.alice)
	body := h.tokenBody()
	made := h.do(t, h.alice, http.MethodPost, "/service-accounts/"+machineAccount+"/access-tokens", body)
	session := h.Session(t, machineAccount, id(made))
	rotated := h.do(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": made["clientSecret"]})
	wrong := "wrong-" + strings.Repeat("s", 20)
	h.refused(t, session, http.MethodPost, "/access-tokens/rotate", object{"clientSecret": wrong}, http.StatusBadRequest, "")
	h.refused(t, h.alice, http.MethodPost, "/service-accounts/"+machineAccount+"/access-tokens", object{"name": wrong, "encryptedPayload": wrong, "expireAt": wrong, "projectIds": []string{wrong}}, http.StatusBadRequest, "")
	h.refused(t, h.alice, http.MethodPut, "/organizations/"+h.ID+"/secrets-manager", object{"keyCheck": wrong}, http.StatusBadRequest, "")
	h.refused(t, h.alice, http.MethodPost, "/service-accounts/delete", []string{wrong}, http.StatusBadRequest, "")
	logs := h.Log.String()
	if !strings.Contains(logs, `"action":"access-token.rotate"`) || !strings.Contains(logs, `"token":"`+id(made)+`"`) {
		t.Error("the log does not tell of the rotation")
	}
	for name, secret := range map[string]string{
		"the operator's token": h.alice, "the session": session, "what was sent in the wrong place": wrong,
		"the client secret": made["clientSecret"].(string), "the new client secret": rotated["clientSecret"].(string),
		"the payload": body["encryptedPayload"].(string), "the key": body["key"].(string), "the name": body["name"].(string),
	} {
		if strings.Contains(logs, secret) {
			t.Errorf("%s is in the log", name)
		}
	}
}

func TestPagesOfTheWebVaultMayCall(t *testing.T) {
	h := open(t)
	r := httptest.NewRequestWithContext(t.Context(), http.MethodOptions, "/api/organizations/"+h.ID+"/service-accounts", nil)
	r.Header.Set("Origin", origin)
	r.Header.Set("Access-Control-Request-Method", http.MethodPost)
	r.Header.Set("Access-Control-Request-Headers", "authorization")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	if w.Header().Get("Access-Control-Allow-Origin") != origin {
		t.Errorf("%d %v", w.Code, w.Header())
	}
}
