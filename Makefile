# The words of the house. `make` alone lists them; CI says the same ones (.ci/run).

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

# In CI the versions are those of Cargo.lock, or it fails.
locked := $(if $(CI),--locked)

# nextest where it is installed: it runs every test in its own process, and ends one that hangs.
nextest := $(shell sh -c 'command -v cargo-nextest' 2>/dev/null)

.PHONY: help
help: ## list these words
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## install what build and tests need from the system (Debian, Ubuntu; as root)
	@bin/setup

.PHONY: tools
tools:
	@bin/setup build

.PHONY: libtorch
libtorch: tools ## lay out libtorch in .libtorch/ (once, 0.5 GB; nothing where LIBTORCH is set)
	@bin/libtorch

.PHONY: models
models: tools ## fetch the weights of the models in models/ (once, 17 MB)
	@bin/models

.PHONY: python-clients
python-clients: tools
	@bin/python-clients >/dev/null

.PHONY: build
build: libtorch ## build tidemill and tidemill-vision into target/release
	cargo build $(locked) --release --workspace --bins

.PHONY: demo
demo: build models ## classify and transform the photographs in examples/photos
	@bin/demo

.PHONY: test
test: setup libtorch models python-clients ## run every test
	cargo test $(locked) --workspace --all-features --doc --quiet
ifdef nextest
	cargo nextest run $(locked) --workspace --all-features --all-targets
else
	cargo test $(locked) --workspace --all-features --all-targets
endif

# How many random schedules the long fault tests follow; `make test` follows two.
TIDEMILL_SEEDS ?= 10

.PHONY: faults
faults: export TIDEMILL_SEEDS := $(TIDEMILL_SEEDS)
faults: setup libtorch models ## run the long fault tests: kills, outages, cuts, by ten random schedules
ifdef nextest
	cargo nextest run $(locked) --profile faults --workspace --all-features -E 'binary(faults)'
else
	cargo test $(locked) --workspace --all-features --test faults
endif

# How many workers `make up` starts: make up WORKERS=3
WORKERS ?= 1

.PHONY: up
up: ## start a cluster with Docker: broker, store, results API, a worker (WORKERS=3: three)
	docker compose up --detach --build --wait --scale worker=$(WORKERS)

.PHONY: down
down: ## stop the cluster; its volumes stay
	docker compose down

.PHONY: cluster-test
cluster-test: ## put real work through a cluster in containers, and kill a worker (Docker)
	@bin/cluster-test

.PHONY: check
check: libtorch ## check format, lints, documentation and the licences of dependencies
	cargo fmt --all --check
	cargo clippy $(locked) --workspace --all-features --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc $(locked) --workspace --all-features --no-deps --document-private-items
	bin/cargo-deny $(locked) check --hide-inclusion-graph licenses bans sources

.PHONY: fix
fix: ## format the code and apply what clippy can mend by itself
	cargo clippy --workspace --all-features --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

.PHONY: catalogue
catalogue: ## write docs/catalogue.md anew, from the register of tasks
	page=$$(cargo run $(locked) --quiet -p tidemill-cli --bin tidemill -- tasks --markdown) && printf '%s\n' "$$page" > docs/catalogue.md

.PHONY: bench
bench: setup build models ## measure, beside the peers, and print the ratios
	@bench/run

.PHONY: doc
doc: libtorch ## write the documentation of the code to target/doc
	cargo doc $(locked) --workspace --all-features --no-deps
