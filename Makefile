# Two commands do all the set-up: `make demo` shows fleet at work, `make test` proves it.
# `make` alone is for whoever changes the code: format, lint, types, unit tests.

.DEFAULT_GOAL := check
.PHONY: check test soak lint setup programs welcome claude demo demo-stop bench accuracy docs picture clean help

VENV := .venv
BIN := $(VENV)/bin
MADE := $(VENV)/made
CLAUDE_VERSION := 2.1.329
CAPTURES ?= tests/screens
CLAUDE_PACKAGE := @anthropic-ai/claude-code-linux-$(if $(filter aarch64 arm64,$(shell uname -m)),arm64,x64)
CLAUDE := $(CURDIR)/.cache/claude-code-$(CLAUDE_VERSION)/node_modules/$(CLAUDE_PACKAGE)/claude
ALSO := PATH="$$PATH:/usr/sbin:$(CURDIR)/.cache/programs"
export FLEET_TEST_CLAUDE ?= $(CLAUDE)

check: $(MADE)  ## format, lint, check types and run the unit tests (what `make` alone does)
	@$(BIN)/ruff format --quiet
	@$(BIN)/ruff check --quiet
	@$(BIN)/mypy
	@$(BIN)/pytest -q -n 2 --dist worksteal tests/unit tests/test_house.py

test: lint programs welcome claude  ## set everything up, then run the whole suite on the real programs
	@$(ALSO) tools/suite $(BIN)/pytest -n 3 --dist worksteal --timeout 300 --durations=25

soak: lint programs welcome claude  ## 200 messages into the real Claude Code, past every obstacle and two dead daemons, an ssh link cut for five minutes, a job whose time runs out (25 min)
	FLEET_TEST_MESSAGES=200 $(BIN)/pytest --timeout 3000 tests/e2e/test_mail_daemon.py
	FLEET_TEST_CUT=300 $(BIN)/pytest --timeout 900 tests/e2e/test_ssh.py -k cut_link
	$(ALSO) FLEET_TEST_WALLTIME=5 $(BIN)/pytest --timeout 900 tests/e2e/test_slurm.py -k writes_down

lint: $(MADE)
	$(BIN)/ruff format --check --quiet
	$(BIN)/ruff check --quiet
	$(BIN)/mypy

setup: $(MADE)  ## make the environment .venv with fleet and its tools

$(MADE): pyproject.toml tools/constraints.txt tools/python tools/need
	@echo "Setting up $(VENV) (a minute, once)"
	@"$$(tools/python)" -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c tools/constraints.txt -e . --group dev
	@touch $@

programs:  # the multiplexers
	@tools/need tmux screen

welcome:  # what some tests need, which are passed over without it
	@$(ALSO) tools/need --welcome systemd-analyze=systemd ip=iproute2
	@$(ALSO) tools/need --welcome --service --unpack sshd=openssh-server ssh-keygen=openssh-client
	@$(ALSO) tools/need --welcome --service slurmctld slurmd sbatch=slurm-client

claude: $(FLEET_TEST_CLAUDE)  ## fetch the Claude Code program that the tests run, from the npm registry

$(CLAUDE):
	@tools/need npm
	@echo "Fetching Claude Code $(CLAUDE_VERSION) (npm, once)"
	@npm install --loglevel=error --no-audit --no-fund --no-save --ignore-scripts \
	    --prefix .cache/claude-code-$(CLAUDE_VERSION) $(CLAUDE_PACKAGE)@$(CLAUDE_VERSION)
	@test -x $@ && touch $@

demo: $(MADE)  ## install what is missing, start a small fleet and show it
	@tools/need tmux
	@tools/demo

demo-stop:  ## end the demo and all it started
	@tools/demo stop

bench: $(MADE) programs  ## measure fleet beside its peers, and write docs/benchmarks.md (ONLY=supervision, hub, ssh or slurm: that table)
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY))

accuracy: $(MADE)  ## judge every screen of CAPTURES=DIR, and print the table by state
	@$(BIN)/python tests/accuracy.py $(CAPTURES)

docs: $(MADE)  ## draw the documents that are drawn from the code again
	@$(BIN)/python -m tests.draw

picture: $(MADE) programs claude  ## draw docs/status.svg again, from a real fleet
	@$(BIN)/python -m tests.picture

clean:  ## remove what make has made
	@if [ -d .cache/demo ]; then tools/demo stop; fi
	rm -rf $(VENV) .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find fleet tests -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' Makefile
