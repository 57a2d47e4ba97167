package house

import (
	"bufio"
	"bytes"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/latchkey-fn/latchkey/"

// The import rule keeps the house one-way: host → function → domain →
// store and keyring → provider. What a test imports is not part of it.
func TestTheImportRule(t *testing.T) {
	for _, p := range packages(t) {
		for _, imported := range p.imports {
			if reason := forbidden(p.path, imported); reason != "" {
				t.Errorf("%s imports %s: %s", p.path, imported, reason)
			}
		}
	}
}

// What knows no cloud and no SQL links none, by whatever way.
func TestFunctionsAndSharedCodeLinkNoProvidersSDK(t *testing.T) {
	for _, p := range packages(t) {
		isFunction := strings.HasPrefix(p.path, "functions/") && strings.Count(p.path, "/") == 1
		if !isFunction && !strings.HasPrefix(p.path, "shared/") {
			continue
		}
		for _, sdk := range []string{"github.com/aws/", "modernc.org/", "cloud.google.com/", "github.com/Azure/", "github.com/miekg/pkcs11"} {
			for _, dependency := range p.deps {
				if strings.HasPrefix(dependency, sdk) {
					t.Errorf("%s links %s", p.path, dependency)
				}
			}
		}
	}
}

// A cloud's binary carries only its own cloud's code, no credential chain, and a
// function without a key no KMS client.
func TestAnAWSMainLinksNoOtherCloud(t *testing.T) {
	mains := 0
	for _, p := range packages(t) {
		function, isMain := strings.CutSuffix(p.path, "/aws")
		if !isMain || !strings.HasPrefix(function, "functions/") || function == "functions/internal" {
			continue
		}
		mains++
		foreign := []string{"cloud.google.com/", "github.com/Azure/", "modernc.org/", module + "providers/keys/software", module + "local/",
			"github.com/aws/aws-sdk-go-v2/config"}
		if function == "functions/tokenrevoke" || function == "functions/secrets" {
			foreign = append(foreign, module+"providers/keys/", "github.com/aws/aws-sdk-go-v2/service/kms")
		}
		for _, path := range foreign {
			if slices.ContainsFunc(p.deps, func(d string) bool { return strings.HasPrefix(d, path) }) {
				t.Errorf("%s links %s", p.path, path)
			}
		}
	}
	if mains < 5 {
		t.Errorf("only %d mains were looked at", mains)
	}
}

type goPackage struct {
	path    string
	imports []string // ours
	deps    []string // all, of others too
}

func packages(t *testing.T) []goPackage {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-f", "{{.ImportPath}} {{join .Imports \" \"}} : {{join .Deps \" \"}}", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	var all []goPackage
	lines := bufio.NewScanner(bytes.NewReader(out))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		p := goPackage{path: strings.TrimPrefix(fields[0], module)}
		colon := slices.Index(fields, ":")
		p.deps = fields[colon+1:]
		for _, imported := range fields[1:colon] {
			if own, ok := strings.CutPrefix(imported, module); ok {
				p.imports = append(p.imports, own)
			}
		}
		all = append(all, p)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if len(all) < 20 {
		t.Fatalf("only %d packages were listed", len(all))
	}
	return all
}

// forbidden says why a package may not import another of ours; "" if it may.
func forbidden(from, imported string) string {
	within := func(path, folder string) bool { return path == folder || strings.HasPrefix(path, folder+"/") }
	isMain := within(from, "functions/internal") || within(from, "functions") && (strings.HasSuffix(from, "/aws") || strings.HasSuffix(from, "/gcp") || strings.HasSuffix(from, "/azure"))
	switch {
	case within(from, "local"):
		return ""
	case within(imported, "local"):
		return "only local/ imports local/"
	case isMain:
		return ""
	case within(from, "shared") && !within(imported, "shared"):
		return "shared/ imports shared/ only"
	case within(from, "functions") && !within(imported, "shared"):
		return "a function imports shared/ only"
	case within(from, "providers"):
		provider := strings.Join(strings.SplitN(from, "/", 4)[:min(3, strings.Count(from, "/")+1)], "/")
		switch {
		case within(imported, provider), within(from, imported), imported == "shared/kms", imported == "shared/store", imported == "shared/fault":
			return ""
		}
		// One outside system with several services is one place to explain it.
		if isAWS := provider == "providers/keys/awskms" || provider == "providers/stores/dynamodb"; isAWS && imported == "providers/awsfault" {
			return ""
		}
		return "a provider imports shared/kms, shared/store and shared/fault only"
	}
	return ""
}
