# A fresh machine needs Python >= 3.11 with venv, make, and a package index. VENV=… uses an environment of your own.
VENV ?= .venv
PYTHON ?= python3
BACKBONE ?= qwen3_vl
SEED ?= 1
QUICK ?=
OUT ?= outputs/gpu_check
STARTED := $(shell date +%s)

.PHONY: install lock newest quickstart quickstart-all control gpu-wheels gpu-check scaling test fuzz lint

INSTALLED := $(VENV)/.installed

# The versions of the lock; then each package is tried.
install: $(INSTALLED)
	$(VENV)/bin/spacevllm-cli doctor

$(INSTALLED): setup.py constraints/tested.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -c constraints/tested.txt -e ".[dev]"
	touch $@

# Writes the lock anew, from what pip takes within setup.py's ranges, once quickstart and tests have passed with it.
lock:
	$(PYTHON) constraints/lock.py

# What is out there beyond the lock and setup.py's upper bounds: runs the tests with it, names the package that breaks them.
newest: $(INSTALLED)
	$(VENV)/bin/python constraints/newest.py

# Data, full training, LoRA, merge, prediction, scores, pictures: 15 minutes on 2 cores, installation included.
# QUICK=1 takes the same path in three minutes, to lower figures.
quickstart: $(INSTALLED)
	$(VENV)/bin/python examples/quickstart/quickstart.py --backbone $(BACKBONE) --seed $(SEED) --started $(STARTED) \
		$(if $(QUICK),--quick)

# The same path with every backbone, one after the other.
quickstart-all: $(INSTALLED)
	for backbone in $$($(VENV)/bin/python -c "from spacevllm_plugin.backbones import registry; print(*registry.names())"); do \
		$(VENV)/bin/python examples/quickstart/quickstart.py --backbone $$backbone --seed $(SEED) \
			--out outputs/quickstart_$$backbone || exit 1; \
	done

# Boxes from queries against boxes written as text by the same backbone.
control: $(INSTALLED)
	$(VENV)/bin/python benchmarks/control.py

# What a GPU machine without a registry needs beside its torch, for its Python 3.12: make gpu-wheels WHEELS=DIR
PLATFORMS := manylinux_2_28_x86_64 manylinux_2_17_x86_64 manylinux2014_x86_64
gpu-wheels: $(INSTALLED)
	$(VENV)/bin/python -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
		$(addprefix --platform ,$(PLATFORMS)) -r constraints/gpu-wheels.txt -d $(WHEELS)
	DS_BUILD_OPS=0 $(VENV)/bin/python -m pip wheel --no-deps --no-build-isolation deepspeed==0.18.4 -w $(WHEELS)

# First thing on a GPU, nine minutes at most. With WHEELS=DIR the Python is $(PYTHON), torch in it; DRY=1 tries it on a CPU.
gpu-check: $(if $(WHEELS),,$(INSTALLED))
	$(if $(WHEELS),$(PYTHON),$(VENV)/bin/python) benchmarks/gpu_check.py --out $(OUT) \
		$(if $(WHEELS),--wheels $(WHEELS)) $(if $(DRY),--dry)

# The arithmetic of docs/scaling.md, printed and written into the page.
scaling: $(INSTALLED)
	$(VENV)/bin/python benchmarks/scaling.py --page docs/scaling.md

# On two cores some twenty minutes: two processes, each of one thread unless told otherwise, take whole files.
test: $(INSTALLED)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Bad input in quantity, to find what no test knows yet; `test` draws a few examples of the same.
fuzz: $(INSTALLED)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(VENV)/bin/python -m pytest --hypothesis-profile=fuzz tests/test_fuzz_*.py

lint: $(INSTALLED)
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
