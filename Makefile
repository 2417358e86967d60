# Two doors: `make demo` and `make test`. Each sets up all it needs in .venv.
.PHONY: help setup demo test test-fast long-test faults cluster-test browser-test bench docs lint lock schema clean

help:           ## say what there is
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

setup:          ## make .venv with the locked versions
	@sh .ci/setup.sh

demo: setup     ## map a simulated world end to end, about 3 minutes on 2 cores
	@.venv/bin/mangroves run --demo

test: setup     ## lint, types, fast tests, then slow ones but the longest, two files at a time
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow and not long and not faults and not cluster and not browser and not network"
	.venv/bin/python -m pytest -q -n 2 --dist loadfile -m "slow and not long and not faults and not cluster and not browser and not network"

test-fast: setup ## the fast tests alone
	.venv/bin/python -m pytest -q -n 2 --dist loadfile -m "not slow and not long and not faults and not cluster and not browser and not network"

long-test: setup ## tests of minutes: clusters, stores, kills, studies, notebooks; about 30 minutes
	.venv/bin/python -m pytest -q -n 2 --dist loadfile -m long tests

faults: setup   ## inject every fault that is promised to be survived or refused, under 45 minutes; counts to faults.json
	.venv/bin/python -m pytest -q -n 2 --dist loadfile tests/faults --faults-json faults.json

cluster-test: setup ## run one small map on SLURM, ssh, gateway, TLS, and from and into real stores and a catalog, under 20 minutes
	@sh .ci/cluster-test.sh
	PATH="$$PWD/.venv-servers/node_modules/.bin:$$PATH" .venv/bin/python -m pytest -q -m cluster tests/cluster

browser-test: setup ## look at result pages in Debian's Chromium, under 5 minutes; screenshots in tests/browser/artefacts
	@sh .ci/browser-test.sh
	.venv/bin/python -m pytest -q -m browser tests/browser

bench: setup    ## compare with peers on a simulated archive, under 10 minutes; ratios to bench.json
	.venv/bin/python -m benchmarks compare --json bench.json

docs: setup     ## the docs as a site of files, in site/, without a network
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict
	@echo "open site/index.html"

lint: setup     ## format and fix what can be fixed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

lock: setup     ## resolve pyproject.toml anew into requirements.lock
	.venv/bin/uv pip compile --quiet pyproject.toml --extra test --extra bench --extra dashboard --extra ssh --extra hpc --extra gateway \
	  --extra view --extra serve --extra notebooks --extra docs --universal \
	  --python-version 3.12 --no-annotate --no-header --upgrade --no-emit-index-url \
	  --no-emit-package rfc3987-syntax --no-emit-package nvidia-nccl-cu12 --no-emit-package nvidia-nccl-cu13 -o requirements.lock

schema: setup   ## write the JSON Schema of run configurations
	.venv/bin/python -c "from jobs.config import schema; print(schema(), end='')" > docs/config.schema.json

clean:          ## remove what the demo and the tests made
	rm -rf demo site .pytest_cache .hypothesis .mypy_cache .ruff_cache
