# Nine words. `make run` and `make test` need only Debian 12's python3, python3-venv and make.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/uv pip install --quiet --python .venv
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-emit-find-links \
	--no-annotate --no-header --python-version 3.11 pyproject.toml

.DEFAULT_GOAL := run
.PHONY: run demo test check bench bench-peers prove lock clean

run: .venv/emulator        ## the gateway with the embedded emulator on http://127.0.0.1:8000
	$(BIN)/transcribe serve

demo: .venv/emulator       ## the sample recording through a gateway of its own, captions on the terminal
	$(BIN)/transcribe demo

test: .venv/dev            ## every test
	$(BIN)/pytest -n auto --maxprocesses 4 --dist worksteal

check: .venv/dev           ## format, lint, strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: .venv/dev           ## what is measured: see bench/README.md
	$(BIN)/python -m bench

bench-peers: .venv/dev .venv-peers/ready  ## the same beside LiveKit's and Pipecat's Google drivers
	$(BIN)/python -m bench speed

prove: .venv/dev           ## that no word is lost upstream and none stands twice: 42 runs, almost two hours
	$(BIN)/python -m bench.prove --jobs 6

lock: .venv/dev            ## renew the pinned versions and hashes in requirements/
	$(LOCK) --upgrade --extra dev --extra microphone -o requirements/dev.txt
	$(LOCK) -c requirements/dev.txt --extra install --extra emulator --extra microphone -o requirements/emulator.txt
	$(LOCK) -c requirements/dev.txt --extra install -o requirements/gateway.txt
	$(LOCK) --upgrade --extra peers -o requirements/peers.txt  # on its own: Pipecat wants an older protobuf

clean:                     ## forget the virtual environment and every cache
	rm -rf .venv .venv-peers .pytest_cache .mypy_cache .ruff_cache .hypothesis

# One virtual environment. Each stamp says which of the locked sets is in it: dev holds emulator holds gateway.
# uv (itself pinned by hash) installs in seconds what pip takes a minute for.
.venv/bin/uv: requirements/emulator.txt
	$(PYTHON) -m venv .venv
	grep -A20 '^uv==' requirements/emulator.txt | awk 'NR > 1 && !/--hash/ {exit} {print}' > .venv/uv.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.txt
	touch $@

.venv/emulator: requirements/emulator.txt pyproject.toml | .venv/bin/uv
	$(INSTALL) --require-hashes -r requirements/emulator.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

.venv/dev: requirements/dev.txt pyproject.toml | .venv/bin/uv
	$(INSTALL) --require-hashes -r requirements/dev.txt
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@ .venv/emulator

# Other gateways, for comparison: not in ours.
.venv-peers/ready: requirements/peers.txt | .venv/bin/uv
	$(PYTHON) -m venv .venv-peers
	$(BIN)/uv pip install --quiet --python .venv-peers --require-hashes -r $<
	touch $@
