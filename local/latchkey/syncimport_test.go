package main

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/latchkey-fn/latchkey/local/syncclient"
)

func legacyRow(n int, more string) string {
	return fmt.Sprintf(`{"Id":"aaaaaaaa-0000-4000-8000-%012d","SponsoringOrganizationUserId":"bbbbbbbb-0000-4000-8000-%012d","OfferedToEmail":"family%d@home.example","PlanSponsorshipType":0,"ToDelete":0%s}`, n, n, n, more)
}

func TestOffersAreImportedFromBothFormsOfAFileByTheRealFunctions(t *testing.T) {
	p := play(t)
	p.as("", "licence", "upload", p.licence()).want(t, 0)
	const synced = `,"LastSyncDate":"2026-01-02T03:04:05Z"`
	rows := []string{legacyRow(1, synced), "", legacyRow(2, synced), legacyRow(3, `,"PlanSponsorshipType":7`), legacyRow(4, synced)}
	lines := saved(t, []byte(strings.Join(append(rows, `{"broken`), "\n")+"\n"))
	array := saved(t, []byte("\ufeff [\n"+strings.Join([]string{rows[0], rows[2], rows[3], rows[4]}, ",\n")+"\n]\n"))
	type told struct {
		Taken, Known int
		Bad          []badLine
	}
	list := func() int {
		var offers []any
		p.as("", "offers", "--json").want(t, 0).json(t, &offers)
		return len(offers)
	}
	var got told
	p.as("", "offers", "import", lines, "--dry-run", "--json").want(t, exitFailed).json(t, &got)
	if got.Taken != 3 || len(got.Bad) != 2 || got.Bad[0].Line != 4 || got.Bad[1].Line != 6 || list() != 0 {
		t.Errorf("%+v, and %d are stored", got, list())
	}
	p.as("", "offers", "import", lines).want(t, exitFailed, "taken", "line 4", "line 6")
	if list() != 3 {
		t.Errorf("%d are stored", list())
	}
	p.as("", "offers", "import", array, "--json").want(t, exitFailed).json(t, &got)
	if got.Known != 3 || got.Taken != 0 || len(got.Bad) != 1 || got.Bad[0].Line != 4 || list() != 3 {
		t.Errorf("%+v", got)
	}
	p.as(rows[0]+"\n", "offers", "import", "-").want(t, 0, "known")
	p.wantSilence("home.example")
}

func TestRowsThatWereNeverSyncedAreImportedOnlyWithAFlagByTheRealFunctions(t *testing.T) {
	p := play(t)
	file := saved(t, []byte(legacyRow(1, `,"LastSyncDate":"2026-01-02T03:04:05Z"`)+"\n"+legacyRow(2, "")+"\n"+legacyRow(3, "")+"\n"))
	p.as("", "offers", "import", file).want(t, exitUsage, "cannot sponsor")
	p.as("", "licence", "upload", p.licence()).want(t, 0)
	const refused = "2 row(s) were never synced, and the cloud would mail them as new offers: --unsent takes them, too"
	var got imported
	for _, flags := range [][]string{{"--dry-run"}, {}} {
		p.as("", append([]string{"offers", "import", file}, flags...)...).want(t, exitFailed, "never synced, not taken", refused)
	}
	p.as("", "offers", "import", file, "--json").want(t, exitFailed).json(t, &got)
	if got.Taken != 0 || got.Known != 1 || got.Unsent != 2 {
		t.Errorf("%+v", got)
	}
	p.only()
	p.as("", "offers", "import", file, "--unsent", "--dry-run").want(t, 0, "would be taken", "mailed by the next sync")
	p.as("", "offers", "import", file, "--unsent", "--json").want(t, 0).json(t, &got)
	if got.Taken != 2 || got.Known != 1 || got.Unsent != 2 {
		t.Errorf("%+v", got)
	}
}

