.PHONY: help run test bench soak fuzz rbac-cases

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## Play the tour through a real Envoy and stay until Ctrl-C; ONCE=1 exits after it, KUBE=1 plays it on a real API server (needs Go), ARGS='--listen …' changes ports
	./scripts/envoy.sh
	$(if $(KUBE),./scripts/kube.sh etcd kube-apiserver)
	cargo build --locked --release --bins --examples
	cargo run --locked --release --quiet --example tour -- $(if $(ONCE),--once) $(if $(KUBE),--kube) $(ARGS)

test: ## Format, lints, tests and documentation; the last line counts them
	./scripts/test.sh

bench: ## Measure, and print what each reader of usage costs Envoy, and the goals: ratios of one run
	./scripts/envoy.sh
	cargo build --locked --release --bins --examples
	cargo bench --locked
	cargo test --locked --release --test it -- --ignored --nocapture what_each_reader
	./scripts/goals.py

soak: ## Run the load tests with their full numbers, one after another, and print their figures
	./scripts/envoy.sh
	./scripts/envoy.sh 1.36.2
	./scripts/envoy.sh 1.38.3
	./scripts/faketime.sh
	./scripts/kube.sh etcd kube-apiserver
	cargo build --locked --release --bins --examples
	TIERGATE_SOAK=1 cargo test --locked --release --test it -- --include-ignored --nocapture --test-threads=1 clock:: dialects::cut:: dialects::reserve:: dialects::table:: hostile::the_process kubernetes:: live:: restart:: routes:: scale:: simulation:: tiers::changes::

rbac-cases: ## Record what a real API server answers to the RBAC cases, into tests/data/rbac.json
	python3 ./scripts/record_rbac.py

fuzz: ## Look for faults with libFuzzer, each target for SECONDS_EACH=60; needs nightly Rust
	./scripts/fuzz.sh
