package secrets

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/encstring"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// The members without which clients fail (bold in section 3 of the protocol), in
// the types that they insist on.

type object = map[string]any

func decode(t *testing.T, text []byte) object {
	t.Helper()
	var o object
	if err := json.Unmarshal(text, &o); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return o
}

func has(t *testing.T, o object, members ...string) {
	t.Helper()
	for _, member := range members {
		text, ok := o[member].(string)
		switch {
		case !ok:
			t.Errorf("%s is missing in %v", member, o)
		case member == "organizationId" && text != organization:
			t.Errorf("organizationId is %s", text)
		case strings.HasSuffix(member, "Date"):
			date, err := time.Parse(time.RFC3339Nano, text)
			if err != nil || !strings.HasSuffix(text, "Z") || time.Since(date).Abs() > time.Hour {
				t.Errorf("%s is %q", member, text)
			}
		case slices.Contains([]string{"key", "value", "note", "name"}, member) && encstring.Check(text) != nil:
			t.Errorf("%s is no encrypted text: %q", member, text)
		}
	}
}

var (
	ofProject = []string{"id", "organizationId", "name", "creationDate", "revisionDate"}
	ofSecret  = []string{"id", "organizationId", "key", "value", "note", "creationDate", "revisionDate"}
	ofListed  = []string{"id", "organizationId", "key", "creationDate", "revisionDate"}
)

func (h *house) answer(t *testing.T, caller, route string, body any) object {
	t.Helper()
	status, text := h.do(caller, route, body)
	if status != http.StatusOK {
		t.Fatalf("%s: %d %s", route, status, text)
	}
	return decode(t, text)
}

func elements(t *testing.T, o object, member string) []object {
	t.Helper()
	list, ok := o[member].([]any)
	if !ok {
		t.Fatalf("%s is no list in %v", member, o)
	}
	var all []object
	for _, element := range list {
		all = append(all, element.(object))
	}
	return all
}

func isList(t *testing.T, o object) []object {
	t.Helper()
	if token, ok := o["continuationToken"]; !ok || token != nil || o["object"] != "list" {
		t.Errorf("it is not the object of lists: %v", o)
	}
	return elements(t, o, "data")
}

// The happy path as it was observed, by a machine that begins with nothing.
func TestTheObservedSequenceHasAnswersThatClientsAccept(t *testing.T) {
	h := open(t)
	h.machine("robot", nil, nil, machine.Token{})
	begin := time.Now().UTC()

	project := h.answer(t, "robot", "POST /organizations/"+organization+"/projects", object{"name": key.Encrypt("p")})
	has(t, project, ofProject...)
	if project["read"] != true || project["write"] != true || project["object"] != "project" {
		t.Errorf("%v", project)
	}
	p := project["id"].(string)
	listed := isList(t, h.answer(t, "robot", "GET /organizations/"+organization+"/projects", nil))
	if len(listed) != 1 || fmt.Sprint(listed[0]) != fmt.Sprint(project) {
		t.Errorf("%v is listed, not %v", listed, project)
	}
	has(t, h.answer(t, "robot", "GET /projects/"+p, nil), ofProject...)
	renamed := key.Encrypt("renamed")
	edited := h.answer(t, "robot", "PUT /projects/"+p, object{"name": renamed})
	has(t, edited, ofProject...)
	if edited["name"] != renamed || edited["creationDate"] != project["creationDate"] || edited["revisionDate"] == project["revisionDate"] {
		t.Errorf("%v after %v", edited, project)
	}

	body := secretBody("one", p)
	created := h.answer(t, "robot", "POST /organizations/"+organization+"/secrets", body)
	has(t, created, ofSecret...)
	inProject := fmt.Sprint([]any{object{"id": p, "name": renamed}})
	if created["key"] != body["key"] || created["value"] != body["value"] || created["note"] != body["note"] ||
		created["read"] != true || created["write"] != true || created["object"] != "secret" || fmt.Sprint(created["projects"]) != inProject {
		t.Errorf("%v", created)
	}
	s1 := created["id"].(string)
	s2 := h.answer(t, "robot", "POST /organizations/"+organization+"/secrets", secretBody("two", p))["id"].(string)

	for _, route := range []string{"GET /organizations/" + organization + "/secrets", "GET /projects/" + p + "/secrets"} {
		list := h.answer(t, "robot", route, nil)
		secrets := elements(t, list, "secrets")
		if len(secrets) != 2 || secrets[0]["id"] != s1 || list["object"] != "SecretsWithProjectsList" || fmt.Sprint(list["projects"]) != inProject {
			t.Errorf("%v", list)
		}
		for _, s := range secrets {
			has(t, s, ofListed...)
			if s["read"] != true || s["write"] != true || fmt.Sprint(s["projects"]) != inProject || s["value"] != nil || s["note"] != nil {
				t.Errorf("%v", s)
			}
		}
	}
	if got := h.answer(t, "robot", "GET /secrets/"+s1, nil); fmt.Sprint(got) != fmt.Sprint(created) {
		t.Errorf("%v, want %v", got, created)
	}
	byIDs := isList(t, h.answer(t, "robot", "POST /secrets/get-by-ids", object{"ids": []string{s1, s2}}))
	if len(byIDs) != 2 {
		t.Fatalf("%v", byIDs)
	}
	for _, s := range byIDs {
		has(t, s, ofSecret...)
		if _, ok := s["read"]; ok || s["object"] != "baseSecret" || fmt.Sprint(s["projects"]) != inProject {
			t.Errorf("%v", s)
		}
	}
	body = secretBody("three", p)
	put := h.answer(t, "robot", "PUT /secrets/"+s1, body)
	has(t, put, ofSecret...)
	if put["value"] != body["value"] || put["creationDate"] != created["creationDate"] || put["revisionDate"] == created["revisionDate"] {
		t.Errorf("%v after %v", put, created)
	}

	sync := h.answer(t, "robot", "GET /organizations/"+organization+"/secrets/sync", nil)
	if sync["hasChanges"] != true || sync["object"] != "secretsSync" {
		t.Errorf("%v", sync)
	}
	for _, s := range isList(t, sync["secrets"].(object)) {
		has(t, s, ofSecret...)
	}
	since := func(at time.Time) string {
		return "GET /organizations/" + organization + "/secrets/sync?lastSyncedDate=" + url.QueryEscape(at.Format("2006-01-02T15:04:05.999999999-07:00"))
	}
	if sync = h.answer(t, "robot", since(begin), nil); sync["hasChanges"] != true {
		t.Errorf("%v", sync)
	}
	sync = h.answer(t, "robot", since(time.Now().UTC()), nil)
	if secrets, ok := sync["secrets"]; sync["hasChanges"] != false || !ok || secrets != nil || sync["object"] != "secretsSync" {
		t.Errorf("%v", sync)
	}

	for _, route := range []string{"POST /secrets/delete", "POST /projects/delete"} {
		id := map[string]string{"POST /secrets/delete": s1, "POST /projects/delete": p}[route]
		deleted := isList(t, h.answer(t, "robot", route, []string{id}))
		if problem, ok := deleted[0]["error"]; len(deleted) != 1 || deleted[0]["id"] != id || !ok || problem != nil || deleted[0]["object"] != "BulkDeleteResponseModel" {
			t.Errorf("%v", deleted)
		}
		h.notFound("robot", route, []string{id})
	}
	if list := h.answer(t, "robot", "GET /organizations/"+organization+"/secrets", nil); len(elements(t, list, "secrets")) != 0 || len(elements(t, list, "projects")) != 0 {
		t.Errorf("%v", list)
	}
}

