# The commands of README.md and of continuous integration. Each makes what it needs, once.
#
#   make serve ARGS="MODEL --port 8123"    make test ARGS="-k scheduler"    make check    make bench    make docs
#   make chaos CHAOS_SECONDS=3600          make compat          make fuzz FUZZ_CASES=1000          make image-steps

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
CHAOS_SECONDS ?= 600
FUZZ_CASES ?= 10000
# Who makes the theme warns of a successor of mkdocs, which is not admitted here.
export NO_MKDOCS_2_WARNING = 1

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: serve test check chaos compat fuzz image-steps bench docs docs-serve format clean help
.DEFAULT_GOAL := help

help:
	@echo "make serve   install and serve the demo model; ARGS=\"MODEL --port 8123\" is passed on"
	@echo "make test    run every test; ARGS=\"-k name\" is passed on to pytest"
	@echo "make check   style, types and generated documentation"
	@echo "make chaos   random histories of crashes for CHAOS_SECONDS (600), then the tests that kill real processes"
	@echo "make compat  run unmodified client suites against a server, and write docs/compatibility.md"
	@echo "make fuzz    FUZZ_CASES (10000) requests made from each OpenAPI document, and answers to 2,000 random schemas"
	@echo "make image-steps  run the Dockerfile's steps in a plain shell, and try what they have made; no engine is needed"
	@echo "make bench   measure a server that this command starts; ARGS=\"--help\" shows its options"
	@echo "make docs    write the pages that come from code, and the site into site/; make docs-serve shows it while you write"
	@echo "make format  let ruff put the code in order"
	@echo "make clean   remove the environment"

serve: $(VENV)/.installed
	@exec $(BIN)/penstock serve $(ARGS)

test: $(VENV)/.installed-dev
	@scripts/install-debian-packages
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m scripts.generate_docs --check

chaos: $(VENV)/.installed-dev
	$(BIN)/python tests/chaos/simulation/simulate.py --seconds $(CHAOS_SECONDS)
	$(BIN)/python -m pytest tests/chaos $(ARGS)

compat: $(VENV)/.installed-dev
	@$(BIN)/python -m scripts.compatibility $(ARGS)

fuzz: $(VENV)/.installed-dev
	$(BIN)/python tests/fuzz/run_fuzz.py --cases $(FUZZ_CASES) $(ARGS)
	PENSTOCK_TEST_SCHEMAS=2000 $(BIN)/python -m pytest tests/engine/test_structured_output.py -k random_schemas -s -o timeout=3600

image-steps: $(VENV)/.installed-dev
	@$(BIN)/python -m scripts.image_steps $(ARGS)

bench: $(VENV)/.installed-dev
	@$(BIN)/python -m benchmarks.serving $(ARGS)

docs: $(VENV)/.installed-dev
	$(BIN)/python -m scripts.generate_docs
	$(BIN)/mkdocs build --strict

docs-serve: $(VENV)/.installed-dev
	$(BIN)/mkdocs serve --strict $(ARGS)

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build site *.egg-info

$(BIN)/python:
	@scripts/make-environment "$(PYTHON)" "$(VENV)"

# The stamps: an installation is repeated when the list of dependencies or a kernel has changed.
KERNELS := setup.py kernels/providers/cpu/variants.py $(wildcard kernels/providers/cpu/native/*)

$(VENV)/.installed: pyproject.toml $(KERNELS) | $(BIN)/python
	$(PIP) install -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml $(KERNELS) | $(BIN)/python
	$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/.installed
