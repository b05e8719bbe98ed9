# Every command of this repository. They need git, make, Python 3.11 to 3.13 and the package index, make their own
# virtual environment in $(VENV) and install nothing outside it.

PYTHONS ?= $(shell .ci/pythons)
PYTHON ?= $(firstword $(PYTHONS))
VENV ?= .venv

# Tool, target, name and flags of `make image`.
CONTAINER_TOOL ?= $(if $(shell command -v podman),podman,docker)
TARGET ?= cpu
IMAGE ?= mse-grad:$(TARGET)
IMAGE_FLAGS ?=
SBOM := $(if $(filter cpu,$(TARGET)),image,image-$(TARGET)).cdx.json
# The labels of the image; the time is that of the commit, so that it does not change with each build.
IMAGE_LABELS = --build-arg VERSION=$(shell sed -n 's/^VERSION = "\(.*\)"/\1/p' proto/mse_grad/version.py) \
	--build-arg REVISION=$(shell git rev-parse HEAD) --build-arg CREATED=$(shell git show -s --format=%cI) \
	--build-arg SOURCE=$(shell git config --get remote.origin.url | sed "s,//[^/@]*@,//,")
# Base image of `make image-test` in a registry. If it is empty, debootstrap makes the base.
export DEBIAN_IMAGE ?=
DEBIAN_ROOT := $(if $(DEBIAN_IMAGE),,build/debian.tar)

# Flags for processes that share the tests of `make test`. Empty: one after the other, as a debugger needs it.
PARALLEL ?= --numprocesses logical --maxprocesses 4 --dist loadfile

# Flags of `make lock`: one file for every Python and processor.
LOCK := --universal --python-version 3.11 --generate-hashes --upgrade --custom-compile-command 'make lock'

bin := $(VENV)/bin
pip := $(bin)/python -m pip install --quiet

.PHONY: help demo serve test test-all test-slow test-pythons coverage lint format bench bench-peers restarts \
	overload attacks docs report wheels lock audit libraries image image-test dashboard-pictures simulator \
	simulator-report operator-bar fuzz fuzz-cpp chaos soak generate clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

demo: $(VENV)/installed ## Start a server, compute through it on real input, check every gradient
	@$(bin)/python client/examples/demo.py

serve: $(VENV)/installed ## Run a server on 127.0.0.1:50051, its metrics on 127.0.0.1:9464
	$(bin)/mse-grad-server --listen 127.0.0.1:50051 --metrics-listen 127.0.0.1:9464

test: $(VENV)/installed-test ## Run the tests of every change, in minutes
	@$(bin)/python -m pytest -m "not slow" $(PARALLEL) $(ARGS)

test-all: test test-pythons test-slow ## Run every test, on this machine's other Pythons too if it depends on Python

test-slow: $(VENV)/installed-test ## Run the tests that `make test` leaves out
	@$(bin)/python -m pytest -m slow $(ARGS)

test-pythons: ## Run `make test` on this machine's other Pythons from 3.11 to 3.13, without tests marked one_python
	@for python in $(filter-out $(PYTHON),$(PYTHONS)); do \
		version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])') && \
		echo "make test on Python $$version" && \
		$(MAKE) --no-print-directory test PYTHON=$$python VENV=build/venv-$$version \
			ARGS="--quiet -m 'not slow and not one_python' $(ARGS)" || exit 1; \
	done

coverage: $(VENV)/installed-coverage ## Run `make test` and measure lines and branches; the report is build/coverage/html
	@rm -rf build/coverage && mkdir -p build/coverage
	@$(bin)/python -m pytest -m "not slow" --cov --cov-branch --cov-report= $(PARALLEL) $(ARGS)
	@$(bin)/python -m coverage html --quiet --directory build/coverage/html
	@$(bin)/python -m coverage report --format=markdown > build/coverage/summary.md
	@$(bin)/python -m coverage report --format=total

