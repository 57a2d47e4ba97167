package aws

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	awssdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/functions/keyconnector"
	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/emulators/minidyn"
	"github.com/latchkey-fn/latchkey/local/house/housetest"
	"github.com/latchkey-fn/latchkey/providers/stores/dynamodb"
	"github.com/latchkey-fn/latchkey/providers/stores/memory"
	"github.com/latchkey-fn/latchkey/shared/kms/kmstest"
	"github.com/latchkey-fn/latchkey/shared/store"
)

// functionActions are all that a function may be allowed.
var functionActions = []string{
	"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query",
	"kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GetPublicKey",
	"logs:CreateLogStream", "logs:PutLogEvents",
	"xray:PutTelemetryRecords", "xray:PutTraceSegments",
}

// statement is one of a policy; an action that depends on a condition counts
// either way.
type statement struct {
	sid         string
	actions     []string
	resource    any
	principal   any
	leadingKeys []string
	// contexts are the encryption contexts of a right to use a KMS key, NAME=VALUE.
	contexts []string
	// conditions are as they stand there.
	conditions object
}

func statements(t *testing.T, policy object) []statement {
	t.Helper()
	var list []statement
	for _, entry := range at(t, policy, "Statement").([]any) {
		o := entry.(object)
		if branches, ok := o["If"].([]any); ok { // one that a parameter adds
			want(t, "otherwise", branches[2], object{"Ref": "AWS::NoValue"})
			o = branches[1].(object)
		}
		want(t, "effect", o["Effect"], "Allow")
		for _, forbidden := range []string{"NotAction", "NotResource", "NotPrincipal"} {
			if _, ok := o[forbidden]; ok {
				t.Errorf("statement %v has %s", o["Sid"], forbidden)
			}
		}
		s := statement{sid: fmt.Sprint(o["Sid"]), actions: texts(o["Action"]), resource: o["Resource"], principal: o["Principal"]}
		if c, ok := o["Condition"].(object); ok {
			s.conditions = c
			if keys, ok := c["ForAllValues:StringLike"].(object); ok {
				s.leadingKeys = texts(keys["dynamodb:LeadingKeys"])
			}
			if values, ok := c["StringLike"].(object); ok {
				for name, value := range values {
					s.contexts = append(s.contexts, strings.TrimPrefix(name, "kms:EncryptionContext:")+"="+strings.Join(texts(value), ","))
				}
			}
		}
		list = append(list, s)
	}
	return list
}

// texts gives the words in a value: one, a list, or those of both branches of
// an !If.
func texts(v any) []string {
	switch v := v.(type) {
	case string:
		return []string{v}
	case []any:
		var list []string
		for _, element := range v {
			list = append(list, texts(element)...)
		}
		return list
	case object:
		if branches, ok := v["If"].([]any); ok {
			return append(texts(branches[1]), texts(branches[2])...)
		}
		if text, ok := v["Sub"].(string); ok {
			return []string{text}
		}
	}
	return nil
}

func policy(t *testing.T, name string) []statement {
	t.Helper()
	return statements(t, at(t, resource(t, template(t), name), "Properties", "PolicyDocument").(object))
}

