# The verbs. Each installs the Debian packages that it needs (scripts/deps.sh: needs root or sudo only when some are
# missing, NATRP_DEPS=skip to leave packages alone) and is one line over a script that can also be run by hand.
#
#   BUILD=dir         where `build`, `test`, `demo` and the benches build (default: build)
#   JOBS=n            compilers at once (default: one per CPU)
#   FUZZ_SECONDS=n    for each fuzz target (default: 30)
#   BENCH_ARGS=…      more arguments for the bench

BUILD ?= build
FUZZ_SECONDS ?= 30

# $(call ready,GROUP,OPTIONS): the packages of GROUP, and an up-to-date release build.
ready = bash scripts/deps.sh $(1) && bash scripts/build.sh $(BUILD) --buildtype=release $(2)
SANITIZE := --buildtype=debugoptimized -Db_lundef=false
# Without the check of vptr: before it looks at an object it asks by pipe(2) whether the memory is there, and takes a
# process that has no descriptor left, which some tests are about, for one that has lost its objects.
ASAN := $(SANITIZE) -Db_sanitize=address,undefined '-Dcpp_args=-fno-sanitize-recover=all -fno-sanitize=vptr'
TSAN := $(SANITIZE) -Db_sanitize=thread
# With fuzz, meson.build adds its own sanitizers.
FUZZ := $(SANITIZE) -Dfuzz=true
# Sanitized programs are slow: less data, longer deadlines.
REDUCED := NATRP_E2E_GIB=0.05 NATRP_E2E_PATIENCE=4

.DEFAULT_GOAL := help
.PHONY: build test demo bench bench-tunnel bench-check tidy asan tsan fuzz clean help

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

build: ## build/natrp-engine, build/natrp, build/natrpctl
	@$(call ready,build)

test: ## unit tests, end-to-end tests, and the tree's own checks
	@$(call ready,test) && scripts/run_tests.py --build $(BUILD)

demo: ## a real service through a real tunnel, from nothing, in a minute
	@NATRP_BUILD=$(BUILD) bash scripts/demo.sh

bench: ## the structures, with Google Benchmark
	@$(call ready,bench,-Dbench=true) && bash scripts/run_micro_benches.sh $(BUILD) $(BENCH_ARGS)

bench-tunnel: ## the whole tunnel beside its peers; results in bench/results/
	@$(call ready,bench,-Dbench=true) && bench/tunnel_bench.py --build $(BUILD) $(BENCH_ARGS)

bench-check: ## the regression gate: this build against bench/baseline.json
	@$(call ready,bench,-Dbench=true) && bench/bench_check.py --build $(BUILD) $(BENCH_ARGS)

tidy: ## the tree's own checks
	@bash scripts/deps.sh build && scripts/tidy.py

asan: ## the tests under AddressSanitizer and UndefinedBehaviorSanitizer, with less data
	@bash scripts/deps.sh test && bash scripts/build.sh build-asan $(ASAN) && \
	 $(REDUCED) scripts/run_tests.py --build build-asan --skip-tidy

tsan: ## the tests under ThreadSanitizer, with less data
	@bash scripts/deps.sh test && bash scripts/build.sh build-tsan $(TSAN) && \
	 $(REDUCED) scripts/run_tests.py --build build-tsan --skip-tidy

fuzz: ## every fuzz target for FUZZ_SECONDS
	@bash scripts/deps.sh fuzz && CC=clang CXX=clang++ bash scripts/build.sh build-fuzz $(FUZZ) && \
	 scripts/run_fuzz.py --build build-fuzz --seconds $(FUZZ_SECONDS)

clean: ## removes every build folder
	rm -rf $(BUILD) build-asan build-tsan build-fuzz
