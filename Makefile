# SPDX-License-Identifier: Apache-2.0
# For machines without ROS: everything runs in .venv, ROS 2 itself from wheels.
# On a vehicle with a ROS distribution use colcon build instead.

PYTHON ?= python3
TORCH ?= torch==2.13.0
IMAGES ?=
FOV ?=
OUT ?= demo_out

VENV := .venv
STAMP := $(VENV)/.installed
BIN := $(VENV)/bin

export ROS_AUTOMATIC_DISCOVERY_RANGE := LOCALHOST
# A sourced ROS distribution must not be mixed with the wheels: its modules would come first and
# its libraries have other versions. The last name is the wheels' own mark that a process already
# has their library path, which is another environment's when make was started from one.
unexport AMENT_PREFIX_PATH PYTHONPATH RMW_IMPLEMENTATION _ROS_WHEELS_BOOTSTRAP_COMPLETE
empty :=
export LD_LIBRARY_PATH := $(subst $(empty) $(empty),:,$(filter-out /opt/ros/%,$(subst :, ,$(LD_LIBRARY_PATH))))

.DEFAULT_GOAL := help
.PHONY: help demo test lint clean

help:
	@echo 'make demo    masks and depth for pictures, through the real node; no ROS needed'
	@echo '             IMAGES=folder of pictures (default: rendered streets)  OUT=folder (demo_out)'
	@echo '             FOV=their horizontal field of view in degrees (60)'
	@echo 'make test    lint, then every test'
	@echo 'make lint    ruff check, ruff format --check and mypy'
	@echo 'make clean   remove $(VENV) and everything that was built'
	@echo
	@echo 'All of them install into $(VENV) first, from wheels for x86-64 Linux.'
	@echo 'PYTHON=python3.11   which Python: 3.10, 3.11 or 3.12'
	@echo 'TORCH="..."         what pip installs for PyTorch (torch==2.13.0). Where that brings a CUDA'
	@echo '                    build of several GB and the CPU is enough, give the CPU build instead:'
	@echo '                    TORCH="torch==2.13.0+cpu --extra-index-url URL-of-the-CPU-builds"'

# Before the installation, which takes minutes.
.PHONY: images
images:
	@test -z '$(IMAGES)' || test -d '$(IMAGES)' || { \
	    echo 'IMAGES is $(IMAGES), which is not a folder' >&2; exit 1; }

demo: images $(STAMP)
	$(BIN)/depthforge demo $(if $(IMAGES),--images "$(IMAGES)") \
	    $(if $(FOV),--fov "$(FOV)") --out "$(OUT)"

# Three groups: OpenVINO and ONNX Runtime, ROS and matplotlib bring native libraries of their own, and
# all of them in one process for minutes have crashed it. In each group pytest-xdist runs tests side by
# side, with one thread each: of the first two a file at a time, as modules share costly fixtures. Those
# of the last mostly wait for other processes, so more of them run at once than there are cores.
ENGINE_TESTS := test/engine test/network test/pipeline
LEARNING_TESTS := test/core test/learning test/project test/street test/weights
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test: lint
	$(PYTEST) -n 2 --dist loadfile $(ENGINE_TESTS)
	$(PYTEST) -n 2 --dist loadfile $(LEARNING_TESTS)
	$(PYTEST) -n 4 --dist worksteal $(addprefix --ignore=,$(ENGINE_TESTS) $(LEARNING_TESTS))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build install log *.egg-info .pytest_cache .ruff_cache .hypothesis

$(STAMP): setup.py setup.cfg pyproject.toml package.xml
	@$(PYTHON) -c '' || { echo '$(PYTHON) does not run; give another: make PYTHON=python3.11' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
	    echo "$(PYTHON) is $$($(PYTHON) --version); expected Python 3.10, 3.11 or 3.12:" \
	         "make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo '$(PYTHON) cannot make virtual environments; on Debian and Ubuntu:' \
	         'sudo apt install python3-venv' >&2; exit 1; }
	@echo 'Installing into $(VENV): some minutes and, with the CPU build of PyTorch, 1.5 GB.'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet $(TORCH)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[ros,train,hub,test]'
	@touch $@
