# lenshpc: `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
DEMO := demo
ENGINE ?= podman
QUICK := and not slow
VERSION = $(shell $(BIN)/python -c 'import lenshpc; print(lenshpc.__version__)')
PARALLEL := -n auto --maxprocesses 8 --dist loadfile
unexport PYTHONDONTWRITEBYTECODE  # what is first imported stays compiled for all that follow

.PHONY: help setup check format test test-slurm test-all test-gpu demo docs schemas image wheel bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(VENV)/installed: setup.cfg pyproject.toml constraints.txt
	@echo 'installing lenshpc and what it needs into $(VENV): some minutes the first time'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-compile -e '.[explain]'
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(PIP) --no-compile -e '.[dev]'
	touch $@

setup: $(VENV)/installed-dev  ## make the environment .venv, test tools included

check: setup  ## style, types, the floors' imports, sizes
	$(BIN)/ruff check lenshpc tests benchmarks examples docs/site
	$(BIN)/ruff format --check lenshpc tests benchmarks examples docs/site
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q tests/test_house.py

format: setup  ## rewrite the code in the house's style
	$(BIN)/ruff check --fix lenshpc tests benchmarks examples docs/site
	$(BIN)/ruff format lenshpc tests benchmarks examples docs/site

test: check  ## checks and the quick tests; as root on Debian on a real SLURM cluster too
	$(BIN)/pytest -q $(PARALLEL) -m 'not slurm $(QUICK)'
	@if [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then $(MAKE) --no-print-directory test-slurm; \
	else $(BIN)/pytest -q -rs -m 'slurm $(QUICK)' tests/slurm; fi

test-slurm: setup  ## the tests marked slurm, on the cluster of slurm/cluster.sh
	slurm/cluster.sh install
	slurm/cluster.sh sandbox $(BIN)/pytest -q -rs -m 'slurm $(QUICK)' tests/slurm

test-all:  ## the same with the slow tests: every recipe, interruption and outage; an hour or more
	$(MAKE) test QUICK= PARALLEL=

test-gpu: setup  ## the tests marked gpu, on this machine's GPU
	$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no GPU here")'
	$(BIN)/pytest -q -rs -m 'gpu' tests/gpu

demo: $(VENV)/installed  ## from simulated images to a report, about five minutes on two cores
	rm -rf $(DEMO) && mkdir $(DEMO)
	$(BIN)/lenshpc simulate lens_finding $(DEMO)/images --train lens=200,nonlens=600 \
	  --test lens=100,nonlens=300 --seed 1 --difficulty 0.5
	$(BIN)/lenshpc prepare lens_finding $(DEMO)/images $(DEMO)/store
	$(BIN)/lenshpc submit --task lens-finding --data $(DEMO)/store --runs $(DEMO)/runs --name demo \
	  --folds 3 --models test_resnet --set train.epochs=10 --set train.lr=2e-3 \
	  --set train.batch_size=16 --wait

docs: setup  ## the site, build/site/index.html; a dead link fails
	rm -rf build/pages build/site
	$(BIN)/python docs/site/gather.py build/pages
	$(BIN)/sphinx-build -q -W --keep-going -c docs/site build/pages build/site

schemas: setup  ## schemas/*.json anew, from the models that read YAML
	$(BIN)/python -c 'from pathlib import Path; from lenshpc.api.schemas import write_schemas; write_schemas(Path("schemas"))'

wheel: setup  ## dist/lenshpc-VERSION-py3-none-any.whl
	rm -rf build  # what an earlier version left there would be in the wheel
	$(BIN)/python -m build --wheel

image: wheel  ## a container image of that wheel; ENGINE=docker, IMAGE_ARGS="--build-arg BASE=..."
	$(ENGINE) build $(IMAGE_ARGS) --build-arg VERSION=$(VERSION) -f slurm/Dockerfile -t lenshpc:$(VERSION) .

.venv-rivals-%/installed: benchmarks/rivals-%.txt
	$(PYTHON) -m venv .venv-rivals-$*
	.venv-rivals-$*/bin/python -m pip install -q --disable-pip-version-check -r $<
	touch $@

# On top of ours, for lenshpc's networks and the very same torch.
.venv-rivals-training/installed: benchmarks/rivals-training.txt $(VENV)/installed
	$(PYTHON) -m venv .venv-rivals-training
	$(BIN)/python -c 'import sysconfig as s; print("import site; site.addsitedir(%r)" % s.get_path("purelib"))' \
	  >$$(.venv-rivals-training/bin/python -c 'import sysconfig as s; print(s.get_path("purelib"))')/lenshpc.pth
	.venv-rivals-training/bin/python -m pip install -q --disable-pip-version-check -r $<
	touch $@

bench: setup .venv-rivals-loading/installed .venv-rivals-diffusion/installed .venv-rivals-training/installed  ## loading, conversion, memory, options beside other libraries
	$(BIN)/python benchmarks/loading.py
	$(BIN)/python benchmarks/conversion.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/options.py
	$(BIN)/python benchmarks/diffusion.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/scaling.py

clean:  ## remove the demo and what tools leave behind, not the environment
	rm -rf $(DEMO) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find lenshpc tests -name __pycache__ -type d -exec rm -rf {} +