func TestRolesAreFencedIn(t *testing.T) {
	keyConnectors := object{"If": []any{"MakeKey", object{"GetAtt": "KeyConnectorKey.Arn"}, object{"Ref": "KmsKeyArn"}}}
	billingSyncs := object{"If": []any{"NoBillingSyncKmsKey", object{"GetAtt": "BillingSyncKey.Arn"}, object{"Ref": "BillingSyncKmsKeyArn"}}}
	secretsManagers := object{"If": []any{"NoSecretsManagerKmsKey", object{"GetAtt": "SecretsManagerKey.Arn"}, object{"Ref": "SecretsManagerKmsKeyArn"}}}
	reading := []string{"dynamodb:BatchGetItem", "dynamodb:GetItem", "dynamodb:Query"}
	writing := append([]string{"dynamodb:DeleteItem", "dynamodb:PutItem"}, reading...)
	withKey := func(actions []string) []string { return append(slices.Clone(functionActions), actions...) }
	withoutKey := func(actions []string) []string {
		return append(slices.DeleteFunc(slices.Clone(functionActions), func(a string) bool { return strings.HasPrefix(a, "kms:") }), actions...)
	}
	for name, c := range map[string]struct {
		allowed     []string
		collections string
		key         any
		queue       string // to which it may write
	}{
		"KeyConnectorRolePolicy": {functionActions, "user-keys|user-key-access|data-keys", keyConnectors, ""},
		"OperatorPolicy":         {[]string{"dynamodb:DeleteItem", "dynamodb:GetItem", "dynamodb:Query"}, "user-keys|user-key-access", nil, ""},
		"RotationPolicy": {
			[]string{"dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:Query", "kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GetPublicKey"},
			"user-keys|user-key-access|data-keys",
			[]any{keyConnectors, object{"If": []any{"HasSecretsManager", secretsManagers, object{"Ref": "AWS::NoValue"}}}}, "",
		},
		// The exchange cannot read secrets, and revoking can open nothing.
		"TokenExchangeRolePolicy":   {withKey(writing), "access-tokens|access-token-uses|limits|signing-keys|data-keys", secretsManagers, ""},
		"TokenRevokeRolePolicy":     {withoutKey(writing), "access-tokens|organizations|service-accounts|signing-keys|events", nil, ""},
		"MachineAccountsRolePolicy": {withKey(writing), "access-tokens|access-token-uses|organizations|service-accounts|projects|secrets|signing-keys|events|data-keys", secretsManagers, ""},
		// The schedule calls, and its function cannot take the breaker of the
		// installation away, nor make offers' names comparable.
		"SponsorshipsRolePolicy": {
			withKey(append([]string{"lambda:InvokeFunction"}, writing...)),
			"licences|licence-keys|licence-usage|offers|offer-imports|offer-name-keys|sync-connections|sync-leases|sync-refusals|sync-runs|sync-schedules|data-keys", billingSyncs, "",
		},
		"BillingSyncRolePolicy": {
			withKey(append([]string{"sqs:SendMessage"}, writing...)),
			"licences|licence-keys|licence-usage|offers|sync-batches|sync-connections|sync-leases|sync-refusals|sync-runs|sync-schedules|data-keys", billingSyncs, "BillingSyncFailures",
		},
		"BillingSyncScheduleRolePolicy": {[]string{"lambda:InvokeFunction", "sqs:SendMessage"}, "", nil, "BillingSyncUndelivered"},
		"SecretsRolePolicy":             {withoutKey(writing), "access-tokens|organizations|service-accounts|projects|secrets|secret-contents|secret-departures|signing-keys|events", nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			logs := object{"GetAtt": strings.TrimSuffix(name, "RolePolicy") + "LogGroup.Arn"}
			for _, s := range policy(t, name) {
				if len(s.actions) == 0 {
					t.Errorf("statement %s has no action", s.sid)
				}
				for _, action := range s.actions {
					if !slices.Contains(c.allowed, action) {
						t.Errorf("statement %s allows %s", s.sid, action)
					}
					service, _, _ := strings.Cut(action, ":")
					if parameter, ok := map[string]string{
						"PreviousKey": "PreviousKmsKeyArn", "PreviousSecretsManagerKey": "PreviousSecretsManagerKmsKeyArn",
						"PreviousBillingSyncKey": "PreviousBillingSyncKmsKeyArn",
					}[s.sid]; ok {
						if slices.Contains([]string{"SponsorshipsRolePolicy", "BillingSyncRolePolicy"}, name) {
							parameter = "PreviousBillingSyncKmsKeyArn"
						}
						if slices.Contains([]string{"TokenExchangeRolePolicy", "MachineAccountsRolePolicy"}, name) {
							parameter = "PreviousSecretsManagerKmsKeyArn"
						}
						want(t, "the resource of "+action, s.resource, object{"Ref": parameter})
						want(t, action+" with a previous key", slices.Contains([]string{"kms:Decrypt", "kms:DescribeKey", "kms:GetPublicKey"}, action), true)
						continue
					}
					key := c.key
					if name == "RotationPolicy" && slices.Contains([]string{"BillingSyncKey", "DescribeBillingSyncKey"}, s.sid) {
						key = billingSyncs
					}
					switch resource := map[string]any{
						"dynamodb": object{"GetAtt": "Table.Arn"}, "kms": key, "logs": logs, "xray": "*",
						"lambda": object{"GetAtt": "BillingSyncFunction.Arn"}, "sqs": object{"GetAtt": c.queue + ".Arn"},
					}[service]; {
					case resource == nil:
						t.Errorf("statement %s: %s is no service of ours", s.sid, service)
					default:
						want(t, "the resource of "+action, s.resource, resource)
					}
					if service != "dynamodb" {
						continue
					}
					if len(s.leadingKeys) == 0 {
						t.Errorf("%s is not fenced to collections", action)
					}
					for _, pattern := range s.leadingKeys {
						if !regexp.MustCompile("^(" + c.collections + ")#").MatchString(pattern) {
							t.Errorf("%s reaches %s", action, pattern)
						}
					}
				}
			}
		})
	}
	for name, role := range resources(t, template(t), "AWS::IAM::Role") {
		for _, more := range []string{"ManagedPolicyArns", "Policies"} {
			if _, ok := role["Properties"].(object)[more]; ok {
				t.Errorf("%s has %s", name, more)
			}
		}
	}
}

