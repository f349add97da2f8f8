# What there is to do here: make help. Go and make are enough for run, build
# and test.

GO       ?= go
TOOLS    := $(CURDIR)/bin/tools
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
SECONDS_OF_FUZZ ?= 300

# Tools that are no part of the module, pinned.
BUF         := $(TOOLS)/buf-1.75.0
STATICCHECK := $(TOOLS)/staticcheck-0.8.2

# The race detector needs a C compiler.
RACE := $(if $(shell command -v "$$($(GO) env CC)" 2>/dev/null),-race,)

.DEFAULT_GOAL := help
.PHONY: help run build test check generate generated bench bench-idle fuzz \
	nemesis-short nemesis test-stores test-web deps clean FORCE

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[1m%-14s\033[0m %s\n", $$1, $$2 }' Makefile

run: build ## build and start a complete chat service on 127.0.0.1 (ARGS="--listen …")
	bin/troupe serve $(ARGS)

build: bin/troupe ## leave the binary at bin/troupe

bin/troupe: FORCE
	$(GO) build -trimpath -ldflags "-X main.version=$(VERSION)" -o $@ ./cmd/troupe

test: ## every test that runs within one process, with the race detector
	@[ -n "$(RACE)" ] || echo "There is no C compiler: without the race detector. 'make deps' tells what is missing."
	$(GO) test $(RACE) -timeout 10m $$($(GO) list ./... | grep -v /internal/nemesis)

check: generated $(STATICCHECK) ## format, vet, lint, who imports whom, stale generated code, fuzz targets
	scripts/format
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(GO) test -count 1 -run '^(TestImports|TestJudge)$$' .
	$(GO) test -list '^Fuzz' ./... > /dev/null

generate: $(BUF) ## make messages/*.pb.go from messages/*.proto
	$(BUF) generate

generated: $(BUF)
	scripts/generated $(BUF)

bench: build ## Go benchmarks, then the server beside the relay over real sockets (BENCH="--parts pairs")
	$(GO) test -run '^$$' -bench . -benchmem ./...
	$(GO) run ./internal/load/cmd/bench --server-bin bin/troupe $(BENCH)

bench-idle: build ## memory of 10,000 idle connections
	$(GO) run ./internal/load/cmd/bench --server-bin bin/troupe --relay=false --parts idle $(BENCH)

fuzz: ## every fuzz target, SECONDS_OF_FUZZ (300) in all
	scripts/fuzz $(SECONDS_OF_FUZZ)

nemesis-short: ## attacks on real server processes, a few rounds
	@echo "Covers one node. There are no several nodes yet, and so no partitions."
	$(GO) test -count 1 -timeout 15m -v ./internal/nemesis

nemesis: ## the same, whole: needs root and loop devices
	@echo "Covers one node. There are no several nodes yet, and so no partitions."
	$(GO) test -count 1 -timeout 45m -v -tags nemesis ./internal/nemesis

test-stores: ## the suite that every store passes
	@echo "Covers the embedded store and what is kept in the process. CQL, Redis and S3 are not built yet."
	$(GO) test $(RACE) -count 1 -timeout 10m ./persistence/...

test-web: ## what browsers get
	@echo "Covers the page at / and the operators' page. The web client is not built yet."
	$(GO) test $(RACE) -count 1 -run 'Page|Origin' ./gateway ./gateway/console

deps: ## what tests need of the machine beyond Go, and how to get it
	scripts/deps

clean: ## remove what was built
	rm -rf bin

$(BUF):
	scripts/tool $@ github.com/bufbuild/buf/cmd/buf@v1.75.0

$(STATICCHECK):
	scripts/tool $@ honnef.co/go/tools/cmd/staticcheck@v0.8.2

FORCE:
