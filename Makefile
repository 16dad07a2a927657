# The few commands people type. Build output stays outside the clone, below CACHE.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

CACHE ?= $(HOME)/.cache/skerry
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(CACHE)/bin:$(HOME)/.cargo/bin:$(PATH):/usr/sbin:/sbin
export SKERRY_BIN ?= $(CARGO_TARGET_DIR)/release/skerry
export SKERRY_CACHE_TESTS ?= $(CACHE)/http-cache-tests/node_modules/http-cache-tests
export SKERRY_SWIFT ?= $(CACHE)/swift
export SKERRY_PEERS ?= $(CACHE)/peers
export SKERRY_POLICY_MODULES ?= $(CARGO_TARGET_DIR)/wasm32-unknown-unknown/release

# Always the release profile and the whole workspace: cargo unifies the features of what it is
# asked to build, so another selection may want other features of a shared dependency and then
# builds RocksDB again, which takes 20 minutes on 2 cores.
ALL := --release --workspace

# The default policies. Only these are built for WASM.
POLICIES := $(addprefix -p skerry-,region-router preload-planner super-peer-scheduler)

AQUATIC := 0.9.0
NEXTEST := 0.9.143
DENY := 0.20.2
SUITE := 0.4.5
SWIFT := 2.38.3

# Of `make run`: what is cached (a sample folder when empty), and where it listens.
ORIGIN ?=
PORT ?= 8080
ADMIN_PORT ?= 9180

# Installs Debian packages whose probe finds nothing: PACKAGE=COMMAND, or PACKAGE=/PATH/PATTERN.
define install
missing=()
for wanted in $(1); do
    package=$${wanted%%=*} probe=$${wanted#*=}
    case $$probe in
        /*) compgen -G "$$probe" >/dev/null || missing+=("$$package") ;;
        *) command -v "$$probe" >/dev/null || missing+=("$$package") ;;
    esac
done
if (( $${#missing[@]} )); then
    echo "installing Debian packages: $${missing[*]}"
    root=(); (( EUID == 0 )) || root=(sudo)
    "$${root[@]}" apt-get update -q
    "$${root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$${missing[@]}"
fi
endef

include systemd/install.mk image/image.mk

.PHONY: help setup setup-test setup-lint setup-bench build policies run test lint lint-fast audit bench fuzz fuzz-test clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	echo "Build output is below $(CACHE); CACHE=... moves it."

setup: ## install what a build needs (Debian packages; only those that are missing)
	@$(call install, build-essential=g++ make=make mold=mold curl=curl pkg-config=pkg-config \
	    libclang-dev=/usr/lib/llvm-*/lib/libclang*.so* clang=/usr/lib/llvm-*/bin/clang)
	if ! command -v cargo >/dev/null; then
	    echo "Rust is missing: install it as https://rustup.rs says, then run this again" >&2
	    exit 1
	fi

setup-test: setup ## install what the tests need
	@$(call install, nginx=nginx wrk=wrk nodejs=node npm=npm e2fsprogs=mkfs.ext4 mount=mount \
	    util-linux=prlimit nftables=nft systemd=systemd-analyze fdisk=sfdisk dosfstools=mkfs.vfat mtools=mcopy iproute2=ss procps=pgrep python3-venv=/usr/lib/python3.*/ensurepip \
	    debootstrap=debootstrap python3-libtorrent=/usr/lib/python3/dist-packages/libtorrent*.so)
	# Those of Debian 12 stumble over hybrid torrents.
	if [[ ! -x $(SKERRY_PEERS)/usr/bin/transmission-cli ]]; then
	    echo "fetching aria2 and Transmission of Debian 13, BitTorrent clients of the tests"
	    root=(); (( EUID == 0 )) || root=(sudo)
	    mkdir -p $(CACHE)
	    "$${root[@]}" nice image/tools/tree $(SKERRY_PEERS) aria2 transmission-cli >$(CACHE)/peers.log 2>&1 ||
	        { tail -n 20 $(CACHE)/peers.log >&2; exit 1; }
	fi
	if [[ ! -f $(SKERRY_CACHE_TESTS)/cli.mjs ]]; then
	    echo "installing http-cache-tests $(SUITE) from npm"
	    mkdir -p $(CACHE)/http-cache-tests
	    npm install --silent --no-audit --no-fund --prefix $(CACHE)/http-cache-tests http-cache-tests@$(SUITE)
	fi
	if [[ ! -x $(SKERRY_SWIFT)/bin/swift-proxy-server ]]; then
	    echo "installing OpenStack Swift $(SWIFT) from PyPI, the S3 server of the tests"
	    /usr/bin/python3 -m venv $(SKERRY_SWIFT)
	    $(SKERRY_SWIFT)/bin/pip install --quiet --disable-pip-version-check swift==$(SWIFT)
	fi
	if ! cargo nextest --version >/dev/null 2>&1; then
	    echo "installing cargo-nextest $(NEXTEST)"
	    cargo install --locked --root $(CACHE) cargo-nextest@$(NEXTEST)
	fi

