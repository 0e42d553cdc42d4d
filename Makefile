# `make help` lists the targets. Those that need Python packages install them into .venv first.
PYTHON ?= python3
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export PATH := $(CURDIR)/.venv/bin:$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true
export DVC_NO_ANALYTICS := 1
export DO_NOT_TRACK := 1
export OMP_WAIT_POLICY := passive
export PIP_DISABLE_PIP_VERSION_CHECK := 1

MLFLOW_PORT ?= 5000
PREFECT_PORT ?= 4200

# Stamp files of installations; their names have the digest of the lock file, so that a new lock is installed.
digest = $(shell cat $(1) pyproject.toml | git hash-object --stdin)
RUNTIME := .venv/.runtime-$(call digest,requirements.lock)
DEV := .venv/.dev-$(call digest,requirements-dev.lock)
BENCH := .venv/.bench-$(call digest,requirements-bench.lock)

.PHONY: help
help: ## List the targets.
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20

.PHONY: demo
demo: $(RUNTIME) ## Install, get the demo data, run the pipeline, print the results.
	dvc pull data.dvc 2> >(grep -v "No remote provided" >&2)
	dvc repro
	@python -m franca summary

.PHONY: test
test: export OMP_NUM_THREADS := 1
test: $(DEV) ## Run the fast tests; `make test ARGS="-m slow"` runs the slow ones.
	dvc pull --quiet data.dvc
	pytest --numprocesses auto --dist loadscope $(ARGS)

.PHONY: lint
lint: $(DEV) docs ## Check style, types, documentation, Dockerfile and compose file.
	ruff check .
	ruff format --check .
	mypy
	hadolint docker/Dockerfile
	docker-compose --env-file docker/.env.example -f docker/compose.yaml config -q

.PHONY: docs
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DEV) ## Build the documentation in site/; broken links and missing pages fail.
	mkdocs build --strict --quiet
	@echo "Documentation: site/index.html"

.PHONY: mlflow-ui
mlflow-ui: $(RUNTIME) ## Start MLflow's UI: runs, curves and the model registry.
	@echo "MLflow: http://127.0.0.1:$(MLFLOW_PORT)/?workflowType=machine_learning (Ctrl-C to stop)"
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow ui --workers 1 --port $(MLFLOW_PORT) --backend-store-uri sqlite:///mlflow.db

# Columns that `dvc exp show` leaves out: scores by number of dimensions, counts of images, hashes, hardware.
DROP := .*top1_|.*miou_|.*fingerprint|images\.|dense\.|data$$|franca/|models/|prepared$$|results/|runtime\.

.PHONY: experiments
experiments: $(RUNTIME) ## Show experiments side by side: main scores, and the parameters that differ.
	@dvc exp show --no-pager --only-changed --drop '$(DROP)'

.PHONY: prefect-ui
prefect-ui: export PREFECT_SERVER_UI_API_URL := http://127.0.0.1:$(PREFECT_PORT)/api
prefect-ui: export PREFECT_UI_URL := http://127.0.0.1:$(PREFECT_PORT)
prefect-ui: $(RUNTIME) ## Start Prefect and its UI: flow runs, schedules and forms.
	@echo "Prefect: http://127.0.0.1:$(PREFECT_PORT) (Ctrl-C to stop); run \`make worker\` in a second terminal to execute its runs"
	@prefect server start --host 127.0.0.1 --port $(PREFECT_PORT)

.PHONY: worker
worker: export PREFECT_API_URL := $(or $(PREFECT_API_URL),http://127.0.0.1:$(PREFECT_PORT)/api)
worker: $(RUNTIME) ## Deploy the flows to the Prefect server and execute its runs.
	@flows/worker.sh

.PHONY: tour
tour: $(RUNTIME) ## See everything once, in a clone: servers, runs, approval, rollback, drift, serving (ARGS="--folder F").
	dvc pull --quiet data.dvc
	python -m docs.tour $(ARGS)

SOLVE := --upgrade --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet

.PHONY: bench
bench: $(BENCH) ## Run the benchmarks and write benchmarks/RESULTS.md (minutes, on an otherwise idle machine).
	dvc pull --quiet data.dvc
	python -m benchmarks

.PHONY: gpu-check
gpu-check: $(BENCH) ## Check the trainer on this GPU (10 minutes); `make gpu-check ARGS="heads"` runs one check.
	python -m benchmarks.gpu_check $(ARGS)

.PHONY: lock
lock: ## Update the lock files (needs uv).
	uv pip compile pyproject.toml --extra onnx --extra s3 --constraint constraints.txt $(SOLVE) -o requirements.lock
	uv pip compile pyproject.toml --extra dev --extra onnx --extra s3 --constraint requirements.lock $(SOLVE) -o requirements-dev.lock
	uv pip compile pyproject.toml --extra bench --extra dev --extra onnx --extra s3 --constraint requirements-dev.lock $(SOLVE) -o requirements-bench.lock
	uv pip compile docker/server.in --constraint requirements.lock $(SOLVE) -o docker/server.lock

.PHONY: clean
clean: ## Delete tool caches and worktrees of killed runs; keep .venv, data, models, results and what is running.
	rm -rf .mypy_cache .ruff_cache .pytest_cache dvc_plots
	@test ! -x .venv/bin/python || python -c 'from pathlib import Path; from franca.worktree import remove_dead; remove_dead(Path.cwd())'

define install
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.11 ...")'
	@test -x .venv/bin/pip || { echo "Creating .venv"; $(PYTHON) -m venv .venv; }
	@rm -f .venv/.runtime-* .venv/.dev-* .venv/.bench-*
	@echo "Installing $(1) (first time: some minutes; on Linux 5.5 GB with PyTorch's CUDA libraries)"
	@pip install --no-deps --require-hashes --use-pep517 -r $(1) | sed -u -n -E \
	  -e 's/^ *(Downloading|Using cached) (.*\([0-9]{2,}[0-9.]* [MG]B\)).*/  \1 \2/p' \
	  -e 's/^ *Installing collected packages.*/  Unpacking/p'
	@pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $(2)
endef

$(RUNTIME):
	$(call install,requirements.lock,$@)

$(DEV):
	$(call install,requirements-dev.lock,$@ $(RUNTIME))

$(BENCH):
	$(call install,requirements-bench.lock,$@ $(DEV) $(RUNTIME))
