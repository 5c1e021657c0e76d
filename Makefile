# The front door: `make table1` on a fresh machine with Python 3.11+ and git does all there is to do. `make help` lists it.

## PROFILE   demo (digits, minutes), mini (real images, small networks), full (the paper's, for GPUs); default demo
## SEEDS     which seeds, as "0 1 2"; default 0
## JOBS      runs at the same time; default the number of cores, 1 for PROFILE=full
## THREADS   threads for each run; default cores / JOBS
## LAUNCH    what to put before each run and notebook, as "srun --gres=gpu:1"; default nothing
## DEVICE    cpu, cuda, cuda:1 ...; default cuda where there is one (ACS_DEVICE for notebooks and library)
## PYTHON    the Python that makes .venv; default the first of python3, python3.13, 3.12, 3.11 that is new enough
## RUN, SEED what `make run` trains
## ACS_RESULTS, ACS_PARAMS, ACS_DATA, ACS_CACHE   folders of results, parameters, images at hand and images decoded
## ACS_MIRROR, ACS_OFFLINE   where else images are, and whether the network may be used; see the README
## DATA      digits (default), cifar10, svhn, imagenet12 or imagenet100, for `make lpips-net`
PROFILE ?= demo
SEEDS ?= 0
SEED ?= 0
DATA ?= digits
comma := ,
# $(call need,NAME,pattern,what it must be): the value of NAME, or the end
need = $(if $(shell printf '%s\n' '$($1)' | grep -xE '$2'),,$(error $1 is "$($1)": give $3))
CORES := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
JOBS ?= $(if $(filter full,$(PROFILE)),1,$(CORES))
$(call need,JOBS,[1-9][0-9]*,a whole number from 1 on)
THREADS ?= $(shell echo $$(($(CORES) / $(JOBS) > 0 ? $(CORES) / $(JOBS) : 1)))
$(call need,THREADS,[1-9][0-9]*,a whole number from 1 on)
$(call need,PROFILE,[A-Za-z0-9_-]+,a profile as params/profiles names it)
$(call need,SEED,[0-9]+,one whole number from 0 on)
$(call need,DATA,digits|cifar10|svhn|imagenet12|imagenet100,digits$(comma) cifar10$(comma) svhn$(comma) imagenet12 or imagenet100)
LAUNCH ?=
DEVICE ?= $(ACS_DEVICE)
export ACS_DEVICE := $(DEVICE)
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$p && break; done),python3)

MAKEFLAGS += -j$(JOBS) --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PY := .venv/bin/python
RESULTS := $(patsubst %/,%,$(or $(ACS_RESULTS),results))
$(if $(filter-out 1,$(words $(RESULTS))),$(error ACS_RESULTS is "$(RESULTS)": Make needs a folder without spaces))
PARAMS := $(patsubst %/,%,$(or $(ACS_PARAMS),params))
PICTURES := $(patsubst ./%,%,$(dir $(RESULTS)))figures
STAMP := .venv/.complete
TABLES := table1 table2 table3 table4 table5 table6 tableD4 theorem1
FIGURES := fig1 fig2 fig3 fig4 fig5
.PHONY: help setup all paper publish run records lab test test-fast lint bench lpips-net clean clean-results $(TABLES) $(FIGURES)

help: ## this list
	@echo "targets:"; sed -nE 's/^([a-zA-Z0-9-]+):.*## (.*)/\1	\2/p' Makefile | \
		while IFS='	' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done
	@echo "variables (make table1 PROFILE=mini SEEDS=\"0 1 2\"):"; sed -nE 's/^## /  /p' Makefile

# ---- set-up

setup: $(STAMP) ## make .venv from requirements.txt (every other target does it first, once)

$(STAMP): requirements.txt pyproject.toml
	@$(PYTHON) tools/make_venv.py
	@touch $@

.venv-bench/.complete: pyproject.toml
	@$(PYTHON) tools/make_venv.py bench
	@touch $@

# ---- tables and figures: records of runs (a target each), then the notebook that gathers them

table1: ## clean and robust accuracy and time, l-infinity, l2 and TRADES (Table 1)
table2: ## perceptual adversarial training against unseen attacks (Table 2)
table3: ## WideResNet-28-10 with every number of epochs halved (Table 3)
table4: ## fast adversarial training (Table 4)
table5: ## half coreset and half clean training, against the coreset only (Table 5)
table6: ## how often to select a coreset (Table 6)
tableD4: ## every unseen attack by itself (Table D4)
fig1: ## training with coreset selection, an overview (Figure 1)
fig2: ## what a coreset is (Figure 2)
fig3: ## robust accuracy against the size of the attack (Figure 3)
fig4: ## robust error against speed-up: warm starts, random selection (Figure 4)
fig5: ## error against speed-up: coreset sizes and versions of the selection (Figure 5)
theorem1: ## the bound of Theorem 1 on a problem where it can be computed
all: $(TABLES) $(FIGURES) ## every table and figure in one profile
paper: all ## all of them on one page in the paper's order, ours beside the paper's: results/PROFILE/paper.html, .pdf
	@$(PY) -m acslib.paper.page --profile $(PROFILE) --seeds "$(SEEDS)"

publish: $(STAMP) ## copy what there is of a profile to results/published/PROFILE, which git keeps, with a page; fill in README and claims
	@$(PY) -m acslib.paper.page --profile $(PROFILE) --seeds "$(SEEDS)" --publish
	@$(PY) tools/claims.py

