# What a person runs and what CI runs is the same: `.ci/run` calls these targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help

VERSION   := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO_FILES   = $(shell find . -name '*.go' -not -path './.*/*' -not -path '*/node_modules/*')
GOLANGCI   = go tool -modfile=.ci/tools/go.mod golangci-lint
BENCHSTAT  = go tool -modfile=.ci/tools/go.mod benchstat

# What the tests need and the machine lacks is put here by `make tools`.
export PATH := $(CURDIR)/.tools/bin:$(PATH)

TESTFLAGS     ?=
MIN_COVERAGE  ?= 95.0
BENCH         ?= .
BENCH_COUNT   ?= 6
FUZZTIME      ?= 60s
UPFLAGS       ?=
CHAOSFLAGS    ?=
VLLMFLAGS     ?=
LOADFLAGS     ?=
SCENARIOS     ?=
NOTE          ?=
IMAGE         ?= hxp:$(VERSION)

##@ Run

.PHONY: up
up: build ## Build hxp and run everything in one process: broker, workers, simulated engines (UPFLAGS=...)
	exec bin/hxp up $(UPFLAGS)

.PHONY: build
build: ## Build bin/hxp: one static binary
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/hxp ./cmd/hxp

##@ Check

.PHONY: test
test: tools ## Run every test under the race detector (TESTFLAGS=-v)
	go test -race -timeout 10m $(TESTFLAGS) ./...

.PHONY: race
race: test ## The same as test

.PHONY: lint
lint: lint-go lint-config lint-asyncapi ## Run every linter; changes nothing

.PHONY: lint-go
lint-go: ## Lint the Go code: gofmt, go vet, golangci-lint, go mod tidy -diff
	@unformatted=$$(gofmt -l $(GO_FILES)); [[ -z $$unformatted ]] || { echo "gofmt -w these:"; echo "$$unformatted"; exit 1; }
	go vet ./...
	$(GOLANGCI) run --timeout 15m
	go mod tidy -diff

.PHONY: lint-config
lint-config: ## Check deploy/ with the programs that will read it
	go run github.com/nats-io/nats-server/v2 -t -c deploy/nats/nats-server.conf
	@if command -v systemd-analyze >/dev/null; then .ci/lint-systemd deploy/systemd/*.service; fi

.PHONY: lint-asyncapi
lint-asyncapi: ## Lint the AsyncAPI document (needs node)
	.ci/lint-asyncapi

.PHONY: cover
cover: tools ## Measure statement coverage of schemas, producer, workers and conversation; fail below MIN_COVERAGE
	.ci/cover $(MIN_COVERAGE)

.PHONY: e2e
e2e: tools ## Run the end-to-end tests against the real binary
	.ci/some-tests go test -run E2E -v -count=1 -timeout 10m ./cmd/hxp

.PHONY: chaos
chaos: tools ## Kill, freeze and restart every part under load, long form (CHAOSFLAGS='-seed 7 -duration 30m')
	.ci/some-tests go test -tags chaos -count=1 -v -timeout 2h ./loadtest/chaos -long $(CHAOSFLAGS)

.PHONY: chaos-short
chaos-short: tools ## The same in about two minutes
	.ci/some-tests go test -tags chaos -count=1 -v -timeout 15m ./loadtest/chaos $(CHAOSFLAGS)

.PHONY: test-vllm
test-vllm: tools ## Run hxp against real vLLM processes on this CPU; write docs/verification.md (VLLMFLAGS='-run /phi3')
	.ci/test-vllm $(VLLMFLAGS)

##@ Measure

.PHONY: bench
bench: ## Run the benchmarks BENCH_COUNT times and compare with the previous run (BENCH=regexp)
	@mkdir -p .bench; [[ ! -f .bench/new.txt ]] || mv .bench/new.txt .bench/old.txt
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count $(BENCH_COUNT) -timeout 60m ./... | tee .bench/new.txt
	@[[ ! -f .bench/old.txt ]] || $(BENCHSTAT) .bench/old.txt .bench/new.txt

.PHONY: bench-once
bench-once: ## Run each benchmark once, so that none rots
	go test -run '^$$' -bench . -benchtime 1x -timeout 10m ./...

.PHONY: loadtest
loadtest: build ## Compare a load through the queue with the same straight to the engine (LOADFLAGS='--rate 500')
	bin/hxp loadtest compare --up $(LOADFLAGS)

.PHONY: performance
performance: build ## Measure every scenario and write docs/performance.md (SCENARIOS='jobs batch', NOTE=...)
	NOTE='$(NOTE)' .ci/performance $(SCENARIOS)

.PHONY: fuzz
fuzz: ## Fuzz each target for FUZZTIME
	.ci/fuzz $(FUZZTIME)

.PHONY: fuzz-short
fuzz-short: ## Fuzz each target for five seconds
	.ci/fuzz 5s

.PHONY: size
size: build ## Measure the binary: size, start-up time, idle memory of a worker
	.ci/size

##@ Keep

.PHONY: tools
tools: ## Install what the tests need into .tools/: redis-server, unless it is on the PATH
	@.ci/install-redis

.PHONY: image
image: ## Build the container image (needs docker)
	docker build -f deploy/Dockerfile --build-arg VERSION=$(VERSION) -t $(IMAGE) .

.PHONY: clean
clean: ## Remove what was built and measured; keeps .tools/
	rm -rf bin dist .cover .bench .load

.PHONY: help
help: ## Print this
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
