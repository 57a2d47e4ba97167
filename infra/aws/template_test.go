// Package aws holds the template of the functions on AWS, and the tests of what
// linters do not see: that data and keys survive mistakes, that each role can do
// what its function does and nothing else, and that the API has the function's
// routes.
package aws

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/latchkey-fn/latchkey/events"
	"github.com/latchkey-fn/latchkey/local/testenv"
)

// object is a mapping of the template. An intrinsic !X value is the object
// {"X": value}.
type object map[string]any

func template(t *testing.T) object {
	t.Helper()
	content, err := os.ReadFile("template.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file, err := parser.ParseBytes(content, 0)
	if err != nil {
		t.Fatal(err)
	}
	if len(file.Docs) != 1 {
		t.Fatalf("%d documents", len(file.Docs))
	}
	return value(t, file.Docs[0].Body).(object)
}

func value(t *testing.T, node ast.Node) any {
	t.Helper()
	switch n := node.(type) {
	case *ast.MappingNode:
		o := object{}
		for _, v := range n.Values {
			key := v.Key.GetToken().Value
			if _, twice := o[key]; twice {
				t.Fatalf("%s stands twice at %s", key, v.GetPath())
			}
			o[key] = value(t, v.Value)
		}
		return o
	case *ast.MappingValueNode:
		return object{n.Key.GetToken().Value: value(t, n.Value)}
	case *ast.SequenceNode:
		list := []any{}
		for _, v := range n.Values {
			list = append(list, value(t, v))
		}
		return list
	case *ast.TagNode:
		return object{strings.TrimPrefix(n.Start.Value, "!"): value(t, n.Value)}
	case *ast.LiteralNode:
		return n.Value.Value
	case ast.ScalarNode:
		return n.GetValue()
	default:
		t.Fatalf("%T at %s", node, node.GetPath())
		return nil
	}
}

// at follows a path of keys.
func at(t *testing.T, in object, path ...string) any {
	t.Helper()
	var here any = in
	for i, key := range path {
		o, ok := here.(object)
		if !ok {
			t.Fatalf("%s is no mapping", strings.Join(path[:i], "."))
		}
		if here, ok = o[key]; !ok {
			t.Fatalf("there is no %s", strings.Join(path[:i+1], "."))
		}
	}
	return here
}

func resource(t *testing.T, in object, name string) object {
	t.Helper()
	return at(t, in, "Resources", name).(object)
}

// resources gives those of a type.
func resources(t *testing.T, in object, kind string) map[string]object {
	t.Helper()
	found := map[string]object{}
	for name, r := range at(t, in, "Resources").(object) {
		if r.(object)["Type"] == kind {
			found[name] = r.(object)
		}
	}
	if len(found) == 0 {
		t.Fatalf("there is no %s", kind)
	}
	return found
}

func want(t *testing.T, what string, got, wanted any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(wanted) {
		t.Errorf("%s is %v, not %v", what, got, wanted)
	}
}

func TestTheTableSurvivesMistakes(t *testing.T) {
	for name, table := range resources(t, template(t), "AWS::DynamoDB::Table") {
		want(t, name+" DeletionPolicy", table["DeletionPolicy"], "Retain")
		want(t, name+" UpdateReplacePolicy", table["UpdateReplacePolicy"], "Retain")
		want(t, name+" BillingMode", at(t, table, "Properties", "BillingMode"), "PAY_PER_REQUEST")
		want(t, name+" DeletionProtectionEnabled", at(t, table, "Properties", "DeletionProtectionEnabled"), true)
		want(t, name+" PITR", at(t, table, "Properties", "PointInTimeRecoverySpecification", "PointInTimeRecoveryEnabled"), true)
	}
}

func TestTheKeySurvivesMistakesAndIsSharedOut(t *testing.T) {
	tmpl := template(t)
	for name, key := range resources(t, tmpl, "AWS::KMS::Key") {
		want(t, name+" DeletionPolicy", key["DeletionPolicy"], "Retain")
		want(t, name+" UpdateReplacePolicy", key["UpdateReplacePolicy"], "Retain")
		want(t, name+" KeyUsage", at(t, key, "Properties", "KeyUsage"), "ENCRYPT_DECRYPT")
		want(t, name+" PendingWindowInDays", at(t, key, "Properties", "PendingWindowInDays"), 30)
		use := []string{"kms:Decrypt", "kms:Encrypt", "kms:ReEncrypt", "kms:GenerateDataKey", "kms:CreateGrant"}
		for _, s := range statements(t, at(t, key, "Properties", "KeyPolicy").(object)) {
			administers := slices.Contains(s.actions, "kms:PutKeyPolicy")
			for _, action := range s.actions {
				if strings.Contains(action, "*") {
					t.Errorf("%s: statement %s allows %s", name, s.sid, action)
				}
				if administers && slices.ContainsFunc(use, func(u string) bool { return strings.HasPrefix(action, u) }) {
					t.Errorf("%s: who administers the key may %s", name, action)
				}
				if s.sid == "Function" && !slices.Contains(functionActions, action) {
					t.Errorf("%s: the function may %s", name, action)
				}
			}
			if administers {
				// KMS asks the key's own policy before it makes an alias of it.
				for _, action := range []string{"kms:CreateAlias", "kms:UpdateAlias", "kms:DeleteAlias"} {
					want(t, name+" "+action, slices.Contains(s.actions, action), true)
				}
			}
			if s.sid == "Rotation" {
				want(t, "who rotates, in the policy of "+name, s.principal, object{"AWS": object{"Ref": "RotationRoleArn"}})
			}
			if s.sid == "Function" {
				want(t, "the function in the policy of "+name, s.principal, object{"AWS": object{"GetAtt": "KeyConnectorRole.Arn"}})
			}
		}
	}
}

func TestTheFunctionIsBuiltForARMFromTheRepositorysRoot(t *testing.T) {
	tmpl := template(t)
	for name, f := range resources(t, tmpl, "AWS::Serverless::Function") {
		properties := f["Properties"].(object)
		want(t, name+" BuildMethod", at(t, f, "Metadata", "BuildMethod"), "makefile")
		want(t, name+" Runtime", properties["Runtime"], "provided.al2023")
		want(t, name+" Handler", properties["Handler"], "bootstrap")
		want(t, name+" Architectures", properties["Architectures"], []any{"arm64"})
		want(t, name+" Tracing", properties["Tracing"], "Active")
		want(t, name+" LogFormat", at(t, f, "Properties", "LoggingConfig", "LogFormat"), "JSON")
		root := filepath.Join(".", properties["CodeUri"].(string))
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
			t.Errorf("%s: CodeUri is not the root of the module: %v", name, err)
		}
		if _, ok := properties["Policies"]; ok {
			t.Errorf("%s: SAM would give it more rights than its own role has", name)
		}
		group := at(t, f, "Properties", "LoggingConfig", "LogGroup", "Ref").(string)
		want(t, group, at(t, resource(t, tmpl, group), "Properties", "RetentionInDays"), object{"Ref": "LogRetentionDays"})
		if name == "BillingSyncFunction" {
			continue // its time has a test of its own
		}
		if timeout := properties["Timeout"].(uint64); timeout <= 25 || timeout >= 30 {
			t.Errorf("%s: a timeout of %d s is not between the function's own 25 s and the API's 30 s", name, timeout)
		}
	}
}