func TestOnlyAnRSAKeyIsUsedWithoutTheRightToEncrypt(t *testing.T) {
	for _, name := range []string{"KeyConnectorRolePolicy", "RotationPolicy", "TokenExchangeRolePolicy", "MachineAccountsRolePolicy"} {
		for _, entry := range at(t, resource(t, template(t), name), "Properties", "PolicyDocument", "Statement").([]any) {
			actions, ok := entry.(object)["Action"].(object)
			if !ok {
				continue
			}
			branches := actions["If"].([]any)
			want(t, name+" condition", branches[0], "SymmetricKey")
			if !slices.Contains(texts(branches[1]), "kms:Encrypt") || slices.Contains(texts(branches[2]), "kms:Encrypt") {
				t.Errorf("%s: %v", name, branches)
			}
		}
	}
}

// allows says whether a policy lets an operation on an item, or with a KMS key in
// an encryption context, pass.
func allows(list []statement, o operation) bool {
	return slices.ContainsFunc(list, func(s statement) bool {
		return slices.Contains(s.actions, o.action) && (s.conditions == nil || slices.ContainsFunc(slices.Concat(s.leadingKeys, s.contexts), func(pattern string) bool {
			return like(pattern).MatchString(o.key)
		}))
	})
}

// like is IAM's StringLike.
func like(pattern string) *regexp.Regexp {
	quoted := regexp.QuoteMeta(pattern)
	return regexp.MustCompile("^" + strings.NewReplacer(`\*`, ".*", `\?`, ".").Replace(quoted) + "$")
}

// operation is what IAM sees of a request: an action on a partition, or of a KMS
// key, whose encryption context is NAME=VALUE.
type operation struct{ action, key string }

// recorder is a transport that notes every operation of the clients of DynamoDB
// and KMS.
type recorder struct {
	t    *testing.T
	mu   sync.Mutex
	seen []operation
	raw  map[string][]byte
}

// last gives the latest request of a name.
func (r *recorder) last(name string) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.raw[name]
}

func (r *recorder) RoundTrip(request *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	service, name, _ := strings.Cut(request.Header.Get("X-Amz-Target"), ".")
	if service == "TrentService" {
		r.noteKey(name, body)
	} else {
		r.note(name, body)
	}
	return http.DefaultTransport.RoundTrip(request)
}

func (r *recorder) noteKey(name string, body []byte) {
	var request struct{ EncryptionContext map[string]string }
	if err := json.Unmarshal(body, &request); err != nil {
		r.t.Errorf("%s: %v", name, err)
	}
	var context []string
	for name, value := range request.EncryptionContext {
		context = append(context, name+"="+value)
	}
	slices.Sort(context)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, operation{"kms:" + name, strings.Join(context, ",")})
}

