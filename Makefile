# Two commands on a fresh machine: `make run` (needs Go) and `make test`
# (installs what it needs). `make help` lists the rest.

export SAM_CLI_TELEMETRY = 0

VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.0.0-dev)
PKG       := github.com/latchkey-fn/latchkey
LDFLAGS   := -s -w -buildid= -X $(PKG)/shared/buildinfo.Version=$(VERSION)
FLAGS     := -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'
BUILD     := CGO_ENABLED=0 go build $(FLAGS)
LAMBDA    := CGO_ENABLED=0 go build $(FLAGS) -tags lambda.norpc
CACHE     := $(or $(LATCHKEY_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/latchkey)

# Linters run at these versions, built from source into the cache.
STATICCHECK   := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI      := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.8.0
VULNDB        ?= $(wildcard ../shared/vulndb.tar.gz)

.DEFAULT_GOAL := help
.PHONY: help
help: ## show this
	@awk -F ':.*## ' '/^[a-zA-Z0-9_-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- run ---------------------------------------------------------------------

.PHONY: build run run-lambda
build: ## build bin/latchkey, and with a C compiler its PKCS#11 helper
	$(BUILD) -o bin/latchkey ./local/latchkey
	@if command -v $${CC:-cc} >/dev/null 2>&1; then $(MAKE) --no-print-directory bin/latchkey-pkcs11; \
	else echo 'no C compiler: bin/latchkey-pkcs11 is not built, and --keys softhsm will say so'; fi

.PHONY: bin/latchkey-pkcs11
bin/latchkey-pkcs11:
	CGO_ENABLED=1 go build $(FLAGS) -o $@ ./providers/keys/pkcs11/helper

run: ## build and run everything on this machine (ARGS='--store dynamodb …')
	$(BUILD) -o bin/latchkey ./local/latchkey
	$(if $(findstring softhsm,$(ARGS)),@$(MAKE) --no-print-directory bin/latchkey-pkcs11)
	@exec bin/latchkey up $(ARGS)

run-lambda: ## the same with the real Lambda binaries under a Lambda runtime
	@for f in $(FUNCTIONS); do $(LAMBDA) -o bin/lambda/$$f/bootstrap ./functions/$$f/aws || exit 1; done
	@$(MAKE) --no-print-directory run ARGS='--lambda $(ARGS)'

# ---- test --------------------------------------------------------------------

.PHONY: quick test race fuzz bench
quick: ## first stage: Go alone
	go test -short -timeout 5m ./...

test: ## both stages: installs real servers and tools, and runs everything
	@local/testenv/install
	go vet ./...
	@test -z "$$(gofmt -l .)" || { echo 'not formatted:'; gofmt -l .; exit 1; }
	go test -count=1 -timeout 25m ./...

race: ## the first stage under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race -short -timeout 15m ./...

FUZZTIME ?= 20s
fuzz: ## every fuzz test for FUZZTIME
	@grep -rl --include='*_test.go' '^func Fuzz' . | while read -r f; do \
	  for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\).*/\1/p' $$f); do \
	    echo "$$name ($$(dirname $$f))"; go test -run '^$$' -fuzz "^$$name$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 5x ./$$(dirname $$f) || exit 1; \
	  done; done

bench: ## the budgets, as ratios made in one run
	go run ./local/bench

# ---- lint --------------------------------------------------------------------

.PHONY: lint vuln
lint: ## go vet, staticcheck, golangci-lint
	go vet ./...
	go run $(STATICCHECK) ./...
	go run $(GOLANGCI) run ./...

vuln: ## govulncheck (VULNDB=file.tar.gz for a local database)
	@if [ -n "$(VULNDB)" ]; then mkdir -p '$(CACHE)/vulndb' && tar -xzf '$(VULNDB)' -C '$(CACHE)/vulndb' && \
	  go run $(GOVULNCHECK) -db "file://$(CACHE)/vulndb" ./...; else go run $(GOVULNCHECK) ./...; fi

# ---- AWS ---------------------------------------------------------------------

FUNCTIONS := keyconnector tokenexchange tokenrevoke machineaccounts secrets sponsorships billingsync
SAM_BUILDS := build-KeyConnectorFunction build-TokenExchangeFunction build-TokenRevokeFunction \
              build-MachineAccountsFunction build-SecretsFunction \
              build-SponsorshipsFunction build-BillingSyncFunction

.PHONY: lambda $(SAM_BUILDS)
# `sam build` calls build-<LogicalId> with ARTIFACTS_DIR.
build-KeyConnectorFunction:    FUNCTION = keyconnector
build-TokenExchangeFunction:   FUNCTION = tokenexchange
build-TokenRevokeFunction:     FUNCTION = tokenrevoke
build-MachineAccountsFunction: FUNCTION = machineaccounts
build-SecretsFunction:         FUNCTION = secrets
build-SponsorshipsFunction:    FUNCTION = sponsorships
build-BillingSyncFunction:     FUNCTION = billingsync
$(SAM_BUILDS):
	GOOS=linux GOARCH=arm64 $(LAMBDA) -o '$(ARTIFACTS_DIR)/bootstrap' ./functions/$(FUNCTION)/aws

LAMBDA_OUT ?= bin/lambda-arm64
lambda: ## build the arm64 Lambda binaries into bin/lambda-arm64
	@for f in $(FUNCTIONS); do GOOS=linux GOARCH=arm64 $(LAMBDA) -o $(LAMBDA_OUT)/$$f/bootstrap ./functions/$$f/aws || exit 1; done

.PHONY: clean
clean: ## remove what was built
	rm -rf bin .aws-sam
