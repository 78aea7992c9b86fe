VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint format results growth kodak roundtrip speed selfcheck clean

help:  ## show this help
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)  ## compress a photograph, print a table, write demo/index.html
	$(BIN)/python examples/demo.py

test: $(READY)  ## run the tests
	$(BIN)/pytest

lint: $(READY)  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# KODAK: a folder with the 24 Kodak pictures; MODEL: a model of the package.
KODAK ?= kodak
MODEL ?= econtextformer-s
kodak: $(READY)  ## measure $(MODEL) on the pictures in $(KODAK)
	$(BIN)/vitrail eval $(KODAK) --model $(MODEL) --quality 10,20,30,40,50,60,70,80,90,100 \
	  --json benchmarks/$(MODEL)-kodak.json \
	  --against benchmarks/kodak_psnr.json:compressai/vtm \
	  --against benchmarks/peers/jpeg-kodak.json --against benchmarks/peers/jpeg2000-kodak.json \
	  --against benchmarks/peers/webp-kodak.json --against benchmarks/peers/avif-kodak.json

results: $(READY)  ## measure all models and Pillow's codecs on $(KODAK): docs/results.md, results/index.html
	$(BIN)/vitrail results $(KODAK) --out results --sizes benchmarks/growth.json --markdown docs/results.md \
	  --published benchmarks/kodak_psnr.json --published benchmarks/kodak_ms_ssim_db.json

growth: $(READY)  ## measure $(MODEL) on $(PICTURE) from 0.1 to 24 megapixels
	mkdir -p results
	$(BIN)/vitrail bench $(MODEL) --photo $(PICTURE) --runs 2 --json --size 384x256 --size 768x512 \
	  --size 1536x1024 --size 3072x2048 --size 6000x4000 > results/growth.part && mv results/growth.part benchmarks/growth.json

roundtrip: $(READY)  ## check that files of $(MODEL) hold what the encoder saw, on the pictures in $(KODAK)
	$(BIN)/python benchmarks/roundtrip.py --model $(MODEL) $(wildcard $(KODAK)/*.png)

PICTURE ?= examples/photo.webp
speed: $(READY)  ## time $(MODEL) on $(PICTURE), and on 12 megapixels
	$(BIN)/python benchmarks/speed.py $(PICTURE) --model $(MODEL) --large

selfcheck: $(READY)  ## check exactness of $(MODEL) under all settings of this machine (minutes)
	$(BIN)/vitrail selfcheck --model $(MODEL)

clean:  ## remove the environment and what the demo wrote
	rm -rf $(VENV) demo
