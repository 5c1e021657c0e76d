# What may be given to make, as `make table1 PROFILE=mini SEEDS="0 1 2"`, and what follows from it.

## PROFILE   demo (digits, minutes), mini (real images, small networks), full (the paper's, for GPUs); default demo
## SEEDS     which seeds, as "0 1 2"; default what the profile says, mostly 0
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

# What is given on the command line or in the environment is data. Make expands nothing in it, and the shell sees none
# of it before it is checked here, without a shell. What is none of these names is refused: mistyped, it would be ignored.

override TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
override NAMES := PROFILE SEEDS SEED RUN DATA TORCH JOBS THREADS NPROC LAUNCH DEVICE PYTHON CONFIRM EXECUTE $(filter ACS_%,$(.VARIABLES))
override PROGRAMS := PY NOTEBOOK TRAIN LPIPS
override ALL_OF_ACS := $(addprefix ACS_,PLUGINS PARAMS RESULTS DATA CACHE MIRROR OFFLINE DEVICE THREADS PROCESSES LESSONS SITE SLURM)
override unknown := $(firstword $(filter-out $(filter-out ACS_%,$(NAMES)) $(PROGRAMS) $(ALL_OF_ACS),$(TYPED)))
$(if $(unknown),$(error there is no variable $(unknown): make help lists those that there are))
given = $(filter $(NAMES) $(TYPED),$1)
$(foreach name,$(.VARIABLES),$(if $(call given,$(name)),$(eval override $(name) := $$(value $(name)))$(eval export $(name))))

PROFILE ?= demo
SEED ?= 0
DATA ?= digits
TORCH ?= 2.6.0

empty :=
comma := ,
space := $(empty) $(empty)
digits := 0 1 2 3 4 5 6 7 8 9
letters := a b c d e f g h i j k l m n o p q r s t u v w x y z A B C D E F G H I J K L M N O P Q R S T U V W X Y Z
plain := $(letters) $(digits) . _ + @ , / -
unfit := ' " ` \ ; & | < > ( ) * ? [ ] { } \# % : = ~ ! $$
datasets := digits cifar10 svhn imagenet12 imagenet100

# $(call left,CHARACTERS,TEXT): the text without these characters
left = $(if $1,$(call left,$(wordlist 2,99,$1),$(subst $(firstword $1),,$2)),$2)
refuse = $(error $1 is "$($1)": give $2)
# $(call check,NAME,WHAT IT MUST BE,CHARACTERS,ANOTHER): stops unless NAME has a value of these characters
check = $(if $(or $(if $(strip $($1)),,empty),$(call left,$3,$(if $4,$(subst $4,,$($1)),$($1)))),$(call refuse,$1,$2))
# $(call each,CHARACTERS,TEXT): a word for each of these characters in the text
each = $(if $1,$(call each,$(wordlist 2,99,$1),$(subst $(firstword $1),x ,$2)),$2)
number := a whole number from 1 on, at most 9999
count = $(call check,$1,$(number),$(digits))$(if $(filter 0%,$($1))$(word 5,$(call each,$(digits),$($1))),$(call refuse,$1,$(number)))
# $(call path,NAME,WHAT,CHARACTERS): stops if Make or the shell would read NAME as something else than a path
path = $(if $(or $(filter-out 0 1,$(words $($1))),$(subst $(strip $($1)),,$($1)),$(strip $(foreach c,$3,$(findstring $c,$($1))))),\
	$(call refuse,$1,$2 without spaces and without any of $3))

$(call check,PROFILE,a profile as params/profiles names it,$(letters) $(digits) _ -)
$(if $(filter undefined,$(origin SEEDS)),,$(call check,SEEDS,whole numbers from 0 on$(comma) like "0 1 2",$(digits),$(space)))
$(call check,SEED,one whole number from 0 on,$(digits))
$(call check,DATA,one of $(datasets),$(letters) $(digits))
$(if $(filter $(DATA),$(datasets)),,$(call refuse,DATA,$(subst $(comma) imagenet100, or imagenet100,$(subst $(space),$(comma) ,$(datasets)))))
$(call check,TORCH,a version$(comma) like 2.6.0,$(digits) .)
$(if $(RUN),$(call check,RUN,a run as `make run` lists it,$(plain) [ ]))
$(if $(LAUNCH),$(call check,LAUNCH,a command without the shell's own characters,$(plain) = : %,$(space)))
$(foreach name,$(filter $(PROGRAMS),$(TYPED)),$(call path,$(name),a program,$(unfit)))
$(if $(PYTHON),$(call check,PYTHON,a Python as a name or a path without spaces,$(plain)))
$(if $(filter-out yes no,$(EXECUTE)),$(call refuse,EXECUTE,yes or no))
$(if $(JOBS),$(call count,JOBS))
$(if $(THREADS),$(call count,THREADS))
$(if $(NPROC),$(call count,NPROC))
$(if $(ACS_PROCESSES),$(call count,ACS_PROCESSES))
$(if $(ACS_THREADS),$(call count,ACS_THREADS))
$(call path,ACS_RESULTS,a folder,$(unfit))
$(call path,ACS_PARAMS,folders separated by colons$(comma),$(filter-out :,$(unfit)))
$(call path,ACS_PLUGINS,files separated by colons$(comma),$(filter-out :,$(unfit)))
$(foreach file,$(subst :, ,$(ACS_PLUGINS)),$(if $(wildcard $(file)),,$(call refuse,ACS_PLUGINS,files that are there: $(file) is not)))

# ---- what follows

DRY := $(findstring n,$(filter-out --%,$(firstword -$(MAKEFLAGS))))
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
PY := .venv/bin/python
STAMP := .venv/.complete
RESULTS := $(patsubst %/,%,$(or $(ACS_RESULTS),results))
PARAMS := params $(patsubst %/,%,$(subst :, ,$(ACS_PARAMS)))
PLUGINS := $(subst :, ,$(ACS_PLUGINS))
SEEDED := $(if $(SEEDS),--seeds "$(SEEDS)")
FILES := $(wildcard $(PARAMS:=/*.yaml))
ITEMS := $(sort $(filter-out settings attacks,$(basename $(notdir $(FILES)))))
ACS := OMP_NUM_THREADS=$(THREADS) $(LAUNCH) $(PY) -m
TORCHRUN = torch.distributed.run --nnodes=1 --nproc-per-node=$(NPROC) --rdzv-backend=c10d --rdzv-endpoint=127.0.0.1:0 -m
TRAIN := $(ACS) $(if $(filter-out 1,$(NPROC)),$(TORCHRUN) )acslib.paper train
NOTEBOOK := $(ACS) papermill --no-progress-bar
LPIPS = $(PY) -c "from acslib.attacks import lpips; lpips.prepare('$1')"
# the rules of this profile: other seeds, threads, processes and files of your own make others. A checksum, as all of them
# may be longer than a file's name; the shell sees nothing here that was not checked above
ASKED := $(shell echo '$(SEEDS)/$(THREADS)/$(NPROC)/$(ACS_PARAMS)/$(ACS_PLUGINS)' | cksum)
RULES := $(RESULTS)/.make/$(PROFILE)-$(subst $(space),-,$(ASKED)).mk