func (r *recorder) note(name string, body []byte) {
	type key struct{ PK struct{ S string } }
	type target struct{ Key, Item key }
	var request struct {
		target
		ExpressionAttributeValues map[string]struct{ S string }
		TransactItems             []map[string]target
		RequestItems              map[string]struct {
			Keys []struct{ PK struct{ S string } }
		}
	}
	if err := json.Unmarshal(body, &request); err != nil {
		r.t.Errorf("%s: %v", name, err)
	}
	partition := func(o target) string { return o.Key.PK.S + o.Item.PK.S }
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.raw == nil {
		r.raw = map[string][]byte{}
	}
	r.raw[name] = body
	switch name {
	case "TransactWriteItems":
		for _, item := range request.TransactItems {
			for kind, o := range item {
				action := map[string]string{"ConditionCheck": "ConditionCheckItem"}[kind]
				if action == "" {
					action = kind + "Item"
				}
				r.seen = append(r.seen, operation{"dynamodb:" + action, partition(o)})
			}
		}
	case "BatchGetItem":
		for _, table := range request.RequestItems {
			for _, k := range table.Keys {
				r.seen = append(r.seen, operation{"dynamodb:BatchGetItem", k.PK.S})
			}
		}
	case "Query":
		r.seen = append(r.seen, operation{"dynamodb:Query", request.ExpressionAttributeValues[":pk"].S})
	default:
		r.seen = append(r.seen, operation{"dynamodb:" + name, partition(request.target)})
	}
}

// take gives what was seen since the last time, each operation once.
func (r *recorder) take() []operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	slices.SortFunc(seen, func(a, b operation) int { return strings.Compare(a.action+a.key, b.action+b.key) })
	return slices.Compact(seen)
}

// open runs Key Connector over an emulated table whose traffic is recorded.
func open(t *testing.T) (*keyconnector.Function, *recorder, *devidentity.Server) {
	t.Helper()
	emulator, err := minidyn.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = emulator.Close() })
	seen := &recorder{t: t}
	table := connect(seen, emulator.URL)
	if err := table.CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	seen.take()
	function, identity := function(t, table)
	return function, seen, identity
}

func connect(through http.RoundTripper, endpoint string) *dynamodb.Store {
	return dynamodb.New(awssdk.Config{
		Region: "eu-central-1", Credentials: credentials.NewStaticCredentialsProvider("AKID", "secret", ""),
		HTTPClient: &http.Client{Transport: through},
	}, dynamodb.Config{Table: "latchkey", Endpoint: endpoint})
}

func function(t *testing.T, driver store.Driver) (*keyconnector.Function, *devidentity.Server) {
	t.Helper()
	identity := housetest.NewIdentity(t)
	config, _, err := keyconnector.LoadConfig(map[string]string{
		"LATCHKEY_STORE": "memory", "LATCHKEY_KEYS": "software", "LATCHKEY_SOFTWARE_KEY_PATH": "unused",
		"LATCHKEY_IDENTITY_URL": identity.URL, "LATCHKEY_PATH_PREFIX": "/key-connector",
	})
	if err != nil {
		t.Fatal(err)
	}
	f, err := keyconnector.New(config, keyconnector.Parts{
		Store: driver, Key: kmstest.NewKey(t), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return f, identity.Server
}

func ask(t *testing.T, h http.Handler, method, path, token, body string) int {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body)).WithContext(t.Context())
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Code
}

