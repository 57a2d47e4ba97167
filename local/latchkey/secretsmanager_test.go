package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/latchkey-fn/latchkey/local/devidentity"
	"github.com/latchkey-fn/latchkey/local/house"
	"github.com/latchkey-fn/latchkey/local/house/housetest"
	"github.com/latchkey-fn/latchkey/local/smclient"
	"github.com/latchkey-fn/latchkey/shared/accesstoken"
	"github.com/latchkey-fn/latchkey/shared/logtest"
)

// These tests run the commands against the real functions, over https with a
// certificate of an authority that only SSL_CERT_FILE makes known. Go reads that
// once in a process, so the authority is made before the first test.

const (
	// asCommand makes the test binary latchkey itself.
	asCommand = "LATCHKEY_TEST_AS_COMMAND"
	// asChild makes it a command that `latchkey run` can run.
	asChild = "LATCHKEY_TEST_AS_CHILD"
)

var certificate tls.Certificate // of 127.0.0.1, for all tests; set by TestMain

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(asChild) != "" && os.Getenv(asCommand) == "":
		beChild()
	case os.Getenv(asCommand) != "":
		if err := os.Unsetenv(asCommand); err != nil {
			panic(err)
		}
		main()
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "latchkey")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Latchkey test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	certificate = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	path := filepath.Join(dir, "authority.pem")
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		panic(err)
	}
	if err := os.Setenv("SSL_CERT_FILE", path); err != nil {
		panic(err)
	}
	return m.Run()
}

// manager is a Secrets Manager: all functions in this process behind https.
type manager struct {
	url      string
	identity *housetest.Identity
	log      *logtest.Log
}

func startManager(t *testing.T) *manager {
	t.Helper()
	m := &manager{log: &logtest.Log{}}
	useSoftwareKey(t)
	m.identity = housetest.NewIdentity(t)
	server := httptest.NewUnstartedServer(nil)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	m.url = "https://" + server.Listener.Addr().String()
	settings := m.identity.SecretsManager(t, map[string]string{
		"LATCHKEY_SOFTWARE_KEY_PATH": os.Getenv("LATCHKEY_SOFTWARE_KEY_PATH"), "LATCHKEY_PUBLIC_URL": m.url, "LATCHKEY_SIGNING_ALGORITHM": "ES256",
	})
	log := m.log.Logger()
	parts, err := house.Open(t.Context(), settings.Settings(), log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeIt(t, parts) })
	functions, err := settings.Functions(parts, log)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	settings.Gather(mux, functions)
	server.Config.Handler = mux
	server.Config.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelWarn)
	server.StartTLS()
	t.Cleanup(server.Close)
	return m
}

const passphrase = "correct horse battery staple"

// person is an operator at a desk of their own.
type person struct {
	t            *testing.T
	manager      *manager
	organization string
	config       string // the folder with their key files
	token        string
	secrets      *[]string // what nothing may print
}

// operator gives an administrator of a new organisation, which has no key yet.
func (m *manager) operator(t *testing.T) *person {
	t.Helper()
	p := &person{t: t, manager: m, organization: uuid.NewString(), secrets: &[]string{passphrase}}
	return p.colleague()
}

// colleague gives another administrator of the same organisation, without a key.
func (p *person) colleague() *person {
	p.t.Helper()
	token := p.manager.identity.Token(p.t, devidentity.Claims{User: uuid.NewString(), Owner: []string{p.organization}})
	other := *p
	other.config, other.token = p.t.TempDir(), token
	*p.secrets = append(*p.secrets, token)
	return &other
}

// environment is every setting that these commands read.
func (p *person) environment() map[string]string {
	e := map[string]string{"HOME": p.config, "XDG_CONFIG_HOME": p.config, "LATCHKEY_SERVER": p.manager.url}
	for _, name := range append(withheld(), "LATCHKEY_ORGANIZATION") {
		e[name] = ""
	}
	return e
}

func (p *person) asOperator() map[string]string {
	e := p.environment()
	e["LATCHKEY_OPERATOR_TOKEN"], e["LATCHKEY_PASSPHRASE"] = p.token, passphrase
	return e
}

