# terok: build, test and measure. Works from a fresh clone; see docs/ for the user's pages.
#
#   make build    bin/terok, static
#   make test     unit tests, end-to-end tests in real rootless podman (scripts/rootless), attack
#                 tests in an internet of their own (scripts/world; needs root)
#   make test-agents  every agent, the real programs; AGENT=codex for one
#   make demo     see all of it
#   make man      bin/man/*.1 and bin/completion/*, from the command table
#   make lint     gofmt, go vet, staticcheck
#   make fuzz     every fuzz target for FUZZTIME (30s) each, FUZZJOBS (2) at a time; PKG=./internal/git
#                 for one package
#   make bench    measurements, every sample printed; writes bench.json; BENCH=Start for one of them
#   make soak     addresses that change each second, for SOAK (10m); a thousand random pushes; needs root
#   make mutants  each guard removed in turn: its attack test must fail; MUTANTS="-j 4 dns proxy" for
#                 some of them (go run ./test/mutants -h)
SHELL      := /bin/bash
.SHELLFLAGS = -euo pipefail -c
.DELETE_ON_ERROR:

FUZZTIME ?= 30s
FUZZJOBS ?= 2
PKG      ?= ./...
MUTANTS  ?=
BENCH    ?= .
SOAK     ?= 10m
TESTARGS ?=
AGENT    ?=
# Packages that run in the world only; outside of it they fail.
world     := terok/test/world/inside terok/test/attack terok/test/e2e/egress
elsewhere  = $(filter-out $(world),$(shell go list ./test/...))
export CGO_ENABLED = 0

version := $(shell git describe --tags --always --dirty 2>/dev/null || echo 0.0.0-dev)
commit  := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
date    := $(shell git log -1 --format=%cd --date=format:%Y-%m-%dT%H:%M:%SZ 2>/dev/null || echo unknown)
ldflags := -s -w -X terok/internal/version.Version=$(version) -X terok/internal/version.Commit=$(commit) -X terok/internal/version.Date=$(date)

.PHONY: all build test setup unit e2e attack soak demo lint fuzz bench mutants test-agents leftovers man clean
all: build

build:
	@command -v go >/dev/null || { echo "Go 1.26 is needed to build terok: https://go.dev/dl/" >&2; exit 1; }
	go build -trimpath -buildvcs=false -ldflags '$(ldflags)' -o bin/terok ./cmd/terok

# What tests need is installed before the first of them.
test: setup unit e2e
	@if [ "$$(id -u)" = 0 ]; then $(MAKE) --no-print-directory attack && echo "ok: unit, end-to-end and attack tests passed"; \
	else echo "ok: unit and end-to-end tests passed. NOT RUN: the attack tests need a network of their own: sudo make attack"; fi

setup:
	scripts/rootless setup

unit:
	go test $(TESTARGS) $$(go list ./... | grep -v '^terok/test/') ./test/mutants

# The base image first, so that its download is no test's. Two packages at a time: they share one
# podman store and two cores.
e2e: build
	scripts/rootless setup
	scripts/rootless base
	scripts/rootless run -- go test -count=1 -timeout 20m -p 2 $(TESTARGS) $(elsewhere)

# In the internet of test/world, as root; one package at a time: the world is one.
attack: build
	scripts/rootless base
	scripts/world run -- go test -count=1 -timeout 20m -p 1 $(TESTARGS) $(world)

soak: build
	TEROK_SOAK=$(SOAK) go test -count=1 -timeout 60m -run TestModel ./internal/gate/server -rapid.checks=1000
	scripts/world run -- env TEROK_SOAK=$(SOAK) go test -count=1 -v -timeout 60m -run TestRotatingAddresses ./test/attack

demo: build
	scripts/rootless run -- bin/terok demo

lint:
	@unformatted=$$(gofmt -l $$(git ls-files '*.go')); \
	if [ -n "$$unformatted" ]; then echo "gofmt -w $$unformatted" >&2; exit 1; fi
	go vet ./... && go vet -tags agents ./test/tasks
	go tool staticcheck ./...

# One target after the other, FUZZJOBS at a time; a failure is printed whole and stops no other.
fuzz:
	@go list -f '{{.ImportPath}} {{.Dir}}' $(PKG) | while read -r package dir; do \
	  { grep -hoE '^func Fuzz[A-Za-z0-9_]+' "$$dir"/*_test.go 2>/dev/null || true; } | awk -v p="$$package" '{ print p, $$2 }'; \
	done | xargs -r -L 1 -P $(FUZZJOBS) bash -c 'out=$$(go test -run "^$$" -parallel 1 -fuzz "^$$1\$$" -fuzztime $(FUZZTIME) "$$0" 2>&1) || rc=1; \
	  echo "$$0 $$1: $$(grep -o "execs: [0-9]*" <<<"$$out" | tail -1)"; [ -z "$${rc:-}" ] || { echo "$$out"; exit 1; }'

bench: build
	scripts/rootless base
	scripts/rootless run -- go test -run '^$$' -bench '$(BENCH)' -benchtime 1x -count=1 -timeout 60m ./test/bench/...

mutants: build
	scripts/rootless base
	go run ./test/mutants $(MUTANTS)

# Every agent that terok installs, the real ones, against the scripted provider; needs the npm
# registry and about 2.5 GB. AGENT=codex for one of them.
test-agents: build
	scripts/rootless base
	scripts/rootless run -- go test -tags agents -count=1 -timeout 40m -v -run '^TestAgents/^$(AGENT)' $(TESTARGS) ./test/tasks

leftovers:
	scripts/rootless run -- scripts/leftovers

man:
	@TEROK_DATE=$(date) go run -ldflags '$(ldflags)' ./cmd/terok-man bin
	@echo "$$(ls bin/man | wc -l) man pages in bin/man, completions in bin/completion"

clean:
	rm -rf bin
