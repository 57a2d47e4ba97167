package licence

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/latchkey-fn/latchkey/shared/fault"
)

const id = `"c6b1f0de-44a7-4b9a-8f0c-97a1b2c3d4e5"`

func TestDocumentsThatCannotBeRead(t *testing.T) {
	for name, c := range map[string]struct {
		document string
		form     Form
		detail   string
	}{
		"nothing":                     {"", Wire, "no JSON"},
		"blanks":                      {" \n", Wire, "no JSON"},
		"a page":                      {"<html>", Wire, "no JSON"},
		"null":                        {"null", Wire, "no JSON object"},
		"a list":                      {"[{}]", Wire, "no JSON object"},
		"a text":                      {`"x"`, Wire, "no JSON object"},
		"one that breaks off":         {`{"id":` + id, Wire, "breaks off"},
		"one that breaks off earlier": {`{"id`, Wire, "breaks off"},
		"bytes after its end":         {`{"id":` + id + `}}`, Stored, "closing brace, at byte 45 of 46"},
		"another object after it":     {`{"Id":` + id + "}\n{}", Stored, "closing brace"},
		"a comma too many":            {`{"id":` + id + `,}`, Wire, "no JSON"},
		"a member twice":              {`{"Id":` + id + `,"Id":` + id + `}`, Stored, "twice"},
		"a member in two cases":       {`{"Id":` + id + `,"id":` + id + `}`, Wire, "twice"},
		"the case of the wire":        {`{"id":` + id + `,"enabled":true}`, Stored, "case of their names"},
		"no id":                       {`{"name":"x"}`, Wire, "no Id"},
		"nothing in it":               {`{}`, Stored, "no Id"},
		"an id that is none":          {`{"id":"17"}`, Wire, "no GUID"},
		"an id of zeros":              {`{"id":"00000000-0000-0000-0000-000000000000"}`, Wire, "no Id"},
		"a text for a number":         {`{"id":` + id + `,"seats":"5"}`, Wire, "Seats is not as expected: it is no whole number"},
		"half a seat":                 {`{"id":` + id + `,"seats":1.5}`, Wire, "Seats"},
		"a number for a boolean":      {`{"id":` + id + `,"enabled":1}`, Wire, "Enabled"},
		"null for a boolean":          {`{"id":` + id + `,"enabled":null}`, Wire, "Enabled is not as expected: it is null"},
		"a number for a text":         {`{"id":` + id + `,"name":1}`, Wire, "Name"},
		"a date that is none":         {`{"id":` + id + `,"issued":"yesterday"}`, Wire, "Issued"},
		"a number for a date":         {`{"id":` + id + `,"issued":5}`, Wire, "Issued"},
	} {
		_, err := Parse([]byte(c.document), c.form)
		e, ok := errors.AsType[*Error](err)
		if !ok || e.Code != Malformed || e.Text != "Invalid license" || !strings.Contains(e.Detail, c.detail) || !errors.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheSizeOfADocumentIsLimited(t *testing.T) {
	document := `{"id":` + id + `}`
	most := document + strings.Repeat(" ", MaxSize-len(document))
	if _, err := Parse([]byte(most), Wire); err != nil {
		t.Error(err)
	}
	if _, err := Parse([]byte(most+" "), Wire); codeOf(err) != TooLarge {
		t.Error(err)
	}
}

func TestUploadsAreReadInAnyCase(t *testing.T) {
	l := parse(t, []byte("\ufeff"+`{"ID":"C6B1F0DE-44A7-4B9A-8F0C-97A1B2C3D4E5","use2FA":true,"smseats":4,"Issued":"2025-06-01T10:00:00","expires":null,"name":null,"someNewMember":{"a":[1]}}`), Wire)
	if `"`+l.Id+`"` != id || !l.Use2fa || *l.SmSeats != 4 || l.Expires != nil || !l.Issued.Equal(time.Date(2025, 6, 1, 10, 0, 0, 0, time.UTC)) {
		t.Errorf("%s %t %v %v", l, l.Use2fa, l.SmSeats, l.Issued)
	}
	stored := parse(t, []byte(`{"Id":`+id+`,"name":"in the wrong case"}`), Stored)
	if stored.Name != "" {
		t.Error("a stored file is read without regard to case")
	}
}

func TestTimesAreRoundedToSeconds(t *testing.T) {
	for text, want := range map[string]int64{
		"1970-01-01T00:00:00.4999999Z": 0, "1970-01-01T00:00:00.5Z": 0, "1970-01-01T00:00:01.5Z": 2, "1970-01-01T00:00:01.5000001Z": 2,
		"1970-01-01T00:00:02.6Z": 3, "1969-12-31T23:59:58.6Z": -1,
	} {
		at, err := time.Parse(time.RFC3339, text)
		if err != nil {
			t.Fatal(err)
		}
		if got := roundedSeconds(at); got != want {
			t.Errorf("%s is %d, want %d", text, got, want)
		}
	}
}

func TestOldPlansHaveTheirNamesInTheCanonicalText(t *testing.T) {
	for plan, want := range map[int]string{0: "Free", 4: "EnterpriseMonthly", 6: "Custom", 7: "7", 20: "20"} {
		text, err := (&Licence{Version: 1, PlanType: plan}).HashedText()
		if err != nil || !strings.Contains(text, "|PlanType:"+want+"|") {
			t.Errorf("plan %d: %v %s", plan, err, text)
		}
	}
}

func TestTheTierOfAPlan(t *testing.T) {
	for plan, want := range map[int]bool{0: false, 3: false, 4: true, 5: true, 6: false, 14: true, 18: false, 20: true, 21: false} {
		if got := (&Licence{PlanType: plan}).Enterprise(); got != want {
			t.Errorf("plan %d: %t", plan, got)
		}
	}
}

// T110.
func TestALicenceHasToFitWhatIsUsed(t *testing.T) {
	five := 5
	narrow := Licence{Seats: &five, MaxCollections: &five}
	wide := Licence{UseGroups: true, UsePolicies: true, UseSso: true, UseKeyConnector: true, UseScim: true, UseCustomPermissions: true, UseResetPassword: true}
	all := Usage{Seats: 6, Collections: 7, Groups: 8, EnabledPolicies: 9, SSO: true, KeyConnector: true, SCIM: true, CustomPermissions: true, AccountRecovery: true}
	unfit := narrow.CheckFit(all)
	want := []string{"6 seats", "7 collections", "8 groups", "9 enabled policies", "SSO", "Key Connector", "SCIM", "custom permissions", "account recovery"}
	if len(unfit) != len(want) {
		t.Fatalf("%v", unfit)
	}
	for i, e := range unfit {
		if e.Code != Unfit || !strings.Contains(e.Text, want[i]) {
			t.Errorf("%d: %v", i, e)
		}
	}
	if unfit[0].Text != "Your organization has 6 seats filled, and the new license has 5. Remove some users first." {
		t.Error(unfit[0])
	}
	if unfit := wide.CheckFit(all); len(unfit) != 0 {
		t.Errorf("%v", unfit)
	}
	if unfit := narrow.CheckFit(Usage{Seats: 5, Collections: 5, Groups: 1}); len(unfit) != 0 {
		t.Errorf("what just fits: %v", unfit)
	}
}

// REQ-24.
func TestDifferencesAreToldWithoutSecrets(t *testing.T) {
	v := readVectors(t)
	before, after := parse(t, v.Legacy[15].File, Stored), parse(t, v.Legacy[15].File, Stored)
	after.LicenseKey, after.Token, after.Hash, after.UseScim = "another-key", "secret-token", "x", true
	*after.Seats, after.Expires, after.MaxCollections = 200, nil, new(int)
	want := []Change{
		{"LicenseKey", "[redacted]", "[redacted, another]"},
		{"Seats", "120", "200"}, {"MaxCollections", "", "0"}, {"UseScim", "false", "true"},
		{"Expires", "2035-06-01T10:00:00Z", ""},
	}
	if got := Diff(before, after); !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
}

func TestALicenceThatIsPrintedTellsNoSecret(t *testing.T) {
	l := &Licence{Id: "the-id", LicenseKey: "hunter2", Token: "hunter2", Signature: "hunter2", Version: 15}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "l", l, "value", *l, "authentic", &Authentic{Licence: *l})
	text := fmt.Sprintf("%v %+v %s %v", l, *l, Authentic{Licence: *l}, []Licence{*l}) + log.String()
	if strings.Contains(text, "hunter2") || !strings.Contains(text, "licence of the-id, version 15") {
		t.Error(text)
	}
}

// REQ-25.
func TestAnOlderLicenceIsRefused(t *testing.T) {
	v := readVectors(t)
	installed, next := parse(t, v.Legacy[15].File, Stored), parse(t, v.Legacy[15].File, Stored)
	if err := CheckNewer(installed, next); err != nil {
		t.Error("the same one is refused: ", err)
	}
	next.Issued = next.Issued.Add(-time.Second)
	if err := CheckNewer(installed, next); codeOf(err) != Older || !strings.Contains(err.Error(), "2025-06-01T09:59:59Z") {
		t.Error(err)
	}
	if err := CheckNewer(next, installed); err != nil {
		t.Error(err)
	}
}

// What can be parsed can be written and parsed again, as the same; and what is
// no JSON object by the standard library is not parsed.
func FuzzParse(f *testing.F) {
	v := readVectors(f)
	f.Add([]byte(v.WithToken.File), false)
	f.Add([]byte(v.Legacy[0].File), false)
	f.Add([]byte(`{"id":`+id+`,"seats":5,"issued":"2025-06-01"}`), true)
	f.Add([]byte(`{"Id":`+id+`} x`), false)
	f.Add([]byte(`{"Id":`+id+`,"Id":1}`), true)
	trust := v.trust(f)
	f.Fuzz(func(t *testing.T, data []byte, wire bool) {
		form := Stored
		if wire {
			form = Wire
		}
		l, err := Parse(data, form)
		if err != nil {
			if codeOf(err) != Malformed && codeOf(err) != TooLarge {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		var object map[string]any
		if err := json.Unmarshal([]byte(strings.TrimPrefix(string(data), "\ufeff")), &object); err != nil {
			t.Fatalf("%q was parsed: %v", data, err)
		}
		written, err := l.Encode(form)
		if err != nil {
			t.Fatal(err)
		}
		if len(written) > MaxSize {
			return
		}
		again, err := Parse(written, form)
		if err != nil {
			t.Fatalf("%s: %v", written, err)
		}
		if !reflect.DeepEqual(l, again) {
			t.Fatalf("it changed: %v", Diff(l, again))
		}
		_, _ = trust.Authenticate(l) // it must not panic
	})
}
