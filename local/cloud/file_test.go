package cloud_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/shared/fault"
)

func TestASavedCloudIsTheSameElsewhere(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	w.sync(offer(1), offer(2))
	if err := w.Redeem(w.organization.ID, key(1), time.Time{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "state.json")
	for range 2 { // the second takes the first one's place
		if err := w.Save(path); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	if left, err := os.ReadDir(filepath.Dir(path)); err != nil || len(left) != 1 {
		t.Errorf("%v, %v are left", left, err)
	}
	other, err := cloud.New(cloud.Config{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(other.Close)
	if err := other.Load(path); err != nil {
		t.Fatal(err)
	}
	before, beforeErr := json.Marshal(w.State())
	after, afterErr := json.Marshal(other.State())
	if beforeErr != nil || afterErr != nil || string(before) != string(after) || len(other.Sponsorships(w.organization.ID)) != 2 {
		t.Errorf("it is %s, was %s (%v, %v)", after, before, beforeErr, afterErr)
	}
	if len(other.Mails()) != 0 {
		t.Error("mails were saved")
	}
}

func TestWhatCannotBeLoadedOrSaved(t *testing.T) {
	w := newWorld(t, cloud.Config{})
	dir := t.TempDir()
	if err := w.Load(filepath.Join(dir, "nothing.json")); err != nil || len(w.State().Organizations) != 1 {
		t.Errorf("without a file: %v, %+v", err, w.State())
	}
	for name, content := range map[string]string{"text": "state", "other ids": `{"installations":[{"id":"x"}]}`} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := w.Load(path); fault.Of(err) != fault.Invalid || len(w.State().Organizations) != 1 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := w.Load(dir); err == nil {
		t.Error("a folder was loaded")
	}
	if err := w.Save(filepath.Join(dir, "missing", "state.json")); err == nil {
		t.Error("it was saved in a folder that is not there")
	}
	if err := w.Save(dir); err == nil { // a folder has the name
		t.Error("it was saved over a folder")
	}
	if left, err := filepath.Glob(filepath.Join(filepath.Dir(dir), ".*")); err != nil || len(left) != 0 {
		t.Errorf("%v, %v are left", left, err)
	}
}