lint: $(VENV)/installed-lint ## Check style, types, imports between rooms, C++ format, workflows
	@$(bin)/python -m ruff check
	@$(bin)/python -m ruff format --check
	@$(bin)/python -m mypy
	@MYPYPATH=deploy/grafana $(bin)/python -m mypy deploy/grafana
	@$(bin)/python -m mypy --platform darwin proto client kernel/mse_grad_kernel
	@$(bin)/python -m mypy --platform win32 proto client kernel/mse_grad_kernel
	@$(bin)/lint-imports
	@git ls-files -z '*.cpp' '*.h' | xargs -0 -r $(bin)/clang-format --dry-run -Werror
	@$(bin)/hadolint Dockerfile tests/deploy/*.Dockerfile
	@$(bin)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(bin)/check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml

format: $(VENV)/installed-lint ## Rewrite Python and C++ in the style that `make lint` asks for
	@$(bin)/python -m ruff check --fix
	@$(bin)/python -m ruff format
	@git ls-files -z '*.cpp' '*.h' | xargs -0 -r $(bin)/clang-format -i

bench: $(VENV)/installed-test ## Measure against plain grpcio, NumPy and (if installed) PyTorch
	@PYTHONPATH=tests $(bin)/python -m benchmarks.peers --preset bench $(ARGS)

restarts: $(VENV)/installed-test ## Restart a server of two workers 300 times under load; check each drain
	@PYTHONPATH=tests $(bin)/python -m benchmarks.restarts $(ARGS)

overload: $(VENV)/installed-test ## Offer a server more than it can compute; print goodput and latency as ratios
	@PYTHONPATH=tests $(bin)/python -m benchmarks.overload $(ARGS)

attacks: $(VENV)/installed-test ## Attack a server over loopback; measure its memory, stalls, log and latency
	@PYTHONPATH=tests $(bin)/python -m benchmarks.attacks $(ARGS)

fuzz: $(VENV)/installed-test ## Send a million messages that are almost valid to a server; judge every answer
	@PYTHONPATH=tests $(bin)/python -m fuzz $(ARGS)

fuzz-cpp: $(VENV)/installed-test ## Fuzz the C++ of CPU kernel and operators under sanitizers, five minutes a target
	@PYTHONPATH=tests $(bin)/python -m fuzz.cpp $(ARGS)

chaos: $(VENV)/installed-test ## Make a simulated NPU fail at random under load for ten minutes; check every answer
	@PYTHONPATH=tests $(bin)/python -m benchmarks.chaos $(ARGS)

soak: $(VENV)/installed-test ## Call over every transport with every kind of end for two hours; nothing may grow
	@PYTHONPATH=tests $(bin)/python -m benchmarks.soak $(ARGS)

bench-peers: $(VENV)/installed-test ## Measure against Arrow Flight, Triton and others, each in its own environment
	@PYTHONPATH=tests $(bin)/python -m benchmarks.peers --plot $(if $(ARGS),build,docs)/bench-peers.png $(ARGS)

docs: $(VENV)/installed-docs ## Build the site into build/site, without a warning, and check every link
	@NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --quiet --strict
	@PYTHONPATH=tests $(bin)/python -m tools.site_links build/site

report: $(VENV)/installed-test ## Rewrite the pages of figures from those that claim them, once the claims are committed
	@PYTHONPATH=tests $(bin)/python -m tools.report

wheels: $(VENV)/installed-wheels ## Build source distribution and wheels into dist, install and use the one for this machine
	@PYTHONPATH=tests $(bin)/python -m tools.wheels dist
	@$(bin)/python tests/tools/use_wheel.py dist

lock: $(VENV)/installed-lock ## Choose the versions of the image's packages again, with their hashes
	@echo 'hatchling>=1.27' | $(bin)/uv pip compile --quiet $(LOCK) --output-file deploy/requirements-build.txt -
	@$(bin)/uv pip compile --quiet $(LOCK) --extra server --extra cli --output-file deploy/requirements.txt pyproject.toml

audit: $(VENV)/installed-audit ## Look up known vulnerabilities of the image's packages
	@$(bin)/python -m pip_audit --strict --require-hashes --disable-pip -r deploy/requirements.txt -r deploy/requirements-build.txt || \
		{ echo "make audit: not clean, as above. If the database of vulnerabilities could not be asked," \
		"nothing is known about the packages." >&2; exit 1; }

libraries: $(VENV)/installed-libraries ## Install the libraries beside which the slow tests run, such as PyTorch

image: $(VENV)/installed-image ## Build the image TARGET=cpu or ascend, and list its contents in build/ (CycloneDX)
	@BUILDAH_FORMAT=docker $(CONTAINER_TOOL) build --target $(TARGET) --tag $(IMAGE) $(IMAGE_LABELS) $(IMAGE_FLAGS) .
	@mkdir -p build && rm -f build/image.tar
	@$(CONTAINER_TOOL) save --output build/image.tar $(IMAGE)
	@$(bin)/syft scan docker-archive:build/image.tar --quiet --output cyclonedx-json=build/$(SBOM)
	@rm build/image.tar

image-test: $(VENV)/installed-test $(VENV)/installed-image $(DEBIAN_ROOT) ## Run the images and compose files, as root
	@$(bin)/python -m pytest tests/deploy/check_image.py tests/deploy/check_compose.py $(ARGS)

dashboard-pictures: $(VENV)/installed-test $(VENV)/installed-pictures ## Draw the dashboards into build/dashboards
	@$(bin)/python -m pytest tests/deploy/check_pictures.py $(ARGS)

simulator: ## Build the simulated NPU and, on it, kernel/ and op_host/
	@mkdir -p build
	@echo "building what is not up to date in build/simulator"
	@flock build/simulator.lock $(MAKE) --no-print-directory --silent -j2 -f tests/simulator/Makefile

simulator-report: $(VENV)/installed-test ## Print the kernel's counters, bar and estimated cost on the simulated NPU
	@PYTHONPATH=tests $(bin)/python -m tools.simulator_report $(ARGS)

operator-bar: $(VENV)/installed-test ## Build the operators with CANN and check their bits on this host's NPU
	@cmake -S op_host -B build/op_host $(addprefix -DASCEND_COMPUTE_UNIT=,$(PRODUCT))
	@cmake --build build/op_host --target binary package
	@build/op_host/custom_opp_*.run --install-path=$(CURDIR)/build/opp
	@. build/opp/vendors/mse_grad/bin/set_env.bash && \
		PYTHONPATH=tests $(bin)/python -m tools.device_bar --package build/opp/vendors/mse_grad/op_api/lib $(ARGS)

generate: build/venv-generate/installed ## Regenerate the modules of proto/
	@build/venv-generate/bin/python proto/generate.py

clean: ## Remove everything that these commands made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	rm -f kernel/mse_grad_kernel/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: a second run installs nothing unless the packaging or the native kernel changed.

$(VENV)/made:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 with venv and pip found (Debian: apt-get install python3-venv);" \
		"name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(pip) --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/installed: pyproject.toml $(wildcard kernel/cpu/*.cpp kernel/cpu/*.h kernel/cpu/*.py) | $(VENV)/made
	@echo "installing mse-grad into $(VENV)"
	@$(pip) --editable '.[server,cli]'
	@touch $@

$(addprefix $(VENV)/installed-,test lint coverage docs wheels lock audit libraries image pictures): $(VENV)/installed-%: $(VENV)/installed
	@echo "installing the packages for $* into $(VENV)"
	@$(pip) --group $*
	@touch $@

build/debian.tar:
	@echo "making a Debian 12"
	@rm -rf build/debian && mkdir -p build/debian
	@debootstrap --variant=minbase bookworm build/debian > build/debian.log || { cat build/debian.log >&2; exit 1; }
	@tar -C build/debian -cf $@.new . && mv $@.new $@
	@rm -rf build/debian

# In its own environment, because grpcio-tools pins protobuf to the version that it generates for.
build/venv-generate/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "no Python 3.11 to 3.13 found" >&2; exit 1; }
	@$(PYTHON) -m venv --clear build/venv-generate
	@build/venv-generate/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	@build/venv-generate/bin/python -m pip install --quiet --group generate
	@touch $@
