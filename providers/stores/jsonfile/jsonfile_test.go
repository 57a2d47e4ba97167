//go:build unix

package jsonfile_test

import (
	"path/filepath"
	"testing"

	"github.com/latchkey-fn/latchkey/providers/stores/jsonfile"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

func TestConformance(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Driver {
		s, err := jsonfile.Open(filepath.Join(t.TempDir(), "store.json"))
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func open(path string) (store.Driver, error) { return jsonfile.Open(path) }

func TestAcknowledgedWritesSurviveKills(t *testing.T) { storetest.Kill(t, open) }

func TestFullDisk(t *testing.T) { storetest.Full(t, open) }