# Without its default features aquatic_udp has no Prometheus endpoint: the `metrics` crate that it locks is
# refused by today's compiler (rust-lang/rust#141402). Optimised when linked, so that it is as fast as it can be.
setup-bench: setup-test ## install what the benchmarks compare with
	@fresh=; command -v opentracker >/dev/null || fresh=yes
	$(call install, opentracker=opentracker)
	# Nobody has asked for a tracker that runs from now on.
	if [[ -n $$fresh && -d /run/systemd/system ]]; then "$${root[@]}" systemctl disable --now opentracker; fi
	export CARGO_PROFILE_RELEASE_LTO=thin
	if ! command -v aquatic_udp >/dev/null; then
	    echo "installing aquatic_udp $(AQUATIC)"
	    cargo install --locked --root $(CACHE) --no-default-features --features mimalloc aquatic_udp@$(AQUATIC)
	fi
	if ! command -v aquatic_udp_load_test >/dev/null; then
	    echo "installing aquatic_udp_load_test $(AQUATIC)"
	    cargo install --locked --root $(CACHE) aquatic_udp_load_test@$(AQUATIC)
	fi

setup-lint: setup
	@if ! cargo deny --version >/dev/null 2>&1; then
	    echo "installing cargo-deny $(DENY)"
	    cargo install --locked --root $(CACHE) cargo-deny@$(DENY)
	fi

build: setup ## build the node (the first time builds RocksDB too: 20 minutes on 2 cores)
	@cargo build $(ALL) --bins

run: build ## run a node on loopback in front of a sample folder, or of ORIGIN=https://...
	@sample=$(CACHE)/sample work=$(CACHE)/run
	mkdir -p "$$sample" "$$work"
	origin='$(ORIGIN)' path=
	if [[ -z $$origin ]]; then
	    origin=file://$$sample path=hello.txt
	    echo 'Hello from the edge.' >"$$sample/hello.txt"
	    echo '<!doctype html><title>Skerry</title><p>Hello from the edge. <a href="large.bin">64 MiB</a>' \
	        >"$$sample/index.html"
	    [[ -f $$sample/large.bin ]] || head -c 64M /dev/urandom >"$$sample/large.bin"
	fi
	printf '%s\n' >"$$work/skerry.toml" \
	    "# Written anew by every 'make run'; 'skerry config default' prints every key." \
	    '[node]' "data_dir = \"$$work/data\"" \
	    '[public]' 'listen = ["127.0.0.1:$(PORT)"]' \
	    '[admin]' 'listen = "127.0.0.1:$(ADMIN_PORT)"' \
	    '[sites.default]' "origin = \"$$origin\""
	printf '%s\n' '' "Caching $$origin; ctrl-c ends it. Three things to try in another terminal:" '' \
	    "  curl -sD- -o /dev/null http://127.0.0.1:$(PORT)/$$path    # twice: Cache-Status tells a miss, then a hit" \
	    "  curl -s http://127.0.0.1:$(ADMIN_PORT)/metrics | grep skerry_cache_requests_total" \
	    "  $(SKERRY_BIN) status --node http://127.0.0.1:$(ADMIN_PORT)" ''
	exec $(SKERRY_BIN) run --config "$$work/skerry.toml"