func TestNobodyWithoutASessionGetsAnything(t *testing.T) {
	h := open(t)
	for _, route := range []string{"GET /organizations/" + organization + "/secrets", "POST /secrets/get-by-ids", "GET /sm/" + organization + "/export"} {
		h.refused("a stranger", route, "{}", http.StatusUnauthorized, "Who are you?")
	}
}

func TestWhatIsNotThereAndWhatMayNotBeReachedAreNotToldApart(t *testing.T) {
	h := open(t)
	p, s := h.project(), h.secret("value")
	h.machine("robot", nil, nil, machine.Token{})
	h.machineOf(elsewhere, "foreign robot", grants{p: machine.ToWrite}, grants{s: machine.ToWrite}, machine.Token{})
	h.person("member", machine.Member)
	h.person("stranger", machine.NoRole)
	for _, caller := range []string{"robot", "foreign robot", "member", "stranger", "admin"} {
		pid, sid := p, s
		if caller == "admin" {
			pid, sid = nobody, nobody
		}
		h.notFound(caller, "GET /projects/"+pid, nil)
		h.notFound(caller, "PUT /projects/"+pid, object{"name": key.Encrypt("n")})
		h.notFound(caller, "GET /projects/"+pid+"/secrets", nil)
		h.notFound(caller, "GET /secrets/"+sid, nil)
		h.notFound(caller, "PUT /secrets/"+sid, secretBody("new"))
		h.notFound(caller, "POST /secrets/get-by-ids", object{"ids": []string{sid}})
		h.notFound(caller, "GET /secrets/"+sid+"/versions", nil)
		h.notFound(caller, "GET /secrets/"+sid+"/access-policies", nil)
		h.notFound(caller, "POST /organizations/"+organization+"/secrets", secretBody("new", nobody))
	}
	for _, caller := range []string{"foreign robot", "stranger"} {
		for _, route := range []string{"GET /organizations/%s/projects", "GET /organizations/%s/secrets", "GET /organizations/%s/secrets/sync"} {
			h.notFound(caller, route2(route), nil)
		}
	}
	for _, caller := range []string{"robot", "foreign robot", "member", "stranger"} {
		h.notFound(caller, "GET /secrets/"+organization+"/trash", nil)
		h.notFound(caller, "POST /secrets/"+organization+"/trash/empty", []string{s})
		h.notFound(caller, "POST /secrets/"+organization+"/trash/restore", []string{s})
		h.notFound(caller, "GET /sm/"+organization+"/export", nil)
		h.notFound(caller, "POST /sm/"+organization+"/import", object{"projects": []any{}, "secrets": []any{}})
	}
	h.notFound("admin", "GET /secrets/not-an-id", nil)
}

func route2(route string) string { return strings.ReplaceAll(route, "%s", organization) }

func TestWhoMayOnlyReadMayNotWrite(t *testing.T) {
	h := open(t)
	p, other := h.project(), h.project()
	s := h.secret("value", p)
	h.machine("reader", grants{p: machine.ToRead, other: machine.ToWrite}, nil, machine.Token{})
	h.machine("read-only token", grants{p: machine.ToWrite}, nil, machine.Token{ReadOnly: true})
	for caller, message := range map[string]string{"reader": hidden, "read-only token": hidden + " This access token is read-only."} {
		if got := get[secretAnswer](h, caller, "GET /secrets/"+s, nil); !got.Read || got.Write {
			t.Errorf("%s: %+v", caller, got)
		}
		h.refused(caller, "PUT /secrets/"+s, secretBody("new", p), http.StatusNotFound, message)
		h.refused(caller, "PUT /projects/"+p, object{"name": key.Encrypt("n")}, http.StatusNotFound, message)
		h.refused(caller, "POST /organizations/"+organization+"/secrets", secretBody("new", p), http.StatusNotFound, message)
		for route, id := range map[string]string{"POST /secrets/delete": s, "POST /projects/delete": p} {
			results := get[smapi.List[smapi.BulkResult]](h, caller, route, []string{id})
			if len(results.Data) != 1 || results.Data[0].Error == nil || *results.Data[0].Error != "access denied" {
				t.Errorf("%s %s: %+v", caller, route, results)
			}
		}
	}
	h.refused("read-only token", "POST /organizations/"+organization+"/projects", object{"name": key.Encrypt("n")}, http.StatusNotFound, hidden+" This access token is read-only.")
	if got := get[secretAnswer](h, "admin", "GET /secrets/"+s, nil); h.plain(got.Value) != "value" {
		t.Error("it was changed")
	}
}

func TestATokenLimitedToAProjectSeesThatOneAlone(t *testing.T) {
	h := open(t)
	p, other := h.project(), h.project()
	s, hiddenSecret, direct := h.secret("in p", p), h.secret("in other", other), h.secret("direct")
	h.machine("limited", grants{p: machine.ToWrite, other: machine.ToWrite}, grants{direct: machine.ToWrite}, machine.Token{Projects: []string{p}})
	list := get[secretsAnswer](h, "limited", "GET /organizations/"+organization+"/secrets", nil)
	if len(list.Secrets) != 1 || list.Secrets[0].ID != s {
		t.Errorf("%+v", list)
	}
	for _, id := range []string{hiddenSecret, direct} {
		h.notFound("limited", "GET /secrets/"+id, nil)
	}
	h.refused("limited", "POST /organizations/"+organization+"/projects", object{"name": key.Encrypt("n")}, http.StatusNotFound, hidden+" This access token is limited to certain projects.")
	h.notFound("limited", "PUT /secrets/"+s, secretBody("new", other))
}

