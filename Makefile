# The project's commands. Each makes what it needs the first time (`.venv`) and nothing the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := $(CURDIR)
export JUPYTER_PLATFORM_DIRS := 1

.PHONY: tour test slow lab pages readme docs docs-check benchmark clean
.DEFAULT_GOAL := tour

$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# The stamps hold what was installed: a change of pyproject.toml installs again, nothing else does.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing reidbench into $(VENV) (torch is large: a few minutes the first time) ..."
	$(BIN)/python -m pip install -q -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "Installing reidbench with its development tools into $(VENV) ..."
	$(BIN)/python -m pip install -q -e '.[dev]'
	$(BIN)/python -m pip install -q --no-deps torchattacks==3.5.1  # a test compares with it; it asks for a requests of 2021 that nothing else can live with
	@touch $(VENV)/.installed $@

tour: $(VENV)/.installed                  ## the main job end to end, drawn into outputs/tour.html
	$(BIN)/python -m reidbench tour

lab: $(VENV)/.installed-dev               ## JupyterLab on the notebooks, whose last cells export the package
	$(BIN)/jupyter lab --notebook-dir=nbs

test: $(VENV)/.installed-dev              ## everything that must pass
	PATH="$(CURDIR)/$(BIN):$$PATH" bash .ci/checks

slow: $(VENV)/.installed-dev              ## the long notebook cells and tests
	cd nbs && ../$(BIN)/nbdev_test --flags slow --n_workers 1 --timing --do_print
	$(BIN)/python -m pytest -m slow

pages: $(VENV)/.installed-dev             ## run every notebook and store its outputs
	REIDBENCH_WIDGETS=static $(BIN)/jupyter nbconvert --to notebook --execute --ExecutePreprocessor.store_widget_state=False --inplace $$(git ls-files 'nbs/*.ipynb')
	$(BIN)/nbdev_clean
	$(BIN)/nbdev_export
	$(BIN)/python .ci/readme.py

readme: $(VENV)/.installed-dev            ## README.md from nbs/index.ipynb
	$(BIN)/python .ci/readme.py

docs: $(VENV)/.installed-dev              ## the documentation site, in _docs
	@command -v quarto >/dev/null || { echo "make docs needs Quarto: install it from https://quarto.org/docs/get-started/ and run again. 'make docs-check' does every step before Quarto."; exit 1; }
	@touch README.md  # nbdev_docs would replace one that is older than the notebook by its own
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/nbdev_docs

docs-check: $(VENV)/.installed-dev        ## what nbdev_docs does up to the call of Quarto
	PATH="$(CURDIR)/$(BIN):$$PATH" bash .ci/docs-check

benchmark: $(VENV)/.installed-dev         ## speed, as ratios side by side
	for b in $(filter-out benchmarks/timing.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$b || exit 1; done

clean:                                    ## remove what the commands above made (not your trainings, records and the peers)
	rm -rf _proc _docs outputs/tour outputs/tour.html outputs/quick outputs/screenshots