func TestWhatIsNoFileOfRowsIsToldWithoutItsContent(t *testing.T) {
	b := startBilling(t, nil)
	for name, content := range map[string]string{
		"an array that breaks off": "[\n" + legacyRow(1, ""), "an array of something else": `[{"x@y.example": nope}]`,
	} {
		b.as("", "offers", "import", saved(t, []byte(content))).want(t, exitUsage)
		if len(b.asked) != 0 {
			t.Errorf("%s: it asked %v", name, b.asked)
		}
	}
	b.as("", "offers", "import", filepath.Join(t.TempDir(), "missing")).want(t, exitUsage)
	b.as("", "offers", "import").want(t, exitUsage)
}

func TestAnImportGoesInPartsAndSaysHowFarItCame(t *testing.T) {
	answer := `{"taken":1,"known":0,"bad":[]}`
	b := startBilling(t, map[string][]string{"POST" + own + "/offers/import": {answer, answer, "400 No more."}})
	var rows []string
	for n := range 500 {
		rows = append(rows, legacyRow(n, ""))
	}
	got := b.as("", "offers", "import", saved(t, []byte(strings.Join(rows, "\n")))).want(t, exitUsage, "of 500 rows are through", "No more.")
	if len(b.asked) != 3 || !strings.Contains(got.out, "taken") {
		t.Errorf("%d requests\n%s", len(b.asked), got.out)
	}
	for _, body := range b.bodies {
		if len(body) > 51_200 {
			t.Errorf("a request has %d bytes", len(body))
		}
	}
}

func TestRowsOfOneUserStayTogether(t *testing.T) {
	filler := strings.Repeat("x", syncclient.MaxImport/4)
	of := func(users ...string) (rows []importRow) {
		for _, user := range users {
			rows = append(rows, importRow{text: json.RawMessage(filler), user: user})
		}
		return rows
	}
	for want, users := range map[int][]string{
		2: {"a", "b", "c", "c", "c"}, 3: {"a", "a", "a", "a"}, 1: {"a", "b", "b", "b"},
	} {
		if got := len(nextPart(of(users...))); got != want {
			t.Errorf("%v: %d, not %d", users, got, want)
		}
	}
	huge := of("a")
	huge[0].text = json.RawMessage(strings.Repeat("x", 2*syncclient.MaxImport))
	if len(nextPart(huge)) != 1 {
		t.Error("it does not go on")
	}
}

func TestTheUsageIsToldAndShownByTheRealFunctions(t *testing.T) {
	p := play(t)
	p.as("", "licence", "upload", p.licence()).want(t, 0, "never told", "latchkey sync licence usage --seats N")
	p.as("", "licence", "usage").want(t, exitUsage, "--seats")
	p.as("", "licence", "usage", "--seats", "-1").want(t, exitUsage)
	p.as("", "licence", "usage", "--seats", "42", "--groups", "3", "--sso").want(t, 0, "42 seats, 0 collections, 3 groups, 0 policies, SSO, as of")
	p.as("", "licence", "show").want(t, 0, "42 seats", "SSO")
	p.as("", "licence", "usage", "--seats", "100000").want(t, 0)
	p.as("", "licence", "upload", p.licence()).want(t, exitUsage, "100000 seats filled")
}

func TestAnAdministratorIsToldWhichRightIsMissing(t *testing.T) {
	// The others of the operators' rules are no owners to this server.
	p := playWith(t, map[string]string{"LATCHKEY_BILLING_RULES": "billing"})
	for _, args := range [][]string{{"now"}, {"connect"}, {"licence", "sync"}, {"licence", "upload", p.licence()}, {"licence", "usage", "--seats", "1"}, {"offers", "import", saved(t, []byte(legacyRow(1, "")))}} {
		got := p.as(p.cloud.Key, args...)
		if got.code == 0 || !strings.Contains(got.err, "LATCHKEY_BILLING_RULES") || !strings.Contains(got.err, "owners") {
			t.Errorf("%v: %d %s", args, got.code, got.err)
		}
	}
	p.as("", "offers").want(t, 0)
	p.as("", "status").want(t, 0)
}
