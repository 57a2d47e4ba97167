package secret

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
	"github.com/latchkey-fn/latchkey/shared/machine"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

// maxCalls is more calls of the store than any operation here makes.
const maxCalls = 60

// crashes runs an operation once for each of its calls of the store and each way
// in which that can fail, in a world of its own. prepare gives the operation and
// what must be true after it failed or not, and after it was repeated.
func crashes(t *testing.T, prepare func(t *testing.T, w *world) scene) {
	for _, when := range []storetest.When{storetest.Before, storetest.After, storetest.Hang} {
		for skip := range maxCalls {
			ended := false
			t.Run(fmt.Sprintf("failure %d of call %d", when, skip), func(t *testing.T) {
				w := newWorld(t)
				s := prepare(t, w)
				w.driver.Reset()
				w.driver.Inject(storetest.Fault{Skip: skip, When: when})
				ctx := t.Context()
				if when == storetest.Hang {
					ctx = shortly(t)
				}
				err := s.run(ctx)
				ended = w.driver.Pending() > 0
				w.driver.Reset()
				w.restart()
				if ended && err != nil {
					t.Fatalf("it fails by itself: %v", err)
				}
				w.intact(t)
				s.check(t, err)
				if t.Failed() {
					return
				}
				w.clock.pass(time.Minute)
				if err := s.again(t.Context()); err != nil {
					t.Fatalf("repeated: %v", err)
				}
				w.intact(t)
				s.check(t, nil)
			})
			if ended {
				if skip < 2 {
					t.Fatalf("no more than %d calls were disturbed", skip)
				}
				break
			}
			if skip == maxCalls-1 {
				t.Fatal("it makes more calls than are tried")
			}
		}
	}
}

// scene is an operation that is disturbed, and again, which whoever saw it fail
// does next.
type scene struct {
	run, again func(context.Context) error
	// check is told whether the operation succeeded.
	check func(t *testing.T, err error)
}

// unless takes it well that a repetition finds it done.
func unless(class fault.Class, err error) error {
	if fault.Of(err) == class {
		return nil
	}
	return err
}

func failed(results []Result, err error) error {
	for _, r := range results {
		if err == nil {
			err = r.Err
		}
	}
	return err
}

func TestCreatingASecretLosesNothingWhereverItBreaksOff(t *testing.T) {
	crashes(t, func(t *testing.T, w *world) scene {
		project := w.project(t)
		create := func(ctx context.Context) error {
			_, err := w.Create(ctx, in(t, w.admin), values("new", project))
			return err
		}
		return scene{run: create, again: create, check: func(t *testing.T, err error) {
			views, listErr := w.ListIn(t.Context(), w.admin, project)
			if listErr != nil || err == nil && len(views) == 0 {
				t.Errorf("%d secrets, %v", len(views), listErr)
			}
			for _, v := range views {
				if got := w.value(t, v.Head.ID); got != "new" {
					t.Errorf("the value is %q", got)
				}
			}
		}}
	})
}

func TestEditingASecretLosesNoValueWhereverItBreaksOff(t *testing.T) {
	crashes(t, func(t *testing.T, w *world) scene {
		from, to := w.project(t), w.project(t)
		id := w.secret(t, "old", from)
		next := values("new", to)
		next.Policies = &Policies{Accounts: map[string]machine.Rights{w.machine(t, machine.Account{}): machine.ToRead}}
		edit := func(ctx context.Context) error {
			_, err := w.Edit(ctx, w.admin, id, next)
			return err
		}
		return scene{run: edit, again: edit, check: func(t *testing.T, err error) {
			value, history := w.value(t, id), w.history(t, id)
			switch {
			case value == "new" && slices.Equal(history, []string{"old"}):
			case value == "old" && len(history) == 0 && err != nil:
			default:
				t.Errorf("the value is %q, the versions are %q", value, history)
			}
		}}
	})
}

func TestRestoringAVersionLosesNoValueWhereverItBreaksOff(t *testing.T) {
	crashes(t, func(t *testing.T, w *world) scene {
		id := w.secret(t, "first")
		if _, err := w.Edit(t.Context(), w.admin, id, values("second")); err != nil {
			t.Fatal(err)
		}
		versions, err := w.Versions(t.Context(), w.admin, id)
		if err != nil {
			t.Fatal(err)
		}
		restore := func(ctx context.Context) error {
			_, err := w.RestoreVersion(ctx, w.admin, id, versions[0].ID)
			return err
		}
		return scene{run: restore, again: restore, check: func(t *testing.T, err error) {
			value, history := w.value(t, id), w.history(t, id)
			if all := append(history, value); !slices.Contains(all, "first") || !slices.Contains(all, "second") {
				t.Errorf("of both values there is %q", all)
			}
			if err == nil && value != "first" {
				t.Errorf("the value is %q", value)
			}
		}}
	})
}

func TestDeletingASecretCanBeTakenBackWhereverItBreaksOff(t *testing.T) {
	crashes(t, func(t *testing.T, w *world) scene {
		project := w.project(t)
		id := w.secret(t, "value", project)
		remove := func(ctx context.Context) error { return failed(w.Delete(ctx, w.admin, []string{id})) }
		return scene{
			run:   remove,
			again: func(ctx context.Context) error { return unless(fault.NotFound, remove(ctx)) },
			check: func(t *testing.T, err error) {
				trash, trashErr := w.Trash(t.Context(), in(t, w.admin))
				if trashErr != nil || err == nil && len(trash) != 1 {
					t.Fatalf("%d secrets are in the trash, %v", len(trash), trashErr)
				}
				if err == nil { // what was deleted comes back as it was
					if err := w.Restore(t.Context(), in(t, w.admin), []string{id}); err != nil {
						t.Fatal(err)
					}
					if got := w.value(t, id); got != "value" {
						t.Errorf("the value is %q", got)
					}
				}
			},
		}
	})
}

