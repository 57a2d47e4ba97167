package cloud

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

func TestAnAnswerOfFarTooManyItemsIsNotReadToItsEnd(t *testing.T) {
	item := fmt.Sprintf(`{"sponsoringOrganizationUserId":%q},`, organization)
	list := func(n int) []byte {
		return []byte(`{"SponsorshipsBatch":[` + strings.TrimSuffix(strings.Repeat(item, n), ",") + `],"more":[{}]}`)
	}
	if synced, err := decodeSynced(list(1_007), 1_007); err != nil || len(synced) != 1_007 || synced[1_006].Key != organization {
		t.Errorf("%d items, %v", len(synced), err)
	}
	if _, err := decodeSynced(list(1_008), 1_007); err == nil || !strings.Contains(err.Error(), "more than 1007 items") {
		t.Errorf("%v", err)
	}
}

// A list of millions of the shortest items would take some hundred bytes each.
func TestALongAnswerTakesLittleMoreMemoryThanItsText(t *testing.T) {
	for name, item := range map[string]string{"empty items": `{},`, "items with a key": fmt.Sprintf(`{"sponsoringOrganizationUserId":%q},`, organization)} {
		body := []byte(`{"sponsorshipsBatch":[` + strings.Repeat(item, maxBody/len(item)-20) + `{}]}`)
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := decodeSynced(body, 2_000)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if allocated := after.TotalAlloc - before.TotalAlloc; allocated > 5*maxBody {
			t.Errorf("%s: %d bytes", name, allocated)
		}
	}
}
