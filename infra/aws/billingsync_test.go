package aws

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/kms"

	"github.com/latchkey-fn/latchkey/events"
	"github.com/latchkey-fn/latchkey/functions/billingsync"
	"github.com/latchkey-fn/latchkey/functions/sponsorships"
	"github.com/latchkey-fn/latchkey/local/cloud"
	"github.com/latchkey-fn/latchkey/local/cloud/cloudtest"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/emulators/localkms"
	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/house/housetest"
	"github.com/latchkey-fn/latchkey/providers/hosts/awslambda"
	"github.com/latchkey-fn/latchkey/providers/keys/awskms"
	"github.com/latchkey-fn/latchkey/shared/config"
	"github.com/latchkey-fn/latchkey/shared/keyring"
	"github.com/latchkey-fn/latchkey/shared/logtest"
	"github.com/latchkey-fn/latchkey/shared/sponsor"
	"github.com/latchkey-fn/latchkey/shared/store"
	"github.com/latchkey-fn/latchkey/shared/store/storetest"
)

const (
	syncedOrganization = "5a1b0e52-7f3c-4f0d-9a57-b1d200c0ffee"
	syncedMember       = "1b1c2d3e-4f50-4617-8899-aabbccddeeff"
)

// environment gives the settings that the template gives to a function: with the
// defaults of the parameters, but those that are given here. A secret's member is
// the parameter "id" or "key".
func environment(t *testing.T, function string, parameters map[string]string) map[string]string {
	t.Helper()
	tmpl := template(t)
	settings := map[string]string{}
	var resolve func(value any) string
	resolve = func(value any) string {
		o, ok := value.(object)
		if !ok {
			return fmt.Sprint(value)
		}
		switch name, _ := o["Ref"].(string); {
		case name != "":
			if given, ok := parameters[name]; ok {
				return given
			}
			if p, ok := tmpl["Parameters"].(object)[name]; ok {
				return fmt.Sprint(p.(object)["Default"])
			}
			return name
		case o["GetAtt"] != nil:
			return o["GetAtt"].(string)
		case o["If"] != nil: // no condition is met but those of what is made
			branches := o["If"].([]any)
			if strings.HasPrefix(branches[0].(string), "No") || strings.HasPrefix(branches[0].(string), "Make") {
				return resolve(branches[1])
			}
			return resolve(branches[2])
		default:
			text := o["Sub"].(string)
			for _, member := range []string{"id", "key"} {
				if text == "{{resolve:secretsmanager:${InstallationSecretArn}:SecretString:"+member+"::${InstallationSecretVersion}}}" {
					return parameters[member]
				}
			}
			t.Errorf("%s: %s", function, text)
			return text
		}
	}
	for name, value := range at(t, resource(t, tmpl, function), "Properties", "Environment", "Variables").(object) {
		settings[name] = resolve(value)
	}
	return settings
}

// billing is both functions with the template's settings, over an emulated cloud,
// table and KMS; what each does with table and key is recorded.
type billing struct {
	*testing.T
	emu         *cloudtest.Cloud
	identity    *housetest.Identity
	tableURL    string
	certificate string
	clock       *cloudtest.Clock
	log         *logtest.Log // of the scheduled function

	recorders map[string]*recorder
	stores    map[string]*storetest.Faults
	keys      map[string]*awskms.Key

	asked     *sponsorships.Function
	scheduled *billingsync.Function
	admin     string
	member    string
}

