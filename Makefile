# make quickstart    fetch MovieLens-1M and train a meta-DLRM on it
# make test          lint, types and the fast tests
# make test-slow     all tests; with PART=train, models, meta, elastic, jobs, data
#                    or rest only those, which take less than an hour each on
#                    two cores; PART=pods compiles for TPUs and GPUs, which
#                    takes none; PART=oldest is the fast tests on Python 3.11;
#                    FULL=1 runs grids of options whole
# make docs          the documentation site, in build/site
# make bench         antjax beside its peers, which `make peers` sets up
# make accelerator-check   equivalence, rates and a step of each job on the
#                    devices at hand; CHECK='--intra=4' adds flags
#
# The newest supported Python that is here runs all of it, in .venv. PYTHON chooses
# another, with an environment of its own, .venv-3.11: make test PYTHON=python3.11.
# PYTEST_FLAGS is added to pytest's command line: make test PYTEST_FLAGS='-x -k ring'.

SUPPORTED := python3.13 python3.12 python3.11 python3
IS_SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
MAKES_VENV := import ensurepip, venv; $(IS_SUPPORTED)
# A name, and pyenv's of that name, which runs only where pyenv selected it.
CANDIDATES = $(foreach n,$(1),$(n) \
  $(wildcard $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions/$(n:python%=%).*/bin/python))
# The first of some interpreters that runs a line of Python.
FIRST = $(firstword $(foreach p,$(call CANDIDATES,$(1)),\
  $(shell $(p) -c '$(2)' 2>/dev/null && echo $(p))))
NAMED := $(or $(PYTHON),$(SUPPORTED))
INTERPRETER := $(or $(call FIRST,$(NAMED),$(MAKES_VENV)),$(call FIRST,$(NAMED),$(IS_SUPPORTED)))

ifeq ($(origin PYTHON),undefined)
  VENV := .venv
