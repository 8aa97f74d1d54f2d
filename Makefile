# `make help` lists what there is. Everything runs in a local .venv made from requirements.lock.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.made-from-lock
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# glibc gives the large tensors of each training step back to the system and asks for them again; keeping them is faster.
export MALLOC_MMAP_MAX_ := 0
export MALLOC_TRIM_THRESHOLD_ := 10000000000
# Threads that spin while they wait for each other take the cores from whatever else runs beside them.
export OMP_WAIT_POLICY := PASSIVE

.DEFAULT_GOAL := help
.PHONY: help repro unlock ablation sweep table2 seeds as_published bench test test-fast test-killed check lab smoke book readme verify lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9_ -]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

# In a fresh clone results/ and dvc.lock are there but data/ is not. Plain `dvc repro` would then skip every stage whose
# inputs come out the same as in dvc.lock, and show the committed results instead of computing them; so runs are forced
# until one has gone through. One that goes on after an interruption finds its trainings and ANTs' pairs by their
# contents; later runs do only what is needed.
COMPUTED := data/.computed_here
ifndef PROFILE
repro: $(READY) unlock ## run the study: Table 1, the figures and the executed notebooks in results/
	@if [ -f $(COMPUTED) ]; then dvc repro; else dvc repro --force && touch $(COMPUTED); fi
	@echo; cat results/table1.md
else
# With PROFILE=workstation, say, it runs in a copy, .build/workstation, which goes on from what it has; data/ and results/
# stay those of params.yaml's profile, and results/workstation/ gets what the copy has in its own results/.
COPY := .build/$(PROFILE)
repro: $(READY) copy
	cd $(COPY) && PYTHONPATH="$(CURDIR)/$(COPY)" dvc repro
	@rm -rf $(COPY)/shown && cp -R $(COPY)/results $(COPY)/shown
	@rm -rf results/$(PROFILE) && mv $(COPY)/shown results/$(PROFILE)
	@echo; cat results/$(PROFILE)/table1.md

.PHONY: copy
copy:
	@sed -n '/^profiles:/,$$p' params.yaml | grep -qFx '  $(PROFILE):' \
	  || { echo "params.yaml has no profile $(PROFILE); those that it has are in its section profiles" >&2; exit 1; }
	@mkdir -p $(COPY)/.dvc
	@cd $(COPY) && find .dvc -name rwlock -empty -delete && rm -rf mine_reg notebooks data_manifests
	@cp -R mine_reg notebooks data_manifests dvc.yaml .dvcignore $(COPY)/ && cp .dvc/config $(COPY)/.dvc/
	@printf '[core]\n    no_scm = true\n' > $(COPY)/.dvc/config.local
	@sed -e 's/^profile: *[a-z]*/profile: $(PROFILE)/' \
	  -e '/: data_manifests\//! s#^  \(manifest\|scans\): \([^/ ]\)#  \1: $(CURDIR)/\2#' params.yaml > $(COPY)/params.yaml
endif

# DVC refuses to start when a kill left its list of locks empty between opening and writing it.
unlock:
	@find .dvc/tmp -name rwlock -empty -delete 2>/dev/null || true

ablation: ## what each choice brings, on the validation pairs (notebook 10)
sweep: ## weights of the loss on 12 training subjects (notebook 11)
table2: ## MINE against other similarities (notebook 12)
seeds: ## Table 1 over five trainings, with tests that count them (notebook 13)
as_published: ## the paper to the letter, beside all others (notebook 14); hours
ablation sweep table2 seeds as_published: $(READY) unlock
	@test -d data/models || { echo "They stand on the study's data and networks: run \`make repro\` first" >&2; exit 1; }
	dvc repro experiments/dvc.yaml:$@

bench: $(READY) ## time and memory of registration, beside others, of batches and of training, on a shared machine
	python benchmarks/speed.py --out results/benchmarks
	python benchmarks/floors.py --out results/benchmarks
	python benchmarks/warp.py --out results/benchmarks
	python benchmarks/training_step.py --out results/benchmarks
	python benchmarks/shared_machine.py --smoke --out results/benchmarks
	python benchmarks/batch.py --out results/benchmarks

check: $(READY) ## rules of style, and the direction of imports
	ruff check mine_reg tests benchmarks notebooks docs
	ruff format --check mine_reg tests benchmarks docs
	lint-imports

test: check ## run every test, two files at a time, among them the whole study in the smoke profile
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 25

test-fast: check ## run the tests that take no more than seconds
	python -m pytest -n 2 --dist loadfile -m "not slow and not pipeline"

test-killed: $(READY) ## kill register, batch, the study (smoke) and the sweep twenty times each, at any moment
	MINE_REG_KILLS=20 python -m pytest -s tests/test_killed.py tests/test_pipeline.py -k "killed or register or batch"

smoke: $(READY) ## run the whole study in the smoke profile, in a temporary copy, and check its outputs
	python -m pytest -s -m pipeline

lab: $(READY) ## open the notebooks in JupyterLab; what they write by hand goes to scratch/
	jupyter lab --notebook-dir=$(CURDIR) --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

book: $(READY) ## make the book, docs/ and the executed notebooks as a site, in .build/book/
	sphinx-build -E -W --keep-going -q -c docs -d .build/book-doctrees . .build/book
	@echo "Open .build/book/index.html"

readme: $(READY) ## write README's block of results anew from results/
	python -m mine_reg.evaluation.readme

verify: $(READY) ## compare results/metrics.csv, or results/PROFILE/metrics.csv, with the committed one
	@python -m mine_reg.evaluation.verify $(PROFILE)

clean: ## remove what git does not keep: data/, scratch/, .build/ and DVC's cache (not .venv)
	rm -rf data scratch .build .dvc/cache .dvc/tmp

$(READY): requirements.lock pyproject.toml
	@test -x $(VENV)/bin/pip || $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "This study needs Python 3.11, 3.12 or 3.13 and $(PYTHON) is not; name one, e.g. make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	@echo "Installing the packages of requirements.lock into $(VENV) (takes minutes the first time) ..."
	@$(VENV)/bin/python -m pip install --quiet -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

# The newest versions that pyproject.toml allows, from a throw-away environment: no local version suffixes (+cpu), none of
# the CUDA packages that a torch build asks for by itself (nvidia-ml-py is DVCLive's), and macOS's own one with a marker.
lock: ## write requirements.lock and the pip section of environment.yml anew from pyproject.toml
	rm -rf .build/lock && $(PYTHON) -m venv .build/lock
	.build/lock/bin/python -m pip install --quiet '.[study,test]'
	{ echo '# Exact versions of everything the study runs with: the single source, also of environment.yml.'; \
	  echo '# Written by `make lock` from the requirements in pyproject.toml; do not edit by hand.'; \
	  { .build/lock/bin/python -m pip freeze --exclude mine_reg \
	      | sed -E -e 's/\+[^ ;]+//' -e '/^nvidia-ml-py=/b' -e '/^(nvidia-|cuda-|triton|appnope)/d'; \
	    echo 'appnope==0.1.4; sys_platform == "darwin"'; } | LC_ALL=C sort -f; } > requirements.lock.new
	mv requirements.lock.new requirements.lock
	{ sed '/^  - pip:/q' environment.yml; sed -E -e '/^#/d' -e "s/.*/      - '&'/" requirements.lock; echo "      - '-e .'"; } > environment.yml.new
	mv environment.yml.new environment.yml
	rm -rf .build/lock