func openBilling(t *testing.T) *billing {
	t.Helper()
	b := &billing{
		T: t, emu: cloudtest.NewCloud(t, cloud.Config{}), identity: housetest.NewIdentity(t), clock: cloudtest.NewClock(), log: &logtest.Log{},
		recorders: map[string]*recorder{}, stores: map[string]*storetest.Faults{}, keys: map[string]*awskms.Key{},
	}
	b.clock.Set(time.Now()) // which the function that is asked goes by
	table, tableErr := minidyn.Start()
	if tableErr != nil {
		t.Fatal(tableErr)
	}
	t.Cleanup(func() { _ = table.Close() })
	keys, keysErr := localkms.Start(t.TempDir())
	if keysErr != nil {
		t.Fatal(keysErr)
	}
	t.Cleanup(func() { _ = keys.Close() })
	if err := connect(&recorder{t: t}, table.URL).CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	account := awssdk.Config{Region: "eu-west-2", Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", "")}
	service := kms.NewFromConfig(account, func(o *kms.Options) { o.BaseEndpoint = &keys.URL })
	made, err := service.CreateKey(t.Context(), &kms.CreateKeyInput{})
	if err != nil {
		t.Fatal(err)
	}
	b.tableURL = table.URL
	for _, name := range []string{"Sponsorships", "BillingSync", "Operator"} {
		r := &recorder{t: t}
		through := account
		through.HTTPClient = &http.Client{Transport: r}
		symmetric := true
		b.recorders[name], b.stores[name] = r, storetest.NewFaults(connect(r, table.URL))
		b.keys[name] = awskms.New(through, awskms.Config{KeyID: *made.KeyMetadata.Arn, Endpoint: keys.URL, Symmetric: &symmetric})
	}

	b.certificate = filepath.Join(t.TempDir(), "licensing.cer")
	if err := os.WriteFile(b.certificate, cloud.LicenceCertificate(), 0o600); err != nil {
		t.Fatal(err)
	}
	b.admin = b.identity.Token(t, devidentity.Claims{User: "0b1c2d3e-4f50-4617-8899-aabbccddeeff", Owner: []string{syncedOrganization}})
	b.member = b.identity.Token(t, devidentity.Claims{User: syncedMember, Member: []string{syncedOrganization}})
	b.start(b.emu.Installation.Key)
	return b
}

// start puts both functions together, as a deployment with this installation's
// key does.
func (b *billing) start(installationKey string) {
	b.Helper()
	parameters := map[string]string{
		"id": b.emu.Installation.ID, "key": installationKey, "IdentityUrl": b.identity.URL, "OfferKeys": "per-offer", "LicenseCheck": "apply", "SyncBatch": "2",
	}
	asked, _, askedErr := sponsorships.LoadConfig(environment(b.T, "SponsorshipsFunction", parameters))
	scheduled, _, scheduledErr := billingsync.LoadConfig(environment(b.T, "BillingSyncFunction", parameters))
	if err := errors.Join(askedErr, scheduledErr); err != nil {
		b.Fatal(err)
	}
	for _, settings := range []*config.Billing{&asked.Billing, &scheduled.Billing} {
		settings.IdentityURL, settings.APIURL, settings.LicenseTestCertificateFile = b.emu.IdentityURL(), b.emu.APIURL(), b.certificate
	}
	var err error
	b.asked, askedErr = sponsorships.New(asked, sponsorships.Parts{
		Store: b.stores["Sponsorships"], Key: b.keys["Sponsorships"], Logger: slog.New(slog.DiscardHandler), Transport: b.emu.Transport,
		Kick: func(context.Context, string) error { return nil },
	})
	logger := b.log.Logger()
	b.scheduled, err = billingsync.New(scheduled, billingsync.Parts{
		Store: b.stores["BillingSync"], Key: b.keys["BillingSync"], Logger: logger, Metrics: sponsor.LogMetrics{Logger: logger},
		Now: b.clock.Now, Waiter: b.clock, Transport: b.emu.Transport,
	})
	if err := errors.Join(askedErr, err); err != nil {
		b.Fatal(err)
	}
}

// ask sends a request, checks the status, and gives the answer's members.
func (b *billing) ask(token, method, path, contentType, body string, status int) map[string]any {
	b.Helper()
	request := httptest.NewRequestWithContext(b.Context(), method, "/api"+path, strings.NewReader(body))
	request.Header.Set("Authorization", "Bearer "+token)
	request.Header.Set("Content-Type", contentType)
	recorded := httptest.NewRecorder()
	b.asked.ServeHTTP(recorded, request)
	if recorded.Code != status {
		b.Fatalf("%s %s: %d %s, not %d\n%s", method, path, recorded.Code, recorded.Body, status, b.log)
	}
	var members map[string]any
	if recorded.Body.Len() > 0 && recorded.Body.Bytes()[0] == '{' {
		if err := json.Unmarshal(recorded.Body.Bytes(), &members); err != nil {
			b.Fatal(err)
		}
	}
	return members
}

func (b *billing) get(path string) map[string]any {
	b.Helper()
	return b.ask(b.admin, http.MethodGet, path, "", "", http.StatusOK)
}

func (b *billing) post(path, body string) map[string]any {
	b.Helper()
	return b.ask(b.admin, http.MethodPost, path, "application/json", body, http.StatusOK)
}

func (b *billing) upload(query, organization string, status int) {
	b.Helper()
	document, err := b.emu.License(organization, b.emu.Installation.ID)
	if err != nil {
		b.Fatal(err)
	}
	var body bytes.Buffer
	form := multipart.NewWriter(&body)
	part, err := form.CreateFormFile("License", "license.json")
	if err != nil {
		b.Fatal(err)
	}
	_, writeErr := part.Write(document)
	if err := errors.Join(writeErr, form.Close()); err != nil {
		b.Fatal(err)
	}
	b.ask(b.admin, http.MethodPost, "/organizations/licenses/self-hosted/"+syncedOrganization+query, form.FormDataContentType(), body.String(), status)
}

func (b *billing) rotated() string {
	b.Helper()
	key, err := b.emu.RotateKey(b.emu.OrgID)
	if err != nil {
		b.Fatal(err)
	}
	return `{"type":1,"organizationId":"` + syncedOrganization + `","enabled":true,"config":{"billingSyncKey":"` + key + `"}}`
}

const (
	syncPath     = "/organizations/" + syncedOrganization + "/billing-sync"
	sponsorPath  = "/organization/sponsorship/self-hosted/" + syncedOrganization
	connectPath  = "/organizations/connections"
	syncedConfig = connectPath + "/" + syncedOrganization
)

func (b *billing) offer(token, email string, admin bool) {
	b.Helper()
	b.ask(token, http.MethodPost, sponsorPath+"/families-for-enterprise", "application/json",
		fmt.Sprintf(`{"planSponsorshipType":0,"sponsoredEmail":%q,"friendlyName":%q,"isAdminInitiated":%v}`, email, email, admin), http.StatusOK)
}

// offers gives their ids by address.
func (b *billing) offers() map[string]string {
	b.Helper()
	ids := map[string]string{}
	for _, o := range b.get(syncPath + "/offers")["data"].([]any) {
		offer := o.(map[string]any)
		ids[offer["offeredToEmail"].(string)] = offer["id"].(string)
	}
	return ids
}

// sync asks for a run and does it. It ends with the code, or well without one.
func (b *billing) sync(code string) {
	b.Helper()
	b.ask(b.admin, http.MethodPost, syncPath+"/sync", "application/json", "", http.StatusAccepted)
	err := b.scheduled.Sync(b.Context(), syncedOrganization)
	failure, failed := sponsor.AsFailure(err)
	switch {
	case code == "" && err != nil:
		b.Fatalf("%v\n%s", err, b.log)
	case code != "" && (!failed || failure.Code != code):
		b.Fatalf("the run ends with %v, not %s", err, code)
	}
}

// rotate makes the next data key, as an operator does.
func (b *billing) rotate() {
	b.Helper()
	ring := keyring.New(keyring.Config{Name: sponsor.RingName, Store: store.New(connect(&recorder{t: b.T}, b.tableURL)), Key: b.keys["Operator"]})
	if _, err := ring.Rotate(b.Context()); err != nil {
		b.Fatal(err)
	}
}

// tick lets a day pass, after which a run is due, and calls as the schedule does.
func (b *billing) tick() {
	b.Helper()
	b.clock.Pass(25 * time.Hour)
	if err := b.scheduled.Run(b.Context(), billingsync.Tick{At: b.clock.Now(), ID: "due"}); err != nil {
		b.Fatalf("%v\n%s", err, b.log)
	}
}

// story is what organisations do with Billing sync, and what goes wrong.
func (b *billing) story() {
	b.Helper()
	asked := b.stores["Sponsorships"]

	// The first licence cannot be told to a connection, and is taken back.
	asked.Inject(storetest.Fault{Method: storetest.Get, Collection: "sync-connections"})
	b.upload("", b.emu.OrgID, http.StatusServiceUnavailable)
	b.upload("", b.emu.OrgID, http.StatusOK)
	b.ask(b.admin, http.MethodGet, connectPath+"/enabled", "", "", http.StatusOK)
	b.post(connectPath, b.rotated())
	b.get(syncedConfig + "/1")
	b.ask(b.admin, http.MethodPut, syncedConfig, "application/json", b.rotated(), http.StatusOK)

	for _, email := range []string{"one@a.example", "two@a.example", "three@a.example", "four@a.example"} {
		b.offer(b.admin, email, true)
	}
	b.offer(b.member, "own@a.example", false)
	b.post(syncPath+"/offers/import", `{"rows":[{"Id":"3c2d1e0f-4f50-4617-8899-aabbccddeeff","SponsoringOrganizationUserId":"4c2d1e0f-4f50-4617-8899-aabbccddeeff",`+
		`"OfferedToEmail":"old@a.example","FriendlyName":"old@a.example","PlanSponsorshipType":0}],"unsent":true}`)
	b.ask(b.admin, http.MethodPut, syncPath+"/usage", "application/json", `{"seats":3}`, http.StatusOK)
	b.get(syncPath + "/usage")
	b.get("/billing-sync/health")
	b.get(sponsorPath + "/sponsored")
	b.post(syncPath+"/offers/"+b.offers()["four@a.example"]+"/revoke", "") // it was never sent
	b.sync("")
	run := b.get(syncPath + "/runs")["data"].([]any)[0].(map[string]any)
	b.get(syncPath + "/runs/" + run["id"].(string))
	b.get(syncPath)
	b.get("/organization/sponsorship/" + syncedOrganization + "/sync-status")

	b.post(syncPath+"/offers/"+b.offers()["one@a.example"]+"/reissue", `{}`)
	b.post(syncPath+"/offers/"+b.offers()["two@a.example"]+"/revoke", "")
	b.ask(b.admin, http.MethodDelete, sponsorPath+"/three@a.example/revoke", "", "", http.StatusOK)
	b.ask(b.member, http.MethodDelete, sponsorPath, "", "", http.StatusOK)
	b.post(syncPath+"/members/"+syncedMember+"/removed", "")
	if err := b.emu.SetFaults(cloud.Fault{Match: cloud.Match{Route: cloud.RouteSync}, When: cloud.AfterCommit, Action: cloud.Close, Times: 1}); err != nil {
		b.Fatal(err)
	}
	b.sync("")

	// Instances that run when a data key is made meet things sealed under it.
	before := *b
	b.rotate()
	b.start(b.emu.Installation.Key)
	b.offer(b.admin, "five@a.example", true)
	before.offers()
	before.sync("")

	b.get(syncPath + "/license")
	b.post(syncPath+"/license/check", "")
	b.post("/organizations/licenses/self-hosted/"+syncedOrganization+"/sync", "")

	changed := b.rotated()
	b.sync("key_invalid")
	b.ask(b.admin, http.MethodPut, syncedConfig, "application/json", changed, http.StatusOK)

	// Deployed with another installation's key, either side is refused.
	b.start("anotherInstallationsKey")
	b.sync("identity_invalid_client")
	b.ask(b.admin, http.MethodPost, "/organizations/licenses/self-hosted/"+syncedOrganization+"/sync", "", "", http.StatusBadRequest)
	b.ask(b.admin, http.MethodPost, syncPath+"/sync", "", "", http.StatusAccepted) // clears the breaker
	b.ask(b.admin, http.MethodPost, "/organizations/licenses/self-hosted/"+syncedOrganization+"/sync", "", "", http.StatusBadRequest)
	b.start(b.emu.Installation.Key)
	b.sync("")

	// The check of the licence finds another one, under another key.
	if err := b.emu.ChangeOrganization(b.emu.OrgID, func(o *cloud.Organization) {
		o.License.Set = map[string]any{"Seats": 77, "LicenseKey": "anotherLicenseKey001"}
	}); err != nil {
		b.Fatal(err)
	}
	b.tick()

	// A licence of another of the cloud's organisations, whose installation is
	// broken off, is finished by whoever comes next.
	other := b.emu.Another(b.T)
	asked.Inject(storetest.Fault{Method: storetest.Put, Collection: "sync-connections"}, storetest.Fault{Method: storetest.Put, Collection: "licences", Skip: 1})
	b.upload("?force=true", other.OrgID, http.StatusServiceUnavailable)
	b.tick()
	b.clock.Pass(50 * time.Hour)
	b.sync("key_invalid") // which is the one of the organisation before
	b.ask(b.admin, http.MethodDelete, syncedConfig, "", "", http.StatusOK)
}

// Either function does its part of the story over a table and a KMS key whose
// traffic is held against its own role: all of it is allowed, and of the table
// nothing is that it did not do.
func TestPoliciesAllowWhatBillingSyncDoesAndNothingElse(t *testing.T) {
	b := openBilling(t)
	b.story()
	for _, name := range []string{"Sponsorships", "BillingSync"} {
		role := policy(t, name+"RolePolicy")
		done := b.recorders[name].take()
		for _, o := range done {
			if !allows(role, o) {
				t.Errorf("%s: its policy does not allow %s on %q", name, o.action, o.key)
			}
		}
		for _, s := range role {
			for _, action := range s.actions {
				for _, pattern := range slices.Concat(s.leadingKeys, s.contexts) {
					if strings.HasPrefix(pattern, "aws:lambda:FunctionArn=") {
						continue // Lambda's, before the function begins
					}
					if !slices.ContainsFunc(done, func(o operation) bool {
						// A write whose condition does not hold reads what is there.
						return (o.action == action || action == "dynamodb:GetItem" && o.action == "dynamodb:PutItem") && like(pattern).MatchString(o.key)
					}) {
						t.Errorf("%s: %s on %s is allowed and not needed", name, action, pattern)
					}
				}
			}
		}
	}
	// The key's own policy is what counts where the template makes the key.
	key := statements(t, at(t, resource(t, template(t), "BillingSyncKey"), "Properties", "KeyPolicy").(object))
	for name, r := range map[string]string{"Sponsorships": "SponsorshipsRole.Arn", "BillingSync": "BillingSyncRole.Arn"} {
		own := slices.DeleteFunc(slices.Clone(key), func(s statement) bool { return !strings.Contains(fmt.Sprint(s.principal), r) })
		for _, s := range policy(t, name+"RolePolicy") {
			if s.sid == "PreviousKey" || !strings.HasPrefix(s.actions[0], "kms:") {
				continue
			}
			for _, action := range s.actions {
				if !slices.ContainsFunc(own, func(k statement) bool {
					return slices.Contains(k.actions, action) && fmt.Sprint(k.conditions) == fmt.Sprint(s.conditions)
				}) {
					t.Errorf("the key's policy does not let %s %s when %v", name, action, s.conditions)
				}
			}
		}
	}
}

func TestTheAPIHasTheRoutesOfBillingSync(t *testing.T) {
	b := openBilling(t)
	served := map[string]bool{}
	for _, route := range b.asked.Routes {
		method, path, _ := strings.Cut(route, " ")
		// One route for all types of connections: the function tells them apart, and
		// a function's policy has room for some forty.
		if method == http.MethodGet && strings.HasPrefix(path, connectPath+"/{org}/") {
			path = connectPath + "/{org}/{type}"
		}
		served[method+" /api"+path] = true
	}
	// The preflights of each path.
	has := routes(t, "SponsorshipsFunction")
	for route := range maps.Clone(served) {
		_, path, _ := strings.Cut(route, " ")
		if strings.HasPrefix(path, "/api/billing-sync/") {
			continue // for who watches the server, which is no page
		}
		if !slices.ContainsFunc(has, func(r string) bool {
			method, pattern, _ := strings.Cut(r, " ")
			prefix, greedy := strings.CutSuffix(pattern, "{proxy+}")
			if method != http.MethodOptions || pattern != path && !(greedy && strings.HasPrefix(path, prefix)) {
				return false
			}
			served[r] = true
			return true
		}) {
			t.Errorf("a page's preflight for %s is not answered", path)
		}
	}
	if want := slices.Sorted(maps.Keys(served)); !slices.Equal(has, want) {
		t.Errorf("the API has\n%s\nthe function serves\n%s", strings.Join(has, "\n"), strings.Join(want, "\n"))
	}
}

// Lambda bounds the policy of a function, to which every route adds a statement.
func TestTheRoutesOfAFunctionFitItsPolicy(t *testing.T) {
	const limit, stack = 20_480, "latchkey-production"
	for name, f := range resources(t, template(t), "AWS::Serverless::Function") {
		size := 0
		for event, e := range at(t, f, "Properties", "Events").(object) {
			if e.(object)["Type"] != "HttpApi" {
				continue
			}
			size += len(fmt.Sprintf(`{"Sid":"%[1]s-%[2]s%[3]sPermission-ABCDEFGHIJKL","Effect":"Allow","Principal":{"Service":"apigateway.amazonaws.com"},"Action":"lambda:InvokeFunction",`+
				`"Resource":"arn:aws:lambda:ap-southeast-2:123456789012:function:%[1]s-%[2]s-ABCDEFGHIJKL","Condition":{"ArnLike":{"AWS:SourceArn":"arn:aws:execute-api:ap-southeast-2:123456789012:a1b2c3d4e5/*/%[4]s%[5]s"}}},`,
				stack, name, event, at(t, e.(object), "Properties", "Method"), at(t, e.(object), "Properties", "Path")))
		}
		if size > limit*9/10 {
			t.Errorf("%s: the statements of its routes have about %d bytes, of %d", name, size, limit)
		}
	}
}

func TestTheSettingsOfBillingSyncAreThoseThatTheFunctionsRead(t *testing.T) {
	parameters := map[string]string{
		"id": "3f2c2b1f-95b1-4ad5-9a5e-8d7c5f0a7f10", "key": "abcdefghij0123456789", "IdentityUrl": "https://vault.example.org/identity", "CloudRegion": "EU",
	}
	asked, warnings, err := sponsorships.LoadConfig(environment(t, "SponsorshipsFunction", parameters))
	if err != nil || len(warnings) > 0 {
		t.Error(err, warnings)
	}
	scheduled, warnings, err := billingsync.LoadConfig(environment(t, "BillingSyncFunction", parameters))
	if err != nil || len(warnings) > 0 {
		t.Error(err, warnings)
	}
	for _, c := range []config.Billing{asked.Billing, scheduled.Billing} {
		if !c.CloudCommunication || c.APIURL != "https://api.bitwarden.eu" || c.InstallationID != parameters["id"] || c.InstallationKey.Reveal() != parameters["key"] {
			t.Errorf("%+v", c)
		}
	}
	want(t, "the function that is called", asked.SyncFunction, "BillingSyncFunction")
	want(t, "who connects", asked.BillingRules, []string{"orgowner"})
	want(t, "who offers", asked.SponsorRules, []string{"orguser", "orgcustom"})
	seconds := at(t, resource(t, template(t), "BillingSyncFunction"), "Properties", "Timeout").(uint64)
	if time.Duration(seconds)*time.Second < 10*scheduled.Billing.RequestTimeout {
		t.Errorf("%d s are not much more than the %s of a request", seconds, scheduled.Billing.RequestTimeout)
	}
}

// The key is read from the secret when a function is made, and is in its
// environment alone, which is encrypted with a key that who deploys cannot use to
// read it.
func TestTheInstallationsKeyIsNowhereInTheStack(t *testing.T) {
	tmpl := template(t)
	for _, name := range []string{"SponsorshipsFunction", "BillingSyncFunction"} {
		f := resource(t, tmpl, name)
		variables := at(t, f, "Properties", "Environment", "Variables").(object)
		for variable, member := range map[string]string{"LATCHKEY_INSTALLATION_ID": "id", "LATCHKEY_INSTALLATION_KEY": "key"} {
			want(t, name+" "+variable, variables[variable],
				object{"Sub": "{{resolve:secretsmanager:${InstallationSecretArn}:SecretString:" + member + "::${InstallationSecretVersion}}}"})
		}
		want(t, name+" KmsKeyArn", at(t, f, "Properties", "KmsKeyArn"), variables["LATCHKEY_AWSKMS_KEY_ID"])
	}
	for name := range tmpl["Outputs"].(object) {
		if strings.Contains(name, "Installation") {
			t.Errorf("the output %s", name)
		}
	}
	deployers := []string{}
	for _, s := range statements(t, at(t, resource(t, tmpl, "BillingSyncKey"), "Properties", "KeyPolicy").(object)) {
		if !strings.Contains(fmt.Sprint(s.principal), "KmsAdministratorArn") || s.sid == "Administrators" {
			continue
		}
		deployers = append(deployers, s.actions...)
		want(t, s.sid+" ViaService", at(t, s.conditions, "StringEquals", "kms:ViaService"), object{"Sub": "lambda.${AWS::Region}.amazonaws.com"})
		if slices.Contains(s.actions, "kms:CreateGrant") {
			want(t, s.sid+" for Lambda only", at(t, s.conditions, "Bool", "kms:GrantIsForAWSResource"), "true")
		}
	}
	slices.Sort(deployers)
	want(t, "what who deploys may", deployers, []string{"kms:CreateGrant", "kms:Encrypt"})
}

// What the schedule sends is what the function's host reads, and what events/ has.
func TestTheScheduleCallsBillingSyncAsItWantsToBeCalled(t *testing.T) {
	tmpl := template(t)
	f := at(t, resource(t, tmpl, "BillingSyncFunction"), "Properties").(object)
	scheduled := f["Events"].(object)
	if len(scheduled) != 1 {
		t.Fatalf("%d events", len(scheduled))
	}
	tick := at(t, scheduled, "Tick").(object)
	want(t, "its type", tick["Type"], "ScheduleV2")
	p := tick["Properties"].(object)
	want(t, "the name", p["OmitName"], true)
	want(t, "the schedule", p["ScheduleExpression"], "rate(15 minutes)")
	want(t, "the window", at(t, p, "FlexibleTimeWindow", "Mode"), "OFF")
	want(t, "where ticks go that are not delivered", at(t, p, "DeadLetterConfig", "Arn"), object{"GetAtt": "BillingSyncUndelivered.Arn"})
	want(t, "where calls go that failed", at(t, f, "EventInvokeConfig", "DestinationConfig", "OnFailure"),
		object{"Type": "SQS", "Destination": object{"GetAtt": "BillingSyncFailures.Arn"}})
	for _, name := range []string{"BillingSyncUndelivered", "BillingSyncFailures"} {
		want(t, name+" is encrypted", at(t, resource(t, tmpl, name), "Properties", "SqsManagedSseEnabled"), true)
	}
	want(t, "the role", p["RoleArn"], object{"GetAtt": "BillingSyncScheduleRole.Arn"})
	trust := statements(t, at(t, resource(t, tmpl, "BillingSyncScheduleRole"), "Properties", "AssumeRolePolicyDocument").(object))
	want(t, "who takes the role", trust[0].principal, object{"Service": "scheduler.amazonaws.com"})
	want(t, "for whom", at(t, trust[0].conditions, "StringEquals", "aws:SourceAccount"), object{"Ref": "AWS::AccountId"})

	input := p["Input"].(string)
	at := time.Date(2026, 11, 22, 14, 30, 0, 0, time.UTC)
	sent := strings.NewReplacer("<aws.scheduler.scheduled-time>", at.Format(time.RFC3339), "<aws.scheduler.execution-id>", "d32c5kddcf5bb8c3").Replace(input)
	var got awslambda.Tick
	handler := lambda.NewHandlerWithOptions(awslambda.TickHandler(func(_ context.Context, tick awslambda.Tick) error { got = tick; return nil }),
		lambda.WithDisallowUnknownFields(true))
	if _, err := handler.Invoke(t.Context(), []byte(sent)); err != nil || !got.At.Equal(at) || got.ID != "d32c5kddcf5bb8c3" {
		t.Errorf("%s: %+v, %v", sent, got, err)
	}
	example, err := events.Load("billingsync-tick", "")
	if err != nil {
		t.Fatal(err)
	}
	var one, other map[string]string
	if err := errors.Join(json.Unmarshal([]byte(sent), &one), json.Unmarshal(example, &other)); err != nil || !maps.Equal(one, other) {
		t.Errorf("the schedule sends %v, the event is %v, %v", one, other, err)
	}
}

// The metrics of the alarms are made of the lines that the function writes.
func TestTheAlarmsOfBillingSyncSeeItsLog(t *testing.T) {
	b := openBilling(t)
	b.story()
	counts := map[string][]float64{}
	for name, f := range resources(t, template(t), "AWS::Logs::MetricFilter") {
		p := f["Properties"].(object)
		if fmt.Sprint(p["LogGroupName"]) != fmt.Sprint(object{"Ref": "BillingSyncLogGroup"}) {
			continue
		}
		pattern := p["FilterPattern"].(string)
		value := at(t, p["MetricTransformations"].([]any)[0].(object), "MetricValue").(string)
		counts[name] = []float64{}
		for line := range strings.Lines(b.log.String()) {
			if n, ok := filtered(t, pattern, value, line); ok {
				counts[name] = append(counts[name], n)
			}
		}
	}
	age := counts["BillingSyncAgeFilter"]
	if len(age) < 5 || slices.Max(age) < (48*time.Hour).Seconds() || slices.Min(age) > 60 {
		t.Errorf("ages of the last success: %v", age)
	}
	// Of the keys and installations that were refused, once each.
	for name, wanted := range map[string][]float64{
		"BillingSyncRefusedFilter": {1, 1, 1}, "BillingSyncTicksFilter": {1, 1}, "BillingSyncLeftFilter": {0, 0}, "BillingSyncDeniedOrLostFilter": {},
	} {
		if !slices.Equal(counts[name], wanted) {
			t.Errorf("%s: %v, not %v", name, counts[name], wanted)
		}
	}
	for filter, line := range map[string]string{
		"BillingSyncDeniedOrLostFilter":  `{"level":"ERROR","msg":"the tick failed","error":"tick x: denied: PutItem"}`,
		"SponsorshipsDeniedOrLostFilter": `{"level":"ERROR","msg":"request","error":"lost: open"}`,
	} {
		p := resource(t, template(t), filter)["Properties"].(object)
		if _, ok := filtered(t, p["FilterPattern"].(string), "1", line); !ok {
			t.Errorf("%s does not see %s", filter, line)
		}
	}
}

// filtered is what a metric filter makes of a line: of its pattern's language
// there are &&, ||, parentheses and comparisons of texts, with *.
func filtered(t *testing.T, pattern, value, line string) (float64, bool) {
	t.Helper()
	var members map[string]any
	if err := json.Unmarshal([]byte(line), &members); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	inner, ok := strings.CutPrefix(pattern, "{")
	inner, closed := strings.CutSuffix(inner, "}")
	if !ok || !closed {
		t.Fatalf("the pattern %s is of another kind", pattern)
	}
	matches, rest := filterTerm(t, members, inner, "||")
	if strings.TrimSpace(rest) != "" {
		t.Fatalf("the pattern %s goes on with %s", pattern, rest)
	}
	if !matches {
		return 0, false
	}
	if name, ok := strings.CutPrefix(value, "$."); ok {
		n, ok := members[name].(float64)
		return n, ok
	}
	want(t, "the value", value, "1")
	return 1, true
}

// filterTerm reads terms that an operator joins, of which && binds more tightly.
func filterTerm(t *testing.T, members map[string]any, pattern, operator string) (matches bool, rest string) {
	t.Helper()
	next := func(text string) (bool, string) {
		if operator == "||" {
			return filterTerm(t, members, text, "&&")
		}
		return filterComparison(t, members, text)
	}
	matches, rest = next(pattern)
	for {
		text, more := strings.CutPrefix(strings.TrimSpace(rest), operator)
		if !more {
			return matches, rest
		}
		var also bool
		also, rest = next(text)
		if operator == "||" {
			matches = matches || also
		} else {
			matches = matches && also
		}
	}
}

func filterComparison(t *testing.T, members map[string]any, pattern string) (matches bool, rest string) {
	t.Helper()
	pattern = strings.TrimSpace(pattern)
	if inner, ok := strings.CutPrefix(pattern, "("); ok {
		matches, rest = filterTerm(t, members, inner, "||")
		rest, ok = strings.CutPrefix(strings.TrimSpace(rest), ")")
		if !ok {
			t.Fatalf("no parenthesis ends %s", pattern)
		}
		return matches, rest
	}
	var name, text string
	if _, err := fmt.Sscanf(pattern, "$.%s = %q", &name, &text); err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	_, rest, _ = strings.Cut(pattern, fmt.Sprintf("%q", text))
	value, isText := members[name].(string)
	return isText && like(text).MatchString(value), rest
}