// asMachine is somewhere else, with nothing but an access token.
func (p *person) asMachine(token string) map[string]string {
	e := p.environment()
	e["XDG_CONFIG_HOME"], e["HOME"] = p.t.TempDir(), p.t.TempDir()
	e["LATCHKEY_ACCESS_TOKEN"] = token
	return e
}

// executed is what `latchkey run` would have become.
type executed struct {
	path              string
	args, environment []string
}

// in runs a command with these settings and this input.
func (p *person) in(environment map[string]string, input string, args ...string) (outcome, *executed) {
	p.t.Helper()
	for name, value := range environment {
		p.t.Setenv(name, value)
		if value == "" { // an empty NAME_FILE would name a file
			if err := os.Unsetenv(name); err != nil {
				p.t.Fatal(err)
			}
		}
	}
	var out, errs bytes.Buffer
	var became *executed
	code := execute(p.t.Context(), &terminal{
		out: &out, err: &errs, in: strings.NewReader(input), scryptWork: 10,
		exec: func(path string, args, environment []string) error {
			became = &executed{path, args, environment}
			return errExecuted
		},
	}, args)
	for _, secret := range *p.secrets {
		if strings.Contains(errs.String(), secret) {
			p.t.Errorf("%v: a secret is told on the error stream: %s", args, errs.String())
		}
	}
	return outcome{code, out.String(), errs.String()}, became
}

// errExecuted ends `latchkey run` where another process would have begun.
var errExecuted = fmt.Errorf("the process is another one")

// run runs a command as the operator.
func (p *person) run(args ...string) outcome {
	p.t.Helper()
	o, _ := p.in(p.asOperator(), "", args...)
	return o
}

// answering is run with an input.
func (p *person) answering(input string, args ...string) outcome {
	p.t.Helper()
	o, _ := p.in(p.asOperator(), input, args...)
	return o
}

// machine runs a command with an access token.
func (p *person) machine(token string, args ...string) outcome {
	p.t.Helper()
	o, _ := p.in(p.asMachine(token), "", args...)
	return o
}

// ran gives the environment that `latchkey run` gives a command, without what
// this process has.
func (p *person) ran(environment map[string]string, args ...string) []string {
	p.t.Helper()
	o, became := p.in(environment, "", append([]string{"run"}, args...)...)
	if became == nil {
		p.t.Fatalf("nothing was run: %s", o.err)
	}
	own := os.Environ()
	return slices.DeleteFunc(became.environment, func(variable string) bool { return slices.Contains(own, variable) })
}

// founded is an operator whose organisation has its key.
func founded(t *testing.T) *person {
	t.Helper()
	p := startManager(t).operator(t)
	p.run("org", "create").want(t, 0, p.organization)
	return p
}

// id gives the id in a command's JSON.
func (o outcome) id(t *testing.T) string {
	t.Helper()
	var thing struct{ ID string }
	o.want(t, 0).json(t, &thing)
	return thing.ID
}

// newToken makes a machine account with these projects, and an access token.
func (p *person) newToken(machine string, args ...string) (token string) {
	p.t.Helper()
	o := p.run(append([]string{"token", "create", "--machine", machine, "--name", "test"}, args...)...).want(p.t, 0, "only time", "expires")
	token = strings.TrimSuffix(o.out, "\n")
	if _, err := accesstoken.Parse(token); err != nil {
		p.t.Fatalf("%v: the output is %q", err, o.out)
	}
	*p.secrets = append(*p.secrets, token, tokenSecret(token))
	return token
}

func tokenID(token string) string     { return strings.Split(token, ".")[1] }
func tokenSecret(token string) string { return strings.Split(strings.Split(token, ".")[2], ":")[0] }

// checkLogs looks for what the server must not have written down.
func (p *person) checkLogs() {
	p.t.Helper()
	log := p.manager.log.String()
	if !strings.Contains(log, `"msg":"audit"`) {
		p.t.Error("there is no audit event in the server's log")
	}
	for _, secret := range *p.secrets {
		if strings.Contains(log, secret) {
			p.t.Errorf("the server's log holds the secret %q", secret)
		}
	}
}