$(TABLES) $(FIGURES):
	@$(PY) -m acslib.paper show $@ --profile $(PROFILE)

ifneq (,$(filter $(TABLES) $(FIGURES) all paper records,$(MAKECMDGOALS)))
RULES := $(RESULTS)/.make/$(PROFILE)-seeds$(subst $() ,-,$(SEEDS))$(subst /,_,$(ACS_PARAMS)).mk
include $(RULES)
endif

$(RESULTS)/.make/%.mk: $(wildcard $(PARAMS)/*.yaml $(PARAMS)/profiles/*.yaml) $(wildcard acslib/paper/*.py) acslib/schedule.py | $(STAMP)
	@mkdir -p $(@D)
	@$(PY) -m acslib.paper rules --profile $(PROFILE) --seeds "$(SEEDS)" > $@.part && mv $@.part $@ || { rm -f $@.part; exit 2; }

RECORDS := $(sort $(foreach item,$(TABLES) $(FIGURES),$(RECORDS_$(item))))
ONE_RECORD := $(if $(RUN),$(RESULTS)/$(PROFILE)/runs/$(RUN)/seed$(SEED)/record.json)
records: $(RECORDS) ## train what all tables and figures need, and no more

$(sort $(RECORDS) $(ONE_RECORD)): $(RESULTS)/$(PROFILE)/runs/%/record.json: | $(STAMP)
	OMP_NUM_THREADS=$(THREADS) $(LAUNCH) $(PY) -m acslib.paper train $(patsubst %/,%,$(dir $*)) \
		--seeds $(patsubst seed%,%,$(notdir $*)) --profile $(PROFILE)

$(ONE_RECORD): $(if $(filter run,$(MAKECMDGOALS)),always)
run: $(or $(ONE_RECORD),no-run) ## train and evaluate one run: make run RUN=resnet18-linf-cifar10.gradmatch SEED=0
no-run: $(STAMP)
	@echo "make run: say which, as RUN=<one of these>:"; $(PY) -m acslib.paper list table1; exit 2

# an item and its file, which the item's notebook writes from the item's records; made again when what gathers and draws
# it, or a parameter, has changed, or when other seeds are asked for
GATHERING := $(wildcard acslib/paper/*.py) \
	$(wildcard $(PARAMS)/*.yaml $(PARAMS)/profiles/*.yaml)
.PHONY: always
$(addsuffix .seeds,$(addprefix $(RESULTS)/.make/$(PROFILE)-,$(TABLES) $(FIGURES))): always
	@mkdir -p $(@D); [ "$$(cat $@ 2>/dev/null)" = "$(SEEDS)" ] || echo "$(SEEDS)" > $@

define gathered
$(1): $(2)
$(2): notebooks/$(1).ipynb $(GATHERING) $(RECORDS_$(1)) $(RESULTS)/.make/$(PROFILE)-$(1).seeds | $(STAMP)
	@mkdir -p build/$(PROFILE)
	OMP_NUM_THREADS=$(THREADS) $(LAUNCH) $(PY) -m papermill --no-progress-bar $$< build/$(PROFILE)/$(1).ipynb -r profile $(PROFILE) -r seeds "$(SEEDS)"
endef
$(foreach item,$(TABLES),$(eval $(call gathered,$(item),$(RESULTS)/$(PROFILE)/$(item).csv)))
$(foreach item,$(FIGURES),$(eval $(call gathered,$(item),$(PICTURES)/$(PROFILE)/$(item).pdf)))

# ---- working with it

lab: $(STAMP) ## JupyterLab on the notebooks, which run in their own folder: folders are handed on as absolute paths
	@for name in ACS_RESULTS ACS_PARAMS ACS_DATA ACS_CACHE; do value=$$(printenv $$name) || continue; \
		case $$value in "" | /* | "~"*) ;; *) export $$name="$$PWD/$$value" ;; esac; done; $(PY) -m jupyterlab notebooks

test: lint ## everything CI runs: style, unit and property tests, every notebook on a small size
	$(PY) -m pytest

test-fast: $(STAMP) ## the tests alone, without the slow ones
	$(PY) -m pytest -m "not slow"

lint: $(STAMP) ## ruff on code and notebooks
	$(PY) -m ruff check --quiet .

bench: .venv-bench/.complete ## speed of selectors and attacks against other libraries, in an environment of their own
	.venv-bench/bin/python -m benchmarks

lpips-net: $(STAMP) ## the AlexNet that LPIPS compares images of DATA by: fetched for image folders, else trained once
	$(PY) -c "from acslib.attacks import alexnet; alexnet.prepare('$(DATA)')"

clean: ## remove build/ and caches; results, figures and .venv stay
	rm -rf build .pytest_cache .ruff_cache .hypothesis
	find * -name __pycache__ -prune -exec rm -rf {} +

clean-results: ## remove results and figures of one PROFILE, if CONFIRM=yes is given
	@test "$(CONFIRM)" = yes || { echo "this deletes $(RESULTS)/$(PROFILE) and $(PICTURES)/$(PROFILE): add CONFIRM=yes"; exit 2; }
	@test -f $(PARAMS)/profiles/$(PROFILE).yaml || { echo "PROFILE=$(PROFILE) is no profile"; exit 2; }
	rm -rf $(RESULTS)/$(PROFILE) $(PICTURES)/$(PROFILE)
