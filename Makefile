# `make demo`, `make test` and `make check` set up their virtual environment by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Tests run side by side, each worker with its share of the cores: a worker takes up to 2 GiB.
WORKERS ?= auto
INSTALLED := $(VENV)/.installed
# Extras whose packages are on PyPI as wheels: those of TensorRT fetch their libraries from elsewhere.
LOCKED_RUNTIMES := ort openvino

.PHONY: demo test check format wheel locks sbom gpu-check model-signing clean

demo: $(INSTALLED)
	$(BIN)/smp-deploy demo --output build/demo

# A worker that dies ends the run, which names its test: xdist may wait forever for one that replaces it.
test: $(INSTALLED)
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal \
		--max-worker-restart 0

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel: $(INSTALLED)
	$(BIN)/python -m pip wheel --no-deps --wheel-dir build/dist .

# What a vehicle installs with `pip install --require-hashes`: the base, one runtime, and what checks signatures.
locks: $(INSTALLED)
	for runtime in $(LOCKED_RUNTIMES); do \
		$(BIN)/uv pip compile pyproject.toml --extra $$runtime --extra sign --universal \
			--python-version 3.10 --generate-hashes --no-build --constraint constraints.txt --upgrade --quiet \
			--custom-compile-command "make locks" --output-file locks/vehicle-$$runtime.txt || exit 1; \
	done

# The bill of materials of what is installed here, CycloneDX 1.6, in build/sbom.cdx.json.
sbom: $(INSTALLED)
	mkdir -p build
	$(BIN)/smp-deploy doctor --sbom > build/sbom.cdx.json.partial
	mv build/sbom.cdx.json.partial build/sbom.cdx.json

gpu-check: $(INSTALLED)
	$(BIN)/python benchmarks/gpu_check.py

# OpenSSF's tool, with its many packages, in an environment of its own; model_signing 1.1.1 does not ask for pyOpenSSL.
build/model-signing/.installed:
	$(PYTHON) -m venv build/model-signing
	build/model-signing/bin/python -m pip install --quiet model-signing==1.1.1 sigstore==4.5.1 pyOpenSSL==26.4.0
	touch $@

model-signing: $(INSTALLED) build/model-signing/.installed
	MODEL_SIGNING=$(CURDIR)/build/model-signing/bin/model_signing $(BIN)/python -m pytest tests/engines/trust

clean:
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all]" --group dev
	touch $@