// The use of the whole: an operator's desk, two machines, and what each may see.
func TestASecondMachineAccountSeesOnlyItsProject(t *testing.T) {
	p := founded(t)
	for _, name := range []string{"production", "staging"} {
		p.run("project", "create", name).want(t, 0, name)
	}
	const value, other = "hunter2 – ünïcode ✓\n line two", "the one of staging"
	*p.secrets = append(*p.secrets, value, other)
	p.answering(value+"\n", "secret", "set", "DB_PASSWORD", "--project", "production", "--note", "rotates monthly").want(t, 0, "created")
	p.answering(other, "secret", "set", "DB_PASSWORD", "--project", "staging").want(t, 0, "created")
	p.answering("only here", "secret", "set", "api-key.2", "--project", "staging").want(t, 0, "created")
	p.run("machine", "create", "ci", "--project", "production", "--no-new-projects").want(t, 0, "production (read)")
	p.run("machine", "create", "deploy", "--project", "staging:write").want(t, 0, "staging (read, write)")
	ci, deploy := p.newToken("ci"), p.newToken("deploy", "--expires", "never")

	if got := p.machine(ci, "secret", "list", "--json").want(t, 0); strings.Count(got.out, `"key"`) != 1 || strings.Contains(got.out, "staging") {
		t.Errorf("the machine of production lists %s", got.out)
	}
	if got := p.machine(ci, "secret", "get", "DB_PASSWORD").want(t, 0); got.out != value {
		t.Errorf("the value is %q", got.out)
	}
	if got := p.machine(ci, "secret", "get", "DB_PASSWORD", "--field", "note").want(t, 0); got.out != "rotates monthly" {
		t.Errorf("the note is %q", got.out)
	}
	for _, hidden := range []string{"staging", p.run("project", "show", "staging", "--json").id(t)} {
		p.machine(ci, "secret", "list", "--project", hidden).want(t, exitNotFound)
		p.machine(ci, "run", "--project", hidden, "--", os.Args[0]).want(t, exitNotFound)
	}

	if got := p.ran(p.asMachine(ci), "--", os.Args[0]); !slices.Equal(got, []string{"DB_PASSWORD=" + value}) {
		t.Errorf("the command of the first machine gets %q", got)
	}
	want := []string{"DB_PASSWORD=" + other, "api_key_2=only here"}
	if got := p.ran(p.asMachine(deploy), "--", os.Args[0]); !slices.Equal(got, want) {
		t.Errorf("the command of the second machine gets %q", got)
	}
	if got := p.ran(p.asMachine(deploy), "--project", "staging", "--", os.Args[0]); !slices.Equal(got, want) {
		t.Errorf("with --project it gets %q", got)
	}

	// What machines may change.
	o, _ := p.in(p.asMachine(ci), "x", "secret", "set", "DB_PASSWORD")
	o.want(t, exitNotFound)
	p.machine(ci, "project", "create", "theirs").want(t, exitNotFound, "may not create projects")
	o, _ = p.in(p.asMachine(deploy), "newer", "secret", "set", "DB_PASSWORD")
	o.want(t, 0, "changed")
	p.machine(deploy, "project", "create", "its-own").want(t, 0)
	for _, args := range [][]string{{"machine", "list"}, {"token", "list"}, {"org", "show"}, {"secret", "trash"}} {
		p.machine(deploy, args...).want(t, exitUsage, "LATCHKEY_OPERATOR_TOKEN")
	}
	if got := p.run("secret", "get", "DB_PASSWORD", "--project", "staging").want(t, 0); got.out != "newer" {
		t.Errorf("the operator reads %q", got.out)
	}
	// Everything is there twice for the operator.
	p.run("secret", "get", "DB_PASSWORD").want(t, exitUsage, "several of them")
	p.run("run", "--", os.Args[0]).want(t, exitUsage, "DB_PASSWORD", `project "production"`, `project "staging"`, "--project")
	if got := p.ran(p.asOperator(), "--project", "production", "--", os.Args[0]); !slices.Equal(got, []string{"DB_PASSWORD=" + value}) {
		t.Errorf("the operator's command gets %q", got)
	}
	p.checkLogs()
}