func TestCreatingASecretNeedsOneProjectThatMayBeWritten(t *testing.T) {
	h := open(t)
	p, q := h.project(), h.project()
	h.machine("robot", grants{p: machine.ToWrite, q: machine.ToRead}, nil, machine.Token{})
	create := "POST /organizations/" + organization + "/secrets"
	h.notFound("robot", create, secretBody("v"))
	h.notFound("robot", create, secretBody("v", q))
	h.notFound("robot", create, secretBody("v", nobody))
	for _, caller := range []string{"robot", "admin"} {
		h.refused(caller, create, secretBody("v", p, q), http.StatusBadRequest, "Only one project assignment is supported.")
		get[secretAnswer](h, caller, create, secretBody("v", p))
	}
	if s := get[secretAnswer](h, "admin", create, secretBody("v")); len(s.Projects) != 0 || s.Projects == nil {
		t.Errorf("%+v", s)
	}
	h.notFound("robot", create, map[string]any{"key": key.Encrypt("k"), "value": key.Encrypt("v"), "note": key.Encrypt("n"), "projectIds": []string{p}, "accessPoliciesRequests": object{}})
}

func TestMovingASecret(t *testing.T) {
	h := open(t)
	p, q, r := h.project(), h.project(), h.project()
	s, loose := h.secret("v", p), h.secret("v")
	h.machine("robot", grants{p: machine.ToWrite, q: machine.ToWrite, r: machine.ToRead}, grants{loose: machine.ToWrite}, machine.Token{})
	none := secretBody("v")
	none["projectIds"] = []string{}
	null := secretBody("v")
	null["projectIds"] = nil
	for _, body := range []any{secretBody("v"), none, null} {
		h.notFound("robot", "PUT /secrets/"+s, body) // taking it out of its project
	}
	h.notFound("robot", "PUT /secrets/"+s, secretBody("v", r))
	h.refused("robot", "PUT /secrets/"+s, secretBody("v", p, q), http.StatusBadRequest, "Only one project assignment is supported.")
	if got := get[secretAnswer](h, "robot", "PUT /secrets/"+s, secretBody("v", strings.ToUpper(p))); got.Projects[0].ID != p {
		t.Errorf("%+v", got)
	}
	if got := get[secretAnswer](h, "robot", "PUT /secrets/"+s, secretBody("v", q)); got.Projects[0].ID != q {
		t.Errorf("%+v", got)
	}
	// An unassigned one with a policy of its own needs no project.
	if got := get[secretAnswer](h, "robot", "PUT /secrets/"+loose, secretBody("new")); len(got.Projects) != 0 || h.plain(got.Value) != "new" {
		t.Errorf("%+v", got)
	}
	if got := get[secretAnswer](h, "robot", "PUT /secrets/"+loose, secretBody("new", q)); got.Projects[0].ID != q {
		t.Errorf("%+v", got)
	}
	if got := get[secretAnswer](h, "admin", "PUT /secrets/"+s, secretBody("v")); len(got.Projects) != 0 {
		t.Errorf("%+v", got)
	}
	h.notFound("robot", "GET /secrets/"+s, nil)
}

func TestInListsOnlyPoliciesOnProjectsCountForWriting(t *testing.T) {
	h := open(t)
	p := h.project()
	s, loose := h.secret("v", p), h.secret("v")
	h.machine("robot", grants{p: machine.ToRead}, grants{s: machine.ToWrite, loose: machine.ToWrite}, machine.Token{})
	list := get[secretsAnswer](h, "robot", "GET /organizations/"+organization+"/secrets", nil)
	if len(list.Secrets) != 2 {
		t.Fatalf("%+v", list)
	}
	for _, listed := range list.Secrets {
		if listed.Write || !listed.Read {
			t.Errorf("%+v", listed)
		}
		if got := get[secretAnswer](h, "robot", "GET /secrets/"+listed.ID, nil); !got.Write {
			t.Errorf("%+v", got)
		}
	}
	for _, listed := range get[secretsAnswer](h, "admin", "GET /organizations/"+organization+"/secrets", nil).Secrets {
		if !listed.Write {
			t.Errorf("%+v", listed)
		}
	}
}

func TestListsAreInTheOrderOfRevision(t *testing.T) {
	h := open(t)
	p := h.project()
	first, second, third := h.secret("1", p), h.secret("2"), h.secret("3", p)
	get[secretAnswer](h, "admin", "PUT /secrets/"+first, secretBody("1", p))
	var order []string
	for _, s := range get[secretsAnswer](h, "admin", "GET /organizations/"+organization+"/secrets", nil).Secrets {
		order = append(order, s.ID)
	}
	if want := []string{second, third, first}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
	q := h.project()
	get[projectAnswer](h, "admin", "PUT /projects/"+p, object{"name": key.Encrypt("n")})
	order = nil
	for _, project := range get[smapi.List[projectAnswer]](h, "admin", "GET /organizations/"+organization+"/projects", nil).Data {
		order = append(order, project.ID)
	}
	if want := []string{q, p}; !slices.Equal(order, want) {
		t.Errorf("%q, want %q", order, want)
	}
}

