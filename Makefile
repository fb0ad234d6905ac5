# make demo | test | lint: everything is set up in .venv first, from the pinned versions in constraints.txt.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Where torch alone comes from: a URL, or what PyTorch calls a build (cpu, cu130); empty: where pip finds it. scripts/install.py reads
# it; not given, it is the CPU build where there is no GPU, unless pip's own settings name an index.
#TORCH_INDEX := https://...
# Also on two cores: tests mostly wait, for servers and for other processes.
JOBS   ?= 4

# Where it is set, every start compiles torch's sources anew: 6 s instead of 1.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo quick test bench figures docs lint format versions lowest clean
help:
	@echo "make demo    set up .venv and train the quickstart job on this machine (a minute once installed)"
	@echo "make quick   set up .venv and run what needs no server and no long training (a few minutes)"
	@echo "make test    set up .venv and run every test; what was skipped is listed with the reason, and the slowest ten"
	@echo "make figures the faults of docs/faults.md at full length (about half an hour), with their figures, and every case of every test"
	@echo "make bench   clips per second on this machine, against a plain trainer (about three minutes)"
	@echo "make docs    the documentation as a site, in site/"
	@echo "make lint    format, lint and types"
	@echo "make format  put the format right"
	@echo "make versions  every supported Python, and the lowest versions that pyproject.toml admits (gigabytes; minutes)"
	@echo "make lowest  renew constraints-lowest.txt, which holds those versions"
	@echo "make clean   remove .venv"

demo: $(VENV)/.train
	$(BIN)/lastrun submit jobs/quickstart.yaml
	@job=$$($(BIN)/lastrun list --limit 1 --json | sed -n 's/^ *"id": "\(.*\)",$$/\1/p'); echo; \
	echo "look at it: source $(BIN)/activate, then"; \
	echo "  lastrun list                           the jobs in your store"; \
	echo "  lastrun status $$job"; \
	echo "                                         its figures and checkpoints"; \
	echo "  lastrun logs $$job"; \
	echo "                                         all that it said"; \
	echo "  lastrun open $$job"; \
	echo "                                         a page for the browser: curves, mistakes, clips"; \
	echo "  lastrun tensorboard $$job"; \
	echo "                                         its curves in TensorBoard"; \
	echo "  lastrun pull $$job FOLDER --best"; \
	echo "                                         its best checkpoint"; \
	echo "  lastrun explain jobs/quickstart.yaml   what can be set, to change it with submit --set KEY=VALUE"
	@echo "more: README.md (what to do next), docs/training.md, docs/data.md (your own data)"

quick: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(JOBS) -m "not server and not slow" $(or $(TESTS),tests/unit)

test: $(VENV)/.dev $(VENV)/.sky
	$(BIN)/python -m pytest -n $(JOBS) $(TESTS)

bench: $(VENV)/.train
	$(BIN)/lastrun bench

figures: $(VENV)/.dev
	LASTRUN_WAITS= $(BIN)/python -m pytest --full tests/integration/test_faults_of_*.py
	$(BIN)/python -m pytest --full -m full
	$(BIN)/python -m pytest --full tests/unit/test_kernels.py tests/unit/test_batch_kernels.py

docs: $(VENV)/.dev
	$(BIN)/zensical build --strict

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

versions:
	$(PYTHON) scripts/versions.py

lowest: $(VENV)/bin/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --upgrade --resolution lowest-direct --universal --python-version 3.10 --only-binary :all: \
		--no-annotate --custom-compile-command "make lowest" --extra dev -o constraints-lowest.txt pyproject.toml

clean:
	rm -rf $(VENV)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: Python 3.10 or newer is needed; name one with make PYTHON=python3.11 ..."; exit 2; }
	@echo "setting up $(VENV) ..."
	@trap 'rm -rf $(VENV); echo "interrupted; the same command begins again" >&2; exit 130' INT TERM; \
	said=$$($(PYTHON) -m venv $(VENV) 2>&1) || { echo "$$said" >&2; rm -rf $(VENV); \
		echo "error: no $(VENV) could be made; on Debian and Ubuntu: apt install python3-venv"; exit 2; }

$(VENV)/.train: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(BIN)/python scripts/install.py '.[data,train]'
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	@$(BIN)/python scripts/install.py '.[dev,browser,mlflow,tensorboard,trackio,triton,ui,wandb]'
	@touch $@ $(VENV)/.train

# SkyPilot wants an older click than huggingface_hub, so it gets an environment of its own, as its users may give it one.
$(VENV)/.sky: $(VENV)/bin/python constraints-sky.txt
	@echo "installing SkyPilot for tests in $(VENV)/sky ..."
	@rm -rf $(VENV)/sky && $(BIN)/python -m venv $(VENV)/sky
	@$(VENV)/sky/bin/python -m pip install --no-input --disable-pip-version-check --progress-bar off --no-compile \
		--constraint constraints-sky.txt skypilot >$(VENV)/install-sky.log 2>&1 || { tail -5 $(VENV)/install-sky.log; exit 2; }
	@touch $@
