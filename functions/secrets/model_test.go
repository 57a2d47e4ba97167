package secrets

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/secret"
	"github.com/latchkey-fn/latchkey/shared/smapi"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// actor is somebody with random rights.
type actor struct {
	name                                       string
	inside, admin, isMachine, readOnly, closed bool
	limit                                      []string
	projects, secrets                          grants
}

// model is who may do what, by sections 3 and 4 of the protocol.
type model struct {
	projects map[string]bool
	place    map[string]string // of each secret the project, or none
	trash    map[string]bool
}

func (a *actor) cut(r machine.Rights, project string) machine.Rights {
	if a.limit != nil && !slices.Contains(a.limit, project) {
		return machine.Rights{}
	}
	return r.And(machine.Rights{Read: true, Write: !a.readOnly})
}

func (m *model) project(a *actor, id string) machine.Rights {
	switch {
	case !m.projects[id]:
		return machine.Rights{}
	case a.admin:
		return machine.ToWrite
	}
	return a.cut(a.projects[id], id)
}

func (m *model) secret(a *actor, id string) machine.Rights {
	place, exists := m.place[id]
	switch {
	case !exists || m.trash[id]:
		return machine.Rights{}
	case a.admin:
		return machine.ToWrite
	}
	return m.project(a, place).Or(a.cut(a.secrets[id], place))
}

// mayPlace: into a project that may be written, or nowhere for administrators.
func (m *model) mayPlace(a *actor, project string) bool {
	return project == "" && a.admin || m.project(a, project).Write
}

func (m *model) mayCreateProject(a *actor) bool {
	return a.inside && !(a.isMachine && (a.readOnly || a.closed || a.limit != nil))
}

// trial is a model beside the function, and what happens at random.
type trial struct {
	*house
	model
	t      *testing.T
	random *rand.Rand
	actors []*actor
	checks int
}

func oneOf[T any](r *rand.Rand, all []T) T { return all[r.IntN(len(all))] }

func TestWhatTheAPIAllowsIsWhatTheModelAllows(t *testing.T) {
	trials := 40
	if testing.Short() {
		trials = 20
	}
	checks := 0
	for seed := range trials {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			trial := newTrial(t, rand.New(rand.NewPCG(uint64(seed), 3)))
			for range 150 {
				trial.step()
				if t.Failed() {
					return
				}
			}
			checks += trial.checks
		})
	}
	if !t.Failed() && checks < trials*150 {
		t.Errorf("only %d checks", checks)
	}
}

func newTrial(t *testing.T, random *rand.Rand) *trial {
	tr := &trial{house: open(t), t: t, random: random, model: model{map[string]bool{}, map[string]string{}, map[string]bool{}}}
	var projects []string
	for range 4 {
		projects = append(projects, tr.house.project())
		tr.projects[projects[len(projects)-1]] = true
	}
	for range 10 {
		place := oneOf(random, append([]string{""}, projects...))
		tr.place[tr.house.secret("v", slices.DeleteFunc([]string{place}, func(id string) bool { return id == "" })...)] = place
	}
	people := map[string]*machine.People{}
	tr.actors = []*actor{{name: "admin", inside: true, admin: true}}
	for i := range 3 {
		a := &actor{name: fmt.Sprint("member", i), inside: true, projects: tr.some(tr.knownProjects()), secrets: tr.some(tr.knownSecrets())}
		tr.person(a.name, machine.Member, "group of "+a.name)
		for _, granted := range []grants{a.projects, a.secrets} {
			for id, rights := range granted {
				if people[id] == nil {
					people[id] = &machine.People{Users: grants{}, Groups: grants{}}
				}
				// Half of the rights come by the group.
				if random.IntN(2) == 0 {
					people[id].Users[a.name] = rights
				} else {
					people[id].Groups["group of "+a.name] = rights
				}
			}
		}
		tr.actors = append(tr.actors, a)
	}
	tr.setPeople(people)
	for i := range 4 {
		a := &actor{name: fmt.Sprint("machine", i), inside: true, isMachine: true, projects: tr.some(tr.knownProjects()), secrets: tr.some(tr.knownSecrets()), readOnly: random.IntN(4) == 0}
		if random.IntN(3) == 0 {
			a.limit = []string{oneOf(random, projects)}
		}
		account := tr.machine(a.name, a.projects, a.secrets, machine.Token{ReadOnly: a.readOnly, Projects: a.limit})
		if a.closed = random.IntN(3) == 0; a.closed {
			tr.closeTo(account)
		}
		tr.actors = append(tr.actors, a)
	}
	tr.person("stranger", machine.NoRole)
	tr.machineOf(elsewhere, "foreigner", tr.some(tr.knownProjects()), tr.some(tr.knownSecrets()), machine.Token{})
	tr.actors = append(tr.actors, &actor{name: "stranger"}, &actor{name: "foreigner"})
	return tr
}

// closeTo takes from an account the right to create projects.
func (tr *trial) closeTo(account string) {
	accounts := store.NewCollection[machine.Account](tr.documents, "service-accounts")
	_, err := accounts.Update(tr.t.Context(), account, func(r *store.Record[machine.Account]) error {
		r.Value.NoNewProjects = true
		return nil
	})
	if err != nil {
		tr.t.Fatal(err)
	}
}