func TestARevokedTokensNextRequestIsRefused(t *testing.T) {
	p := founded(t)
	p.run("project", "create", "production").want(t, 0)
	p.run("machine", "create", "ci", "--project", "production").want(t, 0)
	p.run("machine", "create", "deploy").want(t, 0)
	first, second, third := p.newToken("ci"), p.newToken("ci"), p.newToken("deploy")
	p.machine(first, "project", "list").want(t, 0, "production")

	// No key is needed: this operator has none.
	other := p.colleague()
	noKey := other.asOperator()
	noKey["LATCHKEY_PASSPHRASE"] = ""
	o, _ := other.in(noKey, "no\n", "token", "revoke", tokenID(first))
	o.want(t, exitDeclined, "--yes")
	p.machine(first, "project", "list").want(t, 0)
	o, _ = other.in(noKey, "yes\n", "token", "revoke", tokenID(first), tokenID(third))
	o.want(t, 0, tokenID(first), tokenID(third))

	p.machine(first, "project", "list").want(t, exitFailed, "revoked by user:")
	p.machine(third, "run", "--", os.Args[0]).want(t, exitFailed, "revoked by user:")
	p.machine(second, "project", "list").want(t, 0)

	var listed, all []struct{ ID, RevokedBy, Name string }
	p.run("token", "list", "--machine", "ci", "--json").want(t, 0).json(t, &listed)
	p.run("token", "list", "--all", "--json").want(t, 0).json(t, &all)
	if len(listed) != 1 || listed[0].ID != tokenID(second) || listed[0].Name != "test" || len(all) != 3 {
		t.Errorf("listed are %+v, of all %+v", listed, all)
	}
	p.run("token", "list", "--all").want(t, 0, "revoked 20", "good", "deploy")

	// Again is well; others' and unknown ids are not there, and the rest is done.
	p.run("token", "revoke", tokenID(first), "--machine", "ci").want(t, 0, "was revoked 20", "by user:", "already") // nobody is asked
	p.run("token", "revoke", "--yes", tokenID(second), "--machine", "deploy").want(t, exitNotFound, tokenID(second))
	p.machine(second, "project", "list").want(t, 0)
	unknown := uuid.NewString()
	p.run("token", "revoke", "--yes", unknown).want(t, exitNotFound, unknown)
	p.run("token", "revoke", "--yes", unknown, strings.ToUpper(tokenID(second))).want(t, exitNotFound, unknown, tokenID(second)+" is revoked")
	p.machine(second, "project", "list").want(t, exitFailed, "revoked")
	if got := p.run("token", "revoke", "--yes", first); got.code != exitUsage || strings.Contains(got.err, tokenSecret(first)) {
		t.Errorf("a whole token: %d %s", got.code, got.err)
	}
	p.run("machine", "delete", "ci", "--yes").want(t, 0)
	p.machine(second, "project", "list").want(t, exitFailed)
	p.checkLogs()
}

func TestATokenIsRotatedByItsHolder(t *testing.T) {
	p := founded(t)
	p.run("machine", "create", "ci").want(t, 0)
	token := p.newToken("ci")
	o := p.machine(token, "token", "rotate").want(t, 0, tokenID(token))
	rotated := strings.TrimSuffix(o.out, "\n")
	if tokenID(rotated) != tokenID(token) || tokenSecret(rotated) == tokenSecret(token) || rotated[strings.IndexByte(rotated, ':'):] != token[strings.IndexByte(token, ':'):] {
		t.Errorf("rotated, it has another id or key, or the same secret")
	}
	for _, good := range []string{token, rotated} { // the old one for the grace
		p.machine(good, "project", "list").want(t, 0)
	}
	o = p.machine(rotated, "token", "rotate", "--grace", "0", "--json").want(t, 0)
	var told struct{ ID, AccessToken string }
	o.json(t, &told)
	p.machine(told.AccessToken, "project", "list").want(t, 0)
	p.machine(rotated, "project", "list").want(t, exitFailed, "was replaced")
	p.run("token", "rotate").want(t, exitUsage, "LATCHKEY_ACCESS_TOKEN")
	p.machine(told.AccessToken, "token", "rotate", "--grace", "8d").want(t, exitUsage)
	p.run("token", "create", "--machine", "ci").want(t, exitUsage, "--name is needed")
	p.run("token", "create", "--machine", "ci", "--name", " ").want(t, exitUsage, "--name is needed, and may not be empty")
	p.run("token", "create", "--name", "x").want(t, exitUsage, "--machine is needed")
	*p.secrets = append(*p.secrets, told.AccessToken, tokenSecret(told.AccessToken), tokenSecret(rotated))
	p.checkLogs()
}