func TestRestoringASecretLosesNothingWhereverItBreaksOff(t *testing.T) {
	crashes(t, func(t *testing.T, w *world) scene {
		id := w.secret(t, "value", w.project(t))
		if err := failed(w.Delete(t.Context(), w.admin, []string{id})); err != nil {
			t.Fatal(err)
		}
		restore := func(ctx context.Context) error { return w.Restore(ctx, in(t, w.admin), []string{id}) }
		return scene{
			run:   restore,
			again: func(ctx context.Context) error { return unless(fault.NotFound, restore(ctx)) },
			check: func(t *testing.T, err error) {
				if err == nil && w.value(t, id) != "value" {
					t.Error("the value is another")
				}
			},
		}
	})
}

// What is being purged leaves nothing behind in the end, orphans included, and
// before it begins everything is there.
func TestPurgingLeavesAllOrNothingWhereverItBreaksOff(t *testing.T) {
	crashes(t, func(t *testing.T, w *world) scene {
		id := w.secret(t, "first", w.project(t))
		if _, err := w.Edit(t.Context(), w.admin, id, values("second")); err != nil {
			t.Fatal(err)
		}
		orphan := store.Record[Content]{ID: "orphan", Parent: id, Value: Content{Organization: organization}}
		if _, err := w.contents.Put(t.Context(), orphan, store.Absent()); err != nil {
			t.Fatal(err)
		}
		if err := failed(w.Delete(t.Context(), w.admin, []string{id})); err != nil {
			t.Fatal(err)
		}
		empty := func(ctx context.Context) error { return w.Empty(ctx, in(t, w.admin), []string{id}) }
		return scene{
			run: empty,
			// The trash does not show what has begun; looking at it goes on.
			again: func(ctx context.Context) error {
				if _, err := w.Trash(ctx, in(t, w.admin)); err != nil {
					return err
				}
				return unless(fault.NotFound, empty(ctx))
			},
			check: func(t *testing.T, err error) {
				if err != nil {
					return // intact has looked at it
				}
				if left := w.contentsOf(t, id); len(left) != 0 {
					t.Errorf("%d contents are left", len(left))
				}
				if _, err := w.heads.Get(t.Context(), id); fault.Of(err) != fault.NotFound {
					t.Errorf("the head: %v", err)
				}
			},
		}
	})
}

func TestDeletingAProjectLosesNoSecretWhereverItBreaksOff(t *testing.T) {
	crashes(t, func(t *testing.T, w *world) scene {
		project := w.project(t)
		ids := []string{w.secret(t, "0", project), w.secret(t, "1", project)}
		account := w.machine(t, machine.Account{Projects: map[string]machine.Rights{project: machine.ToWrite}})
		remove := func(ctx context.Context) error { return failed(w.DeleteProjects(ctx, w.admin, []string{project})) }
		return scene{
			run:   remove,
			again: func(ctx context.Context) error { return unless(fault.NotFound, remove(ctx)) },
			check: func(t *testing.T, err error) {
				for i, id := range ids {
					if got := w.value(t, id); got != fmt.Sprint(i) {
						t.Errorf("the value of %d is %q", i, got)
					}
				}
				if err != nil {
					return
				}
				views, listErr := w.List(t.Context(), in(t, w.session(t, account, machine.Token{})))
				if listErr != nil || len(views) != 0 {
					t.Errorf("a machine still reaches %d secrets, %v", len(views), listErr)
				}
				views, listErr = w.List(t.Context(), in(t, w.admin))
				if listErr != nil || len(views) != len(ids) || views[0].Project != nil || views[0].Head.Lookup != "" {
					t.Errorf("%+v, %v", views, listErr)
				}
			},
		}
	})
}

// An import that broke off is gone on with: nothing is there twice, and what is
// there is whole.
func TestAnImportGoesOnWhereItBrokeOff(t *testing.T) {
	archive := Archive{
		Projects: []ArchivedProject{{"a", key.Encrypt("a")}, {"b", key.Encrypt("b")}},
		Secrets:  []ArchivedSecret{{"1", values("1", "a")}, {"", values("2")}, {"", values("3", "b")}},
	}
	crashes(t, func(_ *testing.T, w *world) scene {
		run := func(ctx context.Context) error {
			_, err := w.Import(ctx, in(t, w.admin), archive)
			return err
		}
		return scene{run: run, again: run, check: func(t *testing.T, err error) {
			projects, selection, exportErr := w.Export(t.Context(), in(t, w.admin))
			if exportErr != nil {
				t.Fatal(exportErr)
			}
			named, texts := map[string]bool{}, map[string]bool{}
			for _, p := range projects {
				named[plain(t, p.Value.Name)] = true
			}
			for s, err := range selection.Read(t.Context()) {
				if err != nil {
					t.Fatal(err)
				}
				in := ""
				if s.Project != nil {
					in = plain(t, s.Project.Value.Name)
				}
				texts[plain(t, s.Content.Value)+" in "+in] = true
			}
			if len(named) != len(projects) || len(texts) != len(selection.Views) || len(texts) > 3 {
				t.Errorf("%d projects are %v, %d secrets are %v", len(projects), named, len(selection.Views), texts)
			}
			if all := named["a"] && named["b"] && texts["1 in a"] && texts["2 in "] && texts["3 in b"]; err == nil && !all {
				t.Errorf("not everything is there: %v, %v", named, texts)
			}
		}}
	})
}