func TestGettingByIDs(t *testing.T) {
	h := open(t)
	p := h.project()
	s, other, trashed := h.secret("v", p), h.secret("w"), h.secret("x", p)
	get[smapi.List[smapi.BulkResult]](h, "admin", "POST /secrets/delete", []string{trashed})
	h.machine("robot", grants{p: machine.ToRead}, nil, machine.Token{})
	byIDs := "POST /secrets/get-by-ids"
	for _, empty := range []any{object{"ids": []string{}}, "[]"} {
		if status, text := h.do("robot", byIDs, empty); status != http.StatusOK || string(text) != `{"data":[],"continuationToken":null,"object":"list"}` {
			t.Errorf("%d %s", status, text)
		}
	}
	h.refused("robot", byIDs, object{"ids": []string{s, strings.ToUpper(s)}}, http.StatusBadRequest, "An id stands in the request more than once.")
	for _, ids := range [][]string{{s, nobody}, {s, other}, {trashed}} {
		h.notFound("robot", byIDs, object{"ids": ids})
	}
	for _, bad := range []string{"", "{}", `{"ids":null}`, `{"ids":"x"}`, `{"ids":[1]}`, `{"ids":["x"]}`, "null", "[null]", `"x"`} {
		if status, text := h.do("robot", byIDs, bad); status != http.StatusBadRequest {
			t.Errorf("%q: %d %s", bad, status, text)
		}
	}
	if got := get[smapi.List[baseSecret]](h, "admin", byIDs, object{"ids": []string{other, s}}); len(got.Data) != 2 {
		t.Errorf("%+v", got)
	}
}

func TestDeletingTellsOfEachAndDoesNothingWhereOneIsUnknown(t *testing.T) {
	h := open(t)
	p, q := h.project(), h.project()
	mine, other := h.secret("v", p), h.secret("v", q)
	h.machine("robot", grants{p: machine.ToWrite, q: machine.ToRead}, nil, machine.Token{})
	h.notFound("robot", "POST /secrets/delete", []string{mine, nobody})
	h.notFound("robot", "POST /projects/delete", []string{p, nobody})
	get[secretAnswer](h, "robot", "GET /secrets/"+mine, nil)
	results := get[smapi.List[smapi.BulkResult]](h, "robot", "POST /secrets/delete", []string{mine, other, mine})
	if len(results.Data) != 2 || results.Data[0].ID != mine || results.Data[0].Error != nil || results.Data[1].Error == nil || *results.Data[1].Error != "access denied" {
		t.Errorf("%+v", results)
	}
	h.notFound("robot", "GET /secrets/"+mine, nil)
	get[secretAnswer](h, "robot", "GET /secrets/"+other, nil)
	if got := get[smapi.List[smapi.BulkResult]](h, "robot", "POST /secrets/delete", "[]"); len(got.Data) != 0 {
		t.Errorf("%+v", got)
	}
	// Of a deleted project the secrets stay.
	get[smapi.List[smapi.BulkResult]](h, "admin", "POST /projects/delete", []string{q})
	if got := get[secretAnswer](h, "admin", "GET /secrets/"+other, nil); len(got.Projects) != 0 || h.plain(got.Value) != "v" {
		t.Errorf("%+v", got)
	}
	h.notFound("robot", "GET /secrets/"+other, nil)
}

func TestTheTrash(t *testing.T) {
	h := open(t)
	p := h.project()
	back, gone := h.secret("back", p), h.secret("gone", p)
	h.machine("robot", grants{p: machine.ToWrite}, nil, machine.Token{})
	get[smapi.List[smapi.BulkResult]](h, "robot", "POST /secrets/delete", []string{back, gone})
	for _, id := range []string{back, gone} {
		h.notFound("admin", "GET /secrets/"+id, nil)
		h.notFound("admin", "PUT /secrets/"+id, secretBody("v", p))
	}
	if list := get[secretsAnswer](h, "admin", "GET /secrets/"+organization+"/trash", nil); len(list.Secrets) != 2 || len(list.Projects) != 1 {
		t.Errorf("%+v", list)
	}
	restore, empty := "POST /secrets/"+organization+"/trash/restore", "POST /secrets/"+organization+"/trash/empty"
	h.notFound("admin", restore, []string{back, nobody})
	h.notFound("admin", empty, []string{gone, nobody})
	for route, id := range map[string]string{restore: back, empty: gone} {
		if status, text := h.do("admin", route, []string{id}); status != http.StatusOK || len(text) != 0 {
			t.Errorf("%d %s", status, text)
		}
		h.notFound("admin", route, []string{id})
	}
	if got := get[secretAnswer](h, "robot", "GET /secrets/"+back, nil); h.plain(got.Value) != "back" || got.Projects[0].ID != p {
		t.Errorf("%+v", got)
	}
	if list := get[secretsAnswer](h, "admin", "GET /secrets/"+organization+"/trash", nil); len(list.Secrets) != 0 || list.Secrets == nil {
		t.Errorf("%+v", list)
	}
	h.notFound("admin", restore, []string{gone})
}