func TestLogsEndSomeday(t *testing.T) {
	tmpl := template(t)
	for name, group := range resources(t, tmpl, "AWS::Logs::LogGroup") {
		want(t, name, at(t, group, "Properties", "RetentionInDays"), object{"Ref": "LogRetentionDays"})
	}
	if days := at(t, tmpl, "Parameters", "LogRetentionDays", "Default").(uint64); days < 30 {
		t.Errorf("audit events are kept for %d days", days)
	}
}

func TestTheAccessLogHoldsNoToken(t *testing.T) {
	format := at(t, resource(t, template(t), "Api"), "Properties", "AccessLogSettings", "Format").(string)
	var filled map[string]string
	if err := json.Unmarshal([]byte(format), &filled); err != nil {
		t.Fatalf("it is not JSON: %v", err)
	}
	for field, variable := range filled {
		if !strings.HasPrefix(variable, "$context.") || strings.Contains(variable, "authorizer") || strings.Contains(strings.ToLower(variable), "query") || strings.Contains(strings.ToLower(variable), "path") {
			t.Errorf("%s: %s", field, variable)
		}
	}
}

func TestAlarmsWatchTheFunctionAndTheAPI(t *testing.T) {
	found := map[string]bool{}
	// Ticks always come; and the age of a success is told once a run.
	missing := map[string]string{"BillingSyncSilenceAlarm": "breaching"}
	for name, alarm := range resources(t, template(t), "AWS::CloudWatch::Alarm") {
		p := alarm["Properties"].(object)
		found[fmt.Sprint(p["Namespace"], " ", p["MetricName"])] = true
		want(t, name+" AlarmActions", p["AlarmActions"], object{"If": []any{"HasTopic", []any{object{"Ref": "AlarmTopicArn"}}, object{"Ref": "AWS::NoValue"}}})
		want(t, name+" TreatMissingData", p["TreatMissingData"], cmp.Or(missing[name], "notBreaching"))
		if p["AlarmDescription"] == nil {
			t.Errorf("%s does not say what it means", name)
		}
	}
	for _, metric := range []string{"AWS/Lambda Errors", "AWS/Lambda Throttles", "AWS/Lambda Duration", "AWS/ApiGateway 5xx", "AWS/SQS ApproximateNumberOfMessagesVisible"} {
		if !found[metric] {
			t.Errorf("nothing watches %s", metric)
		}
	}
}

