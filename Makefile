# Distill-Net. `make help` lists what there is. The two commands a newcomer needs: `make demo` and `make test`.
SHELL := /bin/bash
.DELETE_ON_ERROR:
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
ARGS ?=
comma := ,
SOURCES := $(shell find device cloud proto -type f -not -path '*/__pycache__/*' -not -name '*.so')

.PHONY: bench-arm bench-daemon bench-ears bench-engine bench-fleet bench-layers board-profiles broker check check-code clean ctest deb demo develop docs eval-audio eval-bottles eval-distill eval-vision fuzz help install pictures soak-daemon stubs test test-arm test-chaos test-deb test-endurance test-ray test-systemd test-updates unit valgrind wheels

help: ## What there is
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/.deps: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing what pyproject.toml names; the first time takes a few minutes"
	$(PIP) install --progress-bar on -q -c constraints.txt 'torch==2.13.0'
	$(BIN)/python deploy/requirements.py | $(PIP) install --progress-bar on -q -c constraints.txt -r /dev/stdin
	@touch $@

$(VENV)/.wheel: $(VENV)/.deps CMakeLists.txt $(SOURCES)
	$(PIP) install -q --no-deps --force-reinstall --no-build-isolation .
	@rm -f $(VENV)/.develop; touch $@

install: $(VENV)/.wheel ## Create .venv and install the wheel with everything

develop: $(VENV)/.deps ## Install editable: Python edits are live, `make develop` again after C edits
	$(PIP) install -q --no-deps --no-build-isolation -e .
	@rm -f $(VENV)/.wheel; touch $(VENV)/.develop

demo: install ## The main job end to end on real input (ARGS=--json for machines)
	@$(BIN)/distillnet demo $(ARGS)

broker: # a real broker for the integration tests, where we may install one
	@command -v mosquitto >/dev/null || test -x /usr/sbin/mosquitto || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && (apt-get install -y -qq mosquitto >/dev/null 2>&1 || { apt-get update -qq && apt-get install -y -qq mosquitto >/dev/null; }); } \
	  || echo "no Mosquitto and no right to install it: tests that need it will be skipped"

test: install broker check-code ctest ## Everything CI runs
	$(BIN)/pytest

check: check-code ctest unit ## Lint, layers, types, unit tests, sanitised C tests; two minutes

check-code: $(VENV)/.deps
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=device:cloud:proto $(BIN)/lint-imports --no-cache
	$(BIN)/mypy device cloud proto

unit: $(VENV)/.deps
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/pytest -m 'not integration and not slow'

ctest: $(VENV)/.deps ## The engine's C tests under ASan and UBSan
	$(BIN)/cmake -S . -B build/san -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DDN_SANITIZE=ON >/dev/null
	$(BIN)/cmake --build build/san
	cd build/san && $(abspath $(BIN))/ctest --output-on-failure

valgrind: $(VENV)/.deps ## The same under valgrind, unsanitised, as released but for AVX-512, which valgrind has not
	@command -v valgrind >/dev/null || { echo "no valgrind: apt-get install valgrind"; exit 1; }
	$(BIN)/cmake -S . -B build/valgrind -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  "-DCMAKE_CROSSCOMPILING_EMULATOR=valgrind;--error-exitcode=9;--leak-check=full" >/dev/null
	$(BIN)/cmake --build build/valgrind
	set -o pipefail; cd build/valgrind && $(abspath $(BIN))/ctest --verbose | grep -E "ERROR SUMMARY|==.* at 0x|==.* by 0x|[Pp]assed|Failed"

wheels: $(VENV)/.deps ## abi3 wheels for x86_64 and aarch64 into dist/, audited
	$(BIN)/python deploy/wheels.py

deb: $(VENV)/.deps ## Debian packages of the device for amd64 and arm64 into dist/
	$(BIN)/python deploy/debs.py

test-arm: $(VENV)/.deps ## The aarch64 wheel under qemu-user: same outputs, same event lines; the whole daemon with an update and a rollback
	@test -e $(VENV)/.develop || $(MAKE) install
	DISTILLNET_ARM_CPUS=cortex-a53,cortex-a72,max $(BIN)/pytest -rs tests/deploy/test_arm.py tests/deploy/test_arm_daemon.py

board-profiles: $(VENV)/.deps ## Measure this machine's layers and rewrite the profiles of boards that `distill` knows; on an idle machine
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python deploy/board_estimates.py $(ARGS)

test-deb: $(VENV)/.deps ## The packages of both architectures in clean roots, and lintian; arm64 under qemu-user, root only
	@test -e $(VENV)/.develop || $(MAKE) install
	DISTILLNET_DEB_ARCHS=amd64,arm64 $(BIN)/pytest -rs tests/deploy/test_deb.py

test-systemd: $(VENV)/.deps ## The unit under a real systemd in a container: watchdog, reload, sandbox, reboot, purge; root only
	@test -e $(VENV)/.develop || $(MAKE) install
	DISTILLNET_SYSTEMD=1 $(BIN)/pytest -rs tests/deploy/test_systemd.py

