# make course    everything, from nothing: environment, notebooks, metrics and report in results/mini/
# make help      the other targets

PYTHON ?= python3
# A torch wheel already at hand instead of the large one in the lock: a file, or a version that pip can find by its
# own settings (make course TORCH_WHEEL=2.13.0+cpu). The choice is remembered in .venv for the next install.
TORCH_WHEEL ?= $(shell cat .venv/torch-wheel 2>/dev/null)

BIN = .venv/bin
STAMP = .venv/installed
# The requirement blocks of the lock that a torch at hand replaces.
TORCH_BLOCKS = ^(torch==|triton==|nvidia-|cuda-)

COURSE_RESULTS ?= $(CURDIR)/results
export COURSE_RESULTS

.PHONY: help course test test-oldest test-newest lab lock clean

help:
	@echo "make course   run every notebook on the embedded data; results/mini/ holds metrics.json and report.html"
	@echo "make test     unit tests, then every notebook against its saved outputs"
	@echo "make test-oldest, make test-newest"
	@echo "               unit tests and the smoke course with the oldest or newest packages that pyproject.toml allows"
	@echo "make lab      open the notebooks in JupyterLab"
	@echo "make lock     resolve pyproject.toml again into requirements.lock"
	@echo "make clean    remove the environments and caches (results/ stays)"
	@echo "options       PYTHON=python3.12   TORCH_WHEEL=path|version   COURSE_RESULTS=folder"

course: $(STAMP)
	$(BIN)/python -m helpers run

# Unit tests: two at a time, each file's together and with one thread for its arithmetic.
# The notebooks run in order and share one results folder: a stage is built once, or taken from a course run before.
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile tests
	$(BIN)/python -m pytest --nbval-lax --nbval-kernel-startup-timeout 300 notebooks

# An environment of its own from pyproject.toml instead of the lock, made anew each time. The rules for formatting and
# for the lock are left out: they belong to the locked ruff and to the lock. UV_TORCH_BACKEND=cpu takes torch without CUDA.
test-oldest: RESOLUTION = lowest-direct
test-newest: RESOLUTION = highest
test-oldest test-newest: test-%: $(STAMP)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-$*
	$(BIN)/uv pip install --python .venv-$*/bin/python --resolution $(RESOLUTION) --editable ".[course,test]"
	COURSE_PACKAGES=$* .venv-$*/bin/python -m pytest tests --ignore tests/test_house.py
	COURSE_RESULTS=$(CURDIR)/.venv-$*/results .venv-$*/bin/python -m helpers run --profile smoke

lab: $(STAMP)
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

lock: $(STAMP)
	$(BIN)/uv pip compile --quiet pyproject.toml --extra course --extra test --universal --python-version 3.11 \
	    --generate-hashes --no-emit-index-url --output-file requirements.lock

clean:
	rm -rf .venv .venv-oldest .venv-newest .pytest_cache .ruff_cache .hypothesis *.egg-info
	find helpers tests notebooks -name __pycache__ -o -name .ipynb_checkpoints | xargs rm -rf

# pip fetches only uv, by its hash in the lock; uv installs the rest in a fraction of pip's time. Nothing here asks
# the network while the stamp is newer than the lock and pyproject.toml.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " \
	    + sys.version.split()[0] + ": make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	awk '/^[a-z]/ { keep = /^uv==/ } keep' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r .venv/uv.lock
ifneq ($(strip $(TORCH_WHEEL)),)
	awk '/^[a-z]/ { drop = /$(TORCH_BLOCKS)/ } !drop' requirements.lock > .venv/used.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    "$(if $(wildcard $(TORCH_WHEEL)),$(TORCH_WHEEL),torch==$(TORCH_WHEEL))"
	echo "$(TORCH_WHEEL)" > .venv/torch-wheel
else
	cp requirements.lock .venv/used.lock
endif
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --require-hashes -r .venv/used.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
