# The front door: `make table1` on a fresh machine with Python 3.11 or newer and git does all there is to do.
# `make help` lists targets and variables. GNU Make 3.81, which macOS has, or newer.

## PROFILE   demo (digits, minutes), mini (real images, small networks), full (the paper's, for GPUs); default demo
## SEEDS     which seeds, as "0 1 2"; default 0
## JOBS      runs at the same time; default the number of cores, 1 for PROFILE=full
## NPROC     processes that share one run; default 1, as results depend on their number
## THREADS   threads for each run; default 1, as results depend on their number
## LAUNCH    what to put before each run and notebook, as "srun --gres=gpu:1"; default nothing
## DEVICE    cpu, cuda, cuda:1 ...; default cuda where there is one
## PYTHON    the Python that makes .venv; default the first of python3, python3.13, 3.12, 3.11 that is new enough
## RUN, SEED what `make run` trains
## TORCH     which version `make test-torch` takes; default the oldest that the library allows
## DATA      digits (default), cifar10, svhn, imagenet12 or imagenet100, for `make lpips-net`
## EXECUTE   no: `make site` leaves the lessons' outputs out, which takes minutes off; default yes
## ACS_PLUGINS, ACS_PARAMS   files of your own with methods, models, data; folders with settings, tables: examples/
## ACS_RESULTS, ACS_DATA, ACS_CACHE, ACS_MIRROR, ACS_OFFLINE   folders and the network: docs/reference.md
include tools/variables.mk
DRY := $(findstring n,$(firstword -$(MAKEFLAGS)))
CORES := $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)
JOBS := $(or $(JOBS),$(if $(filter full,$(PROFILE))$(filter-out 1,$(NPROC)),1,$(CORES)))
THREADS := $(or $(THREADS),$(ACS_THREADS),1)
override ACS_THREADS := $(THREADS)
NPROC := $(or $(NPROC),$(ACS_PROCESSES),1)
override ACS_PROCESSES := $(NPROC)
export ACS_THREADS ACS_PROCESSES
PYTHON := $(or $(PYTHON),$(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)
override ACS_DEVICE := $(or $(DEVICE),$(ACS_DEVICE))
export ACS_DEVICE
MAKEFLAGS += -j$(JOBS) --no-builtin-rules
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PY := .venv/bin/python
STAMP := .venv/.complete
RESULTS := $(patsubst %/,%,$(or $(ACS_RESULTS),results))
PARAMS := params $(patsubst %/,%,$(subst :, ,$(ACS_PARAMS)))
PLUGINS := $(subst :, ,$(ACS_PLUGINS))
FILES := $(wildcard $(PARAMS:=/*.yaml))
ITEMS := $(sort $(filter-out settings attacks,$(basename $(notdir $(FILES)))))
ACS := OMP_NUM_THREADS=$(THREADS) $(LAUNCH) $(PY) -m
TORCHRUN = torch.distributed.run --nnodes=1 --nproc-per-node=$(NPROC) --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 -m
TRAIN := $(ACS) $(if $(filter-out 1,$(NPROC)),$(TORCHRUN) )acslib.paper train
NOTEBOOK := $(ACS) papermill --no-progress-bar
LPIPS = $(PY) -c "from acslib.attacks import alexnet; alexnet.prepare('$1')"
.PHONY: always help setup all paper publish records class-pack run lab lessons site test test-fast test-torch lint bench torture lpips-net clean clean-results $(ITEMS)

help: ## this list
	@echo "targets:"; sed -nE 's/^([a-z-]+):.*## (.*)/  make \1	\2/p' Makefile | expand -t 22
	@for file in $(FILES); do sed -nE "s/^title: \"?([^\"]*)\"?/  make $$(basename $$file .yaml)	\1/p" $$file; done | expand -t 22
	@echo "variables (make table1 PROFILE=mini SEEDS=\"0 1 2\"):"; sed -nE 's/^## /  /p' Makefile

setup: $(STAMP) ## make .venv from requirements.txt (every other target does it first, once)
$(STAMP): requirements.txt pyproject.toml
	@"$(PYTHON)" tools/make_venv.py
.venv-%/.complete: pyproject.toml
	@"$(PYTHON)" tools/make_venv.py $*

# ---- tables and figures: their rules, and those of the runs that they need, are written by acslib/paper/rules.py

all: $(filter-out study life time,$(ITEMS)) ## every table and figure in one profile (the study is by itself)
paper: all ## all of them on one page in the paper's order, ours beside the paper's: results/PROFILE/paper.html, .pdf
	@$(PY) -m acslib.paper page --profile $(PROFILE) --seeds "$(SEEDS)"
records: ## train what all tables and figures need, and no more
class-pack: records ## all that is trained of a profile in one file, to be unpacked over clones: build/class-pack.zip
	@$(PY) tools/class_pack.py --profile $(PROFILE) --seeds "$(SEEDS)"
publish: $(STAMP) ## copy what there is of a profile to results/published/PROFILE, which git keeps; fill in the documents
	@$(PY) -m acslib.paper page --profile $(PROFILE) --seeds "$(SEEDS)" --publish
	@$(PY) tools/claims.py

ifneq (,$(filter $(ITEMS) all paper records class-pack %.json %.csv %.pdf,$(MAKECMDGOALS)))
$(if $(DRY),$(if $(wildcard $(STAMP)),,$(error what make would do is known after the set-up: run make setup first)))
RULES := $(RESULTS)/.make/$(PROFILE)-seeds$(subst $(space),-,$(SEEDS))$(patsubst %,-threads%,$(filter-out 1,$(THREADS)))$(patsubst %,-processes%,$(filter-out 1,$(NPROC)))$(subst /,_,$(subst :,+,$(ACS_PARAMS)$(ACS_PLUGINS))).mk
include $(RULES)
endif

$(RESULTS)/.make/%.mk: $(PLUGINS) $(FILES) $(wildcard $(PARAMS:=/profiles/*.yaml) acslib/schedule.py acslib/paper/*.py \
	notebooks/*.ipynb notebooks/*/*.ipynb) | $(if $(DRY),,$(STAMP))
	@$(PY) -m acslib.paper rules --profile $(PROFILE) --seeds "$(SEEDS)" --output $@

# ---- working with it

run: $(STAMP) ## train and evaluate one run: make run RUN=resnet18-linf-cifar10.gradmatch SEED=0
	$(if $(RUN),$(TRAIN) '$(RUN)' --seeds $(SEED) --profile $(PROFILE),@echo "make run: say which, as RUN=<one of these>:"; \
		$(PY) -m acslib.paper list table1 --profile $(PROFILE); exit 2)

lpips-net: $(STAMP) ## the AlexNet that LPIPS compares images of DATA by: fetched for image folders, else trained once
	$(call LPIPS,$(DATA))

lab: $(STAMP) | build/lessons/student ## JupyterLab on where to begin: notebooks/index.ipynb
	@# kernels run in the folder of their notebook: folders are handed on as absolute paths
	@for name in ACS_RESULTS ACS_DATA ACS_CACHE; do value=$$(printenv $$name) || continue; \
		case $$value in "" | /* | "~"*) ;; *) export $$name="$$PWD/$$value" ;; esac; done; \
	for name in ACS_PARAMS ACS_PLUGINS; do whole=; for part in $$(printenv $$name | tr : ' '); do \
		case $$part in /* | "~"*) ;; *) part=$$PWD/$$part ;; esac; whole=$$whole:$$part; done; \
		[ -z "$$whole" ] || export $$name="$${whole#:}"; done; \
	export JUPYTER_CONFIG_PATH="$$PWD/tools/jupyter$${JUPYTER_CONFIG_PATH:+:$$JUPYTER_CONFIG_PATH}"; \
	$(PY) -m jupyterlab --ServerApp.root_dir="$$PWD" --LabApp.default_url=/lab/tree/notebooks/index.ipynb
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

bench: .venv-bench/.complete ## speed of selectors and attacks against other libraries, in an environment of their own
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
