package cloud

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestACertificateThatIsNotTrustedHasItsOwnAdvice(t *testing.T) {
	inspecting := httptest.NewUnstartedServer(http.NotFoundHandler())
	inspecting.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshake
	inspecting.StartTLS()
	defer inspecting.Close()
	s := startServers(t)
	c := s.config()
	c.APIURL = inspecting.URL
	e := failure(t, syncOnce(t, newClient(t, c)))
	host := strings.TrimPrefix(inspecting.URL, "https://")
	if e.Code != NetworkPre || !strings.Contains(e.Detail, "x509: ") || !strings.Contains(e.Hint, "LATCHKEY_CLOUD_CA_FILE") || !strings.Contains(e.Hint, host) {
		t.Errorf("%+v", *e)
	}
}

func TestAHostIsNamedOnce(t *testing.T) {
	nobody := httptest.NewServer(http.NotFoundHandler())
	nobody.Close()
	s := startServers(t)
	c := s.config()
	c.IdentityURL, c.APIURL = nobody.URL, nobody.URL
	e := failure(t, syncOnce(t, newClient(t, c)))
	if host := strings.TrimPrefix(nobody.URL, "http://"); e.Code != NetworkPre || strings.Count(e.Hint, host) != 1 {
		t.Errorf("%+v", *e)
	}
}

func TestOfARequestThatIsNotUnderstoodOnlyNamesOfMembersAreTold(t *testing.T) {
	for wrong, want := range map[string]string{
		`{"SponsorshipsBatch[0].OfferedToEmail":["x"],"$.plan":["x"],"Family 1":["x"],"a@home.example":["x"],"":["x"]}`: "members: $.plan, SponsorshipsBatch[0].OfferedToEmail",
		`{"Family 1":["x"]}`: "", `[]`: "", `null`: "",
	} {
		s := startServers(t)
		s.onCall = func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprintf(w, `{"message":"The model state is invalid.","validationErrors":%s}`, wrong)
		}
		e := failure(t, syncOnce(t, newClient(t, s.config())))
		if e.Code != RequestInvalid || e.Detail != want || !strings.Contains(e.Hint, "report it with the run's id") {
			t.Errorf("%s: %+v", wrong, *e)
		}
	}
}