docs: $(VENV)/.deps ## Regenerate the references and build the site, build/site/README.html
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python deploy/cli_reference.py
	$(BIN)/python -m distillnet.device.schemas docs/mqtt
	$(BIN)/python deploy/reference.py
	$(BIN)/python deploy/docs_site.py

pictures: $(VENV)/.deps ## The README's pictures, from what `make demo` has made; needs Chromium
	@test -e .demo/second/report.html || $(MAKE) demo
	$(BIN)/python deploy/pictures.py

stubs: $(VENV)/.deps ## Regenerate the gRPC stubs
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=proto --pyi_out=proto --grpc_python_out=proto proto/distillnet/proto/v1/*.proto

eval-vision: $(VENV)/.deps ## The essential core against its controls; hours, resumable (ARGS="--quick", or "--seeds 2 --minutes 360")
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python -m distillnet.cloud.evaluation $(ARGS)

eval-distill: $(VENV)/.deps ## `distill` as a user runs it beside a probe on the same labels; two hours, resumable (ARGS="--cases backyard,backyard-few")
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python -m distillnet.cloud.evaluation.distilled $(ARGS)

eval-audio: $(VENV)/.deps ## Students of ten sounds beside YAMNet, cross-validated by fold; resumable; fetches 6.6 GB of Debian packages once
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python deploy/debian_sounds.py build/sounds
	$(BIN)/python -m distillnet.cloud.audio $(ARGS)

bench-fleet: $(VENV)/.deps ## Load on one fleet service (ARGS="--devices 1250,2500,5000 --keep FILE")
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python tests/cloud/fleet/bench_fleet.py $(ARGS)

bench-daemon: $(VENV)/.deps ## What the daemon costs beside a plain OpenCV + LiteRT + paho script
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python tests/device/bench_daemon.py $(ARGS)

bench-ears: $(VENV)/.deps ## What a daemon that only hears costs: CPU and memory (ARGS="--device default")
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python tests/device/sound/bench_ears.py $(ARGS)

bench-engine: $(VENV)/.deps ## The engine beside LiteRT, ONNX Runtime, OpenVINO and ncnn, interleaved (ARGS=MODEL…)
	@test -e $(VENV)/.develop || $(MAKE) install
	$(PIP) install -q -c constraints.txt onnx==1.23.2 openvino==2026.4.1 ncnn==1.0.20261020 pnnx==20261020
	$(BIN)/python tests/engine/bench_engine.py $(ARGS)
	@echo "with AVX2 alone, for all engines:"
	$(BIN)/python tests/engine/bench_engine.py --hide vnni --threads 1 --peers litert $(ARGS)

bench-arm: $(VENV)/.deps ## Instructions per inference on aarch64 beside tflite-runtime, under qemu-user (ARGS=MODEL…)
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python tests/engine/bench_arm.py $(ARGS)

eval-bottles: $(VENV)/.deps ## A student for the bottle video from other data, replay, score; half an hour the first time
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python tests/device/eval_bottles.py $(ARGS)

soak-daemon: $(VENV)/.deps ## An hour of accelerated stream: does memory grow? (ARGS="--minutes 60 --fps 120")
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python tests/device/soak_daemon.py $(ARGS)

test-endurance: $(VENV)/.deps ## 20 broker restarts, 200 SIGKILLs, full and read-only disks: no event lost; half an hour
	@test -e $(VENV)/.develop || $(MAKE) install
	DISTILLNET_LONG=1 $(BIN)/pytest tests/device/test_endurance.py -o log_cli=true -o log_cli_level=INFO

bench-layers: $(VENV)/.deps ## Every layer on one and two threads, against the peak of this CPU measured on the spot (MODELS="…" KERNELS=avx2)
	$(BIN)/cmake -S . -B build/bench -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja >/dev/null
	$(BIN)/cmake --build build/bench --target bench_layers
	@for model in $(or $(MODELS),$(wildcard $(or $(DISTILLNET_DATA),../shared/data)/models/*int8.tflite)); do \
	  build/bench/device/csrc/tests/bench_layers $$model "$(KERNELS)" || exit 1; done

test-updates: $(VENV)/.deps ## Power cuts, attacks, bad networks, crashes, a hundred updates, fuzzed gRPC, timings; 20 minutes (ARGS=--short: 4)
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python tests/device/update/support/report.py $(ARGS)

test-chaos: $(VENV)/.deps ## kill -9 of service, PostgreSQL and broker during rollouts to 200 devices, ten times
	@test -e $(VENV)/.develop || $(MAKE) install
	$(BIN)/python tests/cloud/fleet/chaos.py $(ARGS)

test-ray: $(VENV)/.deps ## Jobs on a real local Ray cluster of several node processes
	@test -e $(VENV)/.develop || $(MAKE) install
	@$(BIN)/python -c 'import ray' 2>/dev/null || $(PIP) install -q -c constraints.txt 'ray>=2.40,<3'
	$(BIN)/pytest -rs -m ray tests/cloud

fuzz: $(VENV)/.deps ## Fuzz the reader, planner and runner (MINUTES=10 SANITIZERS=address,undefined|memory; needs clang)
	device/csrc/fuzz/run.sh $(or $(MINUTES),10) $(or $(SANITIZERS),address$(comma)undefined)

clean: ## Remove what was built and installed
	rm -rf $(VENV) build dist .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