func TestEveryNameThatIsReferredToExists(t *testing.T) {
	tmpl := template(t)
	resources, parameters, conditions := tmpl["Resources"].(object), tmpl["Parameters"].(object), tmpl["Conditions"].(object)
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, element := range v {
				walk(element)
			}
		case object:
			for key, element := range v {
				name, _ := element.(string)
				base, _, _ := strings.Cut(name, ".")
				switch key {
				case "Ref":
					_, r := resources[name]
					_, p := parameters[name]
					if !r && !p && !strings.HasPrefix(name, "AWS::") {
						t.Errorf("!Ref %s", name)
					}
				case "GetAtt":
					if _, ok := resources[base]; !ok {
						t.Errorf("!GetAtt %s", name)
					}
				case "If":
					if _, ok := conditions[element.([]any)[0].(string)]; !ok {
						t.Errorf("!If %v", element)
					}
				}
				walk(element)
			}
		}
	}
	walk(tmpl)
	for name := range parameters {
		if content, err := os.ReadFile("README.md"); err != nil || !strings.Contains(string(content), "`"+name+"`") {
			t.Errorf("README.md does not explain the parameter %s (%v)", name, err)
		}
	}
}

// routes gives "METHOD /path" of every event of a function.
func routes(t *testing.T, function string) []string {
	t.Helper()
	var list []string
	for name, event := range at(t, resource(t, template(t), function), "Properties", "Events").(object) {
		want(t, "type of "+name, event.(object)["Type"], "HttpApi")
		want(t, "API of "+name, at(t, event.(object), "Properties", "ApiId"), object{"Ref": "Api"})
		list = append(list, fmt.Sprint(at(t, event.(object), "Properties", "Method"), " ", at(t, event.(object), "Properties", "Path")))
	}
	slices.Sort(list)
	return list
}

func TestEveryEventHasARoute(t *testing.T) {
	names, err := events.Names()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{
		"keyconnector": routes(t, "KeyConnectorFunction"), "tokenexchange": routes(t, "TokenExchangeFunction"),
		"tokenrevoke": routes(t, "TokenRevokeFunction"), "machineaccounts": routes(t, "MachineAccountsFunction"),
		"secrets": routes(t, "SecretsFunction"), "sponsorships": routes(t, "SponsorshipsFunction"),
	}
	for _, name := range names {
		function, _, _ := strings.Cut(name, "-")
		if function == "billingsync" {
			continue // the schedule's, see TestTheScheduleCallsBillingSyncAsItWantsToBeCalled
		}
		content, err := events.Load(name, "")
		if err != nil {
			t.Fatal(err)
		}
		var event struct{ RouteKey string }
		if err := json.Unmarshal(content, &event); err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(all[function], event.RouteKey) {
			t.Errorf("%s: the API has no route %s", name, event.RouteKey)
		}
	}
}

func TestTheLintersAreContent(t *testing.T) {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string]*exec.Cmd{
		"cfn-lint":            exec.Command(testenv.Tool(t, "cfn-lint"), "--non-zero-exit-code", "informational", "infra/aws/template.yaml"),
		"sam validate --lint": exec.Command(testenv.Tool(t, "sam"), "validate", "--lint", "--region", "eu-central-1"),
	} {
		t.Run(name, func(t *testing.T) {
			command.Dir = root
			command.Env = append(os.Environ(), "SAM_CLI_TELEMETRY=0", "AWS_DEFAULT_REGION=eu-central-1")
			if output, err := command.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, output)
			}
		})
	}
}
