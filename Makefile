# The front door: `make table1` on a fresh machine with Python 3.11 or newer and git does all there is to do.
# `make help` lists targets and variables. GNU Make 3.81, which macOS has, or newer.

include tools/variables.mk
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: always help setup all paper publish records class-pack run lab lessons site test test-fast test-torch lint bench torture lpips-net clean clean-results $(ITEMS)

help: ## this list
	@echo "targets:"; sed -nE 's/^([a-z-]+):.*## (.*)/  make \1	\2/p' Makefile | expand -t 22
	@for file in $(FILES); do sed -nE "s/^title: \"?([^\"]*)\"?/  make $$(basename $$file .yaml)	\1/p" $$file; done | expand -t 22
	@echo "variables (make table1 PROFILE=mini SEEDS=\"0 1 2\"):"; sed -nE 's/^## /  /p' tools/variables.mk

setup: $(STAMP) ## make .venv from requirements.txt (every other target does it first, once)
$(STAMP): requirements.txt pyproject.toml
	@"$(PYTHON)" tools/make_venv.py
.venv-%/.complete: pyproject.toml
	@"$(PYTHON)" tools/make_venv.py $*

# ---- tables and figures: their rules, and those of the runs that they need, are written by acslib/paper/rules.py

all: ## every table and figure in one profile; study, life and time are by themselves
paper: all ## all of them on one page in the paper's order, ours beside the paper's: results/PROFILE/paper.md, .pdf
	@$(PY) -m acslib.paper page --profile $(PROFILE) $(SEEDED)
records: ## train what all tables and figures need, and no more
class-pack: records ## all that is trained of a profile in one file, to be unpacked over clones: build/class-pack.zip
	@$(PY) tools/class_pack.py --profile $(PROFILE) $(SEEDED)
publish: $(STAMP) ## copy what there is of a profile to results/published/PROFILE, which git keeps; fill in the documents
	@$(PY) -m acslib.paper page --profile $(PROFILE) $(SEEDED) --publish
	@$(PY) tools/claims.py

ifneq (,$(filter $(ITEMS) all paper records class-pack %.json %.csv %.pdf,$(MAKECMDGOALS)))
$(if $(DRY),$(if $(wildcard $(STAMP)),,$(error what make would do is known after the set-up: run make setup first)))
include $(RULES)
endif

$(RESULTS)/.make/%.mk: $(PLUGINS) $(FILES) $(wildcard $(PARAMS:=/profiles/*.yaml) acslib/*.py acslib/*/*.py results/paper/*.csv \
	notebooks/*.ipynb notebooks/*/*.ipynb) | $(if $(DRY),,$(STAMP))
	@$(PY) -m acslib.paper rules --profile $(PROFILE) $(SEEDED) --output $@

# ---- working with it

run: $(STAMP) ## train and evaluate one run: make run RUN=resnet18-linf-cifar10.gradmatch SEED=0
	$(if $(RUN),$(TRAIN) '$(RUN)' --seeds $(SEED) --profile $(PROFILE),@echo "make run: say which, as RUN=<one of these>:"; \
		$(PY) -m acslib.paper list table1 --profile $(PROFILE); exit 2)

lpips-net: $(STAMP) ## the AlexNet that LPIPS compares images of DATA by: fetched for image folders, else trained once
	$(call LPIPS,$(DATA))

lab: $(STAMP) | build/lessons/student ## JupyterLab on where to begin: notebooks/index.ipynb
	@$(PY) tools/lab.py
build/lessons/student: | $(STAMP)
	@$(PY) tools/lessons.py

test: lint ## everything CI runs: style, types, unit and property tests, every notebook on a small size
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile

test-fast: $(STAMP) ## the tests alone, without the slow ones
	$(PY) -m pytest -m "not slow"

lint: $(STAMP) ## layout and style of code and notebooks (ruff), types (mypy)
	$(PY) -m ruff format --check --quiet .
	$(PY) -m ruff check --quiet .
	$(PY) -m mypy

bench: .venv-bench/.complete ## one page of speed, beside other libraries and what this machine can do at most: build/bench
	.venv-bench/bin/python -m benchmarks

torture: $(STAMP) ## kill, damage, misuse and starve it some two thousand times, within 45 minutes: docs/reliability.md
	@$(PY) -m tools.torture

test-torch: .venv-torch-$(TORCH)/.complete ## the tests without the slow ones beside another torch: make test-torch TORCH=2.6.0
	.venv-torch-$(TORCH)/bin/python -m pytest -m "not slow" --ignore tests/test_setup.py

lessons: $(STAMP) ## the course as notebooks, a student version and one with answers: build/lessons
	@$(PY) tools/lessons.py

site: .venv-site/.complete ## course, results, claims and API as pages that read without a network: build/site
	@.venv-site/bin/python tools/make_site.py

clean: ## remove build/ and caches; results, figures and .venv stay
	rm -rf build .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find * -name __pycache__ -prune -exec rm -rf {} +

clean-results: ## remove results and figures of one PROFILE, if CONFIRM=yes is given
	@$(if $(filter yes,$(CONFIRM)),,echo "this deletes $(RESULTS)/$(PROFILE) and its figures: add CONFIRM=yes"; exit 2)
	@test -n "$(wildcard $(PARAMS:=/profiles/$(PROFILE).yaml))" || { echo "PROFILE=$(PROFILE) is no profile"; exit 2; }
	rm -rf -- $(RESULTS)/$(PROFILE) $(patsubst ./%,%,$(dir $(RESULTS)))figures/$(PROFILE)