func TestPoliciesAllowWhatIsDoneWithThem(t *testing.T) {
	f, seen, identity := open(t)
	role, operator, rotation := policy(t, "KeyConnectorRolePolicy"), policy(t, "OperatorPolicy"), policy(t, "RotationPolicy")
	user := uuid.NewString()
	token, err := identity.Mint(devidentity.Claims{User: user})
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, list []statement) {
		t.Helper()
		done := seen.take()
		if len(done) == 0 {
			t.Errorf("%s: nothing was done", what)
		}
		for _, o := range done {
			if !allows(list, o) {
				t.Errorf("%s: the policy does not allow %s on %q", what, o.action, o.key)
			}
		}
	}

	const key = `{"key":"OhXd3+8wrm2jEhxIrhunyZ1ULKZzWZQqscZIQN2DxKs="}`
	for _, r := range []struct {
		method, path, body string
		status             int
	}{
		{"GET", "/user-keys", "", 404},
		{"POST", "/user-keys", key, 200},
		{"POST", "/user-keys", key, 400},
		{"GET", "/user-keys", "", 200},
		{"PUT", "/user-keys", key, 200},
		{"GET", "/health", "", 200},
	} {
		want(t, r.method+" "+r.path, ask(t, f, r.method, r.path, token, r.body), r.status)
	}
	if at, err := f.Users.LastAccess(t.Context(), user); err != nil || at.IsZero() {
		t.Errorf("the access was not noted: %v", err)
	}
	check("the function", role)

	for info, err := range f.Users.All(t.Context()) {
		if err != nil || info.User != user {
			t.Errorf("%+v, %v", info, err)
		}
	}
	listing := seen.take()
	if slices.ContainsFunc(listing, func(o operation) bool { return allows(role, o) }) {
		t.Error("the function's role can list the users")
	}
	for _, o := range listing {
		if !allows(operator, o) || !allows(rotation, o) {
			t.Errorf("an operator cannot %s on %q", o.action, o.key)
		}
	}

	current, err := f.Ring.Rotate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Users.Reseal(t.Context(), user, current); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Ring.Rewrap(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	check("a rotation", rotation)

	described, err := f.Users.Describe(t.Context(), user)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Users.Delete(t.Context(), described); err != nil {
		t.Fatal(err)
	}
	deletions := 0
	for _, o := range seen.take() {
		if !allows(operator, o) {
			t.Errorf("an operator who deletes cannot %s on %q", o.action, o.key)
		}
		if o.action == "dynamodb:DeleteItem" {
			deletions++
			if allows(role, o) || allows(rotation, o) {
				t.Errorf("more than an operator may delete %q", o.key)
			}
		}
	}
	if deletions < 3 { // the key, its copy for listings, the stamp
		t.Errorf("%d deletions", deletions)
	}
}

func TestTheTableIsTheOneThatTheDriverKnows(t *testing.T) {
	emulator, err := minidyn.Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = emulator.Close() })
	seen := &recorder{t: t}
	driver := connect(seen, emulator.URL)
	if err := driver.CreateTable(t.Context()); err != nil {
		t.Fatal(err)
	}
	properties := resource(t, template(t), "Table")["Properties"].(object)
	var created struct{ KeySchema, AttributeDefinitions []map[string]any }
	if err := json.Unmarshal(seen.last("CreateTable"), &created); err != nil {
		t.Fatal(err)
	}
	for name, made := range map[string][]map[string]any{"KeySchema": created.KeySchema, "AttributeDefinitions": created.AttributeDefinitions} {
		declared := properties[name].([]any)
		if len(declared) != len(made) {
			t.Fatalf("%s: %v, %v", name, declared, made)
		}
		for i := range declared {
			want(t, name, map[string]any(declared[i].(object)), made[i])
		}
	}

	expires := time.Now().Add(time.Hour).Truncate(time.Second)
	if _, err := driver.Put(t.Context(), store.Document{Collection: "user-key-access", ID: "u", Expires: expires}, store.Absent()); err != nil {
		t.Fatal(err)
	}
	var written struct{ Item map[string]struct{ N string } }
	if err := json.Unmarshal(seen.last("PutItem"), &written); err != nil {
		t.Fatal(err)
	}
	attribute := at(t, properties, "TimeToLiveSpecification", "AttributeName").(string)
	want(t, "the TTL attribute "+attribute, written.Item[attribute].N, expires.Unix())
	want(t, "time to live enabled", at(t, properties, "TimeToLiveSpecification", "Enabled"), true)
}

// The routes are those that the real handler answers.
func TestTheAPIHasTheFunctionsRoutes(t *testing.T) {
	f, _ := function(t, memory.New())
	var served []string
	for _, path := range []string{"/user-keys", "/alive", "/now", "/version", "/health", "/", "/metrics", "/user-keys/x"} {
		for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE"} {
			for prefix, parameter := range map[string]string{"": "", "/key-connector": "/{prefix}"} {
				status := ask(t, f, method, prefix+path, "", "")
				if status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
					served = append(served, method+" "+parameter+path)
				}
			}
		}
	}
	// Web vaults' preflights: for keys, and for the admin console's test of the
	// address. Nothing else is called from a page.
	for _, path := range []string{"/user-keys", "/alive", "/{prefix}/user-keys", "/{prefix}/alive"} {
		served = append(served, "OPTIONS "+path)
	}
	slices.Sort(served)
	if got := routes(t, "KeyConnectorFunction"); !slices.Equal(got, served) {
		t.Errorf("the API has\n%s\nthe function serves\n%s", strings.Join(got, "\n"), strings.Join(served, "\n"))
	}
}