func TestTokensAreLimited(t *testing.T) {
	p := founded(t)
	for _, name := range []string{"one", "two"} {
		p.run("project", "create", name).want(t, 0)
		p.answering("value of "+name, "secret", "set", name, "--project", name).want(t, 0)
	}
	p.run("machine", "create", "ci", "--project", "one:write", "--project", "two:write").want(t, 0)
	readOnly, ofOne := p.newToken("ci", "--read-only"), p.newToken("ci", "--project", "one")
	p.machine(readOnly, "secret", "get", "two").want(t, 0, "value of two")
	o, _ := p.in(p.asMachine(readOnly), "x", "secret", "set", "two")
	o.want(t, exitNotFound, "read-only")
	if got := p.ran(p.asMachine(ofOne), "--", os.Args[0]); !slices.Equal(got, []string{"one=value of one"}) {
		t.Errorf("a token of one project gets %q", got)
	}
	p.run("token", "list").want(t, 0, "good, read-only", "good, 1 project(s) only")
	p.run("token", "create", "--machine", "ci", "--name", "x", "--project", "three").want(t, exitNotFound, "three")

	// The organisation's policy, and what is usual within it.
	wantLife := func(want time.Duration, args ...string) {
		t.Helper()
		var created struct{ ExpireAt time.Time }
		p.run(append([]string{"token", "create", "--machine", "ci", "--name", "x", "--json"}, args...)...).want(t, 0).json(t, &created)
		if left := time.Until(created.ExpireAt); left < want-time.Hour || left > want {
			t.Errorf("%v: it is good for %s", args, left)
		}
	}
	wantLife(90 * day)
	p.run("org", "policy", "--max-token-lifetime", "400d").want(t, 0)
	wantLife(90 * day)
	p.run("org", "policy", "--max-token-lifetime", "30d").want(t, 0, "30d")
	p.newToken("ci", "--expires", "30d")
	wantLife(30 * day)
	for _, expires := range []string{"never", "31d"} {
		p.run("token", "create", "--machine", "ci", "--name", "x", "--expires", expires).want(t, exitUsage, "30 days")
	}
	wantLife(29*day, "--expires", "29d")
	p.run("org", "policy", "--max-token-lifetime", "none").want(t, 0, "none")
	p.newToken("ci", "--expires", "never")

	p.answering("no\n", "org", "policy", "--disable").want(t, exitDeclined)
	p.machine(ofOne, "project", "list").want(t, 0)
	p.run("org", "policy", "--disable", "--yes").want(t, 0, "disabled")
	p.machine(ofOne, "project", "list").want(t, exitFailed, "disabled")
	p.run("org", "policy", "--enable").want(t, 0, "enabled")
	p.machine(ofOne, "project", "list").want(t, 0)

	// All of them were made just now.
	if got := p.run("token", "list", "--unused", "1h", "--json").want(t, 0); got.out != "[]\n" {
		t.Errorf("unused for an hour are %s", got.out)
	}
	for _, args := range [][]string{{"org", "policy"}, {"org", "policy", "--enable", "--disable"}, {"org", "policy", "--max-token-lifetime", "soon"}} {
		p.run(args...).want(t, exitUsage)
	}
}

