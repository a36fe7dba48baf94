# make demo: the demo study, from nothing to its report.   make test: the test suite.   make test-cluster: SLURM and faults.
PYTHON ?= python3
CORES ?= all
BIN := .venv/bin

# What takes longer: a real SLURM on this machine, interrupted jobs, full disks. They run apart.
APART := tests/workflow/slurm tests/workflow/faults
# Two files at a time, in the order given: what takes longest goes first, so that both end together.
IN_ORDER := -n 2 --dist loadfile --no-loadscope-reorder
# The first of these makes the finished study; those after test_[a-c]* need it, and would wait for it.
LONG := tests/workflow/test_own_models.py tests/workflow/test_own_dictionaries.py tests/workflow/test_trained_controls.py $(wildcard tests/test_[a-c]*.py) \
	tests/workflow/test_measured_controls.py tests/workflow/test_reruns.py tests/test_peers.py tests/test_peers_autoencoders.py

.PHONY: audit demo controls test test-oldest test-cluster bench-autoencoder bench-correlation bench-report planted-truth environment peers lint docs clean

demo: environment
	$(BIN)/snakemake --profile profiles/local --cores $(CORES)

# The demo with the controls that are off by default: untrained models, autoencoders started from the parent's, the published measure.
controls: environment
	$(BIN)/snakemake --profile profiles/local --cores $(CORES) --configfile config/config.yaml config/controls.yaml

test: environment peers
	$(BIN)/python -m pytest $(IN_ORDER) $(LONG) $(filter-out $(LONG),$(wildcard tests/test_*.py tests/workflow/test_*.py))

# What computes, with the oldest torch that the package accepts and with another Python. Say make test-oldest PYTHON=python3.12.
test-oldest: .venv-oldest/installed
	.venv-oldest/bin/python -m pytest tests/test_[a-g]*.py tests/test_l*.py tests/test_merge.py tests/test_training*.py

.venv-oldest/installed: envs/requirements.txt
	$(PYTHON) -m venv .venv-oldest
	sed 's/^torch==.*/torch==2.11.0/' $< > .venv-oldest/requirements.txt
	.venv-oldest/bin/python -m pip install --quiet --disable-pip-version-check -r .venv-oldest/requirements.txt
	@touch $@

test-cluster: environment
	$(BIN)/python -m pytest $(IN_ORDER) $(APART)

# One training step at the paper's shape, beside SAELens.
bench-autoencoder: environment peers
	$(BIN)/python benchmarks/autoencoder.py

# All pairs of features at the paper's size, beside a dense product and the published method. OPTIONS=--large for 131,072 features.
bench-correlation: environment
	$(BIN)/python benchmarks/correlation.py $(OPTIONS)

# The report of 4 x 16,384 features in Chromium: first screen and filters.
bench-report: environment
	$(BIN)/python benchmarks/report.py

# Two synthetic models whose features are known: does the flow find what was planted?
planted-truth: environment
	$(BIN)/python benchmarks/planted_truth.py

environment: .venv/installed
peers: .venv-peers/installed

.venv/installed: envs/requirements.txt envs/demo.txt pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed; say make PYTHON=python3.11')"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r envs/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/demo.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

# The libraries that some tests compare with. They do not fit into one environment with ours; without them those tests skip.
.venv-peers/installed: envs/peers.txt envs/peers.alone.txt
	-$(PYTHON) -m venv .venv-peers && .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r $< \
		&& .venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r envs/peers.alone.txt && touch $@

# What is known against the locked versions. Needs PyPI's own service or, with OPTIONS="-s osv", OSV's; a mirror of packages alone has neither.
audit: .venv-audit/installed
	.venv-audit/bin/pip-audit --requirement envs/requirements.txt --no-deps --disable-pip --strict $(OPTIONS)

.venv-audit/installed:
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	@touch $@

lint: environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint
	$(BIN)/lint-imports

docs: environment
	$(BIN)/python -m feature_lineage.study.reference
	$(BIN)/python envs/sync.py

clean:
	rm -rf .venv .venv-peers .venv-audit .venv-oldest .snakemake results/*
