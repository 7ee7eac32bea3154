PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --constraint constraints.txt --editable

.PHONY: demo serve test check format lint types fast clean

demo: $(VENV)/lean
	@echo "== Reading ./knowledge"
	@$(BIN)/rag ingest ./knowledge
	@echo
	@echo "== 今年没休完的年假，最晚可以留到明年什么时候休？"
	@$(BIN)/rag ask "今年没休完的年假，最晚可以留到明年什么时候休？"
	@echo
	@echo "== How many days a year may I work from abroad?"
	@$(BIN)/rag ask "How many days a year may I work from abroad?"
	@echo
	@echo "Web chat:  $(BIN)/rag serve    and open http://127.0.0.1:8000"

serve: $(VENV)/lean
	@$(BIN)/rag serve

test: $(VENV)/dev
	@scripts/test

check: format lint types fast

format: $(VENV)/dev
	@$(BIN)/ruff format --check rag api tests benchmarks

lint: $(VENV)/dev
	@$(BIN)/ruff check rag api tests benchmarks

types: $(VENV)/dev
	@$(BIN)/mypy rag api

fast: $(VENV)/dev
	@$(BIN)/python -m pytest -q -n 2 -m "not slow"

clean:
	rm -rf $(VENV)

$(VENV)/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "The venv module is missing; on Debian or Ubuntu: apt-get install python3-venv"; exit 1; }

$(VENV)/lean: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "== Installing into $(VENV) (a minute or two, once)"
	@$(INSTALL) .
	@touch $@

$(VENV)/dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "== Installing the development set into $(VENV) (a few minutes, once)"
	@$(INSTALL) '.[dev]'
	@touch $(VENV)/lean $@
