# Every target sets up .venv first, which costs nothing when it is up to date (cluster/setup/setup.sh says how).

.DEFAULT_GOAL := help
.PHONY: help setup run check test bench simulate lab kernel book book-serve book-pdf lock audit clean distclean

# The conda environment of environment.yml is used as it is; everywhere else the course has a .venv of its own.
ENVIRONMENT := $(if $(filter active,$(BNN_ENVIRONMENT)),$(CONDA_PREFIX),$(CURDIR)/.venv)
BIN := $(ENVIRONMENT)/bin
SETUP := bash cluster/setup/setup.sh
# What runs finds mpiexec and the course's own Python first, and no packages of other installations; and it keeps
# the compiled modules: without them, each process that imports TensorFlow needs three times as long for that.
PARALLEL := python -m pytest -n 2 --dist worksteal
IN_VENV := PATH="$(BIN):$$PATH"
FOREIGN := PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE
unexport $(FOREIGN)

ifeq ($(shell id -u),0)
# Open MPI and JupyterLab refuse to work for root unless told otherwise, as is the custom in containers.
export OMPI_ALLOW_RUN_AS_ROOT = 1
export OMPI_ALLOW_RUN_AS_ROOT_CONFIRM = 1
LAB_AS_ROOT = --allow-root
KERNEL_AS_ROOT = --env OMPI_ALLOW_RUN_AS_ROOT 1 --env OMPI_ALLOW_RUN_AS_ROOT_CONFIRM 1
endif

help:  ## say what the targets are
	@echo "Targets:"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo "Choices, on the command line or in the environment:"
	@sed -nE 's/^#   ([A-Z]+=[^ ]+) +/  \1\t/p' cluster/setup/setup.sh | expand -t 18

setup:  ## make .venv, or bring it up to date; the other targets do it by themselves
	@$(SETUP)

run:  ## run every notebook in its quick profile on 2 MPI ranks; results and HTML pages land in build/
	$(SETUP) python -m cluster.run_notebooks --profile quick --ranks 2 --output build

check: setup  ## check style, spelling, imports and types, then run the quick tests: four minutes on two cores
	$(IN_VENV) ruff format --check .
	$(IN_VENV) ruff check .
	$(IN_VENV) codespell
	$(IN_VENV) lint-imports --no-logo --cache-dir build/import-linter
	$(IN_VENV) mypy
	$(IN_VENV) $(PARALLEL) -m "not slow" tests/unit tests/ranks/test_inference.py

# Two workers share the tests, in the order and the groups that tests/conftest.py gives them.
test: setup  ## check the style, then run all tests; durations land in build/tests.xml
	$(IN_VENV) ruff format --check .
	$(IN_VENV) ruff check .
	$(IN_VENV) python -m pytest -n 2 --dist loadgroup --no-loadscope-reorder --junit-xml=build/tests.xml

bench: setup  ## measure training, inference and all-reduce against TFP and the twins
	$(IN_VENV) python -m tests.bench

# SimGrid comes from the system's package manager. Nothing else needs it: notebook 07 reads the committed tables.
simulate: setup  ## simulate all-reduces on large machines with SimGrid; the table lands in build/simulate
	$(IN_VENV) python -m cluster.simulate

lab: setup  ## open JupyterLab on the notebooks
	$(IN_VENV) jupyter lab $(LAB_AS_ROOT) --notebook-dir=notebooks

# A hub starts kernels with its own environment: the settings that this shell has for the course go into the kernel.
PATTERNS := BNN_% NCCL_% %_proxy %_PROXY CUDA_VISIBLE_DEVICES LD_LIBRARY_PATH MPICH_GPU_SUPPORT_ENABLED OMP_NUM_THREADS
KEPT = $(foreach name,$(sort $(filter $(PATTERNS),$(.VARIABLES))),\
	$(if $(filter environment command,$(origin $(name))),--env $(name) '$($(name))'))

# The packages of the book are installed the first time that somebody asks for it, and kept up to date from then on.
book:  ## build the book, a web site of the notebooks and the manuals that needs no network, in build/book
	@BOOK=1 $(SETUP)
	$(IN_VENV) sphinx-build --builder html --conf-dir docs --doctree-dir build/book-doctrees --jobs 2 --quiet --fail-on-warning --keep-going . build/book
	@echo "The book is in build/book/index.html"

book-serve: book  ## build the book and serve it at http://127.0.0.1:8000
	$(IN_VENV) python -m http.server --bind 127.0.0.1 --directory build/book 8000

book-pdf: book  ## print the book as one PDF with Chromium, to build/book/book.pdf
	$(IN_VENV) python docs/pdf.py build/book

kernel: setup  ## register the kernel "BNN course" for your JupyterHub or JupyterLab
	$(IN_VENV) python -m ipykernel install --user --name bnn-course --display-name "BNN course" \
		--env PATH '$(BIN):$${PATH}' $(foreach name,$(FOREIGN),--env $(name) '') $(KEPT) $(KERNEL_AS_ROOT)

lock: setup  ## write requirements.lock from pyproject.toml, keeping the versions that still fit
	$(IN_VENV) bash cluster/setup/lock.sh

audit: setup  ## ask pip-audit whether a locked version has a known vulnerability; SECURITY.md has those known so far
	$(IN_VENV) bash cluster/setup/audit.sh

clean:  ## remove what runs and tests left behind
	rm -rf build .pytest_cache .ruff_cache .hypothesis *.egg-info
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

distclean: clean  ## remove .venv too; the compiled Horovod stays in the cache
	rm -rf .venv
