# Everything starts here. `make demo` trains on this machine; `make test` runs all checks.
# Both set up .venv first, from hashed requirements, and do nothing when it is up to date.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .cache/uv/bin/uv)
STAMP := $(VENV)/.up-to-date
SOURCES := api operator training cli

# The cap on memory arenas and the single OpenMP thread keep several training processes from
# fighting over few cores; a user's own setting wins.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup demo test lint unit local cluster requirements generate bench-operator bench-startup bench-apply bench-recovery bench-elastic bench-training bench-loader bench-checkpoint bench-auto bench-scaling bench-update bench-demo bench-stall soak-kill clean

help:  ## Show the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(STAMP)  ## Set up .venv.

$(UV):
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/pip install --quiet --require-hashes -r requirements/uv.txt

$(STAMP): requirements/dev.txt pyproject.toml | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --offline --editable .
	$(BIN)/python -m compileall -q $(SOURCES)
	@touch $@

demo: setup  ## Train examples/mnist.yaml on this machine: real data, two workers, a table and curves at the end.
	$(BIN)/scalingjob run examples/mnist.yaml

test: setup lint  ## Run everything: lint, types, import contracts, unit, local Ray and cluster tests.
	$(BIN)/python -m tests.lanes

lint: setup  ## Check style, types and import contracts.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES) tests bench
	$(BIN)/lint-imports

unit: setup  ## Run the pure tests.
	$(BIN)/pytest tests/unit

local: setup  ## Run the tests on a local Ray.
	$(BIN)/pytest tests/local

cluster: setup  ## Run the tests on a real Kubernetes (KUBECONFIG, or one that they start).
	$(BIN)/pytest tests/cluster

generate: setup  ## Write the CRD and the field reference anew from the models.
	$(BIN)/python -m scaling_cli.generate

requirements: | $(UV)  ## Resolve the requirements anew.
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --upgrade \
	  --all-extras --group dev pyproject.toml -o requirements/dev.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --extra operator -c requirements/dev.txt pyproject.toml -o requirements/operator.txt
	$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
	  --extra training --extra cli -c requirements/dev.txt pyproject.toml -o requirements/runtime.txt
	echo uv | $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	  --no-emit-index-url - -o requirements/uv.txt

bench-operator: setup  ## Measure the operator on simulated nodes: 100 jobs at once, and one of 500 workers.
	$(BIN)/python -m bench.bench_operator

bench-apply: setup  ## Measure from `kubectl apply` to the first optimizer step on the test cluster.
	$(BIN)/python -m bench.bench_apply

bench-recovery: setup  ## Measure from a worker's loss to the first step after it on the test cluster.
	$(BIN)/python -m bench.bench_recovery

bench-elastic: setup  ## Measure how fast an elastic job goes on with fewer workers, and grows again.
	$(BIN)/python -m bench.bench_elastic

bench-demo: setup  ## Measure the demo with three seeds: accuracy, first step, time in all.
	$(BIN)/python -m bench.bench_demo

bench-training: setup  ## Measure the training loop against a bare DDP loop.
	$(BIN)/python -m bench.bench_training

bench-loader: setup  ## Measure images per second from a folder against DataLoader and ImageFolder, and resuming.
	$(BIN)/python -m bench.bench_loader

bench-checkpoint: setup  ## Measure how long training waits for a save, in the background and on the spot.
	$(BIN)/python -m bench.bench_checkpoint

bench-auto: setup  ## Measure every mesh of 4 workers, and how far the chosen one is from the best.
	$(BIN)/python -m bench.bench_auto

bench-scaling: setup  ## Compute what each mesh sends and holds, from 8 to 1,024 GPUs (the tables of docs/scaling.md).
	$(BIN)/python -m bench.bench_scaling

bench-update: setup  ## Measure the update modes with four workers, one of them slow: samples per second, staleness, accuracy.
	$(BIN)/python -m bench.bench_update

bench-startup: setup  ## Measure from `scalingjob run` to the first optimizer step on this machine.
	$(BIN)/python -m bench.bench_startup

bench-stall: setup  ## Freeze heads and see how soon that is named; then half an hour of storms in which no alarm may ring.
	$(BIN)/python -m bench.bench_stall

soak-kill: setup  ## Kill training at 120 random moments on every kind of mesh and compare with undisturbed runs, bit for bit.
	$(BIN)/python -m bench.bench_kill

clean:  ## Remove .venv and caches; runs/ stays.
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
