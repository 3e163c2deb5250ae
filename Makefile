# Two commands matter: `make reproduce` and `make test`. Works with GNU make 3.81 (macOS) and newer.

PYTHON ?= python3
PAPER ?=
# Not `?=`: some systems export NAME or PROFILE for purposes of their own.
PROFILE = long
NAME =

# Stages of the pipeline start programs by name: those of .venv come first.
# Set per command, not for make as a whole: $(PYTHON) must stay the system's.
VENV = PATH="$(CURDIR)/.venv/bin:$$PATH" .venv/bin/python -m
HYENA = $(VENV) hyena
# Figures of a notebook are part of what is compared, whatever backend the environment asks for.
INLINE = module://matplotlib_inline.backend_inline

.PHONY: help reproduce test lab figures long bench html clean preflight paper-given
.DEFAULT_GOAL := help

help: ## print these lines
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1: \2/p' Makefile

# compare exits with 1 where a number differs beyond tolerance: a finding, not a failure.
reproduce: .venv/.ready ## train, run the notebooks and judge the claims, quick profile (PAPER=hyena for one paper)
	@$(if $(PAPER),$(HYENA) list $(PAPER) >/dev/null)
	$(if $(PAPER),$(VENV) dvc repro notebook@$(PAPER),$(VENV) dvc repro)
	$(if $(PAPER),$(VENV) dvc repro --single-item claims)
	$(HYENA) compare $(PAPER) || test $$? -eq 1
	$(HYENA) claims $(PAPER)
	@echo "Now look at notebooks/ (executed), CLAIMS.md (every claim and its verdict) and figures/README.md."

# The last line compares committed outputs; the shape checks of pyproject's addopts do not reach a kernel.
test: .venv/.ready ## lint, test and re-execute the notebooks; HYENA_REQUIRE_DATA=1 makes missing data a failure
	@$(HYENA) fetch --default || { test "$${HYENA_REQUIRE_DATA:-}" != 1 && \
	  echo "hyena: the default data is not all here: tests that need it are skipped"; }
	$(VENV) ruff check .
	$(VENV) ruff format --check .
	$(VENV) pytest
	if ls notebooks/*.ipynb >/dev/null 2>&1; then \
	  MPLBACKEND=$(INLINE) HYENA_NO_TRAIN=1 $(VENV) pytest -o addopts= -q --nbval --nbval-current-env notebooks; fi

lab: .venv/.ready ## open the notebooks in JupyterLab
	$(VENV) jupyterlab notebooks

figures: .venv/.ready ## redraw the figures from stored results (PAPER=hyena for one paper)
	$(HYENA) figures $(PAPER)

long: paper-given .venv/.ready ## train one paper at the long profile, hours on a CPU: PAPER=hyena (PROFILE=paper on a GPU)
	$(HYENA) train $(PAPER) --profile $(PROFILE)

bench: .venv/.ready ## measure speeds against named baselines (NAME=fftconv for one benchmark)
	$(HYENA) bench $(NAME)

html: .venv/.ready ## write the notebooks as pages to build/html
	$(VENV) nbconvert --to html --embed-images notebooks/*.ipynb --output-dir build/html

clean: ## remove build/ and nothing else: not .venv, data or results
	rm -rf build

preflight:
	@$(PYTHON) scripts/preflight.py

paper-given:
	@test -n "$(PAPER)" || { echo "hyena: error: which paper? make long PAPER=hyena" >&2; exit 1; }

# preflight is order-only: it runs every time, before anything else, and makes nothing out of date.
# A .venv whose pip does not run (interrupted, or its Python is gone) is made afresh.
.venv/.ready: pyproject.toml constraints.txt | preflight
	@.venv/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[all]"
	.venv/bin/python -m pip --disable-pip-version-check check
	@touch $@