func TestVersions(t *testing.T) {
	h := open(t)
	p := h.project()
	s := h.secret("first", p)
	account := h.machine("robot", grants{p: machine.ToWrite}, nil, machine.Token{})
	h.machine("reader", grants{p: machine.ToRead}, nil, machine.Token{})
	h.machine("other", nil, nil, machine.Token{})
	for _, value := range []string{"second", "third"} {
		get[secretAnswer](h, "robot", "PUT /secrets/"+s, secretBody(value, p))
	}
	list := h.answer(t, "reader", "GET /secrets/"+s+"/versions", nil)
	versions := isList(t, list)
	if len(versions) != 2 {
		t.Fatalf("%v", versions)
	}
	newest, oldest := versions[0], versions[1]
	has(t, newest, "id", "secretId", "value", "versionDate")
	if newest["secretId"] != s || newest["editorServiceAccountId"] != account || newest["editorOrganizationUserId"] != nil || newest["object"] != "secretVersion" || h.plain(newest["value"].(string)) != "second" {
		t.Errorf("%v", newest)
	}
	if oldest["editorServiceAccountId"] != nil || oldest["editorOrganizationUserId"] != "admin" || h.plain(oldest["value"].(string)) != "first" {
		t.Errorf("%v", oldest)
	}
	first, second := oldest["id"].(string), newest["id"].(string)
	if one := get[versionAnswer](h, "reader", "GET /secret-versions/"+first, nil); h.plain(one.Value) != "first" {
		t.Errorf("%+v", one)
	}
	byIDs := "POST /secret-versions/get-by-ids"
	for _, body := range []any{[]string{first, second}, object{"ids": []string{first, second}}} {
		if some := get[smapi.List[versionAnswer]](h, "reader", byIDs, body); len(some.Data) != 2 || h.plain(some.Data[1].Value) != "second" {
			t.Errorf("%+v", some)
		}
	}
	h.notFound("reader", byIDs, []string{first, nobody})
	h.notFound("other", byIDs, []string{first})
	h.notFound("other", "GET /secret-versions/"+first, nil)
	h.notFound("other", "GET /secrets/"+s+"/versions", nil)
	h.refused("reader", byIDs, []string{first, first}, http.StatusBadRequest, "An id stands in the request more than once.")

	restore := "PUT /secrets/" + s + "/versions/restore"
	h.notFound("reader", restore, object{"versionId": first})
	h.notFound("robot", restore, object{"versionId": nobody})
	restored := h.answer(t, "robot", restore, object{"versionId": first})
	has(t, restored, ofSecret...)
	if h.plain(restored["value"].(string)) != "first" {
		t.Errorf("%v", restored)
	}
	if now := get[smapi.List[versionAnswer]](h, "robot", "GET /secrets/"+s+"/versions", nil).Data; len(now) != 3 || h.plain(now[0].Value) != "third" {
		t.Errorf("%+v", now)
	}

	remove := "POST /secret-versions/delete"
	if denied := get[smapi.List[smapi.BulkResult]](h, "reader", remove, []string{first}); denied.Data[0].Error == nil || *denied.Data[0].Error != "access denied" {
		t.Errorf("%+v", denied)
	}
	h.notFound("robot", remove, []string{first, nobody})
	if deleted := get[smapi.List[smapi.BulkResult]](h, "robot", remove, []string{first, second}); len(deleted.Data) != 2 || deleted.Data[0].Error != nil || deleted.Data[1].Error != nil {
		t.Errorf("%+v", deleted)
	}
	if left := get[smapi.List[versionAnswer]](h, "robot", "GET /secrets/"+s+"/versions", nil).Data; len(left) != 1 || h.plain(left[0].Value) != "third" {
		t.Errorf("%+v", left)
	}
	h.notFound("robot", "GET /secret-versions/"+first, nil)
	if got := get[secretAnswer](h, "robot", "GET /secrets/"+s, nil); h.plain(got.Value) != "first" {
		t.Errorf("%+v", got)
	}
	// Where the client says that the value did not change, no version is kept.
	body := secretBody("fourth", p)
	body["valueChanged"] = false
	get[secretAnswer](h, "robot", "PUT /secrets/"+s, body)
	if left := get[smapi.List[versionAnswer]](h, "robot", "GET /secrets/"+s+"/versions", nil).Data; len(left) != 1 {
		t.Errorf("%+v", left)
	}
}

// The valid content of a secret is no version, so that its id opens nothing.
func TestTheValidContentIsNoVersion(t *testing.T) {
	h := open(t)
	s := h.secret("value")
	for head, err := range h.secrets.Heads(t.Context(), organization) {
		if err != nil || head.ID != s {
			t.Fatal(err)
		}
		h.notFound("admin", "GET /secret-versions/"+head.Value.Content, nil)
		h.notFound("admin", "POST /secret-versions/delete", []string{head.Value.Content})
		h.notFound("admin", "PUT /secrets/"+s+"/versions/restore", object{"versionId": head.Value.Content})
	}
}

func TestPoliciesOfASecret(t *testing.T) {
	h := open(t)
	p := h.project()
	account := h.machine("robot", nil, nil, machine.Token{})
	h.person("ann", machine.Member)
	h.person("bob", machine.Member, "team")
	body := secretBody("value", p)
	body["accessPoliciesRequests"] = object{
		"userAccessPolicyRequests":           []object{{"granteeId": "ann", "read": true, "write": true}},
		"groupAccessPolicyRequests":          []object{{"granteeId": "team", "read": true, "write": false}},
		"serviceAccountAccessPolicyRequests": []object{{"granteeId": strings.ToUpper(account), "read": true, "write": false}},
	}
	s := get[secretAnswer](h, "admin", "POST /organizations/"+organization+"/secrets", body).ID
	for caller, write := range map[string]bool{"ann": true, "bob": false, "robot": false} {
		if got := get[secretAnswer](h, caller, "GET /secrets/"+s, nil); got.Write != write {
			t.Errorf("%s: %+v", caller, got)
		}
	}
	policies := get[policiesAnswer](h, "ann", "GET /secrets/"+s+"/access-policies", nil)
	if policies.Object != "secretAccessPolicies" || len(policies.Users) != 1 || policies.Users[0] != (smapi.UserPolicy{OrganizationUserID: "ann", OrganizationUserName: "ann", CurrentUser: true, Read: true, Write: true}) ||
		len(policies.Groups) != 1 || policies.Groups[0] != (smapi.GroupPolicy{GroupID: "team", GroupName: "team", Read: true}) ||
		len(policies.Accounts) != 1 || policies.Accounts[0].ServiceAccountID != account || policies.Accounts[0].ServiceAccountName == "" || !policies.Accounts[0].Read || policies.Accounts[0].Write {
		t.Errorf("%+v", policies)
	}
	h.notFound("bob", "GET /secrets/"+s+"/access-policies", nil)
	h.notFound("robot", "GET /secrets/"+s+"/access-policies", nil)

	// Absent, they stay; there, they are the full set.
	get[secretAnswer](h, "ann", "PUT /secrets/"+s, secretBody("value", p))
	get[secretAnswer](h, "bob", "GET /secrets/"+s, nil)
	body["accessPoliciesRequests"] = object{"userAccessPolicyRequests": []object{{"granteeId": "ann", "read": true, "write": true}}}
	get[secretAnswer](h, "ann", "PUT /secrets/"+s, body)
	h.notFound("bob", "GET /secrets/"+s, nil)
	h.notFound("robot", "GET /secrets/"+s, nil)

	twice := []object{{"granteeId": "ann", "read": true, "write": true}, {"granteeId": "ann", "read": true, "write": false}}
	body["accessPoliciesRequests"] = object{"userAccessPolicyRequests": twice}
	h.refused("ann", "PUT /secrets/"+s, body, http.StatusBadRequest, "Resources must be unique")
	body["accessPoliciesRequests"] = object{"groupAccessPolicyRequests": []object{{"granteeId": "team", "read": false, "write": true}}}
	h.refused("ann", "PUT /secrets/"+s, body, http.StatusBadRequest, "Resources must be Read = true")
	body["accessPoliciesRequests"] = object{"serviceAccountAccessPolicyRequests": []object{{"granteeId": nobody, "read": true}}}
	h.refused("admin", "PUT /secrets/"+s, body, http.StatusBadRequest, "There is no machine account "+nobody+" in this organization.")
}