// setPeople writes the policies of people where they are kept.
func (tr *trial) setPeople(people map[string]*machine.People) {
	projects := store.NewCollection[secret.Project](tr.documents, "projects")
	heads := store.NewCollection[secret.Head](tr.documents, "secrets")
	for id, policies := range people {
		if tr.projects[id] {
			_, err := projects.Update(tr.t.Context(), id, func(project *store.Record[secret.Project]) error {
				project.Value.People = *policies
				return nil
			})
			if err != nil {
				tr.t.Fatal(err)
			}
			continue
		}
		_, err := heads.Update(tr.t.Context(), id, func(head *store.Record[secret.Head]) error {
			head.Value.People = *policies
			return nil
		})
		if err != nil {
			tr.t.Fatal(err)
		}
	}
}

func (tr *trial) knownProjects() []string { return slices.Sorted(maps.Keys(tr.projects)) }
func (tr *trial) knownSecrets() []string  { return slices.Sorted(maps.Keys(tr.place)) }

// some grants random rights on some of these.
func (tr *trial) some(ids []string) grants {
	granted := grants{}
	for _, id := range ids {
		switch tr.random.IntN(5) {
		case 0:
			granted[id] = machine.ToRead
		case 1:
			granted[id] = machine.ToWrite
		}
	}
	return granted
}

// allowed checks that a request is answered if the model allows it, and as
// something that does not exist if not.
func (tr *trial) allowed(a *actor, want bool, route string, body any) []byte {
	tr.t.Helper()
	tr.checks++
	status, text := tr.do(a.name, route, body)
	if wanted := map[bool]int{true: http.StatusOK, false: http.StatusNotFound}[want]; status != wanted {
		tr.t.Errorf("%+v %s: %d %s, want %d", *a, route, status, text, wanted)
	}
	return text
}

// step does one random thing and follows it in the model.
func (tr *trial) step() {
	a := oneOf(tr.random, tr.actors)
	someSecret, project := oneOf(tr.random, append(tr.knownSecrets(), nobody)), oneOf(tr.random, append(tr.knownProjects(), nobody))
	if tr.random.IntN(6) == 0 {
		project = ""
	}
	onSecret := tr.model.secret(a, someSecret)
	switch tr.random.IntN(14) {
	case 0:
		tr.lists(a)
	case 1:
		tr.allowed(a, onSecret.Read, "GET /secrets/"+someSecret, nil)
		tr.allowed(a, onSecret.Read, "GET /secrets/"+someSecret+"/versions", nil)
	case 2:
		tr.byIDs(a)
	case 3, 4:
		tr.edit(a, someSecret, project)
	case 5:
		if project != "" {
			tr.allowed(a, tr.model.project(a, project).Read, "GET /projects/"+project, nil)
			tr.allowed(a, tr.model.project(a, project).Write, "PUT /projects/"+project, object{"name": key.Encrypt("n")})
		}
	case 6:
		tr.create(a, project)
	case 7:
		tr.createProject(a)
	case 8:
		tr.deleteSecret(a, someSecret)
	case 9:
		if tr.random.IntN(3) == 0 && project != "" {
			tr.deleteProject(a, project)
		}
	case 10:
		tr.restore(a, someSecret)
	case 11:
		tr.allowed(a, a.admin, "GET /sm/"+organization+"/export", nil)
		tr.allowed(a, a.admin, "GET /secrets/"+organization+"/trash", nil)
	case 12:
		tr.allowed(a, onSecret.Write && !a.isMachine, "GET /secrets/"+someSecret+"/access-policies", nil)
	case 13:
		if a.isMachine {
			text := tr.allowed(a, true, "GET /organizations/"+organization+"/secrets/sync", nil)
			var answer struct{ Secrets smapi.List[baseSecret] }
			tr.decode(text, &answer)
			tr.sameIDs(a, "sync", ids(answer.Secrets.Data, func(s baseSecret) string { return s.ID }), tr.readable(a, ""))
		}
	}
}

func (tr *trial) decode(text []byte, into any) {
	tr.t.Helper()
	if err := json.Unmarshal(text, into); err != nil {
		tr.t.Fatalf("%v: %s", err, text)
	}
}

func ids[T any](all []T, id func(T) string) []string {
	found := []string{}
	for _, element := range all {
		found = append(found, id(element))
	}
	slices.Sort(found)
	return found
}

func (tr *trial) sameIDs(a *actor, what string, got, want []string) {
	tr.t.Helper()
	if !slices.Equal(got, want) {
		tr.t.Errorf("%+v sees in %s\n%q, want\n%q", *a, what, got, want)
	}
}

// readable are the secrets that somebody may read, of one project or of all.
func (tr *trial) readable(a *actor, project string) []string {
	found := []string{}
	for _, id := range tr.knownSecrets() {
		if tr.model.secret(a, id).Read && (project == "" || tr.place[id] == project) {
			found = append(found, id)
		}
	}
	return found
}