else
  VENV := .venv-$(shell $(INTERPRETER) -c \
    'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
endif

PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
PYTEST_FLAGS ?=
# Files of tests side by side; PARALLEL= turns it off.
PARALLEL ?= -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

.PHONY: help quickstart test test-fast test-slow test-pods lint docs bench accelerator-check peers peers-dlrover clean
.DELETE_ON_ERROR:

help:
	@sed -n 's/^# \{0,1\}//p' Makefile | sed -n 1,14p

quickstart: $(VENV)/.run-stamp
	$(VENV)/bin/python -m launch.prepare_data
	$(VENV)/bin/python -m launch.local_cluster --hosts=2 --devices_per_host=4 \
	  -- launch/train_gmeta.py --flagfile=launch/recipes/quickstart.flags

test: lint test-fast

# Compiling is most of the work here: without LLVM's optimizations and, where
# jaxlib can do without them, XLA's MLIR emitters it takes half the time. What is
# compiled is kept, for the other processes of a run and for the runs of two weeks;
# FRESH=1 forgets it. Scripts run in forks of one process that has imported the
# libraries. test-slow runs all as users do.
WITHOUT_EMITTERS := import importlib.metadata as m; \
  print("--xla_cpu_use_fusion_emitters=false" * \
    m.version("jaxlib").startswith("0.10."))
QUICK_TO_COMPILE = --xla_backend_optimization_level=0 \
  $(shell $(VENV)/bin/python -c '$(WITHOUT_EMITTERS)')
PROGRAMS := $(CURDIR)/.cache/programs
test-fast: $(VENV)/.dev-stamp
	@mkdir -p $(PROGRAMS)
	@find $(PROGRAMS) -type f $(if $(FRESH),,-mtime +14) -delete
	JAX_COMPILATION_CACHE_DIR=$(PROGRAMS) JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	  WARM_PYTHON=1 XLA_FLAGS='$(QUICK_TO_COMPILE)' $(VENV)/bin/python \
	  -m pytest -m 'not slow' $(PARALLEL) $(PYTEST_FLAGS)

# Parts of all tests; `rest` is what no other part names.
PART_elastic := tests/elastic tests/cluster tests/shards
PART_jobs := tests/jobs tests/docs
PART_data := tests/data
PART_train := tests/train tests/collectives tests/mesh
PART_models := tests/lm tests/ctr tests/networks tests/serving
PART_meta := tests/meta tests/embedding tests/layers
PART_rest := tests $(addprefix --ignore=,$(PART_elastic) $(PART_jobs) \
  $(PART_data) $(PART_train) $(PART_models) $(PART_meta))
PART ?= all
PART_all := tests
ifeq ($(PART),oldest)
test-slow:
	$(MAKE) test-fast PYTHON=python3.11
else ifeq ($(PART),pods)
test-slow:
	$(MAKE) test-pods VENV=.venv-pods
else
test-slow: lint
	@test -n '$(PART_$(PART))' || { \
	  echo 'PART=$(PART): use train, models, meta, elastic, jobs, data, rest,' \
	    'pods, oldest or all.'; exit 1; }
	$(VENV)/bin/python -m pytest --hypothesis-profile=search \
	  -o faulthandler_timeout=3600 $(PARALLEL) $(PYTEST_FLAGS) $(wildcard $(PART_$(PART))) \
	  $(filter --ignore=%,$(PART_$(PART)))
endif

# In an environment of its own: JAX would use these compilers as devices.
POD_TESTS := tests/plan/pods_test.py tests/plan/ho_ring_schedule_test.py \
  tests/jobs/compile_for_pod_test.py
test-pods: $(VENV)/.pods-stamp
	$(VENV)/bin/python -m pytest -o faulthandler_timeout=3600 \
	  $(subst loadfile,load,$(PARALLEL)) $(PYTEST_FLAGS) $(POD_TESTS)

lint: $(VENV)/.dev-stamp
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(VENV)/bin/python -m mypy

# A warning is an error.
docs: .venv-docs/.stamp
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict
	@echo 'Open build/site/index.html; its search needs a server:' \
	  'python3 -m http.server --bind 127.0.0.1 --directory build/site'

bench: $(VENV)/.run-stamp peers
	$(VENV)/bin/python -m benchmarks.meta_bench

# Installs nothing, as the JAX of an accelerator is yours: in .venv if that is made,
# else in the python3 at hand.
accelerator-check:
	$(or $(wildcard $(VENV)/bin/python),python3) -m launch.accelerator_check $(CHECK)

# PyTorch and the other peers of the benchmarks, away from antjax's own packages.
peers: .venv-peers/.stamp

# DLRover, whose packages get in the way of the other peers'.
peers-dlrover: .venv-dlrover/.stamp

# Environments and caches. What jobs fetched or wrote (data/, runs/) stays.
clean:
	rm -rf .venv .venv-3.* .venv-pods .venv-docs .venv-peers .venv-dlrover .cache/programs .mypy_cache .pytest_cache .ruff_cache .hypothesis \
	  build dist antjax.egg-info
	find antjax launch tests benchmarks -name __pycache__ -type d \
	  -prune -exec rm -rf {} + 2>/dev/null || true

# The stamps: set up once, and again when what is asked for has changed.
$(VENV)/.venv-stamp:
	@test -n '$(INTERPRETER)' || { \
	  echo 'antjax needs Python 3.11, 3.12 or 3.13, and $(or $(PYTHON),this' \
	    'machine) gives none of them. Name one: make PYTHON=/path/to/python3.12'; \
	  exit 1; }
	@$(INTERPRETER) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo '$(INTERPRETER) cannot make virtual environments. On Debian and' \
	    'Ubuntu: apt-get install python3-venv'; \
	  exit 1; }
	@echo 'Setting up $(VENV), once; a minute or two.'
	@$(INTERPRETER) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.run-stamp: requirements.txt setup.cfg pyproject.toml | $(VENV)/.venv-stamp
	$(PIP) install --quiet -r requirements.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.pods-stamp: requirements-pods.txt $(VENV)/.run-stamp
	$(PIP) install --quiet -r requirements-pods.txt
	@touch $@

$(VENV)/.dev-stamp: requirements-dev.txt $(VENV)/.run-stamp
	$(PIP) install --quiet -r requirements-dev.txt
	@touch $@

.venv-docs/.stamp: requirements-docs.txt
	$(INTERPRETER) -m venv --clear .venv-docs
	.venv-docs/bin/python -m pip --disable-pip-version-check install --quiet \
	  -r requirements-docs.txt
	@touch $@

# TorchRec names a GPU build of fbgemm as its dependency; the CPU one will do.
.venv-peers/.stamp: requirements-bench.txt requirements-bench-no-deps.txt
	@test -n '$(call FIRST,python3.11,)' || { \
	  echo 'The peers need Python 3.11.'; exit 1; }
	$(call FIRST,python3.11,) -m venv --clear .venv-peers
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet \
	  -r requirements-bench.txt
	.venv-peers/bin/python -m pip --disable-pip-version-check install --quiet \
	  --no-deps -r requirements-bench-no-deps.txt
	@touch $@

.venv-dlrover/.stamp: requirements-bench-dlrover.txt
	$(call FIRST,python3.11,) -m venv --clear .venv-dlrover
	.venv-dlrover/bin/python -m pip --disable-pip-version-check install --quiet \
	  -r requirements-bench-dlrover.txt
	@touch $@