func TestSyncOverTheWire(t *testing.T) {
	h := open(t)
	h.machine("robot", nil, nil, machine.Token{})
	sync := "GET /organizations/" + organization + "/secrets/sync"
	h.refused("admin", sync, nil, http.StatusBadRequest, "Only service accounts can sync secrets.")
	h.refused("robot", sync+"?lastSyncedDate=2999-01-01T00:00:00Z", nil, http.StatusBadRequest, "Last synced date must be in the past.")
	for _, bad := range []string{"x", "2026-01-01", "1700000000"} {
		p := h.refused("robot", sync+"?lastSyncedDate="+bad, nil, http.StatusBadRequest, "The model state is invalid.")
		if len(p.ValidationErrors["lastSyncedDate"]) == 0 {
			t.Errorf("%+v", p)
		}
	}
	for _, good := range []string{"", "?lastSyncedDate=", "?lastSyncedDate=2026-01-01T00:00:00+00:00", "?lastSyncedDate=2026-01-01T00:00:00.1234567%2B02:00"} {
		if got := h.answer(t, "robot", sync+good, nil); got["hasChanges"] != true || len(isList(t, got["secrets"].(object))) != 0 {
			t.Errorf("%v", got)
		}
	}
}

func TestExportAndImport(t *testing.T) {
	h := open(t)
	p := h.project()
	inside, loose := h.secret("inside", p), h.secret("loose")
	get[smapi.List[smapi.BulkResult]](h, "admin", "POST /secrets/delete", []string{h.secret("trashed", p)})
	type file struct {
		Projects []transferredProject `json:"projects"`
		Secrets  []transferredSecret  `json:"secrets"`
	}
	exported := get[file](h, "admin", "GET /sm/"+organization+"/export", nil)
	if len(exported.Projects) != 1 || exported.Projects[0].ID != p || len(exported.Secrets) != 2 ||
		exported.Secrets[0].ID != inside || !slices.Equal(exported.Secrets[0].ProjectIDs, []string{p}) ||
		exported.Secrets[1].ID != loose || exported.Secrets[1].ProjectIDs == nil || len(exported.Secrets[1].ProjectIDs) != 0 {
		t.Errorf("%+v", exported)
	}

	// An import makes everything anew, beside what is there, and once.
	if got := get[imported](h, "admin", "POST /sm/"+organization+"/import", exported); got != (imported{1, 2, 0, 0, "secretsManagerImport"}) {
		t.Errorf("%+v", got)
	}
	if got := get[imported](h, "admin", "POST /sm/"+organization+"/import", exported); got != (imported{1, 2, 1, 2, "secretsManagerImport"}) {
		t.Errorf("%+v", got)
	}
	after := get[file](h, "admin", "GET /sm/"+organization+"/export", nil)
	if len(after.Projects) != 2 || len(after.Secrets) != 4 {
		t.Fatalf("%+v", after)
	}
	for _, s := range after.Secrets {
		if s.ID == inside || s.ID == loose {
			continue
		}
		switch h.plain(s.Value) {
		case "inside":
			if len(s.ProjectIDs) != 1 || s.ProjectIDs[0] == p {
				t.Errorf("%+v", s)
			}
		case "loose":
			if len(s.ProjectIDs) != 0 {
				t.Errorf("%+v", s)
			}
		default:
			t.Errorf("%+v", s)
		}
	}

	many := func(n int, element any) []any { return slices.Repeat([]any{element}, n) }
	name := key.Encrypt("n")
	good := object{"key": name, "value": name, "note": name, "projectIds": []string{}, "id": ""}
	h.driver.Reset()
	for what, bad := range map[string]struct {
		body    any
		message string
	}{
		"too many projects": {object{"projects": many(1001, object{"id": "x", "name": name})}, "You cannot import this much data at once, the limit is 1000 projects and 6000 secrets."},
		"too many secrets":  {object{"secrets": many(6001, good)}, "You cannot import this much data at once, the limit is 1000 projects and 6000 secrets."},
		"a project twice":   {object{"projects": many(2, object{"id": "x", "name": name})}, "Each project of an import needs an id of its own."},
		"no project's id":   {object{"projects": many(1, object{"name": name})}, "Each project of an import needs an id of its own."},
		"a secret twice":    {object{"secrets": many(2, object{"key": name, "value": name, "note": name, "id": "x"})}, "Each secret of an import needs an id of its own."},
		"an unknown project": {object{"secrets": many(1, object{"key": name, "value": name, "note": name, "projectIds": []string{"x"}})},
			"A secret of an import names a project that the import does not hold."},
		"two projects": {object{"projects": []any{object{"id": "x", "name": name}, object{"id": "y", "name": name}},
			"secrets": many(1, object{"key": name, "value": name, "note": name, "projectIds": []string{"x", "y"}})}, "Only one project assignment is supported."},
		"a plain value":  {object{"secrets": []any{good, object{"key": name, "value": "hunter2", "note": name}}}, "The model state is invalid."},
		"an empty name":  {object{"projects": many(1, object{"id": "x"})}, "The model state is invalid."},
		"very many bad":  {object{"secrets": many(6000, object{})}, "The model state is invalid."},
		"another shape":  {`{"projects":{}}`, "The request body is not the JSON that is expected here."},
		"no JSON at all": {`{"projects":[`, "The request body is not the JSON that is expected here."},
	} {
		p := h.refused("admin", "POST /sm/"+organization+"/import", bad.body, http.StatusBadRequest, bad.message)
		if len(p.ValidationErrors) > 30 {
			t.Errorf("%s: the answer tells of %d texts", what, len(p.ValidationErrors))
		}
	}
	if writes := h.driver.Calls(storetest.Put, storetest.Delete); writes != 0 {
		t.Errorf("what was refused wrote %d times", writes)
	}
	if got := get[imported](h, "admin", "POST /sm/"+organization+"/import", `{"projects":null,"secrets":[]}`); got.Projects+got.Secrets != 0 {
		t.Errorf("%+v", got)
	}
}

func TestBadTextsAreToldByMember(t *testing.T) {
	h := open(t)
	p := h.refused("admin", "POST /organizations/"+organization+"/secrets", object{"key": "", "value": "plain"}, http.StatusBadRequest, "The model state is invalid.")
	for _, member := range []string{"Key", "Value", "Note"} {
		if len(p.ValidationErrors[member]) != 1 {
			t.Errorf("%s: %v", member, p.ValidationErrors)
		}
	}
	p = h.refused("admin", "POST /organizations/"+organization+"/projects", object{"name": "plain"}, http.StatusBadRequest, "The model state is invalid.")
	if len(p.ValidationErrors["Name"]) != 1 {
		t.Errorf("%v", p.ValidationErrors)
	}
}