func TestGrantsAreChangedOneByOne(t *testing.T) {
	p := founded(t)
	for _, name := range []string{"one", "two:write"} {
		p.run("project", "create", name).want(t, 0)
	}
	two := p.run("project", "show", "two:write", "--json").id(t)
	p.run("machine", "create", "ci", "--project", "one").want(t, 0)
	p.run("machine", "grant", "ci", two).want(t, 0, "one (read)", "two:write (read)")
	p.run("machine", "grant", "ci", "one:write", two+":read").want(t, 0, "one (read, write)", "two:write (read)")
	if got := p.run("machine", "ungrant", "ci", two).want(t, 0); strings.Contains(got.out, two) {
		t.Errorf("it is still granted: %s", got.out)
	}
	p.run("machine", "ungrant", "ci", two).want(t, exitNotFound)
	p.run("machine", "grant", "ci", "one", "one:write").want(t, exitUsage, "twice")
	if o := p.run("machine", "grant", "ci", "three").want(t, exitNotFound, `"three"`); strings.Contains(o.err, ":write") {
		t.Errorf("it tells of rights where none were given: %s", o.err)
	}
	p.run("machine", "grant", "ci", "one:wrte").want(t, exitNotFound, `"one:wrte"`, "PROJECT:read or PROJECT:write")
	p.run("machine", "create", "other", "--project", two+":wrte").want(t, exitNotFound, "PROJECT:read or PROJECT:write")
	p.run("machine", "show", "other").want(t, exitNotFound)
	p.run("machine", "grant", "nobody", "one").want(t, exitNotFound, `"nobody"`)
	p.run("machine", "show", uuid.NewString()).want(t, exitNotFound)
	first := p.run("machine", "show", "ci", "--json").id(t)
	p.run("machine", "create", " ci ").want(t, 0, `there is another machine account "ci", `+first)
	p.run("machine", "show", "ci").want(t, exitUsage, "several of them")
	p.run("machine", "rename", first, "ci").want(t, 0, `there is another machine account "ci"`)
	var machines []struct{ ID, Name string }
	p.run("machine", "list", "--json").want(t, 0).json(t, &machines)
	p.run("machine", "list").want(t, 0, "NAME", machines[0].ID, machines[1].ID)
	p.run("machine", "rename", machines[0].ID, "build").want(t, 0, "build")
	p.run("machine", "show", "build", "--json").want(t, 0, machines[0].ID)
	p.answering("\n", "machine", "delete", "build").want(t, exitDeclined)
	p.answering("yes\n", "machine", "delete", "build").want(t, 0, machines[0].ID)
	p.run("machine", "show", "build").want(t, exitNotFound)

	one := p.run("project", "show", "one", "--json").id(t)
	if o := p.run("project", "rename", "one", "uno").want(t, 0, "uno"); o.err != "" {
		t.Errorf("it tells of another one: %s", o.err)
	}
	uno := p.run("project", "create", "uno", "--json").want(t, 0, `there is another project "uno", `+one).id(t)
	p.run("project", "rename", uno, "two:write").want(t, 0, `there is another project "two:write", `+two)
	p.run("project", "delete", uno, "--yes").want(t, 0)
	p.run("project", "list").want(t, 0, "uno", "two:write")
	p.answering("", "project", "delete", "uno").want(t, exitDeclined)
	p.run("project", "delete", "uno", "--yes").want(t, 0)
	p.run("project", "show", "uno").want(t, exitNotFound)
	p.run("project", "create", " ").want(t, exitUsage, "empty")
}

