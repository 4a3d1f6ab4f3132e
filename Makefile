# Two commands do everything on a fresh machine with Go and a C compiler:
#   go run ./cmd/sealtap demo     the main job, on the embedded default
#   make test                     all tests

GO ?= go
VERSION ?= devel
FUZZTIME ?= 20s
GOBIN := $(shell $(GO) env GOPATH)/bin
LINT_VERSION := v2.15.0
BUF_VERSION := v1.75.0
PROTOC_GEN_GO_VERSION := v1.36.11
PROTOC_GEN_CONNECT_GO_VERSION := v1.21.0

.PHONY: build check test unit race interop crash crash-proxy cluster soak bitflips lint fuzz bench bench-growth vectors proto demo

build:
	$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o sealtap ./cmd/sealtap

# Quick: format, vet, lint, short tests.
check: lint
	$(GO) test -short ./...

# Everything, as CI runs it: all tests with the race detector, then other
# people's programs against ours.
test: race interop

unit:
	$(GO) test ./...

race:
	$(GO) run ./scripts/gotest -race -timeout 20m ./...

# A module of its own, so that the peers stay out of ours. Never from the cache, which
# knows nothing of files outside the module.
interop:
	cd interop && $(GO) vet ./... && $(GO) run ../scripts/gotest -count=1 -timeout 15m ./...

# Kills the log at every step of the order of durability, ROUNDS times, a witness and a
# monitor as often, and has the disk under SQLite fail at every step; some minutes. make test
# does less of all.
ROUNDS ?= 200
crash:
	$(GO) test -count=6 -timeout 30m -run 'DiskFails|SyncFails' ./storage/sqlite
	cd interop && $(GO) test -count=1 -timeout 60m -v -run '^Test(Crash|WitnessKilled|MonitorKilled)$$' ./crash -rounds $(ROUNDS)

# Kills, pauses and cuts off the parts of a log on Trillian, FAULTS times; three to
# seven seconds each. Before, a log of 70,000 entries on it is compared with the same on SQLite.
# make test does less of both. It needs PostgreSQL.
FAULTS ?= 50
cluster:
	cd interop && SEALTAP_REQUIRE_CLUSTER=1 $(GO) test -count=1 -timeout 60m -v -run '^Test(Equal|Faults)$$' ./trillian -rounds $(FAULTS) -entries 70000

# Kills the proxy under load, at random moments and at the steps of its spool.
PROXY_ROUNDS ?= 100
crash-proxy:
	cd interop && $(GO) test -count=1 -timeout 30m -v -run '^TestCrashProxy$$' ./crash -rounds $(PROXY_ROUNDS)

# The whole stack under steady load; fails if memory, descriptors or disk grow.
SOAK ?= 15m
soak:
	cd interop && $(GO) run ./soak -for $(SOAK)

# Flips every bit of the small files that an auditor is handed, and FLIPS bits of the
# large ones of each kind; hours. KIND="wal bundle" flips those kinds alone. make test
# flips a sample.
FLIPS ?= 50000
KIND ?=
SEED ?= 20261124
bitflips:
	SEALTAP_BITFLIPS_KIND="$(KIND)" $(GO) test -count=1 -timeout 24h -v -run '^TestBitFlips$$' ./cmd/sealtap -bitflips $(FLIPS) -bitflips.seed $(SEED)

lint: $(GOBIN)/golangci-lint
	@test -z "$$(gofmt -l .)" || { echo "not formatted:"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GOBIN)/golangci-lint run ./...

$(GOBIN)/golangci-lint:
	$(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(LINT_VERSION)

# Each fuzz target for FUZZTIME. By default a minute of it could go into making
# one finding small.
fuzz:
	@for pkg in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz'); do \
	    echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s $$pkg || exit 1; \
	  done; done

# Against the peers, interleaved in one run; a few minutes.
bench:
	cd interop && $(GO) run ./bench

# A log of 10 M entries, and how each figure moves on the way; ten minutes.
bench-growth:
	cd interop && $(GO) run ./bench -rows growth -rounds 3

# Golden values, from an implementation that shares no code with ours.
vectors:
	python3 scripts/vectors.py > record/testdata/vectors.json

proto: $(GOBIN)/buf $(GOBIN)/protoc-gen-go $(GOBIN)/protoc-gen-connect-go
	cd proto && PATH="$(GOBIN):$$PATH" buf lint && PATH="$(GOBIN):$$PATH" buf generate

$(GOBIN)/buf:
	$(GO) install github.com/bufbuild/buf/cmd/buf@$(BUF_VERSION)

$(GOBIN)/protoc-gen-go:
	$(GO) install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)

$(GOBIN)/protoc-gen-connect-go:
	$(GO) install connectrpc.com/connect/cmd/protoc-gen-connect-go@$(PROTOC_GEN_CONNECT_GO_VERSION)

demo:
	$(GO) run ./cmd/sealtap demo
