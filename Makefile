# A fresh machine needs Python >= 3.11 with venv, make, and a package index. VENV=… uses an environment of your own.
VENV ?= .venv
PYTHON ?= python3
BACKBONE ?= qwen3_vl
SEED ?= 1
STARTED := $(shell date +%s)

.PHONY: install quickstart quickstart-all control test lint

install: $(VENV)/.installed

$(VENV)/.installed: setup.py
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet -e ".[dev]"
	touch $@

# Data, full training, LoRA, merge, prediction, scores, pictures: 15 minutes on 2 cores, installation included.
quickstart: install
	$(VENV)/bin/python examples/quickstart/quickstart.py --backbone $(BACKBONE) --seed $(SEED) --started $(STARTED)

# The same path with the other two backbones.
quickstart-all: install
	for backbone in qwen3_vl qwen2_5_vl llava_onevision; do \
		$(VENV)/bin/python examples/quickstart/quickstart.py --backbone $$backbone --seed $(SEED) \
			--out outputs/quickstart_$$backbone || exit 1; \
	done

# Boxes from queries against boxes written as text by the same backbone.
control: install
	$(VENV)/bin/python benchmarks/control.py

test: install
	$(VENV)/bin/python -m pytest

lint: install
	$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check .
