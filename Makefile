# The commands of a developer and of a newcomer; each sets up what it needs.
SHELL := /bin/bash
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
# One thread a process: two training processes share two cores, and results are the same every time.
export OMP_NUM_THREADS ?= 1

.PHONY: help env demo test test-cluster test-compat lint docs clean

help: ## what can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

env: ## the environment, in .venv
	@envs/make_env.sh $(VENV)

demo: env ## the whole workflow in small: no GPU, no keys; results in results/demo
	@$(BIN)/python -m safe_llava.demo.run

test: env ## every test, the demo end to end among them
	@$(BIN)/python -m safe_llava.demo.run
	@$(BIN)/python -m pytest -q -n 2 -m "not demo and not cluster and not compat"
	@$(BIN)/python -m pytest -q -m demo

test-cluster: env ## the demo, and whatever happens to jobs, on a real SLURM with images (docs/cluster.md)
	@tests/slurm_cluster/run.sh $(abspath $(BIN))

test-compat: env ## an exported checkpoint in other versions of transformers (docs/models.md)
	@$(BIN)/python -m pytest -q -m compat tests/checkpoints

lint: env ## style, types, rule files
	$(BIN)/ruff check scripts tests
	$(BIN)/ruff format --check scripts tests
	$(BIN)/mypy
	$(BIN)/mypy --config-file scripts/snakemake_executor_plugin_slurm_steady/mypy.ini
	$(BIN)/snakefmt --check workflow tests/slurm_cluster
	$(BIN)/python -m pytest -q tests/workflow/test_lint.py

docs: env ## docs/configuration.md, which is generated from the schema
	$(BIN)/python -m safe_llava.config.docs --root .

clean: ## what `make demo` made
	rm -rf results/demo