func TestMembersHaveWhatPoliciesGrantAndWhatTheyMake(t *testing.T) {
	h := open(t)
	h.person("ann", machine.Member)
	h.person("bob", machine.Member, "team")
	p := get[projectAnswer](h, "ann", "POST /organizations/"+organization+"/projects", object{"name": key.Encrypt("n")})
	if !p.Read || !p.Write {
		t.Errorf("%+v", p)
	}
	s := get[secretAnswer](h, "ann", "POST /organizations/"+organization+"/secrets", secretBody("v", p.ID)).ID
	h.notFound("ann", "POST /organizations/"+organization+"/secrets", secretBody("v"))
	h.notFound("bob", "GET /secrets/"+s, nil)
	people := machine.People{Users: grants{"ann": machine.ToWrite}, Groups: grants{"team": machine.ToRead}}
	admin := machine.OfPerson(machine.Person{Role: func(string) machine.Role { return machine.Admin }})
	if _, err := h.secrets.SetProjectPeople(t.Context(), admin, p.ID, people); err != nil {
		t.Fatal(err)
	}
	if got := get[secretAnswer](h, "bob", "GET /secrets/"+s, nil); got.Write {
		t.Errorf("%+v", got)
	}
	if list := get[secretsAnswer](h, "bob", "GET /organizations/"+organization+"/secrets", nil); len(list.Secrets) != 1 {
		t.Errorf("%+v", list)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	h := open(t)
	s := h.secret("v")
	for route, most := range map[string]int{"PUT /secrets/" + s: maxSecret, "POST /secrets/get-by-ids": maxIDs, "POST /sm/" + organization + "/import": maxImport} {
		status, text := h.do("admin", route, strings.Repeat(" ", most)+"{}")
		if status != http.StatusRequestEntityTooLarge || !strings.Contains(string(text), fmt.Sprint(most)) {
			t.Errorf("%s: %d %s", route, status, text)
		}
	}
}

func TestAnAnswerTooLargeForTheHostIsRefusedBeforeItBegins(t *testing.T) {
	h := openWith(t, open(t).tally.Driver, Config{MaxAnswer: 5_000})
	p := h.project()
	ids := []string{h.secret(strings.Repeat("x", 2_000), p), h.secret(strings.Repeat("x", 2_000), p)}
	h.machine("robot", grants{p: machine.ToRead}, nil, machine.Token{})
	get[smapi.List[baseSecret]](h, "robot", "POST /secrets/get-by-ids", ids[:1])
	for _, r := range []struct {
		caller, route string
		body          any
	}{
		{"robot", "POST /secrets/get-by-ids", ids},
		{"robot", "GET /organizations/" + organization + "/secrets/sync", nil},
		{"admin", "GET /sm/" + organization + "/export", nil},
	} {
		status, text := h.do(r.caller, r.route, r.body)
		if status != http.StatusBadRequest || !strings.Contains(string(text), "Please ask for fewer secrets") {
			t.Errorf("%s: %d %s", r.route, status, text)
		}
	}
	get[secretsAnswer](h, "robot", "GET /organizations/"+organization+"/secrets", nil)
	for range 10 {
		h.secret("x", p)
	}
	if status, _ := h.do("robot", "GET /organizations/"+organization+"/secrets", nil); status != http.StatusBadRequest {
		t.Errorf("a list that is too large: %d", status)
	}
}

// What was estimated before an answer begins is not less than what it measures,
// and not much more.
func TestAnswersAreAboutAsLargeAsEstimated(t *testing.T) {
	h := open(t)
	p := h.project()
	ids := []string{h.secret("", p), h.secret("value", p), h.secret("value", h.project())}
	for range 20 {
		ids = append(ids, h.secret("value", p))
	}
	selection, err := h.secrets.Select(t.Context(), must(h.callers["admin"](t.Context())), ids)
	if err != nil {
		t.Fatal(err)
	}
	for route, estimate := range map[string]int{
		"POST /secrets/get-by-ids":                        sizeOf(selection.Views, true),
		"GET /organizations/" + organization + "/secrets": sizeOf(selection.Views, false),
	} {
		if _, text := h.do("admin", route, ids); len(text) > estimate || len(text) < estimate*8/10 {
			t.Errorf("%s has %d bytes, and %d were estimated", route, len(text), estimate)
		}
	}
}

func must(c machine.Caller, err error) machine.Caller {
	if err != nil {
		panic(err)
	}
	return c
}

func TestAStoreThatFailsIsUnavailableAndNothingElse(t *testing.T) {
	h := open(t)
	p := h.project()
	s := h.secret("value", p)
	h.machine("robot", grants{p: machine.ToWrite}, nil, machine.Token{})
	for _, r := range []struct {
		route string
		body  any
	}{
		{"GET /organizations/" + organization + "/projects", nil},
		{"GET /organizations/" + organization + "/secrets", nil},
		{"GET /organizations/" + organization + "/secrets/sync", nil},
		{"GET /projects/" + p + "/secrets", nil},
		{"GET /secrets/" + s, nil},
		{"GET /secrets/" + s + "/versions", nil},
		{"POST /secrets/get-by-ids", []string{s}},
		{"PUT /secrets/" + s, secretBody("value", p)},
		{"POST /secrets/delete", []string{s}},
	} {
		for skip := range 2 {
			h.driver.Reset()
			h.driver.Inject(storetest.Fault{Skip: skip})
			h.refused("robot", r.route, r.body, http.StatusServiceUnavailable, "Secrets Manager is not available at the moment. Please try again.")
		}
	}
	h.driver.Reset()
	get[secretAnswer](h, "robot", "GET /secrets/"+s, nil)
}

func TestWhatIsDoneIsInTheAuditLogAndChangesByMachinesAreEvents(t *testing.T) {
	h := open(t)
	account := h.machine("robot", nil, nil, machine.Token{})
	p := get[projectAnswer](h, "robot", "POST /organizations/"+organization+"/projects", object{"name": key.Encrypt("n")}).ID
	create := "POST /organizations/" + organization + "/secrets"
	first, second := get[secretAnswer](h, "robot", create, secretBody("1", p)).ID, get[secretAnswer](h, "robot", create, secretBody("2", p)).ID
	get[smapi.List[baseSecret]](h, "robot", "POST /secrets/get-by-ids", []string{first, second})
	get[secretsAnswer](h, "robot", "GET /organizations/"+organization+"/secrets", nil)
	get[secretAnswer](h, "robot", "PUT /secrets/"+first, secretBody("3", p))
	get[smapi.List[smapi.BulkResult]](h, "robot", "POST /secrets/delete", []string{second})
	h.notFound("robot", "GET /secrets/"+second, nil)
	get[smapi.List[smapi.BulkResult]](h, "robot", "POST /projects/delete", []string{p})

	var lines []string
	for _, event := range h.logs.Lines(t, "audit") {
		if event["actor"] != "service-account:"+account || event["token"] == "" {
			t.Errorf("%v", event)
		}
		lines = append(lines, fmt.Sprint(event["action"], " ", event["outcome"], " ", event["subject"]))
	}
	want := []string{
		"project.create allowed " + p, "secret.create allowed " + first, "secret.create allowed " + second,
		"secret.read allowed " + first, "secret.read allowed " + second,
		"secret.list allowed " + organization, "secret.edit allowed " + first, "secret.delete allowed " + second,
		"secret.read refused " + second, "project.delete allowed " + p,
	}
	if !slices.Equal(lines, want) {
		t.Errorf("the audit log is\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}

	var types []machine.Type
	for event, err := range store.NewCollection[machine.Event](h.documents, "events").ByParent(t.Context(), account) {
		if err != nil || event.Value.Token == "" || event.Value.Organization != organization {
			t.Fatalf("%+v, %v", event, err)
		}
		types = append(types, event.Value.Type)
	}
	slices.Sort(types)
	if want := []machine.Type{
		machine.SecretCreated, machine.SecretCreated, machine.SecretEdited, machine.SecretDeleted, machine.ProjectCreated, machine.ProjectDeleted,
	}; !slices.Equal(types, want) {
		t.Errorf("the events are %v, want %v", types, want)
	}
}

func TestEveryRequestIsInTheAuditLog(t *testing.T) {
	h := open(t)
	p := h.project()
	s := h.secret("1", p)
	h.answer(t, "admin", "PUT /secrets/"+s, secretBody("2", p))
	version := isList(t, h.answer(t, "admin", "GET /secrets/"+s+"/versions", nil))[0]["id"].(string)
	h.machine("reader", grants{p: machine.ToRead}, nil, machine.Token{})
	get[smapi.List[smapi.BulkResult]](h, "admin", "POST /secrets/delete", []string{h.secret("trashed", p)})
	file := object{"projects": []object{{"id": "x", "name": key.Encrypt("n")}}, "secrets": []any{}}
	for _, c := range []struct {
		caller, route string
		body          any
		want          string // the last line
	}{
		{"reader", "GET /organizations/" + organization + "/projects", nil, "project.list allowed " + organization},
		{"reader", "GET /organizations/" + organization + "/secrets", nil, "secret.list allowed " + organization},
		{"reader", "GET /projects/" + p + "/secrets", nil, "secret.list allowed " + p},
		{"reader", "GET /projects/" + p, nil, "project.read allowed " + p},
		{"reader", "GET /organizations/" + organization + "/secrets/sync?lastSyncedDate=" + time.Now().UTC().Format(time.RFC3339Nano), nil, "secret.sync allowed " + organization},
		{"reader", "GET /organizations/" + organization + "/secrets/sync", nil, "secret.read allowed " + s},
		{"reader", "POST /secrets/get-by-ids", []string{}, "secret.read allowed <nil>"},
		{"reader", "POST /secrets/get-by-ids", []string{s}, "secret.read allowed " + s},
		{"reader", "POST /secrets/delete", []string{s}, "secret.delete refused " + s},
		{"reader", "POST /projects/delete", []string{p}, "project.delete refused " + p},
		{"reader", "POST /secret-versions/delete", []string{version}, "secret.edit refused " + s},
		{"admin", "GET /secrets/" + s + "/access-policies", nil, "secret.read-policies allowed " + s},
		{"admin", "GET /secrets/" + organization + "/trash", nil, "trash.list allowed " + organization},
		{"admin", "POST /sm/" + organization + "/import", file, "organization.import allowed " + organization},
		{"admin", "POST /sm/" + organization + "/import", file, "organization.import allowed " + organization},
		{"admin", "GET /sm/" + organization + "/export", nil, "secret.read allowed " + s},
	} {
		before := len(h.logs.Lines(t, "audit"))
		h.answer(t, c.caller, c.route, c.body)
		var lines []string
		for _, event := range h.logs.Lines(t, "audit")[before:] {
			lines = append(lines, fmt.Sprint(event["action"], " ", event["outcome"], " ", event["subject"]))
		}
		most := 1
		if strings.HasSuffix(c.route, "/export") || strings.HasSuffix(c.route, "/import") {
			most = 2 // with that of what was read or made
		}
		if len(lines) == 0 || len(lines) > most || lines[len(lines)-1] != c.want {
			t.Errorf("%s %s is %q, want %q", c.caller, c.route, lines, c.want)
		}
		if strings.HasSuffix(c.route, "/export") && lines[0] != "organization.export allowed "+organization {
			t.Errorf("%q", lines)
		}
	}
}

func TestAnImportThatBreaksOffIs503AndGoesOn(t *testing.T) {
	h := open(t)
	file := object{
		"projects": []object{{"id": "x", "name": key.Encrypt("n")}},
		"secrets":  []object{{"key": key.Encrypt("k"), "value": key.Encrypt("v"), "note": key.Encrypt(""), "projectIds": []string{"x"}, "id": "y"}},
	}
	h.driver.Inject(storetest.Fault{Method: storetest.Put, Collection: "secrets"})
	h.refused("admin", "POST /sm/"+organization+"/import", file, http.StatusServiceUnavailable,
		"The import broke off, and what was written by then remains. Please send the same encrypted file again: that continues where it stopped.")
	if got := get[imported](h, "admin", "POST /sm/"+organization+"/import", file); got != (imported{1, 1, 1, 0, "secretsManagerImport"}) {
		t.Errorf("%+v", got)
	}
}