policies: setup ## build the default policies' modules
	@if [[ ! -d $$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown ]]; then
	    rustup target add wasm32-unknown-unknown
	fi
	cargo build --release --target wasm32-unknown-unknown $(POLICIES)

test: setup-test policies fuzz-test ## run every test
	@cargo build $(ALL) --bins
	cargo nextest run $(ALL)

lint-fast: setup
	@cargo fmt --all --check
	cargo clippy $(ALL) --all-targets -- -D warnings

lint: lint-fast setup-lint ## formatting, clippy, docs, and the walls of deny.toml
	@RUSTDOCFLAGS='-D warnings' cargo doc $(ALL) --no-deps
	cargo deny check bans licenses sources

audit: setup-lint ## known vulnerabilities of the dependencies (fetches RustSec's database)
	@cargo deny check advisories

bench: setup-bench policies ## the parts, and the node against nginx, libtorrent and trackers (half an hour, a quiet machine)
	@cargo build $(ALL) --bins
	cargo bench --workspace --bench layout --bench store --bench policy --bench selector --bench tracker \
	    --bench speed --bench peers --bench trackers

# Coverage counters as libFuzzer reads them, on the stable compiler; no address sanitizer, since nothing
# here is unsafe but what wasmtime does.
COUNTERS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
FUZZ_SECONDS ?= 60
CODECS := $(notdir $(basename $(wildcard tests/fuzz/codecs/src/bin/*.rs)))
FUZZ_TARGETS ?= $(CODECS) manifest loader

# Builds the fuzz targets and runs those named, two at a time. Each begins with the inputs of the repository
# and what it found before, and says in one line what it did; of one that fails the log is shown.
define fuzz
export FUZZ=$(CACHE)/fuzz
for package in skerry-fuzz-codecs $(if $(filter-out $(CODECS),$(1)),skerry-fuzz); do
    (cd tests/fuzz && CARGO_TARGET_DIR=$$FUZZ RUSTFLAGS='$(COUNTERS) --cfg fuzzing -Ccodegen-units=1' \
        cargo build --release --target x86_64-unknown-linux-gnu -p "$$package")
done
run() {
    kept=tests/fuzz/corpus/$$1 found=$$FUZZ/corpus/$$1 log=$$FUZZ/$$1.log
    program=$$FUZZ/x86_64-unknown-linux-gnu/release/$$1
    mkdir -p "$$found"
    [[ ! -d $$kept ]] || cp -r "$$kept/." "$$found"
    if ! "$$program" -max_total_time=$(FUZZ_SECONDS) -timeout=20 -artifact_prefix="$$FUZZ/$$1-" "$$found" \
        >"$$log" 2>&1; then
        sed '/^#/d' "$$log" | tail -n 40
        input=$$(sed -n 's/.*Test unit written to //p' "$$log")
        echo "fuzz $$1: failed; run it again with $$program $${input:-(no input was written)}"
        return 1
    fi
    last='^#([0-9]+)\s+DONE.* cov: ([0-9]+) .* corp: ([0-9]+)/(\S+) .*'
    sed -nE "s|$$last|fuzz $$1: \1 executions, coverage \2, \3 inputs of \4 in all|p" "$$log" | grep .
}
export -f run
printf '%s\n' $(1) | xargs -P 2 -I{} bash -eu -o pipefail -c 'run {}'
endef

fuzz: setup ## fuzz whatever reads bytes (FUZZ_SECONDS for each of FUZZ_TARGETS)
	@$(call fuzz,$(FUZZ_TARGETS))

fuzz-test: setup
	@$(call fuzz,$(CODECS))

clean: ## remove build output and what `make run` made; tools stay
	@rm -rf -- "$(CARGO_TARGET_DIR)" "$(CACHE)/run" "$(CACHE)/sample"