func TestSecretsAreWrittenReadAndBroughtBack(t *testing.T) {
	p := founded(t)
	p.run("project", "create", "production").want(t, 0)
	get := func(want string, args ...string) {
		t.Helper()
		if got := p.run(append([]string{"secret", "get"}, args...)...).want(t, 0); got.out != want {
			t.Errorf("%v is %q, want %q", args, got.out, want)
		}
	}
	p.answering("first\r\n", "secret", "set", "KEY", "--project", "production").want(t, 0, "created")
	get("first", "KEY")
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("-----BEGIN\nend\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p.run("secret", "set", "KEY", "--value-file", file, "--note", "a note").want(t, 0, "changed")
	get("-----BEGIN\nend\n", "KEY")
	p.run("secret", "set", "KEY", "--keep-value", "--note", "another").want(t, 0, "changed")
	get("another", "KEY", "--field", "note")
	get("KEY", "KEY", "--field", "key")
	var whole struct {
		ID, Key, Value, Note string
		Projects             []struct{ Name string }
	}
	p.run("secret", "get", "KEY", "--json").want(t, 0).json(t, &whole)
	if whole.Value != "-----BEGIN\nend\n" || whole.Note != "another" || len(whole.Projects) != 1 || whole.Projects[0].Name != "production" {
		t.Errorf("the secret is %+v", whole)
	}

	// The former value, and only a changed value makes one.
	var versions []struct{ ID, Value string }
	p.run("secret", "versions", "KEY", "--json", "--show-values").want(t, 0).json(t, &versions)
	if len(versions) != 1 || versions[0].Value != "first" {
		t.Fatalf("the versions are %+v", versions)
	}
	if got := p.run("secret", "versions", "KEY").want(t, 0, "WRITTEN", versions[0].ID); strings.Contains(got.out, "first") || strings.Contains(got.out, "VALUE") {
		t.Errorf("a value is shown: %s", got.out)
	}
	p.run("secret", "versions", "KEY", "--restore", versions[0].ID).want(t, 0)
	get("first", "KEY")
	p.run("secret", "versions", "KEY", "--show-values").want(t, 0, "VALUE, QUOTED", `"-----BEGIN\nend\n"`)

	// The trash.
	named := "Secret KEY (" + whole.ID + ")"
	p.answering("\n", "secret", "delete", "KEY").want(t, exitDeclined, named+" is moved into the trash")
	p.answering("\n", "secret", "delete", whole.ID).want(t, exitDeclined, named+" is moved into the trash")
	p.run("secret", "delete", "KEY", "--yes").want(t, 0, named+" is in the trash for 30 days")
	p.run("secret", "get", "KEY").want(t, exitNotFound)
	p.run("secret", "get", whole.ID).want(t, exitNotFound)
	trash := p.run("secret", "trash").want(t, 0, "DELETED", "GONE FOR EVER", "KEY", whole.ID)
	if strings.Contains(trash.out, "unknown") {
		t.Errorf("the trash does not tell when:\n%s", trash.out)
	}
	p.run("secret", "restore", "KEY").want(t, 0, named+" is restored")
	get("first", "KEY")
	p.run("secret", "restore", "KEY").want(t, exitNotFound, `there is no secret "KEY" in the trash`)
	p.run("secret", "delete", whole.ID, "--yes", "--json").want(t, 0, `"deleted"`, whole.ID)
	p.run("secret", "delete", whole.ID, "--yes").want(t, exitNotFound, "delete secrets")
	p.run("secret", "restore", whole.ID).want(t, 0, named+" is restored")
	p.run("secret", "delete", whole.ID, "--yes").want(t, 0, named+" is in the trash")
	p.answering("\n", "secret", "purge", "KEY").want(t, exitDeclined)
	p.run("secret", "purge", "KEY", "--yes").want(t, 0, named+" is purged")
	p.run("secret", "trash", "--json").want(t, 0, "[]")

	for name, c := range map[string]struct {
		input string
		args  []string
	}{
		"no value":                 {"", []string{"KEY"}},
		"only the end of a line":   {"\n", []string{"KEY"}},
		"no text":                  {"\xff\x00\xfe", []string{"KEY"}},
		"far too much":             {strings.Repeat("x", longestValue+1), []string{"KEY"}},
		"too much":                 {strings.Repeat("x", 25001), []string{"KEY"}},
		"no such file":             {"", []string{"KEY", "--value-file", "/nowhere/file"}},
		"a value that is kept":     {"", []string{"KEY", "--keep-value"}},
		"a value and a kept value": {"", []string{"KEY", "--keep-value", "--note", "x", "--value-file", file}},
	} {
		t.Run(name, func(t *testing.T) {
			p.answering(c.input, append([]string{"secret", "set"}, c.args...)...).want(t, exitUsage)
		})
	}
	p.run("secret", "set", "KEY", "--keep-value", "--note", "x").want(t, exitNotFound)
	p.answering("x", "secret", "set", "KEY", "--project", "nowhere").want(t, exitNotFound)
	p.run("secret", "get", "KEY", "--field", "colour").want(t, exitNotFound)
	p.answering("x", "secret", "set", "KEY").want(t, 0)
	p.run("secret", "get", "KEY", "--field", "colour").want(t, exitUsage, "colour")
}

func TestEverythingIsExportedAndImported(t *testing.T) {
	p := founded(t)
	p.run("project", "create", "production").want(t, 0)
	p.answering("the value", "secret", "set", "KEY", "--project", "production", "--note", "n").want(t, 0)
	dir := t.TempDir()
	sealed, readable := filepath.Join(dir, "sealed.json"), filepath.Join(dir, "readable.json")
	p.run("secret", "export", sealed).want(t, 0, "1 project(s) and 1 secret(s)")
	p.run("secret", "export", sealed).want(t, exitFailed, "exists")
	p.answering("\n", "secret", "export", "--decrypt", readable).want(t, exitDeclined)
	p.run("secret", "export", "--decrypt", "--yes", readable).want(t, 0)
	for path, has := range map[string]bool{sealed: false, readable: true} {
		content, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err != nil || statErr != nil || info.Mode().Perm() != 0o600 || strings.Contains(string(content), "the value") != has {
			t.Errorf("%s: %v %v %s", path, err, statErr, content)
		}
	}
	o := p.run("secret", "export", "-").want(t, 0, `"secrets"`)
	if strings.Contains(o.out, "the value") {
		t.Error("readable without --decrypt")
	}

	// Back into the same organisation, and, readable, into another one.
	p.run("secret", "import", sealed).want(t, exitDeclined, "1 project(s) and 1 secret(s) have names that exist already, and will be there twice unless they come from an earlier import of this same file.", "--yes")
	p.answering("no\n", "secret", "import", "--decrypted", readable).want(t, exitDeclined, "1 project(s) and 1 secret(s) have names that exist already, and will be there twice.")
	p.run("project", "show", "production").want(t, 0)
	p.answering(o.out, "secret", "import", "--yes", "-").want(t, 0, "1 project(s) and 1 secret(s) are imported.")
	// What of the file is there already is not called imported.
	p.answering(o.out, "secret", "import", "--yes", "-").want(t, 0, "0 project(s) and 0 secret(s) are imported.", "1 project(s) and 1 secret(s) were there already.")
	var counts map[string]int
	p.answering(o.out, "secret", "import", "--yes", "-", "--json").want(t, 0).json(t, &counts)
	if counts["secrets"] != 1 || counts["existingSecrets"] != 1 || counts["existingProjects"] != 1 {
		t.Errorf("it counts %v", counts)
	}
	p.run("secret", "import", readable).want(t, exitUsage)
	p.run("secret", "import", "--decrypted", sealed).want(t, exitUsage, "encrypted already")
	p.answering("{", "secret", "import", "-").want(t, exitUsage, "not JSON")
	var listed []struct{ ID string }
	p.run("secret", "list", "--json").want(t, 0).json(t, &listed)
	if len(listed) != 2 {
		t.Errorf("there are %d secrets", len(listed))
	}
	// What the questions say is so: an encrypted file adds nothing a second time,
	// and a readable one does.
	for _, c := range []struct {
		args []string
		want int
	}{{[]string{sealed}, 2}, {[]string{"--decrypted", readable}, 3}, {[]string{"--decrypted", readable}, 4}, {[]string{sealed}, 4}} {
		var after []struct{ ID string }
		p.run(append([]string{"secret", "import", "--yes"}, c.args...)...).want(t, 0)
		p.run("secret", "list", "--json").want(t, 0).json(t, &after)
		if len(after) != c.want {
			t.Errorf("after import of %v there are %d secrets, want %d", c.args, len(after), c.want)
		}
	}
	other := p.manager.operator(t)
	other.run("org", "create").want(t, 0)
	other.run("secret", "import", sealed).want(t, exitUsage)
	if o := other.run("secret", "import", "--decrypted", readable).want(t, 0); strings.Contains(o.err, "exist already") {
		t.Errorf("it asks where no name exists: %s", o.err)
	}
	if got := other.run("secret", "get", "KEY", "--project", "production").want(t, 0); got.out != "the value" {
		t.Errorf("in the other organisation it is %q", got.out)
	}
	p.run("secret", "get", listed[0].ID).want(t, 0, "the value")
	other.run("secret", "get", listed[0].ID).want(t, exitNotFound)
}

func TestTheTrashTellsUntilWhenASecretCanBeRestored(t *testing.T) {
	deleted := time.Date(2026, 11, 1, 10, 0, 0, 0, time.UTC)
	heads := []smclient.Head{{ID: "a", Key: "KEY", Deleted: &deleted}, {ID: "b", Key: "OLD"}}
	var out strings.Builder
	r := &remote{terminal: &terminal{out: &out}}
	if err := r.printTrash(heads, nil); err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(out.String(), "\n")
	if len(lines) != 4 || !strings.Contains(lines[1], "2026-11-01 10:00 UTC  2026-12-01 10:00 UTC") || !strings.Contains(lines[2], "unknown") {
		t.Errorf("it prints\n%s", out.String())
	}
}
