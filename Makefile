# make demo | rag | check | test | lint | docs | bench | soak | mutants | sanitize | cross | macos | windows | fuzz | mac-report | lock | clean
# Each sets up what it needs; nothing but Python >= 3.10 and make has to be there before.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/.ready

# What needs no training and no conversion: a first answer, while `test` is for what is handed in.
QUICK := tests/test_imports.py tests/test_help.py tests/train/data tests/export/test_forms.py \
	$(addprefix tests/lvm_runtime/,artifact commands selection system test_contexts.py test_predictor.py)

.PHONY: help demo rag check test suite lint docs bench soak mutants sanitize cross macos windows fuzz mac-report lock clean

help:
	@echo "make demo        train an AMN on the bundled corpus, export it, verify, predict, measure"
	@echo "make rag         from text to the text that comes next: embed, train, export, index, ask"
	@echo "make check       ruff, mypy and the quick tests, in a minute"
	@echo "make test        ruff, mypy and the test suite"
	@echo "make docs        the documentation, in docs/_build/html"
	@echo "make bench       the full benchmark run: pytest benchmarks/ --benchmark-only"
	@echo "make soak        the long tests that the suite leaves out"
	@echo "make mutants     single edits that no test notices, in the modules that differ from main (ALL=1: in the core; SAMPLE=25: 25 of each)"
	@echo "make sanitize    the native engine's tests with ASan and UBSan, then with TSan, then in valgrind"
	@echo "make cross       the native engine on an emulated Arm CPU: the same bits as here"
	@echo "make macos       the engine as a program for macOS, which is not run; compiled for an M1, the same bits as here"
	@echo "make windows     the same in a Windows program, built by MinGW and run by wine"
	@echo "make fuzz        malformed plans for the native engine: libFuzzer with ASan and UBSan"
	@echo "make mac-report  on a Mac: placement, latency and accuracy on this device, as Markdown and JSON"
	@echo "make lock        write constraints.txt from what is installed"
	@echo "make clean       remove the virtual environment and caches (artifacts stay)"

# By the newest pip, which takes half the time of an interpreter's own, and compiled by all cores. Packages hold files
# that are for other Pythons, or for none: these are not compiled.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo "Python >= 3.10 is needed, and $(PYTHON) is $$($(PYTHON) --version); try: make PYTHON=python3.12 ..."; exit 1; }
	@echo "installing into $(VENV) (once, a few minutes) ..."
	@$(PYTHON) -m venv --upgrade-deps $(VENV)
	@$(PY) -m pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	@$(PY) -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

demo: $(READY)
	@$(PY) -m demo

rag: $(READY)
	@$(PY) -m rag

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# The types are checked beside the tests, because mypy has one thread and takes a minute without its cache.
test: $(READY)
	@$(MAKE) --no-print-directory --jobs 2 lint suite

# One thread a worker: two suites of threads on the same cores only wait for each other.
suite: $(READY)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --dist worksteal -m "not soak"

check: lint
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n logical --dist worksteal -m "not soak" --ignore-glob='*test_fuzz.py' --ignore-glob='*test_kill.py' $(QUICK)

docs: $(READY)
	$(VENV)/bin/sphinx-build -q -W -b html docs docs/_build/html

bench: $(READY)
	$(PY) -m pytest benchmarks/ --benchmark-only

soak: $(READY)
	$(PY) -m pytest -m soak --timeout 7200

mutants: $(READY)
	@$(PY) -c 'import mutmut' 2>/dev/null || $(PY) -m pip install --quiet --constraint constraints.txt --editable '.[dev,mutants]'
	$(PY) -m tests.mutants $(if $(ALL),--all) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

sanitize: $(READY)
	$(MAKE) -C lvm_runtime/native PYTHON=$(abspath $(PY)) sanitize KIND=address,undefined
	$(MAKE) -C lvm_runtime/native PYTHON=$(abspath $(PY)) sanitize KIND=thread
	$(MAKE) -C lvm_runtime/native PYTHON=$(abspath $(PY)) memcheck

cross: $(READY)
	$(MAKE) -C lvm_runtime/native PYTHON=$(abspath $(PY)) cross

macos: $(READY)
	@$(PY) -c 'import ziglang' 2>/dev/null || $(PY) -m pip install --quiet 'ziglang>=0.15,<1'
	$(MAKE) -C lvm_runtime/native PYTHON=$(abspath $(PY)) macos

windows: $(READY)
	$(MAKE) -C lvm_runtime/native PYTHON=$(abspath $(PY)) windows

fuzz: $(READY)
	$(MAKE) -C lvm_runtime/native PYTHON=$(abspath $(PY)) fuzz

mac-report: $(READY)
	$(PY) -m export.mac_report

lock: $(READY)
	@{ grep '^#' constraints.txt; $(PY) -m pip freeze --exclude-editable | awk '/ @ / {next} {sub(/\+.*/, "")} \
		/^torch==/ {sub(/\.[0-9]+$$/, ".*"); print; next} {print $$0 " ; python_version >= \"3.11\""}'; } \
		> constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