func (tr *trial) lists(a *actor) {
	var list secretsAnswer
	secretID := func(s listedSecret) string { return s.ID }
	if text := tr.allowed(a, a.inside, "GET /organizations/"+organization+"/secrets", nil); a.inside {
		tr.decode(text, &list)
		tr.sameIDs(a, "the list", ids(list.Secrets, secretID), tr.readable(a, ""))
		for _, s := range list.Secrets {
			if want := a.admin || tr.model.project(a, tr.place[s.ID]).Write; s.Write != want || !s.Read {
				tr.t.Errorf("%+v is listed %+v", *a, s)
			}
		}
	}
	var projects smapi.List[projectAnswer]
	if text := tr.allowed(a, a.inside, "GET /organizations/"+organization+"/projects", nil); a.inside {
		tr.decode(text, &projects)
		want := slices.DeleteFunc(tr.knownProjects(), func(id string) bool { return !tr.model.project(a, id).Read })
		tr.sameIDs(a, "the projects", ids(projects.Data, func(p projectAnswer) string { return p.ID }), want)
	}
	for _, id := range tr.knownProjects() {
		may := tr.model.project(a, id).Read
		if text := tr.allowed(a, may, "GET /projects/"+id+"/secrets", nil); may {
			tr.decode(text, &list)
			tr.sameIDs(a, "a project", ids(list.Secrets, secretID), tr.readable(a, id))
		}
	}
}

func (tr *trial) byIDs(a *actor) {
	known := tr.knownSecrets()
	tr.random.Shuffle(len(known), func(i, j int) { known[i], known[j] = known[j], known[i] })
	asked := known[:min(len(known), 1+tr.random.IntN(3))]
	may := !slices.ContainsFunc(asked, func(id string) bool { return !tr.model.secret(a, id).Read })
	var answer smapi.List[baseSecret]
	if text := tr.allowed(a, may, "POST /secrets/get-by-ids", object{"ids": asked}); may {
		tr.decode(text, &answer)
		tr.sameIDs(a, "get-by-ids", ids(answer.Data, func(s baseSecret) string { return s.ID }), slices.Sorted(slices.Values(asked)))
	}
}

func inProject(project string) map[string]any {
	if project == "" {
		return secretBody("v")
	}
	return secretBody("v", project)
}

// edit needs the right to write, and where it moves also where to.
func (tr *trial) edit(a *actor, id, to string) {
	if tr.random.IntN(2) == 0 {
		to = tr.place[id]
	}
	may := tr.model.secret(a, id).Write && (to == tr.place[id] || tr.mayPlace(a, to))
	if tr.allowed(a, may, "PUT /secrets/"+id, inProject(to)); may {
		tr.place[id] = to
	}
}

func (tr *trial) create(a *actor, project string) {
	may := a.inside && tr.mayPlace(a, project)
	if text := tr.allowed(a, may, "POST /organizations/"+organization+"/secrets", inProject(project)); may {
		var created secretAnswer
		tr.decode(text, &created)
		tr.place[created.ID] = project
		if rights := tr.model.secret(a, created.ID); created.Read != rights.Read || created.Write != rights.Write {
			tr.t.Errorf("%+v is told %+v", *a, created)
		}
	}
}

func (tr *trial) createProject(a *actor) {
	may := tr.mayCreateProject(a)
	if text := tr.allowed(a, may, "POST /organizations/"+organization+"/projects", object{"name": key.Encrypt("n")}); may {
		var created projectAnswer
		tr.decode(text, &created)
		tr.projects[created.ID] = true
		if a.projects == nil {
			a.projects = grants{}
		}
		a.projects[created.ID] = machine.ToWrite
	}
}

// denied reads the one result of a deletion.
func (tr *trial) denied(text []byte) bool {
	var results smapi.List[smapi.BulkResult]
	tr.decode(text, &results)
	if len(results.Data) != 1 {
		tr.t.Fatalf("%+v", results)
	}
	return results.Data[0].Error != nil
}

func (tr *trial) deleteSecret(a *actor, id string) {
	_, exists := tr.place[id]
	exists = exists && !tr.trash[id] && a.inside
	if text := tr.allowed(a, exists, "POST /secrets/delete", []string{id}); exists {
		may := tr.model.secret(a, id).Write
		if tr.denied(text) == may {
			tr.t.Errorf("%+v deletes %s: %s", *a, id, text)
		}
		tr.trash[id] = may
	}
}

func (tr *trial) deleteProject(a *actor, id string) {
	exists := tr.projects[id] && a.inside
	if text := tr.allowed(a, exists, "POST /projects/delete", []string{id}); exists {
		may := tr.model.project(a, id).Write
		if tr.denied(text) == may {
			tr.t.Errorf("%+v deletes the project %s: %s", *a, id, text)
		}
		if may {
			delete(tr.projects, id)
			for secret, place := range tr.place {
				if place == id {
					tr.place[secret] = ""
				}
			}
		}
	}
}

func (tr *trial) restore(a *actor, id string) {
	may := a.admin && tr.trash[id]
	if tr.allowed(a, may, "POST /secrets/"+organization+"/trash/restore", []string{id}); may {
		tr.trash[id] = false
	}
}
