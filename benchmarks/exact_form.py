"""Save float weights as an exact model: `python benchmarks/exact_form.py WEIGHTS STORE FILE`.

A run on a GPU may leave its model in floats (`exact=False` in the config): its grids are then calibrated here, on crops
of a store, and no parameter changes.
"""

import sys
from pathlib import Path

import torch
from safetensors import safe_open

from vitrail import weights
from vitrail.training import loop
from vitrail.training.store import Store

_, given, store, file = sys.argv
torch.manual_seed(0)
model = loop.exact_form(weights.load(given))
loop.calibrate(model, Store(Path(store), torch.device("cpu")))
with safe_open(given, "pt") as opened:
    notes = {name: note for name, note in opened.metadata().items() if name not in ("config", "probe")}
weights.save(model, Path(file), {**notes, "grids": "calibrated afterwards"})
